//! The handle of a running probe: what it answers, what it changes, what it refuses, and that none
//! of this costs a packet. On a veth pair with AF_XDP, in a namespace of the test's own.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::num::NonZeroU16;
use std::time::Duration;
use xdprobe_lab::namespace::{Namespace, VethOptions};
use xdprobe_lab::requirements::are_met;
use xdprobe_lab::send::{Options, Sender};
use xdprobe_lab::test_collector::{Keep, TestCollector};
use xdprobe_pipeline::capture::xdp::{Mode, XdpConfig};
use xdprobe_pipeline::capture::{Filter, Interface, Sampling, SamplingMode};
use xdprobe_pipeline::export::netflow::v5::{self, SamplingInterval};
use xdprobe_pipeline::export::{DatagramConfig, Distribution, FixedFormat, SocketOptions};
use xdprobe_pipeline::flow::{FlowFilter, Ipv4Prefix, Timeouts, Volume};
use xdprobe_pipeline::{
    CapturePlan, Change, Destination, ExportPlan, Outcome, Pipeline, Plan, Tables,
};

const TOOLS: [&str; 2] = ["ip", "ethtool"];

/// Timeouts that end nothing during a test.
const LONG: Timeouts = Timeouts {
    idle_ms: 3_600_000,
    active_ms: 3_600_000,
    linger_ms: 3_600_000,
    lifetime_spread_ms: 0,
};

fn plan(capture: CapturePlan, collectors: &[SocketAddr]) -> Plan {
    Plan {
        captures: vec![capture],
        cores: None,
        timeouts: LONG,
        flows_per_queue: 200_000,
        shrink_to_fit: false,
        export: ExportPlan {
            distribution: Distribution::Copy,
            format: FixedFormat::default(),
            datagrams: DatagramConfig::default(),
            sockets: SocketOptions::default(),
            resolve_interval: Duration::from_secs(60),
            destinations: collectors.iter().map(destination).collect(),
            overwrite: false,
            inputs: Vec::new(),
        },
        input: None,
        tables: Tables::default(),
        stop_timeout: Duration::from_secs(60),
    }
}

fn destination(collector: &SocketAddr) -> Destination {
    collector.to_string().parse().unwrap()
}

/// A probe on `tap0`, whose other end is `tx0`.
fn start(namespace: &Namespace, collectors: &[SocketAddr]) -> Pipeline {
    namespace
        .run(|| {
            let capture = CapturePlan::Xdp {
                interface: Interface::look_up("tap0").unwrap(),
                config: XdpConfig {
                    mode: Mode::Auto,
                    ring_entries: XdpConfig::RING_ENTRIES,
                    busy_poll: false,
                    sampling: Sampling::NONE,
                    filter: None,
                },
                queues: vec![0],
            };
            Pipeline::start(plan(capture, collectors))
                .unwrap()
                .wait()
                .unwrap()
        })
        .unwrap()
}

fn wire() -> Namespace {
    let namespace = Namespace::new().unwrap();
    namespace
        .veth("tx0", "tap0", VethOptions::default())
        .unwrap();
    namespace
}

fn collector(namespace: &Namespace) -> TestCollector {
    namespace
        .run(|| TestCollector::start(Keep::Counts).unwrap())
        .unwrap()
}

fn options(packets: u64, flows: u32, rate: u64) -> Options {
    Options {
        packets,
        flows,
        rate: Some(rate),
        ..Options::on("tx0")
    }
}

fn send(namespace: &Namespace, options: &Options) {
    namespace
        .run(|| Sender::start(options).unwrap().wait().unwrap())
        .unwrap();
}

fn observed(pipeline: &Pipeline) -> u64 {
    let snapshot = pipeline.snapshot();
    let workers = snapshot.workers.iter();
    workers
        .map(|worker| worker.counters.meter.cache.observed.packets)
        .sum()
}

/// Waits until the probe has observed so many packets.
fn await_observed(pipeline: &Pipeline, packets: u64) {
    for _ in 0..500 {
        if observed(pipeline) >= packets {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!(
        "{} packets observed, {packets} expected",
        observed(pipeline)
    );
}

fn stop(pipeline: &Pipeline) -> Outcome {
    pipeline.stop();
    let outcome = pipeline.outcome().recv().unwrap();
    assert!(outcome.ledger.is_balanced(), "{}", outcome.ledger);
    assert!(outcome.error.is_none());
    outcome
}

#[test]
fn every_resident_flow_is_given_out_once_while_traffic_goes_on_and_no_packet_is_lost_to_it() {
    if !are_met(&TOOLS) {
        return;
    }
    let namespace = wire();
    let collector = collector(&namespace);
    let pipeline = start(&namespace, &[collector.address()]);
    send(&namespace, &options(50_000, 50_000, 200_000));
    await_observed(&pipeline, 50_000);
    let sender = namespace
        .run(|| Sender::start(&options(300_000, 50_000, 200_000)).unwrap())
        .unwrap();
    // A reader that never returns a batch, and one that goes away at once.
    let slow = pipeline.flows(&FlowFilter::default());
    drop(pipeline.flows(&FlowFilter::default()));
    for _ in 0..3 {
        let mut seen = BTreeMap::new();
        pipeline.flows(&FlowFilter::default()).for_each(|_, flow| {
            *seen
                .entry((flow.key.source, flow.key.source_port))
                .or_insert(0) += 1;
        });
        assert_eq!(seen.len(), 50_000);
        assert!(seen.values().all(|&times| times == 1));
    }
    drop(slow);
    sender.wait().unwrap();
    await_observed(&pipeline, 350_000);
    let one = FlowFilter {
        least: Volume {
            packets: 1_000_000,
            octets: 0,
        },
        ..FlowFilter::default()
    };
    pipeline.flows(&one).for_each(|_, flow| panic!("{flow:?}"));
    stop(&pipeline);
    assert_eq!(collector.stop().unwrap().packets, 350_000);
}

#[test]
fn flows_that_a_filter_picks_are_expired_now_and_the_others_stay() {
    if !are_met(&TOOLS) {
        return;
    }
    let namespace = wire();
    let collector = collector(&namespace);
    let pipeline = start(&namespace, &[collector.address()]);
    send(&namespace, &options(1_000, 1_000, 100_000));
    await_observed(&pipeline, 1_000);
    let mut of_port = BTreeMap::new();
    pipeline
        .flows(&FlowFilter::default())
        .for_each(|_, flow| *of_port.entry(flow.key.source_port).or_insert(0_u64) += 1);
    let (&port, &count) = of_port.first_key_value().unwrap();
    let of_one_port = FlowFilter {
        source_port: Some(port),
        ..FlowFilter::default()
    };
    assert_eq!(pipeline.expire(&of_one_port).wait(), count);
    assert_eq!(pipeline.expire(&of_one_port).wait(), 0);
    let nowhere = Ipv4Prefix::new(Ipv4Addr::new(203, 0, 113, 0), 24).unwrap();
    let to_nowhere = FlowFilter {
        either: Some(nowhere),
        ..FlowFilter::default()
    };
    assert_eq!(pipeline.expire(&to_nowhere).wait(), 0);
    assert_eq!(
        pipeline.expire(&FlowFilter::default()).wait(),
        1_000 - count
    );
    let resident = pipeline.snapshot().workers[0].counters.meter.resident_flows;
    assert_eq!(resident, 0);
    stop(&pipeline);
    assert_eq!(collector.stop().unwrap().records, 1_000);
}

#[test]
fn timeouts_and_the_filter_change_while_the_probe_runs() {
    if !are_met(&TOOLS) {
        return;
    }
    let namespace = wire();
    let collector = collector(&namespace);
    let pipeline = start(&namespace, &[collector.address()]);
    let traffic = options(1_000, 100, 100_000);
    send(&namespace, &traffic);
    await_observed(&pipeline, 1_000);
    let quick = Timeouts {
        idle_ms: 100,
        ..LONG
    };
    pipeline.apply(Change::Timeouts(quick)).wait().unwrap();
    for _ in 0..500 {
        if pipeline.snapshot().workers[0].counters.meter.resident_flows == 0 {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let meter = pipeline.snapshot().workers[0].counters.meter;
    assert_eq!((meter.resident_flows, meter.cache.created), (0, 100));
    let nothing = Filter::new("tcp port 1").unwrap();
    pipeline
        .apply(Change::Filter(Some(nothing)))
        .wait()
        .unwrap();
    send(&namespace, &traffic);
    for _ in 0..500 {
        if pipeline.snapshot().workers[0].counters.source.filtered == 1_000 {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let source = pipeline.snapshot().workers[0].counters.source;
    assert_eq!((source.received, source.filtered), (1_000, 1_000));
    pipeline.apply(Change::Filter(None)).wait().unwrap();
    send(&namespace, &traffic);
    await_observed(&pipeline, 2_000);
    let never_idle = Timeouts {
        idle_ms: 2,
        active_ms: 1,
        ..LONG
    };
    let refused = pipeline.apply(Change::Timeouts(never_idle));
    assert_eq!(refused.wait().unwrap_err().change, "timeouts");
    stop(&pipeline);
}

#[test]
fn sampling_changes_with_the_headers_that_state_it_and_no_flow_is_of_both_shares() {
    if !are_met(&TOOLS) {
        return;
    }
    let namespace = wire();
    let socket = namespace
        .run(|| UdpSocket::bind("127.0.0.1:0").unwrap())
        .unwrap();
    socket
        .set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    let pipeline = start(&namespace, &[socket.local_addr().unwrap()]);
    send(&namespace, &options(1_000, 10, 100_000));
    await_observed(&pipeline, 1_000);
    let one_of_ten = Change::Sampling {
        taken: Sampling {
            mode: SamplingMode::Deterministic,
            interval: NonZeroU16::new(10).unwrap(),
        },
        stated: SamplingInterval::new(v5::SamplingMode::Deterministic, 10).unwrap(),
    };
    pipeline.apply(one_of_ten).wait().unwrap();
    send(&namespace, &options(1_000, 10, 100_000));
    await_observed(&pipeline, 1_100);
    stop(&pipeline);
    let mut packets = BTreeMap::new();
    let mut datagram = [0; 2_000];
    while let Ok(octets) = socket.recv(&mut datagram) {
        let (header, records) = v5::decode(&datagram[..octets]).unwrap();
        let interval = SamplingInterval::from_bits(header.sampling.get()).interval();
        let sum = packets.entry(interval).or_insert(0);
        *sum += records.iter().map(|one| one.packets.get()).sum::<u32>();
    }
    assert_eq!(packets, BTreeMap::from([(0, 1_000), (10, 100)]));
}

#[test]
fn an_expiry_of_more_flows_than_there_are_places_for_records_loses_none() {
    if !are_met(&TOOLS) {
        return;
    }
    let namespace = wire();
    let collector = collector(&namespace);
    let pipeline = start(&namespace, &[collector.address()]);
    send(&namespace, &options(150_000, 150_000, 200_000));
    await_observed(&pipeline, 150_000);
    assert_eq!(pipeline.expire(&FlowFilter::default()).wait(), 150_000);
    stop(&pipeline);
    assert_eq!(collector.stop().unwrap().records, 150_000);
}

#[test]
fn collectors_come_and_go_and_each_record_is_in_one_count() {
    if !are_met(&TOOLS) {
        return;
    }
    let namespace = wire();
    let (first, second) = (collector(&namespace), collector(&namespace));
    let (to_first, to_second) = (
        destination(&first.address()),
        destination(&second.address()),
    );
    let pipeline = start(&namespace, &[first.address()]);
    let traffic = options(1_000, 1_000, 100_000);
    let export_all = |observed| {
        send(&namespace, &traffic);
        await_observed(&pipeline, observed);
        assert_eq!(pipeline.expire(&FlowFilter::default()).wait(), 1_000);
        for _ in 0..500 {
            let snapshot = pipeline.snapshot();
            if snapshot.in_flight().records == 0 {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("records are still in flight");
    };
    export_all(1_000);
    let both = vec![to_first, to_second.clone()];
    pipeline.apply(Change::Destinations(both)).wait().unwrap();
    export_all(2_000);
    let refused = pipeline.apply(Change::Destinations(Vec::new()));
    assert_eq!(refused.wait().unwrap_err().change, "collectors");
    let ids = |pipeline: &Pipeline| {
        let snapshot = pipeline.snapshot();
        let ids: Vec<_> = snapshot.collectors.iter().map(|one| one.id).collect();
        ids
    };
    let before = ids(&pipeline);
    let only_second = vec![to_second];
    pipeline
        .apply(Change::Destinations(only_second))
        .wait()
        .unwrap();
    export_all(3_000);
    let after = ids(&pipeline);
    assert_eq!((before.len(), &after[..]), (2, &before[1..]));
    stop(&pipeline);
    assert_eq!(first.stop().unwrap().records, 2_000);
    assert_eq!(second.stop().unwrap().records, 2_000);
}
