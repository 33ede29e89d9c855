//! The generator's counts are those of an independent receiver at the peer.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod capture;
mod seen;

use std::time::Duration;

use capture::Capture;
use etherparse::Ipv4HeaderSlice;
use seen::{Seen, count};
use xdprobe_lab::frames::{
    ByteOrder, Ethernet, PcapWriter, StampResolution, fragments, ip_offset, udp,
};
use xdprobe_lab::interface::{driver_counters, sum_of};
use xdprobe_lab::namespace::{Namespace, VethOptions};
use xdprobe_lab::requirements::{are_met, skip};
use xdprobe_lab::send::{Options, Pattern, Protocol, Report, Sender, Sizes};

const TOOLS: [&str; 3] = ["ip", "ethtool", "tcpdump"];

/// A few thousand packets, slowly enough for tcpdump to see each.
fn some() -> Options {
    Options {
        packets: 5_000,
        rate: Some(50_000),
        ..Options::on("tx0")
    }
}

fn wire(queues: u32) -> Namespace {
    let namespace = Namespace::new().unwrap();
    namespace
        .veth("tx0", "rx0", VethOptions { queues, mtu: 1600 })
        .unwrap();
    namespace
}

fn send(namespace: &Namespace, options: &Options) -> Report {
    namespace
        .run(|| Sender::start(options).unwrap().wait().unwrap())
        .unwrap()
}

/// Packets that the peer's queue has received, after waiting for `expected` of them.
fn taken(namespace: &Namespace, queue: u32, expected: u64) -> u64 {
    let name = format!("rx_queue_{queue}_xdp_packets");
    let read = || {
        namespace
            .run(|| driver_counters("rx0").unwrap()[&name])
            .unwrap()
    };
    for _ in 0..100 {
        if read() == expected {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    read()
}

/// Sends and captures, and compares the report with the capture.
fn report_is_what_tcpdump_sees(options: &Options) -> (Report, Vec<Vec<u8>>) {
    let namespace = wire(1);
    let capture = Capture::start(&namespace, "rx0");
    let report = send(&namespace, options);
    taken(&namespace, 0, options.packets);
    let frames = capture.frames(&report);
    let expected = Seen {
        packets: report.packets,
        frame_octets: report.frame_octets,
        ipv4_packets: report.ipv4_packets,
        octets: report.octets,
        ipv6_packets: report.ipv6_packets,
        ipv6_octets: report.ipv6_octets,
        fragments: report.fragments,
        flows: report.flows,
        ipv6_flows: report.ipv6_flows,
        wrong_checksums: 0,
    };
    assert_eq!(count(&frames), expected, "{options:?}");
    assert_eq!(report.packets, options.packets);
    let driver = report.driver.unwrap();
    assert_eq!((driver.accepted, driver.refused), (options.packets, 0));
    (report, frames)
}

#[test]
fn flows_in_turn() {
    if !are_met(&TOOLS) {
        return;
    }
    let (report, _) = report_is_what_tcpdump_sees(&some());
    assert_eq!((report.flows, report.octets), (1_000, 5_000 * 46));
}

#[test]
fn zipf_flows_of_imix_sizes() {
    if !are_met(&TOOLS) {
        return;
    }
    let options = Options {
        pattern: Pattern::Zipf,
        sizes: Sizes::Imix,
        flows: 100_000,
        zipf_s: 1.2,
        ..some()
    };
    report_is_what_tcpdump_sees(&options);
}

#[test]
fn every_packet_a_syn_of_a_new_flow() {
    if !are_met(&TOOLS) {
        return;
    }
    let (report, frames) = report_is_what_tcpdump_sees(&Options {
        pattern: Pattern::Syn,
        ..some()
    });
    assert_eq!(report.flows, 5_000);
    assert!(
        frames
            .iter()
            .all(|frame| frame[14 + 9] == 6 && frame[14 + 20 + 13] == 2),
        "TCP with SYN alone"
    );
}

#[test]
fn new_flows_take_the_places_of_old_ones() {
    if !are_met(&TOOLS) {
        return;
    }
    let options = Options {
        pattern: Pattern::Churn,
        flows: 100,
        new_per_second: 10_000,
        ..some()
    };
    let (report, _) = report_is_what_tcpdump_sees(&options);
    // 100 from the start, and one for every fifth packet until the last, which is due after 4999
    // intervals.
    assert_eq!(report.flows, 100 + 4_999 / 5);
}

#[test]
fn tags_and_labels() {
    if !are_met(&TOOLS) {
        return;
    }
    let (_, frames) = report_is_what_tcpdump_sees(&Options {
        vlan: vec![7],
        ..some()
    });
    assert_eq!(frames[0][12..18], [0x81, 0, 0, 7, 8, 0]);
    let options = Options {
        vlan: vec![7, 8],
        mpls: vec![16, 17],
        sizes: Sizes::Imix,
        ..some()
    };
    let (_, frames) = report_is_what_tcpdump_sees(&options);
    assert_eq!(
        frames[0][12..22],
        [0x88, 0xa8, 0, 7, 0x81, 0, 0, 8, 0x88, 0x47]
    );
}

#[test]
fn both_families_and_fragments() {
    if !are_met(&TOOLS) {
        return;
    }
    report_is_what_tcpdump_sees(&Options {
        ipv6_share: 30,
        ..some()
    });
    report_is_what_tcpdump_sees(&Options {
        fragments: 40,
        length: 200,
        ..some()
    });
    let everything = Options {
        pattern: Pattern::Zipf,
        sizes: Sizes::Imix,
        protocol: Protocol::Tcp,
        ipv6_share: 50,
        fragments: 50,
        vlan: vec![1],
        ..some()
    };
    let (report, _) = report_is_what_tcpdump_sees(&everything);
    assert!(
        report.ipv6_packets > 0 && report.fragments > 0,
        "{report:?}"
    );
}

/// Pages are recycled with the octets of longer headers in them. Frames that are about as long as
/// the headers would show it.
#[test]
fn short_frames_of_any_length_have_no_octets_of_earlier_frames() {
    if !are_met(&TOOLS) {
        return;
    }
    for length in [61, 75, 77] {
        let mixed = Options {
            length,
            protocol: Protocol::Tcp,
            ipv6_share: 50,
            packets: 2_000,
            ..some()
        };
        report_is_what_tcpdump_sees(&mixed);
        report_is_what_tcpdump_sees(&Options {
            mpls: vec![1; 13],
            fragments: 60,
            ..mixed
        });
    }
}

#[test]
fn the_kernel_takes_the_program_with_any_tags() {
    if !are_met(&TOOLS) {
        return;
    }
    let namespace = wire(1);
    for tags in 0..=13_usize {
        let patterns = [
            Pattern::RoundRobin,
            Pattern::Zipf,
            Pattern::Syn,
            Pattern::Churn,
        ];
        let pattern = patterns[tags % 4];
        for ipv6_share in [0, 50, 100] {
            let mpls = vec![16; tags];
            let report = send(
                &namespace,
                &Options {
                    packets: 100,
                    pattern,
                    ipv6_share,
                    mpls,
                    rate: None,
                    ..some()
                },
            );
            assert_eq!(report.packets, 100);
        }
    }
}

#[test]
fn one_seed_sends_the_same_frames_again() {
    if !are_met(&TOOLS) {
        return;
    }
    let options = Options {
        packets: 1_000,
        pattern: Pattern::Zipf,
        sizes: Sizes::Imix,
        ..some()
    };
    let frames = |seed| {
        report_is_what_tcpdump_sees(&Options {
            seed,
            ..options.clone()
        })
        .1
    };
    assert_eq!(frames(5), frames(5));
    assert_ne!(frames(5), frames(6));
}

#[test]
fn a_capture_file_is_sent_in_order_and_shifted_each_loop() {
    if !are_met(&TOOLS) {
        return;
    }
    let plain = Ethernet::default();
    let packet = |port: u16, octets| {
        udp(
            ([10, 0, 0, 1], port).into(),
            ([10, 0, 0, 2], 53).into(),
            &vec![0; octets],
        )
    };
    let ipv6 = udp(
        "[fd00::1]:1".parse().unwrap(),
        "[fd00::2]:2".parse().unwrap(),
        &[0; 700],
    );
    let mut sent = vec![
        plain.carry(&packet(1, 10)),
        plain.clone().vlan(5).mpls(&[16]).carry(&packet(2, 1_000)),
        plain.carry(&ipv6),
        plain.clone().pppoe(3).carry(&packet(3, 90)),
        plain.carry_as(0x0806, &[1; 28]),
    ];
    sent.extend(
        fragments(&packet(4, 400), 200)
            .iter()
            .map(|piece| plain.carry(piece)),
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut writer = PcapWriter::new(
        file.reopen().unwrap(),
        ByteOrder::Big,
        StampResolution::Nano,
    )
    .unwrap();
    for frame in &sent {
        writer.frame(Duration::ZERO, frame).unwrap();
    }
    writer.finish().unwrap();

    let namespace = wire(1);
    let capture = Capture::start(&namespace, "rx0");
    let report = send(
        &namespace,
        &Options {
            pcap: Some(file.path().to_owned()),
            loops: 300,
            ..some()
        },
    );
    taken(&namespace, 0, report.packets);
    let frames = capture.frames(&report);
    assert_eq!(frames[..sent.len()], sent);
    assert_eq!(frames.len(), 300 * sent.len());
    for (at, round) in frames.chunks(sent.len()).enumerate() {
        let shifted = 0x0a00_0001_u32 + 0x0001_0001 * u32::try_from(at).unwrap();
        assert_eq!(round[0][26..30], shifted.to_be_bytes());
    }
    let packets: Vec<Vec<u8>> = frames
        .into_iter()
        .filter(|frame| ip_offset(frame).is_some())
        .collect();
    for header in packets
        .iter()
        .filter_map(|frame| Ipv4HeaderSlice::from_slice(&frame[ip_offset(frame)?..]).ok())
    {
        assert_eq!(
            header.header_checksum(),
            header.to_header().calc_header_checksum()
        );
    }
    let seen = count(&packets);
    assert_eq!(
        (seen.ipv4_packets, seen.octets),
        (report.ipv4_packets, report.octets)
    );
    assert_eq!(
        (seen.ipv6_packets, seen.ipv6_octets),
        (report.ipv6_packets, report.ipv6_octets)
    );
    assert_eq!(
        (seen.fragments, report.packets),
        (report.fragments, 300 * sent.len() as u64)
    );
    // Ports 1 to 4, and the later fragments, which have none.
    assert_eq!((report.flows, report.ipv6_flows), (300 * 5, 1));
}

#[test]
fn without_a_rate_the_driver_counts_every_frame() {
    if !are_met(&TOOLS) {
        return;
    }
    let namespace = wire(1);
    let report = send(
        &namespace,
        &Options {
            packets: 500_000,
            ..Options::on("tx0")
        },
    );
    let driver = report.driver.unwrap();
    assert_eq!(report.packets, 500_000);
    assert_eq!(driver.accepted + driver.refused, 500_000, "{report:?}");
    assert_eq!(taken(&namespace, 0, driver.accepted), driver.accepted);
}

#[test]
fn a_rate_is_never_exceeded() {
    if !are_met(&TOOLS) {
        return;
    }
    let report = send(
        &wire(1),
        &Options {
            packets: 20_000,
            rate: Some(100_000),
            ..Options::on("tx0")
        },
    );
    // One packet is sent at time 0, hence one interval less than packets. A busy machine may be
    // slower, never faster.
    assert!(report.seconds >= 19_999.0 / 100_000.0, "{report:?}");
    assert!(report.seconds < 2.0, "{report:?}");
}

#[test]
fn the_cpu_chooses_the_queue() {
    if !are_met(&TOOLS) {
        return;
    }
    if std::thread::available_parallelism().unwrap().get() < 2 {
        return skip("two queues need two CPUs");
    }
    let namespace = wire(2);
    for cpu in [0, 1] {
        send(
            &namespace,
            &Options {
                cpu: Some(cpu),
                packets: 1_000 + cpu as u64,
                ..some()
            },
        );
    }
    assert_eq!(
        (taken(&namespace, 0, 1_000), taken(&namespace, 1, 1_001)),
        (1_000, 1_001)
    );
}

#[test]
fn the_peer_may_be_in_another_namespace() {
    if !are_met(&TOOLS) {
        return;
    }
    let (here, there) = (wire(1), Namespace::new().unwrap());
    here.hand_over("rx0", &there).unwrap();
    let driver = send(&here, &some()).driver.unwrap();
    assert_eq!((driver.accepted, driver.refused), (5_000, 0));
    assert_eq!(taken(&there, 0, 5_000), 5_000);
}

#[test]
fn two_senders_at_once_reach_both_queues() {
    if !are_met(&TOOLS) {
        return;
    }
    if std::thread::available_parallelism().unwrap().get() < 2 {
        return skip("two senders at once need two CPUs");
    }
    let namespace = wire(2);
    let senders = namespace
        .run(|| {
            [0, 1].map(|cpu| {
                Sender::start(&Options {
                    cpu: Some(cpu),
                    ..some()
                })
                .unwrap()
            })
        })
        .unwrap();
    let sent: u64 = senders
        .into_iter()
        .map(|sender| sender.wait().unwrap().packets)
        .sum();
    assert_eq!(sent, 10_000);
    assert_eq!(
        (taken(&namespace, 0, 5_000), taken(&namespace, 1, 5_000)),
        (5_000, 5_000)
    );
}

#[test]
fn a_sender_that_is_stopped_reports_what_it_sent() {
    if !are_met(&TOOLS) {
        return;
    }
    let namespace = wire(1);
    for rate in [Some(10_000), None] {
        let before = namespace.run(|| driver_counters("tx0").unwrap()).unwrap();
        let report = namespace
            .run(|| {
                let sender = Sender::start(&Options {
                    packets: u64::MAX,
                    rate,
                    ..Options::on("tx0")
                })
                .unwrap();
                while sender.sent().unwrap() == 0 {
                    std::thread::sleep(Duration::from_millis(1));
                }
                sender.stop();
                sender.wait().unwrap()
            })
            .unwrap();
        let after = namespace.run(|| driver_counters("tx0").unwrap()).unwrap();
        let given: u64 = sum_of(&after, "tx_queue_", "") - sum_of(&before, "tx_queue_", "");
        assert!(report.stopped && report.seconds > 0.0, "{report:?}");
        assert_eq!(report.packets, given);
    }
}

#[test]
fn refuses_frames_that_the_kernel_would_drop() {
    if !are_met(&TOOLS) {
        return;
    }
    let namespace = wire(1);
    let error = namespace
        .run(|| {
            Sender::start(&Options {
                length: 1_614,
                mpls: vec![16, 17],
                ..some()
            })
            .err()
            .unwrap()
        })
        .unwrap();
    assert_eq!(
        error.to_string(),
        "frames of 1622 octets on tx0, expected at most 1618 for its MTU of 1600: run `ip link set \
         tx0 mtu 1604` for both ends"
    );
}

#[test]
fn the_program_prints_the_report_as_json() {
    if !are_met(&TOOLS) {
        return;
    }
    let namespace = wire(1);
    let program = env!("CARGO_BIN_EXE_xdprobe-lab");
    let text = namespace
        .output(
            program,
            &["send", "-i", "tx0", "-n", "1000", "--rate", "100000"],
        )
        .unwrap();
    let report: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&report["packets"], &report["octets"], &report["flows"]),
        (&1000.into(), &46_000.into(), &1000.into())
    );
    assert!(report["core_share"].as_f64().unwrap() > 0.0, "{report}");

    let failed = namespace
        .command(program)
        .args(["send", "-i", "none"])
        .output()
        .unwrap();
    assert_eq!((failed.status.code(), failed.stdout.len()), (Some(1), 0));
    let refused = namespace
        .command(program)
        .args(["send", "-i", "tx0", "--flows", "0"])
        .output()
        .unwrap();
    assert_eq!((refused.status.code(), refused.stdout.len()), (Some(2), 0));
}
