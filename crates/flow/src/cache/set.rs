//! Sets of places, and the tags of the flows in them.

use crate::memory::equal_lanes;
use zerocopy::{FromZeros, Immutable, IntoBytes, transmute_ref};

/// Places in a set: 15 tags of 16 bits, a counter and a way fill half a cache line.
pub(super) const WAYS: usize = 15;

/// What is known of one set without reading its flows. The flow in way `w` of set `s` is at
/// `residents[s * WAYS + w]`.
#[derive(Clone, Copy, FromZeros, Immutable, IntoBytes)]
#[repr(C, align(32))]
pub(super) struct Set {
    /// For each way part of the hash of its flow, or 0 where the place is free.
    pub(super) tags: [u16; WAYS],
    /// Flows whose first set this is and which are in their second one. While this is 0, look-ups
    /// need not read the second set.
    overflowed: u8,
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

    /// All ways, starting behind the one that made room last: in a set that stays full, oldest
    /// first.
    #[inline]
    pub(super) fn ways_by_age(&self) -> impl Iterator<Item = usize> + Clone + use<> {
        let start = usize::from(self.evicted) + 1;
        (start..start + WAYS).map(|way| if way < WAYS { way } else { way - WAYS })
    }

    /// Remembers that the flow in this way made room.
    #[inline]
    pub(super) fn set_evicted(&mut self, way: usize) {
        debug_assert!(way < WAYS);
        self.evicted = u8::try_from(way).expect("a way is below 15");
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

    /// Whether a flow of this set may be in its second one.
    #[inline]
    pub(super) fn has_overflowed(&self) -> bool {
        self.overflowed > 0
    }

    /// Counts a flow of this set that goes to its second one.
    #[inline]
    pub(super) fn add_overflowed(&mut self) {
        self.overflowed = self.overflowed.saturating_add(1);
    }

    /// Counts a flow of this set that leaves its second one.
    #[inline]
    pub(super) fn remove_overflowed(&mut self) {
        debug_assert!(self.overflowed > 0);
        // A counter that was ever full has lost count and stays full: it only has to distinguish 0
        // from the rest.
        if self.overflowed != u8::MAX {
            self.overflowed -= 1;
        }
    }
}

/// The ways of a set, lowest first: one bit each.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Ways(u16);

impl Ways {
    /// Every way, and bit 15, which is none.
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

    /// The mask with the bits of these ways.
    #[inline]
    pub(super) fn set_in(self, mask: u16) -> u16 {
        mask | self.0
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

/// The place of a flow: its number among all places, set by set.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Place(usize);

impl Place {
    #[inline]
    pub(super) fn new(set: usize, way: usize) -> Self {
        Self(set * WAYS + way)
    }

    #[inline]
    pub(super) fn index(self) -> usize {
        self.0
    }

    #[inline]
    pub(super) fn set(self) -> usize {
        self.0 / WAYS
    }

    #[inline]
    pub(super) fn way(self) -> usize {
        self.0 % WAYS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set() -> Set {
        let mut set = Set::new_zeroed();
        (set.tags[0], set.tags[3], set.tags[14]) = (7, 7, 8);
        set
    }

    #[test]
    fn a_tag_finds_the_ways_that_have_it() {
        assert!(set().ways_tagged(7).eq([0, 3]));
        assert!(set().ways_tagged(8).eq([14]) && set().ways_tagged(9).eq([]));
        assert_eq!(
            (set().ways_taken().count(), set().ways_free().count()),
            (3, 12)
        );
        assert!(set().ways_taken().without(Ways::of_mask(1)).eq([3, 14]));
    }

    #[test]
    fn the_way_behind_the_last_evicted_one_is_the_oldest() {
        let mut set = set();
        set.set_evicted(12);
        assert!(set.ways_by_age().take(4).eq([13, 14, 0, 1]));
        set.set_evicted(14);
        assert!(set.ways_by_age().eq(0..WAYS));
    }

    #[test]
    fn a_counter_of_overflowed_flows_that_was_full_never_returns_to_zero() {
        let mut set = set();
        set.add_overflowed();
        set.remove_overflowed();
        assert!(!set.has_overflowed());
        (0..300).for_each(|_| set.add_overflowed());
        (0..300).for_each(|_| set.remove_overflowed());
        assert!(set.has_overflowed());
    }

    #[test]
    fn a_place_names_its_set_and_way() {
        let place = Place::new(70, 14);
        assert_eq!(
            (place.set(), place.way(), place.index()),
            (70, 14, 70 * 15 + 14)
        );
    }
}
