//! What is left at the end with parts that died, or that had no time to pass everything on.
//!
//! Such a part reports no more. What it held is what came in, by the counts before it, less what
//! went out, by the counts behind it: both as they were published last.

use crate::counters::WorkerCounters;
use crate::snapshot::{InterfaceSnapshot, Snapshot};
use xdprobe_export::{LossReason, Tally};
use xdprobe_flow::Volume;

/// What is in no other count of the last snapshot, and is lost.
#[derive(Clone, Debug, Default)]
pub struct LeftOver {
    /// Why: [`DIED`] or [`STOP`].
    pub reason: &'static str,
    /// Frames that workers had taken and not metered.
    pub in_hand: u64,
    /// Frames in the rings of each interface, in the order of the snapshot.
    pub unread: Vec<u64>,
    /// Flows and records that no collector got.
    pub records: Tally,
}

/// The reason of what threads held that died.
pub const DIED: &str = "died";
/// The reason of what was left when the time for the end of the run was over.
pub const STOP: &str = "stop";

impl LeftOver {
    /// What is left in the last snapshot of a run; nothing in any other one, nor where every part
    /// has passed on all that it got.
    #[must_use]
    pub fn of(snapshot: &Snapshot) -> Self {
        let mut left = Self {
            reason: if snapshot.died.is_empty() { STOP } else { DIED },
            ..Self::default()
        };
        if !snapshot.is_last {
            return left;
        }
        let interfaces = snapshot.interfaces.iter();
        left.unread = interfaces
            .map(|on| match snapshot.reads_all_of(on) {
                true => 0,
                false => unread(snapshot, on),
            })
            .collect();
        if snapshot.has_gaps() {
            let workers = snapshot.workers.iter();
            left.in_hand = workers.map(|worker| in_hand(&worker.counters)).sum();
            left.records = records_left(snapshot);
        }
        left
    }

    /// Frames in hand and in rings.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.in_hand + self.unread.iter().sum::<u64>()
    }
}

/// Whether something was lost because the time for the end of the run was over.
#[must_use]
pub fn is_cut_short(last: &Snapshot) -> bool {
    let is_lost = |lost: &[Tally]| lost[LossReason::Stop as usize].records > 0;
    last.is_given_up
        || LeftOver::of(last).frames() > 0
        || is_lost(&last.exporting.exporter.lost)
        || last
            .collectors
            .iter()
            .any(|one| is_lost(&one.counters.lost))
}

/// Frames that were redirected to the sockets of an interface, and are neither taken from them nor
/// lost there.
#[must_use]
pub fn unread(snapshot: &Snapshot, on: &InterfaceSnapshot) -> u64 {
    on.redirected()
        .saturating_sub(snapshot.taken_from(on) + on.lost_at_sockets())
}

/// Flows that were created, less the records that were exported or lost.
#[must_use]
pub fn records_left(snapshot: &Snapshot) -> Tally {
    let exporter = snapshot.exporting.exporter;
    let (mut came, mut left) = (Tally::default(), exporter.exported + exporter.lost_total());
    for WorkerCounters { meter, dropped, .. } in snapshot.workers.iter().map(|one| &one.counters) {
        came.records += meter.cache.created;
        came.volume += meter.cache.observed;
        left += *dropped;
    }
    Tally {
        records: came.records.saturating_sub(left.records),
        datagrams: 0,
        volume: Volume {
            packets: came.volume.packets.saturating_sub(left.volume.packets),
            octets: came.volume.octets.saturating_sub(left.volume.octets),
        },
    }
}

/// Frames that a worker had taken and not metered when it died; none otherwise.
fn in_hand(worker: &WorkerCounters) -> u64 {
    worker.source.received.saturating_sub(worker.metered())
}
