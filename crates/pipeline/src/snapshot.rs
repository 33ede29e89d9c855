//! What all parts of the probe have counted, read at one moment without asking any of them.
//!
//! Workers and the exporter publish their counters; drivers, sockets and the XDP program have
//! theirs in the kernel. A snapshot reads them against the way of a packet, sinks first: a packet
//! that is in a later count has by then been counted in every earlier one as well. Counts at which
//! the way of a packet begins or parts are read once more before all others, so that the ledger can
//! say how far two counts may be apart, whatever the time between the two readings.

use crate::clock::{Clock, LiveClock};
use crate::counters::{Phase, WorkerCounters};
use crate::exporting::{CollectorBoard, ExporterBoard, ExportingCounters};
use crate::hand_over::UNDER_WAY_MAX;
use crate::published::Published;
use crate::thread::Deaths;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use xdprobe_capture::xdp::{Difference, InterfaceCounters, QueueCounters, Reason, XdpInterface};
use xdprobe_export::{CollectorCounters, CollectorId, Distribution, Moment, Tally};
use xdprobe_flow::Volume;

/// Where everything is counted. Copies read the same counters.
#[derive(Clone)]
pub struct Boards {
    /// For the age of a record.
    pub clock: LiveClock,
    /// The workers.
    pub workers: Vec<WorkerBoard>,
    /// Interfaces that are captured from with AF_XDP.
    pub interfaces: Vec<Arc<XdpInterface>>,
    /// When these interfaces were looked at last, in ms since the probe's start.
    pub looked_ms: Arc<AtomicU64>,
    /// The exporter.
    pub exporter: Arc<ExporterBoard>,
    /// Threads that died.
    pub deaths: Deaths,
}

/// Where a worker publishes what it counts.
#[derive(Clone)]
pub struct WorkerBoard {
    /// The interface that it receives from; `file` for a capture file.
    pub interface: String,
    /// The queue, where it has one to itself.
    pub queue: Option<u32>,
    /// Flows that its cache holds before it evicts.
    pub flows_max: u64,
    /// What it counts.
    pub published: Arc<Published<WorkerCounters>>,
}

/// What was counted at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// When, in ms since the probe's start.
    pub uptime_ms: u64,
    /// Each worker.
    pub workers: Vec<WorkerSnapshot>,
    /// Each interface that is captured from with AF_XDP.
    pub interfaces: Vec<InterfaceSnapshot>,
    /// When these interfaces were looked at last, in ms since the probe's start.
    pub looked_ms: u64,
    /// The exporter.
    pub exporting: ExportingCounters,
    /// Records that the exporter had taken when all other counts had been read.
    pub taken_after: Tally,
    /// How records are distributed over the collectors.
    pub distribution: Distribution,
    /// Each collector.
    pub collectors: Vec<CollectorSnapshot>,
    /// Threads that died, by name.
    pub died: Vec<String>,
    /// Nothing is counted any more: the run has ended, or is not waited for.
    pub is_last: bool,
    /// The last one, and not every thread has ended: the time for that was over.
    pub is_given_up: bool,
}

/// One worker.
#[derive(Clone, Debug, Default)]
pub struct WorkerSnapshot {
    /// As in [`WorkerBoard`].
    pub interface: String,
    /// As in [`WorkerBoard`].
    pub queue: Option<u32>,
    /// As in [`WorkerBoard`].
    pub flows_max: u64,
    /// What it counted.
    pub counters: WorkerCounters,
}

/// One interface.
#[derive(Clone, Debug, Default)]
pub struct InterfaceSnapshot {
    /// Its name.
    pub name: String,
    /// Frames that had been handed to sockets before any other count was read.
    pub redirected_before: u64,
    /// What it counted.
    pub counters: InterfaceCounters,
    /// The driver's own counters of received frames lost, by name; in no sum of the ledger.
    pub named_drops: Vec<(String, u64)>,
    /// What is no longer as it was when frames began to be received, or was not a moment ago.
    pub differences: Vec<Difference>,
    /// How often each kind of difference has begun, in the order of [`Reason::ALL`].
    pub differences_begun: [u64; Reason::ALL.len()],
}

/// One collector.
#[derive(Clone, Debug)]
pub struct CollectorSnapshot {
    /// Which it is, for as long as the probe runs.
    pub id: CollectorId,
    /// What reports and metrics call it.
    pub name: Arc<str>,
    /// What it was sent.
    pub counters: CollectorCounters,
}

impl Boards {
    /// What the probe's clock reads.
    #[must_use]
    pub fn now(&self) -> Moment {
        { self.clock }.read()
    }

    /// How long the probe has been up, in ms.
    #[must_use]
    pub fn uptime_ms(&self) -> u64 {
        self.now().uptime_ms
    }

    /// Notes that the interfaces were looked at just now.
    pub(crate) fn note_look(&self) {
        self.looked_ms.store(self.uptime_ms(), Ordering::Relaxed);
    }

    /// Reads all counters: some system calls for each queue, so at most once a second while frames
    /// come.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let redirected = |on: &Arc<XdpInterface>| on.counters().redirected;
        let redirected_before: Vec<_> = self.interfaces.iter().map(redirected).collect();
        let collectors = self
            .exporter
            .collectors()
            .iter()
            .map(read_collector)
            .collect();
        let exporting = self.exporter.counters.read();
        let workers: Vec<_> = self.workers.iter().map(WorkerBoard::snapshot).collect();
        let taken_after = self.exporter.counters.read().taken;
        let interfaces = self.interfaces.iter().zip(redirected_before);
        let interfaces = interfaces.map(|(on, redirected_before)| InterfaceSnapshot {
            name: on.interface().name.clone(),
            redirected_before,
            counters: settled(on, &workers),
            named_drops: on.named_drops(),
            differences: on.differences(),
            differences_begun: on.differences_begun(),
        });
        let interfaces = interfaces.collect();
        Snapshot {
            uptime_ms: self.uptime_ms(),
            workers,
            interfaces,
            looked_ms: self.looked_ms.load(Ordering::Relaxed),
            exporting,
            taken_after,
            distribution: self.exporter.distribution,
            collectors,
            died: self.deaths.names(),
            is_last: false,
            is_given_up: false,
        }
    }
}

/// What an interface counted. Once its workers have ended, what they left of unbound sockets is
/// known.
fn settled(on: &XdpInterface, workers: &[WorkerSnapshot]) -> InterfaceCounters {
    let mut counters = on.counters();
    let here = |worker: &&WorkerSnapshot| worker.interface == on.interface().name;
    let here = || workers.iter().filter(here).map(|worker| &worker.counters);
    if here().all(|counters| counters.phase() == Phase::Ended) {
        counters.settle(here().map(|counters| counters.source.taken()).sum());
    }
    counters
}

fn read_collector(board: &CollectorBoard) -> CollectorSnapshot {
    CollectorSnapshot {
        id: board.id,
        name: Arc::clone(&board.name),
        counters: board.counters.read(),
    }
}

impl WorkerBoard {
    fn snapshot(&self) -> WorkerSnapshot {
        WorkerSnapshot {
            interface: self.interface.clone(),
            queue: self.queue,
            flows_max: self.flows_max,
            counters: self.published.read(),
        }
    }
}

impl WorkerSnapshot {
    /// What logs call it: the interface, and the queue where it has one.
    #[must_use]
    pub fn label(&self) -> String {
        match self.queue {
            Some(queue) => format!("{}/{queue}", self.interface),
            None => self.interface.clone(),
        }
    }
}

impl InterfaceSnapshot {
    /// Frames that were redirected to sockets, each counted once.
    #[must_use]
    pub fn redirected(&self) -> u64 {
        let InterfaceCounters {
            redirected,
            offered_again,
            ..
        } = self.counters;
        redirected.saturating_sub(offered_again)
    }

    /// Of these, frames that were lost at the sockets, which refused them or were unbound.
    #[must_use]
    pub fn lost_at_sockets(&self) -> u64 {
        let InterfaceCounters {
            unbound, queues, ..
        } = &self.counters;
        let refused = |queue: &QueueCounters| queue.losses.ring_full + queue.losses.no_frame;
        unbound + queues.iter().map(refused).sum::<u64>()
    }
}

impl Snapshot {
    /// Whether nothing is under way any more: every worker has ended, and the exporter after them.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        self.exporting.ended == 1
            && self
                .workers
                .iter()
                .all(|worker| worker.counters.phase() == Phase::Ended)
    }

    /// Whether a worker receives frames: it runs, and the program and sockets of its interface are
    /// in place.
    #[must_use]
    pub fn receives(&self, worker: &WorkerSnapshot) -> bool {
        let here = |on: &&InterfaceSnapshot| on.name == worker.interface;
        let is_blind = |found: &Difference| found.lasts && found.reason.is_total();
        let is_blind = |on: &InterfaceSnapshot| on.differences.iter().any(is_blind);
        worker.counters.phase() == Phase::Running
            && !self.interfaces.iter().filter(here).any(is_blind)
    }

    /// Whether a thread died or was not waited for: counts that follow on each other may differ by
    /// what it held.
    #[must_use]
    pub fn has_gaps(&self) -> bool {
        self.is_given_up || !self.died.is_empty()
    }

    /// Whether a worker ended before it had read all that its source held.
    #[must_use]
    pub fn leaves_unread(&self) -> bool {
        self.workers
            .iter()
            .any(|worker| worker.counters.left_unread > 0)
    }

    /// Whether nothing keeps the workers of an interface from reading all that is redirected to
    /// them.
    #[must_use]
    pub fn reads_all_of(&self, on: &InterfaceSnapshot) -> bool {
        !self.has_gaps()
            && self
                .workers_of(on)
                .all(|worker| worker.counters.left_unread == 0)
    }

    /// Frames that were taken from the sockets of an interface.
    #[must_use]
    pub fn taken_from(&self, on: &InterfaceSnapshot) -> u64 {
        self.workers_of(on)
            .map(|worker| worker.counters.source.taken())
            .sum()
    }

    fn workers_of(&self, on: &InterfaceSnapshot) -> impl Iterator<Item = &WorkerSnapshot> {
        self.workers
            .iter()
            .filter(move |worker| worker.interface == on.name)
    }

    /// Age of the oldest record that was expired and is neither exported nor lost, in ms; an upper
    /// bound where it is under way to the exporter.
    #[must_use]
    pub fn oldest_in_flight_ms(&self) -> u64 {
        let kept = self
            .workers
            .iter()
            .map(|worker| &worker.counters)
            .filter(|counters| counters.kept > 0);
        let kept_since_ms = kept.map(|counters| counters.kept_since_ms);
        let under_way_since_ms = (self.under_way() > 0).then_some(self.exporting.caught_up_ms);
        let since_ms = kept_since_ms
            .chain(under_way_since_ms)
            .chain([self.exporting.gathered_since_ms])
            .min();
        since_ms.map_or(0, |since_ms| self.uptime_ms.saturating_sub(since_ms))
    }

    /// Records that were expired and are neither exported nor lost yet, wherever they are.
    #[must_use]
    pub fn in_flight(&self) -> Tally {
        let mut in_flight = Tally::default();
        let done = self.exporting.exporter.exported + self.exporting.exporter.lost_total();
        for WorkerCounters {
            expired, dropped, ..
        } in self.workers.iter().map(|worker| &worker.counters)
        {
            in_flight.records += expired.records - dropped.records;
            in_flight.volume += expired.volume - dropped.volume;
        }
        // The exporter may have done more than a worker has published, which hands over within a
        // turn and publishes after it.
        Tally {
            records: in_flight.records.saturating_sub(done.records),
            datagrams: 0,
            volume: Volume {
                packets: in_flight.volume.packets.saturating_sub(done.volume.packets),
                octets: in_flight.volume.octets.saturating_sub(done.volume.octets),
            },
        }
    }

    /// Records that were handed over and that the exporter has not taken yet.
    #[must_use]
    pub fn under_way(&self) -> u64 {
        let handed_over = |counters: &WorkerCounters| {
            counters
                .expired
                .records
                .saturating_sub(counters.dropped.records + counters.kept)
        };
        let handed_over: u64 = self
            .workers
            .iter()
            .map(|worker| handed_over(&worker.counters))
            .sum();
        handed_over.saturating_sub(self.taken_after.records)
    }

    /// The most records that can be between workers and exporter.
    #[must_use]
    pub fn under_way_max(&self) -> u64 {
        UNDER_WAY_MAX * self.workers.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_in_flight_where_the_exporter_is_ahead_of_what_a_worker_has_published() {
        let mut snapshot = Snapshot::default();
        snapshot.exporting.exporter.exported = Tally {
            records: 1,
            datagrams: 1,
            volume: Volume {
                packets: 2,
                octets: 80,
            },
        };
        assert_eq!(snapshot.in_flight(), Tally::default());
    }
}
