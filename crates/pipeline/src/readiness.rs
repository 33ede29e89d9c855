//! Whether a probe does what it is there for, and the reasons why it does not, for operators and
//! for services that ask.

use crate::counters::Phase;
use crate::ledger::Ledger;
use crate::plan::FILE_PREFIX;
use crate::snapshot::Snapshot;
use xdprobe_export::CollectorState;

/// Why the probe is not ready, if it is not: each thread that died, each queue that does not
/// receive, each interface that is no longer as it was, each file that cannot be written, that no
/// collector takes records, and that the ledger is out of balance.
#[must_use]
pub fn not_ready(snapshot: &Snapshot) -> Vec<String> {
    let died = snapshot.died.iter().map(|name| format!("{name} died"));
    let down = snapshot.workers.iter().filter_map(|worker| {
        let what = match worker.counters.phase() {
            Phase::Running => return None,
            Phase::Opening => "has not begun to receive",
            Phase::Down => "link is down",
            Phase::Ending | Phase::Ended => "receives no more",
        };
        Some(format!("{}: {what}", worker.label()))
    });
    let differences = snapshot.interfaces.iter().flat_map(|interface| {
        let line = |what| format!("{}: {what}", interface.name);
        interface
            .differences
            .iter()
            .map(move |found| line(&found.what))
    });
    let late_ms = snapshot.uptime_ms.saturating_sub(snapshot.looked_ms);
    let is_late = !snapshot.interfaces.is_empty() && late_ms > LATE_MS;
    let late = is_late.then(|| {
        let s = late_ms / 1_000;
        format!("interfaces have not been looked at for {s} s: what is read of them is not known")
    });
    let files = snapshot
        .collectors
        .iter()
        .filter(|one| one.name.starts_with(FILE_PREFIX))
        .filter(|one| !one.counters.state().takes_records())
        .map(|one| format!("{} cannot be written", one.name));
    let states = || snapshot.collectors.iter().map(|one| one.counters.state());
    let nowhere = !states().any(CollectorState::takes_records);
    let why = if states().any(|state| state == CollectorState::Refusing) {
        "every collector refuses"
    } else {
        "no collector can be reached"
    };
    let unbalanced = !Ledger::draw_up(snapshot).is_balanced();
    died.chain(down)
        .chain(differences)
        .chain(late)
        .chain(files)
        .chain(nowhere.then(|| why.to_owned()))
        .chain(unbalanced.then(|| "the ledger is out of balance".to_owned()))
        .collect()
}

/// How long the watch over interfaces may take for a look, in ms: a card may need some seconds to
/// take a program again.
const LATE_MS: u64 = 10_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{CollectorSnapshot, InterfaceSnapshot, WorkerSnapshot};
    use xdprobe_capture::xdp::{Difference, InterfaceCounters, Reason};
    use xdprobe_export::{CollectorCounters, CollectorId};

    fn collector(name: &str, state: CollectorState) -> CollectorSnapshot {
        CollectorSnapshot {
            id: CollectorId::FIRST,
            name: name.into(),
            counters: CollectorCounters {
                state: state as u64,
                ..CollectorCounters::default()
            },
        }
    }

    /// A probe with a collector that takes records.
    fn sound() -> Snapshot {
        Snapshot {
            collectors: vec![collector("192.0.2.9:2055", CollectorState::Up)],
            ..Snapshot::default()
        }
    }

    #[test]
    fn a_thread_that_died_is_a_reason_not_to_be_ready() {
        let without_control = Snapshot {
            died: vec!["control".to_owned()],
            ..sound()
        };
        assert_eq!(not_ready(&without_control), ["control died"]);
    }

    #[test]
    fn a_file_that_cannot_be_written_is_a_reason_not_to_be_ready() {
        let with = |collectors| {
            not_ready(&Snapshot {
                collectors,
                ..Snapshot::default()
            })
        };
        let up = collector("192.0.2.9:2055", CollectorState::Up);
        let full = collector("file:x.ft", CollectorState::Refusing);
        assert_eq!(
            with(vec![up.clone(), full]),
            ["file:x.ft cannot be written"]
        );
        let refusing = collector("192.0.2.8:2055", CollectorState::Refusing);
        assert!(with(vec![up, refusing]).is_empty());
    }

    #[test]
    fn a_ledger_out_of_balance_is_a_reason_not_to_be_ready() {
        assert!(not_ready(&sound()).is_empty());
        let mut worker = WorkerSnapshot::default();
        worker.counters.phase = Phase::Running as u64;
        worker.counters.source.received = 1;
        let unbalanced = Snapshot {
            workers: vec![worker],
            ..sound()
        };
        assert_eq!(not_ready(&unbalanced), ["the ledger is out of balance"]);
    }

    #[test]
    fn a_watch_that_does_not_look_is_a_reason_not_to_be_ready() {
        let looked = |uptime_ms, interfaces| {
            not_ready(&Snapshot {
                uptime_ms,
                looked_ms: 5_000,
                interfaces,
                ..sound()
            })
        };
        let tap = || vec![InterfaceSnapshot::default()];
        assert!(looked(15_000, tap()).is_empty());
        let late = looked(20_000, tap());
        assert!(
            late[0].starts_with("interfaces have not been looked at for 15 s"),
            "{late:?}"
        );
        assert!(looked(20_000, Vec::new()).is_empty());
    }

    #[test]
    fn an_interface_that_is_not_as_it_was_is_a_reason_not_to_be_ready() {
        let blind = Snapshot {
            interfaces: vec![InterfaceSnapshot {
                name: "tap0".to_owned(),
                counters: InterfaceCounters::default(),
                differences: vec![Difference {
                    reason: Reason::Channels,
                    what: "it has 4 channels, at the start 2; 2 are read".to_owned(),
                    lasts: true,
                }],
                ..InterfaceSnapshot::default()
            }],
            ..sound()
        };
        assert_eq!(
            not_ready(&blind),
            ["tap0: it has 4 channels, at the start 2; 2 are read"]
        );
    }
}
