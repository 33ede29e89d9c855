//! The exporter's thread: steps 6 and 7 of a packet's way, top to bottom.

use crate::clock::{Clock, LiveClock};
use crate::hand_over::Inbox;
use crossbeam_channel::{RecvTimeoutError, TryRecvError};
use std::io;
use std::time::Duration;
use xdprobe_export::{Exporter, Moment};

/// Whose time the exporter goes by.
#[derive(Clone, Copy, Debug)]
pub enum ExportClock {
    /// The system's: a datagram leaves when its flush delay is over.
    Live(LiveClock),
    /// The packets': a datagram leaves when the next batch shows that its flush delay was over.
    Capture,
}

/// Exports what arrives until all workers are gone, and returns the exporter with its counters, and whether all that it sent
/// is complete.
pub fn run(mut exporter: Exporter, inbox: &Inbox, clock: ExportClock) -> (Exporter, io::Result<()>) {
    let finished = match clock {
        ExportClock::Live(clock) => run_live(&mut exporter, inbox, clock),
        ExportClock::Capture => run_capture(&mut exporter, inbox),
    };
    (exporter, finished)
}

fn run_live(exporter: &mut Exporter, inbox: &Inbox, mut clock: LiveClock) -> io::Result<()> {
    loop {
        let batch = match inbox.batches().try_recv() {
            Ok(batch) => Ok(batch),
            Err(TryRecvError::Disconnected) => Err(RecvTimeoutError::Disconnected),
            Err(TryRecvError::Empty) => {
                let now_ms = clock.read().uptime_ms;
                let due_ms = exporter.flush_due_ms().map_or(IDLE_MS, |due_ms| due_ms.saturating_sub(now_ms));
                inbox.batches().recv_timeout(Duration::from_millis(due_ms))
            }
        };
        let now = clock.read();
        exporter.flush_due(now);
        match batch {
            Ok(batch) => {
                batch.records.iter().for_each(|record| exporter.push(record, now));
                inbox.give_back(batch);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return exporter.finish(now),
        }
    }
}

fn run_capture(exporter: &mut Exporter, inbox: &Inbox) -> io::Result<()> {
    let mut now = Moment::default();
    for batch in inbox.batches() {
        now = batch.moment;
        exporter.flush_due(now);
        batch.records.iter().for_each(|record| exporter.push(record, now));
        inbox.give_back(batch);
    }
    exporter.finish(now)
}

/// How long it sleeps with nothing to flush; a batch wakes it.
const IDLE_MS: u64 = 1_000;
