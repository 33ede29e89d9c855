//! Accounting of exporters: who sent how much, and what their sequence numbers say is missing.
//!
//! Gaps are judged as flow-tools judges them, so that the counts in a file's header mean the same:
//! a gap forward below 1000 records is a loss, and any other jump is a reset of the exporter's
//! sequencer, also a small one backward. Of the latter those that reordering explains are counted
//! besides. Source: flow-tools 0.68, `lib/ftdecode.c`, `ftpdu_check_seq`, and `src/flow-capture.c`.

use crate::datagram::DatagramSummary;
use std::collections::HashMap;
use std::net::IpAddr;
use xdprobe_netflow::{Engine, Version};

/// A gap of this many records or more is a reset, not a loss.
const RESET_RECORDS: u32 = 1000;
/// The most exporters, and the most engines, that are told apart. Senders' addresses are forged
/// easily, and memory is finite.
const TRACKED_MAX: usize = 65_536;

/// What is known of one exporter and version.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ExporterTotals {
    /// Good datagrams.
    pub datagrams: u64,
    /// Records in them.
    pub records: u64,
    /// Records that are missing between them.
    pub lost: u64,
    /// Jumps that are no loss.
    pub resets: u64,
    /// Of the resets, small jumps backward: a datagram that was overtaken, or came twice.
    pub reordered: u64,
}

/// How a datagram follows the one before it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Continuity {
    /// Nothing is missing, or nothing was expected.
    Expected,
    /// Records are missing.
    Lost(u32),
    /// The sequence jumped.
    Reset {
        /// What would have followed.
        expected: u32,
        /// What came.
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

/// Every exporter and each of its engines.
#[derive(Debug, Default)]
pub struct Exporters {
    exporters: HashMap<(IpAddr, Version), ExporterTotals>,
    expected: HashMap<(IpAddr, Version, Engine), u32>,
    /// Datagrams of those beyond the limit, whose sequence is not looked at.
    untracked: u64,
}

impl Exporters {
    /// Accounts one good datagram, and says how it follows the one before it.
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

    /// Each exporter and version, in the order of their addresses.
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

    /// Sum over all exporters.
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

    /// Datagrams whose sender was one too many to be told apart.
    #[must_use]
    pub fn untracked(&self) -> u64 {
        self.untracked
    }

    /// Compares with what the engine's previous datagram let expect.
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
            Some(expected) => judge(expected, received),
        }
    }
}

fn judge(expected: u32, received: u32) -> Continuity {
    if received == expected {
        return Continuity::Expected;
    }
    // flow-tools reckons one less where the sequence wraps.
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
        // 31 are missing; flow-tools says 30.
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
