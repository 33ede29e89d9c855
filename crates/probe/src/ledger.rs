//! The ledger: what was offered, and where every packet of it is.
//!
//! Each side of each identity is counted in another place (the XDP program, the socket, the worker, the cache, the exporter),
//! so that the sum is a check and not a definition. `balanced` says whether all of them hold.

use crate::worker::WorkerReport;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use xdprobe_capture::SourceCounters;
use xdprobe_capture::xdp::InterfaceCounters;
use xdprobe_export::{Collector, Exporter, SendErrorKind, Tally};
use xdprobe_flow::{CacheCounters, DecodeError, EndReason, Volume};

/// The ledger of a run.
#[derive(Debug, Serialize)]
pub struct Ledger {
    /// What came to the observation point.
    offered: Packets,
    /// What workers received, with its octets on the wire.
    received: PacketsAndOctets,
    /// Received and thrown away, since the filter does not want it.
    filtered: Packets,
    /// Packets lost before they were received, by place.
    dropped: BTreeMap<&'static str, u64>,
    /// Frames without a packet in them, by reason.
    undecoded: BTreeMap<&'static str, u64>,
    /// Packets that the flow caches observed, with their layer-3 octets.
    observed: PacketsAndOctets,
    /// Flows created, and expired by reason.
    flows: Flows,
    /// Records that at least one collector was sent.
    exported: Records,
    /// Records that no collector was sent.
    lost: Lost,
    /// What is still in the caches.
    resident: Resident,
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

#[derive(Clone, Copy, Debug, Serialize)]
struct Resident {
    flows: u64,
    packets: u64,
    octets: u64,
}

#[derive(Debug, Serialize)]
struct CollectorEntry {
    collector: String,
    records: u64,
    datagrams: u64,
    refusals: u64,
    send_errors: BTreeMap<&'static str, u64>,
}

impl Ledger {
    /// Draws up the ledger of workers that have ended, the XDP programs in front of them, and their exporter.
    ///
    /// `interfaces` are the counters of those interfaces that are captured from with AF_XDP, read once no frame was
    /// redirected any more.
    pub fn draw_up(workers: &[WorkerReport], interfaces: &[InterfaceCounters], exporter: &Exporter) -> Self {
        let mut sum = Sums::default();
        workers.iter().for_each(|worker| sum.add(worker));
        let mut dropped = sum.source.dropped;
        interfaces.iter().for_each(|interface| dropped += interface.dropped());
        let drops: u64 = dropped.by_place().iter().map(|(_, packets)| packets).sum();
        let taken = sum.source.received + sum.source.filtered;
        let offered = match interfaces {
            // Files and libpcap have no count of their own of what there was.
            [] => taken + drops,
            _ => interfaces.iter().map(|on| on.redirected + on.no_socket + on.driver).sum(),
        };
        let exporter_counters = exporter.counters();
        let mut lost = sum.dropped;
        lost += exporter_counters.failed;
        let undecoded: u64 = sum.undecoded.iter().sum();
        let exported = exporter_counters.exported;
        let expired = sum.cache.expired_total();
        let balanced = [
            offered == taken + drops,
            sum.source.received == undecoded + sum.cache.observed.packets,
            sum.cache.observed == exported.volume + lost.volume + sum.resident,
            expired == exported.records + lost.records,
            sum.cache.created == expired + sum.resident_flows,
        ];
        Self {
            offered: Packets { packets: offered },
            received: PacketsAndOctets { packets: sum.source.received, octets: sum.source.received_octets },
            filtered: Packets { packets: sum.source.filtered },
            dropped: dropped.by_place().into_iter().collect(),
            undecoded: DecodeError::REASONS.into_iter().zip(sum.undecoded).collect(),
            observed: sum.cache.observed.into(),
            flows: Flows {
                created: sum.cache.created,
                expired: EndReason::ALL.into_iter().map(EndReason::name).zip(sum.cache.expired).collect(),
            },
            exported: exported.into(),
            lost: Lost {
                records: lost.records,
                packets: lost.volume.packets,
                octets: lost.volume.octets,
                reasons: [("hand_over", sum.dropped.records), ("send", exporter_counters.failed.records)].into(),
            },
            resident: Resident {
                flows: sum.resident_flows,
                packets: sum.resident.packets,
                octets: sum.resident.octets,
            },
            collectors: exporter.collectors().iter().map(CollectorEntry::from).collect(),
            balanced: balanced.into_iter().all(|holds| holds),
        }
    }

    /// Whether every identity holds.
    pub fn is_balanced(&self) -> bool {
        self.balanced
    }
}

/// All workers together.
#[derive(Default)]
struct Sums {
    source: SourceCounters,
    undecoded: crate::worker::Undecoded,
    cache: CacheCounters,
    resident: Volume,
    resident_flows: u64,
    dropped: Tally,
}

impl Sums {
    fn add(&mut self, worker: &WorkerReport) {
        self.source += worker.source;
        add_each(&mut self.undecoded, &worker.undecoded);
        self.cache.observed += worker.cache.observed;
        self.cache.created += worker.cache.created;
        add_each(&mut self.cache.expired, &worker.cache.expired);
        self.resident += worker.resident;
        self.resident_flows += worker.resident_flows as u64;
        self.dropped += worker.dropped;
    }
}

fn add_each(sums: &mut [u64], counts: &[u64]) {
    sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
}

impl From<Volume> for PacketsAndOctets {
    fn from(volume: Volume) -> Self {
        Self { packets: volume.packets, octets: volume.octets }
    }
}

impl From<Tally> for Records {
    fn from(tally: Tally) -> Self {
        let Tally { records, datagrams, volume: Volume { packets, octets } } = tally;
        Self { records, packets, octets, datagrams }
    }
}

impl From<&Collector> for CollectorEntry {
    fn from(collector: &Collector) -> Self {
        let counters = collector.counters();
        Self {
            collector: collector.name().to_owned(),
            records: counters.records,
            datagrams: counters.datagrams,
            refusals: counters.refusals,
            send_errors: SendErrorKind::NAMES.into_iter().zip(counters.errors).collect(),
        }
    }
}

impl fmt::Display for Ledger {
    /// The ledger as a person reads it: top to bottom the way of a packet, losses by name, nothing that is 0 but the totals.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        line(f, "offered", self.offered.packets, "packets")?;
        reasons(f, "dropped", &self.dropped)?;
        if self.filtered.packets > 0 {
            line(f, "filtered", self.filtered.packets, "packets")?;
        }
        line(f, "received", self.received.packets, "packets")?;
        reasons(f, "undecoded", &self.undecoded)?;
        line(f, "observed", self.observed.packets, &format!("packets, {} octets", self.observed.octets))?;
        line(f, "flows created", self.flows.created, "")?;
        reasons(f, "expired", &self.flows.expired)?;
        let Records { records, packets, octets, datagrams } = self.exported;
        let volume = format!("records in {datagrams} datagrams, {packets} packets, {octets} octets");
        line(f, "exported", records, &volume)?;
        let volume = format!("records, {} packets, {} octets", self.lost.packets, self.lost.octets);
        line(f, "lost", self.lost.records, &volume)?;
        reasons(f, "lost at", &self.lost.reasons)?;
        line(f, "resident", self.resident.flows, &format!("flows, {} packets", self.resident.packets))?;
        for collector in &self.collectors {
            let refused = match collector.refusals {
                0 => String::new(),
                times => format!(", refused {times} times"),
            };
            let sent = format!("records in {} datagrams to {}{refused}", collector.datagrams, collector.collector);
            line(f, "sent", collector.records, &sent)?;
            reasons(f, "not sent", &collector.send_errors)?;
        }
        write!(f, "ledger {}", if self.balanced { "balanced" } else { "OUT OF BALANCE" })
    }
}

fn line(f: &mut fmt::Formatter<'_>, name: &str, count: u64, unit: &str) -> fmt::Result {
    writeln!(f, "{}", format!("{name:<14} {count:>12} {unit}").trim_end())
}

fn reasons(f: &mut fmt::Formatter<'_>, name: &str, counts: &BTreeMap<&'static str, u64>) -> fmt::Result {
    for (reason, &count) in counts.iter().filter(|&(_, &count)| count > 0) {
        line(f, &format!("  {name}"), count, reason)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use xdprobe_export::{Engine, ExporterConfig};

    fn report() -> WorkerReport {
        let observed = Volume { packets: 8, octets: 800 };
        let dropped = Tally { records: 2, datagrams: 0, volume: observed };
        WorkerReport {
            source: SourceCounters { received: 10, received_octets: 1000, ..SourceCounters::default() },
            undecoded: [2, 0, 0, 0, 0, 0, 0, 0, 0],
            cache: CacheCounters { observed, created: 2, expired: [2, 0, 0, 0, 0, 0] },
            resident: Volume::default(),
            resident_flows: 0,
            dropped,
            error: None,
        }
    }

    fn balanced(change: impl FnOnce(&mut WorkerReport)) -> bool {
        let exporter = Exporter::new(ExporterConfig { engine: Engine::default(), flush_delay_ms: 0 }, Vec::new());
        let mut report = report();
        change(&mut report);
        let on = InterfaceCounters { redirected: 10, no_socket: 3, driver: 4 };
        Ledger::draw_up(&[report], &[on], &exporter).is_balanced()
    }

    #[test]
    fn balances_only_while_each_identity_holds() {
        assert!(balanced(|_| {}));
        assert!(!balanced(|report| report.source.received = 9), "a frame was redirected and never received");
        assert!(!balanced(|report| report.undecoded[1] = 1), "a frame was counted twice");
        assert!(!balanced(|report| report.dropped.volume.octets = 799), "octets of lost records are missing");
        assert!(!balanced(|report| report.dropped.records = 1), "a record is neither exported nor lost");
        assert!(!balanced(|report| report.cache.created = 3), "a flow is gone without a record");
        assert!(balanced(|report| {
            report.source.received = 9;
            report.undecoded[0] = 1;
            report.source.dropped.ring_full = 1;
        }));
    }

    #[test]
    fn the_text_names_losses_and_leaves_out_what_is_zero() {
        let exporter = Exporter::new(ExporterConfig { engine: Engine::default(), flush_delay_ms: 0 }, Vec::new());
        let text = Ledger::draw_up(&[report()], &[], &exporter).to_string();
        assert!(text.contains("undecoded               2 truncated"), "{text}");
        assert!(text.contains("lost at                 2 hand_over"), "{text}");
        assert!(!text.contains("ipv6"), "{text}");
        assert!(text.ends_with("ledger balanced"), "{text}");
    }
}
