//! The engine compared with the floor that the machine's memory sets: bursts of real frames in
//! memory through the shipped worker (`pipeline::worker::Worker`), each packet of a random flow,
//! all flows resident.
//!
//! A turn of the worker reads the system's clocks, receives a burst, decodes each frame, looks for
//! the probe's own datagrams, finds the observation point, observes, expires, hands over full
//! batches, looks into the mailbox and publishes its counters where that is due. The meter has no
//! rules for points and the datagrams to one collector to exclude. An exporter that is never late
//! returns the batches between two blocks.
//!
//! In the same process and in turn, so that other load on the machine affects all alike:
//!
//! * `floor`: as many known records of 64 octets, read, changed and written in the same order,
//!   prefetched by the burst;
//! * `decode`: the frames decoded and nothing else;
//! * `look-up`: hashbrown, one `find_mut` for each packet, its keys known beforehand;
//! * `naive`: each frame decoded and looked up in hashbrown, one after the other, without expiry;
//! * `flood`: the engine again, every packet a new flow for which another one makes room in a full
//!   cache.
//!
//! Frames are made block by block, outside of the measured time. Times are the median of the
//! rounds; ratios are made within each round first. `cargo bench --bench engine -- 1000000`
//! measures one number of flows, `--json` prints JSON.
#![expect(clippy::print_stdout, reason = "its result")]

use clap::Parser;
use std::hint::black_box;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use xdprobe_benches::clock::{Paused, PausedClock, now};
use xdprobe_benches::frames::{Frames, RandomFlows, key};
use xdprobe_benches::metering::meter;
use xdprobe_benches::rig::{Rig, packets_in};
use xdprobe_benches::ring::{Ring, RingFiller, ring};
use xdprobe_benches::rivals::{Floor, LookUp};
use xdprobe_benches::statistics::{median, median_ratio};
use xdprobe_pipeline::capture::BURST_MAX;
use xdprobe_pipeline::counters::WorkerCounters;
use xdprobe_pipeline::flow::{EndReason, Key, Timeouts};

/// Frames of a block: as many as a receive ring would hold.
const BLOCK: usize = 16_384;

/// The engine compared with the floor that the machine's memory sets.
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
    /// Print one JSON object for each number of flows instead of a table
    #[arg(long)]
    json: bool,
    /// An option that cargo gives to every bench
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let arguments = Arguments::parse();
    if !arguments.json {
        println!(
            "ns a packet, bursts of {BURST_MAX}, median of {} rounds",
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

/// The measurements of each round, in ns a packet.
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
            let floor = block.time(at_least, |block| {
                timed(|| floor.update(&block.flows, block.made))
            });
            let decode = block.time(at_least, |block| {
                timed(|| {
                    block.frames.decode(0, BLOCK, |packet| {
                        let _ = black_box(packet);
                    });
                })
            });
            let look_up_alone = block.time(at_least, |block| {
                timed(|| look_up.update(&block.keys, block.made))
            });
            let naive = block.time(at_least, |block| {
                timed(|| {
                    block.frames.decode(0, BLOCK, |packet| {
                        look_up.update(
                            &[packet.map_or(0, |packet| packet.key.to_bits())],
                            block.made,
                        );
                    });
                })
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
        engine.end();
        measured
    }

    /// Engine to floor, look-up to engine, naive to engine.
    fn ratios(&self) -> [f64; 3] {
        [
            median_ratio(&self.engine, &self.floor),
            median_ratio(&self.look_up, &self.engine),
            median_ratio(&self.naive, &self.engine),
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

/// The next [`BLOCK`] packets, in the form that each measurement takes.
struct Block {
    random: RandomFlows,
    flows: Vec<u32>,
    keys: Vec<u128>,
    frames: Arc<Frames>,
    /// Blocks made so far.
    made: u64,
}

impl Block {
    fn new(count: u32) -> Self {
        Self {
            random: RandomFlows::below(count),
            flows: vec![0; BLOCK],
            keys: vec![0; BLOCK],
            frames: Arc::new(Frames::new(BLOCK)),
            made: 0,
        }
    }

    fn make(&mut self, mut flow: impl FnMut(&mut RandomFlows) -> u32) {
        for (into, bits) in self.flows.iter_mut().zip(&mut self.keys) {
            *into = flow(&mut self.random);
            *bits = key(*into).to_bits();
        }
        let frames = Arc::get_mut(&mut self.frames);
        let frames = frames.expect("the ring has shown all frames of the last block");
        frames.write(self.flows.iter().copied());
        self.made += 1;
    }

    /// ns a packet in blocks of random flows. `meter` returns how long a block took; the blocks
    /// take `at_least` so long together.
    fn time(&mut self, at_least: Duration, meter: impl FnMut(&Self) -> Duration) -> f64 {
        self.time_blocks(
            at_least,
            |random| random.next().expect("random flows do not end"),
            meter,
        )
    }

    /// The same with flows that were never seen before.
    fn time_new(
        &mut self,
        next: &mut u32,
        at_least: Duration,
        meter: impl FnMut(&Self) -> Duration,
    ) -> f64 {
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
        mut meter: impl FnMut(&Self) -> Duration,
    ) -> f64 {
        let (mut took, mut packets) = (Duration::ZERO, 0.0);
        while took < at_least {
            self.make(&mut flow);
            took += meter(self);
            packets += BLOCK as f64;
        }
        took.as_secs_f64() * 1e9 / packets
    }
}

/// How long `work` takes.
fn timed(work: impl FnOnce()) -> Duration {
    let start = now();
    work();
    start.elapsed()
}

/// The worker over a ring, with a clock that is paused while frames are made.
struct Engine {
    rig: Rig<Ring, PausedClock>,
    filler: RingFiller,
    paused: Paused,
    /// How long the clock was paused in all, up to when it was stopped last.
    paused_total: Duration,
    stopped: Instant,
    /// Packets in the records that were handed over.
    exported_packets: u64,
}

impl Engine {
    fn new(flows_max: u32) -> Self {
        let (filler, ring) = ring();
        let meter = meter(flows_max as usize, Timeouts::default());
        let paused = Paused::default();
        Self {
            rig: Rig::new(ring, PausedClock::start(paused.clone()), meter),
            filler,
            paused,
            paused_total: Duration::ZERO,
            stopped: now(),
            exported_packets: 0,
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

    /// The worker's turns over a block; returns how long they took.
    fn meter(&mut self, block: &Block) -> Duration {
        self.paused_total += self.stopped.elapsed();
        self.paused.set(self.paused_total);
        let took = timed(|| {
            self.filler.fill(Arc::clone(&block.frames));
            for _ in 0..BLOCK / BURST_MAX {
                black_box(self.rig.turn());
            }
        });
        self.stopped = now();
        self.exported_packets += self.rig.export();
        took
    }

    /// The counters of the worker, which publishes them when it finds no frame.
    fn counters(&mut self) -> WorkerCounters {
        self.rig.turn();
        self.rig.published.read()
    }

    /// Asserts that it did what it was measured at.
    fn check(&mut self, count: u32) {
        let counters = self.counters();
        let (meter, cache) = (counters.meter, counters.meter.cache);
        assert_eq!(
            (meter.undecoded, meter.excluded),
            Default::default(),
            "every frame is decoded, none is the probe's own"
        );
        assert_eq!(
            cache.observed.packets, counters.source.received,
            "every packet is observed"
        );
        let evicted = cache.expired[EndReason::LackOfResources as usize];
        assert!(
            evicted <= u64::from(count) / 100,
            "{evicted} of {count} flows had to make room for others"
        );
    }

    /// Ends the worker and asserts that each packet is in one record.
    fn end(mut self) {
        let counters = self.counters();
        assert_eq!(counters.dropped.records, 0, "the exporter is never late");
        let Self {
            rig,
            filler,
            exported_packets,
            ..
        } = self;
        let Rig { worker, inbox, .. } = rig;
        let exporter = thread::Builder::new()
            .name("exporter".to_owned())
            .spawn(move || {
                let mut exported = exported_packets;
                while let Ok(batch) = inbox.batches().recv() {
                    exported += packets_in(&batch.records);
                    inbox.give_back(batch);
                }
                exported
            })
            .expect("a thread");
        drop(filler);
        worker.run().expect("a ring in memory does not fail");
        let exported = exporter.join().expect("the exporter does not panic");
        assert_eq!(
            exported, counters.source.received,
            "each packet is in one record"
        );
    }
}
