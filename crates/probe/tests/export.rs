//! Several collectors, the ways to them, and what becomes of records when one of them is gone.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod harness;

use harness::scrape::{Page, get};
use harness::{Probe, TOOLS, assert_balanced, count, pause, send, traffic, wire, xdprobe};
use serde_json::Value;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;
use xdprobe_lab::frames::{ByteOrder, Ethernet, PcapWriter, StampResolution, udp};
use xdprobe_lab::namespace::{Namespace, VethOptions};
use xdprobe_lab::requirements::are_met;
use xdprobe_lab::send::Options;
use xdprobe_lab::test_collector::{Collected, Keep, TestCollector};

/// Options that let a flow go soon after its last packet, and its record soon after that.
const SOON: [&str; 8] = [
    "-i",
    "tap0",
    "--flows-per-queue",
    "10000",
    "--idle-timeout",
    "300ms",
    "--flush-delay",
    "50ms",
];

/// What the namespace's programs see as /etc/hosts.
struct Hosts(PathBuf);

impl Hosts {
    fn of(namespace: &Namespace) -> Self {
        let folder = PathBuf::from("/etc/netns").join(namespace.name());
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn write(&self, line: &str) {
        fs::write(self.0.join("hosts"), line).unwrap();
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn collector_at(namespace: &Namespace, address: &str) -> TestCollector {
    let address: SocketAddr = address.parse().unwrap();
    namespace
        .run(|| TestCollector::bind(address, Keep::Counts).unwrap())
        .unwrap()
}

/// Sends some flows of their own and waits until their records have left.
fn some_flows(wire: &Namespace, seed: u64) -> u64 {
    let sent = send(
        wire,
        &Options {
            flows: 300,
            seed,
            ..traffic(3_000)
        },
    );
    pause(2_000);
    sent.packets
}

/// What the ledger says of the `nth` collector, and the records that it was sent and did not
/// refuse.
fn entry(ledger: &Value, nth: usize) -> (&Value, u64) {
    let entry = &ledger["collectors"][nth];
    (
        entry,
        count(entry, "records") - count(entry, "lost.refused"),
    )
}

fn records(received: &[&Collected]) -> u64 {
    received.iter().for_each(|received| received.assert_sound());
    received.iter().map(|received| received.records).sum()
}

#[test]
fn a_collector_that_is_killed_or_unreachable_costs_the_others_nothing_in_any_distribution() {
    if !are_met(&TOOLS) {
        return;
    }
    for distribution in ["copy", "balance", "failover"] {
        let wire = wire(VethOptions::default());
        wire.ip(&["address", "add", "10.99.0.3/32", "dev", "lo"])
            .unwrap();
        let killed = collector_at(&wire, "127.0.0.1:5001");
        let unreachable = collector_at(&wire, "10.99.0.3:5002");
        let survivor = collector_at(&wire, "127.0.0.1:5003");
        let to = ["127.0.0.1:5001", "10.99.0.3:5002", "127.0.0.1:5003"];
        let how = ["--distribute", distribution, "--source", "127.0.0.1"];
        let probe = Probe::start_alone(&wire, &[&SOON[..], &how, &to].concat());
        let mut packets = some_flows(&wire, 1);
        let before = killed.stop().unwrap();
        packets += some_flows(&wire, 2);
        let after = collector_at(&wire, "127.0.0.1:5001");
        wire.ip(&["address", "delete", "10.99.0.3/32", "dev", "lo"])
            .unwrap();
        wire.ip(&["route", "add", "unreachable", "10.99.0.3"])
            .unwrap();
        packets += some_flows(&wire, 3);
        packets += some_flows(&wire, 4);
        let ledger = probe.stop();
        assert_balanced(&ledger);
        assert_eq!(count(&ledger, "observed.packets"), packets);
        let (after, unreachable, survivor) = (
            after.stop().unwrap(),
            unreachable.stop().unwrap(),
            survivor.stop().unwrap(),
        );
        let got = [
            records(&[&before, &after]),
            records(&[&unreachable]),
            records(&[&survivor]),
        ];
        assert_eq!(
            got,
            [0, 1, 2].map(|nth| entry(&ledger, nth).1),
            "{distribution}: {ledger:#}"
        );
        let exported = count(&ledger, "exported.records");
        if distribution == "copy" {
            assert_eq!((survivor.packets, survivor.records), (packets, exported));
        } else {
            assert_eq!(
                got.iter().sum::<u64>(),
                exported,
                "{distribution}: {ledger:#}"
            );
        }
        assert_eq!(
            count(&ledger, "lost.records") + exported,
            count(&ledger, "flows.created")
        );
        assert!(
            count(entry(&ledger, 0).0, "lost.refused") > 0,
            "{distribution}: {ledger:#}"
        );
        assert_eq!(entry(&ledger, 2).0["lost"]["send"], 0);
        match distribution {
            // Only what was under way when each of two collectors went is lost, and a trial now and
            // then.
            "failover" => assert!(
                exported >= 1_000 && after.records > 0 && survivor.records > 0,
                "{ledger:#}"
            ),
            _ => assert!(
                count(entry(&ledger, 1).0, "lost.send") > 0,
                "{distribution}: {ledger:#}"
            ),
        }
    }
}

#[test]
fn the_probes_own_datagrams_are_not_metered_behind_tags_either() {
    if !are_met(&TOOLS) {
        return;
    }
    for collector in ["10.1.0.9:2055", "[::ffff:10.1.0.9]:2055"] {
        assert_own_datagrams_are_excluded(collector);
    }
}

/// `collector` is 10.1.0.9:2055 in some notation.
fn assert_own_datagrams_are_excluded(collector: &str) {
    let wire = wire(VethOptions::default());
    let (from, to): (SocketAddr, SocketAddr) = (
        "10.1.0.1:4000".parse().unwrap(),
        "10.1.0.9:2055".parse().unwrap(),
    );
    wire.address("tx0", "10.1.0.1/24").unwrap();
    let neighbour = [
        "neigh",
        "add",
        "10.1.0.9",
        "lladdr",
        "02:00:00:00:00:09",
        "dev",
        "tx0",
        "nud",
        "permanent",
    ];
    wire.ip(&neighbour).unwrap();
    // The wire to the collector is the one that is tapped.
    let how = ["--source", "10.1.0.1:4000", collector];
    let probe = Probe::start_alone(&wire, &[&SOON[..], &how].concat());
    let packets = some_flows(&wire, 1) + some_flows(&wire, 2);
    let other = SocketAddr::new(from.ip(), 4001);
    let on_the_wire = || Ethernet::new([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 9]);
    let frames = [
        on_the_wire().vlan(7).carry(&udp(from, to, &[0; 72])),
        on_the_wire()
            .tag(0x88a8, 7)
            .vlan(8)
            .carry(&udp(from, to, &[0; 72])),
        on_the_wire().vlan(7).carry(&udp(other, to, &[0; 72])),
    ];
    let inject = || {
        let mut interface = pcap::Capture::from_device("tx0").unwrap().open().unwrap();
        frames
            .iter()
            .for_each(|frame| interface.sendpacket(&frame[..]).unwrap());
    };
    wire.run(inject).unwrap();
    pause(2_000);
    let ledger = probe.stop();
    assert_balanced(&ledger);
    assert_eq!(
        count(&ledger, "observed.packets"),
        packets + 1,
        "{ledger:#}"
    );
    let datagrams = count(entry(&ledger, 0).0, "datagrams");
    assert!(datagrams > 2);
    assert_eq!(
        count(&ledger, "excluded.packets"),
        datagrams + 2,
        "{ledger:#}"
    );
}

#[test]
fn datagrams_to_the_unspecified_address_are_the_probes_own_too() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(VethOptions::default());
    let collector = collector_at(&wire, "127.0.0.1:5001");
    let how = [
        "-i",
        "lo",
        "--capture",
        "pcap",
        "--flows-per-queue",
        "10000",
    ];
    let soon = ["--idle-timeout", "200ms", "--flush-delay", "50ms"];
    let probe = Probe::start_alone(&wire, &[&how[..], &soon, &["0.0.0.0:5001"]].concat());
    let seed = || {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.send_to(&[7; 10], "127.0.0.1:5009").unwrap();
    };
    wire.run(seed).unwrap();
    pause(3_000);
    let ledger = probe.stop();
    collector.stop().unwrap().assert_sound();
    assert_balanced(&ledger);
    // Nothing but the seed and the answer that its port is closed.
    let observed = count(&ledger, "observed.packets");
    assert!((1..=4).contains(&observed), "{ledger:#}");
    assert!(count(&ledger, "excluded.packets") > 0, "{ledger:#}");
}

#[test]
fn a_link_local_collector_is_reached_through_its_zone() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(VethOptions::default());
    wire.veth("exp0", "exp1", VethOptions::default()).unwrap();
    for (interface, address) in [("exp0", "fe80::a/64"), ("exp1", "fe80::b/64")] {
        let key = format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6");
        wire.run(|| fs::write(&key, "0").unwrap()).unwrap();
        let address = ["address", "add", address, "dev", interface, "nodad"];
        wire.ip(&address).unwrap();
    }
    let index = wire
        .output("cat", &["/sys/class/net/exp1/ifindex"])
        .unwrap();
    let collector = collector_at(&wire, &format!("[fe80::b%{}]:5001", index.trim()));
    let probe = Probe::start_alone(&wire, &[&SOON[..], &["[fe80::b%exp0]:5001"]].concat());
    let packets = some_flows(&wire, 1);
    let ledger = probe.stop();
    assert_balanced(&ledger);
    assert_eq!(count(&ledger, "exported.packets"), packets, "{ledger:#}");
    assert_eq!(collector.stop().unwrap().packets, packets);
}

#[test]
fn a_name_that_moves_takes_the_records_with_it_and_one_that_is_gone_does_not() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(VethOptions::default());
    let hosts = Hosts::of(&wire);
    hosts.write("127.0.0.1 collector.test\n");
    let (first, second) = (
        collector_at(&wire, "127.0.0.1:5001"),
        collector_at(&wire, "127.0.0.2:5001"),
    );
    let name = ["--resolve-interval", "200ms", "collector.test:5001"];
    let probe = Probe::start_alone(&wire, &[&SOON[..], &name].concat());
    let mut packets = some_flows(&wire, 1);
    hosts.write("127.0.0.2 collector.test\n");
    while !probe
        .said()
        .contains("collector collector.test:5001 is now at 127.0.0.2:5001")
    {
        pause(50);
    }
    // The exporter looks at least once a second.
    pause(1_500);
    packets += some_flows(&wire, 2);
    hosts.write("\n");
    while !probe.said().contains("cannot be resolved") {
        pause(50);
    }
    packets += some_flows(&wire, 3);
    let ledger = probe.stop();
    assert_balanced(&ledger);
    let (first, second) = (first.stop().unwrap(), second.stop().unwrap());
    assert_eq!(
        records(&[&first, &second]),
        count(&ledger, "exported.records")
    );
    assert_eq!(first.packets + second.packets, packets);
    assert_eq!(first.packets * 2, second.packets);
    let (collector, _) = entry(&ledger, 0);
    assert_eq!(collector["state"], "unresolved");
    assert!(count(collector, "resolves") > 0 && count(collector, "resolve_failures") > 0);
}

/// A path from the wire's namespace to an address in another, which did not exist before.
fn make_path(wire: &Namespace, far: &Namespace) {
    wire.veth("exp0", "exp1", VethOptions::default()).unwrap();
    wire.hand_over("exp1", far).unwrap();
    far.address("exp1", "10.9.0.1/24").unwrap();
    wire.address("exp0", "10.9.0.2/24").unwrap();
}

#[test]
fn a_collector_without_a_route_at_the_start_gets_records_once_there_is_one() {
    if !are_met(&TOOLS) {
        return;
    }
    // No address of the source, no route, no device to send from, no address of the name.
    for (options, collector) in [
        (&[][..], "10.9.0.1:5001"),
        (&["--source", "10.9.0.2"], "10.9.0.1:5001"),
        (&["--bind-device", "exp0"], "10.9.0.1:5001"),
        (&[], "later.test:5001"),
    ] {
        let (wire, far) = (wire(VethOptions::default()), Namespace::new().unwrap());
        let hosts = Hosts::of(&wire);
        hosts.write("\n");
        let how = [&SOON[..], &["--metrics", "0"], options, &[collector]].concat();
        let probe = Probe::start_alone(&wire, &how);
        assert!(probe.said().contains("tries again each second"));
        let state =
            |state: &str| Page::of(&wire, &probe).sum(&format!("xdprobe_collector_{state}"));
        assert_eq!(state("unconnected"), 1);
        let (_, ready) = get(&wire, probe.metrics(), "/readyz");
        assert!(ready.contains("no collector can be reached"), "{ready}");
        let lost = some_flows(&wire, 1);
        assert_eq!((state("unconnected"), state("refusing")), (1, 0));
        make_path(&wire, &far);
        let collector = collector_at(&far, "10.9.0.1:5001");
        hosts.write("10.9.0.1 later.test\n");
        while state("unconnected") == 1 {
            pause(50);
        }
        let exported = some_flows(&wire, 2);
        let ledger = probe.stop();
        assert_balanced(&ledger);
        assert_eq!(
            (
                count(&ledger, "lost.packets"),
                count(&ledger, "exported.packets")
            ),
            (lost, exported)
        );
        let received = collector.stop().unwrap();
        assert_eq!(received.packets, exported);
    }
}

#[test]
fn in_failover_a_collector_without_a_route_at_the_start_costs_nothing() {
    if !are_met(&TOOLS) {
        return;
    }
    let (wire, far) = (wire(VethOptions::default()), Namespace::new().unwrap());
    let second = collector_at(&wire, "127.0.0.1:5002");
    let to = [
        "--distribute",
        "failover",
        "10.9.0.1:5001",
        "127.0.0.1:5002",
    ];
    let probe = Probe::start_alone(&wire, &[&SOON[..], &to].concat());
    let mut packets = some_flows(&wire, 1);
    make_path(&wire, &far);
    let first = collector_at(&far, "10.9.0.1:5001");
    while !probe.said().contains("is reached at 10.9.0.1:5001") {
        pause(50);
    }
    // The trial of the first collector takes a record and a second.
    for seed in 2..5 {
        packets += some_flows(&wire, seed);
    }
    let ledger = probe.stop();
    assert_balanced(&ledger);
    let (first, second) = (first.stop().unwrap(), second.stop().unwrap());
    assert!(first.packets > 0 && second.packets > 0, "{ledger:#}");
    assert_eq!(first.packets + second.packets, packets, "{ledger:#}");
    assert_eq!(count(&ledger, "lost.records"), 0, "{ledger:#}");
}

/// A capture file of so many flows of one packet.
fn flows_file(folder: &Path, flows: u16) -> PathBuf {
    let ethernet = Ethernet::new([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let mut file = PcapWriter::new(Vec::new(), ByteOrder::Little, StampResolution::Micro).unwrap();
    for port in 0..flows {
        let ends = [([192, 0, 2, 1], port), ([192, 0, 2, 2], 53)].map(SocketAddr::from);
        let frame = ethernet.carry(&udp(ends[0], ends[1], &[0; 32]));
        file.frame(Duration::from_secs(1_700_000_000), &frame)
            .unwrap();
    }
    let path = folder.join("flows.pcap");
    fs::write(&path, file.finish().unwrap()).unwrap();
    path
}

#[test]
fn a_host_on_the_same_network_that_is_off_counts_as_refusing_and_not_as_reached() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(VethOptions::default());
    // The other addresses of this network answer no request.
    wire.address("tx0", "10.9.0.1/24").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = flows_file(folder.path(), 5_000);
    let mut command = wire.command(env!("CARGO_BIN_EXE_xdprobe"));
    command.args(["run", "--report", "json", "10.9.0.2:2055", "-r"]);
    let output = command.arg(file).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let ledger: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_balanced(&ledger);
    assert_eq!(count(&ledger, "exported.records"), 0, "{ledger:#}");
    assert_eq!(count(&ledger, "lost.reasons.refused"), 5_000, "{ledger:#}");
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("every record was lost"), "{said}");
}

#[test]
fn what_was_sent_before_a_host_was_found_to_be_off_is_in_doubt() {
    if !are_met(&["ip", "ethtool", "sysctl"]) {
        return;
    }
    let (wire, far) = (wire(VethOptions::default()), Namespace::new().unwrap());
    make_path(&wire, &far);
    // The system asks for the address of a neighbour more often than it does by default.
    let neighbour = |setting: &str| format!("net.ipv4.neigh.exp0.{setting}");
    let mut sysctl = wire.command("sysctl");
    let settings = ["base_reachable_time_ms=1000", "delay_first_probe_time=1"].map(neighbour);
    assert!(sysctl.args(settings).output().unwrap().status.success());
    let collector = collector_at(&far, "10.9.0.1:5001");
    let how = [&SOON[..], &["--metrics", "0", "10.9.0.1:5001"]].concat();
    let probe = Probe::start_alone(&wire, &how);
    some_flows(&wire, 1);
    let state = |state: &str| Page::of(&wire, &probe).sum(&format!("xdprobe_collector_{state}"));
    assert_eq!((state("in_doubt_records_total"), state("refusing")), (0, 0));
    far.ip(&["link", "set", "exp1", "arp", "off"]).unwrap();
    let mut seed = 2;
    while state("in_doubt_records_total") == 0 {
        assert!(seed < 40, "{}", probe.said());
        some_flows(&wire, seed);
        seed += 1;
    }
    assert_eq!(state("refusing"), 1);
    let (status, ready) = get(&wire, probe.metrics(), "/readyz");
    assert_eq!(
        (status, ready.contains("every collector refuses")),
        (503, true),
        "{ready}"
    );
    while !probe.said().contains("for 10.9.0.1:5001 (in_doubt)") {
        pause(50);
    }
    drop(collector);
    let ledger = {
        probe.signal("INT");
        probe.wait(1)
    };
    assert_balanced(&ledger);
    let in_doubt = count(&ledger["collectors"][0], "in_doubt");
    assert_eq!(in_doubt, count(&ledger, "exported.records"));
}

#[test]
fn a_narrow_path_is_found_and_nothing_is_fragmented() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(VethOptions::default());
    let (router, far) = (Namespace::new().unwrap(), Namespace::new().unwrap());
    wire.veth("exp0", "exp1", VethOptions::default()).unwrap();
    wire.hand_over("exp1", &router).unwrap();
    router
        .veth(
            "far0",
            "far1",
            VethOptions {
                mtu: 600,
                ..VethOptions::default()
            },
        )
        .unwrap();
    router.hand_over("far1", &far).unwrap();
    wire.address("exp0", "10.5.0.1/24").unwrap();
    router.address("exp1", "10.5.0.2/24").unwrap();
    router.address("far0", "10.6.0.2/24").unwrap();
    far.address("far1", "10.6.0.1/24").unwrap();
    wire.ip(&["route", "add", "10.6.0.0/24", "via", "10.5.0.2"])
        .unwrap();
    far.ip(&["route", "add", "10.5.0.0/24", "via", "10.6.0.2"])
        .unwrap();
    router
        .run(|| fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap())
        .unwrap();
    let collector = collector_at(&far, "10.6.0.1:5001");
    let probe = Probe::start_alone(&wire, &[&SOON[..], &["10.6.0.1:5001"]].concat());
    some_flows(&wire, 1);
    let sent = send(
        &wire,
        &Options {
            flows: 300,
            seed: 2,
            ..traffic(3_000)
        },
    );
    pause(2_000);
    let ledger = probe.stop();
    assert_balanced(&ledger);
    let received = collector.stop().unwrap();
    // The router's answer to the first datagrams says how narrow the path is: 11 records in 600
    // octets.
    assert_eq!(received.datagram_octets_max, 24 + 11 * 48, "{ledger:#}");
    assert_eq!(
        received.records,
        count(&ledger, "exported.records"),
        "{ledger:#}"
    );
    assert!(received.packets >= sent.packets, "{received}");
    received.assert_sound();
    let statistics = wire.output("cat", &["/proc/net/snmp"]).unwrap();
    let mut rows = statistics
        .lines()
        .filter(|row| row.starts_with("Ip:"))
        .map(str::split_whitespace);
    let (mut names, mut counts) = (rows.next().unwrap(), rows.next().unwrap());
    let place = names.position(|name| name == "FragCreates").unwrap();
    assert_eq!(counts.nth(place), Some("0"), "{statistics}");
}

#[test]
fn over_ipv6_a_full_datagram_has_one_record_less() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(VethOptions::default());
    wire.run(|| fs::write("/proc/sys/net/ipv6/conf/lo/disable_ipv6", "0").unwrap())
        .unwrap();
    wire.ip(&["link", "set", "dev", "lo", "mtu", "1500"])
        .unwrap();
    for (version, expected) in [
        ("5", 24 + 29 * 48),
        ("1", 16 + 24 * 48),
        ("7", 24 + 27 * 52),
    ] {
        let collector = collector_at(&wire, "[::1]:5001");
        let how = [
            "--netflow",
            version,
            "--dscp",
            "46",
            "--ttl",
            "3",
            "[::1]:5001",
        ];
        let probe = Probe::start_alone(&wire, &[&SOON[..], &how].concat());
        let packets = some_flows(&wire, 1);
        let ledger = probe.stop();
        assert_balanced(&ledger);
        let received = collector.stop().unwrap();
        received.assert_sound();
        assert_eq!(
            (received.packets, received.datagram_octets_max),
            (packets, expected),
            "version {version}"
        );
    }
}

#[test]
fn a_pace_delays_what_fits_its_queue_and_a_probe_that_stops_sends_it_all() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(VethOptions::default());
    let pace = ["--records-per-second", "1000", "--paced-records", "1000"];
    let probe = Probe::start(
        &wire,
        &[&["-i", "tap0", "--flows-per-queue", "10000"], &pace[..]].concat(),
    );
    let sent = send(
        &wire,
        &Options {
            flows: 2_500,
            ..traffic(5_000)
        },
    );
    let ledger = probe.stop();
    assert_balanced(&ledger);
    assert_eq!(
        count(&ledger, "exported.packets"),
        sent.packets,
        "{ledger:#}"
    );
    assert!(
        count(entry(&ledger, 0).0, "delayed_records") > 1_000,
        "{ledger:#}"
    );
    // On a link that goes on, what does not fit is refused, counted, and seen as a gap in the
    // sequence.
    let collector = collector_at(&wire, "127.0.0.1:5001");
    let probe = Probe::start_alone(&wire, &[&SOON[..], &pace, &["127.0.0.1:5001"]].concat());
    send(
        &wire,
        &Options {
            flows: 5_000,
            ..traffic(5_000)
        },
    );
    pause(2_000);
    let ledger = probe.stop();
    assert_balanced(&ledger);
    assert!(count(&ledger, "lost.reasons.pacing") > 0, "{ledger:#}");
    let received = collector.stop().unwrap();
    assert_eq!(received.records, count(&ledger, "exported.records"));
}

#[test]
fn refuses_collectors_that_cannot_be_sent_to_with_what_was_found_and_wanted() {
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("empty.pcap");
    fs::write(&file, []).unwrap();
    let file = file.to_str().unwrap();
    for (arguments, code, expected) in [
        (
            &["nosuch.invalid:2055"][..],
            1,
            "collector nosuch.invalid:2055 cannot be resolved",
        ),
        (&["127.0.0.1:0"], 2, "expected HOST:PORT"),
        (
            &["--mtu", "99", "127.0.0.1:2055"],
            2,
            "carries 71 octets of payload in one piece",
        ),
        (
            &["--source", "192.0.2.77", "127.0.0.1:2055"],
            1,
            "source 192.0.2.77:0: Cannot assign",
        ),
        (
            &["--bind-device", "nowhere9", "127.0.0.1:2055"],
            1,
            "device nowhere9: No such device",
        ),
    ] {
        let output = xdprobe(&[&["run", "-r", file][..], arguments].concat())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(expected), "{arguments:?}: {said}");
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    }
}
