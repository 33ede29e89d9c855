//! A real Prometheus reads a running probe, its alerts are held to examples, and each query of the
//! dashboard to real data.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod harness;

use harness::prometheus::{Prometheus, TOOLS, configs, promtool};
use harness::scrape::Page;
use harness::{Probe, count, pause, send, traffic, wire};
use serde_json::Value;
use std::fs::{self, File};
use std::process::Stdio;
use xdprobe_lab::namespace::VethOptions;
use xdprobe_lab::requirements::are_met;
use xdprobe_lab::send::{Options, Pattern, Sender};

const TWO_QUEUES: VethOptions = VethOptions {
    queues: 2,
    mtu: 1500,
};
/// Everything that expires does so within a second or two, so that all of it is seen before the
/// probe is stopped.
const LINE: [&str; 10] = [
    "-i",
    "tap0",
    "--metrics",
    "0",
    "--flows-per-queue",
    "10000",
    "--idle-timeout",
    "1s",
    "--flush-delay",
    "100ms",
];

#[test]
fn prometheus_has_the_numbers_of_the_ledger() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(TWO_QUEUES);
    let probe = Probe::start(&wire, &LINE);
    let prometheus = Prometheus::start(&wire, &probe);
    let on = |cpu, options: Options| {
        send(
            &wire,
            &Options {
                cpu: Some(cpu),
                ..options
            },
        )
    };
    let sent = [
        on(0, traffic(30_000)),
        on(
            1,
            Options {
                ipv6_share: 30,
                ..traffic(20_000)
            },
        ),
        on(
            1,
            Options {
                pattern: Pattern::Syn,
                ..traffic(5_000)
            },
        ),
    ];
    let packets = sent.iter().map(|sent| sent.ipv4_packets).sum();
    prometheus.await_value("sum(xdprobe_exported_packets_total)", packets);
    prometheus.await_value("sum(xdprobe_cache_flows)", 0);
    assert_eq!(
        prometheus.value("min(min_over_time(xdprobe_ledger_balanced[1m]))"),
        Some(1)
    );
    assert_eq!(
        prometheus.value("count(ALERTS)"),
        None,
        "{:?}",
        prometheus.query("ALERTS")
    );
    let mut expected = Vec::new();
    for (expression, path) in [
        ("offered_packets_total", "offered.packets"),
        ("received_packets_total", "received.packets"),
        ("received_octets_total", "received.octets"),
        ("filtered_packets_total", "filtered.packets"),
        ("sampled_out_packets_total", "sampled_out.packets"),
        ("observed_packets_total", "observed.packets"),
        ("observed_octets_total", "observed.octets"),
        ("flows_created_total", "flows.created"),
        ("exported_records_total", "exported.records"),
        ("exported_packets_total", "exported.packets"),
        ("exported_octets_total", "exported.octets"),
        ("exported_datagrams_total", "exported.datagrams"),
        ("lost_records_total", "lost.records"),
        ("resident_packets", "resident.packets"),
        ("resident_octets", "resident.octets"),
        ("collector_records_total", "collectors.0.records"),
        ("collector_datagrams_total", "collectors.0.datagrams"),
        ("collector_refusals_total", "collectors.0.refusals"),
    ] {
        let expression = format!("sum(xdprobe_{expression})");
        expected.push((prometheus.value(&expression), path.to_owned()));
    }
    for (metric, path) in [
        ("dropped_packets_total", "dropped"),
        ("undecoded_packets_total", "undecoded"),
        ("flows_expired_total", "flows.expired"),
        ("lost_records_total", "lost.reasons"),
        ("collector_send_errors_total", "collectors.0.send_errors"),
    ] {
        for (labels, value) in prometheus.query(&format!("sum by (reason) (xdprobe_{metric})")) {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "counts are whole and positive"
            )]
            expected.push((
                Some(value as u64),
                format!("{path}.{}", labels["reason"].as_str().unwrap()),
            ));
        }
    }
    let ledger = probe.stop();
    assert!(expected.len() > 40, "{expected:?}");
    for (value, path) in expected {
        assert_eq!(value, Some(count(&ledger, &path)), "{path}");
    }
}

#[test]
fn every_query_of_the_dashboard_has_data() {
    if !are_met(&TOOLS) {
        return;
    }
    let dashboard = fs::read_to_string(configs("grafana/xdprobe.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let titles: Vec<_> = panels
        .iter()
        .filter(|panel| panel["type"] == "row")
        .map(|row| &row["title"])
        .collect();
    assert_eq!(
        titles,
        [
            "Is anything lost?",
            "Where",
            "How full",
            "How fast",
            "To whom"
        ]
    );
    let targets = panels
        .iter()
        .filter_map(|panel| panel["targets"].as_array())
        .flatten();
    let queries = targets.map(|target| target["expr"].as_str().unwrap());
    let variables = [
        ("$instance", ".*"),
        ("$interface", ".*"),
        ("$__rate_interval", "5s"),
        ("$__range", "1m"),
    ];
    let filled_in = |query: &str| {
        variables
            .iter()
            .fold(query.to_owned(), |query, (name, is)| {
                query.replace(name, is)
            })
    };
    let queries: Vec<_> = queries.map(filled_in).collect();
    assert!(queries.len() > 30, "{queries:?}");

    let wire = wire(TWO_QUEUES);
    let probe = Probe::start(&wire, &LINE);
    let prometheus = Prometheus::start(&wire, &probe);
    let sender = wire
        .run(|| Sender::start(&traffic(u64::MAX)).unwrap())
        .unwrap();
    prometheus.await_value(
        "count(count_over_time(xdprobe_exported_records_total[1m]) > 3)",
        1,
    );
    for query in &queries {
        let data = prometheus.query(query);
        assert!(
            data.iter().any(|(_, value)| value.is_finite()),
            "{query} has no data: {data:?}"
        );
    }
    sender.stop();
    sender.wait().unwrap();
    probe.stop();
}

#[test]
fn the_alerts_fire_when_they_should_and_only_then() {
    if !are_met(&TOOLS) {
        return;
    }
    let shipped = |name: &str| {
        configs("prometheus")
            .join(name)
            .to_str()
            .unwrap()
            .to_owned()
    };
    promtool(
        &["check", "config", &shipped("prometheus.yml")],
        Stdio::null(),
    );
    let rules = shipped("xdprobe.rules.yml");
    promtool(
        &["check", "rules", "--lint=all", "--lint-fatal", &rules],
        Stdio::null(),
    );
    let examples = shipped("xdprobe.rules.test.yml");
    promtool(&["test", "rules", &examples], Stdio::null());
    // Each alert has one of each kind.
    let (rules, examples) = (
        fs::read_to_string(rules).unwrap(),
        fs::read_to_string(examples).unwrap(),
    );
    for alert in rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
    {
        let checks: Vec<_> = examples
            .split("alertname: ")
            .filter(|check| check.starts_with(alert))
            .collect();
        assert!(
            checks.iter().any(|check| check.contains("exp_labels")),
            "{alert} is not seen to fire"
        );
        assert!(
            checks.iter().any(|check| check.contains("exp_alerts: []")),
            "{alert} is not seen to be silent"
        );
    }
    // No alert is about a metric that there is not.
    let page = fs::read_to_string(configs("../docs/METRICS.md")).unwrap();
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let names = rules
        .split(|c| !is_of_name(c))
        .filter(|name| name.starts_with("xdprobe_"));
    for name in names {
        assert!(page.contains(&format!("| `{name}` |")), "{name}");
    }
}

#[test]
fn promtool_finds_nothing_wrong_with_the_page() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(VethOptions::default());
    let probe = Probe::start(&wire, &LINE);
    send(&wire, &traffic(1_000));
    pause(100);
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("page");
    fs::write(&page, Page::of(&wire, &probe).text()).unwrap();
    assert_eq!(
        promtool(&["check", "metrics"], File::open(&page).unwrap()),
        ""
    );
    probe.stop();
}
