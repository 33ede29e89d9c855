//! How long turns of the shipped worker take while a million flows fall due within one second and
//! packets keep arriving, by the system's clock.
//!
//! Packets are offered at a steady rate, as a ring would hold them: a turn receives up to a burst
//! of those that wait. The bench reports how long turns took, and how many packets waited at most:
//! a smaller ring would have lost some. Frames are written before the turn that receives them, and
//! an exporter that is never late returns the batches after it; neither is in the times. Times
//! include those when the thread is not on a core, so run it with a high priority (`nice -n -20`)
//! on a shared machine.
//!
//! `cargo bench --bench turns -- --rate 4000000 --flows 1000000`
#![expect(clippy::print_stdout, reason = "its result")]

use clap::Parser;
use std::sync::Arc;
use std::time::Duration;
use xdprobe_benches::clock::now;
use xdprobe_benches::frames::Frames;
use xdprobe_benches::metering::meter;
use xdprobe_benches::rig::Rig;
use xdprobe_benches::ring::{Ring, RingFiller, ring};
use xdprobe_pipeline::capture::BURST_MAX;
use xdprobe_pipeline::clock::LiveClock;
use xdprobe_pipeline::counters::WorkerCounters;
use xdprobe_pipeline::flow::{EndReason, Timeouts};
use xdprobe_pipeline::worker::Turn;

const IDLE_MS: u64 = 2_000;
/// Flows that have packets all the time.
const BUSY_FLOWS: u32 = 100_000;

/// Turns while a million flows fall due.
#[derive(Parser)]
struct Arguments {
    /// Flows that fall due within a second
    #[arg(long, default_value_t = 1_000_000)]
    flows: u32,
    /// Packets offered a second
    #[arg(long, default_value_t = 4_000_000)]
    rate: u64,
    /// An option that cargo gives to every bench
    #[arg(long, hide = true)]
    bench: bool,
}

/// A worker under load, by the system's clock.
struct Load {
    rig: Rig<Ring, LiveClock>,
    filler: RingFiller,
    frames: Arc<Frames>,
    next: u32,
}

impl Load {
    fn new(flows_max: usize) -> Self {
        let timeouts = Timeouts {
            idle_ms: IDLE_MS,
            ..Timeouts::default()
        };
        let (filler, ring) = ring();
        // The clock starts once there is memory for the flows.
        let meter = meter(flows_max, timeouts);
        Self {
            rig: Rig::new(ring, LiveClock::start(), meter),
            filler,
            frames: Arc::new(Frames::new(BURST_MAX)),
            next: 0,
        }
    }

    /// One turn that receives `count` packets, of the `flows` flows from `first` on, one after the
    /// other; returns how long it took.
    fn turn(&mut self, count: usize, first: u32, flows: u32) -> (Turn, Duration) {
        if count > 0 {
            let Self { frames, next, .. } = self;
            let written = Arc::get_mut(frames).expect("the ring has shown all frames");
            written.write((0..count).map(|_| {
                *next = next.wrapping_add(1);
                first + *next % flows
            }));
            self.filler.fill(Arc::clone(frames));
        }
        let before = now();
        let turn = self.rig.turn();
        let took = before.elapsed();
        let _ = self.rig.export();
        (turn, took)
    }

    /// The counters of the worker, less than 1 ms old.
    fn counters(&self) -> WorkerCounters {
        self.rig.published.read()
    }
}

fn main() {
    let arguments = Arguments::parse();
    let mut load = Load::new((arguments.flows + BUSY_FLOWS) as usize);
    for _ in 0..(arguments.flows as usize).div_ceil(BURST_MAX) {
        load.turn(BURST_MAX, BUSY_FLOWS, arguments.flows);
    }
    // Without packets, a turn publishes.
    let (turn, _) = load.turn(0, 0, 1);
    println!(
        "{} flows began within {} ms",
        load.counters().meter.resident_flows,
        turn.now_ms
    );

    let (began, mut taken, mut waiting_max, mut now_ms) = (now(), 0, 0, 0);
    let mut turns: Vec<Duration> = Vec::with_capacity(1 << 22);
    // The busy flows stay; a few of the others have made room for them.
    while now_ms < IDLE_MS || load.counters().meter.resident_flows > u64::from(BUSY_FLOWS) {
        let offered = began.elapsed().as_micros() * u128::from(arguments.rate) / 1_000_000;
        let waiting = offered - taken;
        waiting_max = waiting_max.max(waiting);
        let count = usize::try_from(waiting).map_or(BURST_MAX, |waiting| waiting.min(BURST_MAX));
        taken += count as u128;
        let (turn, took) = load.turn(count, 0, BUSY_FLOWS);
        now_ms = turn.now_ms;
        if count > 0 {
            turns.push(took);
        }
    }
    turns.sort_unstable();
    let at = |of_10_000: usize| turns[(turns.len() - 1) * of_10_000 / 10_000];
    println!(
        "{} turns with packets, {taken} packets at {} a second offered",
        turns.len(),
        arguments.rate
    );
    println!(
        "a turn: median {:?}, p99 {:?}, p99.99 {:?}, longest {:?}",
        at(5_000),
        at(9_900),
        at(9_999),
        at(10_000)
    );
    println!("at most {waiting_max} packets waited");
    let counters = load.counters();
    let expired = counters.meter.cache.expired[EndReason::Idle as usize];
    println!(
        "{expired} flows expired {} ms after the first of them was due; {} records were dropped",
        now_ms - IDLE_MS,
        counters.dropped.records
    );
}
