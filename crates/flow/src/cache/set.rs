//! Sets of places: which tags they hold, and which of them hold any.

use crate::memory::equal_lanes;
use std::ops::Range;
use zerocopy::{FromZeros, Immutable, IntoBytes, transmute_ref};

/// Places in a set: 13 tags, a counter, a way and a time are half a cache line.
pub(super) const WAYS: usize = 13;

/// What is known of one set without looking at its records. That of way `w` in set `s` stands at `residents[s * WAYS + w]`.
#[derive(Clone, Copy, FromZeros, Immutable, IntoBytes)]
#[repr(C, align(32))]
pub(super) struct Set {
    /// For each way part of the hash of its resident, or 0 where the place is free.
    pub(super) tags: [u16; WAYS],
    /// How many residents have this as their first set but stand in their second: only while there are any is that one looked
    /// at.
    pub(super) overflowed: u8,
    /// The way that made room last.
    evicted: u8,
    /// No resident is due before this: uptime in ms, modulo 2^32. No timeout is longer than a day, so half of that is plenty.
    due_ms: u32,
}

const _: () = assert!(size_of::<Set>() == 32);

impl Set {
    /// The ways whose tag is `tag`.
    #[inline]
    pub(super) fn ways_tagged(&self, tag: u16) -> Ways {
        Ways(equal_lanes(transmute_ref!(self), tag) & ((1 << WAYS) - 1))
    }

    /// Whether a resident may be due at `now_ms`.
    #[inline]
    pub(super) fn may_be_due(&self, now_ms: u64) -> bool {
        low_half(now_ms).wrapping_sub(self.due_ms).cast_signed() >= 0
    }

    /// Remembers that no resident is due before `due_ms`.
    #[inline]
    pub(super) fn set_due(&mut self, due_ms: u64) {
        self.due_ms = low_half(due_ms);
    }

    /// Remembers that one more resident is due at `due_ms`.
    #[inline]
    pub(super) fn add_due(&mut self, due_ms: u64) {
        if self.due_ms.wrapping_sub(low_half(due_ms)).cast_signed() > 0 {
            self.set_due(due_ms);
        }
    }

    /// All ways, beginning behind the one that made room last: in a set that stays full, oldest first.
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

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "times of a set are kept modulo 2^32")]
fn low_half(ms: u64) -> u32 {
    ms as u32
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

    /// Adds a set and returns whether it was not in the map.
    #[inline]
    pub(super) fn insert(&mut self, set: usize) -> bool {
        let (word, bit) = (&mut self.0[set / 64], 1 << (set % 64));
        let added = *word & bit == 0;
        *word |= bit;
        added
    }

    #[inline]
    pub(super) fn remove(&mut self, set: usize) {
        self.0[set / 64] &= !(1 << (set % 64));
    }

    /// All that are in the map, in order.
    pub(super) fn all(&self) -> impl Iterator<Item = usize> {
        let end = self.0.len() * 64;
        std::iter::successors(self.first_in(0..end), move |&set| self.first_in(set + 1..end))
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
