//! How long turns take while a million flows fall due within one second and packets go on coming,
//! at the machine's own time.
//!
//! Packets are offered at a steady rate, as a ring would hold them: a turn takes up to a burst of
//! those that wait, observes them and lets the clock hand go on, as a worker does. What is told is
//! how long turns took, and how many packets waited at most: a ring smaller than that would have
//! lost some. Times include being taken off the core, so run it with a high priority (`nice -n
//! -20`) where others share the machine.
//!
//! `cargo bench --bench turns -- --rate 4000000 --flows 1000000`

use clap::Parser;
use std::time::{Duration, Instant};
use xdprobe_benches::frames::key;
use xdprobe_benches::{BURST, now};
use xdprobe_flow::fragment::Fragment;
use xdprobe_flow::{
    Arrival, Backing, CacheConfig, EndReason, FlowCache, FlowRecord, Packet, Timeouts,
};

/// As a worker has it.
const EXPIRE_SETS_MAX: usize = 250;
const IDLE_MS: u64 = 2_000;
/// Flows that go on all the time.
const GOING_ON: u32 = 100_000;

/// Turns while a million flows fall due.
#[derive(Parser)]
struct Arguments {
    /// Flows that fall due within a second
    #[arg(long, default_value_t = 1_000_000)]
    flows: u32,
    /// Packets offered a second
    #[arg(long, default_value_t = 4_000_000)]
    rate: u64,
    /// What cargo says to every bench
    #[arg(long, hide = true)]
    bench: bool,
}

/// A cache under load, by the machine's own clock.
struct Load {
    cache: FlowCache,
    records: Vec<FlowRecord>,
    start: Instant,
    next: u32,
}

impl Load {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// One turn: `count` packets of the flows from `first` on, one after the other, and a share of
    /// the clock hand's way.
    fn turn(&mut self, count: usize, first: u32, flows: u32) {
        let at_ms = self.now_ms();
        let mut arrivals = [Arrival {
            packet: packet(0),
            at_ms,
        }; BURST];
        for arrival in &mut arrivals[..count] {
            arrival.packet = packet(first + self.next % flows);
            self.next = self.next.wrapping_add(1);
        }
        self.cache
            .observe(&mut arrivals[..count], &mut self.records);
        self.cache.expire(at_ms, EXPIRE_SETS_MAX, &mut self.records);
        self.records.clear();
    }
}

fn packet(flow: u32) -> Packet {
    Packet {
        key: key(flow),
        octets: 46,
        tcp_flags: 0,
        fragment: Fragment::Whole,
    }
}

fn main() {
    let arguments = Arguments::parse();
    let flows_max = (arguments.flows + GOING_ON) as usize;
    let timeouts = Timeouts {
        idle_ms: IDLE_MS,
        ..Timeouts::default()
    };
    let config = CacheConfig {
        flows_max,
        timeouts,
        seed: 1,
        backing: Backing::Prefaulted,
    };
    let cache = FlowCache::new(&config).expect("memory for the flows");
    let mut load = Load {
        cache,
        records: Vec::with_capacity(1 << 16),
        start: now(),
        next: 0,
    };
    for _ in 0..(arguments.flows as usize).div_ceil(BURST) {
        load.turn(BURST, GOING_ON, arguments.flows);
    }
    println!(
        "{} flows began within {} ms",
        load.cache.len(),
        load.now_ms()
    );

    let (began, mut taken, mut waiting_max) = (now(), 0u64, 0u64);
    let mut turns: Vec<Duration> = Vec::with_capacity(1 << 22);
    // Those that go on stay; a few of the others have made room for them.
    while load.cache.len() > GOING_ON as usize || load.now_ms() < IDLE_MS {
        let before = now();
        let offered =
            u64::try_from((before - began).as_micros()).unwrap_or(0) * arguments.rate / 1_000_000;
        let waiting = offered - taken;
        waiting_max = waiting_max.max(waiting);
        let count = usize::try_from(waiting).unwrap_or(BURST).min(BURST);
        taken += count as u64;
        load.turn(count, 0, GOING_ON);
        if count > 0 {
            turns.push(before.elapsed());
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
    let expired = load.cache.counters().expired[EndReason::Idle as usize];
    println!(
        "{expired} flows expired {} ms after the first of them was due",
        load.now_ms() - IDLE_MS
    );
}
