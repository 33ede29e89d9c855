//! Each step of a packet's way by itself: decode, observe by number of flows and by share of hits,
//! expire, hand over, encode. What the instructions of each are: `scripts/bench-instructions`.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::time::Duration;
use xdprobe_benches::steps::STEPS;

/// Packets or records of one iteration.
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
            // Only what is not filtered out is set up.
            let run = made.get_or_insert_with(step.make);
            bench.iter(|| run(COUNT));
        });
    }
    group.finish();
}

criterion_group!(benches, steps);
criterion_main!(benches);
