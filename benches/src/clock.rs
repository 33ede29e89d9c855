//! Time: for the measurement itself, and for the worker that is measured.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use xdprobe_pipeline::Regime;
use xdprobe_pipeline::capture::Frame;
use xdprobe_pipeline::clock::{Clock, LiveClock};
use xdprobe_pipeline::export::Moment;

/// The time, for measuring.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "a bench measures with the system's clock"
)]
pub fn now() -> Instant {
    Instant::now()
}

/// The clock of a live worker, with pauses: while it is paused, frames can be made without any flow
/// becoming older, so that bursts follow each other as on a wire.
///
/// It reads the system's clocks as often as the [`LiveClock`] inside it does.
pub struct PausedClock {
    live: LiveClock,
    paused: Paused,
    /// By how much it is behind the live clock, in ms.
    behind_ms: u64,
    now_ms: u64,
}

/// How long a [`PausedClock`] was paused, in ms. Copies are the same.
#[derive(Clone, Default)]
pub struct Paused(Arc<AtomicU64>);

impl PausedClock {
    /// A clock that starts now and does not count the time in `paused`.
    #[must_use]
    pub fn start(paused: Paused) -> Self {
        Self {
            live: LiveClock::start(),
            paused,
            behind_ms: 0,
            now_ms: 0,
        }
    }
}

impl Clock for PausedClock {
    const REGIME: Regime = Regime::Live;

    fn read(&mut self) -> Moment {
        let now = self.live.read();
        // Both times are rounded, so without the second term the clock might go back by 1 ms.
        let paused_ms = self.paused.0.load(Ordering::Relaxed);
        self.behind_ms = paused_ms.min(now.uptime_ms - self.now_ms);
        self.now_ms = now.uptime_ms - self.behind_ms;
        Moment {
            uptime_ms: self.now_ms,
            ..now
        }
    }

    #[inline]
    fn uptime_of(&mut self, frame: &Frame<'_>) -> u64 {
        self.live.uptime_of(frame) - self.behind_ms
    }
}

impl Paused {
    /// Sets how long the clock was paused in all.
    ///
    /// # Panics
    ///
    /// If `total` is more than 500 million years.
    pub fn set(&self, total: Duration) {
        let ms = u64::try_from(total.as_millis()).expect("a bench ends within 2^64 ms");
        self.0.store(ms, Ordering::Relaxed);
    }
}

/// A clock that goes on by the same time each turn, so that each run executes the same
/// instructions.
pub struct SteadyClock {
    turns_per_ms: u64,
    turns: u64,
    now_ms: u64,
}

impl SteadyClock {
    /// A clock that starts at 0.
    #[must_use]
    pub fn new(turns_per_ms: u64) -> Self {
        Self {
            turns_per_ms,
            turns: 0,
            now_ms: 0,
        }
    }
}

impl Clock for SteadyClock {
    const REGIME: Regime = Regime::Live;

    fn read(&mut self) -> Moment {
        self.turns += 1;
        self.now_ms = self.turns / self.turns_per_ms;
        Moment {
            uptime_ms: self.now_ms,
            unix_ns: self.now_ms * 1_000_000,
        }
    }

    #[inline]
    fn uptime_of(&mut self, _frame: &Frame<'_>) -> u64 {
        self.now_ms
    }
}
