//! `--rules` and `--prefixes`: what records say of interfaces, AS, masks and next hop, and files
//! that change or are bad.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod harness;

use harness::{Probe, TOOLS, assert_balanced, count, pause, run_over, send, traffic, wire};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use xdprobe_lab::frames::{ByteOrder, Ethernet, PcapWriter, StampResolution, udp};
use xdprobe_lab::namespace::VethOptions;
use xdprobe_lab::requirements::are_met;
use xdprobe_lab::send::Options;
use xdprobe_lab::test_collector::{Keep, TestCollector};
use xdprobe_pipeline::export::netflow::v5::Record;

const A: [u8; 6] = [2, 0, 0, 0, 0, 1];
const B: [u8; 6] = [2, 0, 0, 0, 0, 2];

fn write(folder: &TempDir, name: &str, content: &str) -> PathBuf {
    let path = folder.path().join(name);
    fs::write(&path, content).unwrap();
    path
}

/// A conversation over a tap that sees both directions, and a packet of another VLAN.
fn conversation(folder: &TempDir) -> PathBuf {
    let (client, server): (SocketAddr, SocketAddr) = (
        "192.0.2.1:1000".parse().unwrap(),
        "198.51.100.200:53".parse().unwrap(),
    );
    let (there, back) = (udp(client, server, &[0; 10]), udp(server, client, &[0; 10]));
    let mut file = PcapWriter::new(Vec::new(), ByteOrder::Little, StampResolution::Micro).unwrap();
    // Who sends comes first.
    for frame in [
        Ethernet::new(A, B).carry(&there),
        Ethernet::new(B, A).carry(&back),
        Ethernet::new(A, B).vlan(9).carry(&there),
    ] {
        file.frame(Duration::from_secs(1_700_000_000), &frame)
            .unwrap();
    }
    let path = folder.path().join("conversation.pcap");
    fs::write(&path, file.finish().unwrap()).unwrap();
    path
}

const RULES: &str = "[[rule]]\nvlan = 9\ninput = 9\n\n[[rule]]\nsource_mac = '02:00:00:00:00:01'\ninput = 1\noutput = 2\n\n\
                     [[rule]]\ndestination_mac = '02:00:00:00:00:01'\ninput = 2\noutput = 1\n";
const PREFIXES: &str = "prefix,as,nexthop\n192.0.2.0/24,64496,203.0.113.1\n198.51.100.0/24,64497,203.0.113.2\n\
                        198.51.100.128/25,4200000000,203.0.113.3\n";

fn records_of(file: &Path, arguments: &[&str]) -> Vec<Record> {
    let collector = TestCollector::start(Keep::Records).unwrap();
    let (ledger, output) = run_over(
        file,
        &[arguments, &[&collector.address().to_string()]].concat(),
    );
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_balanced(&ledger);
    collector.stop().unwrap().list
}

#[test]
fn each_direction_of_a_link_has_its_own_interfaces_and_each_address_its_route() {
    let folder = TempDir::new().unwrap();
    let (rules, prefixes) = (
        write(&folder, "rules.toml", RULES),
        write(&folder, "prefixes.csv", PREFIXES),
    );
    let tables = [
        "--rules",
        rules.to_str().unwrap(),
        "--prefixes",
        prefixes.to_str().unwrap(),
    ];
    let records = records_of(&conversation(&folder), &tables);
    let told: BTreeSet<_> = records
        .iter()
        .map(|record| (record.input.get(), record.output.get()))
        .collect();
    assert_eq!(
        (told, records.len()),
        (BTreeSet::from([(1, 2), (2, 1), (9, 0)]), 3)
    );
    for record in &records {
        let (from, to) = (
            (record.source_as.get(), record.source_mask),
            (record.destination_as.get(), record.destination_mask),
        );
        let there = ((64_496, 24), (23_456, 25), [203, 0, 113, 3]);
        let back = ((23_456, 25), (64_496, 24), [203, 0, 113, 1]);
        let expected = if record.source == [192, 0, 2, 1] {
            there
        } else {
            back
        };
        assert_eq!((from, to, record.next_hop), expected);
    }
}

#[test]
fn each_version_says_what_it_has_room_for() {
    let folder = TempDir::new().unwrap();
    let (rules, prefixes) = (
        write(&folder, "rules.toml", RULES),
        write(&folder, "prefixes.csv", PREFIXES),
    );
    let tables = [
        "--rules",
        rules.to_str().unwrap(),
        "--prefixes",
        prefixes.to_str().unwrap(),
        "--netflow",
    ];
    for (version, r#as, mask) in [("1", 0, 0), ("5", 64_496, 24), ("7", 64_496, 24)] {
        let records = records_of(&conversation(&folder), &[&tables[..], &[version]].concat());
        let there = records
            .iter()
            .find(|record| record.input.get() == 1)
            .unwrap();
        assert_eq!(
            (there.output.get(), there.next_hop),
            (2, [203, 0, 113, 3]),
            "version {version}"
        );
        assert_eq!(
            (there.source_as.get(), there.source_mask),
            (r#as, mask),
            "version {version}"
        );
    }
}

#[test]
fn without_tables_records_say_what_was_metered_and_nothing_else() {
    let folder = TempDir::new().unwrap();
    let records = records_of(&conversation(&folder), &["--input", "7"]);
    assert_eq!(records.len(), 2, "no rule, so VLANs are not told apart");
    for record in &records {
        assert_eq!(
            (record.input.get(), record.output.get(), record.next_hop),
            (7, 0, [0; 4])
        );
        assert_eq!((record.source_as.get(), record.destination_mask), (0, 0));
    }
}

#[test]
fn a_bad_table_is_refused_at_the_start_with_its_line() {
    let folder = TempDir::new().unwrap();
    let file = conversation(&folder);
    for (option, content, expected) in [
        (
            "--rules",
            "[[rule]]\ninput = 70000\n",
            "table:2: input 70000 is out of range: expected 0 to 65535",
        ),
        (
            "--rules",
            "[[rule]]\ninput = 7",
            "table:2: no line end: the file is cut off here",
        ),
        (
            "--prefixes",
            "prefix,as,nexthop\n10.0.0.0/8,1,\n10.1.0.0/16,",
            "table:3: no line end: the file is cut off here",
        ),
        (
            "--prefixes",
            "prefix,as,nexthop\n10.0.0.0/8,1,\n10.1.0.0/99,1,\n",
            "table:3: '10.1.0.0/99' is not a prefix",
        ),
    ] {
        let table = write(&folder, "table", content);
        let (_, output) = run_over(&file, &[option, table.to_str().unwrap()]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(
            (output.status.code(), said.lines().count()),
            (Some(2), 1),
            "{said}"
        );
        assert!(said.contains(expected), "{said}");
    }
    let (_, output) = run_over(&file, &["--prefixes", "/nowhere/prefixes.csv"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.code() == Some(2) && said.contains("/nowhere/prefixes.csv cannot be read"),
        "{said}"
    );
}

#[test]
fn a_rule_of_an_interface_that_nobody_captures_is_warned_of_with_its_line() {
    let folder = TempDir::new().unwrap();
    let rules = write(
        &folder,
        "rules.toml",
        "[[rule]]\ninterface = 'file'\ninput = 1\n\n[[rule]]\ninterface = 'tap7'\ninput = 2\n",
    );
    let (ledger, output) = run_over(
        &conversation(&folder),
        &["--rules", rules.to_str().unwrap()],
    );
    assert_balanced(&ledger);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("rules.toml:5: this rule is for tap7, which is not captured (file)"),
        "{said}"
    );
    assert_eq!(
        (output.status.code(), said.matches("not captured").count()),
        (Some(0), 1),
        "{said}"
    );
}

#[test]
fn tables_are_read_again_without_a_gap_and_bad_ones_change_nothing() {
    if !are_met(&TOOLS) {
        return;
    }
    let (wire, folder) = (wire(VethOptions::default()), TempDir::new().unwrap());
    let rule = |output: u16| format!("[[rule]]\nvlan = 100\ninput = 1\noutput = {output}\n");
    let prefixes = |number: u16| format!("prefix,as,nexthop\n0.0.0.0/0,{number},\n");
    let rules_path = write(&folder, "rules.toml", &rule(2));
    let prefixes_path = write(&folder, "prefixes.csv", &prefixes(10));
    let collector = wire
        .run(|| TestCollector::start(Keep::Records).unwrap())
        .unwrap();
    let mut probe = Probe::start(
        &wire,
        &[
            &[
                "-i",
                "tap0",
                "--flows-per-queue",
                "10000",
                "--ring",
                "16384",
                "--idle-timeout",
                "1s",
            ][..],
            &[
                "--rules",
                rules_path.to_str().unwrap(),
                "--prefixes",
                prefixes_path.to_str().unwrap(),
            ],
            &[&collector.address().to_string()],
        ]
        .concat(),
    );
    let tagged = Options {
        vlan: vec![100],
        flows: 50,
        ..traffic(5_000)
    };
    let mut reload = |word: &str, times: usize| {
        probe.signal("HUP");
        while probe.said().matches(word).count() < times {
            assert!(probe.is_running(), "{}", probe.said());
            pause(10);
        }
    };
    let mut sent = send(&wire, &tagged).packets;
    // What is resident is exported with the routes of then.
    while collector.records() < 50 {
        pause(20);
    }
    write(&folder, "rules.toml", &rule(3));
    write(&folder, "prefixes.csv", &prefixes(20));
    reload("prefixes in force", 2);
    sent += send(&wire, &tagged).packets;
    write(
        &folder,
        "rules.toml",
        "[[rule]]\nvlan = 100\ninput = 1\noutput = 400000\n",
    );
    write(&folder, "prefixes.csv", "prefix,as,nexthop\n0.0.0.0/0,3");
    reload("stays in force", 1);
    sent += send(&wire, &tagged).packets;
    let said = probe.said();
    assert!(
        said.contains("rules.toml:4: output 400000 is out of range: expected 0 to 65535"),
        "{said}"
    );
    assert!(said.contains("prefixes.csv:2: no line end"), "{said}");
    let ledger = probe.stop();
    assert_balanced(&ledger);
    assert_eq!((sent, count(&ledger, "exported.packets")), (15_000, 15_000));
    let mut packets = std::collections::BTreeMap::new();
    for record in collector.stop().unwrap().list {
        let told = (
            record.input.get(),
            record.output.get(),
            record.source_as.get(),
        );
        *packets.entry(told).or_insert(0) += record.packets.get();
    }
    assert_eq!(
        packets.into_iter().collect::<Vec<_>>(),
        [((1, 2, 10), 5_000), ((1, 3, 20), 10_000)]
    );
}

#[test]
fn a_table_that_became_a_fifo_is_refused_and_keeps_no_probe_from_its_end() {
    if !are_met(&TOOLS) {
        return;
    }
    let (wire, folder) = (wire(VethOptions::default()), TempDir::new().unwrap());
    let prefixes = write(&folder, "prefixes.csv", PREFIXES);
    let probe = Probe::start(
        &wire,
        &[
            "-i",
            "tap0",
            "--flows-per-queue",
            "1000",
            "--prefixes",
            prefixes.to_str().unwrap(),
        ],
    );
    fs::remove_file(&prefixes).unwrap();
    mkfifo(&prefixes, Mode::S_IRWXU).unwrap();
    probe.signal("HUP");
    while !probe
        .said()
        .contains("it is a FIFO, expected a regular file")
    {
        pause(10);
    }
    assert!(probe.said().contains("stays in force"), "{}", probe.said());
    assert_balanced(&probe.stop());
}
