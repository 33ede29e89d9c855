//! What is sent: a pattern or a capture file.

use anyhow::Result;

use super::options::Options;
use super::plan::PatternPlan;
use super::replay::Replay;
use super::report::Counts;
use super::state::State;

/// Packets of a pattern, or of a capture file.
pub enum Traffic {
    Pattern(PatternPlan),
    Replay(Replay),
}

impl Traffic {
    pub fn new(options: &Options) -> Result<Self> {
        Ok(match &options.pcap {
            Some(path) => Self::Replay(Replay::read(path)?),
            None => Self::Pattern(PatternPlan::new(options)?),
        })
    }

    /// Packets to send.
    pub fn packets(&self, options: &Options) -> u64 {
        match self {
            Self::Pattern(_) => options.packets,
            Self::Replay(replay) => u64::from(replay.count) * u64::from(options.loops),
        }
    }

    /// Name of the XDP program.
    pub fn program(&self) -> &'static str {
        match self {
            Self::Pattern(_) => "send",
            Self::Replay(_) => "replay",
        }
    }

    pub fn frame_octets_max(&self) -> u32 {
        match self {
            Self::Pattern(plan) => plan.frame_octets_max,
            Self::Replay(replay) => replay.frame_octets_max,
        }
    }

    pub fn counts(&self, state: &State) -> Counts {
        match self {
            Self::Pattern(plan) => plan.counts(state),
            Self::Replay(replay) => replay.counts(state.packets),
        }
    }
}
