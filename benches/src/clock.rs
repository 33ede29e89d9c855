//! Time: for the measurement itself, and for the worker that is measured.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
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
    latest_ms: u64,
}

/// How long a [`PausedClock`] was paused, in ns. Copies are the same.
#[derive(Clone, Default)]
pub struct Paused(Arc<AtomicU64>);

impl PausedClock {
    /// A clock that starts now and does not count the time in `paused`.
    #[must_use]
    pub fn start(paused: Paused) -> Self {
        Self {
            live: LiveClock::start(),
            paused,
            latest_ms: 0,
        }
    }

    /// The uptime when the system's clock says `ms`.
    #[inline]
    fn without_pauses(&mut self, ms: u64) -> u64 {
        // The sum of the pauses is rounded, so the difference may be 1 ms less than the last one.
        self.latest_ms = self.latest_ms.max(ms.saturating_sub(self.paused.ms()));
        self.latest_ms
    }
}

impl Clock for PausedClock {
    const REGIME: Regime = Regime::Live;

    fn read(&mut self) -> Moment {
        let now = self.live.read();
        let uptime_ms = self.without_pauses(now.uptime_ms);
        Moment { uptime_ms, ..now }
    }

    #[inline]
    fn uptime_of(&mut self, frame: &Frame<'_>) -> u64 {
        let ms = self.live.uptime_of(frame);
        self.without_pauses(ms)
    }
}

impl Paused {
    /// Adds the time since `stopped`.
    ///
    /// # Panics
    ///
    /// If that is more than 500 years.
    pub fn since(&self, stopped: Instant) {
        let ns =
            u64::try_from(stopped.elapsed().as_nanos()).expect("a bench ends within 500 years");
        self.0.fetch_add(ns, Ordering::Relaxed);
    }

    fn ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed) / 1_000_000
    }
}
