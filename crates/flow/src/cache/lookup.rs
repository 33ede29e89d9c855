//! The look-up of the flows of a burst, in stages, so that its cache misses overlap.

use super::dues::Dues;
use super::set::Place;
use super::table::{FlowTable, NEARLY_FULL, tag};
use crate::key::Key;

/// The most packets that one call of [`FlowCache::observe`](super::FlowCache::observe) takes.
pub const BURST_MAX: usize = 256;
/// Packets that go through a stage together: their work takes about as long as a line takes from
/// memory, and they request no more lines at once than a core can wait for.
pub(super) const STRIDE: usize = 16;

/// How far the look-up of one packet's flow has come.
#[derive(Clone, Copy, Default)]
pub(super) struct Lookup {
    pub(super) hash: u64,
    /// The probable place of the flow. If the flow is not there, it has to be found by its key.
    pub(super) place: Place,
}

/// The stage after hashing: sets the probable place of each flow of a stride by the tags alone, and
/// requests the flow there from memory.
#[inline]
pub(super) fn find_probable_places<K: Key>(
    lookups: &mut [Lookup],
    table: &FlowTable<K>,
    dues: &Dues,
) {
    let (mut in_second, mut in_second_count) = ([0; STRIDE], 0);
    for (slot, lookup) in (0_u8..).zip(&mut *lookups) {
        let first = table.first_set(lookup.hash);
        let set = table.set(first);
        lookup.place = if let Some(way) = set.ways_tagged(tag(lookup.hash)).next() {
            Place::new(first, way)
        } else {
            // The flow is in its second set, or is new and may go there.
            if set.has_overflowed() || set.ways_free().count() < NEARLY_FULL {
                table.prefetch_set(table.second_set(lookup.hash));
                in_second[in_second_count] = slot;
                in_second_count += 1;
            }
            let free = set.ways_free().next();
            if free.is_some() {
                dues.prefetch(first);
            }
            Place::new(first, free.unwrap_or(0))
        };
        table.prefetch_resident(lookup.place);
    }
    for &slot in &in_second[..in_second_count] {
        let Lookup { hash, place } = &mut lookups[usize::from(slot)];
        let second = table.second_set(*hash);
        let set = table.set(second);
        if let Some(way) = set.ways_tagged(tag(*hash)).next() {
            *place = Place::new(second, way);
            table.prefetch_resident(*place);
        } else if table.set(place.set()).ways_free().count() == 0 && set.ways_free().count() == 0 {
            // The flow is new and both sets are full: this one will probably make room for it.
            let oldest = table.neighbourhood(place.set()).next();
            table.prefetch_resident(oldest.expect("a neighbourhood has five places"));
        }
    }
}
