//! Notes of when flows are due, so that the clock hand reads no flow before its time.
//!
//! Times are counted in ticks and rounded up: no flow is early, and none is late by more than a
//! tick. The time of a flow is kept modulo 256 in an octet, which distinguishes no times more than
//! [`AHEAD_MAX`] ticks ahead: a flow that is due later is read at that time, and noted again. A
//! packet that puts off its flow's time changes no note: a flow that turns out not to be due is
//! noted again.

use super::set::{Place, Ways};
use crate::memory::{Backing, Table, lanes_up_to};
use std::io;
use std::ops::Range;

/// A tick, in ms: with a round of the hand less than a second.
const TICK_MS: u64 = 128;
/// The most ticks ahead that a flow is noted: 16 s.
const AHEAD_MAX: u64 = 127;
/// Sets of a group.
const GROUP: usize = 64;
/// The longest time between two rounds of the hand, in ms, for which times in the past and times
/// ahead remain distinct.
pub(super) const DISTINCT_MS: u64 = 100 * TICK_MS;

/// The due times of flows, by their sets and ways.
pub(super) struct Dues {
    /// For each set an octet for each of its ways, and an unused one.
    flows: Table<[u8; 16]>,
    groups: Box<[Group]>,
}

/// [`GROUP`] consecutive sets.
#[derive(Clone, Copy, Default)]
struct Group {
    flows: u32,
    /// The tick before which none of the flows is due.
    due: u64,
}

impl Dues {
    /// The notes of `sets` sets without flows.
    pub(super) fn new(sets: usize, backing: Backing) -> io::Result<Self> {
        let groups = vec![Group::default(); sets.div_ceil(GROUP)].into();
        Ok(Self {
            flows: Table::zeroed(sets, backing)?,
            groups,
        })
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
            group.due = u64::MAX;
        }
        group.flows += 1;
    }

    /// Notes that a flow is due at `due_ms`, in place of what was noted before.
    #[inline]
    pub(super) fn note(&mut self, place: Place, due_ms: u64, now_ms: u64) {
        let due = due_ms.div_ceil(TICK_MS).min(now_ms / TICK_MS + AHEAD_MAX);
        self.flows[place.set()][place.way()] = low_octet(due);
        let group = &mut self.groups[place.set() / GROUP];
        group.due = group.due.min(due);
    }

    /// Counts a flow that ended.
    #[inline]
    pub(super) fn remove(&mut self, set: usize) {
        let group = &mut self.groups[set / GROUP];
        debug_assert!(group.flows > 0);
        group.flows -= 1;
    }

    /// The first set of `range` in whose group a flow may be due at `now_ms`.
    #[inline]
    pub(super) fn first_due(&self, range: Range<usize>, now_ms: u64) -> Option<usize> {
        let groups = range.start / GROUP..range.end.div_ceil(GROUP);
        let due = |group: &Group| group.flows > 0 && group.due <= now_ms / TICK_MS;
        let found = groups.start + self.groups.get(groups)?.iter().position(due)?;
        Some(range.start.max(found * GROUP))
    }

    /// The first set behind the group of a set.
    #[inline]
    pub(super) fn group_end(set: usize) -> usize {
        (set / GROUP + 1) * GROUP
    }

    /// The ways of a set that may hold a flow that is due at `now_ms`, at most [`DISTINCT_MS`]
    /// after the previous call for this set.
    #[inline]
    pub(super) fn ways_due(&self, set: usize, now_ms: u64) -> Ways {
        Ways::of_mask(lanes_up_to(&self.flows[set], low_octet(now_ms / TICK_MS)))
    }

    /// Notes the ways of a set that hold no flow as far ahead as possible.
    #[inline]
    pub(super) fn put_off(&mut self, set: usize, free: Ways, now_ms: u64) {
        let later = low_octet(now_ms / TICK_MS + AHEAD_MAX);
        free.for_each(|way| self.flows[set][way] = later);
    }

    /// Works out when the first flow of a set's group is due, after those that were due have been
    /// read.
    #[inline]
    pub(super) fn sum_up(&mut self, set: usize, now_ms: u64) {
        let (now, group) = (now_ms / TICK_MS, set / GROUP);
        let flows = &self.flows[group * GROUP..self.flows.len().min((group + 1) * GROUP)];
        let ahead = |lane: &u8| lane.wrapping_sub(low_octet(now)).cast_signed();
        let first = flows
            .as_flattened()
            .iter()
            .map(ahead)
            .fold(i8::MAX, i8::min);
        self.groups[group].due = now.saturating_add_signed(first.into());
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
        assert_eq!(dues.first_due(0..200, AHEAD_MAX * TICK_MS - 1), None);
        assert_eq!(dues.first_due(0..200, AHEAD_MAX * TICK_MS), Some(0));
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
