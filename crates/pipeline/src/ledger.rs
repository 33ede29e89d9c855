//! The ledger: what was offered, and where every packet of it is.
//!
//! Each side of each identity is counted in another place (the XDP program, the socket, the worker,
//! the cache, the exporter), so that the sum is a check and not a definition. `balanced` says
//! whether all of them hold.

use crate::counters::WorkerCounters;
use crate::exporting::ExportingCounters;
use crate::left_over::{DIED, LeftOver, STOP};
use crate::snapshot::{CollectorSnapshot, InterfaceSnapshot, Snapshot, WorkerSnapshot};
use crate::unread::unread_by_name;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use xdprobe_capture::xdp::QueueCounters;
use xdprobe_capture::{BURST_MAX, SourceCounters};
use xdprobe_collect::printable;
use xdprobe_export::{CollectorCounters, Distribution, LossReason, SendErrorKind, Tally};
use xdprobe_flow::{DecodeError, EndReason, MeterCounters, Unread, Volume};

/// The ledger of a run.
#[derive(Debug, Serialize)]
pub struct Ledger {
    /// Packets that came to the observation point.
    offered: Packets,
    /// What workers received, with its octets on the wire.
    received: PacketsAndOctets,
    /// Left out by sampling, before or after they were received.
    sampled_out: Packets,
    /// Received and left out by the filter.
    filtered: Packets,
    /// Packets lost before they were received, by place.
    dropped: BTreeMap<&'static str, u64>,
    /// Frames without a packet in them, by reason.
    undecoded: BTreeMap<&'static str, u64>,
    /// The frames among them whose reason is `llc`, `not_ip` or `link_type`, by what they carry.
    unread: Vec<UnreadEntry>,
    /// The probe's own export datagrams, which it does not meter, with their layer-3 octets.
    excluded: PacketsAndOctets,
    /// Packets that the flow caches observed, with their layer-3 octets.
    observed: PacketsAndOctets,
    /// Packets whose IP total length exceeds their frame on the wire, and the octets by which it
    /// does. They are observed with the octets of the frame; these octets are in no other count.
    beyond_frame: PacketsAndOctets,
    /// Flows created, and expired by reason.
    flows: Flows,
    /// Records that were sent and not refused. Where every collector gets every record, these are
    /// the counts of the one that got most; each has its own counts below.
    exported: Records,
    /// Records that were not sent, or were refused.
    lost: Lost,
    /// What is still in the caches.
    resident: Resident,
    /// How records are distributed over the collectors.
    distribution: &'static str,
    /// What each collector was sent.
    collectors: Vec<CollectorEntry>,
    /// Whether all identities hold.
    balanced: bool,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Packets {
    packets: u64,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct PacketsAndOctets {
    packets: u64,
    octets: u64,
}

/// Frames that carry one protocol that is not read.
#[derive(Debug, Serialize)]
struct UnreadEntry {
    /// The registry of the number; `other` for the frames of all protocols without a count of their
    /// own.
    kind: &'static str,
    /// The number, as its registry writes it; empty for `other`.
    number: String,
    packets: u64,
    /// Kind and number for people.
    #[serde(skip)]
    text: String,
}

#[derive(Debug, Serialize)]
struct Flows {
    created: u64,
    expired: BTreeMap<&'static str, u64>,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Records {
    records: u64,
    packets: u64,
    octets: u64,
    datagrams: u64,
}

#[derive(Debug, Serialize)]
struct Lost {
    records: u64,
    packets: u64,
    octets: u64,
    /// Records by where they were lost.
    reasons: BTreeMap<&'static str, u64>,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Resident {
    flows: u64,
    packets: u64,
    octets: u64,
}

#[derive(Debug, Serialize)]
struct CollectorEntry {
    collector: String,
    state: &'static str,
    /// Sent, whether it was refused or not.
    records: u64,
    packets: u64,
    datagrams: u64,
    /// UDP payload.
    octets: u64,
    /// Records that it did not get, by reason; those that were refused are among the sent ones as
    /// well.
    lost: BTreeMap<&'static str, u64>,
    /// Records that were sent and not refused.
    exported: u64,
    /// Records among these whose delivery is not known: the host was found unreachable
    /// shortly after they were sent.
    in_doubt: u64,
    refusals: u64,
    /// Datagrams that did not leave.
    send_errors: BTreeMap<&'static str, u64>,
    /// Records that waited for the pace, and for how long their datagrams did.
    delayed_records: u64,
    delayed_ms: u64,
    /// Records that wait.
    waiting: u64,
    resolves: u64,
    resolve_failures: u64,
}

impl Ledger {
    /// Draws up the ledger of what was counted at one moment.
    ///
    /// Once everything is at rest each identity holds exactly. Before that it holds to within what
    /// is under way between two counts, which the memory for it bounds: the frames of a queue, the
    /// batches of a worker..
    pub fn draw_up(snapshot: &Snapshot) -> Self {
        let (sum, left) = (Sums::of(&snapshot.workers), LeftOver::of(snapshot));
        let mut dropped = sum.source.dropped;
        for InterfaceSnapshot { counters, .. } in &snapshot.interfaces {
            dropped += counters.dropped();
            counters
                .queues
                .iter()
                .for_each(|queue| dropped += queue.dropped());
        }
        let in_xdp = |on: &InterfaceSnapshot| on.counters.sampled_out;
        let sampled_out =
            sum.source.sampled_out + snapshot.interfaces.iter().map(in_xdp).sum::<u64>();
        // For files and libpcap, what the source took and lost is all that is known.
        let no_program = |worker: &&WorkerSnapshot| worker.queue.is_none();
        let offered_to = |worker: &WorkerSnapshot| {
            let source = worker.counters.source;
            source.taken() + source.dropped.total()
        };
        let offered = snapshot
            .interfaces
            .iter()
            .map(|on| on.counters.offered())
            .sum::<u64>()
            + snapshot
                .workers
                .iter()
                .filter(no_program)
                .map(offered_to)
                .sum::<u64>();
        let exporter = snapshot.exporting.exporter;
        let exported = exporter.exported;
        let lost = exporter.lost_total() + sum.dropped + left.records;
        let reasons = LossReason::NAMES
            .into_iter()
            .zip(exporter.lost.map(|lost| lost.records));
        let mut reasons: BTreeMap<_, _> = reasons
            .chain([("hand_over", sum.dropped.records), (DIED, 0)])
            .collect();
        *reasons.entry(left.reason).or_default() += left.records.records;
        let mut dropped: BTreeMap<_, _> = dropped.by_place().into_iter().collect();
        dropped.extend([(DIED, 0), (STOP, 0)]);
        dropped.insert(left.reason, left.frames());
        let resident = if snapshot.is_last && snapshot.has_gaps() {
            // Among what is left.
            Resident::default()
        } else {
            Resident {
                flows: sum.meter.resident_flows,
                packets: sum.resident.packets,
                octets: sum.resident.octets,
            }
        };
        Self {
            offered: Packets { packets: offered },
            received: PacketsAndOctets {
                packets: sum.source.received - left.in_hand,
                octets: sum.source.received_octets,
            },
            sampled_out: Packets {
                packets: sampled_out,
            },
            filtered: Packets {
                packets: sum.source.filtered,
            },
            dropped,
            undecoded: DecodeError::REASONS
                .into_iter()
                .zip(sum.meter.undecoded)
                .collect(),
            unread: unread_by_name(&snapshot.workers)
                .into_iter()
                .map(UnreadEntry::from)
                .collect(),
            excluded: sum.meter.excluded.into(),
            observed: sum.meter.cache.observed.into(),
            beyond_frame: sum.meter.beyond_frame.into(),
            flows: Flows {
                created: sum.meter.cache.created,
                expired: EndReason::ALL
                    .into_iter()
                    .map(EndReason::name)
                    .zip(sum.meter.cache.expired)
                    .collect(),
            },
            exported: exported.into(),
            lost: Lost {
                records: lost.records,
                packets: lost.volume.packets,
                octets: lost.volume.octets,
                reasons,
            },
            resident,
            distribution: snapshot.distribution.name(),
            collectors: snapshot
                .collectors
                .iter()
                .map(|collector| CollectorEntry::of(collector, snapshot, left.reason))
                .collect(),
            balanced: Balance::of(snapshot).holds(),
        }
    }

    /// Whether there were records, and every one of them was lost or is in doubt at each collector.
    #[must_use]
    pub fn lost_every_record(&self) -> bool {
        let mut collectors = self.collectors.iter();
        let got_some = collectors.any(|one| one.exported > one.in_doubt);
        // What a collector got that was removed is in no entry.
        let in_doubt = self.in_doubt();
        !got_some && self.exported.records <= in_doubt && self.lost.records + in_doubt > 0
    }

    /// Whether the delivery of some records is not known.
    #[must_use]
    pub fn has_doubts(&self) -> bool {
        self.in_doubt() > 0
    }

    /// Records whose delivery is in doubt: where every collector gets every record, those of the
    /// collector that has most.
    fn in_doubt(&self) -> u64 {
        let in_doubt = self.collectors.iter().map(|one| one.in_doubt);
        if self.distribution == Distribution::Copy.name() {
            in_doubt.max().unwrap_or(0)
        } else {
            in_doubt.sum()
        }
    }

    /// What was lost, and why: `nothing lost`, or `lost 5 packets (5 ring_full) and 2 records (2
    /// refused)`; how many records are in doubt, if there are any; and what a collector did not get
    /// that another one got.
    #[must_use]
    pub fn losses(&self) -> String {
        let packets: u64 = self.dropped.values().sum();
        let lost = [
            (packets, "packet", &self.dropped),
            (self.lost.records, "record", &self.lost.reasons),
        ];
        let lost: Vec<_> = lost
            .into_iter()
            .filter(|(count, ..)| *count > 0)
            .map(|(count, unit, reasons)| {
                let plural = if count == 1 { "" } else { "s" };
                format!("{count} {unit}{plural} ({})", list(reasons))
            })
            .collect();
        let in_doubt = match self.in_doubt() {
            0 => String::new(),
            count => format!(", delivery of {count} records in doubt"),
        };
        let lost = if lost.is_empty() {
            "nothing lost".to_owned()
        } else {
            format!("lost {}", lost.join(" and "))
        };
        lost + &in_doubt + &self.losses_of_some()
    }

    /// What some collectors did not get and others did, where each is to get every record.
    fn losses_of_some(&self) -> String {
        if self.distribution != Distribution::Copy.name() || self.collectors.len() < 2 {
            return String::new();
        }
        let at_hand_over = self.lost.reasons.get("hand_over").copied().unwrap_or(0);
        let by_all = self.lost.records - at_hand_over;
        let losses = self.collectors.iter().filter_map(|one| {
            let records: u64 = one.lost.values().sum();
            let name = &one.collector;
            (records > by_all).then(|| {
                format!(
                    "; {name} did not get {records} records ({})",
                    list(&one.lost)
                )
            })
        });
        losses.collect()
    }

    /// Whether every identity holds.
    pub fn is_balanced(&self) -> bool {
        self.balanced
    }
}

/// The identities, each with what may be under way between its two sides.
struct Balance<'a> {
    snapshot: &'a Snapshot,
    /// A part died or was not waited for: what it held may be between any two sides.
    has_gaps: bool,
    /// Nothing is under way.
    at_rest: bool,
}

impl<'a> Balance<'a> {
    fn of(snapshot: &'a Snapshot) -> Self {
        let has_gaps = snapshot.has_gaps();
        Self {
            snapshot,
            has_gaps,
            at_rest: snapshot.is_at_rest() && !has_gaps,
        }
    }

    fn holds(&self) -> bool {
        self.snapshot
            .interfaces
            .iter()
            .all(|interface| self.is_received(interface))
            && self
                .snapshot
                .workers
                .iter()
                .all(|worker| self.is_observed_and_expired(worker))
            && self.is_taken()
            && self.is_exported()
            && self.is_distributed()
    }

    /// What a worker that died had in hand is in no count of its own.
    fn is_observed_and_expired(&self, worker: &WorkerSnapshot) -> bool {
        self.snapshot.died.contains(&worker.label()) || is_observed_and_expired(&worker.counters)
    }

    /// Frames redirected to sockets were taken from them, lost there, or are in their rings.
    fn is_received(&self, interface: &InterfaceSnapshot) -> bool {
        let InterfaceSnapshot {
            redirected_before,
            counters,
            ..
        } = interface;
        // Frames that were shown are given back before they are published as received.
        let under_way_max =
            |queue: &QueueCounters| u64::from(queue.report.frame_count) + BURST_MAX as u64;
        let under_way_max = if !self.snapshot.reads_all_of(interface) {
            u64::MAX
        } else if self.at_rest {
            0
        } else {
            counters.queues.iter().map(under_way_max).sum()
        };
        let before = redirected_before.saturating_sub(counters.offered_again);
        (before.saturating_sub(under_way_max)..=interface.redirected())
            .contains(&(self.snapshot.taken_from(interface) + interface.lost_at_sockets()))
    }

    /// Expired records were dropped at hand-over, taken by the exporter, or are under way to it.
    fn is_taken(&self) -> bool {
        let Snapshot {
            workers,
            exporting,
            taken_after,
            ..
        } = self.snapshot;
        let sum = Sums::of(workers);
        let taken_before = exporting.taken;
        let handed_over = sum.expired.records - sum.dropped.records;
        let volume = sum.expired.volume - sum.dropped.volume;
        // Here the later count is the one that was read twice.
        let under_way_max = if self.has_gaps {
            u64::MAX
        } else if self.at_rest {
            0
        } else {
            self.snapshot.under_way_max()
        };
        // A worker hands over within a turn, and publishes that after it.
        let before = taken_before.records.saturating_sub(under_way_max);
        (before..=taken_after.records.saturating_add(under_way_max)).contains(&handed_over)
            && (!self.at_rest || volume == taken_after.volume)
    }

    /// Records that the exporter took were sent or lost, or wait for their datagram to fill.
    fn is_exported(&self) -> bool {
        let ExportingCounters {
            taken, exporter, ..
        } = self.snapshot.exporting;
        let done = exporter.exported + exporter.lost_total();
        let waits = done.records <= taken.records && done.volume.packets <= taken.volume.packets;
        waits && (!self.at_rest || (done.volume == taken.volume && done.records == taken.records))
    }

    /// Each record meant for a collector is in one of its counts. Where every collector gets every
    /// record, each was meant to get all that the exporter took since it was added.
    fn is_distributed(&self) -> bool {
        let Snapshot {
            exporting: ExportingCounters { taken, .. },
            collectors,
            distribution,
            ..
        } = self.snapshot;
        let has_all = |counters: &CollectorCounters| {
            let meant = counters.taken_before + counters.pushed;
            *distribution != Distribution::Copy
                || (meant.records, meant.volume) == (taken.records, taken.volume)
        };
        let is_accounted_for = |CollectorSnapshot { counters, .. }: &CollectorSnapshot| {
            (self.has_gaps || counters.accounts_for_all())
                && (!self.at_rest || (counters.waiting.records == 0 && has_all(counters)))
        };
        collectors.iter().all(is_accounted_for)
    }
}

/// A worker publishes between two turns, so these hold exactly: each packet that was received was
/// observed, not decoded or our own export; each flow that was created was expired or is resident;
/// each flow that was expired became a record.
fn is_observed_and_expired(worker: &WorkerCounters) -> bool {
    let WorkerCounters {
        source,
        meter,
        resident,
        expired,
        ..
    } = worker;
    let MeterCounters {
        cache,
        resident_flows,
        ..
    } = meter;
    source.received == worker.metered()
        && cache.created == cache.expired_total() + resident_flows
        && cache.expired_total() == expired.records
        && cache.observed == expired.volume + *resident
        && resident.packets >= *resident_flows
        && (*resident_flows > 0 || resident.packets == 0)
}

/// All workers together.
#[derive(Default)]
struct Sums {
    source: SourceCounters,
    meter: MeterCounters,
    resident: Volume,
    expired: Tally,
    dropped: Tally,
}

impl Sums {
    fn of(workers: &[WorkerSnapshot]) -> Self {
        let mut sum = Self::default();
        for WorkerSnapshot { counters, .. } in workers {
            sum.source += counters.source;
            sum.add_meter(&counters.meter);
            sum.resident += counters.resident;
            sum.expired += counters.expired;
            sum.dropped += counters.dropped;
        }
        sum
    }

    fn add_meter(&mut self, meter: &MeterCounters) {
        add_each(&mut self.meter.undecoded, &meter.undecoded);
        self.meter.excluded += meter.excluded;
        self.meter.beyond_frame += meter.beyond_frame;
        self.meter.cache.observed += meter.cache.observed;
        self.meter.cache.created += meter.cache.created;
        add_each(&mut self.meter.cache.expired, &meter.cache.expired);
        self.meter.resident_flows += meter.resident_flows;
    }
}

fn add_each(sums: &mut [u64], counts: &[u64]) {
    sums.iter_mut()
        .zip(counts)
        .for_each(|(sum, count)| *sum += count);
}

impl From<(Option<Unread>, u64)> for UnreadEntry {
    fn from((unread, packets): (Option<Unread>, u64)) -> Self {
        match unread {
            Some(unread) => Self {
                kind: unread.kind(),
                number: unread.number(),
                packets,
                text: unread.to_string(),
            },
            None => Self {
                kind: "other",
                number: String::new(),
                packets,
                text: "other protocols".to_owned(),
            },
        }
    }
}

impl From<Volume> for PacketsAndOctets {
    fn from(volume: Volume) -> Self {
        Self {
            packets: volume.packets,
            octets: volume.octets,
        }
    }
}

impl From<Tally> for Records {
    fn from(tally: Tally) -> Self {
        let Tally {
            records,
            datagrams,
            volume: Volume { packets, octets },
        } = tally;
        Self {
            records,
            packets,
            octets,
            datagrams,
        }
    }
}

impl CollectorEntry {
    /// What still waits for it at the end was lost by `left`.
    fn of(collector: &CollectorSnapshot, snapshot: &Snapshot, left: &'static str) -> Self {
        let CollectorSnapshot { name, counters, .. } = collector;
        let waiting = counters.waiting.records;
        let (waiting, left_over) = if snapshot.is_last {
            (0, waiting)
        } else {
            (waiting, 0)
        };
        let lost = counters.lost.map(|lost| lost.records);
        let mut lost: BTreeMap<_, _> = LossReason::NAMES.into_iter().zip(lost).collect();
        *lost.entry(left).or_default() += left_over;
        let send_errors = SendErrorKind::NAMES.into_iter().zip(counters.errors);
        Self {
            collector: name.to_string(),
            state: counters.state().name(),
            records: counters.sent.records,
            packets: counters.sent.volume.packets,
            datagrams: counters.sent.datagrams,
            octets: counters.octets,
            lost,
            exported: counters.exported.records,
            in_doubt: counters.in_doubt.records,
            refusals: counters.refusals,
            send_errors: send_errors.collect(),
            delayed_records: counters.delayed_records,
            delayed_ms: counters.delayed_ms,
            waiting,
            resolves: counters.resolves,
            resolve_failures: counters.resolve_failures,
        }
    }
}

impl fmt::Display for Ledger {
    /// The ledger for people: top to bottom the way of a packet, losses by name, and no zeros
    /// except totals.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        line(f, "offered", self.offered.packets, "packets")?;
        reasons(f, "dropped", &self.dropped)?;
        for (name, Packets { packets }) in [
            ("sampled out", self.sampled_out),
            ("filtered", self.filtered),
        ] {
            if packets > 0 {
                line(f, name, packets, "packets")?;
            }
        }
        line(f, "received", self.received.packets, "packets")?;
        reasons(f, "undecoded", &self.undecoded)?;
        for UnreadEntry { packets, text, .. } in &self.unread {
            line(f, "  not read", *packets, text)?;
        }
        if self.excluded.packets > 0 {
            line(f, "  excluded", self.excluded.packets, "of our own export")?;
        }
        line(
            f,
            "observed",
            self.observed.packets,
            &format!("packets, {} octets", self.observed.octets),
        )?;
        let PacketsAndOctets { packets, octets } = self.beyond_frame;
        if packets > 0 {
            let beyond = format!("packets, {octets} octets that were not on the wire");
            line(f, "  beyond frame", packets, &beyond)?;
        }
        line(f, "flows created", self.flows.created, "")?;
        reasons(f, "expired", &self.flows.expired)?;
        let Records {
            records,
            packets,
            octets,
            datagrams,
        } = self.exported;
        let datagrams = in_datagrams(datagrams);
        let volume = format!("records{datagrams}, {packets} packets, {octets} octets");
        line(f, "exported", records, &volume)?;
        let volume = format!(
            "records, {} packets, {} octets",
            self.lost.packets, self.lost.octets
        );
        line(f, "lost", self.lost.records, &volume)?;
        reasons(f, "lost at", &self.lost.reasons)?;
        line(
            f,
            "resident",
            self.resident.flows,
            &format!("flows, {} packets", self.resident.packets),
        )?;
        for collector in &self.collectors {
            let refused = match collector.refusals {
                0 => String::new(),
                times => format!(", refused {times} times"),
            };
            let datagrams = in_datagrams(collector.datagrams);
            let name = printable(&collector.collector);
            let sent = format!("records{datagrams} to {name}{refused}");
            line(f, "sent", collector.records, &sent)?;
            if collector.delayed_records > 0 {
                line(
                    f,
                    "  delayed",
                    collector.delayed_records,
                    "records by its pace",
                )?;
            }
            if collector.in_doubt > 0 {
                let why = "records, sent shortly before the host was found unreachable";
                line(f, "  in doubt", collector.in_doubt, why)?;
            }
            reasons(f, "lost to it", &collector.lost)?;
            reasons(f, "not sent", &collector.send_errors)?;
        }
        let balance = if self.balanced {
            "balanced"
        } else {
            "OUT OF BALANCE"
        };
        write!(f, "ledger {balance}, {}", self.losses())
    }
}

/// Reasons that are not 0, with their counts.
fn list(reasons: &BTreeMap<&'static str, u64>) -> String {
    let reasons = reasons.iter().filter(|&(_, &count)| count > 0);
    let reasons: Vec<_> = reasons
        .map(|(reason, count)| format!("{count} {reason}"))
        .collect();
    reasons.join(", ")
}

/// Records go into a file without datagrams.
fn in_datagrams(datagrams: u64) -> String {
    match datagrams {
        0 => String::new(),
        datagrams => format!(" in {datagrams} datagrams"),
    }
}

fn line(f: &mut fmt::Formatter<'_>, name: &str, count: u64, unit: &str) -> fmt::Result {
    writeln!(f, "{}", format!("{name:<14} {count:>12} {unit}").trim_end())
}

fn reasons(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    counts: &BTreeMap<&'static str, u64>,
) -> fmt::Result {
    for (reason, &count) in counts.iter().filter(|&(_, &count)| count > 0) {
        line(f, &format!("  {name}"), count, reason)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counters::Phase;
    use crate::hand_over::UNDER_WAY_MAX;
    use xdprobe_capture::interface::RefusedFrame;
    use xdprobe_capture::xdp::{InterfaceCounters, Losses, QueueReport};
    use xdprobe_export::CollectorId;
    use xdprobe_flow::CacheCounters;

    /// Ten frames, two of them undecoded; two records, both dropped at hand-over: at rest.
    fn snapshot() -> Snapshot {
        let observed = Volume {
            packets: 8,
            octets: 800,
        };
        let dropped = Tally {
            records: 2,
            datagrams: 0,
            volume: observed,
        };
        let counters = WorkerCounters {
            source: SourceCounters {
                received: 10,
                received_octets: 1000,
                ..SourceCounters::default()
            },
            meter: MeterCounters {
                undecoded: [2, 0, 0, 0, 0, 0, 0, 0, 0],
                cache: CacheCounters {
                    observed,
                    created: 2,
                    expired: [2, 0, 0, 0, 0, 0],
                },
                ..MeterCounters::default()
            },
            expired: dropped,
            dropped,
            phase: Phase::Ended as u64,
            ..WorkerCounters::default()
        };
        let (interface, queue) = ("tap0".to_owned(), Some(0));
        let worker = WorkerSnapshot {
            interface,
            queue,
            counters,
            ..WorkerSnapshot::default()
        };
        let on = InterfaceSnapshot {
            name: "tap0".to_owned(),
            redirected_before: 10,
            counters: InterfaceCounters {
                redirected: 10,
                no_socket: 3,
                sampled_out: 50,
                driver: 4,
                ..InterfaceCounters::default()
            },
            ..InterfaceSnapshot::default()
        };
        let exporting = ExportingCounters {
            ended: 1,
            ..ExportingCounters::default()
        };
        Snapshot {
            workers: vec![worker],
            interfaces: vec![on],
            exporting,
            ..Snapshot::default()
        }
    }

    fn balanced(change: impl FnOnce(&mut Snapshot)) -> bool {
        let mut snapshot = snapshot();
        change(&mut snapshot);
        Ledger::draw_up(&snapshot).is_balanced()
    }

    fn queue_of_64_frames(ring_full: u64) -> QueueCounters {
        let report = QueueReport {
            zero_copy: false,
            in_driver: true,
            huge_pages: false,
            refused_frame: RefusedFrame::Dropped,
            frame_count: 64,
            frame_octets: 2048,
        };
        QueueCounters {
            queue: 0,
            report,
            losses: Losses {
                ring_full,
                no_frame: 0,
            },
        }
    }

    fn worker(snapshot: &mut Snapshot) -> &mut WorkerCounters {
        &mut snapshot.workers[0].counters
    }

    #[test]
    fn balances_only_while_each_identity_holds() {
        assert!(balanced(|_| {}));
        assert!(
            !balanced(|it| worker(it).source.filtered = 1),
            "more frames were taken than were redirected"
        );
        assert!(
            !balanced(|it| worker(it).meter.undecoded[1] = 1),
            "a frame was counted twice"
        );
        assert!(
            !balanced(|it| worker(it).meter.excluded.packets = 1),
            "our own export was metered"
        );
        assert!(
            !balanced(|it| worker(it).dropped.volume.octets = 799),
            "octets of lost records are missing"
        );
        assert!(
            !balanced(|it| worker(it).dropped.records = 1),
            "a record is neither exported nor lost"
        );
        assert!(
            !balanced(|it| worker(it).meter.cache.created = 3),
            "a flow is gone without a record"
        );
        assert!(
            !balanced(|it| worker(it).resident.packets = 1),
            "a packet is resident in no flow"
        );
        assert!(
            !balanced(|it| it.exporting.exporter.exported.records = 1),
            "a record was sent that was never handed over"
        );
        assert!(!balanced(|it| {
            worker(it).source.received = 9;
            worker(it).meter.undecoded[0] = 1;
        }));
        assert!(balanced(|it| {
            worker(it).source.received = 9;
            worker(it).meter.undecoded[0] = 1;
            it.interfaces[0].counters.queues.push(queue_of_64_frames(1));
        }));
        assert!(balanced(|it| {
            worker(it).source.received = 9;
            worker(it).meter.undecoded[0] = 1;
            it.interfaces[0].counters.unbound = 1;
        }));
    }

    #[test]
    fn what_a_stop_leaves_in_rings_is_not_lost_once_more_by_sockets_that_were_unbound() {
        let mut last = snapshot();
        last.is_last = true;
        let counters = worker(&mut last);
        counters.left_unread = 1;
        counters.source.received = 9;
        counters.meter.undecoded[0] = 1;
        let lost = |last: &Snapshot| {
            let ledger = Ledger::draw_up(last);
            assert!(ledger.is_balanced());
            (ledger.dropped["unbound"], ledger.dropped[STOP])
        };
        assert_eq!(lost(&last), (0, 1));
        last.interfaces[0].counters.unbound = 1;
        assert_eq!(lost(&last), (1, 0));
    }

    #[test]
    fn balances_only_while_each_copy_is_accounted_for() {
        let sent = Tally {
            records: 2,
            datagrams: 1,
            volume: Volume {
                packets: 8,
                octets: 800,
            },
        };
        // One collector got all; of the other's records so many are counted.
        let balanced_with = |distribution, pushed: Tally, exported: Tally, waiting: Tally| {
            balanced(|it| {
                worker(it).dropped = Tally::default();
                it.exporting.taken = sent;
                it.taken_after = sent;
                it.exporting.exporter.exported = sent;
                let got = |pushed, exported, waiting| CollectorSnapshot {
                    id: CollectorId::FIRST,
                    name: "collector".into(),
                    counters: CollectorCounters {
                        pushed,
                        sent: exported,
                        exported,
                        waiting,
                        ..CollectorCounters::default()
                    },
                };
                let none = Tally::default();
                it.collectors = vec![got(sent, sent, none), got(pushed, exported, waiting)];
                it.distribution = distribution;
            })
        };
        let none = Tally::default();
        let half = Tally { records: 1, ..sent };
        assert!(balanced_with(Distribution::Copy, sent, sent, none));
        assert!(
            !balanced_with(Distribution::Copy, sent, half, none),
            "a record is in no count"
        );
        assert!(
            !balanced_with(Distribution::Copy, half, half, none),
            "a copy was never meant for it"
        );
        assert!(
            !balanced_with(Distribution::Copy, sent, none, sent),
            "records are left waiting"
        );
        assert!(
            balanced_with(Distribution::Balance, none, none, none),
            "none was meant for the other"
        );
    }

    #[test]
    fn under_load_no_more_is_missing_than_can_be_under_way() {
        let with_missing = |missing: u64, handed_over: u64| {
            balanced(|it| {
                worker(it).phase = Phase::Running as u64;
                worker(it).dropped = Tally::default();
                worker(it).expired.records = handed_over;
                worker(it).meter.cache.expired[0] = handed_over;
                worker(it).meter.cache.created = handed_over;
                let on = &mut it.interfaces[0];
                on.counters.queues.push(queue_of_64_frames(0));
                on.redirected_before += missing;
                on.counters.redirected += 1_000_000;
            })
        };
        assert!(with_missing(128, UNDER_WAY_MAX));
        assert!(
            !with_missing(129, UNDER_WAY_MAX),
            "more frames than the queue has"
        );
        assert!(
            !with_missing(128, UNDER_WAY_MAX + 1),
            "more records than the worker has places for"
        );
    }

    #[test]
    fn what_is_not_read_is_named_with_its_count() {
        let mut snapshot = snapshot();
        let counters = worker(&mut snapshot);
        counters.meter.undecoded = [0, 0, 0, 0, 2, 0, 0, 0, 0];
        let unread = &mut counters.meter.unread;
        unread.count(Unread::EtherType(0x8903));
        unread.count(Unread::EtherType(0x8903));
        let mut second = snapshot.workers[0].clone();
        second.counters.meter.unread.count(Unread::LinkType(9));
        second.counters.meter.unread.other = 5;
        snapshot.workers.push(second);
        let ledger = Ledger::draw_up(&snapshot);
        let entry = |kind: &str, number: &str, packets: u64| {
            let (kind, number) = (kind.to_owned(), number.to_owned());
            serde_json::json!({ "kind": kind, "number": number, "packets": packets })
        };
        let unread = [
            entry("link_type", "9", 1),
            entry("ether_type", "0x8903", 4),
            entry("other", "", 5),
        ];
        let in_json = serde_json::to_value(&ledger).unwrap();
        assert_eq!(in_json["unread"], serde_json::json!(unread));
        let text = ledger.to_string();
        for expected in [
            "  not read                4 EtherType 0x8903\n",
            "  not read                1 link type 9\n",
            "  not read                5 other protocols\n",
        ] {
            assert!(text.contains(expected), "{text}");
        }
    }

    #[test]
    fn packets_beyond_their_frame_are_in_the_ledger_and_in_its_text_if_there_are_any() {
        let mut snapshot = snapshot();
        assert!(!Ledger::draw_up(&snapshot).to_string().contains("beyond"));
        worker(&mut snapshot).meter.beyond_frame = Volume {
            packets: 3,
            octets: 196_521,
        };
        let ledger = Ledger::draw_up(&snapshot);
        assert!(ledger.is_balanced());
        assert_eq!(
            serde_json::to_value(&ledger).unwrap()["beyond_frame"],
            serde_json::json!({"packets": 3, "octets": 196_521})
        );
        let text = ledger.to_string();
        assert!(
            text.contains(
                "  beyond frame            3 packets, 196521 octets that were not on the wire\n"
            ),
            "{text}"
        );
    }

    #[test]
    fn the_text_names_losses_and_leaves_out_what_is_zero() {
        let text = Ledger::draw_up(&snapshot()).to_string();
        assert!(
            text.contains("undecoded               2 truncated"),
            "{text}"
        );
        assert!(
            text.contains("lost at                 2 hand_over"),
            "{text}"
        );
        assert!(!text.contains("ipv6"), "{text}");
        assert!(
            text.ends_with(
                "ledger balanced, lost 7 packets (4 driver, 3 no_socket) and 2 records (2 hand_over)"
            ),
            "{text}"
        );
        assert!(Ledger::draw_up(&snapshot()).lost_every_record());
        let nothing = Ledger::draw_up(&Snapshot::default());
        assert!(!nothing.lost_every_record());
        assert_eq!(nothing.losses(), "nothing lost");
    }

    #[test]
    fn a_run_whose_records_are_all_lost_or_in_doubt_delivered_nothing() {
        let sent = |records| Tally {
            records,
            ..Tally::default()
        };
        let collector = |exported, in_doubt, refused| {
            let mut counters = CollectorCounters {
                exported: sent(exported),
                in_doubt: sent(in_doubt),
                ..CollectorCounters::default()
            };
            counters.lost[LossReason::Refused as usize] = sent(refused);
            CollectorSnapshot {
                id: CollectorId::FIRST,
                name: "192.0.2.9:2055".into(),
                counters,
            }
        };
        let ledger = |distribution, exported, collectors| {
            let mut snapshot = Snapshot {
                distribution,
                collectors,
                ..Snapshot::default()
            };
            snapshot.exporting.exporter.exported = sent(exported);
            Ledger::draw_up(&snapshot)
        };
        let (copy, failover) = (Distribution::Copy, Distribution::Failover);
        let off = || collector(8, 8, 2);
        let in_doubt = ledger(copy, 8, vec![off()]);
        assert!(in_doubt.lost_every_record() && in_doubt.has_doubts());
        assert_eq!(
            in_doubt.losses(),
            "nothing lost, delivery of 8 records in doubt"
        );
        let text = in_doubt.to_string();
        let line = "8 records, sent shortly before the host was found unreachable";
        assert!(text.contains(line), "{text}");
        assert!(!ledger(copy, 10, vec![off(), collector(10, 0, 0)]).lost_every_record());
        assert!(ledger(failover, 8, vec![off(), collector(0, 0, 0)]).lost_every_record());
        let refusing = ledger(copy, 10, vec![collector(0, 0, 10), collector(10, 0, 0)]);
        assert_eq!(
            refusing.losses(),
            "nothing lost; 192.0.2.9:2055 did not get 10 records (10 refused)"
        );
        // Another one got the rest, and was removed.
        assert!(!ledger(failover, 9, vec![off()]).lost_every_record());
    }
}
