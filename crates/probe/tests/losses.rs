//! Losses, forced one at a time: each moves its own counter by the right number and no other, on a
//! running probe as in the ledger at its end, and the ledger stays balanced.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod harness;

use harness::scrape::{Page, get};
use harness::{Probe, TOOLS, assert_balanced, pause, send, traffic, wire, xdprobe};
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::fs;
use xdprobe_lab::frames::{ByteOrder, Ethernet, PcapWriter, StampResolution, udp};
use xdprobe_lab::namespace::{Namespace, VethOptions};
use xdprobe_lab::requirements::are_met;
use xdprobe_lab::send::{Options, Pattern};

const TWO_QUEUES: VethOptions = VethOptions {
    queues: 2,
    mtu: 1500,
};

fn line<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    let unless_given = |option: [&'a str; 2]| {
        if arguments.contains(&option[0]) {
            vec![]
        } else {
            option.to_vec()
        }
    };
    let (timeout, flows) = (
        unless_given(["--idle-timeout", "30s"]),
        unless_given(["--flows-per-queue", "10000"]),
    );
    [
        &["-i", "tap0", "--metrics", "0"],
        &timeout[..],
        &flows,
        arguments,
    ]
    .concat()
}

/// Every counter of a loss, or of something left out, that is not 0: `reason` or name, with its
/// count.
fn losses(page: &Page) -> BTreeMap<String, u64> {
    let counters = [
        "xdprobe_dropped_packets_total",
        "xdprobe_lost_records_total",
        "xdprobe_undecoded_packets_total",
        "xdprobe_filtered_packets_total",
        "xdprobe_sampled_out_packets_total",
        "xdprobe_collector_lost_records_total",
        "xdprobe_collector_delayed_records_total",
        "xdprobe_collector_refusals_total",
        "xdprobe_collector_send_errors_total",
    ];
    let mut losses = BTreeMap::new();
    for (series, value) in page.series().filter(|&(_, value)| value > 0.0) {
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let reason = labels
            .split_once("reason=\"")
            .and_then(|(_, rest)| rest.split('"').next());
        let is_eviction =
            name == "xdprobe_flows_expired_total" && reason == Some("lack_of_resources");
        if counters.contains(&name) || is_eviction {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "counts are whole and positive"
            )]
            let count = value as u64;
            let collectors = if name.contains("collector") {
                "collector "
            } else {
                ""
            };
            *losses
                .entry(format!("{collectors}{}", reason.unwrap_or(name)))
                .or_default() += count;
        }
    }
    losses
}

/// Waits until all that was offered is accounted for, and asserts that this was lost and nothing
/// else; then ends the probe, and asserts that its ledger says the same.
fn assert_lost(wire: &Namespace, probe: Probe, offered: u64, expected: &[(&str, u64)]) {
    let page = Page::await_on(wire, &probe, |page| {
        let sum = |metric| page.sum(&format!("xdprobe_{metric}"));
        sum("offered_packets_total") == offered
            && offered
                == sum("received_packets_total")
                    + sum("filtered_packets_total")
                    + sum("sampled_out_packets_total")
                    + sum("dropped_packets_total")
            && sum("observed_packets_total")
                == sum("resident_packets")
                    + sum("exported_packets_total")
                    + sum("lost_packets_total")
    });
    let expected: BTreeMap<_, _> = expected
        .iter()
        .map(|(reason, count)| ((*reason).to_owned(), *count))
        .collect();
    assert_eq!(losses(&page), expected);
    assert_eq!(page.sum("xdprobe_ledger_balanced"), 1);
    let ledger = probe.stop();
    assert_balanced(&ledger);
    for (reason, lost) in expected {
        let places = ["dropped", "lost.reasons", "flows.expired", "undecoded"];
        let in_ledger = places.iter().find_map(|place| {
            ledger
                .pointer(&format!("/{}/{reason}", place.replace('.', "/")))
                .and_then(serde_json::Value::as_u64)
        });
        if let Some(in_ledger) = in_ledger {
            assert_eq!(in_ledger, lost, "{reason}");
        }
    }
}

#[test]
fn a_worker_that_hangs_loses_what_its_ring_does_not_hold() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(VethOptions::default());
    let probe = Probe::start(&wire, &line(&["--ring", "1024"]));
    probe.signal("STOP");
    let sent = send(&wire, &traffic(20_000));
    probe.signal("CONT");
    assert_lost(
        &wire,
        probe,
        sent.packets,
        &[("ring_full", sent.packets - 1024)],
    );
}

#[test]
fn a_frame_that_fits_no_buffer_is_lost_at_the_socket() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(VethOptions::default());
    let probe = Probe::start(&wire, &line(&[]));
    // Somebody raises the MTU under the probe: frames still fit the card's buffers, and no longer
    // the socket's.
    for interface in ["tx0", "tap0"] {
        wire.ip(&["link", "set", "dev", interface, "mtu", "3000"])
            .unwrap();
    }
    let long = send(
        &wire,
        &Options {
            length: 2_500,
            ..traffic(3_000)
        },
    );
    let short = send(&wire, &traffic(2_000));
    assert_lost(
        &wire,
        probe,
        long.packets + short.packets,
        &[("no_frame", long.packets)],
    );
}

#[test]
fn a_full_cache_evicts_and_loses_no_packet() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(VethOptions::default());
    let probe = Probe::start(&wire, &line(&["--flows-per-queue", "1000"]));
    let sent = send(
        &wire,
        &Options {
            pattern: Pattern::Syn,
            ..traffic(20_000)
        },
    );
    let page = Page::await_on(&wire, &probe, |page| {
        page.sum("xdprobe_flows_created_total") == sent.flows
            && page.sum("xdprobe_in_flight_records") == 0
    });
    let evicted = sent.flows - page.sum("xdprobe_cache_flows");
    assert!(evicted > 15_000, "{evicted}");
    assert_lost(
        &wire,
        probe,
        sent.packets,
        &[("lack_of_resources", evicted)],
    );
}

#[test]
fn an_exporter_that_hangs_costs_records_by_count_and_no_packet_at_the_card() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(VethOptions::default());
    let probe = Probe::start(&wire, &line(&["--flows-per-queue", "1000"]));
    let exporter = thread_of(&probe, "exporter");
    ptrace::seize(exporter, ptrace::Options::empty()).unwrap();
    ptrace::interrupt(exporter).unwrap();
    waitpid(exporter, Some(WaitPidFlag::__WALL)).unwrap();
    let sent = send(
        &wire,
        &Options {
            pattern: Pattern::Syn,
            ..traffic(150_000)
        },
    );
    let page = Page::await_on(&wire, &probe, |page| {
        page.sum("xdprobe_observed_packets_total") == sent.packets
    });
    let (lost, queued) = (
        page.sum("xdprobe_lost_records_total"),
        page.sum("xdprobe_export_queue_records"),
    );
    let evicted = sent.flows - page.sum("xdprobe_cache_flows");
    // All of the room is taken, but for the batch that the exporter had in its hands, and each
    // record has one packet.
    assert!((60_000..=65_536).contains(&queued), "{queued}");
    assert_eq!(lost, evicted - page.sum("xdprobe_in_flight_records"));
    assert_eq!(page.sum("xdprobe_lost_packets_total"), lost);
    pause(1_500);
    let page = Page::of(&wire, &probe);
    assert!(
        page.sum("xdprobe_oldest_unexported_record_age_seconds") >= 1,
        "{}",
        page.text()
    );
    ptrace::detach(exporter, None).unwrap();
    assert_lost(
        &wire,
        probe,
        sent.packets,
        &[("hand_over", lost), ("lack_of_resources", evicted)],
    );
}

#[test]
fn a_collector_that_refuses_is_told_apart_from_the_others() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(VethOptions::default());
    let quick = [
        "--idle-timeout",
        "1s",
        "--flush-delay",
        "10ms",
        "127.0.0.1:9",
    ];
    let probe = Probe::start(&wire, &line(&quick)[..]);
    let refusing =
        |page: &Page, collector: &str| page.sum_of("xdprobe_collector_refusing", &[collector]);
    let sent = send(
        &wire,
        &Options {
            flows: 300,
            ..traffic(3_000)
        },
    );
    let page = Page::await_on(&wire, &probe, |page| {
        page.sum("xdprobe_exported_packets_total") == sent.packets
    });
    assert_eq!(
        (
            refusing(&page, "127.0.0.1:9\""),
            page.sum("xdprobe_collector_refusing")
        ),
        (1, 1)
    );
    assert_eq!(
        get(&wire, probe.metrics(), "/readyz").0,
        200,
        "the other one takes what it is sent"
    );
    let of = |metric| {
        page.sum_of(
            &format!("xdprobe_collector_{metric}_total"),
            &["127.0.0.1:9\""],
        )
    };
    // One answer may speak for several datagrams.
    let refusals = of("refusals");
    assert!((1..=of("datagrams")).contains(&refusals), "{}", page.text());
    let expected = [
        ("collector refused", of("records")),
        ("collector xdprobe_collector_refusals_total", refusals),
    ];
    assert_lost(&wire, probe, sent.packets, &expected);
}

#[test]
fn a_link_that_is_down_is_told_and_costs_nothing() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(TWO_QUEUES);
    let probe = Probe::start(&wire, &line(&[]));
    let before = send(&wire, &traffic(1_000));
    Page::await_on(&wire, &probe, |page| {
        page.sum("xdprobe_received_packets_total") == before.packets
    });
    wire.ip(&["link", "set", "tap0", "down"]).unwrap();
    let running = |page: &Page| page.sum("xdprobe_receiver_running");
    Page::await_on(&wire, &probe, |page| {
        running(page) == 0
            && page.sum_of("xdprobe_receiver_down_seconds_total", &["queue=\"1\""]) >= 1
    });
    let (status, why) = get(&wire, probe.metrics(), "/readyz");
    assert_eq!(
        (status, why.as_str()),
        (503, "tap0/0: link is down\ntap0/1: link is down\n")
    );
    assert_eq!(get(&wire, probe.metrics(), "/healthz").0, 200);
    wire.ip(&["link", "set", "tap0", "up"]).unwrap();
    Page::await_on(&wire, &probe, |page| running(page) == 2);
    assert_eq!(
        get(&wire, probe.metrics(), "/readyz"),
        (200, "ready\n".to_owned())
    );
    let after = send(&wire, &traffic(1_000));
    assert_lost(&wire, probe, before.packets + after.packets, &[]);
}

#[test]
fn channels_that_somebody_adds_show_as_frames_without_a_socket() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(TWO_QUEUES);
    let channels = |interface, of, count| {
        wire.output("ethtool", &["-L", interface, of, count])
            .unwrap()
    };
    // veth has XDP only while the other end sends on no more queues than it receives on.
    channels("tx0", "tx", "1");
    channels("tap0", "rx", "1");
    let probe = Probe::start(&wire, &line(&[]));
    let on = |cpu| {
        send(
            &wire,
            &Options {
                cpu: Some(cpu),
                ..traffic(5_000)
            },
        )
        .packets
    };
    let before = [on(0), on(1)];
    channels("tap0", "rx", "2");
    // As cards do when their channels change, and veth does not: the program is on every queue
    // then.
    for state in ["down", "up"] {
        wire.ip(&["link", "set", "tap0", state]).unwrap();
    }
    Page::await_on(&wire, &probe, |page| {
        page.sum("xdprobe_receiver_running") == 1
    });
    let (tapped, other) = (on(0), on(1));
    assert_lost(
        &wire,
        probe,
        before.iter().sum::<u64>() + tapped + other,
        &[("no_socket", other)],
    );
}

#[test]
fn what_the_filter_does_not_want_is_no_loss_and_counted() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(VethOptions::default());
    let probe = Probe::start(&wire, &line(&["-f", "tcp"]));
    let (filtered, expected) = (
        send(&wire, &traffic(5_000)),
        send(
            &wire,
            &Options {
                pattern: Pattern::Syn,
                ..traffic(3_000)
            },
        ),
    );
    let offered = filtered.packets + expected.packets;
    assert_lost(
        &wire,
        probe,
        offered,
        &[("xdprobe_filtered_packets_total", filtered.packets)],
    );
}

#[test]
fn a_filter_that_lets_nothing_through_while_frames_come_is_reported_once() {
    if !are_met(&TOOLS) {
        return;
    }
    for capture in ["af-xdp", "pcap"] {
        let wire = wire(VethOptions::default());
        let probe = Probe::start(&wire, &line(&["-f", "tcp port 5", "--capture", capture]));
        assert!(!probe.said().contains("can match no IPv4 packet"));
        let sent = Options {
            rate: Some(200),
            ..traffic(2_600)
        };
        send(&wire, &sent);
        let said = probe.said();
        let reported = said
            .matches("tap0: filter 'tcp port 5' has let none of ")
            .count();
        assert_eq!(reported, 1, "{capture}: {said}");
        probe.stop();
    }
}

#[test]
fn what_sampling_leaves_out_is_no_loss_and_counted() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(VethOptions::default());
    let probe = Probe::start(
        &wire,
        &line(&["--sampling", "1:10", "--sampling-mode", "deterministic"]),
    );
    let sent = send(
        &wire,
        &Options {
            cpu: Some(0),
            ..traffic(10_000)
        },
    );
    assert_lost(
        &wire,
        probe,
        sent.packets,
        &[("xdprobe_sampled_out_packets_total", sent.packets / 10 * 9)],
    );
}

#[test]
fn what_is_not_ipv4_is_counted_by_reason() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(VethOptions::default());
    let probe = Probe::start(&wire, &line(&[]));
    let sent = send(
        &wire,
        &Options {
            ipv6_share: 40,
            ..traffic(5_000)
        },
    );
    assert_lost(&wire, probe, sent.packets, &[("ipv6", sent.ipv6_packets)]);
}

/// A thread of the probe, by its name.
fn thread_of(probe: &Probe, name: &str) -> Pid {
    let threads = fs::read_dir(format!("/proc/{}/task", probe.id()))
        .unwrap()
        .map(|thread| thread.unwrap().path());
    let named =
        |path: &std::path::PathBuf| fs::read_to_string(path.join("comm")).unwrap().trim() == name;
    let thread = threads
        .into_iter()
        .find(named)
        .unwrap_or_else(|| panic!("no thread {name}"));
    Pid::from_raw(
        thread
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .parse()
            .unwrap(),
    )
}

#[test]
fn a_run_that_lost_every_record_says_so_while_it_runs_and_at_the_end_and_fails() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(VethOptions::default());
    // Nothing listens on the port.
    let probe = Probe::start_alone(
        &wire,
        &[&line(&["--idle-timeout", "200ms"])[..], &["127.0.0.1:2055"]].concat(),
    );
    send(&wire, &traffic(2_000));
    let losing = "for 127.0.0.1:2055 (refused): start the collector";
    while !probe.said().contains(losing) {
        pause(20);
    }
    send(&wire, &traffic(2_000));
    pause(1_500);
    probe.signal("USR1");
    while !probe.said().contains("ledger balanced, lost") {
        pause(20);
    }
    // Without tables there is nothing to read again, and nothing to die of.
    probe.signal("HUP");
    while !probe
        .said()
        .contains("reloaded: the configuration is as it was")
    {
        pause(20);
    }
    assert_eq!(probe.said().matches(losing).count(), 1, "{}", probe.said());
    pause(200);
    probe.signal("INT");
    while !probe
        .said()
        .contains("xdprobe: every record was lost: lost ")
    {
        pause(20);
    }
    let ledger = probe.wait(1);
    assert_balanced(&ledger);
    assert_eq!(ledger["exported"]["records"], 0);
}

#[test]
fn a_file_whose_records_all_come_back_ends_with_exit_code_1_but_not_at_the_discard_port() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("one.pcap");
    let mut file = PcapWriter::new(Vec::new(), ByteOrder::Little, StampResolution::Micro).unwrap();
    let packet = udp(
        "192.0.2.1:1000".parse().unwrap(),
        "192.0.2.2:53".parse().unwrap(),
        &[0; 10],
    );
    let frame = Ethernet::new([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]).carry(&packet);
    file.frame(std::time::Duration::from_secs(1_700_000_000), &frame)
        .unwrap();
    fs::write(&path, file.finish().unwrap()).unwrap();
    let closed = std::net::UdpSocket::bind("127.0.0.1:0")
        .and_then(|socket| socket.local_addr())
        .unwrap()
        .to_string();
    for (collector, code) in [(closed.as_str(), 1), ("127.0.0.1:9", 0)] {
        let output = xdprobe(&["run", "-r", path.to_str().unwrap(), collector])
            .output()
            .unwrap();
        let (out, err) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert_eq!(output.status.code(), Some(code), "{collector}: {err}");
        assert!(
            out.trim_end()
                .ends_with("ledger balanced, lost 1 record (1 refused)"),
            "{out}"
        );
    }
}
