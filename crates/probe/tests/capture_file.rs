//! `xdprobe run -r`: the packets' own clock, the same datagrams every time, and what happens to
//! damaged files.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod harness;

use harness::{
    assert_balanced, assert_received, count, folder_named_by, run_and_collect, run_over, xdprobe,
};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;
use xdprobe_lab::frames::{
    ByteOrder, Ethernet, PcapWriter, StampResolution, flags, fragments, icmp, tcp, udp,
};
use xdprobe_lab::test_collector::{Keep, TestCollector, Violation};
use xdprobe_pipeline::export::netflow::v5;

/// Where nobody listens.
const NOWHERE: &str = "127.0.0.1:9";
/// 2023-11-14 22:13:20 UTC, when the captures made here begin.
const EPOCH_S: u64 = 1_700_000_000;

fn ethernet() -> Ethernet {
    Ethernet::new([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
}

fn host(last: u8, port: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, last], port))
}

/// A capture of `frames`, each with its time after the epoch in ms.
fn capture(folder: &TempDir, frames: &[(u64, Vec<u8>)]) -> PathBuf {
    let path = folder.path().join("capture.pcap");
    let mut file = PcapWriter::new(Vec::new(), ByteOrder::Little, StampResolution::Micro).unwrap();
    for (at_ms, frame) in frames {
        file.frame(
            Duration::from_secs(EPOCH_S) + Duration::from_millis(*at_ms),
            frame,
        )
        .unwrap();
    }
    fs::write(&path, file.finish().unwrap()).unwrap();
    path
}

/// A thousand packets of a hundred flows over ten minutes, with pauses in which flows fall due.
fn ten_minutes() -> Vec<(u64, Vec<u8>)> {
    let frame = |n: u64| {
        let (host_number, port) = (
            u8::try_from(n % 10).unwrap(),
            u16::try_from(1000 + n % 100).unwrap(),
        );
        ethernet().carry(&udp(host(host_number, port), host(200, 53), &[0; 32]))
    };
    (0..1000)
        .map(|n| (n * 97 + (n / 200) * 100_000, frame(n)))
        .collect()
}

/// What arrives at a socket until nothing has for a while.
fn datagrams_of(file: &Path, arguments: &[&str]) -> Vec<Vec<u8>> {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket
        .set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    let address = socket.local_addr().unwrap().to_string();
    let (ledger, output) = run_over(file, &[arguments, &[address.as_str()]].concat());
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_balanced(&ledger);
    let mut datagrams = Vec::new();
    let mut datagram = [0; 2000];
    while let Ok(octets) = socket.recv(&mut datagram) {
        datagrams.push(datagram[..octets].to_vec());
    }
    assert_eq!(datagrams.len() as u64, count(&ledger, "exported.datagrams"));
    datagrams
}

#[test]
fn the_same_file_gives_the_same_datagrams_octet_for_octet() {
    let folder = TempDir::new().unwrap();
    let file = capture(&folder, &ten_minutes());
    let first = datagrams_of(&file, &[]);
    assert!(first.len() > 10, "{} datagrams", first.len());
    assert_eq!(datagrams_of(&file, &[]), first);
}

#[test]
fn a_slow_pipe_gives_the_datagrams_of_the_file() {
    let folder = TempDir::new().unwrap();
    let file = capture(&folder, &ten_minutes());
    let from_file = datagrams_of(&file, &[]);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap().to_string();
    let mut probe = xdprobe(&["run", "-r", "-", &address])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut pipe = probe.stdin.take().unwrap();
    for piece in fs::read(&file).unwrap().chunks(7_001) {
        pipe.write_all(piece).unwrap();
        harness::pause(3);
    }
    drop(pipe);
    assert!(probe.wait().unwrap().success());
    for expected in from_file {
        let mut datagram = [0; 2000];
        let octets = socket.recv(&mut datagram).unwrap();
        assert_eq!(datagram[..octets], expected);
    }
}

#[test]
fn a_pipe_that_is_interrupted_in_the_middle_of_a_burst_is_accounted_up_to_there() {
    let folder = TempDir::new().unwrap();
    let file = capture(&folder, &ten_minutes());
    let collector = TestCollector::start(Keep::Counts).unwrap();
    let line = [
        "run",
        "-r",
        "-",
        "--report",
        "json",
        &collector.address().to_string(),
    ];
    let mut probe = xdprobe(&line)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pipe = probe.stdin.take().unwrap();
    // A header, three records of 74 octets in a pcap record each, and a part of the fourth.
    let octets = fs::read(&file).unwrap();
    let record = 16 + ten_minutes()[0].1.len();
    pipe.write_all(&octets[..24 + 3 * record + 20]).unwrap();
    harness::pause(500);
    let interrupted = std::process::Command::new("kill")
        .args(["-s", "INT", &probe.id().to_string()])
        .status();
    assert!(interrupted.unwrap().success());
    let output = probe.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let ledger = harness::ledger_of(&output.stdout);
    assert_balanced(&ledger);
    assert_eq!(count(&ledger, "exported.packets"), 3);
    harness::assert_received(&collector.stop().unwrap(), &ledger);
}

#[test]
fn records_are_timed_by_the_packets_and_sent_when_they_fell_due() {
    let folder = TempDir::new().unwrap();
    let packet = |port| ethernet().carry(&udp(host(1, port), host(2, 53), &[0; 10]));
    // A flow of two packets, then silence for an hour, then another.
    let file = capture(
        &folder,
        &[
            (0, packet(1000)),
            (2_500, packet(1000)),
            (3_600_000, packet(1001)),
        ],
    );
    let datagrams = datagrams_of(&file, &["--idle-timeout", "15s"]);
    assert_eq!(datagrams.len(), 2);
    let (header, records) = v5::decode(&datagrams[0]).unwrap();
    assert_eq!(
        (records[0].first_ms.get(), records[0].last_ms.get()),
        (0, 2_500)
    );
    // Due at 17.5 s, noticed within a second, sent after the flush delay of half a second.
    let uptime_ms = header.sys_uptime_ms.get();
    assert!(
        (17_500..=19_000).contains(&uptime_ms),
        "sent at {uptime_ms} ms"
    );
    let unix_ms =
        u64::from(header.unix_s.get()) * 1_000 + u64::from(header.unix_ns.get()) / 1_000_000;
    assert_eq!(unix_ms - u64::from(uptime_ms), EPOCH_S * 1_000);
    assert_eq!(
        v5::decode(&datagrams[1]).unwrap().1[0].first_ms.get(),
        3_600_000
    );
}

#[test]
fn records_that_were_let_go_before_the_clock_leaps_are_not_stamped_after_it() {
    let folder = TempDir::new().unwrap();
    let packet = |port| ethernet().carry(&udp(host(1, port), host(2, 53), &[0; 10]));
    // More flows than the cache holds, within 10 ms; an hour later, another, and soon after it the
    // last.
    let frames = (0..100).map(|n| (u64::from(n) / 10, packet(1000 + n)));
    let file = capture(
        &folder,
        &frames
            .chain([(3_600_000, packet(1)), (3_600_001, packet(2))])
            .collect::<Vec<_>>(),
    );
    // The longest idle timeout, so that nothing falls due in between.
    let arguments = [
        "--flows-per-queue",
        "1",
        "--idle-timeout",
        "1h",
        "--active-timeout",
        "2h",
    ];
    let datagrams = datagrams_of(&file, &arguments);
    let sent: Vec<_> = datagrams
        .iter()
        .map(|datagram| v5::decode(datagram).unwrap().0.sys_uptime_ms.get())
        .collect();
    // At once, a second later where their datagram was not full, and at the end.
    assert!(
        sent.len() > 2
            && sent[..sent.len() - 1]
                .iter()
                .all(|&uptime_ms| uptime_ms <= 1_010),
        "{sent:?}"
    );
    assert_eq!(sent.last(), Some(&3_600_001));
}

/// A record as a collector dates it: its source port, packets, and First and Last in ms of UTC.
fn dated(datagrams: &[Vec<u8>]) -> Vec<(u16, u32, u64, u64)> {
    let mut dated = Vec::new();
    for datagram in datagrams {
        let (header, records) = v5::decode(datagram).unwrap();
        let unix_ms =
            u64::from(header.unix_s.get()) * 1_000 + u64::from(header.unix_ns.get()) / 1_000_000;
        let utc = |ms: u32| unix_ms - u64::from(header.sys_uptime_ms.get().wrapping_sub(ms));
        dated.extend(records.iter().map(|record| {
            let span = (utc(record.first_ms.get()), utc(record.last_ms.get()));
            let packets = record.packets.get();
            (record.source_port.get(), packets, span.0, span.1)
        }));
    }
    dated.sort_unstable();
    dated
}

#[test]
fn a_packet_stamped_0_is_a_record_of_its_own_and_changes_no_other() {
    let folder = TempDir::new().unwrap();
    let packet = |port| ethernet().carry(&udp(host(1, port), host(2, 53), &[0; 10]));
    let mut frames: Vec<_> = (0..5).map(|s| (s * 1_000, packet(1_000))).collect();
    frames.insert(3, (0, packet(1_001)));
    let path = folder.path().join("capture.pcap");
    let mut file = PcapWriter::new(Vec::new(), ByteOrder::Little, StampResolution::Micro).unwrap();
    for (at, (after_ms, frame)) in frames.iter().enumerate() {
        let stamp = match at {
            3 => Duration::ZERO,
            _ => Duration::from_secs(EPOCH_S) + Duration::from_millis(*after_ms),
        };
        file.frame(stamp, frame).unwrap();
    }
    fs::write(&path, file.finish().unwrap()).unwrap();
    let begin_ms = EPOCH_S * 1_000;
    assert_eq!(
        dated(&datagrams_of(&path, &[])),
        [(1_000, 5, begin_ms, begin_ms + 4_000), (1_001, 1, 0, 0)]
    );
}

#[test]
fn files_joined_backwards_keep_their_times() {
    let folder = TempDir::new().unwrap();
    let packet = |port| ethernet().carry(&udp(host(1, port), host(2, 53), &[0; 10]));
    // The second file is an hour older than the first; few of its packets, or many.
    for count in [3, 30] {
        let later = (0..20).map(|s| (3_600_000 + s * 1_000, packet(1_000)));
        let earlier = (0..count).map(|s| (s * 1_000, packet(1_001)));
        let file = capture(&folder, &later.chain(earlier).collect::<Vec<_>>());
        let begin_ms = EPOCH_S * 1_000;
        let last_ms = begin_ms + (count - 1) * 1_000;
        let packets = u32::try_from(count).unwrap();
        assert_eq!(
            dated(&datagrams_of(&file, &[])),
            [
                (1_000, 20, begin_ms + 3_600_000, begin_ms + 3_619_000),
                (1_001, packets, begin_ms, last_ms)
            ]
        );
    }
}

#[test]
fn flows_that_began_together_are_cut_apart_where_lifetimes_are_spread() {
    let folder = TempDir::new().unwrap();
    let packet = |port| ethernet().carry(&udp(host(1, port), host(2, 53), &[0; 10]));
    // A hundred flows that begin at once and have a packet each second.
    let frames: Vec<_> = (0..=41)
        .flat_map(|s| (1000..1100).map(move |port| (s * 1000, packet(port))))
        .collect();
    let file = capture(&folder, &frames);
    let firsts_after_the_cut = |arguments: &[&str]| {
        let datagrams = datagrams_of(&file, &[&["--active-timeout", "40s"], arguments].concat());
        let records = datagrams
            .iter()
            .flat_map(|datagram| v5::decode(datagram).unwrap().1.to_vec());
        let firsts: BTreeSet<_> = records
            .map(|record| record.first_ms.get())
            .filter(|&first_ms| first_ms > 0)
            .collect();
        firsts
    };
    assert_eq!(firsts_after_the_cut(&[]), BTreeSet::from([40_000]));
    let spread = firsts_after_the_cut(&["--lifetime-spread", "20s"]);
    assert!(
        spread.len() > 15
            && spread
                .iter()
                .all(|first_ms| (20_000..=40_000).contains(first_ms)),
        "{spread:?}"
    );
}

#[test]
fn tcp_conversations_are_two_flows_and_end_with_their_linger() {
    let folder = TempDir::new().unwrap();
    let (client, server) = (host(1, 40_000), host(2, 80));
    let there = |at, tcp_flags| (at, ethernet().carry(&tcp(client, server, tcp_flags, &[])));
    let back = |at, tcp_flags| (at, ethernet().carry(&tcp(server, client, tcp_flags, &[])));
    let file = capture(
        &folder,
        &[
            there(0, flags::SYN),
            back(1, flags::SYN | flags::ACK),
            there(2, flags::ACK),
            there(10, flags::FIN | flags::ACK),
            back(11, flags::FIN | flags::ACK),
            there(12, flags::ACK),
            // A packet much later keeps the capture's clock going.
            (9_000, ethernet().carry(&udp(client, server, &[]))),
        ],
    );
    let (ledger, _) = run_over(&file, &[]);
    assert_balanced(&ledger);
    assert_eq!(count(&ledger, "flows.created"), 3);
    assert_eq!(count(&ledger, "flows.expired.end_of_flow"), 2);
}

#[test]
fn fragments_belong_to_the_flow_of_their_first() {
    let folder = TempDir::new().unwrap();
    let pieces = fragments(&udp(host(1, 1000), host(2, 53), &[0; 3000]), 1000);
    let frames: Vec<_> = pieces
        .iter()
        .map(|piece| (0, ethernet().vlan(7).carry(piece)))
        .collect();
    let records = datagrams_of(&capture(&folder, &frames), &[]);
    let records = v5::decode(&records[0]).unwrap().1;
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].packets.get() as usize, pieces.len());
    // And where the first comes last, all are accounted all the same.
    let reversed: Vec<_> = frames.into_iter().rev().collect();
    let (ledger, _) = run_over(&capture(&folder, &reversed), &[]);
    assert_eq!(count(&ledger, "exported.packets"), pieces.len() as u64);
    assert_eq!(count(&ledger, "flows.created"), 2);
}

#[test]
fn only_what_the_filter_wants_is_metered() {
    let folder = TempDir::new().unwrap();
    let ping = icmp(
        IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
        IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)),
        8,
        0,
        &[0; 56],
    );
    let file = capture(
        &folder,
        &[
            (0, ethernet().carry(&ping)),
            (1, ethernet().carry(&udp(host(1, 1), host(2, 2), &[]))),
        ],
    );
    let (ledger, _) = run_over(&file, &["-f", "icmp"]);
    assert_balanced(&ledger);
    assert_eq!(
        (
            count(&ledger, "filtered.packets"),
            count(&ledger, "exported.octets")
        ),
        (1, 84)
    );
}

/// A file of 1 000 octets on the wire, 60 captured, of which 986 are the packet.
fn snapped(folder: &TempDir) -> PathBuf {
    let frame = ethernet().carry(&udp(host(1, 1), host(2, 2), &[0; 958]));
    let mut file = PcapWriter::new(Vec::new(), ByteOrder::Little, StampResolution::Micro).unwrap();
    let at = Duration::from_secs(EPOCH_S);
    file.cut_frame(at, &frame[..60], frame.len()).unwrap();
    let path = folder.path().join("snapped.pcap");
    fs::write(&path, file.finish().unwrap()).unwrap();
    path
}

#[test]
fn a_filter_sees_the_length_of_a_frame_and_not_what_was_captured_of_it() {
    let folder = TempDir::new().unwrap();
    let file = snapped(&folder);
    for (filter, octets) in [("greater 500", 986), ("less 100", 0), ("len = 1000", 986)] {
        let (ledger, _) = run_over(&file, &["-f", filter]);
        assert_balanced(&ledger);
        assert_eq!(count(&ledger, "exported.octets"), octets, "{filter}");
    }
}

#[test]
fn a_filter_matches_loopback_frames_of_either_byte_order() {
    let folder = TempDir::new().unwrap();
    let packet = udp(host(1, 1024), host(2, 53), &[]);
    for (order, family) in [
        (ByteOrder::Big, [0, 0, 0, 2]),
        (ByteOrder::Little, [2, 0, 0, 0]),
    ] {
        let mut writer = PcapWriter::new(Vec::new(), order, StampResolution::Micro).unwrap();
        let frame = [&family[..], &packet].concat();
        writer.frame(Duration::from_secs(EPOCH_S), &frame).unwrap();
        let mut octets = writer.finish().unwrap();
        // LINKTYPE_NULL in place of Ethernet.
        octets[20..24].fill(0);
        let file = folder.path().join("null.pcap");
        fs::write(&file, octets).unwrap();
        for (filter, packets) in [("ip", 1), ("udp port 53", 1), ("ip6", 0)] {
            let (ledger, _) = run_over(&file, &["-f", filter]);
            assert_eq!(count(&ledger, "exported.packets"), packets, "{filter}");
        }
    }
}

#[test]
fn a_filter_sees_the_packet_behind_all_tags_unless_it_names_them() {
    let folder = TempDir::new().unwrap();
    let packet = udp(host(1, 1024), host(2, 53), &[0; 32]);
    let stacks = [
        ethernet(),
        ethernet().vlan(5),
        ethernet().tag(0x88a8, 6).vlan(5),
        ethernet().vlan(5).mpls(&[16, 17]),
        ethernet().pppoe(9),
    ];
    let frames: Vec<_> = stacks
        .iter()
        .map(|stack| (0, stack.carry(&packet)))
        .collect();
    let file = capture(&folder, &frames);
    for (filter, packets) in [
        ("ip", 5),
        ("udp port 53", 5),
        ("less 74", 5),
        ("vlan", 3),
        ("vlan 5 and ip", 1),
        ("pppoes", 1),
        ("not vlan", 2),
    ] {
        let (ledger, _) = run_over(&file, &["-f", filter]);
        assert_balanced(&ledger);
        assert_eq!(count(&ledger, "exported.packets"), packets, "{filter}");
    }
}

#[test]
fn a_filter_that_can_match_nothing_is_reported_at_the_first_frame_and_others_are_not() {
    let folder = TempDir::new().unwrap();
    let file = capture(
        &folder,
        &[(0, ethernet().carry(&udp(host(1, 1), host(2, 2), &[])))],
    );
    for (filter, blind) in [
        ("ip6", true),
        ("vlan and arp", true),
        ("port 2 or ip6", false),
    ] {
        let (_, output) = run_over(&file, &["-f", filter]);
        let said = String::from_utf8_lossy(&output.stderr);
        let line = format!("filter '{filter}' can match no IPv4 packet");
        assert_eq!(said.matches(&line).count(), usize::from(blind), "{said}");
    }
}

#[test]
fn a_filter_that_let_nothing_of_a_file_through_is_reported_at_its_end() {
    let folder = TempDir::new().unwrap();
    let file = capture(&folder, &ten_minutes());
    for (filter, reported) in [("udp port 5", true), ("host 192.0.2.3", false)] {
        let (_, output) = run_over(&file, &["-f", filter]);
        let said = String::from_utf8_lossy(&output.stderr);
        let line = format!("file: filter '{filter}' let none of 1000 packets through");
        assert_eq!(said.matches(&line).count(), usize::from(reported), "{said}");
    }
}

#[test]
fn a_sampled_file_gives_the_same_datagrams_each_time_and_counts_what_it_left_out() {
    let folder = TempDir::new().unwrap();
    let file = capture(&folder, &ten_minutes());
    let (by_count, by_chance) = (
        ["--sampling", "1:10", "--sampling-mode", "deterministic"],
        ["--sampling", "1:10"],
    );
    for (arguments, mode) in [(&by_count[..], 1), (&by_chance, 2)] {
        let datagrams = datagrams_of(&file, arguments);
        assert_eq!(datagrams_of(&file, arguments), datagrams);
        let sampling = datagrams
            .iter()
            .map(|datagram| v5::decode(datagram).unwrap().0.sampling.get());
        assert_eq!(
            sampling.collect::<BTreeSet<_>>(),
            BTreeSet::from([mode << 14 | 10])
        );
    }
    let (ledger, _) = run_over(&file, &by_count);
    assert_balanced(&ledger);
    assert_eq!(
        (
            count(&ledger, "offered.packets"),
            count(&ledger, "exported.packets")
        ),
        (1000, 100)
    );
    assert_eq!(
        (
            count(&ledger, "sampled_out.packets"),
            count(&ledger, "exported.octets")
        ),
        (900, 100 * 60)
    );
}

#[test]
fn a_truncated_file_is_accounted_up_to_the_damage() {
    let folder = TempDir::new().unwrap();
    let file = capture(&folder, &ten_minutes());
    let octets = fs::read(&file).unwrap();
    fs::write(&file, &octets[..octets.len() - 10]).unwrap();
    let (ledger, output) = run_over(&file, &[]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(
        said.contains("capture.pcap: damaged at octet") && said.contains("ends inside a record"),
        "{said}"
    );
    assert_balanced(&ledger);
    assert_eq!(count(&ledger, "exported.packets"), 999);
}

#[test]
fn records_of_any_version_go_straight_into_a_flow_tools_file() {
    let folder = TempDir::new().unwrap();
    let file = capture(&folder, &ten_minutes());
    let totals = ["5", "1", "7"].map(|version| {
        let flows = folder.path().join(format!("flows-{version}.ft"));
        let (ledger, output) = run_over(
            &file,
            &["--netflow", version, &format!("file:{}", flows.display())],
        );
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert_balanced(&ledger);
        let printed = xdprobe(&["print", "--json"]).arg(&flows).output().unwrap();
        let records: Vec<Value> = String::from_utf8(printed.stdout)
            .unwrap()
            .lines()
            .map(|line| line.parse().unwrap())
            .collect();
        let total = |name| {
            records
                .iter()
                .map(|record| count(record, name))
                .sum::<u64>()
        };
        let totals = (records.len() as u64, total("packets"), total("octets"));
        let exported = ["records", "packets", "octets"]
            .map(|name| count(&ledger, &format!("exported.{name}")));
        assert_eq!(totals, exported.into(), "version {version}");
        totals
    });
    let records = totals[0].0;
    assert!(records >= 100, "{records} records");
    assert_eq!(totals, [(records, 1000, 1000 * 60); 3]);
    let (_, refused) = run_over(&file, &["file:/nowhere/at/all.ft"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("/nowhere/at/all.ft cannot be written")
    );
}

/// A capture whose frames are of another link type than Ethernet.
fn capture_of_link_type(folder: &TempDir, link: u32, frames: &[(u64, Vec<u8>)]) -> PathBuf {
    let path = capture(folder, frames);
    let mut octets = fs::read(&path).unwrap();
    octets[20..24].copy_from_slice(&link.to_le_bytes());
    fs::write(&path, octets).unwrap();
    path
}

/// The ledger's list of what is not read.
fn unread(ledger: &Value) -> Vec<(&str, &str, u64)> {
    let entries = ledger["unread"].as_array().unwrap();
    entries
        .iter()
        .map(|entry| {
            let of = |name: &str| entry[name].as_str().unwrap();
            (of("kind"), of("number"), count(entry, "packets"))
        })
        .collect()
}

#[test]
fn a_file_of_a_link_type_that_is_not_read_says_so_and_ends_with_exit_code_1() {
    let folder = TempDir::new().unwrap();
    for (link, payload) in [(9, &[0xff, 3, 0, 0x21][..]), (104, &[0x0f, 0, 8, 0])] {
        let packet = [payload, &udp(host(1, 1), host(2, 2), &[])].concat();
        let frames: Vec<_> = (0..3).map(|at| (at, packet.clone())).collect();
        let (ledger, output) = run_over(&capture_of_link_type(&folder, link, &frames), &[]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert_balanced(&ledger);
        assert_eq!(unread(&ledger), [("link_type", &*link.to_string(), 3)]);
        let (first, last) = said.trim_end().split_once('\n').unwrap();
        let expected = format!("file: link type {link} is not read");
        assert!(first.contains(&expected), "{said}");
        let expected = "nothing could be read: of 3 frames none has a supported link type";
        assert!(last.contains(expected), "{said}");
        assert!(
            last.ends_with(&format!("found: link type {link} (3)")),
            "{said}"
        );
    }
}

#[test]
fn protocols_that_are_not_read_are_named_once_with_their_counts() {
    let folder = TempDir::new().unwrap();
    let fabric_path = ethernet().carry_as(0x8903, &[4; 46]);
    let discovery = ethernet().carry_as(0x88cc, &[2; 46]);
    let other = |number: u16| ethernet().carry_as(0x9900 + number, &[0; 46]);
    let mut frames: Vec<_> = vec![(0, fabric_path.clone()), (1, discovery), (2, fabric_path)];
    frames.extend((0..10).map(|number| (3, other(number))));
    let file = capture(&folder, &frames);
    let (ledger, output) = run_over(&file, &[]);
    let said = String::from_utf8_lossy(&output.stderr);
    // Ethernet was read: there is no IPv4 in it, which the last line says.
    assert!(output.status.success(), "{said}");
    let named = unread(&ledger);
    assert_eq!(named.len(), 9);
    assert!(named.contains(&("ether_type", "0x8903", 2)), "{named:?}");
    assert!(named.contains(&("ether_type", "0x88cc", 1)), "{named:?}");
    assert_eq!(named[8], ("other", "", 4));
    assert_eq!(
        said.matches("EtherType 0x8903 is not read").count(),
        1,
        "{said}"
    );
    assert!(
        said.contains("no IPv4 packet, frames: 13; not read: "),
        "{said}"
    );
    // With a packet that is read, nothing more is said of the file.
    frames.push((4, ethernet().carry(&udp(host(1, 1), host(2, 2), &[]))));
    let (ledger, output) = run_over(&capture(&folder, &frames), &[]);
    assert_eq!(count(&ledger, "exported.packets"), 1);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(said.lines().count(), 9, "{said}");
    let text = xdprobe(&["run", "-r", file.to_str().unwrap(), NOWHERE])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&text.stdout);
    assert!(
        text.contains("not read                2 EtherType 0x8903"),
        "{text}"
    );
}

#[test]
fn a_total_length_beyond_the_frame_counts_what_was_on_the_wire() {
    let folder = TempDir::new().unwrap();
    let mut frame = ethernet().carry(&udp(host(1, 1), host(2, 2), &[0; 32]));
    let sound = frame.clone();
    frame[16..18].copy_from_slice(&[0xff, 0xff]);
    let frames = [
        (0, frame.clone()),
        (1, frame.clone()),
        (2, frame),
        (3, sound),
    ];
    let (ledger, output) = run_over(&capture(&folder, &frames), &[]);
    assert!(output.status.success());
    assert_balanced(&ledger);
    assert_eq!(count(&ledger, "exported.octets"), 4 * 60);
    assert_eq!(
        ["packets", "octets"].map(|name| count(&ledger, &format!("beyond_frame.{name}"))),
        [3, 3 * (65_535 - 60)]
    );
}

#[test]
fn flows_between_addresses_of_zero_are_as_many_records() {
    let folder = TempDir::new().unwrap();
    let zero = |port| SocketAddr::from(([0, 0, 0, 0], port));
    let ones = |port| SocketAddr::from(([255, 255, 255, 255], port));
    for address in [zero as fn(u16) -> SocketAddr, ones] {
        let packet = |port| ethernet().carry(&udp(address(port), address(53), &[]));
        let frames: Vec<_> = (0..3)
            .flat_map(|at| (1..=100).map(move |port| (at, packet(port))))
            .collect();
        let (ledger, _) = run_over(&capture(&folder, &frames), &[]);
        let counts = ["records", "packets"].map(|name| count(&ledger, &format!("exported.{name}")));
        assert_eq!(counts, [100, 300]);
    }
}

#[test]
fn a_file_whose_header_cannot_be_read_ends_with_exit_code_1_and_says_why() {
    let folder = TempDir::new().unwrap();
    let path = capture(&folder, &ten_minutes());
    let sound = fs::read(&path).unwrap();
    let mut version_3 = sound.clone();
    version_3[4] = 3;
    for (octets, expected) in [
        (&sound[..23], "cut inside its header: 23 of the 24 octets"),
        (
            &version_3,
            "pcap version 3.4 is not supported: expected version 2",
        ),
    ] {
        fs::write(&path, octets).unwrap();
        let (_, output) = run_over(&path, &[]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains(expected) && said.lines().count() == 1,
            "{said}"
        );
    }
}

#[test]
fn what_is_no_capture_is_told_in_one_line() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("notes.txt");
    fs::write(&path, "These are notes and no packets at all.").unwrap();
    let (_, output) = run_over(&path, &[]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("not a capture file (pcap or pcapng)") && said.lines().count() == 1,
        "{said}"
    );
}

#[test]
fn a_bad_command_line_is_code_2() {
    for line in [
        &["run", "-i", "lo"][..],
        &["run", "-i", "lo", "-f", "udprot", NOWHERE],
    ] {
        assert_eq!(
            xdprobe(line).output().unwrap().status.code(),
            Some(2),
            "{line:?}"
        );
    }
}

#[test]
fn totals_are_exact_however_small_the_cache() {
    let folder = TempDir::new().unwrap();
    let file = capture(&folder, &ten_minutes());
    let (ledger, _) = run_over(&file, &["--flows-per-queue", "1"]);
    assert_balanced(&ledger);
    assert!(count(&ledger, "flows.expired.lack_of_resources") > 0);
    assert_eq!(
        (
            count(&ledger, "exported.packets"),
            count(&ledger, "exported.octets")
        ),
        (1000, 1000 * 60)
    );
}

/// Real captures, where the machine has them: exported packets and octets equal the truth beside
/// them. It has the total lengths, also those beyond the frame.
#[test]
fn real_captures_are_accounted_truly() {
    let Some(folder) = folder_named_by("XDPROBE_PCAPS") else {
        return;
    };
    let truth = fs::read_to_string(folder.join("truth.tsv")).unwrap();
    let mut rows = truth.lines().map(|row| row.split('\t').collect::<Vec<_>>());
    let names = rows.next().unwrap();
    let column = |name: &str| names.iter().position(|&other| other == name).unwrap();
    let (file, packets, octets) = (
        column("file"),
        column("ipv4_packets"),
        column("ipv4_octets"),
    );
    let mut checked = 0;
    for row in rows {
        let (ledger, output, mut received) = run_and_collect(&folder.join(row[file]), &[]);
        assert!(
            output.status.success(),
            "{}: {}",
            row[file],
            String::from_utf8_lossy(&output.stderr)
        );
        assert_balanced(&ledger);
        // The times of some leap by years to and fro, and over more than 24.8 days the order of
        // 32-bit uptimes tells nothing.
        received
            .violations
            .retain(|violation| !matches!(violation, Violation::UptimeWentBack { .. }));
        assert_received(&received, &ledger);
        let found = (
            count(&ledger, "exported.packets"),
            count(&ledger, "exported.octets") + count(&ledger, "beyond_frame.octets"),
        );
        assert_eq!(
            found,
            (row[packets].parse().unwrap(), row[octets].parse().unwrap()),
            "{}",
            row[file]
        );
        checked += 1;
    }
    assert!(checked > 0);
}
