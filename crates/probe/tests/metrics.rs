//! `xdprobe run --metrics`: the ledger as a running probe shows it, on real AF_XDP.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod harness;

use harness::scrape::Page;
use harness::{Probe, TOOLS, count, send, traffic, wire};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use xdprobe_lab::namespace::VethOptions;
use xdprobe_lab::requirements::are_met;

const NOWHERE: &str = "127.0.0.1:9";
const TWO_QUEUES: VethOptions = VethOptions { queues: 2, mtu: 1500 };

fn line<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    [&["-i", "tap0", "--flows-per-queue", "10000", "--ring", "4096", "--metrics", "0"], arguments].concat()
}

/// Names of metrics with kind and labels.
type Metrics = BTreeMap<String, (String, BTreeSet<String>)>;

/// What docs/METRICS.md says: rows of | `name` | kind | labels | ...
fn documented() -> Metrics {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/METRICS.md");
    let text = fs::read_to_string(page).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| `xdprobe_") || line.starts_with("| `process_"));
    let columns = rows.map(|row| row.split('|').map(str::trim).collect::<Vec<_>>());
    let metrics: Vec<_> = columns
        .map(|columns| {
            let labels = columns[3].split(',').map(|label| label.trim().to_owned()).filter(|label| !label.is_empty());
            (columns[1].trim_matches('`').to_owned(), (columns[2].to_owned(), labels.collect()))
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
    let probe = Probe::start(&wire, &line(&["--idle-timeout", "1s", "--flush-delay", "100ms", NOWHERE]));
    let sent = send(&wire, &traffic(20_000));
    let page = Page::await_on(&wire, &probe, |page| page.sum("xdprobe_exported_packets_total") >= sent.packets);
    assert_eq!(page.sum("xdprobe_ledger_balanced"), 1);
    for (metric, wanted) in [
        ("offered_packets_total", sent.packets),
        ("received_packets_total", sent.packets),
        ("received_octets_total", sent.frame_octets),
        ("observed_octets_total", sent.octets),
        ("flows_created_total", sent.flows),
        ("exported_octets_total", sent.octets),
        ("cache_flows", 0),
        ("resident_packets", 0),
        ("in_flight_packets", 0),
        ("export_queue_records", 0),
        ("dropped_packets_total", 0),
        ("lost_records_total", 0),
    ] {
        assert_eq!(page.sum(&format!("xdprobe_{metric}")), wanted, "{metric}");
    }
    let ledger = probe.stop();
    assert_eq!(count(&ledger, "exported.records"), page.sum("xdprobe_exported_records_total"));
}
