//! Sets of places, and which tags they hold.

use crate::memory::equal_lanes;
use zerocopy::{FromZeros, Immutable, IntoBytes, transmute_ref};

/// Places in a set: 15 tags, a counter and a way are half a cache line.
pub(super) const WAYS: usize = 15;

/// What is known of one set without looking at its records. That of way `w` in set `s` stands at
/// `residents[s * WAYS + w]`.
#[derive(Clone, Copy, FromZeros, Immutable, IntoBytes)]
#[repr(C, align(32))]
pub(super) struct Set {
    /// For each way part of the hash of its resident, or 0 where the place is free.
    pub(super) tags: [u16; WAYS],
    /// How many residents have this as their first set but stand in their second: only while there
    /// are any is that one looked at.
    pub(super) overflowed: u8,
    /// The way that made room last.
    evicted: u8,
}

const _: () = assert!(size_of::<Set>() == 32);

impl Set {
    /// The ways whose tag is `tag`.
    #[inline]
    pub(super) fn ways_tagged(&self, tag: u16) -> Ways {
        Ways(equal_lanes(transmute_ref!(self), tag) & ((1 << WAYS) - 1))
    }

    /// All ways, beginning behind the one that made room last: in a set that stays full, oldest
    /// first.
    #[inline]
    pub(super) fn ways_by_age(&self) -> impl Iterator<Item = usize> + use<> {
        let start = usize::from(self.evicted) + 1;
        (start..start + WAYS).map(|way| if way < WAYS { way } else { way - WAYS })
    }

    /// Remembers that the flow of this way made room.
    #[inline]
    pub(super) fn set_evicted(&mut self, way: usize) {
        debug_assert!(way < WAYS);
        self.evicted = u8::try_from(way).unwrap_or(0);
    }

    /// The ways that hold no flow.
    #[inline]
    pub(super) fn ways_free(&self) -> Ways {
        self.ways_tagged(0)
    }

    /// The ways that hold a flow.
    #[inline]
    pub(super) fn ways_taken(&self) -> Ways {
        Ways(!self.ways_free().0 & ((1 << WAYS) - 1))
    }
}

/// Ways of a set, lowest first: one bit each.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Ways(u16);

impl Ways {
    /// Each of them, and one that is none.
    pub(super) const ALL: Self = Self(u16::MAX);

    #[inline]
    pub(super) fn of_mask(mask: u16) -> Self {
        Self(mask)
    }

    #[inline]
    pub(super) fn and(self, others: Self) -> Self {
        Self(self.0 & others.0)
    }

    #[inline]
    pub(super) fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }

    #[inline]
    pub(super) fn count(self) -> u32 {
        self.0.count_ones()
    }
}

impl Iterator for Ways {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        let way = self.0.trailing_zeros() as usize;
        self.0 &= self.0 - 1;
        Some(way)
    }
}
