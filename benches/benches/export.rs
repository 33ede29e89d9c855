//! The exporter by itself: batches of records become stamped datagrams that nobody sends.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::io::{self, IoSlice};
use std::net::Ipv4Addr;
use std::time::Duration;
use xdprobe_export::{
    Collector, CollectorConfig, Distribution, Exporter, Moment, Transport, Version,
};
use xdprobe_flow::{EndReason, FlowKey, FlowRecord};

/// Records of a batch, as workers hand them over.
const BATCH: usize = 256;

/// Takes whatever it is given.
struct Nowhere;

impl Transport for Nowhere {
    fn send(&mut self, datagrams: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(black_box(datagrams).len())
    }

    fn payload_octets_max(&self) -> usize {
        1_472
    }
}

fn batch() -> Vec<FlowRecord> {
    let record = |number: u16| {
        let key = FlowKey {
            source: Ipv4Addr::from_bits(0x0a00_0000 | u32::from(number)),
            destination: Ipv4Addr::new(192, 0, 2, 9),
            source_port: number,
            destination_port: 443,
            protocol: 6,
            tos: 0,
            input: 3,
        };
        FlowRecord {
            key,
            packets: 9,
            octets: 4_000,
            first_ms: 10,
            last_ms: 900,
            tcp_flags: 0x1b,
            end: EndReason::Idle,
        }
    };
    (0..).map(record).take(BATCH).collect()
}

fn export(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("export");
    group.throughput(Throughput::Elements(BATCH as u64));
    group
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(2))
        .sample_size(30);
    let batch = batch();
    let now = Moment {
        uptime_ms: 1_000,
        unix_ns: 1_700_000_000_000_000_000,
    };
    for (name, version, distribution, collectors) in [
        ("v5", Version::V5, Distribution::Copy, 1),
        ("v1", Version::V1, Distribution::Copy, 1),
        ("v7", Version::V7, Distribution::Copy, 1),
        ("v5 copied to 3", Version::V5, Distribution::Copy, 3),
        ("v5 balanced over 3", Version::V5, Distribution::Balance, 3),
    ] {
        let config = CollectorConfig {
            version,
            ..CollectorConfig::default()
        };
        let made = (0..collectors).filter_map(|_| Collector::new("nowhere", Nowhere, config).ok());
        let mut exporter = Exporter::new(distribution, made.collect());
        group.bench_function(name, |bench| {
            bench.iter(|| {
                exporter.push(black_box(&batch), now);
                exporter.send(false, now)
            });
        });
    }
    group.finish();
}

criterion_group!(benches, export);
criterion_main!(benches);
