//! The flow cache: every resident flow of one queue, in memory that is set at the start.
//!
//! The table is set-associative, like a processor's cache. A flow's hash names two sets of 15 places each and a 16-bit tag;
//! a set's tags share half a cache line, so a look-up reads that half line and then, nearly always, one record. There is no
//! chain to walk, no tombstone and no rehash: every operation is bounded by two sets, whatever the traffic. When both sets
//! of a new flow are full, the flow of the first that has been quiet longest is expired for lack of resources.
//!
//! A flow is due when it has been idle, active or lingering for long enough. The first to notice expires it: the clock
//! [hand](FlowCache::expire), which passes every place twice a second, or the packet that comes too late to belong to it.

use crate::decode::Packet;
use crate::fragment::{Fragment, FragmentTable};
use crate::key::FlowKey;
use crate::memory::{Backing, PageSize, Table, equal_lanes, prefetch};
use crate::record::{EndReason, FlowRecord, RecordSink};
use foldhash::SharedSeed;
use foldhash::quality::FoldHasher;
use std::hash::Hasher;
use std::io;
use std::ops::Range;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// The most packets that one call of [`FlowCache::observe`] takes.
pub const BURST_MAX: usize = 256;

/// How long flows stay, in ms.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Timeouts {
    /// A flow without a packet for this long is expired.
    pub idle_ms: u64,
    /// A flow that has gone on for this long is expired, and its next packet begins another.
    pub active_ms: u64,
    /// The idle timeout of a flow that has shown FIN or RST.
    pub linger_ms: u64,
    /// Each flow's active timeout is shorter by a share of this that depends on its key alone, so that flows which began
    /// together do not all end together. At most the active timeout.
    pub lifetime_spread_ms: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { idle_ms: 15_000, active_ms: 60_000, linger_ms: 1_000, lifetime_spread_ms: 0 }
    }
}

/// What a cache is made from.
#[derive(Clone, Copy, Debug)]
pub struct CacheConfig {
    /// Flows that fit with hardly any having to make room for another (1 in 100 000). There are a fifth more places than
    /// that, since hashing never fills all sets alike.
    pub flows_max: usize,
    /// How long flows stay.
    pub timeouts: Timeouts,
    /// Seed of the hash. Random where somebody could choose keys; fixed where the same input must give the same output.
    pub seed: u64,
    /// When its memory is made.
    pub backing: Backing,
}

/// Packets and their layer-3 octets.
#[derive(Clone, Copy, Debug, Default, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq)]
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
        Self { packets: self.packets + other.packets, octets: self.octets + other.octets }
    }
}

impl std::ops::Sub for Volume {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self { packets: self.packets - other.packets, octets: self.octets - other.octets }
    }
}

impl std::ops::AddAssign for Volume {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

/// What a cache has done since it was made.
#[derive(Clone, Copy, Debug, Default, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq)]
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
    /// Which sets hold a flow: the hand passes 64 empty ones at a glance.
    occupied: SetMap,
    fragments: FragmentTable,
    timeouts: Timeouts,
    per_hasher_seed: u64,
    shared_seed: SharedSeed,
    hand: Hand,
    resident_count: usize,
    counters: CacheCounters,
    /// The look-ups of the burst under way.
    lookups: Box<[Lookup; BURST_MAX]>,
}

/// How far the look-up of a packet's flow has come.
#[derive(Clone, Copy, Default)]
struct Lookup {
    key: u128,
    hash: u64,
    /// Where the flow probably stands; if it does not, it is looked for again.
    place: Place,
    /// Only the second set can tell.
    second: bool,
}

/// Places in a set: 15 tags and one counter are half a cache line.
const WAYS: usize = 15;

/// The tags of one set. The record of way `w` in set `s` stands at `residents[s * WAYS + w]`.
#[derive(Clone, Copy, FromZeros)]
#[repr(C, align(32))]
struct Set {
    /// For each way part of the hash of its resident, or 0 where the place is free. Then, as the sixteenth, how many residents
    /// have this as their first set but stand in their second: only while there are any is that one looked at.
    tags: [u16; WAYS + 1],
}

/// A flow in its place: one cache line.
#[derive(Clone, Copy, FromZeros)]
#[repr(C, align(64))]
struct Resident {
    key: u128,
    first_ms: u64,
    last_ms: u64,
    packets: u32,
    octets: u32,
    tcp_flags: u8,
}

const _: () = assert!(size_of::<Set>() == 32 && size_of::<Resident>() == 64);

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
}

/// Time in which the clock hand passes every place once, in ms. With the turn that notices, nothing is later than a second.
pub const HAND_ROUND_MS: u64 = 500;

/// The place of a flow.
#[derive(Clone, Copy, Default)]
struct Place {
    set: usize,
    way: usize,
}

impl Place {
    #[inline]
    fn index(self) -> usize {
        self.set * WAYS + self.way
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
            occupied: SetMap::new(sets),
            fragments: FragmentTable::new(),
            // The linger is an idle timeout too, and the shorter one counts.
            timeouts: Timeouts { linger_ms: config.timeouts.linger_ms.min(config.timeouts.idle_ms), ..config.timeouts },
            per_hasher_seed: config.seed,
            shared_seed: SharedSeed::from_u64(config.seed.rotate_left(32)),
            hand: Hand::default(),
            resident_count: 0,
            counters: CacheCounters::default(),
            lookups: Box::new([Lookup::default(); BURST_MAX]),
        })
    }

    /// Adds each packet to its flow. Flows that end by it (their timeout was over, a counter would overflow, their place was
    /// needed) go to `sink`. Later fragments are given their ports first.
    ///
    /// The burst goes through in stages so that its cache misses overlap: hash all and ask for their tags, look at all tags
    /// and ask for the records (or for the tags of the second set, and then for the records), then update.
    ///
    /// # Panics
    ///
    /// If there are more than [`BURST_MAX`] arrivals.
    pub fn observe(&mut self, arrivals: &mut [Arrival], sink: &mut impl RecordSink) {
        assert!(arrivals.len() <= BURST_MAX, "a burst of {} packets, wanted at most {BURST_MAX}", arrivals.len());
        let mut observed = Volume { packets: arrivals.len() as u64, octets: 0 };
        for (slot, Arrival { packet, at_ms }) in arrivals.iter_mut().enumerate() {
            if packet.fragment != Fragment::Whole {
                self.fragments.resolve(&mut packet.key, packet.fragment, *at_ms);
            }
            let key = packet.key.to_bits();
            let hash = self.hash(key);
            prefetch(&self.sets[self.first_set(hash)]);
            self.lookups[slot] = Lookup { key, hash, ..Lookup::default() };
            observed.octets += u64::from(packet.octets);
        }
        self.counters.observed += observed;
        let mut seconds = 0;
        for slot in 0..arrivals.len() {
            let Lookup { hash, .. } = self.lookups[slot];
            let set = self.first_set(hash);
            let tags = &self.sets[set];
            let lookup = &mut self.lookups[slot];
            if let Some(way) = tags.ways_tagged(tag(hash)).next() {
                lookup.place = Place { set, way };
            } else if tags.overflowed() == 0 {
                // A new flow will take a free place of its first set, if there is one.
                lookup.place = Place { set, way: tags.ways_tagged(0).next().unwrap_or(0) };
            } else {
                let set = self.second_set(hash);
                prefetch(&self.sets[set]);
                self.lookups[slot].place = Place { set, way: 0 };
                self.lookups[slot].second = true;
                seconds += 1;
                continue;
            }
            prefetch(&self.residents[lookup.place.index()]);
        }
        if seconds > 0 {
            for lookup in self.lookups[..arrivals.len()].iter_mut().filter(|lookup| lookup.second) {
                let second = &self.sets[lookup.place.set];
                if let Some(way) = second.ways_tagged(tag(lookup.hash)).next() {
                    lookup.place.way = way;
                    prefetch(&self.residents[lookup.place.index()]);
                } else if second.is_full() {
                    // A new flow, and probably one of these will make room for it.
                    let set = scale(lookup.hash, self.sets.len());
                    let neighbours = Place { set, way: 0 }.index()..Place { set, way: WAYS }.index();
                    self.residents[neighbours].iter().for_each(prefetch);
                }
            }
        }
        for (slot, arrival) in arrivals.iter().enumerate() {
            self.update(self.lookups[slot], arrival, sink);
        }
    }

    /// Lets the clock hand go on to where it should be at `now_ms`, past at most `sets_max` sets, and sends what is due to
    /// `sink`. Returns whether it got there: if not, the caller comes back before it sleeps.
    ///
    /// Nothing is expired before it is due, and nothing later than half a second after, if this is called often enough.
    pub fn expire(&mut self, now_ms: u64, sets_max: usize, sink: &mut impl RecordSink) -> bool {
        let round = self.sets.len() as u64;
        let elapsed_ms = now_ms.saturating_sub(self.hand.paid_ms);
        // After a long absence one full round is all that is owed.
        let paid = elapsed_ms.min(HAND_ROUND_MS) * round + self.hand.remainder;
        self.hand.paid_ms = self.hand.paid_ms.max(now_ms);
        self.hand.remainder = paid % HAND_ROUND_MS;
        self.hand.owed = (self.hand.owed + paid / HAND_ROUND_MS).min(round);
        let visits = usize::try_from(self.hand.owed).unwrap_or(usize::MAX).min(sets_max);
        self.hand.owed -= visits as u64;
        let mut left = visits;
        while left > 0 {
            let start = self.hand.set;
            let end = self.sets.len().min(start + left);
            let mut next = self.occupied.first_in(start..end);
            while let Some(set) = next {
                self.expire_set(set, now_ms, sink);
                next = self.occupied.first_in(set + 1..end);
            }
            self.hand.set = end % self.sets.len();
            left -= end - start;
        }
        self.hand.owed == 0
    }

    /// When the first of the resident flows falls due if no packet comes, in ms; looked up flow by flow, so not cheap.
    #[must_use]
    pub fn earliest_due_ms(&self) -> Option<u64> {
        self.places_taken().map(|place| self.residents[place.index()].due_ms(&self.timeouts)).min()
    }

    /// Expires up to `sets_max` sets of flows, due or not, and returns whether the cache is empty.
    pub fn drain(&mut self, sets_max: usize, sink: &mut impl RecordSink) -> bool {
        for _ in 0..sets_max {
            if self.resident_count == 0 {
                return true;
            }
            let set = self.hand.set;
            for way in self.sets[set].ways_taken() {
                self.let_go(Place { set, way }, EndReason::Forced, sink);
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

    /// Sets that the places are divided into: what [`expire`](Self::expire) and [`drain`](Self::drain) count in.
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

    /// What the resident flows hold, counted flow by flow: the ledger's check on the running counters, not cheap.
    #[must_use]
    pub fn resident(&self) -> Volume {
        let mut volume = Volume::default();
        for place in self.places_taken() {
            let resident = &self.residents[place.index()];
            volume += Volume { packets: resident.packets.into(), octets: resident.octets.into() };
        }
        volume
    }

    fn places_taken(&self) -> impl Iterator<Item = Place> {
        let sets = std::iter::successors(self.occupied.first_in(0..self.sets.len()), |&set| {
            self.occupied.first_in(set + 1..self.sets.len())
        });
        sets.flat_map(|set| self.sets[set].ways_taken().map(move |way| Place { set, way }))
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
        // Fibonacci hashing: the high half of this product depends on all of the hash, the low half of it above all.
        scale(hash.wrapping_mul(0x9e37_79b9_7f4a_7c15), self.sets.len())
    }

    #[inline]
    fn update(&mut self, lookup: Lookup, arrival: &Arrival, sink: &mut impl RecordSink) {
        let Lookup { key, hash, place, .. } = lookup;
        let found = if self.holds(place, hash, key) { Some(place) } else { self.find(hash, key) };
        let Some(place) = found else { return self.begin(key, hash, arrival, sink) };
        let resident = &mut self.residents[place.index()];
        if !resident.is_due(arrival.at_ms, &self.timeouts) && resident.add(arrival).is_ok() {
            return;
        }
        let reason = resident.due(arrival.at_ms, &self.timeouts).unwrap_or(EndReason::CounterLimit);
        sink.push(resident.record(reason));
        *resident = Resident::new(key, arrival);
        self.counters.expired[reason as usize] += 1;
        self.counters.created += 1;
    }

    /// Makes a flow of its first packet.
    fn begin(&mut self, key: u128, hash: u64, arrival: &Arrival, sink: &mut impl RecordSink) {
        let place = self.make_place(hash, sink);
        self.residents[place.index()] = Resident::new(key, arrival);
        self.resident_count += 1;
        self.counters.created += 1;
    }

    /// Whether the flow stands in this place now: an earlier packet of the burst may have freed it.
    #[inline]
    fn holds(&self, place: Place, hash: u64, key: u128) -> bool {
        self.sets[place.set].tags[place.way] == tag(hash) && self.residents[place.index()].key == key
    }

    fn find(&self, hash: u64, key: u128) -> Option<Place> {
        let first = self.first_set(hash);
        if let Some(place) = self.find_in(first, hash, key) {
            return Some(place);
        }
        if self.sets[first].overflowed() == 0 { None } else { self.find_in(self.second_set(hash), hash, key) }
    }

    #[inline]
    fn find_in(&self, set: usize, hash: u64, key: u128) -> Option<Place> {
        let mut places = self.sets[set].ways_tagged(tag(hash)).map(|way| Place { set, way });
        places.find(|place| self.residents[place.index()].key == key)
    }

    /// A place tagged for a new flow: free, or freed by expiring the flow of its first set that was quiet longest.
    ///
    /// The second set is chosen while the first is nearly full and fuller: so sets fill alike (two random choices), yet few
    /// look-ups need the second. Filled to what was asked for: 1 flow in 100 000 evicted, 13 % in their second set.
    fn make_place(&mut self, hash: u64, sink: &mut impl RecordSink) -> Place {
        const NEARLY_FULL: u32 = 5;
        let (first, second) = (self.first_set(hash), self.second_set(hash));
        let (free, free_second) = (self.sets[first].ways_tagged(0), self.sets[second].ways_tagged(0));
        let (set, mut free) = if free.count() < NEARLY_FULL && free.count() < free_second.count() {
            (second, free_second)
        } else {
            (first, free)
        };
        let place = free.next().map(|way| Place { set, way }).unwrap_or_else(|| {
            let oldest = self.quiet_longest(first);
            self.let_go(oldest, EndReason::LackOfResources, sink);
            oldest
        });
        self.sets[place.set].tags[place.way] = tag(hash);
        self.occupied.insert(place.set);
        if place.set != first {
            let overflowed = self.sets[first].overflowed_mut();
            *overflowed = overflowed.saturating_add(1);
        }
        place
    }

    fn quiet_longest(&self, set: usize) -> Place {
        let last_ms = |way: &usize| self.residents[Place { set, way: *way }.index()].last_ms;
        Place { set, way: (0..WAYS).min_by_key(last_ms).unwrap_or(0) }
    }

    #[inline]
    fn expire_set(&mut self, set: usize, now_ms: u64, sink: &mut impl RecordSink) {
        for way in self.sets[set].ways_taken() {
            let place = Place { set, way };
            if let Some(reason) = self.residents[place.index()].due(now_ms, &self.timeouts) {
                self.let_go(place, reason, sink);
            }
        }
    }

    /// Frees a place and sends its flow to `sink`.
    fn let_go(&mut self, place: Place, reason: EndReason, sink: &mut impl RecordSink) {
        let resident = &self.residents[place.index()];
        sink.push(resident.record(reason));
        let first = self.first_set(self.hash(resident.key));
        self.sets[place.set].tags[place.way] = 0;
        if self.sets[place.set].ways_taken().next().is_none() {
            self.occupied.remove(place.set);
        }
        // A counter that has ever been full has lost count, and stays: its only use is to be zero or not.
        let overflowed = self.sets[first].overflowed_mut();
        if place.set != first && *overflowed != u16::MAX {
            debug_assert!(*overflowed > 0);
            *overflowed -= 1;
        }
        self.resident_count -= 1;
        self.counters.expired[reason as usize] += 1;
    }
}

/// One bit for each set.
struct SetMap(Box<[u64]>);

impl SetMap {
    fn new(sets: usize) -> Self {
        Self(vec![0; sets.div_ceil(64)].into())
    }

    #[inline]
    fn insert(&mut self, set: usize) {
        self.0[set / 64] |= 1 << (set % 64);
    }

    #[inline]
    fn remove(&mut self, set: usize) {
        self.0[set / 64] &= !(1 << (set % 64));
    }

    /// The first set of `range` that is in the map.
    #[inline]
    fn first_in(&self, range: Range<usize>) -> Option<usize> {
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

impl Set {
    /// The ways whose tag is `tag`.
    #[inline]
    fn ways_tagged(&self, tag: u16) -> Ways {
        Ways(equal_lanes(&self.tags, tag) & ((1 << WAYS) - 1))
    }

    /// Residents that stand in their second set although this is their first.
    #[inline]
    fn overflowed(&self) -> u16 {
        self.tags[WAYS]
    }

    #[inline]
    fn overflowed_mut(&mut self) -> &mut u16 {
        &mut self.tags[WAYS]
    }

    /// Whether there is no free place.
    #[inline]
    fn is_full(&self) -> bool {
        self.ways_tagged(0).count() == 0
    }

    /// The ways that hold a flow.
    #[inline]
    fn ways_taken(&self) -> Ways {
        Ways(!self.ways_tagged(0).0 & ((1 << WAYS) - 1))
    }
}

/// Ways of a set, lowest first: one bit each.
#[derive(Clone, Copy)]
struct Ways(u16);

impl Ways {
    #[inline]
    fn count(self) -> u32 {
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

/// A share from 0 to all of `spread_ms` that a key has for good: no seed is in it, so that a flow on two queues and the next
/// run of a file have the same.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "both halves of the key are folded into 64 bits")]
fn share_of(spread_ms: u64, key: u128) -> u64 {
    let folded = (key >> 64) as u64 ^ (key as u64).rotate_left(32);
    // The finisher of MurmurHash3: each bit of the key changes about half of the result's.
    let mixed = (folded ^ folded >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let mixed = (mixed ^ mixed >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    ((mixed >> 32) * (spread_ms + 1)) >> 32
}

/// The packet does not fit into a flow's 32-bit counters any more.
struct CounterLimit;

impl Resident {
    #[inline]
    fn new(key: u128, arrival: &Arrival) -> Self {
        Self {
            key,
            first_ms: arrival.at_ms,
            last_ms: arrival.at_ms,
            packets: 1,
            octets: arrival.packet.octets,
            tcp_flags: arrival.packet.tcp_flags,
        }
    }

    #[inline]
    fn add(&mut self, arrival: &Arrival) -> Result<(), CounterLimit> {
        let packets = self.packets.checked_add(1).ok_or(CounterLimit)?;
        let octets = self.octets.checked_add(arrival.packet.octets).ok_or(CounterLimit)?;
        (self.packets, self.octets) = (packets, octets);
        self.last_ms = self.last_ms.max(arrival.at_ms);
        self.tcp_flags |= arrival.packet.tcp_flags;
        Ok(())
    }

    /// Whether it ought to be let go at `now_ms`.
    #[inline]
    fn is_due(&self, now_ms: u64, timeouts: &Timeouts) -> bool {
        // A flow's share of the spread is worked out only where it decides, and that is hardly ever.
        let (quiet_until_ms, active_until_ms) = self.limits_ms(timeouts, timeouts.lifetime_spread_ms);
        now_ms >= quiet_until_ms.min(active_until_ms) && now_ms >= self.due_ms(timeouts)
    }

    /// The timeout that was over first at `now_ms`, if any was.
    fn due(&self, now_ms: u64, timeouts: &Timeouts) -> Option<EndReason> {
        if !self.is_due(now_ms, timeouts) {
            return None;
        }
        let (quiet_until_ms, active_until_ms) = self.limits_ms(timeouts, self.early_ms(timeouts));
        Some(match (quiet_until_ms <= active_until_ms, self.is_closing()) {
            (true, true) => EndReason::EndOfFlow,
            (true, false) => EndReason::Idle,
            (false, _) => EndReason::Active,
        })
    }

    /// When it is due if no packet comes.
    #[inline]
    fn due_ms(&self, timeouts: &Timeouts) -> u64 {
        let (quiet_until_ms, active_until_ms) = self.limits_ms(timeouts, self.early_ms(timeouts));
        quiet_until_ms.min(active_until_ms)
    }

    /// When it has been quiet, and active, for long enough, if its active timeout is over `early_ms` early.
    #[inline]
    fn limits_ms(&self, timeouts: &Timeouts, early_ms: u64) -> (u64, u64) {
        let quiet_ms = if self.is_closing() { timeouts.linger_ms } else { timeouts.idle_ms };
        (self.last_ms + quiet_ms, self.first_ms + (timeouts.active_ms - early_ms))
    }

    /// Its share of the spread: from 0 to all of it, as its key has it.
    #[inline]
    fn early_ms(&self, timeouts: &Timeouts) -> u64 {
        share_of(timeouts.lifetime_spread_ms, self.key)
    }

    /// Whether a FIN or RST was seen (RFC 9293, section 3.1).
    #[inline]
    fn is_closing(&self) -> bool {
        const FIN_OR_RST: u8 = 0x05;
        self.tcp_flags & FIN_OR_RST != 0
    }

    #[inline]
    fn record(&self, end: EndReason) -> FlowRecord {
        FlowRecord {
            key: FlowKey::from_bits(self.key),
            packets: self.packets,
            octets: self.octets,
            first_ms: self.first_ms,
            last_ms: self.last_ms,
            tcp_flags: self.tcp_flags,
            end,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::collections::HashMap;
    use std::net::Ipv4Addr;

    const TIMEOUTS: Timeouts = Timeouts { idle_ms: 1000, active_ms: 5000, linger_ms: 100, lifetime_spread_ms: 0 };

    fn cache(flows_max: usize) -> FlowCache {
        cache_with(flows_max, TIMEOUTS)
    }

    fn cache_with(flows_max: usize, timeouts: Timeouts) -> FlowCache {
        FlowCache::new(&CacheConfig { flows_max, timeouts, seed: 1, backing: Backing::OnDemand }).unwrap()
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
        Arrival { packet: Packet { key, octets, tcp_flags, fragment: Fragment::Whole }, at_ms }
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

    #[test]
    fn packets_of_one_key_are_one_flow() {
        let mut cache = cache(100);
        let mut records = observe(&mut cache, &[arrival(1, 40, 2, 0), arrival(1, 1500, 16, 7), arrival(2, 40, 2, 8)]);
        assert_eq!((records.len(), cache.len()), (0, 2));
        assert!(cache.drain(usize::MAX, &mut records));
        records.sort_by_key(|record| record.key.source);
        assert_eq!(records.len(), 2);
        let record = records[0];
        assert_eq!((record.packets, record.octets, record.tcp_flags), (2, 1540, 18));
        assert_eq!((record.first_ms, record.last_ms, record.end), (0, 7, EndReason::Forced));
        assert_eq!(record.key, arrival(1, 0, 0, 0).packet.key);
    }

    #[test]
    fn a_packet_after_the_timeout_begins_another_flow() {
        let mut cache = cache(100);
        let records = observe(&mut cache, &[arrival(1, 40, 0, 0), arrival(1, 40, 0, 999), arrival(1, 40, 0, 1999)]);
        assert_eq!(records.len(), 1);
        assert_eq!((records[0].end, records[0].packets, records[0].last_ms), (EndReason::Idle, 2, 999));
    }

    #[test]
    fn a_long_flow_is_cut_by_the_active_timeout() {
        let mut cache = cache(100);
        let arrivals: Vec<_> = (0..12).map(|n| arrival(1, 40, 0, n * 500)).collect();
        let records = observe(&mut cache, &arrivals);
        assert_eq!(records.len(), 1);
        assert_eq!((records[0].end, records[0].packets, records[0].last_ms), (EndReason::Active, 10, 4500));
    }

    #[test]
    fn flows_that_began_together_end_apart_within_the_spread() {
        let timeouts = Timeouts { idle_ms: 5000, lifetime_spread_ms: 1000, ..TIMEOUTS };
        let mut cache = cache_with(20_000, timeouts);
        let arrivals: Vec<_> = (0..10_000).map(|flow| arrival(flow, 40, 0, 0)).collect();
        assert!(observe(&mut cache, &arrivals).is_empty());
        // The hand's round of half a second is in each of these counts.
        let ended: Vec<_> = (0..=60).map(|tenth| expire(&mut cache, tenth * 100).len()).collect();
        assert_eq!(ended[..40].iter().sum::<usize>(), 0, "{ended:?}");
        assert!(ended.iter().all(|&count| count < 1500), "{ended:?}");
        assert_eq!((ended.iter().sum::<usize>(), ended[56..].iter().sum::<usize>()), (10_000, 0), "{ended:?}");
    }

    #[test]
    fn fin_and_the_closing_ack_are_one_flow_that_lingers() {
        let mut cache = cache(100);
        observe(&mut cache, &[arrival(1, 40, 0x11, 0), arrival(1, 40, 0x10, 60)]);
        assert!(expire(&mut cache, 159).is_empty());
        // The hand needs its round of half a second to come by.
        let records: Vec<_> = (160..=660).flat_map(|now_ms| expire(&mut cache, now_ms)).collect();
        assert_eq!(records.len(), 1);
        assert_eq!((records[0].end, records[0].packets), (EndReason::EndOfFlow, 2));
    }

    #[test]
    fn counters_are_cut_before_they_overflow() {
        let mut cache = cache(100);
        let records =
            observe(&mut cache, &[arrival(1, u32::MAX - 10, 0, 0), arrival(1, 10, 0, 1), arrival(1, 1, 0, 2)]);
        assert_eq!(records.len(), 1);
        let record = records[0];
        assert_eq!((record.end, record.octets, record.last_ms), (EndReason::CounterLimit, u32::MAX, 1));
        assert_eq!(cache.resident(), Volume { packets: 1, octets: 1 });
    }

    #[test]
    fn a_full_cache_expires_the_flow_that_was_quiet_longest() {
        let mut cache = cache(1);
        assert_eq!(cache.capacity(), WAYS);
        let ways = u32::try_from(WAYS).unwrap();
        let mut arrivals: Vec<_> = (0..ways).map(|flow| arrival(flow, 40, 0, u64::from(flow))).collect();
        arrivals.push(arrival(0, 40, 0, 100));
        assert!(observe(&mut cache, &arrivals).is_empty());
        let records = observe(&mut cache, &[arrival(99, 40, 0, 101)]);
        assert_eq!(records.len(), 1);
        assert_eq!((records[0].end, records[0].key.source), (EndReason::LackOfResources, Ipv4Addr::from_bits(1)));
        assert_eq!(cache.len(), WAYS);
    }

    #[test]
    fn later_fragments_join_the_flow_of_their_first() {
        let mut cache = cache(100);
        let (mut first, mut later) = (arrival(1, 1500, 0, 0), arrival(1, 900, 0, 1));
        first.packet.fragment = Fragment::First(7);
        later.packet.fragment = Fragment::Later(7);
        (later.packet.key.source_port, later.packet.key.destination_port) = (0, 0);
        observe(&mut cache, &[first, later]);
        assert_eq!((cache.len(), cache.resident()), (1, Volume { packets: 2, octets: 2400 }));
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

    #[test]
    fn a_set_map_finds_what_is_in_it() {
        let mut map = SetMap::new(200);
        assert_eq!(map.first_in(0..200), None);
        for set in [0, 63, 64, 199] {
            map.insert(set);
        }
        let found = [map.first_in(0..200), map.first_in(1..200), map.first_in(64..200), map.first_in(65..199)];
        assert_eq!(found, [Some(0), Some(63), Some(64), None]);
        assert_eq!((map.first_in(65..200), map.first_in(5..5)), (Some(199), None));
        map.remove(199);
        assert_eq!(map.first_in(65..200), None);
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
                let quiet = flow.last_ms + if closing { TIMEOUTS.linger_ms } else { TIMEOUTS.idle_ms };
                let active = flow.first_ms + TIMEOUTS.active_ms - share_of(spread_ms, key);
                if only.is_some_and(|only| only != key) || now_ms < quiet.min(active) {
                    return true;
                }
                let quiet_reason = if closing { EndReason::EndOfFlow } else { EndReason::Idle };
                ended.push(FlowRecord { end: if quiet <= active { quiet_reason } else { EndReason::Active }, ..*flow });
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

        /// Whatever the traffic, timeouts and capacity, each packet observed is in a record or resident, and once.
        #[test]
        fn no_packet_is_lost_or_counted_twice(arrivals in any_arrivals(), flows_max in 1usize..60, seed in any::<u64>()) {
            let config = CacheConfig { flows_max, timeouts: TIMEOUTS, seed, backing: Backing::OnDemand };
            let mut cache = FlowCache::new(&config).unwrap();
            let mut records = Vec::new();
            let mut offered = Volume::default();
            for arrival in &arrivals {
                cache.observe(&mut [*arrival], &mut records);
                cache.expire(arrival.at_ms, 1, &mut records);
                offered += Volume { packets: 1, octets: arrival.packet.octets.into() };
                let mut exported = Volume::default();
                records.iter().for_each(|record| exported.add_record(record));
                prop_assert_eq!(exported + cache.resident(), offered);
                prop_assert_eq!(cache.counters().observed, offered);
            }
            prop_assert_eq!(cache.counters().created, cache.counters().expired_total() + cache.len() as u64);
            prop_assert!(cache.drain(usize::MAX, &mut records));
            prop_assert_eq!(cache.counters().expired_total(), records.len() as u64);
            prop_assert!(cache.sets.iter().all(|set| set.overflowed() == 0 && set.ways_taken().next().is_none()));
            prop_assert!(cache.occupied.0.iter().all(|&bits| bits == 0));
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
