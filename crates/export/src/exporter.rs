//! [`Exporter`]: distributes records over collectors. Steps 6 and 7 of a packet's way: batch and
//! send.

use crate::balance::Balance;
use crate::collector::{CollectorCounters, CollectorId, LossReason};
use crate::details::{DetailTables, DetailedRecord};
use crate::failover::Failover;
use crate::moment::Moment;
use crate::outlet::{OnRefusal, Outlet};
use crate::pace::Pace;
use crate::recipient::Recipient;
use crate::tally::Tally;
use crate::totals::{CopyTotals, ExporterCounters};
use crate::transport::Transport;
use std::io;
use std::str::FromStr;
use std::sync::Arc;
use xdprobe_flow::FlowRecord;
use xdprobe_netflow::v5::SamplingInterval;

/// Distributes records over collectors, each of which has an [`Outlet`] of its own.
///
/// Each turn: [`begin_turn`](Self::begin_turn), [`flush_due`](Self::flush_due),
/// [`push`](Self::push), [`send`](Self::send). Between two turns collectors may be added and
/// removed. Records and headers go by the [`Moment`] at which they are pushed; pacing and waiting
/// for a socket go by the turn's own time, so that the export of a capture file is the same octets
/// however long it takes.
pub struct Exporter {
    distributor: Distributor,
    recipients: Vec<Recipient>,
    next_id: CollectorId,
    tables: Arc<DetailTables>,
    /// The records that are being pushed, with their details.
    detailed: Vec<DetailedRecord>,
    /// The time of the turn, in ms.
    now_ms: u64,
    /// All records that were pushed.
    taken: Tally,
    /// What no present collector accounts for: records that were pushed when there was none, and
    /// where each record goes to one, those of the collectors that were removed.
    removed: ExporterCounters,
}

/// Which collector gets which record.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Distribution {
    /// Every collector gets every record.
    #[default]
    Copy,
    /// Each record goes to one collector, and all records of one flow key to the same, even if it
    /// refuses them.
    Balance,
    /// All records go to the first collector that does not refuse them.
    Failover,
}

/// A [`Distribution`] with the state that it keeps.
enum Distributor {
    Copy(Box<CopyTotals>),
    Balance(Balance),
    Failover(Failover),
}

/// A collector that was removed.
#[derive(Debug)]
pub struct RemovedCollector {
    /// Its name.
    pub name: String,
    /// What became of all records that were meant for it.
    pub counters: CollectorCounters,
    /// Whether what it was sent is complete.
    pub finished: io::Result<()>,
}

/// Records that get their details at a time.
const DETAILED_MAX: usize = 256;

impl Exporter {
    /// An exporter that has no collector yet.
    #[must_use]
    pub fn new(distribution: Distribution) -> Self {
        Self {
            distributor: match distribution {
                Distribution::Copy => Distributor::Copy(Box::default()),
                Distribution::Balance => Distributor::Balance(Balance::new()),
                Distribution::Failover => Distributor::Failover(Failover::default()),
            },
            recipients: Vec::new(),
            next_id: CollectorId::FIRST,
            tables: Arc::default(),
            detailed: Vec::with_capacity(DETAILED_MAX),
            now_ms: 0,
            taken: Tally::default(),
            removed: ExporterCounters::default(),
        }
    }

    /// The same exporter, with details that come from `tables` as they are when a record is pushed.
    #[must_use]
    pub fn with_details(self, tables: Arc<DetailTables>) -> Self {
        Self { tables, ..self }
    }

    /// Adds a collector behind those that there are. It gets records from here on.
    pub fn add(&mut self, name: impl Into<String>, mut outlet: Box<dyn Outlet>) -> CollectorId {
        let id = self.next_id;
        self.next_id = id.next();
        self.settle_copies();
        outlet.begin_turn(self.now_ms);
        let recipient = Recipient::new(id, name.into(), outlet, self.taken);
        self.recipients.push(recipient);
        match &mut self.distributor {
            Distributor::Copy(totals) => totals.add(id),
            Distributor::Balance(_) => {}
            Distributor::Failover(failover) => failover.add(),
        }
        id
    }

    /// Removes a collector; returns none if it was removed before.
    ///
    /// What can leave at once is sent. In balance and failover the other collectors get what still
    /// waits, if there are any and its outlet keeps records; otherwise that is lost, by
    /// [`LossReason::Removed`]. `now` is no earlier than any uptime in the records that wait.
    pub fn remove(&mut self, id: CollectorId, now: Moment) -> Option<RemovedCollector> {
        let nth = self.position(id)?;
        self.settle_copies();
        let mut removed = self.recipients.remove(nth);
        if let Distributor::Failover(failover) = &mut self.distributor {
            failover.remove(nth);
        }
        let is_copy = matches!(self.distributor, Distributor::Copy(_));
        if is_copy || self.recipients.is_empty() {
            removed.send_last(OnRefusal::GoOn, now);
        } else {
            removed.send_last(OnRefusal::Stop, now);
            removed.take_back(|records, tally| self.give(records, tally, now));
        }
        let finished = removed.finish();
        let counters = removed.last_counters();
        match &mut self.distributor {
            Distributor::Copy(totals) => totals.remove(id, (&counters).into()),
            Distributor::Balance(_) | Distributor::Failover(_) => {
                self.removed += (&counters).into();
            }
        }
        Some(RemovedCollector {
            name: removed.name,
            counters,
            finished,
        })
    }

    /// Begins a turn, and sets the time that sending goes by, in ms of any epoch; it never
    /// decreases.
    pub fn begin_turn(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        for recipient in &mut self.recipients {
            recipient.outlet.begin_turn(now_ms);
        }
        if let Distributor::Failover(failover) = &mut self.distributor {
            failover.begin_turn(now_ms);
        }
    }

    /// Takes records, and gives them to the collectors that they are meant for. `now` is no earlier
    /// than any uptime in them.
    pub fn push(&mut self, records: &[FlowRecord], now: Moment) {
        debug_assert!(
            records
                .iter()
                .all(|record| record.first_ms <= record.last_ms && record.last_ms <= now.uptime_ms)
        );
        let mut detailed = std::mem::take(&mut self.detailed);
        for records in records.chunks(DETAILED_MAX) {
            detailed.clear();
            self.tables.detail(records, &mut detailed);
            let tally = DetailedRecord::tally(&detailed);
            self.taken += tally;
            self.give(&detailed, tally, now);
        }
        self.detailed = detailed;
    }

    /// Records that can be pushed before any is lost, at least.
    #[must_use]
    pub fn room(&self) -> usize {
        let rooms = self
            .recipients
            .iter()
            .map(|recipient| recipient.outlet.room());
        rooms.min().unwrap_or(usize::MAX)
    }

    /// Arrival time of the oldest record still waiting, in ms of uptime; none if none waits.
    #[must_use]
    pub fn oldest_ms(&self) -> Option<u64> {
        self.recipients
            .iter()
            .filter_map(|recipient| recipient.outlet.oldest_ms())
            .min()
    }

    /// When the next message under construction has to be complete, in ms of uptime; none if there
    /// is none.
    #[must_use]
    pub fn flush_due_ms(&self) -> Option<u64> {
        self.recipients
            .iter()
            .filter_map(|recipient| recipient.outlet.flush_due_ms())
            .min()
    }

    /// Completes the messages whose flush delay is over at `now`, and dates each by the moment at
    /// which its delay was over, so that the export of a capture file does not depend on when this
    /// is called.
    pub fn flush_due(&mut self, now: Moment) {
        for recipient in &mut self.recipients {
            let due_ms = recipient.outlet.flush_due_ms();
            if let Some(due_ms) = due_ms.filter(|due_ms| *due_ms <= now.uptime_ms) {
                recipient.outlet.complete(now.at(due_ms));
            }
        }
    }

    /// Completes all messages under construction.
    pub fn flush(&mut self, now: Moment) {
        for recipient in &mut self.recipients {
            recipient.outlet.complete(now);
        }
    }

    /// Sends what may leave: worthwhile quantities only, or with `all` everything that is complete.
    /// Returns when to call again, in ms of the turn's time, if something has to wait for its pace
    /// or its socket. `now` dates what a refusing collector leaves to another.
    pub fn send(&mut self, all: bool, now: Moment) -> Option<u64> {
        if let Distributor::Failover(failover) = &mut self.distributor {
            return failover.send(&mut self.recipients, all, now);
        }
        self.recipients
            .iter_mut()
            .filter_map(|recipient| recipient.outlet.send(all, OnRefusal::GoOn))
            .min()
    }

    /// Sends what may leave at once, and loses what would have to wait, by [`LossReason::Stop`].
    /// `now` is no earlier than any uptime in the records that wait.
    pub fn abandon(&mut self, now: Moment) {
        self.flush(now);
        self.send(true, now);
        for recipient in &mut self.recipients {
            recipient.outlet.abandon();
        }
    }

    /// States another sampling interval with the records that are pushed from here on. Messages
    /// under construction are completed with the present one.
    pub fn set_sampling(&mut self, sampling: SamplingInterval, now: Moment) {
        self.flush(now);
        for recipient in &mut self.recipients {
            recipient.outlet.set_sampling(sampling);
        }
    }

    /// Sends to each collector at another pace from here on.
    pub fn set_pace(&mut self, pace: Pace) {
        for recipient in &mut self.recipients {
            recipient.outlet.set_pace(pace);
        }
    }

    /// Sends to a collector over another transport from here on. Nothing happens if it was removed.
    pub fn replace_transport(&mut self, id: CollectorId, transport: Box<dyn Transport>) {
        if let Some(nth) = self.position(id) {
            self.recipients[nth].outlet.replace_transport(transport);
        }
    }

    /// Notes that the name of a collector was resolved again, or could not be. Nothing happens if
    /// it was removed.
    pub fn note_resolved(&mut self, id: CollectorId, is_resolved: bool) {
        if let Some(nth) = self.position(id) {
            self.recipients[nth].note_resolved(is_resolved);
        }
    }

    /// Completes what each collector was sent. Everything has left, and no record follows.
    ///
    /// # Errors
    ///
    /// What prevented it at one of them, with its name; the others are completed all the same.
    pub fn finish(&mut self) -> io::Result<()> {
        let finished: Vec<_> = self.recipients.iter_mut().map(Recipient::finish).collect();
        finished.into_iter().collect()
    }

    /// All records that were pushed.
    #[must_use]
    pub fn taken(&self) -> Tally {
        self.taken
    }

    /// What became of the records that were pushed; those that wait are in no count. No number in
    /// it ever falls, and once nothing waits they add up to [`taken`](Self::taken), whichever
    /// collectors came and went.
    ///
    /// Where every collector gets every record, this is what became of them at the collector that
    /// got most.
    pub fn counters(&mut self) -> ExporterCounters {
        self.settle_copies();
        if let Distributor::Copy(totals) = &mut self.distributor {
            return self.removed + totals.total();
        }
        self.recipients.iter().fold(self.removed, |sum, recipient| {
            sum + ExporterCounters::from(&recipient.counters())
        })
    }

    /// How records are distributed.
    #[must_use]
    pub fn distribution(&self) -> Distribution {
        match self.distributor {
            Distributor::Copy(_) => Distribution::Copy,
            Distributor::Balance(_) => Distribution::Balance,
            Distributor::Failover(_) => Distribution::Failover,
        }
    }

    /// The collectors in the order in which they were added, each with its name and its counters.
    pub fn collectors(&self) -> impl Iterator<Item = (CollectorId, &str, CollectorCounters)> {
        self.recipients
            .iter()
            .map(|recipient| (recipient.id, recipient.name.as_str(), recipient.counters()))
    }

    /// Gives records to the collectors that they are meant for.
    fn give(&mut self, records: &[DetailedRecord], tally: Tally, now: Moment) {
        let recipients = &mut self.recipients[..];
        if recipients.is_empty() {
            self.removed.lost[LossReason::Removed as usize] += tally;
            return;
        }
        match &mut self.distributor {
            Distributor::Copy(totals) => {
                totals.push(tally);
                for recipient in recipients {
                    recipient.push(records, tally, now);
                }
            }
            Distributor::Balance(balance) => balance.push(recipients, records, now),
            Distributor::Failover(failover) => failover.push(recipients, records, tally, now),
        }
    }

    /// Gives the counters of all collectors to the totals of copies.
    fn settle_copies(&mut self) {
        if let Distributor::Copy(totals) = &mut self.distributor {
            for recipient in &self.recipients {
                totals.settle(recipient.id, (&recipient.counters()).into());
            }
        }
    }

    fn position(&self, id: CollectorId) -> Option<usize> {
        self.recipients
            .iter()
            .position(|recipient| recipient.id == id)
    }
}

impl Distribution {
    /// The name that options, reports and metrics use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::Balance => "balance",
            Self::Failover => "failover",
        }
    }
}

impl FromStr for Distribution {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Copy, Self::Balance, Self::Failover]
            .into_iter()
            .find(|distribution| distribution.name() == text)
            .ok_or_else(|| {
                format!("'{text}' is not a distribution: expected copy, balance or failover")
            })
    }
}
