//! What became of all records that were pushed to an exporter, whichever collectors they were
//! meant for.
//!
//! Where each record goes to one collector, the totals are a sum. Where every collector gets every
//! record, [`CopyTotals`] follow the collector that got most.

use crate::collector::{CollectorCounters, CollectorId, LossReason};
use crate::tally::Tally;
use std::collections::VecDeque;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What became of the records that were pushed to an exporter; those that wait are in no count.
#[derive(
    Clone, Copy, Debug, Default, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq,
)]
#[repr(C)]
pub struct ExporterCounters {
    /// What was sent and not refused.
    pub exported: Tally,
    /// What was not, by [`LossReason`].
    pub lost: [Tally; LossReason::NAMES.len()],
}

impl ExporterCounters {
    /// What was not sent, or refused, for any reason.
    #[must_use]
    pub fn lost_total(&self) -> Tally {
        self.lost.into_iter().sum()
    }

    /// What was exported or lost.
    #[must_use]
    pub fn settled(&self) -> Tally {
        self.exported + self.lost_total()
    }

    /// `combine` of each tally of both.
    fn zip(self, other: Self, combine: impl Fn(Tally, Tally) -> Tally) -> Self {
        Self {
            exported: combine(self.exported, other.exported),
            lost: std::array::from_fn(|reason| combine(self.lost[reason], other.lost[reason])),
        }
    }
}

impl From<&CollectorCounters> for ExporterCounters {
    fn from(counters: &CollectorCounters) -> Self {
        Self {
            exported: counters.exported,
            lost: counters.lost,
        }
    }
}

impl std::ops::Add for ExporterCounters {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }
}

impl std::ops::AddAssign for ExporterCounters {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl std::ops::Sub for ExporterCounters {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }
}

/// Totals where every collector gets every record.
///
/// Exported is what the collector that got most was sent, and lost is what it was not. Collectors
/// come and go, so the records are divided into terms: a new one begins whenever a collector is
/// added or removed, and all records of a term were meant for the same collectors. Each collector's
/// counts go to the oldest term in which it has records left. So what a collector does with records
/// that another one has exported already, before that one was removed, is not counted again.
///
/// No number ever falls, and once nothing waits anywhere they add up to what was pushed.
#[derive(Debug)]
pub struct CopyTotals {
    /// Of terms in which every collector has settled all records.
    closed: ExporterCounters,
    /// The other terms, oldest first; the last is the present one.
    terms: VecDeque<Term>,
    /// The present collectors, with the counts that have been distributed over the terms.
    seen: Vec<(CollectorId, ExporterCounters)>,
}

impl Default for CopyTotals {
    fn default() -> Self {
        Self {
            closed: ExporterCounters::default(),
            terms: VecDeque::from([Term::default()]),
            seen: Vec::new(),
        }
    }
}

impl CopyTotals {
    /// Records were pushed to all collectors that there are; without any they are lost.
    #[inline]
    pub fn push(&mut self, tally: Tally) {
        if self.seen.is_empty() {
            self.closed.lost[LossReason::Removed as usize] += tally;
        } else {
            self.present().pushed += tally;
        }
    }

    /// A collector was added, and a new term begins.
    pub fn add(&mut self, id: CollectorId) {
        self.seen.push((id, ExporterCounters::default()));
        self.begin_term();
    }

    /// A collector with these last counters was removed, and a new term begins.
    pub fn remove(&mut self, id: CollectorId, last: ExporterCounters) {
        self.settle(id, last);
        self.seen.retain(|(seen, _)| *seen != id);
        self.begin_term();
    }

    /// The counters of a collector are now `counters`.
    pub fn settle(&mut self, id: CollectorId, counters: ExporterCounters) {
        let Some((_, seen)) = self.seen.iter_mut().find(|(seen, _)| *seen == id) else {
            return;
        };
        let mut new = counters - *seen;
        *seen = counters;
        for term in &mut self.terms {
            term.settle(id, &mut new);
        }
    }

    /// The totals, as far as [`settle`](Self::settle) was given the counters of all collectors.
    pub fn total(&mut self) -> ExporterCounters {
        for term in &mut self.terms {
            term.raise();
        }
        while self.terms.len() > 1 && self.terms.front().is_some_and(Term::is_settled) {
            let settled = self.terms.pop_front();
            self.closed += settled.map_or(ExporterCounters::default(), |term| term.total);
        }
        self.terms
            .iter()
            .fold(self.closed, |sum, term| sum + term.total)
    }

    fn present(&mut self) -> &mut Term {
        self.terms.back_mut().expect("one term is the present one")
    }

    fn begin_term(&mut self) {
        let _ = self.total();
        if self.present().pushed.records == 0 {
            self.terms.pop_back();
        }
        let fates = self.seen.iter().map(|(id, _)| (*id, Default::default()));
        self.terms.push_back(Term {
            fates: fates.collect(),
            ..Term::default()
        });
    }
}

/// Records that were meant for the same collectors.
#[derive(Debug, Default)]
struct Term {
    pushed: Tally,
    /// What became of them at each of these collectors.
    fates: Vec<(CollectorId, ExporterCounters)>,
    /// What became of them at the collector that got most. No number in it falls.
    total: ExporterCounters,
}

impl Term {
    /// Takes as much out of `new`, the counts of a collector, as it has records left in this term.
    fn settle(&mut self, id: CollectorId, new: &mut ExporterCounters) {
        let Some((_, fate)) = self.fates.iter_mut().find(|(fated, _)| *fated == id) else {
            return;
        };
        let mut left = self.pushed - fate.settled().without_datagrams();
        if left.records > 0 {
            // What is pushed is in no datagram yet, so their number is known from here only.
            left.datagrams = u64::MAX;
        }
        let mut take = |new: &mut Tally, fate: &mut Tally| {
            let taken = new.zip(left, u64::min);
            *new -= taken;
            left -= taken;
            *fate += taken;
        };
        take(&mut new.exported, &mut fate.exported);
        for (new, fate) in new.lost.iter_mut().zip(&mut fate.lost) {
            take(new, fate);
        }
    }

    /// Raises the total to the most that a collector got, and to the least that one lost. Both
    /// only grow. Once all records are settled, the collector that got most is the one that lost
    /// least, so that the two add up to what was pushed.
    fn raise(&mut self) {
        let fates = || self.fates.iter().map(|(_, fate)| fate);
        let Some(best) = fates().min_by_key(|fate| fate.lost_total().records) else {
            return;
        };
        let most = fates().fold(self.total.exported, |most, fate| {
            most.zip(fate.exported, u64::max)
        });
        let least = fates().fold(best.lost_total(), |least, fate| {
            least.zip(fate.lost_total(), u64::min)
        });
        let mut growth = least - self.total.lost_total();
        let mut lost = self.total.lost;
        for (total, lost) in lost.iter_mut().zip(best.lost) {
            // By reason the best one may be below the total, when another one was the best before.
            let taken = lost.zip(*total, u64::saturating_sub).zip(growth, u64::min);
            *total += taken;
            growth -= taken;
        }
        self.total = ExporterCounters {
            exported: most,
            lost,
        };
    }

    /// Whether every collector has settled all records.
    fn is_settled(&self) -> bool {
        self.fates
            .iter()
            .all(|(_, fate)| fate.settled().metered() == self.pushed.metered())
    }
}
