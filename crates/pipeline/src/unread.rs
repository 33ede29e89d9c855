//! What frames carry that is not read: a line at the first of each, and whether anything of a
//! capture file could be read at all.
//!
//! Workers only count. [`UnreadLog`] compares snapshots, and has one line for each name and
//! interface.

use crate::snapshot::{Snapshot, WorkerSnapshot};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use xdprobe_flow::{DecodeError, Unread, UnreadCounts};

/// What has been reported.
#[derive(Default)]
pub struct UnreadLog {
    reported: BTreeSet<(String, Option<Unread>)>,
}

impl UnreadLog {
    /// The lines on what no earlier snapshot had.
    #[must_use]
    pub fn lines(&mut self, snapshot: &Snapshot) -> Vec<String> {
        let mut lines = Vec::new();
        for worker in &snapshot.workers {
            lines.extend(self.new_lines(&worker.interface, &worker.counters.meter.unread));
        }
        lines
    }

    fn new_lines(&mut self, interface: &str, counts: &UnreadCounts) -> Vec<String> {
        let named = counts.by_name().map(|(unread, _)| Some(unread));
        let other = (counts.other > 0).then_some(None);
        let mut lines = Vec::new();
        for unread in named.chain(other) {
            if self.reported.insert((interface.to_owned(), unread)) {
                lines.push(match unread {
                    Some(unread) => format!(
                        "{interface}: {unread} is not read; its frames are counted as undecoded"
                    ),
                    None => format!(
                        "{interface}: frames of more protocols are not read; they are counted as \
                         undecoded, and together as other"
                    ),
                });
            }
        }
        lines
    }
}

/// All workers' counts by name, and last, without a name, what has no count of its own; none that
/// is 0.
pub fn unread_by_name(workers: &[WorkerSnapshot]) -> Vec<(Option<Unread>, u64)> {
    let (mut named, mut other) = (BTreeMap::new(), 0);
    for counts in workers.iter().map(|worker| worker.counters.meter.unread) {
        for (unread, count) in counts.by_name() {
            *named.entry(unread).or_default() += count;
        }
        other += counts.other;
    }
    let named = named
        .into_iter()
        .map(|(unread, count)| (Some(unread), count));
    named.chain((other > 0).then_some((None, other))).collect()
}

/// Why nothing of the capture file at `path` could be read, if its frames are all of link types
/// that are not supported. Logs a line if there were frames that could be read, but no IPv4 packet
/// in any of them: such a file is sound.
pub fn check_file(path: &Path, snapshot: &Snapshot) -> Option<String> {
    let sum =
        |count: fn(&WorkerSnapshot) -> u64| -> u64 { snapshot.workers.iter().map(count).sum() };
    let received = sum(|worker| worker.counters.source.received);
    let observed = sum(|worker| worker.counters.meter.cache.observed.packets);
    if received == 0 || observed > 0 {
        return None;
    }
    let name = if path == Path::new("-") {
        "standard input".to_owned()
    } else {
        path.display().to_string()
    };
    let of_link_types =
        sum(|worker| worker.counters.meter.undecoded[DecodeError::LinkType(0).index()]);
    let unread: Vec<_> = unread_by_name(&snapshot.workers)
        .into_iter()
        .map(|(unread, count)| match unread {
            Some(unread) => format!("{unread} ({count})"),
            None => format!("others ({count})"),
        })
        .collect();
    let unread = unread.join(", ");
    if of_link_types == received {
        return Some(format!(
            "{name}: nothing could be read: of {received} frames none has a supported link type (0, 1, \
             12, 14, 101, 108, 113, 228, 229 or 276); found: {unread}"
        ));
    }
    if unread.is_empty() {
        tracing::warn!("{name}: no IPv4 packet, frames: {received}");
    } else {
        tracing::warn!("{name}: no IPv4 packet, frames: {received}; not read: {unread}");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_is_logged_once_for_an_interface() {
        let mut counts = UnreadCounts::default();
        let mut log = UnreadLog::default();
        assert!(log.new_lines("tap0", &counts).is_empty());
        counts.count(Unread::EtherType(0x8903));
        counts.count(Unread::EtherType(0x8903));
        assert_eq!(
            log.new_lines("tap0", &counts),
            ["tap0: EtherType 0x8903 is not read; its frames are counted as undecoded"]
        );
        assert!(log.new_lines("tap0", &counts).is_empty());
        assert_eq!(log.new_lines("tap1", &counts).len(), 1);
        (0..20).for_each(|number| counts.count(Unread::EtherType(number)));
        let lines = log.new_lines("tap0", &counts);
        assert_eq!(lines.len(), 8, "seven names, and the others: {lines:?}");
        assert!(lines[7].contains("together as other"), "{lines:?}");
    }

    /// A snapshot of one worker that received frames and did not decode them.
    fn undecoded(unread: &[Unread], arp: u64) -> Snapshot {
        let mut worker = WorkerSnapshot::default();
        let meter = &mut worker.counters.meter;
        for &unread in unread {
            meter.unread.count(unread);
            let error = match unread {
                Unread::LinkType(number) => DecodeError::LinkType(number),
                other => DecodeError::NotIp(other),
            };
            meter.undecoded[error.index()] += 1;
        }
        meter.undecoded[DecodeError::Arp.index()] = arp;
        worker.counters.source.received = unread.len() as u64 + arp;
        Snapshot {
            workers: vec![worker],
            ..Snapshot::default()
        }
    }

    #[test]
    fn a_file_is_unreadable_only_if_no_frame_has_a_link_type_that_is_read() {
        let path = Path::new("x.pcap");
        let ppp = Unread::LinkType(9);
        let error = check_file(path, &undecoded(&[ppp, ppp], 0)).unwrap();
        assert!(
            error.starts_with("x.pcap: nothing could be read: of 2 frames none")
                && error.ends_with("found: link type 9 (2)"),
            "{error}"
        );
        let on_standard_input = check_file(Path::new("-"), &undecoded(&[ppp], 0)).unwrap();
        assert!(on_standard_input.starts_with("standard input: "));
        for sound in [
            undecoded(&[], 0),
            undecoded(&[], 1),
            undecoded(&[ppp, ppp], 1),
            undecoded(&[ppp, Unread::EtherType(0x88a2)], 0),
            undecoded(&[Unread::EtherType(0x88a2)], 0),
        ] {
            assert_eq!(check_file(path, &sound), None);
        }
        let mut in_part = undecoded(&[ppp], 0);
        in_part.workers[0].counters.source.received += 1;
        in_part.workers[0].counters.meter.cache.observed.packets = 1;
        assert_eq!(check_file(path, &in_part), None);
    }
}
