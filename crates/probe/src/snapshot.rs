//! What all parts of the probe have counted, read at one moment without asking any of them.
//!
//! Workers and the exporter publish their counters; drivers, sockets and the XDP program have theirs in the kernel. A snapshot
//! reads them against the way of a packet, sinks first: what was counted late on the way was counted early on it as well by the
//! time that is read. Counts at which the way of a packet begins or parts are read once more before all others, so that the
//! ledger can say how far two counts may be apart, whatever the time between the two readings.

use crate::exporting::{ExporterBoard, ExportingCounters};
use crate::published::Published;
use crate::worker::{Phase, WorkerCounters};
use std::sync::Arc;
use xdprobe_capture::xdp::{InterfaceCounters, XdpInterface};
use xdprobe_export::{CollectorCounters, Tally};

/// Where everything is counted.
pub struct Counted {
    /// The workers.
    pub workers: Vec<CountedWorker>,
    /// Interfaces that are captured from with AF_XDP.
    pub interfaces: Vec<Arc<XdpInterface>>,
    /// The exporter.
    pub exporter: Arc<ExporterBoard>,
}

/// Where a worker counts.
pub struct CountedWorker {
    /// The interface that it receives from; `file` for a capture file.
    pub interface: String,
    /// What it counts.
    pub published: Arc<Published<WorkerCounters>>,
}

/// What was counted at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Each worker.
    pub workers: Vec<WorkerSnapshot>,
    /// Each interface that is captured from with AF_XDP.
    pub interfaces: Vec<InterfaceSnapshot>,
    /// The exporter.
    pub exporting: ExportingCounters,
    /// Records that the exporter had taken when all other counts had been read.
    pub taken_after: Tally,
    /// Each collector with its name.
    pub collectors: Vec<(String, CollectorCounters)>,
}

/// One worker.
#[derive(Clone, Debug, Default)]
pub struct WorkerSnapshot {
    /// As in [`CountedWorker`].
    pub interface: String,
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
}

impl Counted {
    /// Reads all counters: some system calls for each queue, so at most once a second while frames come.
    pub fn snapshot(&self) -> Snapshot {
        let redirected_before: Vec<_> = self.interfaces.iter().map(|on| on.counters().redirected).collect();
        let collectors = self.exporter.collectors.iter();
        let collectors = collectors.map(|(name, published)| (name.clone(), published.read())).collect();
        let exporting = self.exporter.counters.read();
        let workers = self.workers.iter().map(CountedWorker::snapshot).collect();
        let taken_after = self.exporter.counters.read().taken;
        let interfaces = self.interfaces.iter().zip(redirected_before).map(|(on, redirected_before)| {
            let (name, counters) = (on.interface().name.clone(), on.counters());
            InterfaceSnapshot { name, redirected_before, counters }
        });
        let interfaces = interfaces.collect();
        Snapshot { workers, interfaces, exporting, taken_after, collectors }
    }
}

impl CountedWorker {
    fn snapshot(&self) -> WorkerSnapshot {
        WorkerSnapshot { interface: self.interface.clone(), counters: self.published.read() }
    }
}

impl Snapshot {
    /// Whether nothing is under way any more: every worker has ended, and the exporter after them.
    pub fn is_at_rest(&self) -> bool {
        self.exporting.ended == 1 && self.workers.iter().all(|worker| worker.counters.phase() == Phase::Ended)
    }
}
