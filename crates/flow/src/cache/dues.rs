//! Notes of when flows are due, so that the clock hand reads no flow before its time.
//!
//! Times are counted in ticks and rounded up: no flow is early, and none is late by more than a
//! tick. The time of a flow is kept modulo 256 in an octet, which distinguishes no times more than
//! [`AHEAD_MAX`] ticks ahead. A flow that is due later is far, and its octet counts eras of [`ERA`]
//! ticks: it is read when that era begins, and noted again. A packet that puts off its flow's time
//! changes no note: a flow that turns out not to be due is noted again.
//!
//! Sets are in groups, and groups in blocks. Each has a bound in whole ticks: none of its flows is
//! due earlier. So what falls due in a gap of the traffic is found without a look at the rest of
//! the cache, and a group whose flows are all due much later is not read before.

use super::set::{Place, Ways};
use crate::memory::{Backing, Table, lanes_up_to, least_ahead};
use std::io;
use std::ops::Range;

/// A tick, in ms: with a round of the hand less than a second.
const TICK_MS: u64 = 128;
/// The most ticks ahead that a flow is noted, 16 s; and the most eras, 34 min. One less than a
/// signed octet can be, which stands for none.
const AHEAD_MAX: u64 = 126;
/// Ticks of an era: a flow that is due in an era to come is not more than [`AHEAD_MAX`] ticks ahead
/// when it begins.
const ERA: u64 = AHEAD_MAX + 1;
/// Sets of a group.
const GROUP: usize = 64;
/// Groups of a block.
const BLOCK: usize = 64;
/// Ticks after the first noted time of a group for which its octets remain distinct.
const DISTINCT: u64 = 100;
/// The longest time between two rounds of the hand, in ms, for which times in the past and times
/// ahead remain distinct.
pub(super) const DISTINCT_MS: u64 = DISTINCT * TICK_MS;

/// The due times of flows, by their sets and ways.
pub(super) struct Dues {
    /// For each set an octet for each of its ways, and an unused one.
    flows: Table<[u8; 16]>,
    /// For each set a bit for each of its ways whose flow is far.
    far: Table<u16>,
    groups: Box<[Group]>,
    /// For each block a tick before which none of its flows is due; `u64::MAX` where it is known
    /// to have none.
    blocks: Box<[u64]>,
    /// The part of a group that was read last, and what was found.
    part: Option<Part>,
    /// Calls of the hand so far.
    calls: u64,
}

/// [`GROUP`] consecutive sets.
#[derive(Clone, Copy, Default)]
struct Group {
    flows: u32,
    /// Whether `due` is further ahead than eras can be: when it comes, the octets mean nothing.
    is_beyond: bool,
    /// The tick before which none of the flows is due.
    due: u64,
}

/// A part of a group, all of whose flows were read: the hand may stop within a group.
#[derive(Clone, Copy)]
struct Part {
    sets: (usize, usize),
    /// When its reading began, in ms, and in which call of the hand.
    began_ms: u64,
    call: u64,
    /// The tick at which the first of its flows that remain is due.
    due: u64,
}

impl Dues {
    /// The notes of `sets` sets without flows.
    pub(super) fn new(sets: usize, backing: Backing) -> io::Result<Self> {
        let groups: Box<[Group]> = vec![Group::default(); sets.div_ceil(GROUP)].into();
        Ok(Self {
            flows: Table::zeroed(sets, backing)?,
            far: Table::zeroed(sets, backing)?,
            blocks: vec![u64::MAX; groups.len().div_ceil(BLOCK)].into(),
            groups,
            part: None,
            calls: 0,
        })
    }

    /// Octets of memory of the notes of `sets` sets; none if no address space is that large.
    pub(super) fn octets_of(sets: usize) -> Option<usize> {
        let groups = sets.div_ceil(GROUP).checked_mul(size_of::<Group>())?;
        Table::<[u8; 16]>::mapping_octets(sets)?
            .get()
            .checked_add(groups)
    }

    /// Requests from memory what noting a flow of this set will change.
    #[inline]
    pub(super) fn prefetch(&self, set: usize) {
        self.flows.prefetch(set);
    }

    /// Counts a new flow.
    #[inline]
    pub(super) fn add(&mut self, set: usize) {
        let group = &mut self.groups[set / GROUP];
        if group.flows == 0 {
            (group.due, group.is_beyond) = (u64::MAX, false);
        }
        group.flows += 1;
    }

    /// Notes that a flow is due at `due_ms`, in place of what was noted before.
    #[inline]
    pub(super) fn note(&mut self, place: Place, due_ms: u64, now_ms: u64) {
        let (set, way) = (place.set(), place.way());
        let mut due = due_ms.div_ceil(TICK_MS);
        let far = self.far[set];
        if due <= now_ms / TICK_MS + AHEAD_MAX {
            self.flows[set][way] = low_octet(due);
            if far != 0 {
                self.far[set] = far & !(1 << way);
            }
        } else {
            let era = (due / ERA).min(now_ms / TICK_MS / ERA + AHEAD_MAX);
            self.flows[set][way] = low_octet(era);
            self.far[set] = far | 1 << way;
            due = era * ERA;
        }
        let group = set / GROUP;
        if due < self.groups[group].due {
            self.groups[group].due = due;
            let block = &mut self.blocks[group / BLOCK];
            *block = due.min(*block);
        }
    }

    /// Counts a flow that ended.
    #[inline]
    pub(super) fn remove(&mut self, set: usize) {
        let group = &mut self.groups[set / GROUP];
        debug_assert!(group.flows > 0);
        group.flows -= 1;
    }

    /// The first set of `range` in whose group a flow may be due at `now_ms`, going by the ticks
    /// that are over.
    #[inline]
    pub(super) fn first_due(&mut self, range: Range<usize>, now_ms: u64) -> Option<usize> {
        self.first_due_by(range, now_ms / TICK_MS)
    }

    /// The first set of `range` in whose group a flow may be due at `now_ms` or less than a tick
    /// later.
    #[inline]
    pub(super) fn first_nearly_due(&mut self, range: Range<usize>, now_ms: u64) -> Option<usize> {
        self.first_due_by(range, now_ms.div_ceil(TICK_MS))
    }

    /// The first set of `range` whose group holds a flow.
    pub(super) fn first_occupied(&mut self, range: Range<usize>) -> Option<usize> {
        self.first_due_by(range, u64::MAX - 1)
    }

    #[inline]
    fn first_due_by(&mut self, range: Range<usize>, tick: u64) -> Option<usize> {
        let groups = self.groups.len().min(range.end.div_ceil(GROUP));
        let mut group = range.start / GROUP;
        while group < groups {
            let block = group / BLOCK;
            let block_end = self.groups.len().min((block + 1) * BLOCK);
            if self.blocks[block] <= tick {
                let rest = &self.groups[group..groups.min(block_end)];
                if let Some(found) = rest.iter().position(|group| group.bound() <= tick) {
                    return Some(range.start.max((group + found) * GROUP));
                }
                if block_end <= groups {
                    self.bound_block(block);
                }
            }
            group = block_end;
        }
        None
    }

    /// Raises the bound of a block to the first of its groups.
    fn bound_block(&mut self, block: usize) {
        let groups = &self.groups[block * BLOCK..self.groups.len().min((block + 1) * BLOCK)];
        let first = groups.iter().map(Group::bound).min();
        self.blocks[block] = first.expect("a block has a group");
    }

    /// The first set of the group whose bound is lowest; none if there is no flow.
    pub(super) fn soonest(&mut self) -> Option<usize> {
        loop {
            let lowest = |(_, bound): &(usize, u64)| *bound;
            let blocks = self.blocks.iter().copied().enumerate();
            let (block, bound) = blocks.min_by_key(lowest)?;
            if bound == u64::MAX {
                return None;
            }
            self.bound_block(block);
            if self.blocks[block] == bound {
                let groups = self.groups[block * BLOCK..].iter();
                let found = groups.map(Group::bound).position(|of| of == bound)?;
                return Some((block * BLOCK + found) * GROUP);
            }
        }
    }

    /// The ways of a set that may hold a flow that is due at `now_ms`, as far as the octets of its
    /// group are [distinct](Self::are_distinct).
    #[inline]
    pub(super) fn ways_due(&self, set: usize, now_ms: u64) -> Ways {
        self.ways_due_by(set, now_ms / TICK_MS)
    }

    /// The ways of a set that may hold a flow that is due at `now_ms` or less than a tick later, as
    /// [`ways_due`](Self::ways_due).
    #[inline]
    pub(super) fn ways_nearly_due(&self, set: usize, now_ms: u64) -> Ways {
        self.ways_due_by(set, now_ms.div_ceil(TICK_MS))
    }

    #[inline]
    fn ways_due_by(&self, set: usize, now: u64) -> Ways {
        let (flows, far) = (&self.flows[set], self.far[set]);
        let mut due = lanes_up_to(flows, low_octet(now)) & !far;
        if far != 0 {
            due |= lanes_up_to(flows, low_octet(now / ERA)) & far;
        }
        Ways::of_mask(due)
    }

    /// Whether the octets of a set's group, which may have a flow that is due, say at `now_ms`
    /// which are due and which are not. If not, each of its flows has to be read.
    #[inline]
    pub(super) fn are_distinct(&self, set: usize, now_ms: u64) -> bool {
        let group = &self.groups[set / GROUP];
        !group.is_beyond && now_ms / TICK_MS <= group.due.saturating_add(DISTINCT)
    }

    /// The uptime in ms after which a flow is due, as it is noted; the octets of its group are
    /// distinct.
    #[inline]
    pub(super) fn noted_after_ms(&self, place: Place) -> u64 {
        let (set, way) = (place.set(), place.way());
        let (bound, octet) = (self.groups[set / GROUP].due, self.flows[set][way]);
        let since = |from: u64| from + u64::from(octet.wrapping_sub(low_octet(from)));
        let tick = if self.far[set] >> way & 1 == 0 {
            since(bound)
        } else {
            since(bound / ERA) * ERA
        };
        tick.saturating_sub(1).saturating_mul(TICK_MS)
    }

    /// Notes the ways of a set that hold no flow as far ahead as possible.
    #[inline]
    pub(super) fn put_off(&mut self, set: usize, free: Ways, now_ms: u64) {
        let later = low_octet(now_ms / TICK_MS / ERA + AHEAD_MAX);
        self.far[set] = free.set_in(self.far[set]);
        free.for_each(|way| self.flows[set][way] = later);
    }

    /// Works out when the first flow of a set's group is due, after those that were due have been
    /// read.
    #[inline]
    pub(super) fn sum_up(&mut self, set: usize, now_ms: u64) {
        let (now, group) = (now_ms / TICK_MS, set / GROUP);
        let sets = self.group_of(set);
        let (flows, far) = (&self.flows[sets.clone()], &self.far[sets]);
        let first_era = least_ahead(flows, far, false, low_octet(now / ERA));
        let era = (now / ERA).saturating_add_signed(first_era.into());
        let due = match least_ahead(flows, far, true, low_octet(now)) {
            // Nothing is nearer.
            i8::MAX => era * ERA,
            first => now.saturating_add_signed(first.into()).min(era * ERA),
        };
        self.set_due(group, due, false);
    }

    /// Counts a call of the hand.
    #[inline]
    pub(super) fn begin_call(&mut self) {
        self.calls += 1;
    }

    /// Sets when the first flow of the group of these sets is due, after each of their flows was
    /// read: `due_ms` is that of the first that remains, `u64::MAX` if none does.
    ///
    /// The hand may read a group in parts. Until all of them were read, the group remains due.
    pub(super) fn settle(&mut self, sets: Range<usize>, due_ms: u64, now_ms: u64) {
        /// Between two parts that are read longer apart the octets of the first lose their meaning.
        const PARTS_APART_MS_MAX: u64 = 2_000;
        let all = self.group_of(sets.start);
        let mut part = Part {
            sets: (sets.start, sets.end),
            began_ms: now_ms,
            call: self.calls,
            due: due_ms.div_ceil(TICK_MS),
        };
        if let Some(before) = self.part.take() {
            let (start, end) = before.sets;
            let is_next =
                end == sets.start && start >= all.start || start == sets.end && end <= all.end;
            if is_next && now_ms.abs_diff(before.began_ms) <= PARTS_APART_MS_MAX {
                part = Part {
                    sets: (start.min(sets.start), end.max(sets.end)),
                    due: before.due.min(part.due),
                    ..before
                };
            }
        }
        if part.sets != (all.start, all.end) {
            self.part = Some(part);
            return;
        }
        if part.call == self.calls {
            let is_beyond = part.due / ERA > now_ms / TICK_MS / ERA + AHEAD_MAX;
            self.set_due(all.start / GROUP, part.due, is_beyond);
        } else {
            // Flows may have been noted since the first part was read.
            self.sum_up(all.start, now_ms);
        }
    }

    #[inline]
    fn set_due(&mut self, group: usize, due: u64, is_beyond: bool) {
        (self.groups[group].due, self.groups[group].is_beyond) = (due, is_beyond);
        let block = &mut self.blocks[group / BLOCK];
        *block = due.min(*block);
    }

    /// The sets of groups that hold a flow.
    pub(super) fn occupied(&self) -> impl Iterator<Item = usize> {
        let groups = self
            .groups
            .iter()
            .enumerate()
            .filter(|(_, group)| group.flows > 0);
        groups.flat_map(|(group, _)| group * GROUP..self.flows.len().min((group + 1) * GROUP))
    }

    /// The first set from `set` on whose group holds a flow; the number of sets if there is none.
    pub(super) fn next_occupied(&self, set: usize) -> usize {
        let own = set / GROUP;
        let groups = self.groups.get(own..).unwrap_or_default();
        let found = groups.iter().position(|group| group.flows > 0);
        found.map_or(self.flows.len(), |skipped| set.max((own + skipped) * GROUP))
    }

    /// The sets of a set's group.
    pub(super) fn group_of(&self, set: usize) -> Range<usize> {
        let group = set / GROUP;
        group * GROUP..self.flows.len().min((group + 1) * GROUP)
    }
}

impl Group {
    /// The tick before which none of its flows is due; `u64::MAX` if it has none.
    #[inline]
    fn bound(&self) -> u64 {
        if self.flows == 0 { u64::MAX } else { self.due }
    }
}

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "ticks are kept modulo 256")]
fn low_octet(tick: u64) -> u8 {
    tick as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ways(dues: &Dues, set: usize, now_ms: u64) -> Vec<usize> {
        dues.ways_due(set, now_ms).collect()
    }

    /// The notes of 200 sets of which no way seems to be due.
    fn dues(now_ms: u64) -> Dues {
        let mut dues = Dues::new(200, Backing::OnDemand).unwrap();
        (0..200).for_each(|set| dues.put_off(set, Ways::ALL, now_ms));
        dues
    }

    #[test]
    fn a_flow_is_due_within_a_tick_and_never_early_whatever_its_time() {
        for due_ms in (0..70_000)
            .step_by(61)
            .chain([u64::from(u32::MAX), 1 << 45])
        {
            let seen_ms = due_ms.saturating_sub(10_000);
            let mut dues = dues(seen_ms);
            dues.add(70);
            dues.note(Place::new(70, 3), due_ms, seen_ms);
            for early_ms in (seen_ms..due_ms).step_by(97) {
                assert_eq!(
                    (ways(&dues, 70, early_ms), dues.first_due(64..128, early_ms)),
                    (vec![], None)
                );
            }
            let late_ms = due_ms + TICK_MS;
            assert_eq!(
                (ways(&dues, 70, late_ms), dues.first_due(64..128, late_ms)),
                (vec![3], Some(64))
            );
            assert!(ways(&dues, 70, due_ms + DISTINCT_MS).contains(&3));
        }
    }

    #[test]
    fn a_flow_that_is_due_far_ahead_is_read_before() {
        let mut dues = dues(0);
        dues.add(5);
        dues.note(Place::new(5, 14), 1_000_000, 0);
        let era_ms = ERA * TICK_MS;
        let begins_ms = 1_000_000 / era_ms * era_ms;
        assert_eq!(dues.first_due(0..200, begins_ms - 1), None);
        assert_eq!(dues.first_due(0..200, begins_ms), Some(0));
        assert!(!ways(&dues, 5, begins_ms - 1).contains(&14));
        assert!(ways(&dues, 5, begins_ms).contains(&14));
        (0..64).for_each(|set| dues.put_off(set, Ways::ALL, begins_ms));
        dues.note(Place::new(5, 14), 1_000_000, begins_ms);
        dues.sum_up(5, begins_ms);
        assert_eq!(dues.first_due(0..200, 1_000_000), None);
        assert_eq!(dues.first_due(0..200, 1_000_000 + TICK_MS), Some(0));
    }

    #[test]
    fn the_furthest_near_flow_bounds_its_group() {
        let mut dues = dues(0);
        dues.add(5);
        dues.note(Place::new(5, 0), AHEAD_MAX * TICK_MS, 0);
        dues.sum_up(5, 0);
        assert_eq!(dues.first_due(0..64, AHEAD_MAX * TICK_MS), Some(0));
        assert_eq!(dues.first_due(0..64, AHEAD_MAX * TICK_MS - 1), None);
    }

    #[test]
    fn groups_without_flows_are_passed() {
        let mut dues = dues(0);
        let all = |dues: &Dues| dues.occupied().collect::<Vec<_>>();
        assert!(all(&dues).is_empty() && dues.first_due(0..200, 60_000).is_none());
        dues.add(199);
        dues.note(Place::new(199, 0), 500, 0);
        dues.add(64);
        dues.note(Place::new(64, 0), 900, 0);
        assert_eq!(
            (dues.first_due(0..200, 640), dues.first_due(0..192, 640)),
            (Some(192), None)
        );
        assert_eq!(dues.first_due(195..200, 640), Some(195));
        assert!(dues.occupied().eq((64..128).chain(192..200)));
        dues.remove(199);
        assert!(dues.occupied().eq(64..128) && dues.first_due(192..200, 640).is_none());
    }

    #[test]
    fn a_group_that_was_read_is_due_with_the_first_of_its_other_flows() {
        let mut dues = dues(0);
        dues.add(64);
        dues.note(Place::new(64, 0), 500, 0);
        dues.add(65);
        dues.note(Place::new(65, 0), 5_000, 0);
        dues.note(Place::new(64, 0), 9_000, 600);
        dues.sum_up(64, 640);
        assert_eq!(
            (
                dues.first_due(64..128, 4_900),
                dues.first_due(64..128, 5_120)
            ),
            (None, Some(64))
        );
    }
}
