//! The flow cache: every resident flow of one queue, in memory that is allocated at the start.
//!
//! The table is set-associative, like a processor's cache. A flow's hash names two sets of 15
//! places each and a 16-bit tag. The tags of a set share half a cache line, so a look-up reads that
//! half line and then, nearly always, one flow. There is no chain to follow, no tombstone and no
//! rehash: every operation is bounded by two sets, whatever the traffic. When both sets of a new
//! flow are full, one of the five oldest flows of the first set is expired for lack of resources:
//! the oldest that had one packet only or none for a second, otherwise the one that was idle
//! longest.
//!
//! A flow is due when it has been idle, active or lingering for long enough. It is expired by the
//! clock [hand](FlowCache::expire), which passes every set twice a second, or by a packet that
//! comes too late to belong to it. The times at which flows may be due are noted beside the sets,
//! so that the hand reads a flow only then.
//!
//! First and Last of a flow are the times of its own packets, in whatever order they come. A packet
//! that is far off the clock is [observed by itself](FlowCache::observe_stray).
//!
//! | File | Contents |
//! |---|---|
//! | `policy` | when a flow is due, which one makes room |
//! | `table`, `set`, `resident` | where flows are stored |
//! | `dues`, `hand` | which flows are read at what time |
//! | `lookup` | how the flows of a burst are found |

mod counters;
mod dues;
mod hand;
mod lookup;
mod policy;
mod resident;
mod set;
mod table;

pub use counters::CacheCounters;
pub use hand::HAND_ROUND_MS;
pub use lookup::BURST_MAX;
pub use policy::{Timeouts, TimeoutsError};

use crate::fragment::{Fragment, FragmentTable};
use crate::key::{Key, KeyV4};
use crate::memory::{Backing, PageSize};
use crate::packet::Arrival;
use crate::record::{EndReason, FlowRecord, RecordSink};
use crate::volume::Volume;
use dues::{DISTINCT_MS, Dues};
use hand::{Hand, Reading};
use lookup::{Lookup, STRIDE, find_probable_places};
use policy::Policy;
use resident::Resident;
use set::{Place, Ways};
use std::io;
use std::ops::Range;
use table::FlowTable;

/// The flow cache of one queue.
pub struct FlowCache<K: Key = KeyV4> {
    table: FlowTable<K>,
    dues: Dues,
    hand: Hand,
    policy: Policy,
    fragments: FragmentTable<K>,
    counters: CacheCounters,
    /// The look-ups of the burst under way.
    lookups: Box<[Lookup]>,
    /// What finding flows that are due costs: flows and sets that were read for it.
    #[cfg(test)]
    flows_read: std::cell::Cell<u64>,
    #[cfg(test)]
    sets_read: std::cell::Cell<u64>,
}

impl<K: Key> FlowCache<K> {
    /// An empty cache. Its memory never grows.
    ///
    /// # Errors
    ///
    /// The error of `mmap` if the system has too little memory.
    pub fn new(config: &CacheConfig) -> io::Result<Self> {
        let table = FlowTable::new(config.flows_max, config.seed, config.backing)?;
        Ok(Self {
            dues: Dues::new(table.set_count(), config.backing)?,
            hand: Hand::new(table.set_count()),
            policy: Policy::new(config.timeouts, config.counter_max),
            fragments: FragmentTable::new(),
            counters: CacheCounters::default(),
            lookups: Box::new([Lookup::default(); BURST_MAX]),
            #[cfg(test)]
            flows_read: std::cell::Cell::default(),
            #[cfg(test)]
            sets_read: std::cell::Cell::default(),
            table,
        })
    }

    /// Sets the uptime at which the clock hand begins to move, in ms; 0 if this is not called. No
    /// packet was observed yet.
    pub fn start_at(&mut self, now_ms: u64) {
        self.hand.start_at(now_ms);
    }

    /// Octets of memory that a cache for `flows_max` flows takes; `u64::MAX` if that is more than
    /// an address space has.
    #[must_use]
    pub fn octets_for(flows_max: usize) -> u64 {
        let sets = FlowTable::<K>::sets_for(flows_max);
        let octets = FlowTable::<K>::octets_of(sets)
            .zip(Dues::octets_of(sets))
            .and_then(|(table, dues)| table.checked_add(dues));
        octets.map_or(u64::MAX, |octets| octets as u64)
    }

    /// Adds each packet to its flow. Flows that end by it (their timeout was over, a counter would
    /// pass its ceiling, their place was needed) go to `sink`. Later fragments first get the ports
    /// of their datagram.
    ///
    /// The packets may be out of order by some seconds at the most: one that is further off is
    /// [a stray](Self::observe_stray).
    ///
    /// The burst goes through in stages so that its cache misses overlap, stride by stride: while
    /// the flows of one stride are on their way from memory, so are the tags of the next, and the
    /// one after that is hashed.
    ///
    /// # Panics
    ///
    /// If there are more than [`BURST_MAX`] arrivals.
    pub fn observe(&mut self, arrivals: &mut [Arrival<K>], sink: &mut impl RecordSink<K>) {
        let count = arrivals.len();
        assert!(
            count <= BURST_MAX,
            "a burst of {count} packets: expected at most {BURST_MAX}"
        );
        let mut lookups = std::mem::take(&mut self.lookups);
        let stride = |number: usize| count.min(number * STRIDE)..count.min((number + 1) * STRIDE);
        for step in 0..count.div_ceil(STRIDE) + 2 {
            self.hash_all(&mut arrivals[stride(step)], &mut lookups[stride(step)]);
            if let Some(step) = step.checked_sub(1) {
                find_probable_places(&mut lookups[stride(step)], &self.table, &self.dues);
            }
            if let Some(step) = step.checked_sub(2) {
                self.update_all(&arrivals[stride(step)], &lookups[stride(step)], sink);
            }
        }
        self.lookups = lookups;
    }

    /// Adds a packet whose time is off the clock to its flow; the clock reads `now_ms`. It ends no
    /// flow that goes on by the clock, except one that makes room.
    ///
    /// Packets of one key that are too far apart for one flow are in several flows, which are
    /// resident at the same time. A flow of late packets is due later by as much as they are late.
    pub fn observe_stray(
        &mut self,
        arrival: &mut Arrival<K>,
        now_ms: u64,
        sink: &mut impl RecordSink<K>,
    ) {
        let packet = &mut arrival.packet;
        self.fragments
            .resolve(&mut packet.key, packet.fragment, now_ms);
        self.counters.observed += Volume::of_packet(packet.octets);
        let key = packet.key.to_bits();
        let hash = self.table.hash(key);
        match self.table.find(hash, key) {
            Some(_) => self.join(hash, arrival, now_ms, sink),
            None => self.begin_off_clock(hash, arrival, now_ms, sink),
        }
    }

    /// Moves the clock hand to where it should be at `now_ms`, past at most `sets_max` sets, and
    /// sends the flows that are due to `sink`. Returns whether the hand got there: if not, call
    /// again before sleeping.
    ///
    /// No flow is expired before it is due. None is expired later than 628 ms after, if this is
    /// called often enough. The longer ago the previous call, the more falls due; the sets in which
    /// nothing does are not looked at.
    pub fn expire(&mut self, now_ms: u64, sets_max: usize, sink: &mut impl RecordSink<K>) -> bool {
        if self.hand.elapsed_ms(now_ms) > DISTINCT_MS {
            self.hand.start_reading_nearly_due();
        }
        self.dues.begin_call();
        let mut left = self.hand.advance(now_ms, sets_max);
        while left > 0 {
            let sets = self.hand.pass(left);
            left -= sets.len();
            self.expire_sets(sets, now_ms, sink);
        }
        self.hand.is_on_time()
    }

    /// Uptime at which the first of the resident flows is due if no packet comes, in ms; none if
    /// that is not before `before_ms`. Reads flows that may be due by then alone.
    #[must_use]
    pub fn earliest_due_ms(&mut self, before_ms: u64) -> Option<u64> {
        let mut earliest_ms = before_ms;
        if self.hand.reads_all() {
            // By other timeouts than those that were noted.
            for place in self.places_taken() {
                let mut flow = *self.table.resident(place);
                self.policy.renew(&mut flow);
                earliest_ms = earliest_ms.min(self.policy.due_ms(&flow));
            }
        } else if let Some(soonest) = self.dues.soonest() {
            earliest_ms = self.earliest_in_group(soonest, earliest_ms);
            let mut from = 0;
            while from < self.set_count()
                && let Some(set) = self
                    .dues
                    .first_nearly_due(from..self.set_count(), earliest_ms)
            {
                from = self.dues.group_of(set).end;
                if !self.dues.group_of(set).contains(&soonest) {
                    earliest_ms = self.earliest_in_group(set, earliest_ms);
                }
            }
        }
        (earliest_ms < before_ms).then_some(earliest_ms)
    }

    /// As [`earliest_due_ms`](Self::earliest_due_ms), of the flows of a set's group alone;
    /// `before_ms` if none of them is due before. Reads the flows in the order in which they are
    /// noted as due, until no other can be due earlier.
    fn earliest_in_group(&self, set: usize, before_ms: u64) -> u64 {
        let group = self.dues.group_of(set);
        let places = || group.clone().flat_map(|set| self.table.places_taken(set));
        let due_ms = |place| {
            #[cfg(test)]
            self.flows_read.set(self.flows_read.get() + 1);
            self.policy.due_ms(self.table.resident(place))
        };
        let mut earliest_ms = before_ms;
        if !self.dues.are_distinct(set, self.hand.advanced_ms()) {
            return places().map(due_ms).fold(earliest_ms, u64::min);
        }
        let noted_ms = |place| self.dues.noted_after_ms(place);
        let mut next = places().map(noted_ms).min();
        while let Some(after_ms) = next
            && after_ms < earliest_ms
        {
            let noted = places().filter(|&place| noted_ms(place) == after_ms);
            earliest_ms = noted.map(due_ms).fold(earliest_ms, u64::min);
            next = places().map(noted_ms).filter(|&ms| ms > after_ms).min();
        }
        earliest_ms
    }

    /// Expires the flows of up to `sets_max` sets, due or not, and returns whether the cache is
    /// empty. Groups of sets without a flow are passed without being counted one by one.
    pub fn drain(&mut self, sets_max: usize, sink: &mut impl RecordSink<K>) -> bool {
        let mut left = sets_max;
        while left > 0 && !self.is_empty() {
            let mut sets = self.hand.pass(left);
            left -= sets.len();
            while !sets.is_empty()
                && let Some(first) = self.dues.first_occupied(sets.clone())
            {
                sets.start = sets.end.min(self.dues.group_of(first).end);
                for set in first..sets.start {
                    for place in self.table.places_taken(set) {
                        self.end(place, EndReason::Forced, sink);
                    }
                }
            }
        }
        self.is_empty()
    }

    /// Shows the resident flows of the next `sets_max` sets to `each`, and returns whether there
    /// are more. The record of a flow is the one that [`expire_where`](Self::expire_where) would
    /// export: its `end` is [`EndReason::Forced`].
    ///
    /// Between two calls packets may be observed and flows expired. Flows never move, so each flow
    /// that is resident from the first call to the last is shown exactly once; one that begins or
    /// ends meanwhile is shown once or not at all.
    pub fn visit(
        &self,
        cursor: &mut Cursor,
        sets_max: usize,
        each: &mut impl FnMut(&FlowRecord<K>),
    ) -> bool {
        for set in self.next_sets(cursor, sets_max) {
            for place in self.table.places_taken(set) {
                each(&self.table.resident(place).record(EndReason::Forced));
            }
        }
        self.has_more(cursor)
    }

    /// Expires the resident flows of the next `sets_max` sets for which `picks` returns true, with
    /// [`EndReason::Forced`], and returns whether there are more sets. A sequence of calls reaches
    /// the same flows as one of [`visit`](Self::visit).
    pub fn expire_where(
        &mut self,
        cursor: &mut Cursor,
        sets_max: usize,
        picks: &mut impl FnMut(&FlowRecord<K>) -> bool,
        sink: &mut impl RecordSink<K>,
    ) -> bool {
        for set in self.next_sets(cursor, sets_max) {
            for place in self.table.places_taken(set) {
                if picks(&self.table.resident(place).record(EndReason::Forced)) {
                    self.end(place, EndReason::Forced, sink);
                }
            }
        }
        self.has_more(cursor)
    }

    /// Sets other timeouts, for resident flows too.
    ///
    /// From now on no flow is expired before it is due by the new timeouts, and each flow is
    /// expired within a second after it is due by them, or after this call if it is due already.
    /// This call reads no flow: the clock hand reads all of them during its next round.
    pub fn set_timeouts(&mut self, timeouts: Timeouts) {
        self.policy.set_timeouts(timeouts);
        self.hand.start_reading_all();
    }

    /// Flows resident.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.count()
    }

    /// Whether no flow is resident.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Places for flows.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.table.capacity()
    }

    /// Sets that the places are divided into: the unit of `sets_max` in all methods.
    #[must_use]
    pub fn set_count(&self) -> usize {
        self.table.set_count()
    }

    /// The kind of pages that the flows are on.
    #[must_use]
    pub fn page_size(&self) -> PageSize {
        self.table.page_size()
    }

    /// What the cache has done so far.
    #[must_use]
    pub fn counters(&self) -> &CacheCounters {
        &self.counters
    }

    /// Packets and octets of the resident flows, added up flow by flow: the ledger's check on the
    /// running counters. Not cheap.
    #[must_use]
    pub fn resident(&self) -> Volume {
        self.places_taken()
            .map(|place| self.table.resident(place).volume())
            .sum()
    }

    fn places_taken(&self) -> impl Iterator<Item = Place> {
        self.dues
            .occupied()
            .flat_map(|set| self.table.places_taken(set))
    }

    /// The sets from the cursor on, at most `sets_max`, without those before the first group that
    /// holds a flow; moves the cursor behind them.
    fn next_sets(&self, cursor: &mut Cursor, sets_max: usize) -> Range<usize> {
        let start = self.dues.next_occupied(cursor.set.min(self.set_count()));
        cursor.set = start.saturating_add(sets_max).min(self.set_count());
        start..cursor.set
    }

    fn has_more(&self, cursor: &Cursor) -> bool {
        cursor.set < self.set_count()
    }

    /// The first stage of a stride: hashes each packet's key and requests the tags of its first
    /// set.
    #[inline]
    fn hash_all(&mut self, arrivals: &mut [Arrival<K>], lookups: &mut [Lookup]) {
        let mut octets = 0;
        for (lookup, Arrival { packet, at_ms }) in lookups.iter_mut().zip(arrivals.iter_mut()) {
            if packet.fragment != Fragment::Whole {
                self.fragments
                    .resolve(&mut packet.key, packet.fragment, *at_ms);
            }
            lookup.hash = self.table.hash(packet.key.to_bits());
            self.table.prefetch_set(self.table.first_set(lookup.hash));
            octets += u64::from(packet.octets);
        }
        self.counters.observed += Volume {
            packets: arrivals.len() as u64,
            octets,
        };
    }

    /// The last stage of a stride: adds each packet to its flow.
    #[inline]
    fn update_all(
        &mut self,
        arrivals: &[Arrival<K>],
        lookups: &[Lookup],
        sink: &mut impl RecordSink<K>,
    ) {
        for (lookup, arrival) in lookups.iter().zip(arrivals) {
            let flow = self.table.resident_mut(lookup.place);
            // Nearly always the flow is in its probable place and goes on as before.
            if flow.key == arrival.packet.key.to_bits()
                && !flow.is_closed_by(arrival)
                && self.policy.admits(flow, arrival)
            {
                flow.add(arrival);
            } else {
                self.update(*lookup, arrival, sink);
            }
        }
    }

    /// Adds a packet to its flow where the flow is new, is elsewhere, ends, or is due earlier by
    /// this packet.
    #[inline(never)]
    fn update(&mut self, lookup: Lookup, arrival: &Arrival<K>, sink: &mut impl RecordSink<K>) {
        let (hash, key) = (lookup.hash, arrival.packet.key.to_bits());
        // An earlier packet of the burst may have changed the place.
        let is_there =
            self.table.resident(lookup.place).holds(key) || self.table.find(hash, key).is_some();
        if is_there {
            self.join(hash, arrival, arrival.at_ms, sink);
        } else {
            self.begin(hash, arrival, arrival.at_ms, sink);
        }
    }

    /// Adds a packet to a flow of its key, or ends that and begins another, or begins one beside
    /// it. There is a flow of its key, and perhaps several.
    #[inline(never)]
    fn join(
        &mut self,
        hash: u64,
        arrival: &Arrival<K>,
        now_ms: u64,
        sink: &mut impl RecordSink<K>,
    ) {
        let reads_all = self.hand.reads_all();
        let places = || self.table.find_all(hash, arrival.packet.key.to_bits());
        let is_in_time = |place: &Place| {
            let mut flow = *self.table.resident(*place);
            if reads_all {
                self.policy.renew(&mut flow);
            }
            self.policy.is_in_time(&flow, arrival)
        };
        let last_ms = |place: &Place| self.table.resident(*place).last_ms;
        let is_over = |place: &Place| last_ms(place) <= arrival.at_ms && arrival.at_ms <= now_ms;
        // Where clocks are apart, each has its own flow: that whose last packet is nearest.
        let in_time = places().filter(is_in_time);
        let nearest = in_time.min_by_key(|place| {
            let last_ms = last_ms(place);
            (last_ms.abs_diff(arrival.at_ms), last_ms)
        });
        let over = places().find(is_over);
        let (place, is_in_time) = match (nearest, over) {
            (Some(nearest), _) => (nearest, true),
            (None, Some(over)) => (over, false),
            (None, None) => return self.begin_off_clock(hash, arrival, now_ms, sink),
        };
        if reads_all {
            self.policy.renew(self.table.resident_mut(place));
        }
        let flow = self.table.resident_mut(place);
        if is_in_time && self.policy.has_room(flow, arrival) {
            let is_first = arrival.at_ms < flow.first_ms;
            if arrival.at_ms >= flow.last_ms {
                flow.set_late(now_ms.saturating_sub(arrival.at_ms));
            }
            flow.add_in_any_order(arrival);
            if is_first {
                self.policy.renew(flow);
            }
        } else {
            let reason = if is_in_time {
                EndReason::CounterLimit
            } else {
                self.policy.timed_out(flow)
            };
            sink.push(flow.record(reason));
            let displaced = flow.displaced;
            let mut next = self.first_of(arrival, now_ms);
            next.displaced = displaced;
            *self.table.resident_mut(place) = next;
            self.counters.expired[reason as usize] += 1;
            self.counters.created += 1;
        }
        let due_ms = self.policy.due_ms(self.table.resident(place));
        self.dues.note(place, due_ms.max(now_ms), now_ms);
    }

    /// Creates the flow of a packet whose time may be another than that of the clock.
    #[cold]
    #[inline(never)]
    fn begin_off_clock(
        &mut self,
        hash: u64,
        arrival: &Arrival<K>,
        now_ms: u64,
        sink: &mut impl RecordSink<K>,
    ) {
        self.begin(hash, arrival, now_ms, sink);
    }

    /// Creates the flow of a packet.
    // Always inlined: nearly every call is that of `update`.
    #[inline(always)]
    fn begin(
        &mut self,
        hash: u64,
        arrival: &Arrival<K>,
        now_ms: u64,
        sink: &mut impl RecordSink<K>,
    ) {
        let Vacancy { place, noted_ms } = self.make_place(hash, now_ms, sink);
        let flow = self.first_of(arrival, now_ms);
        self.dues.add(place.set());
        let due_ms = self.policy.due_ms(&flow);
        if due_ms < noted_ms {
            self.dues.note(place, due_ms, now_ms);
        }
        self.table.insert(place, hash, flow);
        self.counters.created += 1;
    }

    /// A flow that begins with this packet.
    #[inline]
    fn first_of(&self, arrival: &Arrival<K>, now_ms: u64) -> Resident<K> {
        let key = arrival.packet.key.to_bits();
        let active_until_ms = self.policy.active_until_ms::<K>(&key, arrival.at_ms);
        let mut flow = Resident::new(key, arrival, active_until_ms);
        flow.set_late(now_ms.saturating_sub(arrival.at_ms));
        flow
    }

    /// A free place for a new flow; if there is none, one that is freed by expiring a flow of its
    /// first set.
    // Always inlined, as `begin` is.
    #[inline(always)]
    fn make_place(&mut self, hash: u64, now_ms: u64, sink: &mut impl RecordSink<K>) -> Vacancy {
        if let Some(place) = self.table.free_place(hash) {
            return Vacancy {
                place,
                noted_ms: u64::MAX,
            };
        }
        let neighbours = self.table.neighbourhood(self.table.first_set(hash));
        let flows = neighbours.map(|place| (place, self.table.resident(place)));
        let place = self.policy.evicted(flows, now_ms);
        let place = place.expect("a neighbourhood has five places");
        let noted_ms = self.policy.due_ms(self.table.resident(place));
        self.end(place, EndReason::LackOfResources, sink);
        self.table.set_evicted(place);
        Vacancy { place, noted_ms }
    }

    /// Expires the flows of these sets that are due.
    #[inline]
    fn expire_sets(&mut self, sets: Range<usize>, now_ms: u64, sink: &mut impl RecordSink<K>) {
        let mut set = sets.start;
        while set < sets.end {
            let reading = self.hand.reading();
            let range = set..sets.end;
            let next = match reading {
                Reading::Due => self.dues.first_due(range, now_ms),
                Reading::NearlyDue => self.dues.first_nearly_due(range, now_ms),
                Reading::All => self.dues.first_occupied(range),
            };
            let first = next.unwrap_or(sets.end);
            self.hand.has_read(first - set);
            set = first;
            if next.is_some() && self.hand.reading() == reading {
                set = sets.end.min(self.dues.group_of(first).end);
                self.expire_group(first..set, reading, now_ms, sink);
                self.hand.has_read(set - first);
            }
        }
    }

    /// Expires the flows of these sets of one group that are due. The flows that are read come from
    /// memory together.
    fn expire_group(
        &mut self,
        sets: Range<usize>,
        reading: Reading,
        now_ms: u64,
        sink: &mut impl RecordSink<K>,
    ) {
        let reads_all = reading == Reading::All || !self.dues.are_distinct(sets.start, now_ms);
        let (mut places, mut count) = ([Place::default(); 4 * STRIDE], 0);
        let mut next_ms = u64::MAX;
        for set in sets.clone() {
            #[cfg(test)]
            self.sets_read.set(self.sets_read.get() + 1);
            let due = match reading {
                _ if reads_all => Ways::ALL,
                Reading::Due => self.dues.ways_due(set, now_ms),
                Reading::NearlyDue | Reading::All => self.dues.ways_nearly_due(set, now_ms),
            };
            if due.count() == 0 {
                continue;
            }
            let taken = self.table.ways_taken(set);
            self.dues.put_off(set, due.without(taken), now_ms);
            for way in due.and(taken) {
                if count == places.len() {
                    next_ms = next_ms.min(self.expire_places(&places, reading, now_ms, sink));
                    count = 0;
                }
                places[count] = Place::new(set, way);
                self.table.prefetch_resident(places[count]);
                count += 1;
            }
        }
        next_ms = next_ms.min(self.expire_places(&places[..count], reading, now_ms, sink));
        if reads_all {
            self.dues.settle(sets, next_ms, now_ms);
        } else {
            self.dues.sum_up(sets.start, now_ms);
        }
    }

    /// Applies the present timeouts to the flows of these places.
    #[cold]
    fn renew(&mut self, places: &[Place]) {
        for &place in places {
            self.policy.renew(self.table.resident_mut(place));
        }
    }

    /// Expires the flows of these places that are due, and notes when the others will be. Returns
    /// when the first of the others will be, in ms; `u64::MAX` if there is none.
    #[inline]
    fn expire_places(
        &mut self,
        places: &[Place],
        reading: Reading,
        now_ms: u64,
        sink: &mut impl RecordSink<K>,
    ) -> u64 {
        if reading == Reading::All {
            self.renew(places);
        }
        let mut next_ms = u64::MAX;
        for &place in places {
            #[cfg(test)]
            self.flows_read.set(self.flows_read.get() + 1);
            let flow = self.table.resident(place);
            match self.policy.due(flow, now_ms) {
                Some(reason) => self.end(place, reason, sink),
                None => {
                    let due_ms = self.policy.due_ms(flow);
                    next_ms = next_ms.min(due_ms);
                    self.dues.note(place, due_ms, now_ms);
                }
            }
        }
        next_ms
    }

    /// Sends a flow to `sink` and frees its place.
    #[inline]
    fn end(&mut self, place: Place, reason: EndReason, sink: &mut impl RecordSink<K>) {
        sink.push(self.table.remove(place, reason));
        self.dues.remove(place.set());
        self.counters.expired[reason as usize] += 1;
    }
}

/// What a cache is created from.
#[derive(Clone, Copy, Debug)]
pub struct CacheConfig {
    /// Flows that fit while hardly any (1 in 100 000) has to make room for another. There are a
    /// fifth more places, since hashing never fills all sets alike.
    pub flows_max: usize,
    /// How long flows stay.
    pub timeouts: Timeouts,
    /// The ceiling of the packets and of the octets of a flow: a packet that would lift either
    /// above it ends the flow first, with [`EndReason::CounterLimit`], and begins another. A single
    /// packet is always accepted, also one with more octets than this. 2^32 - 1 where records are
    /// sent in counters of 32 bits; `u64::MAX` for no ceiling (above 2^64 - 2^32 it counts as
    /// that).
    pub counter_max: u64,
    /// Seed of the hash. Random for live traffic, whose senders must not be able to choose keys
    /// that collide; fixed where the same input has to give the same output.
    pub seed: u64,
    /// When the memory is allocated.
    pub backing: Backing,
}

/// A position in a visit of all resident flows; the default is the start.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Cursor {
    /// The set that is visited next.
    set: usize,
}

/// A place for a new flow.
struct Vacancy {
    place: Place,
    /// The place is noted as due no later than this, for the flow that made room. If the new flow
    /// is due later, noting it can wait, which saves a line from memory. `u64::MAX` where no flow
    /// made room.
    noted_ms: u64,
}

#[cfg(test)]
mod tests;
