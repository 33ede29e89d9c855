//! Where time enters: the one module that reads the system's clocks.
//!
//! Flows are timed in uptime, ms since an epoch. On a live interface the epoch is the probe's start
//! and the clock is the monotonic one; in a capture file [the packets are the
//! clock](crate::capture_clock). Wall time is paired with uptime only where a header is written, so
//! a step of the wall clock changes no First or Last.

use crate::hand_over::Outbox;
use crate::regime::Regime;
use nix::time::{ClockId, clock_gettime};
use xdprobe_capture::{CaptureTime, Frame};
use xdprobe_export::Moment;
use xdprobe_flow::Meter;

const NS_PER_MS: u64 = 1_000_000;

/// Where a worker gets the time from.
pub trait Clock: Send {
    /// The regime that this clock belongs to.
    const REGIME: Regime;

    /// Reads the clock, once a turn.
    fn read(&mut self) -> Moment;

    /// The uptime at which a frame was captured, in ms, by the frame's own time: frames may be out
    /// of order.
    fn uptime_of(&mut self, frame: &Frame<'_>) -> u64;

    /// Observes the packets that wait in `meter`, as far as their times are settled, and expires
    /// what has fallen due. `now` is the moment of the turn; with `is_end` no packet follows.
    /// Returns whether all that has fallen due was expired.
    #[inline]
    fn meter(
        &mut self,
        now: Moment,
        _is_end: bool,
        meter: &mut Meter,
        outbox: &mut Outbox,
    ) -> bool {
        // What waited while the reader slept came before the flows that fell due meanwhile.
        let passed_ms = meter.latest_ms().unwrap_or(now.uptime_ms);
        outbox.begin_turn(now);
        meter.observe(outbox);
        meter.expire(passed_ms, Self::REGIME.expire_sets_max(), outbox)
    }
}

/// The system's clocks, counted from the probe's start. Copies agree.
#[derive(Clone, Copy, Debug)]
pub struct LiveClock {
    /// Monotonic time at the start, and the uptime that it was then, in ns.
    started_ns: u64,
    uptime_at_start_ns: u64,
    /// As last read, in ns.
    monotonic_ns: u64,
    wall_ns: u64,
}

impl LiveClock {
    /// A clock whose uptime begins now.
    pub fn start() -> Self {
        Self::start_at(0)
    }

    /// A clock whose uptime is `uptime_ms` now, as if it had started that long ago.
    pub(crate) fn start_at(uptime_ms: u64) -> Self {
        let started_ns = read_ns(ClockId::CLOCK_MONOTONIC);
        Self {
            started_ns,
            uptime_at_start_ns: uptime_ms * NS_PER_MS,
            monotonic_ns: started_ns,
            wall_ns: read_ns(ClockId::CLOCK_REALTIME),
        }
    }

    fn uptime_ns(&self) -> u64 {
        self.uptime_at_start_ns + (self.monotonic_ns - self.started_ns)
    }

    /// The moment at which the system's clocks read so.
    fn moment_at(&mut self, monotonic_ns: u64, wall_ns: u64) -> Moment {
        (self.monotonic_ns, self.wall_ns) = (monotonic_ns, wall_ns);
        let into_the_ms = self.uptime_ns() % NS_PER_MS;
        Moment {
            uptime_ms: self.uptime_ns() / NS_PER_MS,
            unix_ns: wall_ns.saturating_sub(into_the_ms),
        }
    }
}

impl Clock for LiveClock {
    const REGIME: Regime = Regime::Live;

    fn read(&mut self) -> Moment {
        self.moment_at(
            read_ns(ClockId::CLOCK_MONOTONIC),
            read_ns(ClockId::CLOCK_REALTIME),
        )
    }

    #[inline]
    fn uptime_of(&mut self, frame: &Frame<'_>) -> u64 {
        /// A buffered frame is a little older than the turn that receives it; one that claims more
        /// is on another clock.
        const AGE_NS_MAX: u64 = 1_000_000_000;
        let age_ns = match frame.captured {
            CaptureTime::AtReceipt => 0,
            CaptureTime::Wall(ns) => self.wall_ns.saturating_sub(ns),
            CaptureTime::Monotonic(ns) => self.monotonic_ns.saturating_sub(ns),
        };
        let age_ns = if age_ns <= AGE_NS_MAX { age_ns } else { 0 };
        self.uptime_ns().saturating_sub(age_ns) / NS_PER_MS
    }
}

fn read_ns(clock: ClockId) -> u64 {
    // Linux has both clocks, and neither is before its epoch.
    let time = clock_gettime(clock).map_or(std::time::Duration::ZERO, std::time::Duration::from);
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(captured: CaptureTime) -> Frame<'static> {
        Frame {
            octets: &[],
            wire_octets: 0,
            link: 1,
            captured,
        }
    }

    #[test]
    fn live_frames_are_timed_by_their_age_in_whatever_order_they_come() {
        let mut clock = LiveClock {
            started_ns: 0,
            ..LiveClock::start()
        };
        (clock.monotonic_ns, clock.wall_ns) = (5_000_000_000, 90_000_000_000);
        assert_eq!(
            clock.uptime_of(&frame(CaptureTime::Wall(89_980_000_000))),
            4_980
        );
        assert_eq!(
            clock.uptime_of(&frame(CaptureTime::Wall(89_970_000_000))),
            4_970,
            "out of order"
        );
        assert_eq!(clock.uptime_of(&frame(CaptureTime::AtReceipt)), 5_000);
        assert_eq!(
            clock.uptime_of(&frame(CaptureTime::Wall(1))),
            5_000,
            "on another clock"
        );
        assert_eq!(
            clock.uptime_of(&frame(CaptureTime::Wall(95_000_000_000))),
            5_000,
            "from the future"
        );
        clock.monotonic_ns = 5_100_000_000;
        assert_eq!(
            clock.uptime_of(&frame(CaptureTime::Monotonic(5_060_000_000))),
            5_060
        );
    }

    /// In ns.
    const SECOND: u64 = 1_000_000_000;
    const HOUR: u64 = 3_600 * SECOND;

    #[test]
    fn a_step_of_the_wall_clock_moves_headers_and_nothing_else() {
        for wall_ns in [99 * HOUR, 101 * HOUR] {
            let mut clock = LiveClock {
                started_ns: 0,
                ..LiveClock::start()
            };
            let before = clock.moment_at(10 * SECOND, 100 * HOUR);
            assert_eq!(
                clock.uptime_of(&frame(CaptureTime::Wall(100 * HOUR - SECOND / 10))),
                9_900
            );
            let after = clock.moment_at(11 * SECOND, wall_ns);
            assert_eq!(
                (before.uptime_ms, after.uptime_ms, after.unix_ns),
                (10_000, 11_000, wall_ns)
            );
            // A frame from before the step is on another clock: it came now.
            assert_eq!(
                clock.uptime_of(&frame(CaptureTime::Wall(100 * HOUR + SECOND / 2))),
                11_000
            );
            assert_eq!(
                clock.uptime_of(&frame(CaptureTime::Wall(wall_ns - SECOND / 10))),
                10_900
            );
        }
    }

    #[test]
    fn the_live_clock_pairs_wall_time_with_the_start_of_the_millisecond() {
        let mut clock = LiveClock::start();
        let moment = clock.read();
        assert!(moment.uptime_ms < 10_000);
        assert_eq!(
            clock.wall_ns - moment.unix_ns,
            clock.uptime_ns() % NS_PER_MS
        );
    }
}
