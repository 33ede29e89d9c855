//! The regime of a run: a tap or a capture file. Everything that differs between the two is decided
//! here, once.
//!
//! A tap does not wait: its worker drops a record rather than block, and its clock is the system's.
//! A capture file waits: no record is lost to a slow exporter, its packets are the clock, and the
//! same file gives the same octets every time.

use crate::hand_over::Patience;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use xdprobe_flow::Backing;

/// Whether packets come from a tap or from a capture file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Regime {
    /// From interfaces, as they come.
    Live,
    /// From one capture file, by its packets' own times.
    Replay,
}

/// Sets that the clock hand passes in one turn of a live worker: a few hundred ns, and some 150 us
/// if all their 3 250 flows are due. A worker that owes more comes back for it before it sleeps.
const EXPIRE_SETS_MAX: usize = 250;

/// The first 64 bits of the fraction of pi: any number would do that is not the bits of a key.
const REPLAY_SEED: u64 = 0x243f_6a88_85a3_08d3;

impl Regime {
    /// Seed of the flow caches' hash. Random on a tap, where traffic may be chosen against it;
    /// fixed for a file, whose records must leave in the same order every time.
    #[must_use]
    pub fn seed(self) -> u64 {
        match self {
            Self::Live => RandomState::new().build_hasher().finish(),
            Self::Replay => REPLAY_SEED,
        }
    }

    /// When the flow caches get their memory: on a tap before the first packet.
    #[must_use]
    pub const fn backing(self) -> Backing {
        match self {
            Self::Live => Backing::Prefaulted,
            Self::Replay => Backing::OnDemand,
        }
    }

    /// What a worker does when the exporter has returned no empty batch.
    #[must_use]
    pub const fn patience(self) -> Patience {
        match self {
            Self::Live => Patience::Drop,
            Self::Replay => Patience::Wait,
        }
    }

    /// Sets that the clock hand passes in one turn at the most. In a file time stands still
    /// meanwhile; on a tap the next burst does not.
    #[must_use]
    pub const fn expire_sets_max(self) -> usize {
        match self {
            Self::Live => EXPIRE_SETS_MAX,
            Self::Replay => usize::MAX,
        }
    }

    /// Whether packets can be the probe's own export. Those in a file were captured elsewhere or at
    /// another time.
    #[must_use]
    pub const fn sees_own_export(self) -> bool {
        matches!(self, Self::Live)
    }

    /// Whether packets come from a tap, as they are sent, rather than from a file.
    #[must_use]
    pub const fn is_live(self) -> bool {
        matches!(self, Self::Live)
    }
}
