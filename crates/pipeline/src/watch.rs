//! Watches over interfaces: a thread that asks the kernel once a second whether each is still as it
//! was, and log lines about what it found.
//!
//! The thread does nothing else and logs nothing, so that its interval holds whatever else goes on,
//! also while a log line cannot be written.

use crate::error::StartError;
use crate::snapshot::{Boards, Snapshot};
use crossbeam_channel::{Receiver, Sender, bounded, select, tick};
use std::collections::BTreeMap;
use std::thread::JoinHandle;
use std::time::Duration;
use xdprobe_capture::xdp::Reason;

/// The thread, and what is dropped to end it; none where there is no interface to watch.
pub struct Watch(Option<(Sender<()>, JoinHandle<()>)>);

/// How often the kernel is asked.
const INTERVAL: Duration = Duration::from_secs(1);

impl Watch {
    /// Watches the interfaces on these boards from now on.
    ///
    /// # Errors
    ///
    /// If the system gives no thread.
    pub fn over(boards: &Boards) -> Result<Self, StartError> {
        if boards.interfaces.is_empty() {
            return Ok(Self(None));
        }
        let (stop, stopped) = bounded(0);
        boards.note_look();
        let watched = boards.clone();
        let thread = boards
            .deaths
            .spawn("watch", move || run(&watched, &stopped))?;
        Ok(Self(Some((stop, thread))))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.0.take() {
            drop(stop);
            // Its death is noted where it happens.
            let _ = thread.join();
        }
    }
}

fn run(boards: &Boards, stopped: &Receiver<()>) {
    let due = tick(INTERVAL);
    loop {
        select! {
            recv(stopped) -> _ => return,
            recv(due) -> _ => {
                boards.interfaces.iter().for_each(|on| on.look());
                boards.note_look();
            }
        }
    }
}

/// What has been reported of each interface and reason.
#[derive(Default)]
pub struct WatchLog(BTreeMap<(String, Reason), String>);

impl WatchLog {
    /// A line for each difference that is new or has changed, with its remedy.
    #[must_use]
    pub fn warnings(&mut self, snapshot: &Snapshot) -> Vec<String> {
        let mut lines = Vec::new();
        for interface in &snapshot.interfaces {
            for difference in &interface.differences {
                let key = (interface.name.clone(), difference.reason);
                if self.0.get(&key) == Some(&difference.what) {
                    continue;
                }
                let what = &difference.what;
                let remedy = remedy(difference.reason);
                lines.push(format!("{}: {what}: {remedy}", interface.name));
                self.0.insert(key, what.clone());
            }
        }
        lines
    }

    /// A line for each difference that is over.
    #[must_use]
    pub fn all_clear(&mut self, snapshot: &Snapshot) -> Vec<String> {
        let is_present = |(name, reason): &(String, Reason)| {
            let here = snapshot.interfaces.iter().filter(|on| on.name == *name);
            let mut found = here.flat_map(|on| &on.differences);
            found.any(|difference| difference.reason == *reason)
        };
        let over: Vec<_> = self
            .0
            .keys()
            .filter(|key| !is_present(key))
            .cloned()
            .collect();
        let line = |key: (String, Reason)| {
            self.0.remove(&key);
            let (name, reason) = key;
            format!("{name}: as it was again ({})", reason.name())
        };
        over.into_iter().map(line).collect()
    }
}

/// What to do about a difference, as docs/OPERATING.md has it.
fn remedy(reason: Reason) -> &'static str {
    match reason {
        Reason::Program => "find out what else attaches XDP programs (`bpftool net`)",
        Reason::Sockets => "find out what changed it; restart the probe if this line comes again",
        Reason::Namespace => "move it back and restart the probe, or run the probe where it is",
        Reason::Channels => "restart the probe to give each channel a worker of its own",
        Reason::Unseen => "restart the probe; report it if this line comes again",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::InterfaceSnapshot;
    use xdprobe_capture::xdp::Difference;

    #[test]
    fn a_difference_has_a_line_when_it_begins_or_changes_and_one_when_it_is_over() {
        let snapshot = |what: Option<&str>| {
            let differences = what.map(|what| Difference {
                reason: Reason::Program,
                what: what.to_owned(),
                lasts: true,
            });
            Snapshot {
                interfaces: vec![InterfaceSnapshot {
                    name: "tap0".to_owned(),
                    differences: Vec::from_iter(differences),
                    ..InterfaceSnapshot::default()
                }],
                ..Snapshot::default()
            }
        };
        let mut log = WatchLog::default();
        let mut lines = |what| {
            let snapshot = snapshot(what);
            [log.warnings(&snapshot), log.all_clear(&snapshot)].concat()
        };
        assert!(lines(None).is_empty());
        let begun = lines(Some("detached"));
        assert!(
            begun[0].starts_with("tap0: detached: find out"),
            "{begun:?}"
        );
        assert!(lines(Some("detached")).is_empty());
        assert_eq!(lines(Some("attached again")).len(), 1);
        assert_eq!(lines(None), ["tap0: as it was again (program)"]);
        assert!(lines(None).is_empty());
    }

    #[test]
    fn every_reason_has_a_remedy() {
        for reason in Reason::ALL {
            assert!(!remedy(reason).is_empty(), "{reason:?}");
        }
    }
}
