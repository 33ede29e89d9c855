//! Counts by exporter: what arrived from each, and what is missing by its sequence numbers.
//!
//! Jumps of sequence numbers are classified as in flow-tools, so that the counts in a file's header
//! have the same meaning: a jump forward of less than 1000 records is a loss. Any other jump, even
//! a short one backward, is a reset of the exporter's sequence. Resets that reordering explains are
//! also counted separately. Source: flow-tools 0.68, `lib/ftdecode.c`, `ftpdu_check_seq`, and
//! `src/flow-capture.c`.

use crate::datagram::DatagramSummary;
use std::collections::HashMap;
use std::net::IpAddr;
use xdprobe_netflow::{Engine, Version};

/// A jump forward of this many records or more is a reset, not a loss.
const RESET_RECORDS: u32 = 1000;
/// The most exporters, and the most engines, that are tracked. Addresses of senders are easily
/// forged, and must not exhaust the memory.
const TRACKED_MAX: usize = 65_536;

/// Counts of one exporter and version.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ExporterTotals {
    /// Datagrams accepted.
    pub datagrams: u64,
    /// Records in them.
    pub records: u64,
    /// Records missing by the sequence numbers.
    pub lost: u64,
    /// Jumps of sequence numbers that are not a loss.
    pub resets: u64,
    /// Resets that are short jumps backward: a datagram arrived late, or twice.
    pub reordered: u64,
}

/// How a datagram's sequence number follows from the datagram before.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Continuity {
    /// As expected, or nothing was expected: the first datagram, or version 1.
    Expected,
    /// Records are missing.
    Lost(u32),
    /// The sequence jumped otherwise.
    Reset {
        /// The sequence number that follows from the datagram before.
        expected: u32,
        /// The sequence number of the datagram.
        received: u32,
        /// Whether reordering explains the jump.
        reordered: bool,
    },
}

impl std::fmt::Display for Continuity {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Expected => formatter.write_str("expected"),
            Self::Lost(records) => write!(formatter, "lost={records}"),
            Self::Reset {
                expected,
                received,
                reordered,
            } => {
                write!(
                    formatter,
                    "expecting={expected} received={received} reordered={reordered}"
                )
            }
        }
    }
}

/// All exporters, and the engines of each.
#[derive(Debug, Default)]
pub struct Exporters {
    exporters: HashMap<(IpAddr, Version), ExporterTotals>,
    expected: HashMap<(IpAddr, Version, Engine), u32>,
    /// Datagrams of exporters beyond the limit; their sequences are not tracked.
    untracked: u64,
}

impl Exporters {
    /// Counts an accepted datagram and returns how it follows from the one before.
    pub fn note(&mut self, address: IpAddr, summary: &DatagramSummary) -> Continuity {
        let key = (address, summary.version);
        if self.exporters.len() >= TRACKED_MAX && !self.exporters.contains_key(&key) {
            self.untracked += 1;
            return Continuity::Expected;
        }
        let continuity = self.follow(address, summary);
        let exporter = self.exporters.entry(key).or_default();
        exporter.datagrams += 1;
        exporter.records += u64::from(summary.count);
        match continuity {
            Continuity::Expected => {}
            Continuity::Lost(records) => exporter.lost += u64::from(records),
            Continuity::Reset { reordered, .. } => {
                exporter.resets += 1;
                exporter.reordered += u64::from(reordered);
            }
        }
        continuity
    }

    /// Counts of each exporter and version, in the order of addresses.
    #[must_use]
    pub fn list(&self) -> Vec<(IpAddr, Version, ExporterTotals)> {
        let mut list: Vec<_> = self
            .exporters
            .iter()
            .map(|(&(address, version), known)| (address, version, *known))
            .collect();
        list.sort_by_key(|(address, version, _)| (*address, *version));
        list
    }

    /// Sum over all tracked exporters.
    #[must_use]
    pub fn total(&self) -> ExporterTotals {
        self.exporters
            .values()
            .fold(ExporterTotals::default(), |sum, exporter| ExporterTotals {
                datagrams: sum.datagrams + exporter.datagrams,
                records: sum.records + exporter.records,
                lost: sum.lost + exporter.lost,
                resets: sum.resets + exporter.resets,
                reordered: sum.reordered + exporter.reordered,
            })
    }

    /// Datagrams of exporters that are not tracked, since there are too many.
    #[must_use]
    pub fn untracked(&self) -> u64 {
        self.untracked
    }

    /// Compares with the sequence number that follows from the engine's previous datagram.
    fn follow(&mut self, address: IpAddr, summary: &DatagramSummary) -> Continuity {
        let Some(received) = summary.sequence else {
            return Continuity::Expected;
        };
        let key = (address, summary.version, summary.engine);
        if self.expected.len() >= TRACKED_MAX && !self.expected.contains_key(&key) {
            return Continuity::Expected;
        }
        let next = received.wrapping_add(u32::from(summary.count));
        match self.expected.insert(key, next) {
            None => Continuity::Expected,
            Some(expected) => classify(expected, received),
        }
    }
}

fn classify(expected: u32, received: u32) -> Continuity {
    if received == expected {
        return Continuity::Expected;
    }
    // One less where the sequence wraps, as in flow-tools.
    let lost = if received > expected {
        received - expected
    } else {
        (u32::MAX - expected).wrapping_add(received)
    };
    if lost < RESET_RECORDS {
        return Continuity::Lost(lost);
    }
    let reordered = expected.wrapping_sub(received) < RESET_RECORDS;
    Continuity::Reset {
        expected,
        received,
        reordered,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn datagram(sequence: u32, count: u16) -> DatagramSummary {
        DatagramSummary {
            version: Version::V5,
            count,
            sequence: Some(sequence),
            engine: Engine::default(),
        }
    }

    fn after(expected: u32, received: u32) -> Continuity {
        let mut exporters = Exporters::default();
        exporters.note(HERE, &datagram(expected.wrapping_sub(30), 30));
        exporters.note(HERE, &datagram(received, 30))
    }

    #[test]
    fn gaps_below_a_thousand_are_losses_and_others_resets() {
        assert_eq!(after(100, 100), Continuity::Expected);
        assert_eq!(after(100, 101), Continuity::Lost(1));
        assert_eq!(after(100, 1099), Continuity::Lost(999));
        let reset = |expected, received, reordered| Continuity::Reset {
            expected,
            received,
            reordered,
        };
        assert_eq!(after(100, 1100), reset(100, 1100, false));
        assert_eq!(after(5000, 4970), reset(5000, 4970, true));
        assert_eq!(after(5000, 0), reset(5000, 0, false));
    }

    #[test]
    fn the_sequence_wraps() {
        assert_eq!(after(0, 0), Continuity::Expected);
        assert_eq!(after(u32::MAX, u32::MAX), Continuity::Expected);
        // 31 are missing; flow-tools counts 30.
        assert_eq!(after(u32::MAX, 30), Continuity::Lost(30));
    }

    #[test]
    fn exporters_versions_and_engines_have_sequences_of_their_own() {
        let mut exporters = Exporters::default();
        let there = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
        let engine = |sequence, id| DatagramSummary {
            engine: Engine { r#type: 0, id },
            ..datagram(sequence, 10)
        };
        let v7 = |sequence| DatagramSummary {
            version: Version::V7,
            ..datagram(sequence, 10)
        };
        for round in 0..3 {
            for note in [
                (HERE, engine(round * 10, 0)),
                (HERE, engine(500 + round * 10, 1)),
                (there, v7(90 + round * 10)),
            ] {
                assert_eq!(exporters.note(note.0, &note.1), Continuity::Expected);
            }
        }
        let list = exporters.list();
        assert_eq!(list.len(), 2);
        assert_eq!(
            (list[0].0, list[0].1, list[0].2.records),
            (there, Version::V7, 30)
        );
        assert_eq!(
            (list[1].0, list[1].2.datagrams, list[1].2.records),
            (HERE, 6, 60)
        );
        assert_eq!(exporters.total().records, 90);
    }

    #[test]
    fn version_1_has_no_sequence() {
        let mut exporters = Exporters::default();
        let v1 = DatagramSummary {
            version: Version::V1,
            sequence: None,
            ..datagram(0, 1)
        };
        assert_eq!(exporters.note(HERE, &v1), Continuity::Expected);
        assert_eq!(exporters.note(HERE, &v1), Continuity::Expected);
    }

    #[test]
    fn forged_senders_do_not_fill_the_memory() {
        let mut exporters = Exporters::default();
        for address in 0..70_000_u32 {
            exporters.note(Ipv4Addr::from(address).into(), &datagram(0, 1));
        }
        assert_eq!(exporters.list().len(), TRACKED_MAX);
        assert_eq!(exporters.untracked(), 70_000 - TRACKED_MAX as u64);
    }
}
