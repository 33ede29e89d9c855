//! The engine against the machine's own floor: bursts of real frames from memory through decode,
//! observe, expire and batch, as a worker does it, each packet of a random flow, all of them
//! resident.
//!
//! Beside it, in the same process and in turn, so that whatever else the machine does hits all
//! alike:
//!
//! * `floor`: as many known records of 64 octets, read, changed and written in the same order,
//!   prefetched by the burst;
//! * `decode`: the frames decoded and nothing else;
//! * `look-up`: hashbrown, one `find_mut` a packet, its keys known beforehand;
//! * `naive`: each frame decoded and looked up in hashbrown, one after the other, and nothing ever
//!   expires;
//! * `flood`: the engine again, every packet a new flow that has to make room in a full cache.
//!
//! Frames are made by the block while no time is taken. Times are the median of the rounds; ratios
//! are made within each round first. `cargo bench --bench engine -- 1000000` measures one number of
//! flows, `--json` prints what a program reads.

use clap::Parser;
use std::hint::black_box;
use std::time::{Duration, Instant};
use xdprobe_benches::frames::{Frames, RandomFlows, key};
use xdprobe_benches::rivals::{Floor, LookUp};
use xdprobe_benches::{BURST, now};
use xdprobe_flow::{
    Arrival, Backing, CacheConfig, EndReason, FlowCache, FlowRecord, RecordSink, Timeouts,
};

/// Frames made at a time, as many bursts as a receive ring would hold.
const BLOCK: usize = 16_384;
/// Sets that the clock hand passes in one turn, as in a worker.
const EXPIRE_SETS_MAX: usize = 250;
/// Records in a batch, as in a worker.
const BATCH_RECORDS: usize = 256;

/// The engine against the machine's own floor.
#[derive(Parser)]
struct Arguments {
    /// Numbers of flows to measure
    #[arg(default_values_t = [1_000, 10_000, 100_000, 1_000_000, 10_000_000])]
    flows: Vec<u32>,
    /// Rounds of each measurement
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// How long each measurement lasts in each round, in ms
    #[arg(long, default_value_t = 200)]
    round_ms: u64,
    /// Print one JSON object a line instead of a table
    #[arg(long)]
    json: bool,
    /// What cargo says to every bench
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let arguments = Arguments::parse();
    if !arguments.json {
        println!(
            "ns a packet, bursts of {BURST}, median of {} rounds",
            arguments.rounds
        );
        println!(
            "{:>10} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>9} {:>14} {:>16} {:>14}",
            "flows",
            "floor",
            "decode",
            "look-up",
            "naive",
            "engine",
            "flood",
            "Mpps",
            "engine/floor",
            "look-up/engine",
            "naive/engine"
        );
    }
    for flows in &arguments.flows {
        let rounds = Rounds::measure(
            *flows,
            arguments.rounds,
            Duration::from_millis(arguments.round_ms),
        );
        println!(
            "{}",
            if arguments.json {
                rounds.json(*flows)
            } else {
                rounds.row(*flows)
            }
        );
    }
}

/// What was measured in each round, in ns a packet.
#[derive(Default)]
struct Rounds {
    floor: Vec<f64>,
    decode: Vec<f64>,
    look_up: Vec<f64>,
    naive: Vec<f64>,
    engine: Vec<f64>,
    flood: Vec<f64>,
}

impl Rounds {
    fn measure(count: u32, rounds: usize, at_least: Duration) -> Self {
        let mut measured = Self::default();
        let mut block = Block::new(count);
        let mut floor = Floor::new(count);
        let mut look_up = LookUp::new(count, (0..count).map(|flow| key(flow).to_bits()));
        let mut engine = Engine::new(count);
        engine.fill(&mut block, count);
        // The first round warms up.
        for round in 0..=rounds {
            let floor = block.time(at_least, |block| floor.update(&block.flows, block.made));
            let decode = block.time(at_least, |block| {
                block.frames.decode(0, BLOCK, |packet| {
                    let _ = black_box(packet);
                });
            });
            let look_up_alone =
                block.time(at_least, |block| look_up.update(&block.keys, block.made));
            let naive = block.time(at_least, |block| {
                block.frames.decode(0, BLOCK, |packet| {
                    look_up.update(
                        &[packet.map_or(0, |packet| packet.key.to_bits())],
                        block.made,
                    );
                });
            });
            let engine = block.time(at_least, |block| engine.meter(block));
            if round > 0 {
                measured.floor.push(floor);
                measured.decode.push(decode);
                measured.look_up.push(look_up_alone);
                measured.naive.push(naive);
                measured.engine.push(engine);
            }
        }
        assert!(floor.packets() > 0, "the floor was measured");
        engine.check(count);
        drop((floor, look_up));
        let mut next = count;
        for round in 0..=rounds {
            let flood = block.time_new(&mut next, at_least, |block| engine.meter(block));
            if round > 0 {
                measured.flood.push(flood);
            }
        }
        measured
    }

    /// Engine to floor, look-up to engine, naive to engine: medians of the ratios within each
    /// round.
    fn ratios(&self) -> [f64; 3] {
        let ratio = |one: &[f64], other: &[f64]| {
            median(one.iter().zip(other).map(|(one, other)| one / other))
        };
        [
            ratio(&self.engine, &self.floor),
            ratio(&self.look_up, &self.engine),
            ratio(&self.naive, &self.engine),
        ]
    }

    fn medians(&self) -> [f64; 6] {
        [
            &self.floor,
            &self.decode,
            &self.look_up,
            &self.naive,
            &self.engine,
            &self.flood,
        ]
        .map(|ns| median(ns.iter().copied()))
    }

    fn row(&self, flows: u32) -> String {
        let [floor, decode, look_up, naive, engine, flood] = self.medians();
        let ([by_floor, look_up_by_engine, naive_by_engine], mpps) =
            (self.ratios(), 1_000.0 / engine);
        format!(
            "{flows:>10} {floor:>8.1} {decode:>8.1} {look_up:>8.1} {naive:>8.1} {engine:>8.1} {flood:>8.1} {mpps:>9.1} \
             {by_floor:>14.2} {look_up_by_engine:>16.2} {naive_by_engine:>14.2}"
        )
    }

    fn json(&self, flows: u32) -> String {
        let [floor, decode, look_up, naive, engine, flood] = self.medians();
        let [engine_by_floor, look_up_by_engine, naive_by_engine] = self.ratios();
        serde_json::json!({
            "flows": flows,
            "floor_ns": floor,
            "decode_ns": decode,
            "look_up_ns": look_up,
            "naive_ns": naive,
            "engine_ns": engine,
            "flood_ns": flood,
            "engine_by_floor": engine_by_floor,
            "look_up_by_engine": look_up_by_engine,
            "naive_by_engine": naive_by_engine,
        })
        .to_string()
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// What the next [`BLOCK`] packets are, in the form that each measurement wants it.
struct Block {
    random: RandomFlows,
    flows: Vec<u32>,
    keys: Vec<u128>,
    frames: Frames,
    /// Blocks made so far.
    made: u64,
}

impl Block {
    fn new(count: u32) -> Self {
        let random = RandomFlows::below(count);
        Self {
            random,
            flows: vec![0; BLOCK],
            keys: vec![0; BLOCK],
            frames: Frames::new(BLOCK),
            made: 0,
        }
    }

    fn make(&mut self, mut flow: impl FnMut(&mut RandomFlows) -> u32) {
        for (into, bits) in self.flows.iter_mut().zip(&mut self.keys) {
            *into = flow(&mut self.random);
            *bits = key(*into).to_bits();
        }
        self.frames.write(self.flows.iter().copied());
        self.made += 1;
    }

    /// ns a packet of `meter`, over blocks of random flows until it took `at_least` so long.
    fn time(&mut self, at_least: Duration, meter: impl FnMut(&Self)) -> f64 {
        self.time_blocks(at_least, |random| random.next().unwrap_or(0), meter)
    }

    /// The same over flows that were never seen before.
    fn time_new(&mut self, next: &mut u32, at_least: Duration, meter: impl FnMut(&Self)) -> f64 {
        let new = |_: &mut RandomFlows| {
            *next = next.wrapping_add(1);
            *next
        };
        self.time_blocks(at_least, new, meter)
    }

    fn time_blocks(
        &mut self,
        at_least: Duration,
        mut flow: impl FnMut(&mut RandomFlows) -> u32,
        mut meter: impl FnMut(&Self),
    ) -> f64 {
        let (mut took, mut packets) = (Duration::ZERO, 0.0);
        while took < at_least {
            self.make(&mut flow);
            let start = now();
            meter(self);
            took += start.elapsed();
            packets += BLOCK as f64;
        }
        took.as_secs_f64() * 1e9 / packets
    }
}

/// What a worker owns, but for its source.
struct Engine {
    cache: FlowCache,
    arrivals: Vec<Arrival>,
    outbox: Outbox,
    clock: Clock,
    undecoded: u64,
}

impl Engine {
    fn new(flows_max: u32) -> Self {
        let config = CacheConfig {
            flows_max: flows_max as usize,
            timeouts: Timeouts::default(),
            seed: 1,
            backing: Backing::Prefaulted,
        };
        Self {
            cache: FlowCache::new(&config).expect("memory for the flows"),
            arrivals: Vec::with_capacity(BURST),
            outbox: Outbox::default(),
            clock: Clock {
                stopped: now(),
                paused: Duration::ZERO,
                start: now(),
            },
            undecoded: 0,
        }
    }

    /// Makes all flows resident.
    fn fill(&mut self, block: &mut Block, count: u32) {
        let mut flows = (0..count).peekable();
        while flows.peek().is_some() {
            block.make(|_| flows.next().unwrap_or(0));
            self.meter(block);
        }
    }

    /// A worker's turns over a block.
    fn meter(&mut self, block: &Block) {
        self.clock.go_on();
        for first in (0..block.frames.len()).step_by(BURST) {
            let now_ms = self.clock.read_ms();
            let Self {
                cache,
                arrivals,
                outbox,
                undecoded,
                ..
            } = self;
            block.frames.decode(first, BURST, |packet| match packet {
                Ok(packet) => arrivals.push(Arrival {
                    packet,
                    at_ms: now_ms,
                }),
                Err(_) => *undecoded += 1,
            });
            cache.observe(arrivals, outbox);
            arrivals.clear();
            cache.expire(now_ms, EXPIRE_SETS_MAX, outbox);
        }
        self.clock.pause();
    }

    /// That it did what it was measured at.
    fn check(&self, count: u32) {
        assert_eq!(self.undecoded, 0, "every frame is decoded");
        let counters = self.cache.counters();
        let evicted = counters.expired[EndReason::LackOfResources as usize];
        assert!(
            evicted <= u64::from(count) / 100,
            "{evicted} of {count} flows had to make room for others"
        );
        assert_eq!(
            self.outbox.packets + self.cache.resident().packets,
            counters.observed.packets,
            "no packet is lost"
        );
    }
}

/// Batches that go round as between a worker and an exporter that is never late.
#[derive(Default)]
struct Outbox {
    batch: Vec<FlowRecord>,
    packets: u64,
}

impl RecordSink for Outbox {
    fn push(&mut self, record: FlowRecord) {
        self.packets += u64::from(record.packets);
        self.batch.push(record);
        if self.batch.len() == BATCH_RECORDS {
            black_box(&self.batch);
            self.batch.clear();
        }
    }
}

/// A clock that stands still while frames are made: to the cache, bursts follow each other as on a
/// wire.
struct Clock {
    start: Instant,
    stopped: Instant,
    paused: Duration,
}

impl Clock {
    fn go_on(&mut self) {
        self.paused += self.stopped.elapsed();
    }

    fn pause(&mut self) {
        self.stopped = now();
    }

    fn read_ms(&self) -> u64 {
        let uptime = self.start.elapsed().saturating_sub(self.paused);
        u64::try_from(uptime.as_millis()).unwrap_or(u64::MAX)
    }
}
