//! What a flow cache counts.

use crate::record::EndReason;
use crate::volume::Volume;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What a cache has done since it was created.
#[derive(
    Clone, Copy, Debug, Default, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq,
)]
#[repr(C)]
pub struct CacheCounters {
    /// Packets observed.
    pub observed: Volume,
    /// Flows created.
    pub created: u64,
    /// Flows expired, by [`EndReason`] in the order of [`EndReason::ALL`].
    pub expired: [u64; EndReason::ALL.len()],
}

impl CacheCounters {
    /// Flows expired for any reason.
    #[must_use]
    pub fn expired_total(&self) -> u64 {
        self.expired.iter().sum()
    }
}
