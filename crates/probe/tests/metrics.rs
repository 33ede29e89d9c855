//! `xdprobe run --metrics`: the ledger as a running probe shows it, on real AF_XDP.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod harness;

use harness::scrape::{Page, get};
use harness::{Probe, TOOLS, assert_balanced, count, pause, send, traffic, wire};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;
use xdprobe_lab::interface::driver_counters;
use xdprobe_lab::namespace::VethOptions;
use xdprobe_lab::requirements::are_met;
use xdprobe_lab::send::{Options, Pattern, Sender};

const NOWHERE: &str = "127.0.0.1:9";
const TWO_QUEUES: VethOptions = VethOptions {
    queues: 2,
    mtu: 1500,
};

fn line<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    [
        &["-i", "tap0", "--flows-per-queue", "10000", "--metrics", "0"],
        arguments,
    ]
    .concat()
}

/// Names of metrics with kind and labels.
type Metrics = BTreeMap<String, (String, BTreeSet<String>)>;

/// What docs/METRICS.md says: rows of | `name` | kind | labels | ...
fn documented() -> Metrics {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/METRICS.md");
    let text = fs::read_to_string(page).unwrap();
    let rows = text
        .lines()
        .filter(|line| line.starts_with("| `xdprobe_") || line.starts_with("| `process_"));
    let columns = rows.map(|row| row.split('|').map(str::trim).collect::<Vec<_>>());
    let metrics: Vec<_> = columns
        .map(|columns| {
            let labels = columns[3]
                .split(',')
                .map(|label| label.trim().to_owned())
                .filter(|label| !label.is_empty());
            (
                columns[1].trim_matches('`').to_owned(),
                (columns[2].to_owned(), labels.collect()),
            )
        })
        .collect();
    let count = metrics.len();
    let metrics: Metrics = metrics.into_iter().collect();
    assert_eq!(metrics.len(), count, "a metric is listed twice");
    metrics
}

#[test]
fn the_page_and_the_endpoint_list_the_same_metrics() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(TWO_QUEUES);
    let probe = Probe::start(&wire, &line(&[NOWHERE]));
    let served = Page::of(&wire, &probe).metrics();
    let documented = documented();
    let names = |metrics: &Metrics| metrics.keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(names(&served), names(&documented));
    assert_eq!(served, documented);
    probe.stop();
}

#[test]
fn what_is_served_is_what_the_ledger_says() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(TWO_QUEUES);
    let probe = Probe::start(
        &wire,
        &line(&["--idle-timeout", "1s", "--flush-delay", "100ms", NOWHERE]),
    );
    let sent = send(&wire, &traffic(20_000));
    let page = Page::await_on(&wire, &probe, |page| {
        page.sum("xdprobe_exported_packets_total") >= sent.packets
    });
    assert_eq!(page.sum("xdprobe_ledger_balanced"), 1);
    for (metric, expected) in [
        ("offered_packets_total", sent.packets),
        ("received_packets_total", sent.packets),
        ("received_octets_total", sent.frame_octets),
        ("observed_octets_total", sent.octets),
        ("exported_octets_total", sent.octets),
        ("cache_flows", 0),
        ("resident_packets", 0),
        ("in_flight_packets", 0),
        ("export_queue_records", 0),
        ("dropped_packets_total", 0),
        ("lost_records_total", 0),
    ] {
        assert_eq!(page.sum(&format!("xdprobe_{metric}")), expected, "{metric}");
    }
    let ledger = probe.stop();
    assert_eq!(
        count(&ledger, "flows.created"),
        page.sum("xdprobe_flows_created_total")
    );
    assert_eq!(
        count(&ledger, "exported.records"),
        page.sum("xdprobe_exported_records_total")
    );
}

#[test]
fn the_drivers_own_drop_counters_are_shown_by_name_and_in_no_sum() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(VethOptions::default());
    let driver = || wire.run(|| driver_counters("tap0").unwrap()).unwrap();
    let before = driver();
    let probe = Probe::start(&wire, &line(&["--ring", "1024"]));
    probe.signal("STOP");
    let sent = send(&wire, &traffic(20_000));
    probe.signal("CONT");
    let page = Page::of(&wire, &probe);
    // veth counts what the socket refused among its own drops, and the ledger at the socket alone.
    let own = &["interface=\"tap0\"", "counter=\"rx_queue_0_drops\""];
    let shown = page.sum_of("xdprobe_driver_drops_total", own);
    assert_eq!(
        (
            shown,
            driver()["rx_queue_0_drops"] - before["rx_queue_0_drops"]
        ),
        (sent.packets - 1024, shown)
    );
    assert_eq!(
        page.sum_of("xdprobe_dropped_packets_total", &["reason=\"driver\""]),
        0
    );
    assert_eq!(
        page.sum("xdprobe_dropped_packets_total"),
        sent.packets - 1024
    );
    assert_balanced(&probe.stop());
}

#[test]
fn the_ledger_balances_at_any_moment_under_load_and_exactly_once_traffic_stops() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(TWO_QUEUES);
    let probe = Probe::start(
        &wire,
        &line(&["--idle-timeout", "1s", "--flush-delay", "100ms"]),
    );
    // Every packet a new flow, from a cache that is soon full: all counts move at once.
    let load = Options {
        pattern: Pattern::Syn,
        packets: 3_000_000,
        rate: Some(500_000),
        ..traffic(0)
    };
    let sender = wire.run(|| Sender::start(&load).unwrap()).unwrap();
    let mut pages = Vec::new();
    while sender.sent().unwrap() < load.packets {
        pages.push(Page::of(&wire, &probe));
        pause(100);
    }
    let sent = sender.wait().unwrap();
    let sum = |page: &Page, metric: &str| page.sum(&format!("xdprobe_{metric}"));
    assert!(
        pages
            .iter()
            .any(|page| sum(page, "received_packets_total") > 0),
        "traffic was over before a look"
    );
    let taken =
        |page: &Page| sum(page, "received_packets_total") + sum(page, "dropped_packets_total");
    let observed = |page: &Page| {
        let parts = [
            "resident_packets",
            "exported_packets_total",
            "lost_packets_total",
            "in_flight_packets",
        ];
        parts.iter().map(|part| sum(page, part)).sum::<u64>()
    };
    for page in &pages {
        assert_eq!(sum(page, "ledger_balanced"), 1, "{}", page.text());
        assert!(
            sum(page, "offered_packets_total") >= taken(page),
            "{}",
            page.text()
        );
        assert_eq!(
            sum(page, "observed_packets_total"),
            observed(page),
            "{}",
            page.text()
        );
        let undecoded = sum(page, "undecoded_packets_total");
        assert_eq!(
            sum(page, "received_packets_total"),
            undecoded + sum(page, "observed_packets_total")
        );
        let expired = sum(page, "flows_expired_total");
        assert_eq!(
            sum(page, "flows_created_total"),
            expired + sum(page, "cache_flows")
        );
    }
    for pair in pages.windows(2) {
        for metric in [
            "offered_packets_total",
            "received_packets_total",
            "exported_records_total",
        ] {
            assert!(
                sum(&pair[0], metric) <= sum(&pair[1], metric),
                "{metric} went back"
            );
        }
    }
    let page = Page::await_on(&wire, &probe, |page| {
        sum(page, "offered_packets_total") == sent.packets
            && sum(page, "cache_flows") + sum(page, "in_flight_records") == 0
    });
    assert_eq!(
        (taken(&page), sum(&page, "ledger_balanced")),
        (sent.packets, 1)
    );
    assert_eq!(sum(&page, "observed_packets_total"), observed(&page));
    let ledger = probe.stop();
    assert_eq!(
        count(&ledger, "exported.packets"),
        sum(&page, "exported_packets_total")
    );
    assert_eq!(
        count(&ledger, "lost.packets"),
        sum(&page, "lost_packets_total")
    );
}

#[test]
fn a_hostile_client_costs_no_packet_and_no_scrape() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(VethOptions::default());
    let probe = Probe::start(
        &wire,
        &["-i", "tap0", "--flows-per-queue", "10000", "--metrics", "0"],
    );
    let sender = wire
        .run(|| Sender::start(&traffic(300_000)).unwrap())
        .unwrap();
    let address = probe.metrics();
    let connect = || TcpStream::connect(address).unwrap();
    let abuse = || {
        // More than there are places for, the last 200 after the others were closed for them.
        let silent: Vec<_> = (0..400).map(|_| connect()).collect();
        // Either is answered or cut off; whatever the system says of what was still being sent is
        // as well.
        let mut long = connect();
        let _ = long.write_all(
            &[
                b"GET /metrics HTTP/1.1\r\nLong: ".to_vec(),
                vec![b'x'; 1 << 20],
            ]
            .concat(),
        );
        let mut noise = connect();
        let octets: Vec<u8> = (0..100_000u32)
            .map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0])
            .collect();
        let _ = noise.write_all(&octets);
        (silent, long, noise)
    };
    let held = wire.run(abuse).unwrap();
    for _ in 0..20 {
        assert_eq!(Page::of(&wire, &probe).sum("xdprobe_ledger_balanced"), 1);
    }
    let (_, mut long, mut noise) = held;
    for stream in [&mut long, &mut noise] {
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        let mut answer = Vec::new();
        let ended = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let timed_out = ended.is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
        assert!(
            !timed_out && (answer.is_empty() || answer.starts_with("HTTP/1.1 4")),
            "{answer}"
        );
    }
    let sent = sender.wait().unwrap();
    let ledger = probe.stop();
    assert_balanced(&ledger);
    assert_eq!(
        count(&ledger, "exported.packets"),
        sent.packets,
        "{ledger:#}"
    );
}

#[test]
fn what_nobody_asked_for_is_answered_in_plain_words() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(VethOptions::default());
    let probe = Probe::start(&wire, &line(&[]));
    let (status, said) = get(&wire, probe.metrics(), "/");
    assert_eq!(
        (status, said.as_str()),
        (404, "expected /metrics, /healthz or /readyz\n")
    );
    probe.stop();
}

#[test]
fn metrics_are_served_on_a_unix_socket_that_goes_with_the_probe() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(VethOptions::default());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics");
    let address = format!("unix:{}", path.display());
    let serve = [
        "-i",
        "tap0",
        "--flows-per-queue",
        "10000",
        "--metrics",
        &address,
    ];
    // A crash leaves the socket behind, and the next probe takes its place.
    Probe::start(&wire, &serve).kill();
    assert!(path.exists());
    let probe = Probe::start(&wire, &serve);
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(
        answer.starts_with("HTTP/1.0 200") && answer.contains("xdprobe_ledger_balanced 1"),
        "{answer}"
    );
    probe.stop();
    assert!(!path.exists());
}

#[test]
fn an_address_that_cannot_be_served_on_is_refused_in_one_line() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let in_use = taken.local_addr().unwrap().to_string();
    let refused = |address: &str, code, expected: &str| {
        let output = harness::xdprobe(&["run", "-r", "/dev/null", "--metrics", address, NOWHERE])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(expected), "{said}");
        assert!(code == 2 || said.lines().count() == 1, "{said}");
    };
    refused(
        &in_use,
        1,
        &format!(
            "metrics cannot be served on {in_use}; choose another --metrics: Address already in use"
        ),
    );
    refused(
        "unix:/proc/metrics",
        1,
        "metrics cannot be served on unix:/proc/metrics",
    );
    refused(
        "somewhere",
        2,
        "expected ADDR:PORT, [V6]:PORT, PORT (on 127.0.0.1) or unix:PATH",
    );
}

#[test]
fn libpcap_is_on_the_page_too() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(VethOptions::default());
    let probe = Probe::start(&wire, &line(&["--capture", "pcap", "-f", "udp"]));
    let sent = send(&wire, &traffic(5_000));
    let page = Page::await_on(&wire, &probe, |page| {
        page.sum("xdprobe_received_packets_total") == sent.packets
    });
    assert_eq!(
        page.sum_of("xdprobe_offered_packets_total", &["interface=\"tap0\""]),
        sent.packets
    );
    assert_eq!(
        page.sum_of("xdprobe_dropped_packets_total", &["reason=\"kernel\""]),
        0
    );
    assert_eq!(page.sum("xdprobe_ledger_balanced"), 1);
    assert!(!page.text().contains("queue="), "{}", page.text());
    probe.stop();
}
