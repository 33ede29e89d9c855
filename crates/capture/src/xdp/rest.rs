//! How a queue's reader sleeps, and the times of the frames that arrive meanwhile.
//!
//! A socket wakes its reader for every frame, which costs more than the frame. So while many frames
//! arrive the reader *naps* for a fixed time; while few arrive it *rests* for longer. The XDP
//! program knows of a rest: it stamps each frame with its time, since the reader does not read the
//! clock meanwhile, and rings the reader's bell after as many frames as fill a quarter of the ring.
//! So no ring overflows because its reader slept, and no time is wrong by the length of a rest.

use super::abi::{Rest, Stamp};
use super::bell::Bell;
use crate::frame::CaptureTime;
use crate::source::BURST_MAX;
use std::time::Duration;

/// The sleep of one queue's reader.
pub(super) struct Sleeper<B> {
    pub bell: B,
    /// Frames after which the bell rings.
    bell_frames: u32,
    /// The number of the current or last rest: frames may still carry stamps of earlier ones.
    number: u32,
    /// How the last sleep ended.
    slept: Slept,
    timing: Timing,
    stamps: Stamps,
}

/// How a sleep ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Slept {
    /// A nap is over.
    Napped,
    /// A rest ended because frames are waiting.
    Woken,
    /// A rest ended because its time was over.
    TimedOut,
}

/// What times the frames in the ring.
#[derive(Clone, Copy, Debug)]
enum Timing {
    /// The caller's clock: the reader was awake or napped.
    Receipt,
    /// The XDP program: the reader rested.
    Stamps {
        /// When the rest began, CLOCK_MONOTONIC in ns.
        began_ns: u64,
        /// Whether a stamp of this rest has been found.
        found: bool,
    },
}

/// Whether the driver leaves room before its frames for stamps.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stamps {
    /// No frame has arrived during a rest yet.
    Unknown,
    /// Stamps have been found.
    Seen,
    /// The first frame of a rest had none. The reader then rests only until the next frame, and
    /// naps while any arrive, so that the time of receipt is right for them.
    Missing,
}

/// The length of a nap: at 60 Mpps the default ring does not fill in that time.
const NAP: Duration = Duration::from_micros(500);
/// The reader naps again after so many frames in one nap: 128 000 a second.
const NAP_FRAMES_MIN: u64 = BURST_MAX as u64;
/// The bell rings when this part of the ring is full: the rest is room for what arrives until the
/// reader runs.
const BELL_RING_SHARE: u32 = 4;

impl<B: Bell> Sleeper<B> {
    /// The sleeper of a reader whose receive ring has `ring_entries`.
    pub fn new(bell: B, ring_entries: u32) -> Self {
        Self {
            bell,
            bell_frames: (ring_entries / BELL_RING_SHARE).max(1),
            number: 0,
            slept: Slept::Napped,
            timing: Timing::Receipt,
            stamps: Stamps::Unknown,
        }
    }

    /// Sleeps until frames may be waiting, at most for `timeout`. `taken` frames were found since
    /// the last sleep; `has_frames` is whether the receive ring has entries now.
    pub fn sleep(
        &mut self,
        taken: u64,
        timeout: Duration,
        has_frames: impl FnOnce() -> bool,
    ) -> Slept {
        let naps = match self.slept {
            _ if self.stamps == Stamps::Missing => taken > 0,
            Slept::Napped => taken >= NAP_FRAMES_MIN,
            Slept::Woken => true,
            Slept::TimedOut => false,
        };
        self.slept = if naps {
            self.nap(timeout);
            Slept::Napped
        } else {
            self.rest(timeout, has_frames)
        };
        self.slept
    }

    /// Sleeps for the time of a nap, at most for `timeout`, whatever arrives.
    pub fn nap(&mut self, timeout: Duration) {
        self.bell.nap(NAP.min(timeout));
    }

    fn rest(&mut self, timeout: Duration, has_frames: impl FnOnce() -> bool) -> Slept {
        self.timing = Timing::Stamps {
            began_ns: self.bell.now_ns(),
            found: false,
        };
        self.number = self.number.wrapping_add(1);
        let frames = if self.stamps == Stamps::Missing {
            1
        } else {
            self.bell_frames
        };
        if !self.publish(frames) {
            // The bell would not ring.
            self.nap(timeout);
            return Slept::Napped;
        }
        // Frames that arrived before the program knew of the rest ring no bell.
        let woken = has_frames() || self.bell.wait(timeout);
        // If this fails the program stamps frames until the next rest is published, which does no
        // harm.
        self.publish(0);
        self.bell.silence();
        if woken { Slept::Woken } else { Slept::TimedOut }
    }

    fn publish(&mut self, frames: u32) -> bool {
        self.bell.publish(Rest {
            frames,
            number: self.number,
        })
    }

    /// Ends the times of the last rest: the ring was found empty, so all following frames arrive
    /// while the reader is awake.
    #[inline]
    pub fn all_taken(&mut self) {
        self.timing = Timing::Receipt;
    }

    /// Whether [`time_of`](Self::time_of) reads stamps.
    #[inline(always)]
    pub fn reads_stamps(&self) -> bool {
        matches!(self.timing, Timing::Stamps { .. })
    }

    /// When the frame arrived before which `stamp` was read, which is called only if needed. Frames
    /// come in the order of the ring.
    #[inline]
    pub fn time_of(&mut self, stamp: impl FnOnce() -> Stamp) -> CaptureTime {
        match self.timing {
            Timing::Receipt => CaptureTime::AtReceipt,
            Timing::Stamps { began_ns, found } => self.time_in_rest(stamp(), began_ns, found),
        }
    }

    #[inline(never)]
    fn time_in_rest(&mut self, stamp: Stamp, began_ns: u64, found: bool) -> CaptureTime {
        if stamp.rest == self.number && stamp.monotonic_ns > 0 {
            self.timing = Timing::Stamps {
                began_ns,
                found: true,
            };
            self.stamps = Stamps::Seen;
            return CaptureTime::Monotonic(stamp.monotonic_ns);
        }
        if self.stamps == Stamps::Unknown {
            self.stamps = Stamps::Missing;
        }
        // Frames without a stamp before the first stamp were in flight when the rest was published;
        // those after the last stamp arrived when its end was published.
        if self.stamps == Stamps::Seen && !found {
            CaptureTime::Monotonic(began_ns)
        } else {
            CaptureTime::AtReceipt
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::{Call, MemoryBell};
    use super::*;

    const RING: u32 = 1000;
    const SECOND: Duration = Duration::from_secs(1);

    fn sleeper() -> Sleeper<MemoryBell> {
        Sleeper::new(MemoryBell::default(), RING)
    }

    /// A sleeper that has slept in this way, with a driver that has stamped frames.
    fn slept(slept: Slept) -> Sleeper<MemoryBell> {
        Sleeper {
            slept,
            stamps: Stamps::Seen,
            ..sleeper()
        }
    }

    /// The calls of one sleep after `taken` frames, with an empty ring.
    fn calls(sleeper: &mut Sleeper<MemoryBell>, taken: u64) -> Vec<Call> {
        sleeper.sleep(taken, SECOND, || false);
        std::mem::take(&mut sleeper.bell.calls)
    }

    fn rests(calls: &[Call]) -> bool {
        matches!(calls[0], Call::Publish { .. })
    }

    fn stamp(monotonic_ns: u64, rest: u32) -> Stamp {
        Stamp {
            monotonic_ns,
            rest,
            unused: 0,
        }
    }

    /// The times of frames with these stamps, in the order of the ring.
    fn times(sleeper: &mut Sleeper<MemoryBell>, stamps: &[Stamp]) -> Vec<CaptureTime> {
        let times = stamps.iter().map(|&stamp| sleeper.time_of(|| stamp));
        times.collect()
    }

    #[test]
    fn the_reader_naps_while_many_frames_arrive_and_rests_while_few_do() {
        assert!(!rests(&calls(&mut slept(Slept::Napped), NAP_FRAMES_MIN)));
        assert!(rests(&calls(&mut slept(Slept::Napped), NAP_FRAMES_MIN - 1)));
        assert!(!rests(&calls(&mut slept(Slept::Woken), 1)));
        assert!(rests(&calls(&mut slept(Slept::TimedOut), NAP_FRAMES_MIN)));
    }

    #[test]
    fn a_nap_is_no_longer_than_the_timeout() {
        let mut sleeper = slept(Slept::Woken);
        let short = Duration::from_micros(3);
        assert_eq!(sleeper.sleep(1, short, || true), Slept::Napped);
        assert_eq!(
            sleeper.sleep(NAP_FRAMES_MIN, SECOND, || true),
            Slept::Napped
        );
        assert_eq!(sleeper.bell.calls, [Call::Nap(short), Call::Nap(NAP)]);
    }

    #[test]
    fn the_bell_rings_at_a_quarter_of_the_ring() {
        assert_eq!(
            calls(&mut slept(Slept::Napped), 0),
            [
                Call::Publish {
                    frames: RING / 4,
                    number: 1
                },
                Call::Wait(SECOND),
                Call::Publish {
                    frames: 0,
                    number: 1
                },
                Call::Silence,
            ]
        );
        let smallest = Sleeper::new(MemoryBell::default(), 2);
        assert_eq!(smallest.bell_frames, 1);
    }

    #[test]
    fn a_rest_says_whether_frames_ended_it() {
        assert_eq!(sleeper().sleep(0, SECOND, || false), Slept::TimedOut);
        let mut woken = sleeper();
        woken.bell.rings = true;
        assert_eq!(woken.sleep(0, SECOND, || false), Slept::Woken);
    }

    #[test]
    fn frames_that_arrived_before_the_rest_was_published_end_it_at_once() {
        let mut sleeper = sleeper();
        assert_eq!(sleeper.sleep(0, SECOND, || true), Slept::Woken);
        assert!(!sleeper.bell.calls.contains(&Call::Wait(SECOND)));
    }

    #[test]
    fn a_reader_whose_rest_cannot_be_published_naps() {
        let mut sleeper = sleeper();
        sleeper.bell.is_broken = true;
        assert_eq!(sleeper.sleep(0, SECOND, || false), Slept::Napped);
        assert_eq!(sleeper.bell.calls.last(), Some(&Call::Nap(NAP)));
    }

    #[test]
    fn frames_have_the_times_of_their_stamps_and_those_in_flight_the_start_of_the_rest() {
        let mut sleeper = slept(Slept::TimedOut);
        sleeper.bell.now_ns = 100;
        sleeper.number = 4;
        sleeper.sleep(0, SECOND, || false);
        let frames = [stamp(0, 0), stamp(70, 4), stamp(110, 5), stamp(120, 5)];
        let ends = [stamp(0, 0), stamp(80, 4)];
        let monotonic = [100, 100, 110, 120].map(CaptureTime::Monotonic);
        assert_eq!(times(&mut sleeper, &frames), monotonic);
        assert_eq!(times(&mut sleeper, &ends), [CaptureTime::AtReceipt; 2]);
    }

    #[test]
    fn stamps_are_read_until_the_ring_is_empty_and_not_after_a_nap() {
        let mut sleeper = slept(Slept::TimedOut);
        assert!(!sleeper.reads_stamps());
        sleeper.sleep(0, SECOND, || true);
        assert!(sleeper.reads_stamps());
        assert_eq!(
            times(&mut sleeper, &[stamp(9, 1)]),
            [CaptureTime::Monotonic(9)]
        );
        sleeper.all_taken();
        assert!(!sleeper.reads_stamps());
        let unread = || unreachable!("no stamp is read");
        assert_eq!(sleeper.time_of(unread), CaptureTime::AtReceipt);
        assert_eq!(sleeper.sleep(1, SECOND, || true), Slept::Napped);
        assert!(!sleeper.reads_stamps());
    }

    #[test]
    fn a_stamp_of_the_rest_before_the_numbers_wrapped_is_not_taken_for_a_new_one() {
        let mut sleeper = slept(Slept::TimedOut);
        sleeper.number = u32::MAX;
        sleeper.bell.now_ns = 100;
        sleeper.sleep(0, SECOND, || false);
        assert_eq!(sleeper.number, 0);
        // Memory that was never written to has this number too, but no time.
        assert_eq!(
            times(
                &mut sleeper,
                &[stamp(0, 0), stamp(90, u32::MAX), stamp(101, 0)]
            ),
            [100, 100, 101].map(CaptureTime::Monotonic)
        );
    }

    #[test]
    fn without_stamps_the_reader_rests_until_the_next_frame_and_naps_while_any_arrive() {
        let mut sleeper = sleeper();
        sleeper.bell.rings = true;
        assert!(rests(&calls(&mut sleeper, 0)));
        assert_eq!(
            times(&mut sleeper, &[stamp(0, 0)]),
            [CaptureTime::AtReceipt]
        );
        sleeper.all_taken();
        assert_eq!(calls(&mut sleeper, 1), [Call::Nap(NAP)]);
        let rest = calls(&mut sleeper, 0);
        let next_frame = Call::Publish {
            frames: 1,
            number: 2,
        };
        assert_eq!(rest[0], next_frame);
        // A stamp shows that the driver leaves room for them after all.
        assert_eq!(
            times(&mut sleeper, &[stamp(7, 2)]),
            [CaptureTime::Monotonic(7)]
        );
        sleeper.slept = Slept::TimedOut;
        let quarter = Call::Publish {
            frames: RING / 4,
            number: 3,
        };
        assert_eq!(calls(&mut sleeper, 0)[0], quarter);
    }
}
