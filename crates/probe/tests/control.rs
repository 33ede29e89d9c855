//! The control socket of a running probe, and the commands that ask it, on real AF_XDP.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod harness;

use harness::{Probe, TOOLS, assert_balanced, count, pause, send, traffic, wire};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;
use xdprobe_lab::frames::{Ethernet, tcp, udp};
use xdprobe_lab::namespace::{Namespace, VethOptions};
use xdprobe_lab::requirements::are_met;
use xdprobe_lab::send::{Options, Sender};

const NOWHERE: &str = "127.0.0.1:9";
const TWO_QUEUES: VethOptions = VethOptions {
    queues: 2,
    mtu: 1500,
};

/// Flows stay for as long as a test takes.
const LONG: [&str; 4] = ["--idle-timeout", "20min", "--active-timeout", "30min"];

/// A probe with a control socket in a folder of its own.
struct Controlled {
    probe: Probe,
    folder: TempDir,
}

impl Controlled {
    fn start(wire: &Namespace, arguments: &[&str]) -> Self {
        let folder = TempDir::new().unwrap();
        let socket = folder.path().join("control.sock");
        let line = ["-i", "tap0", "--control", socket.to_str().unwrap()];
        let line = [&line[..], &LONG, arguments, &[NOWHERE]].concat();
        Self {
            probe: Probe::start(wire, &line),
            folder,
        }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("control.sock")
    }

    /// Runs a command against it, in the namespace, where interfaces have names.
    fn ask(&self, wire: &Namespace, arguments: &[&str]) -> Output {
        let mut command = wire.command(env!("CARGO_BIN_EXE_xdprobe"));
        command.args(arguments).arg("--control").arg(self.socket());
        command.stdin(Stdio::null()).output().unwrap()
    }

    fn said(&self, wire: &Namespace, arguments: &[&str]) -> String {
        let output = self.ask(wire, arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, wire: &Namespace, arguments: &[&str]) -> Value {
        let said = self.said(wire, &[arguments, &["--json"]].concat());
        serde_json::from_str(&said).unwrap()
    }

    /// Waits until this many packets are resident.
    fn await_packets(&self, wire: &Namespace, packets: u64) {
        for _ in 0..600 {
            let ledger = self.json(wire, &["show", "ledger"]);
            if count(&ledger, "resident.packets") == packets {
                return;
            }
            pause(50);
        }
        panic!("{}", self.said(wire, &["show", "ledger"]));
    }
}

/// Sends these frames into the wire.
fn inject(wire: &Namespace, frames: &[Vec<u8>]) {
    let send = || {
        let mut interface = pcap::Capture::from_device("tx0").unwrap().open().unwrap();
        frames
            .iter()
            .for_each(|frame| interface.sendpacket(&frame[..]).unwrap());
    };
    wire.run(send).unwrap();
}

fn address(last: u8, port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::new(192, 0, 2, last), port))
}

/// `count` packets of a flow with `payload` octets each.
fn packets(from: SocketAddr, to: SocketAddr, payload: usize, count: usize) -> Vec<Vec<u8>> {
    let frame = Ethernet::default().carry(&udp(from, to, &vec![0; payload]));
    vec![frame; count]
}

/// The answer to a request as it is: status, and all that follows.
fn raw(socket: &Path, request: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer)
}

#[test]
fn show_flows_prints_the_line_that_flowctl_printed() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = Namespace::new().unwrap();
    wire.veth("tx0", "em0", VethOptions::default()).unwrap();
    let folder = TempDir::new().unwrap();
    let socket = folder.path().join("control.sock");
    let rules = folder.path().join("rules.toml");
    let index = wire.run(|| nix::net::if_::if_nametoindex("em0").unwrap());
    let index = index.unwrap();
    std::fs::write(
        &rules,
        format!("[[rule]]\ninterface = \"em0\"\ninput = {index}\noutput = {index}\n"),
    )
    .unwrap();
    let line = ["-i", "em0", "--rules", rules.to_str().unwrap()];
    let line = [
        &line[..],
        &LONG,
        &["--control", socket.to_str().unwrap(), NOWHERE],
    ]
    .concat();
    let probe = Controlled {
        probe: Probe::start(&wire, &line),
        folder,
    };
    let from = SocketAddr::from((Ipv4Addr::new(192, 168, 1, 2), 0x03f8));
    let to = SocketAddr::from((Ipv4Addr::new(192, 168, 1, 1), 0x006f));
    let frame = Ethernet::default().carry(&tcp(from, to, 0x10, &[]));
    inject(&wire, &vec![frame; 5]);
    probe.await_packets(&wire, 5);
    let expected = "\
SrcIf         SrcIPaddress    DstIf         DstIPaddress    Pr SrcP DstP  Pkts
em0           192.168.1.2     em0           192.168.1.1      6 03f8 006f      5
";
    assert_eq!(probe.said(&wire, &["show", "flows"]), expected);
    let flow = probe.json(&wire, &["show", "flows"]);
    assert_eq!(
        (&flow["input_name"], &flow["octets"], &flow["tcp_flags"]),
        (&"em0".into(), &200.into(), &0x10.into())
    );
    let wide = probe.said(&wire, &["show", "flows", "--wide"]);
    assert!(wide.contains("         200 "), "{wide}");
    probe.probe.stop();
}

/// Three flows: 192.0.2.1 to .9 (udp 53, 7 packets of 128 octets), to .8 (udp 53, 1 of 1028), and
/// 192.0.2.2 to .9 (udp 4000, 2 of 28).
fn three_flows(wire: &Namespace, probe: &Controlled) {
    let frames = [
        packets(address(1, 1000), address(9, 53), 100, 7),
        packets(address(1, 1001), address(8, 53), 1_000, 1),
        packets(address(2, 1000), address(9, 4000), 0, 2),
    ];
    inject(wire, &frames.concat());
    probe.await_packets(wire, 10);
}

#[test]
fn flows_are_listed_and_expired_by_what_they_are() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(TWO_QUEUES);
    let probe = Controlled::start(&wire, &[]);
    three_flows(&wire, &probe);
    let listed = |filter: &[&str]| {
        let said = probe.said(&wire, &[&["show", "flows", "--json"], filter].concat());
        said.lines().count()
    };
    for (filter, expected) in [
        (&[][..], 3),
        (&["--source", "192.0.2.1"], 2),
        (&["--prefix", "192.0.2.8/31"], 3),
        (&["--destination", "192.0.2.8"], 1),
        (&["--port", "4000"], 1),
        (&["--source-port", "1000"], 2),
        (&["--destination-port", "53"], 2),
        (&["--protocol", "tcp"], 0),
        (&["--protocol", "udp", "--least-packets", "2"], 2),
        (&["--least-octets", "1000"], 1),
        (&["--interface", "tap0"], 3),
        (&["--interface", "tx0"], 0),
        (&["--limit", "2"], 2),
    ] {
        assert_eq!(listed(filter), expected, "{filter:?}");
    }
    let said = probe.said(&wire, &["expire", "--port", "53", "--interface", "tap0"]);
    assert_eq!(said, "2 flows expired\n");
    assert_eq!(listed(&[]), 1);
    assert_eq!(probe.said(&wire, &["expire"]), "1 flow expired\n");
    let ledger = probe.probe.stop();
    assert_balanced(&ledger);
    assert_eq!(count(&ledger, "flows.expired.forced"), 3);
}

#[test]
fn show_top_adds_up_flows_of_every_queue_exactly() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(TWO_QUEUES);
    let probe = Controlled::start(&wire, &[]);
    three_flows(&wire, &probe);
    let rows = |arguments: &[&str]| {
        let top = probe.json(&wire, &[&["show", "top"], arguments].concat());
        assert_eq!(
            (&top["total"]["flows"], &top["total"]["packets"]),
            (&3.into(), &10.into())
        );
        let rows = top["rows"].as_array().unwrap().clone();
        let row = |row: &Value| {
            let of = |name: &str| row[name].as_u64().unwrap();
            let subject = row.as_object().unwrap().iter();
            let subject =
                subject.filter(|(name, _)| !["flows", "packets", "octets"].contains(&&name[..]));
            let subject: Vec<_> = subject
                .map(|(_, value)| value.to_string().trim_matches('"').to_owned())
                .collect();
            (subject.join(" "), of("flows"), of("packets"), of("octets"))
        };
        rows.iter().map(row).collect::<Vec<_>>()
    };
    let row = |subject: &str, flows, packets, octets| (subject.to_owned(), flows, packets, octets);
    assert_eq!(
        rows(&[]),
        [row("192.0.2.1", 2, 8, 1_924), row("192.0.2.2", 1, 2, 56)]
    );
    assert_eq!(
        rows(&["--over", "destination", "--by", "packets", "-n", "1"]),
        [row("192.0.2.9", 2, 9, 952)]
    );
    assert_eq!(
        rows(&["--over", "port", "--by", "flows", "-n", "2"]),
        [row("53 17", 2, 8, 1_924), row("1000 17", 2, 9, 952)]
    );
    assert_eq!(rows(&["--over", "protocol"]), [row("17", 3, 10, 1_980)]);
    assert_eq!(rows(&["--over", "pair"]).len(), 3);
    let said = probe.said(&wire, &["show", "top", "--over", "flow", "-n", "1"]);
    assert!(
        said.contains("udp 192.0.2.1:1001 > 192.0.2.8:53 on tap0"),
        "{said}"
    );
    assert!(
        said.ends_with("1 of 3 rows; in all 3 flows, 10 packets, 1980 octets\n"),
        "{said}"
    );
    probe.probe.stop();
}

#[test]
fn ledger_queues_and_collectors_are_shown_as_tables_and_json() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(TWO_QUEUES);
    let probe = Controlled::start(&wire, &[]);
    let sent = send(&wire, &traffic(20_000));
    probe.await_packets(&wire, sent.packets);
    let ledger = probe.json(&wire, &["show", "ledger"]);
    assert_balanced(&ledger);
    assert_eq!(count(&ledger, "observed.packets"), sent.packets);
    let text = probe.said(&wire, &["show", "ledger"]);
    assert!(text.contains("ledger balanced"), "{text}");
    let queues = probe.json(&wire, &["show", "queues"]);
    let received = queues["queues"].as_array().unwrap().iter();
    let received: u64 = received
        .map(|queue| queue["received_packets"].as_u64().unwrap())
        .sum();
    assert_eq!(received, sent.packets);
    let text = probe.said(&wire, &["show", "queues"]);
    assert!(text.contains("tap0/0") && text.contains("tap0/1"), "{text}");
    let text = probe.said(&wire, &["show", "collectors"]);
    assert!(text.contains(NOWHERE), "{text}");
    let collectors = probe.json(&wire, &["show", "collectors"]);
    assert_eq!(collectors["collectors"].as_array().unwrap().len(), 2);
    probe.probe.stop();
}

#[test]
fn xdprobe_stop_ends_the_probe_as_a_signal_does() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(VethOptions::default());
    let probe = Controlled::start(&wire, &[]);
    three_flows(&wire, &probe);
    assert_eq!(probe.said(&wire, &["stop"]), "");
    assert!(!probe.socket().exists());
    let Controlled { probe, folder } = probe;
    let ledger = probe.wait(0);
    assert_balanced(&ledger);
    assert_eq!(count(&ledger, "observed.packets"), 10);
    drop(folder);
}

#[test]
fn curl_and_scripts_find_the_paths_and_bad_requests_are_answered_in_one_line() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(VethOptions::default());
    let probe = Controlled::start(&wire, &[]);
    let socket = probe.socket();
    for (line, status, expected) in [
        ("GET /", 200, "GET   /flows"),
        ("GET /nothing", 404, "no /nothing; the paths are:"),
        ("POST /flows", 405, "POST is not for /flows"),
        ("GET /expire", 405, "GET is not for /expire"),
        ("GET /flows?prot=6", 400, "unexpected argument 'prot'"),
        (
            "GET /flows?port=http",
            400,
            "invalid value 'http' for 'port",
        ),
        (
            "GET /flows?interface=ngeth77",
            400,
            "interface 'ngeth77' does not exist",
        ),
        (
            "GET /top?over=colour",
            400,
            "invalid value 'colour' for 'over",
        ),
        (
            "POST /stop?x=1",
            400,
            "/stop takes no parameters, found 'x=1'",
        ),
        ("GET /ledger?x", 400, "/ledger takes no parameters"),
        ("POST /reload?dry-run", 200, "\"applied\":false"),
        (
            "POST /expire?prefix=10.0.0.0%2F33",
            400,
            "expected for example 192.0.2.1",
        ),
    ] {
        let (was, answer) = raw(&socket, &format!("{line} HTTP/1.0\r\n\r\n"));
        assert!(
            was == status && answer.contains(expected),
            "{line}: {answer}"
        );
    }
    let metrics = raw(&socket, "GET /metrics HTTP/1.0\r\n\r\n");
    assert_eq!(metrics.0, 404);
    for (arguments, expected) in [
        (
            &["show", "flows", "--port", "http"][..],
            "invalid value 'http'",
        ),
        (
            &["show", "flows", "--interface", "ngeth77"],
            "interface 'ngeth77' does not exist",
        ),
    ] {
        let output = probe.ask(&wire, arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && said.contains(expected),
            "{said}"
        );
    }
    probe.probe.stop();
}

/// What a command says of a socket that cannot be used.
fn failed(arguments: &[&str]) -> String {
    let output = harness::xdprobe(arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said.lines().count(), 1, "{said}");
    said
}

#[test]
fn the_owner_may_change_the_group_may_look_and_others_may_not_connect() {
    if !are_met(&[&TOOLS[..], &["setpriv"]].concat()) {
        return;
    }
    let wire = wire(VethOptions::default());
    let folder = TempDir::new().unwrap();
    // The file's mode decides, not that of its folder.
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let socket = folder.path().join("control.sock");
    let line = [
        "-i",
        "tap0",
        "--flows-per-queue",
        "1000",
        "--control-group",
        "daemon",
    ];
    let line = [&line[..], &["--control", socket.to_str().unwrap(), NOWHERE]].concat();
    let probe = Probe::start(&wire, &line);
    let file = socket.metadata().unwrap();
    assert_eq!((file.mode() & 0o777, file.gid()), (0o660, 1));
    let as_user = |group: &str, arguments: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--clear-groups", "--regid", group]);
        command.arg(env!("CARGO_BIN_EXE_xdprobe")).args(arguments);
        let output = command.arg("--control").arg(&socket).output().unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    assert_eq!(as_user("1", &["show", "ledger"]), (Some(0), String::new()));
    let (code, said) = as_user("1", &["expire"]);
    assert_eq!(code, Some(1));
    assert!(
        said.contains("user 65534 may look, and not change"),
        "{said}"
    );
    let (code, said) = as_user("65534", &["show", "ledger"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("looking is for the socket's group"), "{said}");
    probe.stop();
}

#[test]
fn without_a_path_the_only_probe_is_asked_and_else_all_are_named() {
    if !are_met(&TOOLS) {
        return;
    }
    let nowhere = failed(&["show", "ledger", "--control", "/nonexistent/x.sock"]);
    assert!(nowhere.contains("no probe is running there"), "{nowhere}");
    // Other tests have probes too: these have names of their own.
    let (one, two) = (wire_named("ctla0"), wire_named("ctla1"));
    let start = |wire: &Namespace, name: &str| {
        Probe::start(wire, &["-i", name, "--flows-per-queue", "1000", NOWHERE])
    };
    let probes = [start(&one, "ctla0"), start(&two, "ctla1")];
    assert!(Path::new("/run/xdprobe/ctla0.sock").exists());
    let said = failed(&["show", "ledger"]);
    assert!(said.contains("choose one with --control"), "{said}");
    for name in ["ctla0", "ctla1"] {
        assert!(
            said.contains(&format!("/run/xdprobe/{name}.sock")),
            "{said}"
        );
    }
    probes.into_iter().for_each(|probe| {
        probe.stop();
    });
    assert!(!Path::new("/run/xdprobe/ctla0.sock").exists());
}

fn wire_named(interface: &str) -> Namespace {
    let namespace = Namespace::new().unwrap();
    namespace
        .veth("tx0", interface, VethOptions::default())
        .unwrap();
    namespace
}

#[test]
fn listing_every_flow_and_readers_that_never_read_cost_no_packet() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(VethOptions::default());
    let probe = Controlled::start(&wire, &["--flows-per-queue", "300000", "--ring", "65536"]);
    let load = Options {
        packets: 400_000,
        flows: 200_000,
        rate: Some(100_000),
        ..Options::on("tx0")
    };
    let sender = wire.run(|| Sender::start(&load).unwrap()).unwrap();
    let socket = probe.socket();
    // More connections than are allowed at a time, in all bad ways.
    let held: Vec<_> = (0..300)
        .map(|number| {
            let mut stream = UnixStream::connect(&socket).unwrap();
            let request: &[u8] = match number % 4 {
                0 => b"GET /flows HTTP/1.1\r\nHost: x\r\n\r\n",
                1 => b"GET /flo",
                2 => b"\x16\x03\x01\x02\x00\x01\xfc\x03",
                _ => b"POST /expire HTTP/1.1\r\nHost: x\r\nContent-Length: 1073741824\r\n",
            };
            // The other side may have closed it.
            let _ = stream.write_all(request);
            stream
        })
        .collect();
    let mut flows: BTreeMap<(String, u64), u64> = BTreeMap::new();
    let sent = sender.wait().unwrap();
    drop(held);
    probe.await_packets(&wire, sent.packets);
    for line in probe.said(&wire, &["show", "flows", "--json"]).lines() {
        let flow: Value = serde_json::from_str(line).unwrap();
        let key = (
            format!("{} {}", flow["source"], flow["destination"]),
            flow["source_port"].as_u64().unwrap() << 16
                | flow["destination_port"].as_u64().unwrap(),
        );
        let before = flows.insert(key, flow["packets"].as_u64().unwrap());
        assert_eq!(before, None, "a flow is listed twice");
    }
    assert_eq!(
        (flows.len(), flows.values().sum::<u64>()),
        (200_000, sent.packets)
    );
    let ledger = probe.probe.stop();
    assert_balanced(&ledger);
    assert_eq!(count(&ledger, "observed.packets"), sent.packets);
}

#[test]
fn readers_that_never_read_are_given_up_and_keep_no_listing_from_others() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(VethOptions::default());
    let probe = Controlled::start(&wire, &["--flows-per-queue", "60000", "--ring", "65536"]);
    let load = Options {
        packets: 50_000,
        flows: 50_000,
        rate: Some(100_000),
        ..Options::on("tx0")
    };
    send(&wire, &load);
    probe.await_packets(&wire, load.packets);
    let hold = || {
        let mut stream = UnixStream::connect(probe.socket()).unwrap();
        let request = b"GET /flows HTTP/1.1\r\nHost: x\r\n\r\n";
        stream.write_all(request).unwrap();
        stream
    };
    let mut held: Vec<_> = (0..8).map(|_| hold()).collect();
    let limited = ["show", "flows", "--limit", "1", "--json"];
    while probe.ask(&wire, &limited).status.success() {
        pause(20);
    }
    // Sums wait for no reader.
    let top = probe.json(&wire, &["show", "top"]);
    assert_eq!(top["total"]["flows"], 50_000);
    while !probe.ask(&wire, &limited).status.success() {
        pause(200);
    }
    // What was cut does not seem to be whole.
    let mut rest = Vec::new();
    held[0].read_to_end(&mut rest).unwrap();
    assert!(!rest.ends_with(b"0\r\n\r\n"), "the end of a whole answer");
    assert_balanced(&probe.probe.stop());
}

#[test]
fn a_probe_without_a_control_socket_rests_as_one_with_it_does() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(VethOptions::default());
    let line = ["-i", "tap0", "--control", "none", NOWHERE];
    let probe = Probe::start(&wire, &line);
    // The state of its first thread (proc_pid_stat(5)): S is asleep, R is running.
    let stat = format!("/proc/{0}/task/{0}/stat", probe.id());
    let state = || {
        pause(20);
        let stat = std::fs::read_to_string(&stat).unwrap();
        stat.rsplit(") ").next().unwrap().starts_with('S')
    };
    let asleep = (0..50).filter(|_| state()).count();
    assert!(asleep > 25, "asleep in {asleep} of 50 looks");
    probe.stop();
}
