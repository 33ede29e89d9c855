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
/// The totals are those of the collector that got most. Because collectors come and go, the records
/// are divided into terms: a new term begins whenever a collector is added or removed, so all
/// records of a term were meant for the same collectors. What a collector settles is counted in the
/// oldest term in which it has records left. So records that a removed collector exported are not
/// counted again when another one exports or loses them later.
///
/// No number ever falls, and once nothing waits anywhere they add up to what was pushed.
#[derive(Debug)]
pub struct CopyTotals {
    /// Sum of the terms in which every collector has settled all records.
    closed: ExporterCounters,
    /// The other terms, oldest first; the last is the present one.
    terms: VecDeque<Term>,
    /// The present collectors, each with its counters when they were last counted in terms.
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
    /// Records were pushed to all collectors that there are, at least one.
    #[inline]
    pub fn push(&mut self, tally: Tally) {
        debug_assert!(!self.seen.is_empty());
        self.present().pushed += tally;
    }

    /// A collector was added: begins a new term.
    pub fn add(&mut self, id: CollectorId) {
        self.seen.push((id, ExporterCounters::default()));
        self.begin_term();
    }

    /// A collector was removed, and `last` are its counters: begins a new term.
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

    /// The totals, by the counters that [`settle`](Self::settle) was given last.
    pub fn total(&mut self) -> ExporterCounters {
        self.update();
        self.terms
            .iter()
            .fold(self.closed, |sum, term| sum + term.total)
    }

    /// Updates the totals of all terms, and closes the oldest ones that are settled.
    fn update(&mut self) {
        self.terms.iter_mut().for_each(Term::raise);
        while self.terms.len() > 1 && self.terms[0].is_settled() {
            self.closed += self.terms[0].total;
            self.terms.pop_front();
        }
    }

    fn present(&mut self) -> &mut Term {
        self.terms.back_mut().expect("one term is the present one")
    }

    fn begin_term(&mut self) {
        self.update();
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
    /// What became of them at each collector.
    fates: Vec<(CollectorId, ExporterCounters)>,
    /// What became of them at the collector that got most. No number in it falls.
    total: ExporterCounters,
}

impl Term {
    /// Counts what a collector has `new`ly settled, up to the records that it has left in this
    /// term, and takes that out of `new`.
    fn settle(&mut self, id: CollectorId, new: &mut ExporterCounters) {
        let Some((_, fate)) = self.fates.iter_mut().find(|(fated, _)| *fated == id) else {
            return;
        };
        let mut left = self.pushed - fate.settled().without_datagrams();
        if left.records > 0 {
            // Records that are pushed are in no datagram yet, so there is no limit to go by.
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

    /// Raises the total to the most that a collector exported, and to the least that one lost: both
    /// only grow. Once all records are settled, the collector that exported most is the one that
    /// lost least, so that the two add up to what was pushed.
    fn raise(&mut self) {
        let fates = || self.fates.iter().map(|(_, fate)| fate);
        let Some(best) = fates().min_by_key(|fate| fate.lost_total().records) else {
            return;
        };
        let (exported, lost) = (self.total.exported, self.total.lost_total());
        let mut most = fates().fold(exported, |most, fate| most.zip(fate.exported, u64::max));
        let mut least = fates().fold(best.lost_total(), |least, fate| {
            least.zip(fate.lost_total(), u64::min)
        });
        // The number of datagrams depends on their length, and says nothing about which is best.
        most.datagrams = exported.datagrams.max(best.exported.datagrams);
        least.datagrams = lost.datagrams.max(best.lost_total().datagrams);
        self.total.exported = most;
        // What lost grows by is divided by reason as at the best collector. That one may be below
        // the total in some reasons, if another one was the best before.
        let mut growth = least - lost;
        for (total, of_best) in self.total.lost.iter_mut().zip(best.lost) {
            let above = of_best.zip(*total, u64::saturating_sub);
            let part = above.zip(growth, u64::min);
            *total += part;
            growth -= part;
        }
    }

    /// Whether every collector has settled all records.
    fn is_settled(&self) -> bool {
        self.fates
            .iter()
            .all(|(_, fate)| fate.settled().metered() == self.pushed.metered())
    }
}
