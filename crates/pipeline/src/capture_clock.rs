//! The clock of a capture file: its packets' own times.
//!
//! Each packet has the time that the file gives it, in whatever order packets come. The clock, by
//! which flows fall due and headers are dated, is moved by metered packets alone, and only as far
//! as the packets that follow agree: the worker looks some packets ahead.
//!
//! | A burst of packets is | Then |
//! |---|---|
//! | no more than a second ahead of the clock | it moves the clock |
//! | further ahead | time went by, and it moves the clock |
//! | further ahead, and packets follow that go on where the clock is | the clock stays |
//! | up to a minute behind | it came late, and the clock stays |
//! | further behind | its time is wrong, and the clock stays |
//! | further behind, and so are the 16 packets that follow | the clock was set back |
//!
//! Where the clock was set back, all that is resident or waits is exported with headers of the old
//! clock. Then uptime goes on where it was, and the wall clock of the headers follows the packets,
//! as on a live probe whose clock is set.

use crate::clock::Clock;
use crate::hand_over::Outbox;
use crate::regime::Regime;
use std::collections::VecDeque;
use xdprobe_capture::{CaptureTime, Frame};
use xdprobe_export::Moment;
use xdprobe_flow::{HAND_ROUND_MS, Meter};

/// Uptime at the first frame, in ms: 0 in the 32 bits of a header, and later than any time before
/// it that a file can have (584 years).
pub const BEGIN_MS: u64 = 1 << 45;

/// Packets of one capture come this much out of order, from several queues or cards; in ms.
const REORDERING_MS: u64 = 1_000;
/// A packet that is no further behind the clock came late, and shows no clock that was set; in ms.
const LATE_MS_MAX: u64 = 60_000;
const NS_PER_MS: u64 = 1_000_000;
/// So many packets in a row show that the clock was set.
const RUN: usize = 16;
/// So many packets may be off the clock among those that show what it is.
const FEW: usize = 3;
/// So many bursts, each ahead of the one before, show that packets are few and time goes by.
const STEPS: usize = 3;

/// The packets' own times.
#[derive(Debug)]
pub struct CaptureClock {
    /// UTC at uptime 0 in ms, which is far before 1970; none before the first frame.
    epoch_unix_ms: Option<i64>,
    /// Whether a packet was metered.
    has_begun: bool,
    /// What the clock reads, in ms of uptime.
    now_ms: u64,
    /// What was due by then is expired, in ms of uptime.
    passed_ms: u64,
    /// The bursts of the packets that wait.
    waiting: VecDeque<Burst>,
}

/// Packets that the source gave at one time: their times are close together.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Burst {
    packets: usize,
    earliest_ms: u64,
    latest_ms: u64,
}

/// What the times of a burst mean.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Meaning {
    /// The clock moves with it, as far as it is not behind.
    OnClock,
    /// Its times are off the clock, which stays.
    Stray,
    /// The clock was set back.
    SetBack,
}

impl Default for CaptureClock {
    fn default() -> Self {
        Self {
            epoch_unix_ms: None,
            has_begun: false,
            now_ms: BEGIN_MS,
            passed_ms: BEGIN_MS,
            waiting: VecDeque::with_capacity(2 * RUN),
        }
    }
}

impl Clock for CaptureClock {
    const REGIME: Regime = Regime::Replay;

    fn read(&mut self) -> Moment {
        self.moment_at(self.now_ms)
    }

    #[inline]
    fn uptime_of(&mut self, frame: &Frame<'_>) -> u64 {
        let unix_ms = match frame.captured {
            CaptureTime::Wall(ns) => ns / NS_PER_MS,
            // No frame of a file is without a time of its own.
            CaptureTime::AtReceipt | CaptureTime::Monotonic(_) => 0,
        };
        let unix_ms = unix_ms.cast_signed();
        let begin_ms = BEGIN_MS.cast_signed();
        let epoch_ms = *self.epoch_unix_ms.get_or_insert(unix_ms - begin_ms);
        u64::try_from(unix_ms - epoch_ms).unwrap_or(0)
    }

    fn observe_and_expire(
        &mut self,
        _: Moment,
        is_end: bool,
        meter: &mut Meter,
        outbox: &mut Outbox,
    ) -> bool {
        self.add_burst(meter);
        while let Some(first) = self.waiting.front().copied()
            && (is_end || self.sees_enough(&first))
        {
            if !self.has_begun {
                self.begin(meter);
                continue;
            }
            match self.meaning_of(&first) {
                Meaning::OnClock => self.meter_on_clock(&first, meter, outbox),
                Meaning::Stray => self.meter_strays(&first, meter, outbox),
                Meaning::SetBack => self.set_back(&first, meter, outbox),
            }
        }
        true
    }
}

impl CaptureClock {
    fn moment_at(&self, uptime_ms: u64) -> Moment {
        let unix_ms = self.epoch_unix_ms.unwrap_or(0) + uptime_ms.cast_signed();
        Moment {
            uptime_ms,
            unix_ns: u64::try_from(unix_ms)
                .unwrap_or(0)
                .saturating_mul(NS_PER_MS),
        }
    }

    /// Adds the packets that the source gave last to those that wait.
    fn add_burst(&mut self, meter: &Meter) {
        let before: usize = self.waiting.iter().map(|burst| burst.packets).sum();
        let times = meter.waiting()[before..]
            .iter()
            .map(|arrival| arrival.at_ms);
        if let Some((earliest_ms, latest_ms)) = times.clone().min().zip(times.clone().max()) {
            self.waiting.push_back(Burst {
                packets: times.len(),
                earliest_ms,
                latest_ms,
            });
        }
    }

    /// The bursts behind the first of those that wait.
    fn after(&self) -> impl Iterator<Item = &Burst> {
        self.waiting.iter().skip(1)
    }

    /// How many packets behind the first burst are of bursts that `is` is true for.
    fn packets_after(&self, is: impl Fn(&Burst) -> bool) -> usize {
        let bursts = self.after().filter(|burst| is(burst));
        bursts.map(|burst| burst.packets).sum()
    }

    /// Whether the packets behind the first burst that waits show what its times mean.
    fn sees_enough(&self, first: &Burst) -> bool {
        if self.has_begun && self.is_behind(first) {
            self.packets_after(|burst| self.is_behind(burst)) >= RUN
                || self.packets_after(|burst| !self.is_behind(burst)) > FEW
        } else {
            let next = self.after().zip(&self.waiting);
            let steps = next.filter(|(next, burst)| burst.is_before(next));
            self.packets_after(|_| true) >= RUN || steps.count() >= STEPS
        }
    }

    /// What the times of the first burst that waits mean.
    fn meaning_of(&self, first: &Burst) -> Meaning {
        if !self.is_behind(first) {
            return if self.is_wrong_ahead(first) {
                Meaning::Stray
            } else {
                Meaning::OnClock
            };
        }
        let run = first.packets + self.packets_after(|burst| self.is_behind(burst));
        let returned = self.packets_after(|burst| !self.is_behind(burst));
        if run >= RUN && returned <= FEW {
            Meaning::SetBack
        } else {
            Meaning::Stray
        }
    }

    /// Whether a burst is ahead of the clock, and a packet that follows goes on where the clock is.
    fn is_wrong_ahead(&self, first: &Burst) -> bool {
        let goes_on = |burst: &Burst| {
            burst.is_before(first) && burst.latest_ms + REORDERING_MS >= self.now_ms
        };
        first.earliest_ms > self.now_ms + REORDERING_MS && self.after().any(goes_on)
    }

    /// Whether a burst is too far behind the clock to have come late.
    fn is_behind(&self, burst: &Burst) -> bool {
        burst.latest_ms + LATE_MS_MAX < self.now_ms
    }

    /// Sets the clock to the first packets, or if these are out of order, to those that most agree
    /// with.
    fn begin(&mut self, meter: &mut Meter) {
        let first = self.waiting[0];
        let (start, within_ms) = if self.after().any(|burst| burst.is_before(&first)) {
            let agree = |with: &&Burst| {
                let near =
                    |burst: &&Burst| burst.earliest_ms.abs_diff(with.earliest_ms) <= LATE_MS_MAX;
                let near = self.waiting.iter().filter(near);
                near.map(|burst| burst.packets).sum::<usize>()
            };
            // The first of the best.
            let best = self.waiting.iter().rev().max_by_key(agree);
            (*best.unwrap_or(&first), LATE_MS_MAX)
        } else {
            (first, REORDERING_MS)
        };
        // A clock that is behind does no harm: the packets move it.
        let near = self.waiting.iter().map(|burst| burst.earliest_ms);
        let near =
            near.filter(|&ms| ms <= start.earliest_ms && ms + within_ms >= start.earliest_ms);
        let start_ms = near.min().unwrap_or(start.earliest_ms);
        // Uptime counts from the first frame, metered or not, unless its time is far off.
        if (BEGIN_MS..BEGIN_MS + (1 << 31)).contains(&start_ms) {
            self.now_ms = start_ms;
        } else {
            self.set_epoch(BEGIN_MS.cast_signed() - start_ms.cast_signed(), meter);
        }
        meter.start_at(BEGIN_MS);
        self.has_begun = true;
    }

    /// Gives the packets that wait, and all later ones, uptimes that are `by_ms` later.
    fn set_epoch(&mut self, by_ms: i64, meter: &mut Meter) {
        self.epoch_unix_ms = self.epoch_unix_ms.map(|epoch_ms| epoch_ms - by_ms);
        meter.move_waiting(by_ms);
        for burst in &mut self.waiting {
            burst.earliest_ms = burst.earliest_ms.saturating_add_signed(by_ms);
            burst.latest_ms = burst.latest_ms.saturating_add_signed(by_ms);
        }
    }

    /// Meters the first burst that waits, and moves the clock as far as it goes.
    fn meter_on_clock(&mut self, first: &Burst, meter: &mut Meter, outbox: &mut Outbox) {
        // A packet that comes late is not to find its flow expired before its time.
        let late = self.after().map(|burst| burst.earliest_ms);
        let late = late.filter(|&ms| ms + LATE_MS_MAX >= first.latest_ms);
        let seen_ms = late.min().unwrap_or(u64::MAX);
        self.let_time_pass(first.earliest_ms.min(seen_ms), meter, outbox);
        outbox.begin_turn(self.moment_at(first.latest_ms.max(self.now_ms)));
        self.take_first(first, true, meter, outbox);
        self.passed_ms = self.passed_ms.max(self.now_ms.min(seen_ms));
        let sets_max = Self::REGIME.expire_sets_max();
        meter.expire(self.passed_ms, sets_max, outbox);
    }

    /// Meters the first burst that waits, whose times are off the clock.
    fn meter_strays(&mut self, first: &Burst, meter: &mut Meter, outbox: &mut Outbox) {
        outbox.begin_turn(self.moment_at(self.now_ms));
        self.take_first(first, false, meter, outbox);
    }

    /// Exports all by the old clock, which the new one then follows.
    fn set_back(&mut self, first: &Burst, meter: &mut Meter, outbox: &mut Outbox) {
        outbox.begin_turn(self.moment_at(self.now_ms));
        meter.drain(usize::MAX, outbox);
        outbox.hand_over();
        outbox.set_may_stray(false);
        self.passed_ms = self.now_ms;
        let by_ms = self.now_ms.cast_signed() - first.earliest_ms.cast_signed();
        self.set_epoch(by_ms, meter);
    }

    fn take_first(&mut self, first: &Burst, moves: bool, meter: &mut Meter, outbox: &mut Outbox) {
        self.waiting.pop_front();
        if first.earliest_ms < BEGIN_MS || !moves {
            outbox.set_may_stray(true);
        }
        self.now_ms = meter.observe_first(first.packets, self.now_ms, moves, outbox);
    }

    /// Between two packets minutes may pass: what falls due in them is expired then, and not when
    /// the next packet comes.
    fn let_time_pass(&mut self, until_ms: u64, meter: &mut Meter, outbox: &mut Outbox) {
        while until_ms > self.passed_ms + HAND_ROUND_MS
            && let Some(due_ms) = meter.earliest_due_ms(until_ms)
        {
            // The hand comes all the way round in each step.
            let next_ms = due_ms.max(self.passed_ms + HAND_ROUND_MS);
            if next_ms >= until_ms {
                break;
            }
            self.passed_ms = next_ms;
            outbox.begin_turn(self.moment_at(next_ms.max(self.now_ms)));
            meter.expire(next_ms, usize::MAX, outbox);
        }
    }
}

impl Burst {
    /// Whether it is before another by more than packets come out of order.
    fn is_before(&self, other: &Self) -> bool {
        self.latest_ms + REORDERING_MS < other.earliest_ms
    }
}
