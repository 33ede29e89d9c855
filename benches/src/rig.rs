//! The shipped worker, and what is at its other ends: the exporter that it hands over to, and the
//! reader of its counters.

use std::sync::Arc;
use xdprobe_pipeline::Regime;
use xdprobe_pipeline::capture::Source;
use xdprobe_pipeline::clock::Clock;
use xdprobe_pipeline::counters::WorkerCounters;
use xdprobe_pipeline::flow::{FlowRecord, Meter, Volume};
use xdprobe_pipeline::hand_over::{Inbox, channels};
use xdprobe_pipeline::mailbox::{Postbox, mailbox};
use xdprobe_pipeline::published::Published;
use xdprobe_pipeline::worker::{Turn, Worker};

/// A live worker that does its turns on the thread of the bench.
pub struct Rig<S, C> {
    /// The worker.
    pub worker: Worker<S, C>,
    /// Where its batches arrive.
    pub inbox: Inbox,
    /// Where it publishes its counters.
    pub published: Arc<Published<WorkerCounters>>,
    /// Nothing is posted, but a probe could.
    _postbox: Postbox,
}

impl<S: Source, C: Clock> Rig<S, C> {
    /// A worker that meters what `source` shows.
    #[must_use]
    pub fn new(source: S, clock: C, meter: Meter) -> Self {
        let (mut outboxes, inbox) = channels(1, Regime::Live.patience());
        let outbox = outboxes.remove(0);
        let (postbox, mailbox) = mailbox();
        let published = Arc::default();
        Self {
            worker: Worker::new(
                source,
                clock,
                meter,
                outbox,
                mailbox,
                Arc::clone(&published),
            ),
            inbox,
            published,
            _postbox: postbox,
        }
    }

    /// One turn of the worker, its publishing included.
    ///
    /// # Panics
    ///
    /// If the source fails.
    #[inline]
    pub fn turn(&mut self) -> Turn {
        let turn = self.worker.turn_and_publish();
        turn.expect("a ring in memory does not fail")
    }

    /// Returns all batches to the worker, as an exporter does that is never late, and returns the
    /// packets in their records.
    #[must_use]
    pub fn export(&self) -> u64 {
        let mut packets = 0;
        for batch in self.inbox.batches().try_iter() {
            packets += packets_in(&batch.records);
            self.inbox.give_back(batch);
        }
        packets
    }
}

/// Packets in these records.
#[must_use]
pub fn packets_in(records: &[FlowRecord]) -> u64 {
    let volume: Volume = records.iter().map(|record| record.volume).sum();
    volume.packets
}
