//! What holds of the flow cache whatever the traffic, for a short key and a long one.

use super::{TIMEOUTS, config, key};
use crate::cache::policy::share_of;
use crate::cache::{CacheConfig, Cursor, FlowCache, HAND_ROUND_MS, Timeouts};
use crate::fragment::Fragment;
use crate::key::long::LongKey;
use crate::key::{Key, KeyV4};
use crate::packet::{Arrival, Packet};
use crate::record::{EndReason, FlowRecord};
use crate::volume::Volume;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use std::collections::HashMap;

/// A key for each of the numbers that the tests give flows.
trait Numbered: Key {
    fn of(flow: u32) -> Self;
}

impl Numbered for KeyV4 {
    fn of(flow: u32) -> Self {
        key(flow)
    }
}

impl Numbered for LongKey {
    fn of(flow: u32) -> Self {
        // Some flows differ in the first word only, some in the last only.
        let (first, last) = (u64::from(flow % 7), u64::from(flow / 7));
        Self([first, 1, 2, 3, last << 32])
    }
}

/// A packet, for any key.
#[derive(Clone, Copy, Debug)]
struct Step {
    flow: u32,
    octets: u32,
    tcp_flags: u8,
    at_ms: u64,
}

impl Step {
    fn arrival<K: Numbered>(&self) -> Arrival<K> {
        let packet = Packet {
            key: K::of(self.flow),
            octets: self.octets,
            tcp_flags: self.tcp_flags,
            fragment: Fragment::Whole,
        };
        Arrival {
            packet,
            at_ms: self.at_ms,
        }
    }
}

fn arrivals<K: Numbered>(steps: &[Step]) -> Vec<Arrival<K>> {
    steps.iter().map(Step::arrival).collect()
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    steps_of(40, 300)
}

/// Packets of so many flows, with pauses of less than `pause_ms` between them.
fn steps_of(flows: u32, pause_ms: u64) -> impl Strategy<Value = Vec<Step>> {
    let flags = prop_oneof![9 => Just(0x10u8), 1 => Just(0x11u8), 1 => Just(0x04u8)];
    vec((0..flows, 20u32..2000, flags, 0..pause_ms), 0..400).prop_map(|steps| {
        let mut at_ms = 0;
        let step = |(flow, octets, tcp_flags, pause_ms)| {
            at_ms += pause_ms;
            Step {
                flow,
                octets,
                tcp_flags,
                at_ms,
            }
        };
        steps.into_iter().map(step).collect()
    })
}

/// Ceilings that are rarely reached and ceilings that often are.
fn ceilings() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(u64::from(u32::MAX)),
        Just(u64::MAX),
        1u64..10,
        1_000u64..10_000
    ]
}

fn timeouts() -> impl Strategy<Value = Timeouts> {
    (1u64..4_000, 1u64..6_000, 0u64..1_500, 0u64..3_000).prop_map(
        |(idle_ms, active_ms, linger_ms, lifetime_spread_ms)| Timeouts {
            idle_ms,
            active_ms,
            linger_ms,
            lifetime_spread_ms,
        },
    )
}

/// Uptimes at which a flow with this record is due by its idle and by its active timeout, in ms.
fn due_ms<K: Key>(record: &FlowRecord<K>, timeouts: &Timeouts) -> (u64, u64) {
    let closing = record.tcp_flags & 5 != 0;
    let idle_ms = if closing {
        timeouts.linger_ms.min(timeouts.idle_ms)
    } else {
        timeouts.idle_ms
    };
    let spread_ms = timeouts.lifetime_spread_ms.min(timeouts.active_ms);
    let early_ms = share_of(spread_ms, K::fold(&record.key.to_bits()));
    (
        record.last_ms + idle_ms,
        record.first_ms + timeouts.active_ms - early_ms,
    )
}

/// The cache as RFC 5470 describes it: a map.
struct Oracle<K> {
    timeouts: Timeouts,
    counter_max: u64,
    flows: HashMap<K, FlowRecord<K>>,
    ended: Vec<FlowRecord<K>>,
}

impl<K: Key> Oracle<K> {
    fn new(timeouts: Timeouts, counter_max: u64) -> Self {
        Self {
            timeouts,
            counter_max,
            flows: HashMap::new(),
            ended: Vec::new(),
        }
    }

    fn observe(&mut self, arrival: &Arrival<K>) {
        let Arrival { packet, at_ms } = *arrival;
        self.end_due(at_ms, Some(packet.key));
        let volume = Volume::of_packet(packet.octets);
        if let Some(flow) = self.flows.get(&packet.key) {
            let after = flow.volume + volume;
            if after.packets > self.counter_max || after.octets > self.counter_max {
                self.ended.push(FlowRecord {
                    end: EndReason::CounterLimit,
                    ..*flow
                });
                self.flows.remove(&packet.key);
            }
        }
        let flow = self.flows.entry(packet.key).or_insert(FlowRecord {
            key: packet.key,
            volume: Volume::default(),
            first_ms: at_ms,
            last_ms: at_ms,
            tcp_flags: 0,
            end: EndReason::Forced,
        });
        flow.volume += volume;
        flow.last_ms = at_ms;
        flow.tcp_flags |= packet.tcp_flags;
    }

    fn end_due(&mut self, now_ms: u64, only: Option<K>) {
        let (ended, timeouts) = (&mut self.ended, &self.timeouts);
        self.flows.retain(|&key, flow| {
            let (idle_ms, active_ms) = due_ms(flow, timeouts);
            if only.is_some_and(|only| only != key) || now_ms < idle_ms.min(active_ms) {
                return true;
            }
            let end = match (idle_ms <= active_ms, flow.tcp_flags & 5 != 0) {
                (true, true) => EndReason::EndOfFlow,
                (true, false) => EndReason::Idle,
                (false, _) => EndReason::Active,
            };
            ended.push(FlowRecord { end, ..*flow });
            false
        });
    }
}

/// Records in an order that does not depend on the cache. Records of one flow keep theirs.
fn sorted<K: Key>(mut records: Vec<FlowRecord<K>>) -> Vec<FlowRecord<K>> {
    records.sort_by_key(|record| (K::fold(&record.key.to_bits()), record.first_ms));
    records
}

fn volume<K>(records: &[FlowRecord<K>]) -> Volume {
    records.iter().map(|record| record.volume).sum()
}

/// With room for every flow, the cache cuts traffic into the same records as a map.
fn the_cache_equals_a_map<K: Numbered>(
    steps: &[Step],
    burst: usize,
    config: &CacheConfig,
) -> Result<(), TestCaseError> {
    let mut oracle = Oracle::<K>::new(config.timeouts, config.counter_max);
    let mut cache = FlowCache::<K>::new(config).unwrap();
    let mut records = Vec::new();
    for steps in steps.chunks(burst) {
        let mut arrivals = arrivals(steps);
        cache.observe(&mut arrivals, &mut records);
        arrivals.iter().for_each(|arrival| oracle.observe(arrival));
        let now_ms = arrivals.last().map_or(0, |arrival| arrival.at_ms);
        cache.expire(now_ms, usize::MAX, &mut records);
    }
    // Long after the last packet every flow is due, in both.
    oracle.end_due(u64::MAX / 2, None);
    cache.expire(u64::MAX / 4, 0, &mut records);
    cache.expire(u64::MAX / 2, usize::MAX, &mut records);
    prop_assert!(cache.is_empty());
    prop_assert_eq!(sorted(records), sorted(oracle.ended));
    Ok(())
}

/// Whatever the traffic, timeouts and capacity, each packet observed is in a record or resident,
/// and once.
fn no_packet_is_lost_or_counted_twice<K: Numbered>(
    steps: &[Step],
    config: &CacheConfig,
) -> Result<(), TestCaseError> {
    let mut cache = FlowCache::<K>::new(config).unwrap();
    let mut records = Vec::new();
    let mut offered = Volume::default();
    for step in steps {
        cache.observe(&mut [step.arrival()], &mut records);
        cache.expire(step.at_ms, 1, &mut records);
        assert_no_due_flow_is_overlooked(&mut cache, step.at_ms);
        assert_earliest_due_is_exact(&mut cache, step.at_ms);
        offered += Volume::of_packet(step.octets);
        prop_assert_eq!(volume(&records) + cache.resident(), offered);
        prop_assert_eq!(cache.counters().observed, offered);
    }
    prop_assert_eq!(
        cache.counters().created,
        cache.counters().expired_total() + cache.len() as u64
    );
    prop_assert!(cache.drain(usize::MAX, &mut records));
    prop_assert_eq!(cache.counters().expired_total(), records.len() as u64);
    for set in 0..cache.set_count() {
        let set = cache.table.set(set);
        prop_assert!(!set.has_overflowed() && set.ways_taken().count() == 0);
    }
    prop_assert!(cache.places_taken().next().is_none());
    Ok(())
}

/// No flow is noted as due later than it is: the hand would pass it when it is due.
fn assert_no_due_flow_is_overlooked<K: Key>(cache: &mut FlowCache<K>, now_ms: u64) {
    for place in cache.places_taken().collect::<Vec<_>>() {
        let due_ms = cache.policy.due_ms(cache.table.resident(place)).max(now_ms);
        let (set, late_ms) = (place.set(), due_ms + HAND_ROUND_MS);
        assert_eq!(
            cache.dues.first_due(set..set + 1, late_ms),
            Some(set),
            "a flow is due at {due_ms}"
        );
        let mut ways = cache.dues.ways_due(set, late_ms);
        assert!(
            !cache.dues.are_distinct(set, late_ms) || ways.any(|way| way == place.way()),
            "the flow is due at {due_ms}"
        );
    }
}

/// The time at which the first flow is due is that of reading all of them.
fn assert_earliest_due_is_exact<K: Key>(cache: &mut FlowCache<K>, now_ms: u64) {
    let due_ms = |place| cache.policy.due_ms(cache.table.resident(place)).max(now_ms);
    let expected = cache.places_taken().map(due_ms).min();
    let found = cache.earliest_due_ms(u64::MAX);
    assert_eq!(found.map(|due_ms| due_ms.max(now_ms)), expected);
    if let Some(due_ms) = found {
        assert_eq!(cache.earliest_due_ms(due_ms), None);
    }
}

/// Whatever the times of packets that are off the clock, each is in a record or resident, First and
/// Last are times of packets, and no flow is overlooked when it is due.
fn strays_are_accounted<K: Numbered>(
    steps: &[(Step, Option<i64>)],
    flows_max: usize,
) -> Result<(), TestCaseError> {
    const BEGIN_MS: u64 = 1 << 45;
    let mut cache = FlowCache::<K>::new(&config(flows_max, TIMEOUTS)).unwrap();
    cache.start_at(BEGIN_MS);
    let (mut records, mut offered) = (Vec::new(), Volume::default());
    let mut times = HashMap::<K, Vec<u64>>::new();
    for (step, off_ms) in steps {
        let now_ms = BEGIN_MS + step.at_ms;
        let at_ms = now_ms.saturating_add_signed(off_ms.unwrap_or(0));
        let mut arrival = Arrival {
            at_ms,
            ..step.arrival::<K>()
        };
        times.entry(arrival.packet.key).or_default().push(at_ms);
        match off_ms {
            Some(_) => cache.observe_stray(&mut arrival, now_ms, &mut records),
            None => cache.observe(&mut [arrival], &mut records),
        }
        assert_no_due_flow_is_overlooked(&mut cache, now_ms);
        assert_earliest_due_is_exact(&mut cache, now_ms);
        cache.expire(now_ms, usize::MAX, &mut records);
        offered += Volume::of_packet(step.octets);
        prop_assert_eq!(volume(&records) + cache.resident(), offered);
    }
    cache.drain(usize::MAX, &mut records);
    prop_assert!(cache.is_empty());
    for record in &records {
        let times = &times[&record.key];
        prop_assert!(times.contains(&record.first_ms) && times.contains(&record.last_ms));
        prop_assert!(record.first_ms <= record.last_ms);
        prop_assert!(record.last_ms - record.first_ms < TIMEOUTS.active_ms);
    }
    Ok(())
}

/// Whenever timeouts are changed, no flow is expired before it is due by the present ones, and with
/// a turn at least every 100 ms none a second after it is due by them, or after the change.
fn expiry_is_never_early_and_never_a_second_late<K: Numbered>(
    steps: &[Step],
    flows_max: usize,
    turn_ms: u64,
    changes: &[(u64, Timeouts)],
) -> Result<(), TestCaseError> {
    let mut present = TIMEOUTS;
    let mut cache = FlowCache::<K>::new(&config(flows_max, present)).unwrap();
    let mut records = Vec::new();
    let (mut changed_ms, mut changes) = (0, changes.iter().peekable());
    let last_ms = steps.last().map_or(0, |step| step.at_ms);
    let mut steps = steps.iter().peekable();
    let mut now_ms = 0;
    // Longer than any timeout.
    while now_ms <= last_ms + 8_000 {
        if let Some((_, timeouts)) = changes.next_if(|(at_ms, _)| *at_ms <= now_ms) {
            (present, changed_ms) = (*timeouts, now_ms);
            cache.set_timeouts(present);
        }
        while let Some(step) = steps.next_if(|step| step.at_ms <= now_ms) {
            // Packets that are observed in this turn came in it.
            let arrival = Arrival {
                at_ms: now_ms,
                ..step.arrival()
            };
            cache.observe(&mut [arrival], &mut records);
        }
        cache.expire(now_ms, usize::MAX, &mut records);
        for record in records.drain(..) {
            let (idle_ms, active_ms) = due_ms(&record, &present);
            let due_ms = idle_ms.min(active_ms);
            if matches!(
                record.end,
                EndReason::Idle | EndReason::Active | EndReason::EndOfFlow
            ) {
                prop_assert!(due_ms <= now_ms, "due {due_ms}, expired {now_ms}");
            }
            let latest_ms = due_ms.max(changed_ms) + 1_000;
            prop_assert!(now_ms < latest_ms, "due {due_ms}, expired {now_ms}");
        }
        now_ms += turn_ms;
    }
    prop_assert!(cache.is_empty());
    Ok(())
}

/// A visit in pieces, between which packets come and flows end, shows each flow that stays all the
/// time exactly once, and `expire_where` expires exactly the flows that it picks.
fn a_visit_reaches_each_flow_that_stays_once<K: Numbered>(
    steps: &[Step],
    first: Index,
    piece: usize,
    config: &CacheConfig,
    expires: bool,
) -> Result<(), TestCaseError> {
    let mut cache = FlowCache::<K>::new(config).unwrap();
    let mut ended = Vec::new();
    let (before, during) = steps.split_at(first.index(steps.len() + 1));
    for arrival in &mut arrivals(before) {
        cache.observe(std::slice::from_mut(arrival), &mut ended);
    }
    ended.clear();
    let mut stayed = HashMap::new();
    for place in cache.places_taken() {
        let record = cache.table.resident(place).record(EndReason::Forced);
        stayed.insert(record.key, record.first_ms);
    }
    let picks = |record: &FlowRecord<K>| record.volume.packets.is_multiple_of(2);
    let (mut cursor, mut shown, mut picked) = (Cursor::default(), Vec::new(), Vec::new());
    let mut during = during.iter();
    loop {
        let more = if expires {
            let mut picks = |record: &FlowRecord<K>| {
                shown.push(*record);
                picks(record)
            };
            cache.expire_where(&mut cursor, piece, &mut picks, &mut picked)
        } else {
            cache.visit(&mut cursor, piece, &mut |record| shown.push(*record))
        };
        if !more {
            break;
        }
        for step in during.by_ref().take(3) {
            cache.observe(&mut [step.arrival()], &mut ended);
            cache.expire(step.at_ms, 1, &mut ended);
        }
    }
    // A flow that was picked may have begun again in a set that was still to come.
    for record in ended.iter().chain(&picked) {
        stayed.remove(&record.key);
    }
    for (key, first_ms) in &stayed {
        let seen = shown.iter().filter(|record| record.key == *key);
        prop_assert_eq!(
            seen.map(|record| record.first_ms).collect::<Vec<_>>(),
            [*first_ms]
        );
    }
    for record in &shown {
        let times = |records: &[FlowRecord<K>]| {
            records
                .iter()
                .filter(|other| other.key == record.key)
                .count()
        };
        prop_assert!(times(&shown) <= 1 + times(&ended) + times(&picked));
        prop_assert_eq!(record.end, EndReason::Forced);
    }
    if expires {
        shown.retain(picks);
        prop_assert_eq!(&shown, &picked);
    }
    prop_assert_eq!(
        cache.counters().created,
        cache.counters().expired_total() + cache.len() as u64
    );
    prop_assert_eq!(
        cache.counters().expired[EndReason::Forced as usize],
        picked.len() as u64
    );
    Ok(())
}

proptest! {
    #[test]
    fn the_cache_equals_a_map_for_each_key(
        steps in steps(), seed in any::<u64>(), burst in 1usize..64, counter_max in ceilings(),
    ) {
        let config = CacheConfig { seed, counter_max, ..config(1000, TIMEOUTS) };
        the_cache_equals_a_map::<KeyV4>(&steps, burst, &config)?;
        the_cache_equals_a_map::<LongKey>(&steps, burst, &config)?;
    }

    /// With few flows, which go on for long, and any timeouts.
    #[test]
    fn the_cache_equals_a_map_for_any_timeouts(
        steps in steps_of(4, 300), timeouts in timeouts(), counter_max in ceilings(),
    ) {
        let config = CacheConfig { counter_max, ..config(1000, timeouts) };
        the_cache_equals_a_map::<KeyV4>(&steps, 1, &config)?;
        the_cache_equals_a_map::<LongKey>(&steps, 1, &config)?;
    }

    #[test]
    fn no_packet_is_lost_or_counted_twice_for_each_key(
        steps in steps(), flows_max in 1usize..60, seed in any::<u64>(), counter_max in ceilings(),
    ) {
        let config = CacheConfig { seed, counter_max, ..config(flows_max, TIMEOUTS) };
        no_packet_is_lost_or_counted_twice::<KeyV4>(&steps, &config)?;
        no_packet_is_lost_or_counted_twice::<LongKey>(&steps, &config)?;
    }

    #[test]
    fn strays_are_accounted_for_each_key(
        steps in steps(), flows_max in 1usize..60,
        off_ms in vec(prop::option::of(prop_oneof![
            -20_000i64..20_000, -3_000_000_000_000i64..3_000_000_000_000,
        ]), 400..401),
    ) {
        let steps: Vec<_> = steps.into_iter().zip(off_ms).collect();
        strays_are_accounted::<KeyV4>(&steps, flows_max)?;
        strays_are_accounted::<LongKey>(&steps, flows_max)?;
    }

    #[test]
    fn expiry_is_in_time_for_each_key(
        steps in steps(), turn_ms in 1u64..=100, flows_max in 15usize..3000,
    ) {
        expiry_is_never_early_and_never_a_second_late::<KeyV4>(&steps, flows_max, turn_ms, &[])?;
        expiry_is_never_early_and_never_a_second_late::<LongKey>(&steps, flows_max, turn_ms, &[])?;
    }

    #[test]
    fn expiry_is_in_time_while_timeouts_change(
        steps in steps_of(40, 60), turn_ms in 1u64..=100, flows_max in 15usize..3000,
        mut changes in vec((0u64..12_000, timeouts()), 0..6),
    ) {
        changes.sort_by_key(|(at_ms, _)| *at_ms);
        expiry_is_never_early_and_never_a_second_late::<KeyV4>(
            &steps, flows_max, turn_ms, &changes)?;
        expiry_is_never_early_and_never_a_second_late::<LongKey>(
            &steps, flows_max, turn_ms, &changes)?;
    }

    #[test]
    fn a_visit_reaches_each_flow_that_stays_for_each_key(
        steps in steps(), first in any::<Index>(), piece in 1usize..8, flows_max in 1usize..200,
        seed in any::<u64>(), expires in any::<bool>(),
    ) {
        let config = CacheConfig { seed, ..config(flows_max, TIMEOUTS) };
        a_visit_reaches_each_flow_that_stays_once::<KeyV4>(
            &steps, first, piece, &config, expires)?;
        a_visit_reaches_each_flow_that_stays_once::<LongKey>(
            &steps, first, piece, &config, expires)?;
    }
}
