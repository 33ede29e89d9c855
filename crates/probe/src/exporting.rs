//! The exporter's thread: steps 6 and 7 of a packet's way, top to bottom.

use crate::clock::{Clock, LiveClock};
use crate::hand_over::{Batch, Inbox};
use crate::published::Published;
use crate::resolver::Resolution;
use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError};
use std::io;
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;
use xdprobe_export::{CollectorCounters, Distribution, Exporter, ExporterCounters, Moment, Tally};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Whose time the records go by. Sending always goes by the system's.
#[derive(Clone, Copy, Debug)]
pub enum ExportClock {
    /// The system's: a datagram leaves when its flush delay is over.
    Live,
    /// The packets': a datagram leaves when the next batch shows that its flush delay was over.
    Capture,
}

/// What the exporter's thread did, as it publishes it: after each batch, and before it sleeps.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct ExportingCounters {
    /// Records that workers handed over.
    pub taken: Tally,
    /// What became of them.
    pub exporter: ExporterCounters,
    /// When the oldest record came that waits for its datagram to fill or to leave, in ms of
    /// uptime; `u64::MAX` if none does.
    pub gathered_since_ms: u64,
    /// Up to when records have been taken as they were handed over, in ms of uptime: what is under
    /// way is younger.
    pub caught_up_ms: u64,
    /// 1 once it has ended.
    pub ended: u64,
}

/// Where the exporter's thread publishes what it counts.
pub struct ExporterBoard {
    /// How records are distributed over the collectors.
    pub distribution: Distribution,
    /// Of all collectors together.
    pub counters: Published<ExportingCounters>,
    /// Of each collector, with its name.
    pub collectors: Vec<(String, Published<CollectorCounters>)>,
}

impl ExporterBoard {
    /// A board for an exporter and its collectors.
    pub fn new(exporter: &Exporter) -> Self {
        let collectors = exporter
            .collectors()
            .iter()
            .map(|to| (to.name().to_owned(), Published::default()))
            .collect();
        Self {
            distribution: exporter.distribution(),
            counters: Published::default(),
            collectors,
        }
    }
}

/// The exporter with what it needs on its thread.
pub struct ExporterThread {
    exporter: Exporter,
    inbox: Inbox,
    resolutions: Receiver<Resolution>,
    clock: LiveClock,
    counters: ExportingCounters,
    board: Arc<ExporterBoard>,
}

impl ExporterThread {
    /// Exports what comes into `inbox`, and tells of it on `board`.
    pub fn new(
        exporter: Exporter,
        inbox: Inbox,
        resolutions: Receiver<Resolution>,
        clock: LiveClock,
        board: Arc<ExporterBoard>,
    ) -> Self {
        Self {
            exporter,
            inbox,
            resolutions,
            clock,
            counters: ExportingCounters::default(),
            board,
        }
    }

    /// Exports what arrives until all workers are gone, and returns whether all that it sent is
    /// complete.
    pub fn run(mut self, records_clock: ExportClock) -> io::Result<()> {
        let now = match records_clock {
            ExportClock::Live => self.run_live(),
            ExportClock::Capture => self.run_capture(),
        };
        self.exporter.flush(now);
        while self.send_or_wait(now) {}
        let finished = self.exporter.finish();
        self.counters.ended = 1;
        self.publish(self.counters.caught_up_ms);
        finished
    }

    fn run_live(&mut self) -> Moment {
        loop {
            let batch = match self.inbox.batches().try_recv() {
                Ok(batch) => Ok(batch),
                Err(TryRecvError::Disconnected) => Err(RecvTimeoutError::Disconnected),
                Err(TryRecvError::Empty) => self.send_all_and_wait(),
            };
            let now = self.begin_turn();
            match batch {
                Ok(batch) => self.export(batch, now),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return now,
            }
        }
    }

    /// Nothing is there to be pushed: sends all that may leave, and waits for a batch, or until
    /// something falls due.
    fn send_all_and_wait(&mut self) -> Result<Batch, RecvTimeoutError> {
        let now = self.begin_turn();
        let send_due_ms = self.exporter.send(true, now);
        self.publish(now.uptime_ms);
        let due_ms = [send_due_ms, self.exporter.flush_due_ms()]
            .into_iter()
            .flatten()
            .min();
        let wait_ms = due_ms
            .map_or(IDLE_MS, |due_ms| due_ms.saturating_sub(now.uptime_ms))
            .min(IDLE_MS);
        self.inbox
            .batches()
            .recv_timeout(Duration::from_millis(wait_ms))
    }

    fn run_capture(&mut self) -> Moment {
        let mut now = Moment::default();
        while let Ok(batch) = self.inbox.batches().recv() {
            now = batch.moment;
            let now_ms = self.clock.read().uptime_ms;
            self.tell_time(now_ms);
            self.exporter.flush_due(now);
            self.export(batch, now);
        }
        now
    }

    fn export(&mut self, batch: Batch, now: Moment) {
        if batch.patient {
            // Its worker waits for room rather than lose a record: so does what is behind it.
            while self.exporter.room() < batch.records.len() && self.send_or_wait(now) {}
        }
        batch
            .records
            .iter()
            .for_each(|record| self.counters.taken.add_record(record));
        self.exporter.push(&batch.records, now);
        let handed_over_ms = batch.moment.uptime_ms;
        self.inbox.give_back(batch);
        self.exporter.send(false, now);
        self.publish(handed_over_ms);
    }

    fn begin_turn(&mut self) -> Moment {
        let now = self.clock.read();
        self.tell_time(now.uptime_ms);
        self.exporter.flush_due(now);
        now
    }

    /// Tells the exporter the time that sending goes by, and which collectors have moved.
    fn tell_time(&mut self, now_ms: u64) {
        self.exporter.begin_turn(now_ms);
        while let Ok(Resolution { nth, way }) = self.resolutions.try_recv() {
            self.exporter.note_resolved(nth, way.is_ok());
            if let Ok(Some(transport)) = way {
                self.exporter.replace_transport(nth, Box::new(transport));
            }
        }
    }

    /// Sends what may leave and sleeps until more may; says whether any has still to wait.
    fn send_or_wait(&mut self, now: Moment) -> bool {
        let now_ms = self.clock.read().uptime_ms;
        self.tell_time(now_ms);
        let due_ms = self.exporter.send(true, now);
        if let Some(due_ms) = due_ms {
            self.publish(self.counters.caught_up_ms);
            sleep(Duration::from_millis(
                due_ms.saturating_sub(now_ms).min(IDLE_MS),
            ));
        }
        due_ms.is_some()
    }

    fn publish(&mut self, caught_up_ms: u64) {
        self.counters.exporter = self.exporter.counters();
        self.counters.gathered_since_ms = self.exporter.oldest_ms().unwrap_or(u64::MAX);
        self.counters.caught_up_ms = self.counters.caught_up_ms.max(caught_up_ms);
        self.board.counters.publish(&self.counters);
        for ((_, published), collector) in
            self.board.collectors.iter().zip(self.exporter.collectors())
        {
            published.publish(&collector.counters());
        }
    }
}

/// How long it sleeps with nothing to flush; a batch wakes it.
const IDLE_MS: u64 = 1_000;
