//! Failover: all records go to the first collector that does not refuse them.
//!
//! When a collector refuses, the next one takes its place, and gets what still waited. After a
//! while the one that refused is tried with one record; without an answer a second later it has its
//! place back, and each refused trial doubles the while. So a collector that stays away costs one
//! record now and then, counted as refused, and nothing is sent twice.

use crate::details::DetailedRecord;
use crate::moment::Moment;
use crate::outlet::OnRefusal;
use crate::recipient::Recipient;
use crate::tally::Tally;

/// Which recipient gets the records at present. It knows recipients by their position, and is
/// informed of each that is added or removed.
#[derive(Default)]
pub struct Failover {
    active: usize,
    /// One for each recipient, in the same order.
    standings: Vec<Standing>,
    now_ms: u64,
}

/// What is known of a recipient.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Standing {
    /// It has not refused since it was last found good.
    Good,
    /// It refused; it is tried again at `retry_ms`.
    Refused { retry_ms: u64, back_off_ms: u64 },
    /// It was sent one record; without an answer until `verdict_ms` it is good.
    OnTrial { verdict_ms: u64, back_off_ms: u64 },
}

/// The first trial is this long after a refusal; each refused trial doubles it, up to the limit.
const BACK_OFF_MS: u64 = 1_000;
const BACK_OFF_MS_MAX: u64 = 32_000;
/// An answer is back by then, from anywhere.
const VERDICT_MS: u64 = 1_000;

impl Failover {
    /// The last of the recipients was added.
    pub fn add(&mut self) {
        self.standings.push(Standing::Good);
    }

    /// The `nth` recipient was removed. If it was the active one, the first good one takes its
    /// place, or simply the first.
    pub fn remove(&mut self, nth: usize) {
        self.standings.remove(nth);
        if nth < self.active {
            self.active -= 1;
        } else if nth == self.active {
            self.active = self.first_good().unwrap_or(0);
        }
    }

    /// Sets the time of the turn, in ms.
    pub fn begin_turn(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
    }

    /// Gives the first record to a recipient that is due for a trial, if there is one, and the
    /// others to the active one. `tally` is the tally of the records.
    pub fn push(
        &mut self,
        recipients: &mut [Recipient],
        records: &[DetailedRecord],
        tally: Tally,
        now: Moment,
    ) {
        let (mut records, mut tally) = (records, tally);
        if let Some((tried, back_off_ms)) = self.due_for_trial(recipients)
            && let Some((first, others)) = records.split_first()
        {
            self.standings[tried] = Standing::OnTrial {
                verdict_ms: self.now_ms + VERDICT_MS,
                back_off_ms,
            };
            let first = std::slice::from_ref(first);
            let of_first = DetailedRecord::tally(first);
            recipients[tried].push(first, of_first, now);
            recipients[tried].outlet.complete(now);
            records = others;
            tally -= of_first;
        }
        if let Some(active) = recipients.get_mut(self.active) {
            active.push(records, tally, now);
        }
    }

    /// Sends what may leave, and moves on where the active recipient refuses.
    pub fn send(&mut self, recipients: &mut [Recipient], all: bool, now: Moment) -> Option<u64> {
        self.judge(recipients);
        self.go_back(recipients, now);
        let due = self.send_to_active(recipients, all, now);
        [due, self.send_to_others(recipients)]
            .into_iter()
            .flatten()
            .min()
    }

    fn send_to_active(
        &mut self,
        recipients: &mut [Recipient],
        all: bool,
        now: Moment,
    ) -> Option<u64> {
        loop {
            let active = &mut recipients.get_mut(self.active)?.outlet;
            let due = active.send(all, OnRefusal::Stop);
            if !active.is_refusing() {
                self.standings[self.active] = Standing::Good;
                return due;
            }
            if !self.move_on(recipients, now) {
                let active = &mut recipients[self.active].outlet;
                return active.send(all, OnRefusal::GoOn);
            }
        }
    }

    /// Sends to those on trial, and to those that lost their place to a better one while something
    /// waited.
    fn send_to_others(&mut self, recipients: &mut [Recipient]) -> Option<u64> {
        let others = recipients
            .iter_mut()
            .enumerate()
            .filter(|(nth, _)| *nth != self.active);
        others
            .filter_map(|(_, recipient)| recipient.outlet.send(true, OnRefusal::GoOn))
            .min()
    }

    fn first_good(&self) -> Option<usize> {
        self.standings
            .iter()
            .position(|standing| *standing == Standing::Good)
    }

    /// The first recipient whose trial is due, and its present back-off. One without a path is not
    /// tried: the record would be lost.
    fn due_for_trial(&self, recipients: &[Recipient]) -> Option<(usize, u64)> {
        self.standings.iter().zip(recipients).enumerate().find_map(
            |(nth, (standing, recipient))| match *standing {
                Standing::Refused {
                    retry_ms,
                    back_off_ms,
                } if nth != self.active
                    && retry_ms <= self.now_ms
                    && recipient.outlet.is_connected() =>
                {
                    Some((nth, back_off_ms))
                }
                _ => None,
            },
        )
    }

    /// Ends the trials that have lasted long enough.
    fn judge(&mut self, recipients: &mut [Recipient]) {
        for (standing, recipient) in self.standings.iter_mut().zip(recipients) {
            if let Standing::OnTrial {
                verdict_ms,
                back_off_ms,
            } = *standing
                && verdict_ms <= self.now_ms
            {
                recipient.outlet.look_for_answers();
                if recipient.outlet.awaits_proof() {
                    continue;
                }
                *standing = match recipient.outlet.is_refusing() {
                    true => Standing::refused(self.now_ms, (back_off_ms * 2).min(BACK_OFF_MS_MAX)),
                    false => Standing::Good,
                };
            }
        }
    }

    /// Gives an earlier recipient its place back; or, if the active one refuses, its place to any
    /// good one.
    fn go_back(&mut self, recipients: &mut [Recipient], now: Moment) {
        let is_better =
            |good: &usize| *good < self.active || self.standings[self.active] != Standing::Good;
        let Some(good) = self.first_good().filter(is_better) else {
            return;
        };
        if recipients[self.active].outlet.is_refusing() {
            hand_on(recipients, self.active, good, now);
        }
        // What waits at one that does not refuse leaves from there.
        recipients[self.active].outlet.complete(now);
        self.active = good;
    }

    /// Marks the active recipient as refusing, and activates a good one. Returns whether there is
    /// one.
    fn move_on(&mut self, recipients: &mut [Recipient], now: Moment) -> bool {
        if self.standings[self.active] == Standing::Good {
            self.standings[self.active] = Standing::refused(self.now_ms, BACK_OFF_MS);
        }
        let Some(good) = self.first_good() else {
            return false;
        };
        hand_on(recipients, self.active, good, now);
        self.active = good;
        true
    }
}

/// Moves what waits at one recipient to another.
fn hand_on(recipients: &mut [Recipient], from: usize, to: usize, now: Moment) {
    if let Ok([from, to]) = recipients.get_disjoint_mut([from, to]) {
        from.take_back(|records, tally| to.push(records, tally, now));
        to.outlet.complete(now);
    }
}

impl Standing {
    fn refused(now_ms: u64, back_off_ms: u64) -> Self {
        Self::Refused {
            retry_ms: now_ms + back_off_ms,
            back_off_ms,
        }
    }
}
