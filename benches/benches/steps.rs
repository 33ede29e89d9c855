//! Each step of a packet's way by itself: decode, observe by number of flows and by share of hits,
//! expire, the metering step as a whole, hand over, publish, encode, export.
//! `scripts/bench-instructions` counts the instructions of each.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::time::Duration;
use xdprobe_benches::steps::STEPS;

/// Packets, records or publications of one iteration.
const COUNT: usize = 1_920;

fn steps(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("steps");
    group.throughput(Throughput::Elements(COUNT as u64));
    group
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(2))
        .sample_size(30);
    for step in STEPS {
        let mut made = None;
        group.bench_function(step.name, |bench| {
            // Only steps that are not filtered out are set up.
            let run = made.get_or_insert_with(step.make);
            bench.iter(|| run(COUNT));
        });
    }
    group.finish();
}

criterion_group!(benches, steps);
criterion_main!(benches);
