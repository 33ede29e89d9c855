//! The flow cache: every resident flow of one queue, in memory that is set at the start.
//!
//! The table is set-associative, like a processor's cache. A flow's hash names two sets of 15
//! places each and a 16-bit tag; a set's tags share half a cache line, so a look-up reads that half
//! line and then, nearly always, one record. There is no chain to walk, no tombstone and no rehash:
//! every operation is bounded by two sets, whatever the traffic. When both sets of a new flow are
//! full, one of the five oldest flows of the first is expired for lack of resources: the oldest
//! that had one packet only or none for a second, else that which was quiet longest.
//!
//! A flow is due when it has been idle, active or lingering for long enough. The first to notice
//! expires it: the clock [hand](FlowCache::expire), which passes every set twice a second, or the
//! packet that comes too late to belong to it. When each flow may be due is noted beside the sets,
//! so that the hand looks at a record only then.

mod dues;
mod resident;
mod set;

use crate::decode::Packet;
use crate::fragment::{Fragment, FragmentTable};
use crate::memory::{Backing, PageSize, Table};
use crate::record::{EndReason, FlowRecord, RecordSink};
use dues::{Dues, TOLD_APART_MS};
use foldhash::SharedSeed;
use foldhash::quality::FoldHasher;
use resident::Resident;
use set::{Set, WAYS, Ways};
use std::hash::Hasher;
use std::io;
use std::ops::Range;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The most packets that one call of [`FlowCache::observe`] takes.
pub const BURST_MAX: usize = 256;
/// Packets that go through a stage together: their work takes about as long as a line takes from
/// memory, and no more lines are on their way at once than a core can wait for.
const STRIDE: usize = 16;

/// How long flows stay, in ms.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Timeouts {
    /// A flow without a packet for this long is expired.
    pub idle_ms: u64,
    /// A flow that has gone on for this long is expired, and its next packet begins another.
    pub active_ms: u64,
    /// The idle timeout of a flow that has shown FIN or RST.
    pub linger_ms: u64,
    /// Each flow's active timeout is shorter by a share of this that depends on its key alone, so
    /// that flows which began together do not all end together. At most the active timeout.
    pub lifetime_spread_ms: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            idle_ms: 15_000,
            active_ms: 60_000,
            linger_ms: 1_000,
            lifetime_spread_ms: 0,
        }
    }
}

/// What a cache is made from.
#[derive(Clone, Copy, Debug)]
pub struct CacheConfig {
    /// Flows that fit with hardly any having to make room for another (1 in 100 000). There are a
    /// fifth more places than that, since hashing never fills all sets alike.
    pub flows_max: usize,
    /// How long flows stay.
    pub timeouts: Timeouts,
    /// Seed of the hash. Random where somebody could choose keys; fixed where the same input must
    /// give the same output.
    pub seed: u64,
    /// When its memory is made.
    pub backing: Backing,
}

/// Packets and their layer-3 octets.
#[derive(
    Clone, Copy, Debug, Default, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq,
)]
#[repr(C)]
pub struct Volume {
    /// Packets.
    pub packets: u64,
    /// Layer-3 octets.
    pub octets: u64,
}

impl Volume {
    /// Adds one record's counts.
    #[inline]
    pub fn add_record(&mut self, record: &FlowRecord) {
        self.packets += u64::from(record.packets);
        self.octets += u64::from(record.octets);
    }
}

impl std::ops::Add for Volume {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            packets: self.packets + other.packets,
            octets: self.octets + other.octets,
        }
    }
}

impl std::ops::Sub for Volume {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            packets: self.packets - other.packets,
            octets: self.octets - other.octets,
        }
    }
}

impl std::ops::AddAssign for Volume {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

/// What a cache has done since it was made.
#[derive(
    Clone, Copy, Debug, Default, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq,
)]
#[repr(C)]
pub struct CacheCounters {
    /// Packets observed.
    pub observed: Volume,
    /// Flows created.
    pub created: u64,
    /// Records let go, by [`EndReason`] in the order of [`EndReason::ALL`].
    pub expired: [u64; EndReason::ALL.len()],
}

impl CacheCounters {
    /// Records let go for any reason.
    #[must_use]
    pub fn expired_total(&self) -> u64 {
        self.expired.iter().sum()
    }
}

/// A packet and when it was seen, on its way into the cache.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// The packet.
    pub packet: Packet,
    /// Uptime in ms. Never less than that of an earlier arrival.
    pub at_ms: u64,
}

/// The flow cache of one queue.
pub struct FlowCache {
    sets: Table<Set>,
    residents: Table<Resident>,
    dues: Dues,
    fragments: FragmentTable,
    timeouts: Timeouts,
    per_hasher_seed: u64,
    shared_seed: SharedSeed,
    hand: Hand,
    resident_count: usize,
    counters: CacheCounters,
    /// The look-ups of the burst under way.
    lookups: Box<[Lookup]>,
    /// Which of a stride look at their second set too.
    elsewhere: [usize; STRIDE],
}

/// How far the look-up of a packet's flow has come.
#[derive(Clone, Copy, Default)]
struct Lookup {
    hash: u64,
    /// Where the flow probably stands; if it does not, it is looked for again.
    place: Place,
}

/// A place for a new flow.
struct Vacancy {
    place: Place,
    /// No later than this is it noted as due, for the flow that made room: good enough for a
    /// newcomer that is due later, and one line less from memory. The end of time where nobody made
    /// room.
    noted_ms: u64,
}

/// Where the clock hand stands.
#[derive(Clone, Copy, Debug, Default)]
struct Hand {
    /// The set that it looks at next.
    set: usize,
    /// Uptime up to which its way is paid for.
    paid_ms: u64,
    /// Sets that it still owes for the time up to then.
    owed: u64,
    /// What division left over of `paid_ms`, in sets * ms.
    remainder: u64,
    /// Sets of which every flow is looked at, since the clock leapt.
    unsure: usize,
}

/// Time in which the clock hand passes every place once, in ms. With the turn that notices, nothing
/// is later than a second.
pub const HAND_ROUND_MS: u64 = 500;

/// The place of a flow: its number among all, set by set.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Place(usize);

impl Place {
    #[inline]
    fn new(set: usize, way: usize) -> Self {
        Self(set * WAYS + way)
    }

    #[inline]
    fn set(self) -> usize {
        self.0 / WAYS
    }

    #[inline]
    fn way(self) -> usize {
        self.0 % WAYS
    }
}

impl FlowCache {
    /// An empty cache; its memory never grows.
    ///
    /// # Errors
    ///
    /// What the system said, where it has not the memory.
    pub fn new(config: &CacheConfig) -> io::Result<Self> {
        let flows_max = config.flows_max.max(1);
        let sets = flows_max.saturating_add(flows_max / 5).div_ceil(WAYS);
        Ok(Self {
            sets: Table::zeroed(sets, config.backing)?,
            residents: Table::zeroed(sets * WAYS, config.backing)?,
            dues: Dues::new(sets, config.backing)?,
            fragments: FragmentTable::new(),
            // The linger is an idle timeout too, and the shorter one counts.
            timeouts: Timeouts {
                linger_ms: config.timeouts.linger_ms.min(config.timeouts.idle_ms),
                ..config.timeouts
            },
            per_hasher_seed: config.seed,
            shared_seed: SharedSeed::from_u64(config.seed.rotate_left(32)),
            hand: Hand::default(),
            resident_count: 0,
            counters: CacheCounters::default(),
            lookups: Box::new([Lookup::default(); BURST_MAX]),
            elsewhere: [0; STRIDE],
        })
    }

    /// Adds each packet to its flow. Flows that end by it (their timeout was over, a counter would
    /// overflow, their place was needed) go to `sink`. Later fragments are given their ports first.
    ///
    /// The burst goes through in stages so that its cache misses overlap, stride by stride: while
    /// one stride's records are on their way from memory, the tags of the next are, and the one
    /// after that is hashed.
    ///
    /// # Panics
    ///
    /// If there are more than [`BURST_MAX`] arrivals.
    pub fn observe(&mut self, arrivals: &mut [Arrival], sink: &mut impl RecordSink) {
        let count = arrivals.len();
        assert!(
            count <= BURST_MAX,
            "a burst of {count} packets, wanted at most {BURST_MAX}"
        );
        let mut lookups = std::mem::take(&mut self.lookups);
        let stride = |number: usize| count.min(number * STRIDE)..count.min((number + 1) * STRIDE);
        for step in 0..count.div_ceil(STRIDE) + 2 {
            self.hash_all(&mut arrivals[stride(step)], &mut lookups[stride(step)]);
            if let Some(step) = step.checked_sub(1) {
                self.look_up_all(&mut lookups[stride(step)]);
            }
            if let Some(step) = step.checked_sub(2) {
                self.update_all(&arrivals[stride(step)], &lookups[stride(step)], sink);
            }
        }
        self.lookups = lookups;
    }

    /// Hashes each packet's key and asks for the tags of its first set.
    #[inline]
    fn hash_all(&mut self, arrivals: &mut [Arrival], lookups: &mut [Lookup]) {
        let mut octets = 0;
        for (lookup, Arrival { packet, at_ms }) in lookups.iter_mut().zip(arrivals.iter_mut()) {
            if packet.fragment != Fragment::Whole {
                self.fragments
                    .resolve(&mut packet.key, packet.fragment, *at_ms);
            }
            lookup.hash = self.hash(packet.key.to_bits());
            self.sets.prefetch(self.first_set(lookup.hash));
            octets += u64::from(packet.octets);
        }
        self.counters.observed += Volume {
            packets: arrivals.len() as u64,
            octets,
        };
    }

    /// Finds each packet's probable place by the tags, and asks for the record there.
    #[inline]
    fn look_up_all(&mut self, lookups: &mut [Lookup]) {
        let mut elsewhere_count = 0;
        for (slot, lookup) in lookups.iter_mut().enumerate() {
            let first = self.first_set(lookup.hash);
            let set = &self.sets[first];
            lookup.place = if let Some(way) = set.ways_tagged(tag(lookup.hash)).next() {
                Place::new(first, way)
            } else {
                // It stands in its second set, or is new and may go there.
                if set.overflowed > 0 || set.ways_free().count() < NEARLY_FULL {
                    self.sets.prefetch(self.second_set(lookup.hash));
                    self.elsewhere[elsewhere_count] = slot;
                    elsewhere_count += 1;
                }
                let free = set.ways_free().next();
                if free.is_some() {
                    self.dues.prefetch(first);
                }
                Place::new(first, free.unwrap_or(0))
            };
            self.residents.prefetch(lookup.place.0);
        }
        for &slot in &self.elsewhere[..elsewhere_count] {
            let Lookup { hash, place } = &mut lookups[slot];
            let second = self.second_set(*hash);
            let set = &self.sets[second];
            if let Some(way) = set.ways_tagged(tag(*hash)).next() {
                *place = Place::new(second, way);
                self.residents.prefetch(place.0);
            } else if self.sets[place.set()].ways_free().count() == 0
                && set.ways_free().count() == 0
            {
                // A new flow, and this one will probably make room for it.
                let oldest = self.neighbourhood(place.set()).next().unwrap_or_default();
                self.residents.prefetch(oldest.0);
            }
        }
    }

    /// Adds each packet to its flow.
    #[inline]
    fn update_all(&mut self, arrivals: &[Arrival], lookups: &[Lookup], sink: &mut impl RecordSink) {
        for (lookup, arrival) in lookups.iter().zip(arrivals) {
            let resident = &mut self.residents[lookup.place.0];
            if !resident.add(arrival.packet.key.to_bits(), arrival, &self.timeouts) {
                self.update(*lookup, arrival, sink);
            }
        }
    }

    /// Lets the clock hand go on to where it should be at `now_ms`, past at most `sets_max` sets,
    /// and sends what is due to `sink`. Returns whether it got there: if not, the caller comes back
    /// before it sleeps.
    ///
    /// Nothing is expired before it is due, and nothing later than 628 ms after, if this is called
    /// often enough.
    pub fn expire(&mut self, now_ms: u64, sets_max: usize, sink: &mut impl RecordSink) -> bool {
        let round = self.sets.len() as u64;
        let elapsed_ms = now_ms.saturating_sub(self.hand.paid_ms);
        if elapsed_ms > TOLD_APART_MS {
            self.hand.unsure = self.sets.len();
        }
        // After a long absence one full round is all that is owed.
        let paid = elapsed_ms.min(HAND_ROUND_MS) * round + self.hand.remainder;
        self.hand.paid_ms = self.hand.paid_ms.max(now_ms);
        self.hand.remainder = paid % HAND_ROUND_MS;
        self.hand.owed = (self.hand.owed + paid / HAND_ROUND_MS).min(round);
        let visits = usize::try_from(self.hand.owed)
            .unwrap_or(usize::MAX)
            .min(sets_max);
        self.hand.owed -= visits as u64;
        let mut left = visits;
        while left > 0 {
            let start = self.hand.set;
            let end = self.sets.len().min(start + left);
            self.expire_sets(start..end, now_ms, sink);
            self.hand.set = end % self.sets.len();
            left -= end - start;
        }
        self.hand.owed == 0
    }

    /// When the first of the resident flows falls due if no packet comes, in ms; looked up flow by
    /// flow, so not cheap.
    #[must_use]
    pub fn earliest_due_ms(&self) -> Option<u64> {
        self.places_taken()
            .map(|place| self.residents[place.0].due_ms(&self.timeouts))
            .min()
    }

    /// Expires up to `sets_max` sets of flows, due or not, and returns whether the cache is empty.
    pub fn drain(&mut self, sets_max: usize, sink: &mut impl RecordSink) -> bool {
        for _ in 0..sets_max {
            if self.resident_count == 0 {
                return true;
            }
            let set = self.hand.set;
            for way in self.sets[set].ways_taken() {
                self.let_go(Place::new(set, way), EndReason::Forced, sink);
            }
            self.hand.set = (set + 1) % self.sets.len();
        }
        self.resident_count == 0
    }

    /// Flows resident.
    #[must_use]
    pub fn len(&self) -> usize {
        self.resident_count
    }

    /// Whether no flow is resident.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.resident_count == 0
    }

    /// Flows that there are places for.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.residents.len()
    }

    /// Sets that the places are divided into: what [`expire`](Self::expire) and
    /// [`drain`](Self::drain) count in.
    #[must_use]
    pub fn set_count(&self) -> usize {
        self.sets.len()
    }

    /// The pages that the records stand on.
    #[must_use]
    pub fn page_size(&self) -> PageSize {
        self.residents.page_size()
    }

    /// What it has done so far.
    #[must_use]
    pub fn counters(&self) -> &CacheCounters {
        &self.counters
    }

    /// What the resident flows hold, counted flow by flow: the ledger's check on the running
    /// counters, not cheap.
    #[must_use]
    pub fn resident(&self) -> Volume {
        let mut volume = Volume::default();
        for place in self.places_taken() {
            let resident = &self.residents[place.0];
            volume += Volume {
                packets: resident.packets.into(),
                octets: resident.octets.into(),
            };
        }
        volume
    }

    fn places_taken(&self) -> impl Iterator<Item = Place> {
        self.dues.occupied().flat_map(|set| {
            self.sets[set]
                .ways_taken()
                .map(move |way| Place::new(set, way))
        })
    }

    #[inline]
    fn hash(&self, key: u128) -> u64 {
        let mut hasher = FoldHasher::with_seed(self.per_hasher_seed, &self.shared_seed);
        hasher.write_u128(key);
        hasher.finish()
    }

    /// The set that a hash names first.
    #[inline]
    fn first_set(&self, hash: u64) -> usize {
        scale(hash, self.sets.len())
    }

    /// The set that a hash names second; now and then the same one.
    #[inline]
    fn second_set(&self, hash: u64) -> usize {
        // Fibonacci hashing: the high half of this product depends on all of the hash, the low half
        // of it above all.
        scale(hash.wrapping_mul(0x9e37_79b9_7f4a_7c15), self.sets.len())
    }

    /// Adds the packet to its flow where that takes more than [`Resident::add`]: its flow is new,
    /// stands elsewhere, or ends.
    #[inline(never)]
    fn update(&mut self, lookup: Lookup, arrival: &Arrival, sink: &mut impl RecordSink) {
        let (hash, key) = (lookup.hash, arrival.packet.key.to_bits());
        let Some(place) = self.find(lookup, key) else {
            return self.begin(hash, key, arrival, sink);
        };
        let resident = &mut self.residents[place.0];
        if !resident.add_any(arrival, &self.timeouts) {
            let reason = resident
                .due(arrival.at_ms, &self.timeouts)
                .unwrap_or(EndReason::CounterLimit);
            sink.push(resident.record(reason));
            *resident = Resident::new(key, arrival, &self.timeouts, resident.displaced);
            self.counters.expired[reason as usize] += 1;
            self.counters.created += 1;
        }
        self.dues.note(
            place.set(),
            place.way(),
            resident.due_ms(&self.timeouts),
            arrival.at_ms,
        );
    }

    /// Where the flow stands now, which an earlier packet of the burst may have changed.
    #[inline]
    fn find(&self, lookup: Lookup, key: u128) -> Option<Place> {
        let Lookup { hash, place } = lookup;
        if self.residents[place.0].holds(key) {
            return Some(place);
        }
        let first = self.first_set(hash);
        self.find_in(first, hash, key)
            .or_else(|| match self.sets[first].overflowed {
                0 => None,
                _ => self.find_in(self.second_set(hash), hash, key),
            })
    }

    #[inline]
    fn find_in(&self, set: usize, hash: u64, key: u128) -> Option<Place> {
        let mut places = self.sets[set]
            .ways_tagged(tag(hash))
            .map(|way| Place::new(set, way));
        places.find(|place| self.residents[place.0].holds(key))
    }

    /// Makes a flow of its first packet.
    #[inline]
    fn begin(&mut self, hash: u64, key: u128, arrival: &Arrival, sink: &mut impl RecordSink) {
        let Vacancy { place, noted_ms } = self.make_place(hash, arrival.at_ms, sink);
        let first = self.first_set(hash);
        let resident = Resident::new(key, arrival, &self.timeouts, place.set() != first);
        self.sets[place.set()].tags[place.way()] = tag(hash);
        self.dues.add(place.set());
        let due_ms = resident.due_ms(&self.timeouts);
        if due_ms < noted_ms {
            self.dues
                .note(place.set(), place.way(), due_ms, arrival.at_ms);
        }
        if resident.displaced {
            let overflowed = &mut self.sets[first].overflowed;
            *overflowed = overflowed.saturating_add(1);
        }
        self.residents[place.0] = resident;
        self.resident_count += 1;
        self.counters.created += 1;
    }

    /// A free place for a new flow, freed for it if need be by expiring a flow of its first set.
    ///
    /// The second set is chosen while the first is nearly full and fuller: so sets fill alike (two
    /// random choices), yet few look-ups need the second. Filled to what was asked for: 1 flow in
    /// 100 000 evicted at most, 13 % in their second set.
    #[inline]
    fn make_place(&mut self, hash: u64, now_ms: u64, sink: &mut impl RecordSink) -> Vacancy {
        let first = self.first_set(hash);
        let (mut set, mut free) = (first, self.sets[first].ways_free());
        if free.count() < NEARLY_FULL {
            let second = self.second_set(hash);
            let free_second = self.sets[second].ways_free();
            if free.count() < free_second.count() {
                (set, free) = (second, free_second);
            }
        }
        if let Some(way) = free.next() {
            return Vacancy {
                place: Place::new(set, way),
                noted_ms: u64::MAX,
            };
        }
        let place = self.who_makes_room(first, now_ms);
        let noted_ms = self.residents[place.0].due_ms(&self.timeouts);
        self.let_go(place, EndReason::LackOfResources, sink);
        self.sets[first].set_evicted(place.way());
        Vacancy { place, noted_ms }
    }

    /// The oldest flow of a neighbourhood that nobody would miss much; if there is none, that which
    /// was quiet longest. In a flood of flows that are one packet each that is the first one looked
    /// at.
    #[inline]
    fn who_makes_room(&self, set: usize, now_ms: u64) -> Place {
        let expendable = |place: &Place| self.residents[place.0].is_expendable(now_ms);
        let last_ms = |place: &Place| self.residents[place.0].last_ms;
        let found = self.neighbourhood(set).find(expendable);
        found
            .or_else(|| self.neighbourhood(set).min_by_key(last_ms))
            .unwrap_or_default()
    }

    /// The flows of a full set that are looked at when one has to make room, oldest first.
    #[inline]
    fn neighbourhood(&self, set: usize) -> impl Iterator<Item = Place> + use<> {
        self.sets[set]
            .ways_by_age()
            .take(NEIGHBOURS)
            .map(move |way| Place::new(set, way))
    }

    /// Expires what is due in these sets.
    #[inline]
    fn expire_sets(&mut self, sets: Range<usize>, now_ms: u64, sink: &mut impl RecordSink) {
        let mut set = sets.start;
        while set < sets.end {
            let unsure = self.hand.unsure > 0;
            let next = if unsure {
                Some(set)
            } else {
                self.dues.first_due(set..sets.end, now_ms)
            };
            let Some(first) = next else { return };
            let end = sets.end.min(Dues::group_end(first));
            self.expire_group(first..end, unsure, now_ms, sink);
            self.hand.unsure = self.hand.unsure.saturating_sub(end - first);
            set = end;
        }
    }

    /// Expires what is due in these sets of one group, whose records come from memory together.
    fn expire_group(
        &mut self,
        sets: Range<usize>,
        unsure: bool,
        now_ms: u64,
        sink: &mut impl RecordSink,
    ) {
        let first = sets.start;
        let (mut places, mut count) = ([Place::default(); 4 * STRIDE], 0);
        for set in sets {
            let due = if unsure {
                Ways::ALL
            } else {
                self.dues.ways_due(set, now_ms)
            };
            if due.count() == 0 {
                continue;
            }
            let taken = self.sets[set].ways_taken();
            self.dues.put_off(set, due.without(taken), now_ms);
            for way in due.and(taken) {
                if count == places.len() {
                    self.expire_places(&places, now_ms, sink);
                    count = 0;
                }
                places[count] = Place::new(set, way);
                self.residents.prefetch(places[count].0);
                count += 1;
            }
        }
        self.expire_places(&places[..count], now_ms, sink);
        self.dues.sum_up(first, now_ms);
    }

    /// Expires those flows of these that are due, and notes when the others will be.
    #[inline]
    fn expire_places(&mut self, places: &[Place], now_ms: u64, sink: &mut impl RecordSink) {
        for &place in places {
            let resident = &self.residents[place.0];
            match resident.due(now_ms, &self.timeouts) {
                Some(reason) => self.let_go(place, reason, sink),
                None => self.dues.note(
                    place.set(),
                    place.way(),
                    resident.due_ms(&self.timeouts),
                    now_ms,
                ),
            }
        }
    }

    /// Frees a place and sends its flow to `sink`.
    #[inline]
    fn let_go(&mut self, place: Place, reason: EndReason, sink: &mut impl RecordSink) {
        let resident = &mut self.residents[place.0];
        sink.push(resident.record(reason));
        resident.leave();
        let (key, displaced) = (resident.key, resident.displaced);
        self.sets[place.set()].tags[place.way()] = 0;
        self.dues.remove(place.set());
        if displaced {
            let first = self.first_set(self.hash(key));
            let overflowed = &mut self.sets[first].overflowed;
            debug_assert!(*overflowed > 0);
            // A counter that has ever been full has lost count, and stays: its only use is to be
            // zero or not.
            if *overflowed != u8::MAX {
                *overflowed -= 1;
            }
        }
        self.resident_count -= 1;
        self.counters.expired[reason as usize] += 1;
    }
}

/// Free places in a set below which a new flow may go to its second one.
const NEARLY_FULL: u32 = 5;
/// Flows that are looked at where one has to make room.
const NEIGHBOURS: usize = 5;

/// `hash`'s high half scaled to `0..count`, without a division.
#[inline]
fn scale(hash: u64, count: usize) -> usize {
    (((hash >> 32) * count as u64) >> 32) as usize
}

/// The hash's low 16 bits, which choose no first set; 0 is for free places.
#[inline]
fn tag(hash: u64) -> u16 {
    let [low, high, ..] = hash.to_le_bytes();
    u16::from_le_bytes([low, high]).max(1)
}

#[cfg(test)]
mod tests {
    use super::resident::share_of;
    use super::*;
    use crate::key::FlowKey;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::collections::HashMap;
    use std::net::Ipv4Addr;

    const TIMEOUTS: Timeouts = Timeouts {
        idle_ms: 1000,
        active_ms: 5000,
        linger_ms: 100,
        lifetime_spread_ms: 0,
    };

    fn cache(flows_max: usize) -> FlowCache {
        cache_with(flows_max, TIMEOUTS)
    }

    fn cache_with(flows_max: usize, timeouts: Timeouts) -> FlowCache {
        FlowCache::new(&CacheConfig {
            flows_max,
            timeouts,
            seed: 1,
            backing: Backing::OnDemand,
        })
        .unwrap()
    }

    fn arrival(flow: u32, octets: u32, tcp_flags: u8, at_ms: u64) -> Arrival {
        let key = FlowKey {
            source: Ipv4Addr::from_bits(flow),
            destination: Ipv4Addr::LOCALHOST,
            source_port: 1,
            destination_port: 2,
            protocol: 6,
            tos: 0,
            input: 3,
        };
        Arrival {
            packet: Packet {
                key,
                octets,
                tcp_flags,
                fragment: Fragment::Whole,
            },
            at_ms,
        }
    }

    fn observe(cache: &mut FlowCache, arrivals: &[Arrival]) -> Vec<FlowRecord> {
        let mut records = Vec::new();
        for burst in arrivals.chunks(BURST_MAX) {
            cache.observe(&mut burst.to_vec(), &mut records);
        }
        records
    }

    fn expire(cache: &mut FlowCache, now_ms: u64) -> Vec<FlowRecord> {
        let mut records = Vec::new();
        assert!(cache.expire(now_ms, usize::MAX, &mut records));
        records
    }

    /// A set never takes its flows to be due later than they are: else the hand would pass one that
    /// is due.
    fn assert_sets_know_what_is_due(cache: &FlowCache) {
        for place in cache.places_taken() {
            let due_ms = cache.residents[place.0].due_ms(&cache.timeouts);
            let (set, late_ms) = (place.set(), due_ms + HAND_ROUND_MS);
            assert_eq!(
                cache.dues.first_due(set..set + 1, late_ms),
                Some(set),
                "a flow is due at {due_ms}"
            );
            let noted = cache
                .dues
                .ways_due(set, late_ms)
                .any(|way| way == place.way());
            assert!(noted, "the flow is due at {due_ms}");
        }
    }

    #[test]
    fn packets_of_one_key_are_one_flow() {
        let mut cache = cache(100);
        let mut records = observe(
            &mut cache,
            &[
                arrival(1, 40, 2, 0),
                arrival(1, 1500, 16, 7),
                arrival(2, 40, 2, 8),
            ],
        );
        assert_eq!((records.len(), cache.len()), (0, 2));
        assert!(cache.drain(usize::MAX, &mut records));
        records.sort_by_key(|record| record.key.source);
        assert_eq!(records.len(), 2);
        let record = records[0];
        assert_eq!(
            (record.packets, record.octets, record.tcp_flags),
            (2, 1540, 18)
        );
        assert_eq!(
            (record.first_ms, record.last_ms, record.end),
            (0, 7, EndReason::Forced)
        );
        assert_eq!(record.key, arrival(1, 0, 0, 0).packet.key);
    }

    #[test]
    fn a_packet_after_the_timeout_begins_another_flow() {
        let mut cache = cache(100);
        let records = observe(
            &mut cache,
            &[
                arrival(1, 40, 0, 0),
                arrival(1, 40, 0, 999),
                arrival(1, 40, 0, 1999),
            ],
        );
        assert_eq!(records.len(), 1);
        assert_eq!(
            (records[0].end, records[0].packets, records[0].last_ms),
            (EndReason::Idle, 2, 999)
        );
    }

    #[test]
    fn a_long_flow_is_cut_by_the_active_timeout() {
        let mut cache = cache(100);
        let arrivals: Vec<_> = (0..12).map(|n| arrival(1, 40, 0, n * 500)).collect();
        let records = observe(&mut cache, &arrivals);
        assert_eq!(records.len(), 1);
        assert_eq!(
            (records[0].end, records[0].packets, records[0].last_ms),
            (EndReason::Active, 10, 4500)
        );
    }

    #[test]
    fn flows_that_began_together_end_apart_within_the_spread() {
        let timeouts = Timeouts {
            idle_ms: 5000,
            lifetime_spread_ms: 1000,
            ..TIMEOUTS
        };
        let mut cache = cache_with(20_000, timeouts);
        let arrivals: Vec<_> = (0..10_000).map(|flow| arrival(flow, 40, 0, 0)).collect();
        assert!(observe(&mut cache, &arrivals).is_empty());
        // The hand's round of half a second and its tick of 128 ms are in each of these counts.
        let ended: Vec<_> = (0..=60)
            .map(|tenth| expire(&mut cache, tenth * 100).len())
            .collect();
        assert_eq!(ended[..40].iter().sum::<usize>(), 0, "{ended:?}");
        assert!(ended.iter().all(|&count| count < 1500), "{ended:?}");
        assert_eq!(
            (
                ended.iter().sum::<usize>(),
                ended[58..].iter().sum::<usize>()
            ),
            (10_000, 0),
            "{ended:?}"
        );
    }

    #[test]
    fn fin_and_the_closing_ack_are_one_flow_that_lingers() {
        let mut cache = cache(100);
        observe(
            &mut cache,
            &[arrival(1, 40, 0x11, 0), arrival(1, 40, 0x10, 60)],
        );
        assert!(expire(&mut cache, 159).is_empty());
        // The hand needs its round of half a second to come by.
        let records: Vec<_> = (160..=660)
            .flat_map(|now_ms| expire(&mut cache, now_ms))
            .collect();
        assert_eq!(records.len(), 1);
        assert_eq!(
            (records[0].end, records[0].packets),
            (EndReason::EndOfFlow, 2)
        );
    }

    #[test]
    fn counters_are_cut_before_they_overflow() {
        let mut cache = cache(100);
        let records = observe(
            &mut cache,
            &[
                arrival(1, u32::MAX - 10, 0, 0),
                arrival(1, 10, 0, 1),
                arrival(1, 1, 0, 2),
            ],
        );
        assert_eq!(records.len(), 1);
        let record = records[0];
        assert_eq!(
            (record.end, record.octets, record.last_ms),
            (EndReason::CounterLimit, u32::MAX, 1)
        );
        assert_eq!(
            cache.resident(),
            Volume {
                packets: 1,
                octets: 1
            }
        );
    }

    /// A cache of one set that is full: flow n came n-th.
    fn full_cache(packets_each: u64) -> FlowCache {
        let mut cache = cache(1);
        assert_eq!(cache.capacity(), WAYS);
        let flows = (0..packets_each).flat_map(|_| 0..u32::try_from(WAYS).unwrap());
        let arrivals: Vec<_> = flows
            .zip(0..)
            .map(|(flow, at_ms)| arrival(flow, 40, 0, at_ms))
            .collect();
        assert!(observe(&mut cache, &arrivals).is_empty());
        cache
    }

    fn evicted_by(cache: &mut FlowCache, newcomer: Arrival) -> u32 {
        let records = observe(cache, &[newcomer]);
        assert_eq!((records.len(), cache.len()), (1, WAYS));
        assert_eq!(records[0].end, EndReason::LackOfResources);
        records[0].key.source.to_bits()
    }

    #[test]
    fn in_a_flood_the_oldest_flow_makes_room_and_one_that_goes_on_stays() {
        let mut cache = full_cache(1);
        // Flow 2 goes on all the time; the evicted way of a new set is its first, so the second is
        // the oldest.
        let mut evicted = Vec::new();
        for newcomer in 100..114 {
            observe(&mut cache, &[arrival(2, 40, 0, u64::from(newcomer))]);
            evicted.push(evicted_by(
                &mut cache,
                arrival(newcomer, 40, 0, u64::from(newcomer)),
            ));
        }
        assert_eq!(evicted, [1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 0]);
        assert_eq!(evicted_by(&mut cache, arrival(114, 40, 0, 114)), 100);
    }

    #[test]
    fn where_all_flows_go_on_that_makes_room_which_was_quiet_longest() {
        let mut cache = full_cache(2);
        // The five oldest are 1 to 5; all but 4 are heard of again.
        let again: Vec<_> = [1, 2, 3, 5].map(|flow| arrival(flow, 40, 0, 100)).into();
        observe(&mut cache, &again);
        assert_eq!(evicted_by(&mut cache, arrival(100, 40, 0, 101)), 4);
    }

    #[test]
    fn a_flow_that_was_quiet_for_a_second_makes_room_before_one_that_was_not() {
        let mut cache = full_cache(2);
        let again: Vec<_> = (0..13)
            .filter(|&flow| flow != 3)
            .map(|flow| arrival(flow, 40, 0, 900))
            .collect();
        observe(&mut cache, &again);
        assert_eq!(
            evicted_by(
                &mut cache,
                Arrival {
                    at_ms: 1_020,
                    ..arrival(100, 40, 0, 0)
                }
            ),
            3
        );
    }

    #[test]
    fn later_fragments_join_the_flow_of_their_first() {
        let mut cache = cache(100);
        let (mut first, mut later) = (arrival(1, 1500, 0, 0), arrival(1, 900, 0, 1));
        first.packet.fragment = Fragment::First(7);
        later.packet.fragment = Fragment::Later(7);
        (
            later.packet.key.source_port,
            later.packet.key.destination_port,
        ) = (0, 0);
        observe(&mut cache, &[first, later]);
        assert_eq!(
            (cache.len(), cache.resident()),
            (
                1,
                Volume {
                    packets: 2,
                    octets: 2400
                }
            )
        );
    }

    #[test]
    fn the_hand_is_bounded_and_says_when_it_is_behind() {
        let mut cache = cache(1000);
        let sets = cache.set_count();
        let mut records = Vec::new();
        assert!(cache.expire(0, 10, &mut records));
        assert!(!cache.expire(HAND_ROUND_MS, sets - 1, &mut records));
        assert!(cache.expire(HAND_ROUND_MS, 1, &mut records));
        assert!(cache.expire(HAND_ROUND_MS, 0, &mut records));
    }

    #[test]
    fn nearly_as_many_flows_fit_as_were_asked_for() {
        let mut cache = cache(100_000);
        let arrivals: Vec<_> = (0..100_000).map(|flow| arrival(flow, 40, 0, 0)).collect();
        let evicted = observe(&mut cache, &arrivals).len();
        assert!(evicted <= 10, "{evicted} of 100 000 evicted");
    }

    /// The cache as RFC 5470 would have it: a map, and nothing clever.
    #[derive(Default)]
    struct Oracle {
        lifetime_spread_ms: u64,
        flows: HashMap<u128, FlowRecord>,
        ended: Vec<FlowRecord>,
    }

    impl Oracle {
        fn observe(&mut self, arrival: &Arrival) {
            let key = arrival.packet.key;
            self.end_due(arrival.at_ms, Some(key.to_bits()));
            let flow = self.flows.entry(key.to_bits()).or_insert(FlowRecord {
                key,
                packets: 0,
                octets: 0,
                first_ms: arrival.at_ms,
                last_ms: arrival.at_ms,
                tcp_flags: 0,
                end: EndReason::Forced,
            });
            flow.packets += 1;
            flow.octets += arrival.packet.octets;
            flow.last_ms = arrival.at_ms;
            flow.tcp_flags |= arrival.packet.tcp_flags;
        }

        fn end_due(&mut self, now_ms: u64, only: Option<u128>) {
            let (ended, spread_ms) = (&mut self.ended, self.lifetime_spread_ms);
            self.flows.retain(|&key, flow| {
                let closing = flow.tcp_flags & 5 != 0;
                let quiet = flow.last_ms
                    + if closing {
                        TIMEOUTS.linger_ms
                    } else {
                        TIMEOUTS.idle_ms
                    };
                let active = flow.first_ms + TIMEOUTS.active_ms - share_of(spread_ms, key);
                if only.is_some_and(|only| only != key) || now_ms < quiet.min(active) {
                    return true;
                }
                let quiet_reason = if closing {
                    EndReason::EndOfFlow
                } else {
                    EndReason::Idle
                };
                ended.push(FlowRecord {
                    end: if quiet <= active {
                        quiet_reason
                    } else {
                        EndReason::Active
                    },
                    ..*flow
                });
                false
            });
        }
    }

    fn sorted(mut records: Vec<FlowRecord>) -> Vec<FlowRecord> {
        records.sort_by_key(|record| (record.first_ms, record.key.to_bits()));
        records
    }

    fn any_arrivals() -> impl Strategy<Value = Vec<Arrival>> {
        arrivals_of(40)
    }

    fn arrivals_of(flows: u32) -> impl Strategy<Value = Vec<Arrival>> {
        let flags = prop_oneof![9 => Just(0x10u8), 1 => Just(0x11u8), 1 => Just(0x04u8)];
        vec((0..flows, 20u32..2000, flags, 0u64..300), 0..400).prop_map(|steps| {
            let mut now_ms = 0;
            let step = |(flow, octets, flags, pause_ms)| {
                now_ms += pause_ms;
                arrival(flow, octets, flags, now_ms)
            };
            steps.into_iter().map(step).collect()
        })
    }

    proptest! {
        /// With room for every flow the cache cuts traffic into the very records that a map would.
        #[test]
        fn the_cache_equals_a_map(arrivals in any_arrivals(), seed in any::<u64>(), burst in 1usize..64) {
            let mut oracle = Oracle::default();
            let config = CacheConfig { flows_max: 1000, timeouts: TIMEOUTS, seed, backing: Backing::OnDemand };
            let mut cache = FlowCache::new(&config).unwrap();
            let mut records = Vec::new();
            for arrivals in arrivals.chunks(burst) {
                cache.observe(&mut arrivals.to_vec(), &mut records);
                arrivals.iter().for_each(|arrival| oracle.observe(arrival));
                let now_ms = arrivals.last().map_or(0, |arrival| arrival.at_ms);
                cache.expire(now_ms, usize::MAX, &mut records);
            }
            // Long after the last packet all is due, in both.
            oracle.end_due(u64::MAX / 2, None);
            cache.expire(u64::MAX / 4, 0, &mut records);
            cache.expire(u64::MAX / 2, usize::MAX, &mut records);
            prop_assert!(cache.is_empty());
            prop_assert_eq!(sorted(records), sorted(oracle.ended));
        }

        /// The same with few flows, which go on for long, and lifetimes that are spread.
        #[test]
        fn a_cache_that_spreads_lifetimes_equals_a_map(arrivals in arrivals_of(4), spread_ms in 0u64..=4000) {
            let mut oracle = Oracle { lifetime_spread_ms: spread_ms, ..Oracle::default() };
            let mut cache = cache_with(1000, Timeouts { lifetime_spread_ms: spread_ms, ..TIMEOUTS });
            let mut records = Vec::new();
            for arrival in &arrivals {
                records.extend(observe(&mut cache, &[*arrival]));
                oracle.observe(arrival);
            }
            oracle.end_due(u64::MAX / 2, None);
            cache.expire(u64::MAX / 4, 0, &mut records);
            cache.expire(u64::MAX / 2, usize::MAX, &mut records);
            for record in records.iter().filter(|record| record.end == EndReason::Active) {
                prop_assert!(record.last_ms - record.first_ms < TIMEOUTS.active_ms);
            }
            prop_assert_eq!(sorted(records), sorted(oracle.ended));
        }

        /// Whatever the key and the spread, a share is no more than the whole.
        #[test]
        fn a_share_is_at_most_the_spread(spread_ms in 0u64..=1 << 31, key in any::<u128>()) {
            prop_assert!(share_of(spread_ms, key) <= spread_ms);
        }

        /// Whatever the traffic, timeouts and capacity, each packet observed is in a record or
        /// resident, and once.
        #[test]
        fn no_packet_is_lost_or_counted_twice(arrivals in any_arrivals(), flows_max in 1usize..60, seed in any::<u64>()) {
            let config = CacheConfig { flows_max, timeouts: TIMEOUTS, seed, backing: Backing::OnDemand };
            let mut cache = FlowCache::new(&config).unwrap();
            let mut records = Vec::new();
            let mut offered = Volume::default();
            for arrival in &arrivals {
                cache.observe(&mut [*arrival], &mut records);
                cache.expire(arrival.at_ms, 1, &mut records);
                assert_sets_know_what_is_due(&cache);
                offered += Volume { packets: 1, octets: arrival.packet.octets.into() };
                let mut exported = Volume::default();
                records.iter().for_each(|record| exported.add_record(record));
                prop_assert_eq!(exported + cache.resident(), offered);
                prop_assert_eq!(cache.counters().observed, offered);
            }
            prop_assert_eq!(cache.counters().created, cache.counters().expired_total() + cache.len() as u64);
            prop_assert!(cache.drain(usize::MAX, &mut records));
            prop_assert_eq!(cache.counters().expired_total(), records.len() as u64);
            prop_assert!(cache.sets.iter().all(|set| set.overflowed == 0 && set.ways_taken().next().is_none()));
            prop_assert!(cache.places_taken().next().is_none());
        }

        /// Expiry is never early, and with a turn at least every 100 ms never later than a second.
        #[test]
        fn expiry_is_never_early_and_never_a_second_late(
            arrivals in any_arrivals(), turn_ms in 1u64..=100, flows_max in 15usize..3000,
        ) {
            let mut cache = cache(flows_max);
            let mut records = Vec::new();
            let end_ms = arrivals.last().map_or(0, |arrival| arrival.at_ms) + 2500;
            let mut arrivals = arrivals.into_iter().peekable();
            let mut now_ms = 0;
            while now_ms <= end_ms {
                while let Some(arrival) = arrivals.next_if(|arrival| arrival.at_ms <= now_ms) {
                    cache.observe(&mut [arrival], &mut records);
                }
                records.clear();
                cache.expire(now_ms, usize::MAX, &mut records);
                for record in &records {
                    let closing = record.tcp_flags & 5 != 0;
                    let quiet = record.last_ms + if closing { TIMEOUTS.linger_ms } else { TIMEOUTS.idle_ms };
                    let due_ms = quiet.min(record.first_ms + TIMEOUTS.active_ms);
                    prop_assert!(due_ms <= now_ms && now_ms < due_ms + 1000, "due {due_ms}, expired {now_ms}");
                }
                now_ms += turn_ms;
            }
            prop_assert!(cache.is_empty());
        }
    }
}
