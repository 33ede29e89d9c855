//! The exporter's thread: steps 6 and 7 of a packet's way, top to bottom.

use crate::clock::{Clock, LiveClock};
use crate::dating::{self, Dating};
use crate::hand_over::{Batch, Inbox};
use crate::published::Published;
use crate::regime::Regime;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, select};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use xdprobe_export::netflow::v5::SamplingInterval;
use xdprobe_export::{
    CollectorCounters, CollectorId, Distribution, Exporter, ExporterCounters, Moment, Outlet, Pace,
    Tally, UdpTransport,
};
use xdprobe_flow::FlowRecord;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The exporter with what it needs on its thread.
pub struct ExporterThread {
    exporter: Exporter,
    inbox: Inbox,
    requests: Receiver<ExporterRequest>,
    started: Receiver<()>,
    clock: LiveClock,
    counters: ExportingCounters,
    board: Arc<ExporterBoard>,
    /// After this uptime, in ms, what cannot leave is lost.
    end_by_ms: u64,
    /// The collectors' places on the board.
    collectors: Vec<CollectorBoard>,
}

/// What the exporter's thread can be asked.
pub enum ExporterRequest {
    /// A collector's name was resolved again: a new socket to it, or none where the old one will
    /// do; or it has no address.
    Resolved(CollectorId, io::Result<Option<UdpTransport>>),
    /// The first socket to a collector that there was no path to at the start.
    Connected(CollectorId, UdpTransport),
    /// Export to one more collector, and report its id.
    Add {
        /// What reports and metrics call it.
        name: String,
        /// How records get there.
        outlet: Box<dyn Outlet>,
        /// Where its id goes.
        reply: Sender<CollectorId>,
    },
    /// State another sampling interval with the records that are taken from here on.
    SetSampling(SamplingInterval),
    /// Send to each collector at another pace.
    SetPace(Pace),
    /// Export to a collector no longer; what waits for it is sent now, or lost.
    Remove(CollectorId),
    /// Lose what cannot leave by this uptime, in ms, rather than wait.
    EndBy(u64),
}

/// What the exporter's thread did, published after each batch and before it sleeps.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct ExportingCounters {
    /// Records that workers handed over.
    pub taken: Tally,
    /// What became of them.
    pub exporter: ExporterCounters,
    /// Arrival time of the oldest record that waits for its datagram to fill or to leave, in ms of
    /// uptime; `u64::MAX` if none waits.
    pub gathered_since_ms: u64,
    /// Records handed over before this uptime, in ms, have been taken: what is under way is
    /// younger.
    pub caught_up_ms: u64,
    /// 1 once the thread has ended.
    pub ended: u64,
}

/// Where the exporter's thread publishes what it counts.
pub struct ExporterBoard {
    /// How records are distributed over the collectors.
    pub distribution: Distribution,
    /// What all collectors together were sent.
    pub counters: Published<ExportingCounters>,
    /// What each was sent; locked only when collectors come and go, and to read.
    collectors: Mutex<Vec<CollectorBoard>>,
}

/// Where what one collector was sent is published.
#[derive(Clone)]
pub struct CollectorBoard {
    /// The collector.
    pub id: CollectorId,
    /// What reports and metrics call it.
    pub name: Arc<str>,
    /// What it was sent.
    pub counters: Arc<Published<CollectorCounters>>,
}

/// How long the thread sleeps with nothing to flush, in ms; a batch or a request wakes it.
const IDLE_MS: u64 = 1_000;

/// What woke the thread.
enum Woken {
    /// A batch arrived.
    Batch(Batch),
    /// A request arrived, or something is due.
    Due,
    /// Every worker has ended.
    End,
}

impl ExporterThread {
    /// Exports what comes into `inbox`, does what `requests` ask, and publishes what it counts on
    /// the board. Nothing is completed unless `started` gets a message: if its sender is dropped,
    /// the start has failed, and files that were begun are removed.
    pub fn new(
        exporter: Exporter,
        inbox: Inbox,
        requests: Receiver<ExporterRequest>,
        started: Receiver<()>,
        clock: LiveClock,
    ) -> Self {
        let board = ExporterBoard {
            distribution: exporter.distribution(),
            counters: Published::default(),
            collectors: Mutex::default(),
        };
        let mut this = Self {
            exporter,
            inbox,
            requests,
            started,
            clock,
            counters: ExportingCounters::default(),
            board: Arc::new(board),
            end_by_ms: u64::MAX,
            collectors: Vec::new(),
        };
        this.renew_board();
        this
    }

    /// Where it publishes what it counts.
    #[must_use]
    pub fn board(&self) -> Arc<ExporterBoard> {
        Arc::clone(&self.board)
    }

    /// Exports what arrives until every worker has ended.
    ///
    /// # Errors
    ///
    /// Why what was exported is not complete.
    ///
    /// # Panics
    ///
    /// As its parts do. What was exported is completed first, and what was counted published.
    pub fn run(mut self, regime: Regime) -> io::Result<()> {
        catch_unwind(AssertUnwindSafe(|| self.run_to_the_end(regime))).unwrap_or_else(|panic| {
            // What it says is less than the panic.
            let _ = self.exporter.finish();
            self.publish(self.counters.caught_up_ms);
            resume_unwind(panic)
        })
    }

    fn run_to_the_end(&mut self, regime: Regime) -> io::Result<()> {
        let now = match regime {
            Regime::Live => self.run_live(),
            Regime::Replay => self.run_replay(),
        };
        self.exporter.flush(now);
        while self.send_or_wait(now) {}
        if self.started.recv().is_err() {
            return Ok(());
        }
        let finished = self.exporter.finish();
        self.counters.ended = 1;
        self.publish(self.counters.caught_up_ms);
        finished
    }

    /// Records go by the system's time: a datagram leaves when its flush delay is over.
    fn run_live(&mut self) -> Moment {
        loop {
            let woken = match self.inbox.batches().try_recv() {
                Ok(batch) => Woken::Batch(batch),
                Err(_) => self.send_all_and_wait(),
            };
            let now = self.begin_turn();
            match woken {
                Woken::Batch(batch) => self.export(batch, now),
                Woken::Due => {}
                Woken::End => return now,
            }
        }
    }

    /// With no batch to push: sends all that may leave, and waits for a batch or a request, or
    /// until something falls due.
    fn send_all_and_wait(&mut self) -> Woken {
        let now = self.begin_turn();
        let send_due_ms = self.exporter.send(true, now);
        self.publish(now.uptime_ms);
        let due_ms = [send_due_ms, self.exporter.flush_due_ms()];
        let due_ms = due_ms.into_iter().flatten().min();
        let wait_ms = due_ms
            .map_or(IDLE_MS, |due_ms| due_ms.saturating_sub(now.uptime_ms))
            .min(IDLE_MS);
        self.wait(now, Duration::from_millis(wait_ms))
    }

    fn wait(&mut self, now: Moment, timeout: Duration) -> Woken {
        select! {
            recv(self.inbox.batches()) -> batch => batch.map_or(Woken::End, Woken::Batch),
            recv(self.requests) -> request => {
                match request {
                    Ok(request) => self.carry_out(request, now),
                    // No sender is left, so no request will wake the thread again.
                    Err(_) => self.requests = crossbeam_channel::never(),
                }
                Woken::Due
            }
            default(timeout) => Woken::Due,
        }
    }

    /// Records go by the packets' time: a datagram leaves when the next batch shows that its flush
    /// delay was over.
    fn run_replay(&mut self) -> Moment {
        let mut now = Moment::default();
        loop {
            match self.wait(now, Duration::from_millis(IDLE_MS)) {
                Woken::Due => {}
                Woken::End => return now,
                Woken::Batch(batch) => {
                    if now.at(batch.moment.uptime_ms) != batch.moment {
                        // The packets' clock was set: what waits is dated by the old one, also if
                        // it is left to another collector.
                        self.exporter.flush(now);
                        while self.send_or_wait(now) {}
                    }
                    now = batch.moment;
                    self.begin_turn_at(now);
                    self.exporter.flush_due(now);
                    self.export(batch, now);
                }
            }
        }
    }

    fn export(&mut self, mut batch: Batch, now: Moment) {
        if batch.patient {
            self.wait_for_room(batch.records.len(), now);
        }
        batch
            .records
            .iter()
            .for_each(|record| self.counters.taken.add_record(record));
        if batch.may_stray {
            self.push_strays(&mut batch.records, now);
        } else {
            self.exporter.push(&batch.records, now);
        }
        let handed_over_ms = batch.moment.uptime_ms;
        self.inbox.give_back(batch);
        self.exporter.send(false, now);
        self.publish(handed_over_ms);
    }

    /// Pushes records of a capture file of which some may be too far off the clock for its headers:
    /// those go in datagrams with a date of their own.
    fn push_strays(&mut self, records: &mut [FlowRecord], now: Moment) {
        let mut left = records;
        while !left.is_empty() {
            let Dating {
                count,
                moment,
                moved_ms,
            } = dating::of_first(left, now);
            let (records, rest) = left.split_at_mut(count);
            left = rest;
            if moment == now {
                self.exporter.push(records, now);
                continue;
            }
            self.exporter.flush(now);
            while self.send_or_wait(now) {}
            for record in &mut *records {
                record.first_ms = record.first_ms.wrapping_add(moved_ms);
                record.last_ms = record.last_ms.wrapping_add(moved_ms);
            }
            self.exporter.push(records, moment);
            self.exporter.flush(moment);
            while self.send_or_wait(moment) {}
        }
    }

    /// A worker that waits for room rather than lose a record is waited for behind it as well.
    fn wait_for_room(&mut self, records: usize, now: Moment) {
        while self.exporter.room() < records && self.send_or_wait(now) {}
    }

    fn begin_turn(&mut self) -> Moment {
        let now = self.clock.read();
        self.exporter.begin_turn(now.uptime_ms);
        self.carry_out_all(now);
        self.exporter.flush_due(now);
        now
    }

    /// Sending goes by the system's time in either regime; `now` is the records'.
    fn begin_turn_at(&mut self, now: Moment) -> u64 {
        let now_ms = self.clock.read().uptime_ms;
        self.exporter.begin_turn(now_ms);
        self.carry_out_all(now);
        now_ms
    }

    /// Sends what may leave and sleeps until more may; `true` where some has still to wait. Once
    /// the time for that is over, it is lost.
    fn send_or_wait(&mut self, now: Moment) -> bool {
        let now_ms = self.begin_turn_at(now);
        let Some(due_ms) = self.exporter.send(true, now) else {
            return false;
        };
        if now_ms >= self.end_by_ms {
            self.exporter.abandon(now);
        }
        self.publish(self.counters.caught_up_ms);
        if now_ms >= self.end_by_ms {
            return false;
        }
        let until_ms = due_ms.min(self.end_by_ms).min(now_ms + IDLE_MS);
        let timeout = Duration::from_millis(until_ms.saturating_sub(now_ms));
        match self.requests.recv_timeout(timeout) {
            Ok(request) => self.carry_out(request, now),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => self.requests = crossbeam_channel::never(),
        }
        true
    }

    fn carry_out_all(&mut self, now: Moment) {
        while let Ok(request) = self.requests.try_recv() {
            self.carry_out(request, now);
        }
    }

    fn carry_out(&mut self, request: ExporterRequest, now: Moment) {
        match request {
            ExporterRequest::Resolved(id, way) => {
                self.exporter.note_resolved(id, way.is_ok());
                if let Ok(Some(transport)) = way {
                    self.exporter.replace_transport(id, Box::new(transport));
                }
            }
            ExporterRequest::Connected(id, transport) => {
                self.exporter.replace_transport(id, Box::new(transport));
            }
            ExporterRequest::Add {
                name,
                outlet,
                reply,
            } => {
                let id = self.exporter.add(name, outlet);
                self.renew_board();
                // The other side may have stopped waiting.
                let _ = reply.try_send(id);
            }
            ExporterRequest::SetSampling(sampling) => self.exporter.set_sampling(sampling, now),
            ExporterRequest::SetPace(pace) => self.exporter.set_pace(pace),
            ExporterRequest::EndBy(end_by_ms) => self.end_by_ms = end_by_ms.min(self.end_by_ms),
            ExporterRequest::Remove(id) => {
                if let Some(removed) = self.exporter.remove(id, now)
                    && let Err(error) = removed.finished
                {
                    tracing::error!("{}: {error}", removed.name);
                }
                self.renew_board();
            }
        }
    }

    /// Gives each collector a place on the board, and keeps those that collectors have.
    fn renew_board(&mut self) {
        let before = std::mem::take(&mut self.collectors);
        self.collectors = self
            .exporter
            .collectors()
            .map(|(id, name, _)| {
                let known = before.iter().find(|one| one.id == id);
                known.cloned().unwrap_or_else(|| CollectorBoard {
                    id,
                    name: name.into(),
                    counters: Arc::default(),
                })
            })
            .collect();
        *self.board.lock() = self.collectors.clone();
    }

    fn publish(&mut self, caught_up_ms: u64) {
        self.counters.taken = self.exporter.taken();
        self.counters.exporter = self.exporter.counters();
        self.counters.gathered_since_ms = self.exporter.oldest_ms().unwrap_or(u64::MAX);
        self.counters.caught_up_ms = self.counters.caught_up_ms.max(caught_up_ms);
        self.board.counters.publish(&self.counters);
        for (board, (_, _, counters)) in self.collectors.iter().zip(self.exporter.collectors()) {
            board.counters.publish(&counters);
        }
    }
}

impl ExporterBoard {
    /// The collectors' places, in the order in which they were named.
    #[must_use]
    pub fn collectors(&self) -> Vec<CollectorBoard> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<CollectorBoard>> {
        self.collectors
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
