//! The exporter's thread: steps 6 and 7 of a packet's way, top to bottom.

use crate::clock::{Clock, LiveClock};
use crate::hand_over::{Batch, Inbox};
use crate::published::Published;
use crossbeam_channel::{RecvTimeoutError, TryRecvError};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use xdprobe_export::{CollectorCounters, Exporter, ExporterCounters, Moment, Tally};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Whose time the exporter goes by.
#[derive(Clone, Copy, Debug)]
pub enum ExportClock {
    /// The system's: a datagram leaves when its flush delay is over.
    Live(LiveClock),
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
    /// When the oldest record came that waits for its datagram to fill, in ms of uptime; `u64::MAX` if none does.
    pub gathered_since_ms: u64,
    /// Up to when records have been taken as they were handed over, in ms of uptime: what is under way is younger.
    pub caught_up_ms: u64,
    /// 1 once it has ended.
    pub ended: u64,
}

/// Where the exporter's thread publishes what it counts.
pub struct ExporterBoard {
    /// Of all collectors together.
    pub counters: Published<ExportingCounters>,
    /// Of each collector, with its name.
    pub collectors: Vec<(String, Published<CollectorCounters>)>,
}

impl ExporterBoard {
    /// A board for an exporter and its collectors.
    pub fn new(exporter: &Exporter) -> Self {
        let collectors = exporter.collectors().iter().map(|to| (to.name().to_owned(), Published::new())).collect();
        Self { counters: Published::new(), collectors }
    }
}

/// Exports what arrives until all workers are gone, and returns whether all that it sent is complete.
pub fn run(exporter: Exporter, inbox: &Inbox, clock: ExportClock, board: Arc<ExporterBoard>) -> io::Result<()> {
    let mut thread = ExporterThread { exporter, board, counters: ExportingCounters::default() };
    let finished = match clock {
        ExportClock::Live(clock) => thread.run_live(inbox, clock),
        ExportClock::Capture => thread.run_capture(inbox),
    };
    thread.counters.ended = 1;
    thread.publish(thread.counters.caught_up_ms);
    finished
}

struct ExporterThread {
    exporter: Exporter,
    counters: ExportingCounters,
    board: Arc<ExporterBoard>,
}

impl ExporterThread {
    fn run_live(&mut self, inbox: &Inbox, mut clock: LiveClock) -> io::Result<()> {
        loop {
            let batch = match inbox.batches().try_recv() {
                Ok(batch) => Ok(batch),
                Err(TryRecvError::Disconnected) => Err(RecvTimeoutError::Disconnected),
                Err(TryRecvError::Empty) => {
                    let now_ms = clock.read().uptime_ms;
                    self.publish(now_ms);
                    let due_ms = self.exporter.flush_due_ms().map_or(IDLE_MS, |due_ms| due_ms.saturating_sub(now_ms));
                    inbox.batches().recv_timeout(Duration::from_millis(due_ms))
                }
            };
            let now = clock.read();
            self.exporter.flush_due(now);
            match batch {
                Ok(batch) => self.export(batch, now, inbox),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return self.exporter.finish(now),
            }
        }
    }

    fn run_capture(&mut self, inbox: &Inbox) -> io::Result<()> {
        let mut now = Moment::default();
        for batch in inbox.batches() {
            now = batch.moment;
            self.exporter.flush_due(now);
            self.export(batch, now, inbox);
        }
        self.exporter.finish(now)
    }

    fn export(&mut self, batch: Batch, now: Moment, inbox: &Inbox) {
        for record in &batch.records {
            self.counters.taken.add_record(record);
            self.exporter.push(record, now);
        }
        let handed_over_ms = batch.moment.uptime_ms;
        inbox.give_back(batch);
        self.publish(handed_over_ms);
    }

    fn publish(&mut self, caught_up_ms: u64) {
        self.counters.exporter = *self.exporter.counters();
        self.counters.gathered_since_ms = self.exporter.oldest_ms().unwrap_or(u64::MAX);
        self.counters.caught_up_ms = self.counters.caught_up_ms.max(caught_up_ms);
        self.board.counters.publish(&self.counters);
        for ((_, published), collector) in self.board.collectors.iter().zip(self.exporter.collectors()) {
            published.publish(collector.counters());
        }
    }
}

/// How long it sleeps with nothing to flush; a batch wakes it.
const IDLE_MS: u64 = 1_000;
