//! [`Recipient`]: a collector within an exporter, with its id, its name and its outlet.

use crate::collector::{CollectorCounters, CollectorId, CollectorState, LossReason};
use crate::details::DetailedRecord;
use crate::moment::Moment;
use crate::outlet::{OnRefusal, Outlet};
use crate::tally::Tally;
use std::io;

/// A collector within an exporter.
pub struct Recipient {
    pub id: CollectorId,
    pub name: String,
    pub outlet: Box<dyn Outlet>,
    taken_before: Tally,
    pushed: Tally,
    handed_on: Tally,
    resolves: u64,
    resolve_failures: u64,
    is_unresolved: bool,
}

impl Recipient {
    /// A recipient that is added when `taken_before` have been pushed to the exporter.
    pub fn new(
        id: CollectorId,
        name: String,
        outlet: Box<dyn Outlet>,
        taken_before: Tally,
    ) -> Self {
        Self {
            id,
            name,
            outlet,
            taken_before,
            pushed: Tally::default(),
            handed_on: Tally::default(),
            resolves: 0,
            resolve_failures: 0,
            is_unresolved: false,
        }
    }

    /// Pushes records, whose tally is `tally`, to the outlet.
    #[inline]
    pub fn push(&mut self, records: &[DetailedRecord], tally: Tally, now: Moment) {
        self.pushed += tally;
        self.outlet.push(records, now);
    }

    /// Takes back what waits, where the outlet keeps it as records, and gives it to `give`, oldest
    /// first, with the tally of each slice.
    pub fn take_back(&mut self, mut give: impl FnMut(&[DetailedRecord], Tally)) {
        let handed_on = &mut self.handed_on;
        self.outlet.take_back(&mut |records| {
            let tally = DetailedRecord::tally(records);
            *handed_on += tally;
            give(records, tally);
        });
    }

    /// Notes that the name was resolved again, or could not be.
    pub fn note_resolved(&mut self, is_resolved: bool) {
        self.resolves += u64::from(is_resolved);
        self.resolve_failures += u64::from(!is_resolved);
        self.is_unresolved = !is_resolved;
    }

    /// Completes what was delivered. The error has the name of the collector in front.
    pub fn finish(&mut self) -> io::Result<()> {
        let finished = self.outlet.finish();
        finished.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", self.name)))
    }

    /// Completes the message under construction, and sends what can leave at once.
    pub fn send_last(&mut self, on_refusal: OnRefusal, now: Moment) {
        self.outlet.complete(now);
        self.outlet.send(true, on_refusal);
    }

    /// What became of the records that were pushed.
    pub fn counters(&self) -> CollectorCounters {
        let state = if !self.outlet.is_connected() {
            CollectorState::Unconnected
        } else if self.outlet.is_refusing() {
            CollectorState::Refusing
        } else if self.is_unresolved {
            CollectorState::Unresolved
        } else {
            CollectorState::Up
        };
        CollectorCounters {
            taken_before: self.taken_before,
            pushed: self.pushed,
            handed_on: self.handed_on,
            resolves: self.resolves,
            resolve_failures: self.resolve_failures,
            state: state as u64,
            ..self.outlet.counters()
        }
    }

    /// What became of the records that were pushed, once it is removed: what waited is lost, and
    /// what had no answer counts as delivered.
    pub fn last_counters(&self) -> CollectorCounters {
        let mut counters = self.counters();
        counters.exported += counters.unanswered();
        let waiting = std::mem::take(&mut counters.waiting);
        counters.lost[LossReason::Removed as usize] += waiting.without_datagrams();
        counters
    }
}
