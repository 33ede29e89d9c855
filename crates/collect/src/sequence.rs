//! Counts by exporter: what arrived from each, and what is missing by its sequence numbers.
//!
//! Jumps of sequence numbers are classified as in flow-tools, so that the counts in a file's header
//! have the same meaning: a jump forward of less than 1000 records is a loss. Any other jump, even
//! a short one backward, is a reset of the exporter's sequence. Resets that reordering explains are
//! also counted separately; a restart of the exporter is none of these. Source: flow-tools 0.68,
//! `lib/ftdecode.c`, `ftpdu_check_seq`, and `src/flow-capture.c`.

use crate::datagram::DatagramSummary;
use crate::throttle::{REPORT_S, Throttle};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use xdprobe_netflow::{Engine, Version};

/// A jump forward of this many records or more is a reset, not a loss.
const RESET_RECORDS: u32 = 1000;
/// The most exporters, and the most engines, that are tracked. Addresses of senders are easily
/// forged, and must not exhaust the memory.
const TRACKED_MAX: usize = 65_536;
/// Jumps of one engine with which another UDP port came back, from which on two exporters are
/// suspected behind it.
const RETURNS_MIN: u32 = 3;

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

/// One sequence space: an engine of an exporter.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct EngineKey {
    address: IpAddr,
    version: Version,
    engine: Engine,
}

impl std::fmt::Display for EngineKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            formatter,
            "sequence: src_ip={} d_version={} engine={}:{}",
            self.address,
            self.version.number(),
            self.engine.r#type,
            self.engine.id
        )
    }
}

/// All exporters, and the engines of each.
#[derive(Debug, Default)]
pub struct Exporters {
    exporters: HashMap<(IpAddr, Version), ExporterTotals>,
    engines: HashMap<EngineKey, Sequence>,
    /// Engines with jumps that no line has reported yet, or in the last minute.
    jumping: Vec<EngineKey>,
    /// Datagrams of exporters beyond the limit; their sequences are not tracked.
    untracked: u64,
}

/// What a datagram said about its sequence, and a line for the log if there is news.
#[derive(Debug)]
pub struct Noted {
    /// How the datagram follows from the one before.
    pub continuity: Continuity,
    /// The first jump of an engine after a quiet minute, or what many jumps may come from.
    pub line: Option<String>,
}

impl Exporters {
    /// Counts an accepted datagram and returns how it follows from the one before. `now` is in UTC
    /// seconds.
    #[inline]
    pub fn note(&mut self, sender: SocketAddr, summary: &DatagramSummary, now: i64) -> Noted {
        let address = sender.ip();
        let exporter_key = (address, summary.version);
        if self.exporters.len() >= TRACKED_MAX && !self.exporters.contains_key(&exporter_key) {
            self.untracked += 1;
            return Noted {
                continuity: Continuity::Expected,
                line: None,
            };
        }
        let continuity = self.follow(sender, summary);
        let exporter = self.exporters.entry(exporter_key).or_default();
        exporter.datagrams += 1;
        exporter.records += u64::from(summary.count);
        let line = match continuity {
            Continuity::Expected => None,
            jump => {
                exporter.add(jump);
                self.line_about(jump, key_of(address, summary), now)
            }
        };
        Noted { continuity, line }
    }

    /// The line about jumps in the last minute that is due first, if there is one. Call it until
    /// there is none.
    pub fn due_line(&mut self, now: i64) -> Option<String> {
        let mut line = None;
        let engines = &mut self.engines;
        self.jumping.retain(|key| {
            let Some(sequence) = engines.get_mut(key).filter(|_| line.is_none()) else {
                return line.is_some();
            };
            line = sequence.summary(*key, now);
            sequence.throttle.is_active()
        });
        line
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
    #[inline]
    fn follow(&mut self, sender: SocketAddr, summary: &DatagramSummary) -> Continuity {
        let Some(received) = summary.sequence else {
            return Continuity::Expected;
        };
        let key = key_of(sender.ip(), summary);
        let is_full = self.engines.len() >= TRACKED_MAX;
        let Some(sequence) = self.engines.get_mut(&key) else {
            if !is_full {
                self.engines.insert(key, Sequence::begin(sender, summary));
            }
            return Continuity::Expected;
        };
        let continuity = match classify(sequence.expected, received) {
            Continuity::Reset {
                expected,
                reordered,
                ..
            } => Continuity::Reset {
                expected,
                received,
                reordered: reordered && !sequence.is_restarted_by(sender, summary),
            },
            other => other,
        };
        sequence.advance(sender, summary, continuity != Continuity::Expected);
        continuity
    }

    #[cold]
    fn line_about(&mut self, jump: Continuity, key: EngineKey, now: i64) -> Option<String> {
        let sequence = self.engines.get_mut(&key)?;
        if !sequence.throttle.is_active() {
            self.jumping.push(key);
        }
        if sequence.throttle.note(now) {
            return Some(format!("{key} {jump}"));
        }
        sequence.unreported.add(jump);
        let ports = sequence.sharing_ports()?;
        if std::mem::replace(&mut sequence.is_sharing_reported, true) {
            return None;
        }
        Some(format!(
            "{key}: datagrams from UDP ports {} and {} take turns, so the jumps may be no losses: if \
             these are two exporters, give each an engine of its own (xdprobe run --engine)",
            ports[0], ports[1]
        ))
    }
}

fn key_of(address: IpAddr, summary: &DatagramSummary) -> EngineKey {
    EngineKey {
        address,
        version: summary.version,
        engine: summary.engine,
    }
}

impl ExporterTotals {
    fn add(&mut self, jump: Continuity) {
        match jump {
            Continuity::Expected => {}
            Continuity::Lost(records) => self.lost += u64::from(records),
            Continuity::Reset { reordered, .. } => {
                self.resets += 1;
                self.reordered += u64::from(reordered);
            }
        }
    }
}

/// The sequence of one engine.
#[derive(Debug)]
struct Sequence {
    /// Sequence number that follows from the last datagram.
    expected: u32,
    /// When the last datagram was sent, and by which uptime.
    sent_ms: u64,
    sys_uptime_ms: u32,
    /// UDP port of the last datagram, and the one before the last change of ports.
    port: u16,
    port_before: Option<u16>,
    /// Jumps with which the port before came back.
    returns: u32,
    is_sharing_reported: bool,
    throttle: Throttle,
    /// Jumps since the last line.
    unreported: ExporterTotals,
}

impl Sequence {
    fn begin(sender: SocketAddr, summary: &DatagramSummary) -> Self {
        let mut sequence = Self {
            expected: 0,
            sent_ms: 0,
            sys_uptime_ms: 0,
            port: sender.port(),
            port_before: None,
            returns: 0,
            is_sharing_reported: false,
            throttle: Throttle::default(),
            unreported: ExporterTotals::default(),
        };
        sequence.advance(sender, summary, false);
        sequence
    }

    /// Whether another run of an exporter sent the datagram: from another port, or later and with a
    /// lower uptime. A datagram that was overtaken comes from the same port, and was sent earlier.
    fn is_restarted_by(&self, sender: SocketAddr, summary: &DatagramSummary) -> bool {
        sender.port() != self.port
            || (summary.sys_uptime_ms < self.sys_uptime_ms && summary.sent_ms > self.sent_ms)
    }

    #[inline]
    fn advance(&mut self, sender: SocketAddr, summary: &DatagramSummary, jumped: bool) {
        let sequence = summary.sequence.unwrap_or(0);
        self.expected = sequence.wrapping_add(u32::from(summary.count));
        (self.sent_ms, self.sys_uptime_ms) = (summary.sent_ms, summary.sys_uptime_ms);
        let port = sender.port();
        if port != self.port {
            self.returns += u32::from(jumped && self.port_before == Some(port));
            self.port_before = Some(self.port);
            self.port = port;
        }
    }

    /// The ports of two exporters that seem to share the engine.
    fn sharing_ports(&self) -> Option<[u16; 2]> {
        let before = self.port_before.filter(|_| self.returns >= RETURNS_MIN)?;
        Some([self.port.min(before), self.port.max(before)])
    }

    /// The line about the jumps since the last line, if it is due.
    fn summary(&mut self, key: EngineKey, now: i64) -> Option<String> {
        let more = self.throttle.due(now);
        if !self.throttle.is_active() {
            (self.returns, self.is_sharing_reported) = (0, false);
        }
        let more = more?;
        let ExporterTotals {
            lost,
            resets,
            reordered,
            ..
        } = std::mem::take(&mut self.unreported);
        let hint = if self.sharing_ports().is_some() {
            "; two exporters may share the engine"
        } else {
            ""
        };
        Some(format!(
            "{key} {more} more jumps in the last {REPORT_S} s: lost={lost} resets={resets} \
             reordered={reordered}{hint}"
        ))
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

    const HERE: SocketAddr = from_port(4000);
    const NOW: i64 = 1000;

    const fn from_port(port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
    }

    fn datagram(sequence: u32, count: u16) -> DatagramSummary {
        DatagramSummary {
            version: Version::V5,
            count,
            sequence: Some(sequence),
            engine: Engine::default(),
            sent_ms: 0,
            sys_uptime_ms: 0,
        }
    }

    fn after(expected: u32, received: u32) -> Continuity {
        let mut exporters = Exporters::default();
        let mut note = |sequence| {
            exporters
                .note(HERE, &datagram(sequence, 30), NOW)
                .continuity
        };
        note(expected.wrapping_sub(30));
        note(received)
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
        let there = SocketAddr::from(([10, 0, 0, 1], 4000));
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
                let noted = exporters.note(note.0, &note.1, NOW);
                assert_eq!(noted.continuity, Continuity::Expected);
            }
        }
        let list = exporters.list();
        assert_eq!(list.len(), 2);
        assert_eq!(
            (list[0].0, list[0].1, list[0].2.records),
            (there.ip(), Version::V7, 30)
        );
        assert_eq!(
            (list[1].0, list[1].2.datagrams, list[1].2.records),
            (HERE.ip(), 6, 60)
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
        for _ in 0..2 {
            let noted = exporters.note(HERE, &v1, NOW);
            assert_eq!(noted.continuity, Continuity::Expected);
        }
    }

    #[test]
    fn forged_senders_do_not_fill_the_memory() {
        let mut exporters = Exporters::default();
        for address in 0..70_000_u32 {
            let sender = SocketAddr::from((Ipv4Addr::from(address), 4000));
            exporters.note(sender, &datagram(0, 1), NOW);
        }
        assert_eq!(exporters.list().len(), TRACKED_MAX);
        assert_eq!(exporters.untracked(), 70_000 - TRACKED_MAX as u64);
    }

    #[test]
    fn a_restarted_exporter_is_not_reordered() {
        let at = |sequence, sent_ms, sys_uptime_ms| DatagramSummary {
            sent_ms,
            sys_uptime_ms,
            ..datagram(sequence, 30)
        };
        let then = |sender: SocketAddr, next: &DatagramSummary| {
            let mut exporters = Exporters::default();
            for sequence in [0, 30, 60] {
                exporters.note(HERE, &at(sequence, 70_000, 50_000), NOW);
            }
            exporters.note(sender, next, NOW);
            let total = exporters.total();
            (total.lost, total.resets, total.reordered)
        };
        // Overtaken on the way: sent earlier, from the same port.
        assert_eq!(then(HERE, &at(30, 69_990, 49_990)), (0, 1, 1));
        // The exporter or its host began again, with the same port and with another one.
        assert_eq!(then(HERE, &at(0, 71_000, 20)), (0, 1, 0));
        assert_eq!(then(from_port(4001), &at(0, 71_000, 20)), (0, 1, 0));
        // The same capture file once more has the same headers.
        assert_eq!(then(from_port(4001), &at(0, 70_000, 50_000)), (0, 1, 0));
        // The uptime wraps, and the sequence goes on.
        assert_eq!(then(HERE, &at(90, 71_000, 20)), (0, 0, 0));
    }

    #[test]
    fn two_exporters_with_one_engine_have_a_line_a_minute_that_says_so() {
        let mut exporters = Exporters::default();
        let mut lines = Vec::new();
        for round in 0..1200_u32 {
            // Ten datagrams of each a second.
            let now = NOW + i64::from(round / 10);
            for (port, start) in [(4001, 0), (4000, 500_000)] {
                let noted = exporters.note(from_port(port), &datagram(start + round * 30, 30), now);
                lines.extend(noted.line);
            }
            lines.extend(std::iter::from_fn(|| exporters.due_line(now)));
        }
        assert_eq!(lines.len(), 3, "{lines:#?}");
        let engine = "sequence: src_ip=127.0.0.1 d_version=5 engine=0:0";
        assert_eq!(
            lines[0],
            format!("{engine} expecting=30 received=500000 reordered=false")
        );
        assert!(
            lines[1].starts_with(&format!("{engine}: datagrams from UDP ports 4000 and 4001")),
            "{lines:#?}"
        );
        assert!(
            lines[2].starts_with(&format!(
                "{engine} 1200 more jumps in the last 60 s: lost=0"
            )) && lines[2].ends_with("; two exporters may share the engine"),
            "{lines:#?}"
        );
        // They end. The rest is reported, and then nothing more.
        let mut rest = Vec::new();
        for now in NOW + 120..NOW + 400 {
            rest.extend(std::iter::from_fn(|| exporters.due_line(now)));
        }
        assert_eq!(rest.len(), 1, "{rest:#?}");
        assert!(exporters.jumping.is_empty());
    }

    #[test]
    fn each_engine_that_jumps_has_its_lines() {
        let mut exporters = Exporters::default();
        for (now, expected) in [(NOW, 2), (NOW + 1, 0), (NOW + 61, 2)] {
            let mut lines = 0;
            for address in [[10, 0, 0, 1], [10, 0, 0, 2]] {
                for sequence in [0, 100] {
                    let sender = SocketAddr::from((address, 4000));
                    let noted = exporters.note(sender, &datagram(sequence, 30), now);
                    lines += usize::from(noted.line.is_some());
                }
            }
            lines += std::iter::from_fn(|| exporters.due_line(now)).count();
            assert_eq!(lines, expected, "{now}");
        }
    }
}
