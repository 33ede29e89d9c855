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
    fn observe_and_expire(
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
    /// The last long time between two readings, from its begin to its end, in ns of monotonic time:
    /// the process did not run, and frames waited. Empty where the wall clock was set since.
    stopped_ns: (u64, u64),
}

/// A frame waits no longer than this for the turn that receives it, unless the process does not
/// run.
const WAIT_NS_MAX: u64 = 1_000_000_000;

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
            stopped_ns: (0, 0),
        }
    }

    fn uptime_ns(&self) -> u64 {
        self.uptime_at_start_ns + (self.monotonic_ns - self.started_ns)
    }

    /// The monotonic time of a frame with this wall time; now, if it is on another clock.
    fn monotonic_of(&self, wall_ns: u64) -> u64 {
        let age_ns = self.wall_ns.saturating_sub(wall_ns);
        let at_ns = self.monotonic_ns.saturating_sub(age_ns);
        let (began_ns, ended_ns) = self.stopped_ns;
        let has_waited = began_ns <= at_ns.saturating_add(WAIT_NS_MAX) && at_ns < ended_ns;
        if age_ns <= WAIT_NS_MAX || has_waited {
            at_ns
        } else {
            self.monotonic_ns
        }
    }

    /// Notes a time in which the process did not run, or that the wall clock was set.
    fn note_passed(&mut self, monotonic_ns: u64, wall_ns: u64) {
        let passed_ns = monotonic_ns.saturating_sub(self.monotonic_ns);
        let by_the_wall_ns = wall_ns.wrapping_sub(self.wall_ns);
        if by_the_wall_ns
            .wrapping_sub(passed_ns)
            .cast_signed()
            .unsigned_abs()
            > WAIT_NS_MAX
        {
            self.stopped_ns = (0, 0);
        } else if passed_ns > WAIT_NS_MAX {
            self.stopped_ns = (self.monotonic_ns, monotonic_ns);
        }
    }

    /// The moment at which the system's clocks read so.
    fn moment_at(&mut self, monotonic_ns: u64, wall_ns: u64) -> Moment {
        self.note_passed(monotonic_ns, wall_ns);
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
        let at_ns = match frame.captured {
            CaptureTime::AtReceipt => self.monotonic_ns,
            CaptureTime::Wall(ns) => self.monotonic_of(ns),
            CaptureTime::Monotonic(ns) => ns.min(self.monotonic_ns),
        };
        let ago_ns = self.monotonic_ns - at_ns;
        self.uptime_ns().saturating_sub(ago_ns) / NS_PER_MS
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

    #[test]
    fn what_waited_while_the_process_was_stopped_has_its_own_time() {
        let mut clock = LiveClock {
            started_ns: 0,
            ..LiveClock::start()
        };
        clock.moment_at(10 * SECOND, 100 * HOUR);
        clock.moment_at(20 * SECOND, 100 * HOUR + 10 * SECOND);
        let wall = |s: u64| frame(CaptureTime::Wall(100 * HOUR + s * SECOND));
        assert_eq!(clock.uptime_of(&wall(2)), 12_000);
        assert_eq!(
            clock.uptime_of(&frame(CaptureTime::Monotonic(13 * SECOND))),
            13_000
        );
        // What is left of it in later turns too.
        clock.moment_at(20 * SECOND + 1, 100 * HOUR + 10 * SECOND + 1);
        assert_eq!(clock.uptime_of(&wall(4)), 14_000);
        assert_eq!(clock.uptime_of(&wall(10)), 20_000);
        // Not if the clock was set meanwhile, or what seems a stop was just that.
        let mut clock = LiveClock {
            started_ns: 0,
            ..LiveClock::start()
        };
        clock.moment_at(10 * SECOND, 100 * HOUR);
        clock.moment_at(20 * SECOND, 101 * HOUR);
        assert_eq!(clock.uptime_of(&wall(2)), 20_000);
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
