//! The exporter by itself: batches of records become datagrams that are not sent.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::time::Duration;
use xdprobe_benches::exporting::exporter;
use xdprobe_benches::records::{LATER, batch};
use xdprobe_pipeline::export::Distribution;
use xdprobe_pipeline::export::netflow::Version;

fn export(criterion: &mut Criterion) {
    let batch = batch();
    let mut group = criterion.benchmark_group("export");
    group.throughput(Throughput::Elements(batch.len() as u64));
    group
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(2))
        .sample_size(30);
    for (name, version, distribution, collectors) in [
        ("v5", Version::V5, Distribution::Copy, 1),
        ("v1", Version::V1, Distribution::Copy, 1),
        ("v7", Version::V7, Distribution::Copy, 1),
        ("v5 copied to 3", Version::V5, Distribution::Copy, 3),
        ("v5 balanced over 3", Version::V5, Distribution::Balance, 3),
    ] {
        let mut exporter = exporter(version, distribution, collectors);
        group.bench_function(name, |bench| {
            bench.iter(|| {
                exporter.push(black_box(&batch), LATER);
                exporter.send(false, LATER)
            });
        });
    }
    group.finish();
}

criterion_group!(benches, export);
criterion_main!(benches);
