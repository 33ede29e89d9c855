//! Step 5 of a packet's way: expired records go to the exporter in batches, and the emptied batches
//! come back.
//!
//! All batches are made at the start and go round, so nothing is allocated later and the number of
//! records under way is bounded. A live worker that finds no empty batch drops the record and
//! counts it with its packets: back-pressure never reaches a network card. The worker of a capture
//! file waits.

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};
use xdprobe_export::{Moment, Tally};
use xdprobe_flow::{FlowRecord, RecordSink};

/// Records in a batch.
pub const BATCH_RECORDS: usize = 256;
/// Batches of each worker: 65 536 records, 66 ms of a million new flows a second.
const BATCHES: usize = 256;
/// The most records of one worker that are on their way between it and the exporter.
pub const UNDER_WAY_MAX: u64 = (BATCHES * BATCH_RECORDS) as u64;
/// Octets of memory of each worker's batches.
pub const BATCHES_OCTETS: u64 = UNDER_WAY_MAX * size_of::<FlowRecord>() as u64;
/// How long a worker keeps a batch that is not full, by the clock of its records, in ms: the first
/// turn after that hands it over.
const KEPT_MS: u64 = 20;

/// Records on their way to the exporter.
pub struct Batch {
    /// The records, oldest first.
    pub records: Vec<FlowRecord>,
    /// When they were handed over.
    pub moment: Moment,
    /// Whether its worker waits rather than lose a record.
    pub patient: bool,
    /// Whether records may begin before uptime began, or end after `moment`.
    pub may_stray: bool,
    /// Where the emptied batch goes back to.
    worker: usize,
}

/// What a worker does where there is no empty batch.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Patience {
    /// Drop the record and count it.
    Drop,
    /// Wait for one.
    Wait,
}

/// A worker's end: the sink for the records that its flow cache expires.
pub struct Outbox {
    full: Sender<Batch>,
    empty: Receiver<Vec<FlowRecord>>,
    worker: usize,
    patience: Patience,
    /// The batch under way; without capacity where there was no empty one.
    batch: Vec<FlowRecord>,
    /// When the turn under way began, and when the oldest record of the batch came.
    now: Moment,
    oldest_ms: u64,
    may_stray: bool,
    pushed: Tally,
    dropped: Tally,
    /// The exporter died: what is pushed is in no count from here on, and the ledger names it.
    is_cut_off: bool,
}

/// The exporter's end.
pub struct Inbox {
    full: Receiver<Batch>,
    empty: Vec<Sender<Vec<FlowRecord>>>,
}

/// The channels between `workers` workers and the exporter.
pub fn channels(workers: usize, patience: Patience) -> (Vec<Outbox>, Inbox) {
    let (full, inbox) = bounded(workers * BATCHES);
    let (outboxes, empty) = (0..workers)
        .map(|worker| outbox(worker, patience, full.clone()))
        .unzip();
    (outboxes, Inbox { full: inbox, empty })
}

fn outbox(
    worker: usize,
    patience: Patience,
    full: Sender<Batch>,
) -> (Outbox, Sender<Vec<FlowRecord>>) {
    let (give_back, empty) = bounded(BATCHES);
    for _ in 1..BATCHES {
        // There is room for all of them, and the receiver is right here.
        let _ = give_back.send(Vec::with_capacity(BATCH_RECORDS));
    }
    let batch = Vec::with_capacity(BATCH_RECORDS);
    let (now, pushed, dropped) = (Moment::default(), Tally::default(), Tally::default());
    (
        Outbox {
            full,
            empty,
            worker,
            patience,
            batch,
            now,
            oldest_ms: 0,
            may_stray: false,
            pushed,
            dropped,
            is_cut_off: false,
        },
        give_back,
    )
}

impl Outbox {
    /// Sets the time: records pushed from here on are handed over at `now` or later. A batch that
    /// has waited for long enough is handed over first, at the time before: the clock of a capture
    /// may leap by hours.
    pub fn begin_turn(&mut self, now: Moment) {
        if !self.batch.is_empty() && now.uptime_ms.saturating_sub(self.oldest_ms) >= KEPT_MS {
            self.hand_over();
        }
        self.now = now;
    }

    /// Notes whether records may begin before uptime began, or end after the time of the turn.
    pub fn set_may_stray(&mut self, may_stray: bool) {
        self.may_stray = may_stray;
    }

    /// Hands the batch under way over.
    pub fn hand_over(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let batch = Batch {
            records: std::mem::take(&mut self.batch),
            moment: self.now,
            patient: self.patience == Patience::Wait,
            may_stray: self.may_stray,
            worker: self.worker,
        };
        // There is room for as many batches as there are: only where the exporter died, none is
        // taken.
        self.is_cut_off |= self.full.try_send(batch).is_err();
    }

    /// Waits for empty batches from here on: a worker that stops has no packets to lose meanwhile.
    pub fn wait_from_now_on(&mut self) {
        self.patience = Patience::Wait;
    }

    /// Records that were pushed: handed over, dropped or kept.
    pub fn pushed(&self) -> Tally {
        self.pushed
    }

    /// Records that wait to be handed over, and when the oldest of them came, in ms of uptime.
    pub fn kept(&self) -> (u64, u64) {
        (self.batch.len() as u64, self.oldest_ms)
    }

    /// Whether half of the batches are empty: enough for what an operator asks to expire now, with
    /// the other half left for the traffic.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.empty.len() >= BATCHES / 2
    }

    /// Records that were dropped because no empty batch was left.
    pub fn dropped(&self) -> Tally {
        self.dropped
    }

    /// Begins a batch with the next record; false if there is no empty one.
    fn begin_batch(&mut self) -> bool {
        let has_room = self.batch.capacity() > 0 || self.take_empty_batch();
        if has_room {
            self.oldest_ms = self.now.uptime_ms;
        }
        has_room
    }

    fn take_empty_batch(&mut self) -> bool {
        let empty = match self.patience {
            Patience::Wait => self.empty.recv().map_err(TryRecvError::from),
            Patience::Drop => self.empty.try_recv(),
        };
        self.is_cut_off |= empty == Err(TryRecvError::Disconnected);
        empty.map(|batch| self.batch = batch).is_ok()
    }
}

impl RecordSink for Outbox {
    fn push(&mut self, record: FlowRecord) {
        self.pushed.add_record(&record);
        if self.batch.is_empty() && !self.begin_batch() {
            if !self.is_cut_off {
                self.dropped.add_record(&record);
            }
            return;
        }
        self.batch.push(record);
        if self.batch.len() == BATCH_RECORDS {
            self.hand_over();
        }
    }
}

impl Inbox {
    /// Where the batches arrive, in the order in which they were handed over; closed once all
    /// workers are gone.
    pub fn batches(&self) -> &Receiver<Batch> {
        &self.full
    }

    /// Sends a batch back to its worker, emptied.
    pub fn give_back(&self, batch: Batch) {
        let Batch {
            mut records,
            worker,
            ..
        } = batch;
        records.clear();
        // A worker that has ended takes none back.
        let _ = self.empty[worker].try_send(records);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use xdprobe_flow::{EndReason, KeyV4, Volume};

    fn record(packets: u64) -> FlowRecord {
        let key = KeyV4 {
            source: Ipv4Addr::LOCALHOST,
            destination: Ipv4Addr::LOCALHOST,
            source_port: 1,
            destination_port: 2,
            protocol: 6,
            tos: 0,
            point: 0,
        };
        FlowRecord {
            key,
            volume: Volume {
                packets,
                octets: packets * 40,
            },
            first_ms: 0,
            last_ms: 0,
            tcp_flags: 0,
            end: EndReason::Idle,
        }
    }

    fn moment(uptime_ms: u64) -> Moment {
        Moment {
            uptime_ms,
            unix_ns: 0,
        }
    }

    #[test]
    fn batches_leave_when_full_or_old_and_come_back_empty() {
        let (mut outboxes, inbox) = channels(1, Patience::Drop);
        let outbox = &mut outboxes[0];
        outbox.begin_turn(moment(100));
        for _ in 0..=BATCH_RECORDS {
            outbox.push(record(1));
        }
        let batch = inbox.batches().try_recv().unwrap();
        assert_eq!(batch.records.len(), BATCH_RECORDS);
        inbox.give_back(batch);
        outbox.begin_turn(moment(100 + KEPT_MS - 1));
        assert!(inbox.batches().is_empty());
        outbox.begin_turn(moment(100 + KEPT_MS));
        assert_eq!(inbox.batches().try_recv().unwrap().records.len(), 1);
    }

    #[test]
    fn records_are_handed_over_at_the_time_before_the_clock_leaps() {
        for patience in [Patience::Drop, Patience::Wait] {
            let (mut outboxes, inbox) = channels(1, patience);
            let outbox = &mut outboxes[0];
            outbox.begin_turn(moment(100));
            outbox.push(record(1));
            outbox.begin_turn(moment(101));
            outbox.push(record(1));
            outbox.begin_turn(moment(3_600_000));
            let batch = inbox.batches().try_recv().unwrap();
            assert_eq!((batch.records.len(), batch.moment.uptime_ms), (2, 101));
            assert_eq!(outbox.kept().0, 0);
        }
    }

    #[test]
    fn an_exporter_that_takes_nothing_costs_records_that_are_counted() {
        let (mut outboxes, inbox) = channels(1, Patience::Drop);
        let outbox = &mut outboxes[0];
        let room = BATCHES * BATCH_RECORDS;
        for _ in 0..room + 7 {
            outbox.push(record(3));
        }
        assert_eq!(outbox.dropped().records, 7);
        assert_eq!(
            (
                outbox.dropped().volume.packets,
                outbox.dropped().volume.octets
            ),
            (21, 840)
        );
        let batch = inbox.batches().try_recv().unwrap();
        inbox.give_back(batch);
        outbox.push(record(1));
        assert_eq!(outbox.dropped().records, 7);
    }

    #[test]
    fn a_capture_file_waits_for_the_exporter() {
        let (mut outboxes, inbox) = channels(1, Patience::Wait);
        let mut outbox = outboxes.remove(0);
        let exporter = std::thread::Builder::new()
            .name("exporter".to_owned())
            .spawn(move || {
                let mut records = 0;
                while let Ok(batch) = inbox.batches().recv() {
                    records += batch.records.len();
                    inbox.give_back(batch);
                }
                records
            });
        let records = 3 * BATCHES * BATCH_RECORDS;
        for _ in 0..records {
            outbox.push(record(1));
        }
        outbox.hand_over();
        assert_eq!(outbox.dropped().records, 0);
        drop(outbox);
        assert_eq!(exporter.unwrap().join().unwrap(), records);
    }
}
