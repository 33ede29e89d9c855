//! A worker's mailbox: the one way in for everything that a worker is asked beside metering.
//!
//! The owner of a [`Postbox`] posts a [`Request`] and goes on. The worker takes requests between
//! two bursts. Short ones are carried out at once; long ones, a visit of the flow cache or an
//! expiry of many flows, become errands of which each turn carries out one bounded piece, so that
//! looking never costs packets.

use crate::hand_over::Outbox;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use std::collections::VecDeque;
use std::sync::Arc;
use xdprobe_capture::{Source, SourceChange, Unchangeable};
use xdprobe_flow::{Cursor, FlowFilter, FlowRecord, Meter, OwnDatagrams, PointRules, Timeouts};

/// What a worker can be asked.
pub enum Request {
    /// Read what the source still holds, but only before this uptime, in ms; export every resident
    /// flow, and end.
    Stop(u64),
    /// Give out the resident flows that a filter picks.
    Visit(Visit),
    /// Expire the resident flows that a filter picks.
    Expire(Expiry),
    /// Expire flows by other timeouts from now on.
    Timeouts(Timeouts),
    /// Find observation points by other rules from now on.
    Points(Arc<PointRules>),
    /// Exclude these datagrams of the probe's own export from now on.
    OwnExport(Arc<[OwnDatagrams]>),
    /// Change what the source takes, and report whether it could.
    Source(SourceChange, Sender<Result<(), Unchangeable>>),
}

/// Requests that a mailbox holds; a worker that works empties it every turn.
const REQUESTS_MAX: usize = 64;
/// Sets of the flow cache that one turn visits, at 15 flows each: some 20 us.
const VISIT_SETS_MAX: usize = 64;
/// Flows in a batch of a visit, at the least.
pub const VISIT_BATCH_FLOWS: usize = VISIT_SETS_MAX * 16;

/// A worker's mailbox and the postbox that leads to it.
#[must_use]
pub fn mailbox() -> (Postbox, Mailbox) {
    let (requests, arrived) = bounded(REQUESTS_MAX);
    let mailbox = Mailbox {
        requests: arrived,
        errands: VecDeque::new(),
        stop_by_ms: None,
    };
    (Postbox(requests), mailbox)
}

/// Where requests to one worker are posted. Copies lead to the same mailbox.
#[derive(Clone)]
pub struct Postbox(Sender<Request>);

impl Postbox {
    /// Posts a request without waiting. It comes back where the worker has ended, or has not looked
    /// into its mailbox for so long that it is full.
    pub fn post(&self, request: Request) -> Result<(), Request> {
        self.0.try_send(request).map_err(TrySendError::into_inner)
    }

    /// Posts a request that must arrive: waits while the mailbox is full.
    pub fn post_or_wait(&self, request: Request) {
        // A worker that has ended needs no request any more.
        let _ = self.0.send(request);
    }
}

/// The worker's end.
pub struct Mailbox {
    requests: Receiver<Request>,
    errands: VecDeque<Errand>,
    stop_by_ms: Option<u64>,
}

/// A long request, of which some has been done.
enum Errand {
    Visit(Visit),
    Expire(Expiry),
}

/// How far a piece of an errand got.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Piece {
    /// There is more to do.
    Advanced,
    /// There is more to do, once a slow reader has returned a batch.
    Blocked,
    /// It is done, or its reader has gone away.
    Done,
}

impl Mailbox {
    /// Carries out what has arrived, and one piece of the oldest errand. `true` where the next turn
    /// should follow at once, since there is more to do.
    #[inline]
    pub fn work_off(
        &mut self,
        source: &mut impl Source,
        meter: &mut Meter,
        outbox: &mut Outbox,
    ) -> bool {
        if self.requests.is_empty() && self.errands.is_empty() {
            return false;
        }
        self.work_off_some(source, meter, outbox)
    }

    /// The uptime by which the worker has to have read its source, in ms, if it was asked to end.
    #[inline]
    pub fn stop_by_ms(&self) -> Option<u64> {
        self.stop_by_ms
    }

    /// Whether a long request is under way: it may wait for its reader.
    #[inline]
    pub fn has_errands(&self) -> bool {
        !self.errands.is_empty()
    }

    #[cold]
    fn work_off_some(
        &mut self,
        source: &mut impl Source,
        meter: &mut Meter,
        outbox: &mut Outbox,
    ) -> bool {
        while let Ok(request) = self.requests.try_recv() {
            match request {
                Request::Stop(by_ms) => {
                    self.stop_by_ms = Some(self.stop_by_ms.map_or(by_ms, |by| by.min(by_ms)));
                }
                Request::Visit(visit) => self.errands.push_back(Errand::Visit(visit)),
                Request::Expire(expiry) => self.errands.push_back(Errand::Expire(expiry)),
                Request::Timeouts(timeouts) => meter.set_timeouts(timeouts),
                Request::Points(rules) => meter.set_points(rules),
                Request::OwnExport(own) => meter.set_own(own),
                Request::Source(change, reply) => {
                    // The other side may have stopped waiting.
                    let _ = reply.try_send(source.apply(change));
                }
            }
        }
        let Some(errand) = self.errands.front_mut() else {
            return false;
        };
        let piece = match errand {
            Errand::Visit(visit) => visit.advance(meter),
            Errand::Expire(expiry) => expiry.advance(meter, outbox),
        };
        match piece {
            Piece::Advanced => true,
            Piece::Done => {
                self.errands.pop_front();
                !self.errands.is_empty()
            }
            Piece::Blocked => {
                // A slow reader does not delay the other errands.
                self.errands.rotate_left(1);
                false
            }
        }
    }
}

/// A visit of one worker's flow cache: the flows that are resident all the while are given out
/// once each.
///
/// Batches are made beforehand and go round between worker and reader, so that a worker allocates
/// nothing for a visit; without a batch to fill it leaves the visit alone.
pub struct Visit {
    worker: usize,
    filter: FlowFilter,
    cursor: Cursor,
    empty: Receiver<Vec<FlowRecord>>,
    full: Sender<FlowBatch>,
}

/// Some of the flows that are resident in one worker's cache.
pub struct FlowBatch {
    /// The worker, by its place in a snapshot.
    pub worker: usize,
    /// The flows as they would be exported now; `end` is [`Forced`](xdprobe_flow::EndReason).
    pub flows: Vec<FlowRecord>,
}

impl Visit {
    /// A visit of `worker`, which fills batches from `empty` and sends them to `full`.
    pub fn new(
        worker: usize,
        filter: FlowFilter,
        empty: Receiver<Vec<FlowRecord>>,
        full: Sender<FlowBatch>,
    ) -> Self {
        Self {
            worker,
            filter,
            cursor: Cursor::default(),
            empty,
            full,
        }
    }

    fn advance(&mut self, meter: &Meter) -> Piece {
        let mut flows = match self.empty.try_recv() {
            Ok(flows) => flows,
            Err(crossbeam_channel::TryRecvError::Empty) => return Piece::Blocked,
            // The reader has gone away.
            Err(crossbeam_channel::TryRecvError::Disconnected) => return Piece::Done,
        };
        let filter = &self.filter;
        let is_more = meter.visit(&mut self.cursor, VISIT_SETS_MAX, &mut |flow| {
            if filter.matches(flow) {
                flows.push(*flow);
            }
        });
        let batch = FlowBatch {
            worker: self.worker,
            flows,
        };
        // There is room for as many batches as there are, unless the reader has gone away.
        let is_read = self.full.try_send(batch).is_ok();
        if is_more && is_read {
            Piece::Advanced
        } else {
            Piece::Done
        }
    }
}

/// An expiry of the flows that a filter picks, from one worker's cache.
pub struct Expiry {
    filter: FlowFilter,
    cursor: Cursor,
    expired: u64,
    done: Sender<u64>,
}

impl Expiry {
    /// An expiry that reports to `done` how many flows it expired.
    pub fn new(filter: FlowFilter, done: Sender<u64>) -> Self {
        Self {
            filter,
            cursor: Cursor::default(),
            expired: 0,
            done,
        }
    }

    /// Advances only while the exporter keeps up: no record is dropped for it.
    fn advance(&mut self, meter: &mut Meter, outbox: &mut Outbox) -> Piece {
        if !outbox.has_room() {
            return Piece::Advanced;
        }
        let before = outbox.pushed().records;
        let filter = &self.filter;
        let mut picks = |flow: &FlowRecord| filter.matches(flow);
        let is_more = meter.expire_where(&mut self.cursor, VISIT_SETS_MAX, &mut picks, outbox);
        self.expired += outbox.pushed().records - before;
        if is_more {
            return Piece::Advanced;
        }
        // The other side may have stopped waiting.
        let _ = self.done.try_send(self.expired);
        Piece::Done
    }
}
