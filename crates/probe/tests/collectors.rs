//! Real collectors read what the probe exports: nfcapd and nfdump, and tshark's dissector.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod harness;

use harness::{Probe, TOOLS, assert_balanced, count, pause, send, traffic, wire};
use std::fs::File;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;
use xdprobe_lab::namespace::{Namespace, VethOptions};
use xdprobe_lab::requirements::are_met;
use xdprobe_lab::send::{Options, Sizes};
use xdprobe_lab::test_collector::{Keep, TestCollector};

/// A program of somebody else's, ended as its users end it.
struct Peer(Child);

impl Peer {
    fn start(namespace: &Namespace, folder: &TempDir, program: &str, arguments: &[&str]) -> Self {
        let log = |name: &str| File::create(folder.path().join(name)).unwrap();
        let mut command = namespace.command(program);
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log("peer.stdout"))
            .stderr(log("peer.stderr"));
        Self(command.spawn().unwrap())
    }

    fn end(mut self) {
        let _ = Command::new("kill")
            .args(["-s", "INT", &self.0.id().to_string()])
            .status();
        self.0.wait().unwrap();
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until somebody in the namespace listens on a UDP port.
fn await_listener(namespace: &Namespace, port: &str) {
    while !namespace
        .output("ss", &["-lun"])
        .unwrap()
        .contains(&format!(":{port}"))
    {
        pause(20);
    }
}

#[test]
fn nfcapd_sees_every_flow_of_any_version_and_no_sequence_failure() {
    if !are_met(&[&TOOLS[..], &["nfcapd", "nfdump", "ss"]].concat()) {
        return;
    }
    for version in ["5", "1", "7"] {
        assert_nfcapd_sees_all(version);
    }
}

fn assert_nfcapd_sees_all(version: &str) {
    let (wire, folder) = (
        wire(VethOptions {
            queues: 2,
            mtu: 1500,
        }),
        TempDir::new().unwrap(),
    );
    let path = folder.path().to_str().unwrap();
    let nfcapd = Peer::start(
        &wire,
        &folder,
        "nfcapd",
        &[
            "-w",
            path,
            "-p",
            "9995",
            "-b",
            "127.0.0.1",
            "-B",
            "8000000",
            "-t",
            "3600",
        ],
    );
    await_listener(&wire, "9995");
    let how = [
        "--idle-timeout",
        "1s",
        "--netflow",
        version,
        "127.0.0.1:9995",
    ];
    let probe = Probe::start(
        &wire,
        &[&["-i", "tap0", "--flows-per-queue", "10000"], &how[..]].concat(),
    );
    let imix = |cpu| Options {
        flows: 2_000,
        sizes: Sizes::Imix,
        cpu: Some(cpu),
        ..traffic(30_000)
    };
    let sent = [send(&wire, &imix(0)), send(&wire, &imix(1))];
    let ledger = probe.stop();
    assert_balanced(&ledger);
    pause(500);
    nfcapd.end();
    let summary = Command::new("nfdump")
        .args(["-R", path, "-I"])
        .output()
        .unwrap();
    let summary = String::from_utf8_lossy(&summary.stdout).into_owned();
    let stated = |name: &str| -> u64 {
        let line = summary
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap_or_else(|| panic!("no {name} in {summary}"));
        line.trim().parse().unwrap()
    };
    let octets: u64 = sent.iter().map(|sent| sent.octets).sum();
    assert_eq!(stated("Sequence failures:"), 0);
    assert_eq!(
        (stated("Packets:"), stated("Bytes:")),
        (60_000, octets),
        "{summary}"
    );
    assert_eq!(stated("Flows:"), count(&ledger, "exported.records"));
}

/// Writes what goes to port 2055 over the loopback interface into a file.
fn sniff_loopback(namespace: &Namespace, folder: &TempDir, file: &str) -> Peer {
    let tshark = Peer::start(
        namespace,
        folder,
        "tshark",
        &["-Q", "-i", "lo", "-f", "udp dst port 2055", "-w", file],
    );
    while !std::fs::metadata(file).is_ok_and(|file| file.len() > 0) {
        pause(20);
    }
    pause(500);
    tshark
}

#[test]
fn tshark_finds_nothing_malformed_in_any_version_and_the_same_totals() {
    if !are_met(&[&TOOLS[..], &["tshark"]].concat()) {
        return;
    }
    for version in ["5", "1", "7"] {
        assert_tshark_sees_all(version);
    }
}

fn assert_tshark_sees_all(version: &str) {
    let (wire, folder) = (wire(VethOptions::default()), TempDir::new().unwrap());
    let file = folder.path().join("export.pcapng");
    let file = file.to_str().unwrap();
    // Else the loopback interface shows many datagrams as the one that they were sent as.
    wire.output("ethtool", &["-K", "lo", "tx-udp-segmentation", "off"])
        .unwrap();
    // Without a listener the kernel would answer that the port is unreachable.
    let address = "127.0.0.1:2055".parse().unwrap();
    let listener = wire
        .run(|| TestCollector::bind(address, Keep::Counts).unwrap())
        .unwrap();
    let tshark = sniff_loopback(&wire, &folder, file);
    let probe = Probe::start(
        &wire,
        &[
            "-i",
            "tap0",
            "--flows-per-queue",
            "10000",
            "--netflow",
            version,
            "127.0.0.1:2055",
        ],
    );
    let sent = send(
        &wire,
        &Options {
            flows: 500,
            ..traffic(10_000)
        },
    );
    let ledger = probe.stop();
    pause(1_000);
    tshark.end();
    listener.stop().unwrap();
    let dissect = |arguments: &[&str]| {
        let output = Command::new("tshark")
            .args(["-r", file, "-d", "udp.port==2055,cflow"])
            .args(arguments)
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert_eq!(
        dissect(&["-Y", "_ws.malformed || _ws.expert.severity >= error"]),
        ""
    );
    let packets = dissect(&["-T", "fields", "-E", "aggregator=,", "-e", "cflow.packets"]);
    let records: Vec<u64> = packets
        .split([',', '\n'])
        .filter_map(|count| count.parse().ok())
        .collect();
    assert_eq!(records.len() as u64, count(&ledger, "exported.records"));
    assert_eq!(records.iter().sum::<u64>(), sent.packets);
}

#[test]
fn tshark_sees_the_dscp_and_ttl_that_were_chosen_over_either_protocol() {
    if !are_met(&[&TOOLS[..], &["tshark"]].concat()) {
        return;
    }
    let (wire, folder) = (wire(VethOptions::default()), TempDir::new().unwrap());
    wire.run(|| std::fs::write("/proc/sys/net/ipv6/conf/lo/disable_ipv6", "0").unwrap())
        .unwrap();
    let file = folder.path().join("export.pcapng");
    let file = file.to_str().unwrap();
    let to = ["127.0.0.1:2055", "[::1]:2055"];
    let bind = |address: &str| TestCollector::bind(address.parse().unwrap(), Keep::Counts).unwrap();
    let listeners = wire.run(|| to.map(bind)).unwrap();
    let tshark = sniff_loopback(&wire, &folder, file);
    let how = [
        "-i",
        "tap0",
        "--flows-per-queue",
        "10000",
        "--dscp",
        "46",
        "--ttl",
        "3",
    ];
    let probe = Probe::start_alone(&wire, &[&how[..], &to].concat());
    send(
        &wire,
        &Options {
            flows: 10,
            ..traffic(100)
        },
    );
    let ledger = probe.stop();
    assert_balanced(&ledger);
    pause(1_000);
    tshark.end();
    listeners
        .into_iter()
        .for_each(|listener| listener.stop().unwrap().assert_sound());
    for (filter, dscp, ttl) in [
        ("ip", "ip.dsfield.dscp", "ip.ttl"),
        ("ipv6", "ipv6.tclass.dscp", "ipv6.hlim"),
    ] {
        let mut dissect = Command::new("tshark");
        dissect.args([
            "-r", file, "-Y", filter, "-T", "fields", "-e", dscp, "-e", ttl,
        ]);
        let seen = String::from_utf8(dissect.output().unwrap().stdout).unwrap();
        assert!(
            !seen.is_empty() && seen.lines().all(|line| line == "46\t3"),
            "{filter}: {seen:?}"
        );
    }
}
