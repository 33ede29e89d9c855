//! Losses as log lines: one when a kind of loss begins, a summary while it lasts, one when it ends.
//!
//! A kind is a place and a reason: the queue `tap0/0` with `ring_full`, the collector
//! `192.0.2.9:2055` with `refused`. [`LossLog`] compares snapshots; it has no clock of its own.

use crate::left_over::{DIED, LeftOver, STOP};
use crate::snapshot::Snapshot;
use std::collections::BTreeMap;
use std::fmt;
use xdprobe_capture::Dropped;
use xdprobe_export::LossReason;

/// What has been reported of each kind of loss.
#[derive(Default)]
pub struct LossLog {
    kinds: BTreeMap<Kind, Reported>,
}

/// Where something was lost, and why.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Kind {
    place: String,
    reason: &'static str,
    unit: Unit,
}

/// What was lost.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Unit {
    Packets,
    Records,
}

/// What was reported of one kind.
#[derive(Default)]
struct Reported {
    /// How many are in the lines so far.
    count: u64,
    /// When the next summary is due, in ms of uptime; none while nothing is being lost.
    summary_due_ms: Option<u64>,
}

/// How often a loss that lasts is summed up, and how long none makes it ended, in ms.
const SUMMARY_MS: u64 = 60_000;

impl LossLog {
    /// The lines that are due by a snapshot: at most one for each kind.
    #[must_use]
    pub fn lines(&mut self, snapshot: &Snapshot) -> Vec<String> {
        let now_ms = snapshot.uptime_ms;
        let mut lines = Vec::new();
        for (kind, count) in losses_in(snapshot) {
            let reported = self.kinds.entry(kind.clone()).or_default();
            let new = count.saturating_sub(reported.count);
            let line = match reported.summary_due_ms {
                None if new > 0 => format!("losing {new} {kind}: {}", remedy(kind.reason)),
                Some(due_ms) if now_ms >= due_ms && new > 0 => {
                    format!("still losing: {new} {kind} more, {count} in total")
                }
                Some(due_ms) if now_ms >= due_ms => {
                    lines.push(format!("no longer losing {kind}: {count} in total"));
                    reported.summary_due_ms = None;
                    continue;
                }
                _ => continue,
            };
            reported.count = count;
            reported.summary_due_ms = Some(now_ms + SUMMARY_MS);
            lines.push(line);
        }
        lines
    }

    /// The lines that say at the end what none has said yet.
    #[must_use]
    pub fn last_lines(&mut self, snapshot: &Snapshot) -> Vec<String> {
        let mut lines = Vec::new();
        for (kind, count) in losses_in(snapshot) {
            let reported = self.kinds.entry(kind.clone()).or_default();
            if count > reported.count {
                lines.push(format!("lost {count} {kind}: {}", remedy(kind.reason)));
                reported.count = count;
            }
        }
        lines
    }
}

/// Every kind of loss in a snapshot with its count, also those that are 0.
fn losses_in(snapshot: &Snapshot) -> BTreeMap<Kind, u64> {
    let mut losses = BTreeMap::new();
    let mut packets = |place: &str, dropped: &Dropped| {
        for (reason, count) in dropped.by_place() {
            *losses
                .entry(Kind::new(place, reason, Unit::Packets))
                .or_insert(0) += count;
        }
    };
    for interface in &snapshot.interfaces {
        packets(&interface.name, &interface.counters.dropped());
        for queue in &interface.counters.queues {
            let place = format!("{}/{}", interface.name, queue.queue);
            packets(&place, &queue.dropped());
        }
    }
    for worker in &snapshot.workers {
        packets(&worker.label(), &worker.counters.source.dropped);
    }
    let left = LeftOver::of(snapshot);
    let places = snapshot.interfaces.iter().map(|on| on.name.as_str());
    let unread = places.zip(left.unread.iter().copied());
    for (place, count) in unread.chain([("all workers", left.in_hand)]) {
        *losses
            .entry(Kind::new(place, left.reason, Unit::Packets))
            .or_insert(0) += count;
    }
    let mut records = |place: &str, reason, count| {
        *losses
            .entry(Kind::new(place, reason, Unit::Records))
            .or_insert(0) += count;
    };
    for worker in &snapshot.workers {
        records(
            &worker.label(),
            "hand_over",
            worker.counters.dropped.records,
        );
    }
    records("all collectors", left.reason, left.records.records);
    for collector in &snapshot.collectors {
        let lost = LossReason::NAMES.into_iter().zip(collector.counters.lost);
        for (reason, lost) in lost {
            records(&collector.name, reason, lost.records);
        }
        let in_doubt = collector.counters.in_doubt.records;
        records(&collector.name, "in_doubt", in_doubt);
    }
    losses
}

/// What to do about a loss, as docs/OPERATING.md has it.
fn remedy(reason: &str) -> &'static str {
    let remedy = match reason {
        "driver" => "use a larger ring of the network card (ethtool -G), or more queues",
        "no_socket" => "their queue is not read: capture all queues, or check the channels",
        "no_program" => {
            "the XDP program did not see them: it was detached, or not run on a new channel; \
             restart the probe if this goes on"
        }
        "unbound" => "the interface was removed, or moved to another network namespace",
        "ring_full" => "give the worker a core of its own, use a larger --ring or more queues",
        "no_frame" => "use a larger --ring; check the MTU",
        "kernel" => "libpcap's buffer was full: capture with AF_XDP",
        "interface" => "lost by the interface, as libpcap reports it: check its statistics",
        "hand_over" => "the exporter is too slow: raise the timeouts, check the collectors",
        "pacing" => "raise the limit of the pace, or --paced-records",
        "socket" => "use a larger --send-buffer; check the interface to the collector",
        "send" => "the ledger's send errors name the kind",
        "write" => "the file cannot be written: free space on its disk",
        "refused" => "start the collector: its port is closed or its host is unreachable",
        "in_doubt" => {
            "its host became unreachable, and what was sent shortly before may not have arrived"
        }
        "removed" => "its collector was removed while they waited",
        STOP => "the time for the end was over: raise --stop-timeout, or the limit of the pace",
        DIED => "threads of the probe died: report the lines above that say where",
        _ => "",
    };
    debug_assert!(!remedy.is_empty(), "{reason} has a remedy");
    remedy
}

impl Kind {
    fn new(place: &str, reason: &'static str, unit: Unit) -> Self {
        Self {
            place: place.to_owned(),
            reason,
            unit,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            place,
            reason,
            unit,
        } = self;
        let (unit, at) = match unit {
            Unit::Packets => ("packets", "on"),
            Unit::Records => ("records", "for"),
        };
        write!(f, "{unit} {at} {place} ({reason})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::CollectorSnapshot;
    use xdprobe_export::{CollectorCounters, CollectorId};

    /// A snapshot in which one collector has refused so many records.
    fn refused(uptime_ms: u64, records: u64) -> Snapshot {
        let mut counters = CollectorCounters::default();
        counters.lost[LossReason::Refused as usize].records = records;
        Snapshot {
            uptime_ms,
            collectors: vec![CollectorSnapshot {
                id: CollectorId::FIRST,
                name: "192.0.2.9:2055".into(),
                counters,
            }],
            ..Snapshot::default()
        }
    }

    #[test]
    fn a_loss_has_a_line_when_it_begins_one_a_minute_while_it_lasts_and_one_when_it_ends() {
        let mut log = LossLog::default();
        assert!(log.lines(&refused(0, 0)).is_empty());
        let begun = log.lines(&refused(1_000, 30));
        assert_eq!(begun.len(), 1);
        assert!(
            begun[0]
                .starts_with("losing 30 records for 192.0.2.9:2055 (refused): start the collector"),
            "{begun:?}"
        );
        for second in 2..=60 {
            assert!(log.lines(&refused(second * 1_000, 30 * second)).is_empty());
        }
        assert_eq!(
            log.lines(&refused(61_000, 1_830)),
            ["still losing: 1800 records for 192.0.2.9:2055 (refused) more, 1830 in total"]
        );
        assert!(log.lines(&refused(120_000, 1_830)).is_empty());
        assert_eq!(
            log.lines(&refused(121_000, 1_830)),
            ["no longer losing records for 192.0.2.9:2055 (refused): 1830 in total"]
        );
        assert!(log.lines(&refused(500_000, 1_830)).is_empty());
        assert_eq!(log.lines(&refused(501_000, 1_831)).len(), 1);
    }

    #[test]
    fn every_reason_has_a_remedy() {
        let places = Dropped::default().by_place();
        let reasons = places.iter().map(|(reason, _)| *reason);
        for reason in reasons
            .chain(LossReason::NAMES)
            .chain(["hand_over", DIED, STOP])
        {
            assert!(!remedy(reason).is_empty(), "{reason}");
        }
    }

    #[test]
    fn a_loss_that_no_line_has_reported_is_reported_at_the_end() {
        let mut log = LossLog::default();
        assert_eq!(log.last_lines(&refused(10, 7)).len(), 1);
        assert!(log.last_lines(&refused(10, 7)).is_empty());
    }
}
