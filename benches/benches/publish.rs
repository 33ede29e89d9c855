//! What publishing its counters costs a worker: bursts of real frames from memory through decode,
//! observe and expire, as fast as they go, with and without publishing as many words as a worker
//! has, in the same process and in turn.
//!
//! * `without`: nothing is published;
//! * `as it is`: once a millisecond, as a worker does while frames keep coming;
//! * `every turn`: after each burst, as a worker does that finds nothing after it.

use std::hint::black_box;
use std::time::Duration;
use xdprobe_benches::frames::{Frames, RandomFlows};
use xdprobe_benches::published::Published;
use xdprobe_benches::{BURST, now};
use xdprobe_flow::{Arrival, Backing, CacheConfig, FlowCache, FlowRecord, Timeouts};

/// Words that are published: a worker's counters are fewer.
const WORDS: usize = 64;
const FLOWS: u32 = 10_000;
const BLOCK: usize = 16_384;
const ROUNDS: usize = 15;
const ROUND: Duration = Duration::from_millis(200);
/// Times that publishing is measured by itself.
const PUBLICATIONS: u32 = 1_000_000;
/// How often a worker publishes while frames keep coming.
const PUBLISH_EVERY: Duration = Duration::from_millis(1);

#[derive(Clone, Copy)]
enum When {
    Never,
    Millisecond,
    Turn,
}

struct Worker {
    frames: Frames,
    cache: FlowCache,
    arrivals: Vec<Arrival>,
    records: Vec<FlowRecord>,
    counters: [u64; WORDS],
    published: Published<[u64; WORDS]>,
}

impl Worker {
    fn new() -> Self {
        let timeouts = Timeouts {
            idle_ms: u64::MAX / 4,
            active_ms: u64::MAX / 4,
            ..Timeouts::default()
        };
        let config = CacheConfig {
            flows_max: FLOWS as usize * 2,
            timeouts,
            seed: 1,
            backing: Backing::Prefaulted,
        };
        let mut frames = Frames::new(BLOCK);
        frames.write(RandomFlows::below(FLOWS).take(BLOCK));
        Self {
            frames,
            cache: FlowCache::new(&config).expect("memory for the flows"),
            arrivals: Vec::with_capacity(BURST),
            records: Vec::with_capacity(BURST),
            counters: [0; WORDS],
            published: Published::default(),
        }
    }

    /// Meters for a while and returns the time for a packet, in ns.
    fn meter(&mut self, when: When) -> f64 {
        let (start, mut turns) = (now(), 0u64);
        let mut published_at = start;
        while start.elapsed() < ROUND {
            for first in (0..BLOCK).step_by(BURST) {
                self.turn(first);
                turns += 1;
                // The clock is read once a turn in each case, as a worker reads it.
                let read = now();
                if matches!(when, When::Turn)
                    || (matches!(when, When::Millisecond) && read - published_at >= PUBLISH_EVERY)
                {
                    published_at = read;
                    self.counters[0] = turns;
                    self.published.publish(black_box(&self.counters));
                }
                black_box(read);
            }
        }
        start.elapsed().as_nanos() as f64 / (turns * BURST as u64) as f64
    }

    fn turn(&mut self, first: usize) {
        let arrivals = &mut self.arrivals;
        self.frames.decode(first, BURST, |packet| {
            if let Ok(packet) = packet {
                arrivals.push(Arrival { packet, at_ms: 0 });
            }
        });
        self.cache.observe(&mut self.arrivals, &mut self.records);
        self.arrivals.clear();
        self.cache.expire(0, usize::MAX, &mut self.records);
    }
}

fn main() {
    let mut worker = Worker::new();
    let mut times = [const { Vec::new() }; 3];
    // The first round warms up.
    for round in 0..=ROUNDS {
        for (times, when) in times
            .iter_mut()
            .zip([When::Never, When::Millisecond, When::Turn])
        {
            let time = worker.meter(when);
            if round > 0 {
                times.push(time);
            }
        }
    }
    let [without, as_it_is, every_turn] = &times;
    let ratio = |with: &[f64]| {
        (median(
            with.iter()
                .zip(without)
                .map(|(with, without)| with / without),
        ) - 1.0)
            * 100.0
    };
    println!(
        "publish/without:    {:.2} ns a packet (median of {ROUNDS} rounds)",
        median(without.iter().copied())
    );
    for (name, times) in [("as it is", as_it_is), ("every turn", every_turn)] {
        println!(
            "publish/{name}: {:.2} ns a packet, {:+.2} %",
            median(times.iter().copied()),
            ratio(times)
        );
    }
    let start = now();
    for _ in 0..PUBLICATIONS {
        worker.published.publish(black_box(&worker.counters));
    }
    println!(
        "publish/once: {:.1} ns",
        start.elapsed().as_nanos() as f64 / f64::from(PUBLICATIONS)
    );
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
