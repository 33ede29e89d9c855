//! Failover: all records go to the first collector that does not refuse them.
//!
//! A collector that refuses loses its place to the next one, which also gets what still waited for
//! it. After a while it is tried with one record, and with no answer a second later it has its
//! place back; each refused trial doubles the while. So a collector that stays away costs one
//! record now and then, counted as refused, and nothing is sent twice.

use crate::collector::{Collector, OnRefusal};
use crate::details::DetailedRecord;
use crate::exporter::Moment;

/// Who gets the records at present.
pub(crate) struct Failover {
    active: usize,
    standings: Vec<Standing>,
    now_ms: u64,
}

/// What is known of a collector.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Standing {
    /// It takes what it is sent, as far as anybody knows.
    Good,
    /// It refused; it is tried again at `retry_ms`.
    Refused { retry_ms: u64, back_off_ms: u64 },
    /// It was sent one record; without an answer until `verdict_ms` it is good.
    OnTrial { verdict_ms: u64, back_off_ms: u64 },
}

/// A first trial follows a refusal after this long; each refused trial doubles it up to the limit.
const BACK_OFF_MS: u64 = 1_000;
const BACK_OFF_MS_MAX: u64 = 32_000;
/// An answer is back by then, from wherever.
const VERDICT_MS: u64 = 1_000;

impl Failover {
    pub fn new(collectors: usize) -> Self {
        Self {
            active: 0,
            standings: vec![Standing::Good; collectors],
            now_ms: 0,
        }
    }

    pub fn begin_turn(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
    }

    /// Gives the first record to a collector that is due for a trial, if there is one, and the
    /// others to the active one.
    pub fn push(&mut self, collectors: &mut [Collector], records: &[DetailedRecord], now: Moment) {
        let mut records = records;
        if let Some((tried, back_off_ms)) = self.due_for_trial()
            && let Some((first, others)) = records.split_first()
        {
            self.standings[tried] = Standing::OnTrial {
                verdict_ms: self.now_ms + VERDICT_MS,
                back_off_ms,
            };
            collectors[tried].push(std::slice::from_ref(first), now);
            collectors[tried].complete(now);
            records = others;
        }
        if let Some(active) = collectors.get_mut(self.active) {
            active.push(records, now);
        }
    }

    /// Sends what may leave, and moves on where the active collector refuses.
    pub fn send(&mut self, collectors: &mut [Collector], all: bool, now: Moment) -> Option<u64> {
        self.judge(collectors);
        self.go_back(collectors, now);
        let due = self.send_to_active(collectors, all, now);
        [due, self.send_to_others(collectors)]
            .into_iter()
            .flatten()
            .min()
    }

    fn send_to_active(
        &mut self,
        collectors: &mut [Collector],
        all: bool,
        now: Moment,
    ) -> Option<u64> {
        loop {
            let active = collectors.get_mut(self.active)?;
            let due = active.send(all, OnRefusal::Stop);
            if !active.is_refusing() {
                self.standings[self.active] = Standing::Good;
                return due;
            }
            if !self.move_on(collectors, now) {
                return collectors[self.active].send(all, OnRefusal::GoOn);
            }
        }
    }

    /// Sends to one on trial, and to one that lost its place to a better one and still has
    /// something waiting.
    fn send_to_others(&mut self, collectors: &mut [Collector]) -> Option<u64> {
        let others = collectors
            .iter_mut()
            .enumerate()
            .filter(|(nth, _)| *nth != self.active);
        others
            .filter_map(|(_, collector)| collector.send(true, OnRefusal::GoOn))
            .min()
    }

    /// The first collector whose trial is due, and how long it was left alone.
    fn due_for_trial(&self) -> Option<(usize, u64)> {
        self.standings
            .iter()
            .enumerate()
            .find_map(|(nth, standing)| match *standing {
                Standing::Refused {
                    retry_ms,
                    back_off_ms,
                } if nth != self.active && retry_ms <= self.now_ms => Some((nth, back_off_ms)),
                _ => None,
            })
    }

    /// Ends the trials that have gone on for long enough.
    fn judge(&mut self, collectors: &mut [Collector]) {
        for (standing, collector) in self.standings.iter_mut().zip(collectors) {
            if let Standing::OnTrial {
                verdict_ms,
                back_off_ms,
            } = *standing
                && verdict_ms <= self.now_ms
            {
                collector.look_for_answers();
                *standing = match collector.is_refusing() {
                    true => Standing::refused(self.now_ms, (back_off_ms * 2).min(BACK_OFF_MS_MAX)),
                    false => Standing::Good,
                };
            }
        }
    }

    /// Gives an earlier collector its place back, or any good one that of one that refuses.
    fn go_back(&mut self, collectors: &mut [Collector], now: Moment) {
        let good = self
            .standings
            .iter()
            .position(|standing| *standing == Standing::Good);
        if let Some(good) =
            good.filter(|good| *good < self.active || self.standings[self.active] != Standing::Good)
        {
            if collectors[self.active].is_refusing() {
                self.hand_on(collectors, good, now);
            }
            // What waits at one that does not refuse leaves from there.
            collectors[self.active].complete(now);
            self.active = good;
        }
    }

    /// Takes the active collector's place away; says whether there is a good one to have it.
    fn move_on(&mut self, collectors: &mut [Collector], now: Moment) -> bool {
        if self.standings[self.active] == Standing::Good {
            self.standings[self.active] = Standing::refused(self.now_ms, BACK_OFF_MS);
        }
        let Some(good) = self
            .standings
            .iter()
            .position(|standing| *standing == Standing::Good)
        else {
            return false;
        };
        self.hand_on(collectors, good, now);
        self.active = good;
        true
    }

    fn hand_on(&self, collectors: &mut [Collector], to: usize, now: Moment) {
        if let Ok([from, to]) = collectors.get_disjoint_mut([self.active, to]) {
            from.move_to(to, now);
        }
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
