//! What publishing its counters costs a worker: bursts of real frames in memory through the shipped
//! worker, as fast as it goes, with and without publishing, in the same process and in turn.
//!
//! * `without`: nothing is published;
//! * `as it is`: once a millisecond, as a worker does while frames keep arriving;
//! * `every turn`: after each burst, as a worker does that finds no frame.
#![expect(clippy::print_stdout, reason = "its result")]

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;
use xdprobe_benches::clock::now;
use xdprobe_benches::frames::{Frames, RandomFlows};
use xdprobe_benches::metering::{NEVER, meter};
use xdprobe_benches::rig::Rig;
use xdprobe_benches::ring::{Ring, RingFiller, ring};
use xdprobe_benches::statistics::{median, median_ratio};
use xdprobe_pipeline::Regime;
use xdprobe_pipeline::capture::{BURST_MAX, CaptureError, Frame, Received, Source, SourceCounters};
use xdprobe_pipeline::clock::{Clock, LiveClock};
use xdprobe_pipeline::counters::WorkerCounters;
use xdprobe_pipeline::export::Moment;

const FLOWS: u32 = 10_000;
const BLOCK: usize = 16_384;
const ROUNDS: usize = 15;
const ROUND: Duration = Duration::from_millis(200);
/// Publications that are measured by themselves.
const PUBLICATIONS: u32 = 1_000_000;

/// When the worker publishes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum When {
    Never,
    Millisecond,
    Turn,
}

/// The present setting, which the worker's clock and its source read. Copies are the same.
#[derive(Clone, Default)]
struct Setting(Arc<AtomicU8>);

impl Setting {
    fn set(&self, when: When) {
        self.0.store(when as u8, Ordering::Relaxed);
    }

    #[inline]
    fn is(&self, when: When) -> bool {
        self.0.load(Ordering::Relaxed) == when as u8
    }
}

/// A worker in memory, and when it publishes.
struct Bench {
    rig: Rig<Bursts, MaybeStopped>,
    filler: RingFiller,
    frames: Arc<Frames>,
    setting: Setting,
}

impl Bench {
    fn new() -> Self {
        let mut frames = Frames::new(BLOCK);
        frames.write(RandomFlows::below(FLOWS).take(BLOCK));
        let (filler, ring) = ring();
        let setting = Setting::default();
        let source = Bursts {
            ring,
            setting: setting.clone(),
        };
        let clock = MaybeStopped {
            live: LiveClock::start(),
            latest: Moment::default(),
            setting: setting.clone(),
        };
        Self {
            rig: Rig::new(source, clock, meter(FLOWS as usize * 2, NEVER)),
            filler,
            frames: Arc::new(frames),
            setting,
        }
    }

    /// Meters for a while and returns the time for a packet, in ns.
    fn meter(&mut self, when: When) -> f64 {
        self.setting.set(when);
        let (start, mut turns) = (now(), 0u64);
        while start.elapsed() < ROUND {
            self.filler.fill(Arc::clone(&self.frames));
            for _ in 0..BLOCK / BURST_MAX {
                black_box(self.rig.turn());
                turns += 1;
            }
        }
        start.elapsed().as_nanos() as f64 / (turns * BURST_MAX as u64) as f64
    }
}

/// A ring that claims to be empty after each burst, if each turn is to publish.
struct Bursts {
    ring: Ring,
    setting: Setting,
}

impl Source for Bursts {
    #[inline]
    fn receive(&mut self, each: &mut impl FnMut(Frame<'_>)) -> Result<Received, CaptureError> {
        let received = self.ring.receive(each)?;
        Ok(if self.setting.is(When::Turn) {
            Received::Nothing
        } else {
            received
        })
    }

    fn wait(&mut self, timeout: Duration) {
        self.ring.wait(timeout);
    }

    fn counters(&self) -> SourceCounters {
        self.ring.counters()
    }
}

/// The system's clock, which shows the worker the same time each turn if no turn is to publish. It
/// is read all the same.
struct MaybeStopped {
    live: LiveClock,
    latest: Moment,
    setting: Setting,
}

impl Clock for MaybeStopped {
    const REGIME: Regime = Regime::Live;

    fn read(&mut self) -> Moment {
        let now = self.live.read();
        if !self.setting.is(When::Never) {
            self.latest = now;
        }
        self.latest
    }

    #[inline]
    fn uptime_of(&mut self, frame: &Frame<'_>) -> u64 {
        self.live.uptime_of(frame)
    }
}

fn main() {
    let mut bench = Bench::new();
    let mut times = [const { Vec::new() }; 3];
    // The first round warms up.
    for round in 0..=ROUNDS {
        for (times, when) in times
            .iter_mut()
            .zip([When::Never, When::Millisecond, When::Turn])
        {
            let time = bench.meter(when);
            if round > 0 {
                times.push(time);
            }
        }
    }
    let [without, as_it_is, every_turn] = &times;
    println!(
        "publish/without: {:.2} ns a packet (median of {ROUNDS} rounds)",
        median(without.iter().copied())
    );
    for (name, times) in [("as it is", as_it_is), ("every turn", every_turn)] {
        println!(
            "publish/{name}: {:.2} ns a packet, {:+.2} %",
            median(times.iter().copied()),
            (median_ratio(times, without) - 1.0) * 100.0
        );
    }
    let counters = bench.rig.published.read();
    let start = now();
    for _ in 0..PUBLICATIONS {
        bench.rig.published.publish(black_box(&counters));
    }
    println!(
        "publish/once: {:.1} ns for {} words",
        start.elapsed().as_nanos() as f64 / f64::from(PUBLICATIONS),
        size_of::<WorkerCounters>() / size_of::<u64>()
    );
}
