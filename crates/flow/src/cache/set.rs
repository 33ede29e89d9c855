//! Sets of places: which tags they hold, and which of them hold any.

use crate::memory::equal_lanes;
use std::ops::Range;
use zerocopy::FromZeros;

/// Places in a set: 15 tags and one counter are half a cache line.
pub(super) const WAYS: usize = 15;

/// The tags of one set. The record of way `w` in set `s` stands at `residents[s * WAYS + w]`.
#[derive(Clone, Copy, FromZeros)]
#[repr(C, align(32))]
pub(super) struct Set {
    /// For each way part of the hash of its resident, or 0 where the place is free. Then, as the sixteenth, how many residents
    /// have this as their first set but stand in their second: only while there are any is that one looked at.
    pub(super) tags: [u16; WAYS + 1],
}

const _: () = assert!(size_of::<Set>() == 32);

impl Set {
    /// The ways whose tag is `tag`.
    #[inline]
    pub(super) fn ways_tagged(&self, tag: u16) -> Ways {
        Ways(equal_lanes(&self.tags, tag) & ((1 << WAYS) - 1))
    }

    /// Residents that stand in their second set although this is their first.
    #[inline]
    pub(super) fn overflowed(&self) -> u16 {
        self.tags[WAYS]
    }

    #[inline]
    pub(super) fn overflowed_mut(&mut self) -> &mut u16 {
        &mut self.tags[WAYS]
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

/// One bit for each set.
pub(super) struct SetMap(pub(super) Box<[u64]>);

impl SetMap {
    pub(super) fn new(sets: usize) -> Self {
        Self(vec![0; sets.div_ceil(64)].into())
    }

    #[inline]
    pub(super) fn insert(&mut self, set: usize) {
        self.0[set / 64] |= 1 << (set % 64);
    }

    #[inline]
    pub(super) fn remove(&mut self, set: usize) {
        self.0[set / 64] &= !(1 << (set % 64));
    }

    /// The first set of `range` that is in the map.
    #[inline]
    pub(super) fn first_in(&self, range: Range<usize>) -> Option<usize> {
        if range.is_empty() {
            return None;
        }
        let mut word = range.start / 64;
        let mut bits = self.0[word] & (u64::MAX << (range.start % 64));
        while bits == 0 {
            word += 1;
            if word * 64 >= range.end {
                return None;
            }
            bits = self.0[word];
        }
        Some(word * 64 + bits.trailing_zeros() as usize).filter(|&set| set < range.end)
    }
}
