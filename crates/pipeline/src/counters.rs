//! What a worker counts, as it publishes it.

use xdprobe_capture::SourceCounters;
use xdprobe_export::Tally;
use xdprobe_flow::{MeterCounters, Volume};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What a worker did, published after a turn, so that no packet is between two counts.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct WorkerCounters {
    /// What its source saw and lost.
    pub source: SourceCounters,
    /// What became of the frames: undecoded, excluded, observed.
    pub meter: MeterCounters,
    /// Packets and octets of resident flows: observed and not expired. At the end they are counted
    /// flow by flow.
    pub resident: Volume,
    /// Records that its cache expired.
    pub expired: Tally,
    /// Records that were dropped at hand-over.
    pub dropped: Tally,
    /// Records that wait to be handed over.
    pub kept: u64,
    /// When the oldest of these came, in ms of uptime.
    pub kept_since_ms: u64,
    /// Its turns.
    pub turns: Turns,
    /// Time for which its link was down, in ms.
    pub down_ms: u64,
    /// 1 where it ended before it had read all that its source held.
    pub left_unread: u64,
    /// A [`Phase`].
    pub phase: u64,
}

/// Turns, by what they found.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Turns {
    /// Turns that found no frame.
    pub idle: u64,
    /// Turns that found frames.
    pub busy: u64,
    /// Busy turns whose burst was full; more frames may have been waiting.
    pub full: u64,
}

/// How far a worker has come, as [`WorkerCounters::phase`] has it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Phase {
    /// It has not begun.
    Opening,
    /// It receives.
    Running,
    /// Its link is down; it goes on by itself when the link is back.
    Down,
    /// It receives no more, and exports what it has.
    Ending,
    /// It has ended.
    Ended,
}

impl WorkerCounters {
    /// Packets that were received and are in a count of the meter.
    #[must_use]
    pub fn metered(&self) -> u64 {
        let MeterCounters {
            undecoded,
            excluded,
            cache,
            ..
        } = &self.meter;
        undecoded.iter().sum::<u64>() + excluded.packets + cache.observed.packets
    }

    /// How far the worker has come.
    #[must_use]
    pub fn phase(&self) -> Phase {
        let phases = [Phase::Opening, Phase::Running, Phase::Down, Phase::Ending];
        phases
            .into_iter()
            .find(|&phase| phase as u64 == self.phase)
            .unwrap_or(Phase::Ended)
    }
}
