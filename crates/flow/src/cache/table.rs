//! Where flows are stored: a set-associative table. When they end is not decided here.
//!
//! A flow is in one place from its beginning to its end, and never moves.

use super::resident::Resident;
use super::set::{Place, Set, WAYS, Ways};
use crate::key::Key;
use crate::memory::{Backing, PageSize, Table};
use crate::record::{EndReason, FlowRecord};
use foldhash::SharedSeed;
use foldhash::quality::FoldHasher;
use std::hash::{Hash, Hasher};
use std::io;

/// Free places in a set below which a new flow may go to its second one.
pub(super) const NEARLY_FULL: u32 = 5;
/// Flows among which one is chosen to make room.
const NEIGHBOURS: usize = 5;

/// By what the spare seeds differ from the seeds: any number but 0 and all ones.
const SPARE: u64 = 0x9e37_79b9_7f4a_7c15;

/// Every resident flow, each in one of its two sets.
pub(super) struct FlowTable<K: Key> {
    sets: Table<Set>,
    residents: Table<Resident<K>>,
    per_hasher_seed: u64,
    shared_seed: SharedSeed,
    /// For [`hash_again`](Self::hash_again).
    spare_seed: SharedSeed,
    count: usize,
}

impl<K: Key> FlowTable<K> {
    /// A table without flows that has a fifth more places than `flows_max`.
    pub(super) fn new(flows_max: usize, seed: u64, backing: Backing) -> io::Result<Self> {
        let sets = Self::sets_for(flows_max);
        Ok(Self {
            sets: Table::zeroed(sets, backing)?,
            residents: Table::zeroed(sets * WAYS, backing)?,
            per_hasher_seed: seed,
            shared_seed: SharedSeed::from_u64(seed.rotate_left(32)),
            spare_seed: SharedSeed::from_u64(seed.rotate_left(32) ^ SPARE),
            count: 0,
        })
    }

    /// Sets of a table for `flows_max` flows.
    pub(super) fn sets_for(flows_max: usize) -> usize {
        let flows_max = flows_max.max(1);
        flows_max.saturating_add(flows_max / 5).div_ceil(WAYS)
    }

    /// Octets of memory of so many sets; none if no address space is that large.
    pub(super) fn octets_of(sets: usize) -> Option<usize> {
        let octets_of_sets = Table::<Set>::mapping_octets(sets)?.get();
        let residents = Table::<Resident<K>>::mapping_octets(sets.checked_mul(WAYS)?)?;
        octets_of_sets.checked_add(residents.get())
    }

    #[inline]
    pub(super) fn hash(&self, key: K::Bits) -> u64 {
        let mut hasher = FoldHasher::with_seed(self.per_hasher_seed, &self.shared_seed);
        key.hash(&mut hasher);
        match hasher.finish() {
            0 | u64::MAX => self.hash_again(key),
            hash => hash,
        }
    }

    /// The hash of a key whose first hash is 0 or all ones. The hasher multiplies one half of the
    /// key by the other, each combined with a seed, and folds the product. If one half becomes 0 or
    /// all ones, so does the result, whatever the other half is, and all such flows would share one
    /// place. With the seeds used here these halves become other numbers.
    #[cold]
    fn hash_again(&self, key: K::Bits) -> u64 {
        let mut hasher = FoldHasher::with_seed(self.per_hasher_seed ^ SPARE, &self.spare_seed);
        key.hash(&mut hasher);
        hasher.finish()
    }

    /// The set that a hash names first.
    #[inline]
    pub(super) fn first_set(&self, hash: u64) -> usize {
        scale(hash, self.sets.len())
    }

    /// The set that a hash names second; now and then the same one.
    #[inline]
    pub(super) fn second_set(&self, hash: u64) -> usize {
        // Fibonacci hashing: the high half of this product depends on all of the hash, and most on
        // its low half.
        scale(hash.wrapping_mul(0x9e37_79b9_7f4a_7c15), self.sets.len())
    }

    #[inline]
    pub(super) fn set(&self, set: usize) -> &Set {
        &self.sets[set]
    }

    #[inline]
    pub(super) fn resident(&self, place: Place) -> &Resident<K> {
        &self.residents[place.index()]
    }

    #[inline]
    pub(super) fn resident_mut(&mut self, place: Place) -> &mut Resident<K> {
        &mut self.residents[place.index()]
    }

    /// Requests the tags of a set from memory.
    #[inline]
    pub(super) fn prefetch_set(&self, set: usize) {
        self.sets.prefetch(set);
    }

    /// Requests a flow from memory.
    #[inline]
    pub(super) fn prefetch_resident(&self, place: Place) {
        self.residents.prefetch(place.index());
    }

    /// The place of a flow, if it is resident.
    #[inline]
    pub(super) fn find(&self, hash: u64, key: K::Bits) -> Option<Place> {
        let first = self.first_set(hash);
        self.find_in(first, hash, key)
            .or_else(|| match self.sets[first].has_overflowed() {
                false => None,
                true => self.find_in(self.second_set(hash), hash, key),
            })
    }

    /// The places of all flows of a key: packets that are far apart are of several.
    pub(super) fn find_all(&self, hash: u64, key: K::Bits) -> impl Iterator<Item = Place> {
        let (first, second) = (self.first_set(hash), self.second_set(hash));
        let second = (second != first).then_some(second);
        let places = [Some(first), second].into_iter().flatten();
        let places = places.flat_map(move |set| {
            let ways = self.sets[set].ways_tagged(tag(hash));
            ways.map(move |way| Place::new(set, way))
        });
        places.filter(move |&place| self.resident(place).holds(key))
    }

    #[inline]
    fn find_in(&self, set: usize, hash: u64, key: K::Bits) -> Option<Place> {
        let mut places = self.sets[set]
            .ways_tagged(tag(hash))
            .map(|way| Place::new(set, way));
        places.find(|&place| self.resident(place).holds(key))
    }

    /// A free place for a new flow, if one of its two sets has any.
    ///
    /// The second set is chosen where the first is nearly full and fuller than it. So all sets fill
    /// alike (two random choices), yet few look-ups need the second one: with `flows_max` flows, at
    /// most 1 flow in 100 000 has to make room, and 13 % are in their second set.
    #[inline]
    pub(super) fn free_place(&self, hash: u64) -> Option<Place> {
        let first = self.first_set(hash);
        let (mut set, mut free) = (first, self.sets[first].ways_free());
        if free.count() < NEARLY_FULL {
            let second = self.second_set(hash);
            let free_second = self.sets[second].ways_free();
            if free.count() < free_second.count() {
                (set, free) = (second, free_second);
            }
        }
        free.next().map(|way| Place::new(set, way))
    }

    /// The flows of a full set among which one is chosen to make room, oldest first.
    #[inline]
    pub(super) fn neighbourhood(&self, set: usize) -> impl Iterator<Item = Place> + Clone + use<K> {
        self.sets[set]
            .ways_by_age()
            .take(NEIGHBOURS)
            .map(move |way| Place::new(set, way))
    }

    /// Remembers that the flow in this place made room.
    #[inline]
    pub(super) fn set_evicted(&mut self, place: Place) {
        self.sets[place.set()].set_evicted(place.way());
    }

    /// Stores a new flow in a free place.
    #[inline]
    pub(super) fn insert(&mut self, place: Place, hash: u64, mut resident: Resident<K>) {
        let first = self.first_set(hash);
        self.sets[place.set()].tags[place.way()] = tag(hash);
        resident.displaced = place.set() != first;
        if resident.displaced {
            self.sets[first].add_overflowed();
        }
        *self.resident_mut(place) = resident;
        self.count += 1;
    }

    /// Frees a place, and returns the record of its flow.
    #[inline]
    pub(super) fn remove(&mut self, place: Place, end: EndReason) -> FlowRecord<K> {
        let resident = self.resident_mut(place);
        let record = resident.record(end);
        resident.clear();
        let (key, displaced) = (resident.key, resident.displaced);
        self.sets[place.set()].tags[place.way()] = 0;
        if displaced {
            let first = self.first_set(self.hash(key));
            self.sets[first].remove_overflowed();
        }
        self.count -= 1;
        record
    }

    /// The ways of a set that hold a flow.
    #[inline]
    pub(super) fn ways_taken(&self, set: usize) -> Ways {
        self.sets[set].ways_taken()
    }

    /// The places of a set that hold a flow.
    #[inline]
    pub(super) fn places_taken(&self, set: usize) -> impl Iterator<Item = Place> + use<K> {
        self.ways_taken(set).map(move |way| Place::new(set, way))
    }

    /// Flows resident.
    #[inline]
    pub(super) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn set_count(&self) -> usize {
        self.sets.len()
    }

    /// Places for flows.
    pub(super) fn capacity(&self) -> usize {
        self.residents.len()
    }

    /// The kind of pages that the flows are on.
    pub(super) fn page_size(&self) -> PageSize {
        self.residents.page_size()
    }
}

/// The high half of `hash` scaled to `0..count`, without a division.
#[inline]
fn scale(hash: u64, count: usize) -> usize {
    (((hash >> 32) * count as u64) >> 32) as usize
}

/// The low 16 bits of the hash, which take no part in choosing the first set; 0 is for free places.
#[inline]
pub(super) fn tag(hash: u64) -> u16 {
    let [low, high, ..] = hash.to_le_bytes();
    u16::from_le_bytes([low, high]).max(1)
}
