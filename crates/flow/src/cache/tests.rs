//! The flow cache by example; its properties are in `properties`.

mod properties;

use super::*;
use crate::packet::Packet;
use set::WAYS;
use std::net::Ipv4Addr;

const TIMEOUTS: Timeouts = Timeouts {
    idle_ms: 1000,
    active_ms: 5000,
    linger_ms: 100,
    lifetime_spread_ms: 0,
};

fn config(flows_max: usize, timeouts: Timeouts) -> CacheConfig {
    CacheConfig {
        flows_max,
        timeouts,
        counter_max: u32::MAX.into(),
        seed: 1,
        backing: Backing::OnDemand,
    }
}

fn cache(flows_max: usize) -> FlowCache {
    cache_with(flows_max, TIMEOUTS)
}

fn cache_with(flows_max: usize, timeouts: Timeouts) -> FlowCache {
    FlowCache::new(&config(flows_max, timeouts)).unwrap()
}

fn key(flow: u32) -> KeyV4 {
    KeyV4 {
        source: Ipv4Addr::from_bits(flow),
        destination: Ipv4Addr::LOCALHOST,
        source_port: 1,
        destination_port: 2,
        protocol: 6,
        tos: 0,
        point: 3,
    }
}

fn arrival(flow: u32, octets: u32, tcp_flags: u8, at_ms: u64) -> Arrival {
    let packet = Packet {
        key: key(flow),
        octets,
        tcp_flags,
        fragment: Fragment::Whole,
    };
    Arrival { packet, at_ms }
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

/// Ten thousand flows that have one half of the key in common: one that the hasher's seed turns
/// into 0 or all ones, or an ordinary extreme.
fn flows_chosen_against(seed: u64) -> [Vec<KeyV4>; 8] {
    use foldhash::{SharedSeed, fast::FoldHasher};
    use std::hash::Hasher;
    let shared = SharedSeed::from_u64(seed.rotate_left(32));
    let mut multiplies_by_one = FoldHasher::with_seed(0, &shared);
    multiplies_by_one.write_u128(1);
    let second_seed = multiplies_by_one.finish();
    let with = |low: u64, high: u64| KeyV4::from_bits(u128::from(high) << 64 | u128::from(low));
    let varied = |number: u64| number << 33 | number;
    let same_addresses = |addresses: u64| (0..10_000).map(|n| with(addresses, varied(n))).collect();
    let same_rest = |rest: u64| (0..10_000).map(|n| with(varied(n), rest)).collect();
    [
        same_addresses(0),
        same_addresses(u64::MAX),
        same_addresses(seed),
        same_addresses(!seed),
        same_rest(0),
        same_rest(u64::MAX),
        same_rest(second_seed),
        same_rest(!second_seed),
    ]
}

#[test]
fn flows_whose_keys_are_chosen_against_the_seed_do_not_share_a_place() {
    for seed in [0, 1, 0x243f_6a88_85a3_08d3, u64::MAX] {
        for (family, keys) in flows_chosen_against(seed).into_iter().enumerate() {
            let config = CacheConfig {
                seed,
                ..config(10_000, TIMEOUTS)
            };
            let mut cache = FlowCache::new(&config).unwrap();
            let arrivals: Vec<_> = keys
                .iter()
                .map(|&key| {
                    let mut arrival = arrival(0, 40, 0, 0);
                    arrival.packet.key = key;
                    arrival
                })
                .collect();
            let evicted = observe(&mut cache, &arrivals).len();
            assert!(
                evicted <= 1,
                "seed {seed:#x}, keys {family}: {evicted} evicted"
            );
        }
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
        (
            record.volume.packets,
            record.volume.octets,
            record.tcp_flags
        ),
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
        (
            records[0].end,
            records[0].volume.packets,
            records[0].last_ms
        ),
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
        (
            records[0].end,
            records[0].volume.packets,
            records[0].last_ms
        ),
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
    // Each count includes the delay of the hand: half a second for its round, and a tick of 128 ms.
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
    // The hand comes by within its round of half a second.
    let records: Vec<_> = (160..=660)
        .flat_map(|now_ms| expire(&mut cache, now_ms))
        .collect();
    assert_eq!(records.len(), 1);
    assert_eq!(
        (records[0].end, records[0].volume.packets),
        (EndReason::EndOfFlow, 2)
    );
}

#[test]
fn a_flow_ends_before_a_counter_passes_its_ceiling() {
    let ceiling = |counter_max| {
        let config = CacheConfig {
            counter_max,
            ..config(100, TIMEOUTS)
        };
        FlowCache::new(&config).unwrap()
    };
    let mut by_octets = ceiling(u64::from(u32::MAX));
    let records = observe(
        &mut by_octets,
        &[
            arrival(1, u32::MAX - 10, 0, 0),
            arrival(1, 10, 0, 1),
            arrival(1, 1, 0, 2),
        ],
    );
    assert_eq!(records.len(), 1);
    assert_eq!(
        (records[0].end, records[0].volume.octets, records[0].last_ms),
        (EndReason::CounterLimit, u64::from(u32::MAX), 1)
    );
    assert_eq!(by_octets.resident(), Volume::of_packet(1));
    let mut by_packets = ceiling(3);
    let records = observe(
        &mut by_packets,
        &[0, 1, 2, 3].map(|at_ms| arrival(1, 0, 0, at_ms)),
    );
    assert_eq!(
        (records[0].end, records[0].volume.packets),
        (EndReason::CounterLimit, 3)
    );
    assert_eq!(by_packets.resident(), Volume::of_packet(0));
}

#[test]
fn a_single_packet_is_accepted_whatever_the_ceiling() {
    for counter_max in [0, 1, 40] {
        let config = CacheConfig {
            counter_max,
            ..config(100, TIMEOUTS)
        };
        let mut cache = FlowCache::new(&config).unwrap();
        let records = observe(&mut cache, &[arrival(1, 41, 0, 0), arrival(1, 41, 0, 1)]);
        assert_eq!(records[0].volume, Volume::of_packet(41));
        assert_eq!(cache.resident(), Volume::of_packet(41));
    }
}

#[test]
fn without_a_ceiling_a_flow_counts_beyond_32_bits() {
    let config = CacheConfig {
        counter_max: u64::MAX,
        ..config(100, TIMEOUTS)
    };
    let mut cache = FlowCache::new(&config).unwrap();
    assert!(observe(&mut cache, &[arrival(1, u32::MAX, 0, 0); 5]).is_empty());
    assert_eq!(cache.resident().octets, 5 * u64::from(u32::MAX));
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
    // Flow 2 goes on all the time. In a new set the first way counts as evicted last, so the flow
    // in the second is the oldest.
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
fn where_all_flows_go_on_the_one_that_was_idle_longest_makes_room() {
    let mut cache = full_cache(2);
    // The five oldest are 1 to 5; all but 4 get another packet.
    let again: Vec<_> = [1, 2, 3, 5].map(|flow| arrival(flow, 40, 0, 100)).into();
    observe(&mut cache, &again);
    assert_eq!(evicted_by(&mut cache, arrival(100, 40, 0, 101)), 4);
}

#[test]
fn a_flow_that_was_silent_for_a_second_makes_room_before_one_that_was_not() {
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
fn a_call_of_expire_is_bounded_and_reports_when_the_hand_is_behind() {
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
fn a_visit_shows_each_resident_flow_as_it_would_be_exported() {
    let mut cache = cache(1000);
    observe(
        &mut cache,
        &[
            arrival(1, 40, 2, 5),
            arrival(1, 60, 16, 7),
            arrival(2, 40, 0, 8),
        ],
    );
    let (mut cursor, mut shown) = (Cursor::default(), Vec::new());
    let mut pieces = 1;
    while cache.visit(&mut cursor, 7, &mut |record| shown.push(*record)) {
        pieces += 1;
    }
    assert_eq!(pieces, cache.set_count().div_ceil(7));
    let mut drained = Vec::new();
    cache.drain(usize::MAX, &mut drained);
    shown.sort_by_key(|record| record.key.source);
    drained.sort_by_key(|record| record.key.source);
    assert_eq!((shown.len(), shown), (2, drained));
}

#[test]
fn a_visit_that_is_over_shows_nothing_more() {
    let mut cache = cache(10);
    observe(&mut cache, &[arrival(1, 40, 0, 0)]);
    let mut cursor = Cursor::default();
    assert!(!cache.visit(&mut cursor, usize::MAX, &mut |_| ()));
    assert!(!cache.visit(&mut cursor, usize::MAX, &mut |record| panic!("{record:?}")));
}

#[test]
fn only_the_flows_that_are_picked_are_expired() {
    let mut cache = cache(1000);
    let arrivals: Vec<_> = (0..100).map(|flow| arrival(flow, 40, 0, 0)).collect();
    observe(&mut cache, &arrivals);
    let (mut cursor, mut records) = (Cursor::default(), Vec::new());
    let mut is_even = |record: &FlowRecord| record.key.source.to_bits() % 2 == 0;
    while cache.expire_where(&mut cursor, 10, &mut is_even, &mut records) {}
    assert_eq!((records.len(), cache.len()), (50, 50));
    assert!(
        records
            .iter()
            .all(|record| is_even(record) && record.end == EndReason::Forced)
    );
    assert_eq!(cache.counters().expired[EndReason::Forced as usize], 50);
}

#[test]
fn longer_timeouts_hold_for_the_packets_of_flows_that_began_before() {
    let mut cache = cache(100);
    observe(
        &mut cache,
        &[0, 900, 1800, 2700, 3600, 4500].map(|at_ms| arrival(1, 40, 0, at_ms)),
    );
    cache.set_timeouts(Timeouts {
        active_ms: 50_000,
        ..TIMEOUTS
    });
    // The hand has not passed the flow since.
    assert!(observe(&mut cache, &[arrival(1, 40, 0, 5_400)]).is_empty());
    assert_eq!(cache.earliest_due_ms(u64::MAX), Some(6_400));
    assert_eq!(cache.resident().packets, 7);
}

#[test]
fn shorter_timeouts_expire_flows_that_began_before() {
    let timeouts = |idle_ms| Timeouts {
        idle_ms,
        active_ms: 1 << 40,
        ..TIMEOUTS
    };
    let mut cache = cache_with(1000, timeouts(1 << 30));
    let arrivals: Vec<_> = (0..100).map(|flow| arrival(flow, 40, 0, 0)).collect();
    observe(&mut cache, &arrivals);
    assert!(expire(&mut cache, 10_000).is_empty());
    cache.set_timeouts(timeouts(2_000));
    let expired: usize = (10_001..11_000)
        .map(|now_ms| expire(&mut cache, now_ms).len())
        .sum();
    assert_eq!(expired, 100);
}

#[test]
fn first_and_last_are_those_of_the_packets_though_they_come_out_of_order() {
    let mut cache = cache(100);
    let mut records = observe(
        &mut cache,
        &[500, 900, 400, 700].map(|at_ms| arrival(1, 40, 0, at_ms)),
    );
    cache.drain(usize::MAX, &mut records);
    let times: Vec<_> = records
        .iter()
        .map(|record| (record.first_ms, record.last_ms, record.volume.packets))
        .collect();
    assert_eq!(times, [(400, 900, 4)]);
}

/// The records of these packets of one flow, each of which comes when the clock reads `now_ms`.
fn strays(cache: &mut FlowCache, at: &[u64], now_ms: u64) -> Vec<FlowRecord> {
    let mut records = Vec::new();
    for &at_ms in at {
        cache.observe_stray(&mut arrival(1, 40, 0, at_ms), now_ms, &mut records);
    }
    records
}

#[test]
fn packets_of_one_key_that_are_far_apart_are_of_several_flows_at_a_time() {
    let mut cache = cache(100);
    observe(&mut cache, &[arrival(1, 40, 0, 100_000)]);
    let far = [0, 300_000, 500, 100_500, 300_900];
    assert!(strays(&mut cache, &far, 100_000).is_empty());
    assert!(observe(&mut cache, &[arrival(1, 40, 0, 100_900)]).is_empty());
    let mut records = Vec::new();
    cache.drain(usize::MAX, &mut records);
    let mut times: Vec<_> = records
        .iter()
        .map(|record| (record.first_ms, record.last_ms, record.volume.packets))
        .collect();
    times.sort_unstable();
    assert_eq!(
        times,
        [(0, 500, 2), (100_000, 100_900, 3), (300_000, 300_900, 2)]
    );
}

#[test]
fn a_flow_of_packets_that_are_late_has_its_idle_time_by_their_own_times() {
    let mut cache = cache(100);
    cache.start_at(100_000);
    // A source that is 40 s behind, with a packet each 900 ms where 1 s is the idle timeout.
    for step in 0..4 {
        let now_ms = 100_000 + step * 900;
        assert!(strays(&mut cache, &[now_ms - 40_000], now_ms).is_empty());
        assert!(expire(&mut cache, now_ms).is_empty());
    }
    let records: Vec<_> = (104_000..200_000)
        .step_by(100)
        .flat_map(|now_ms| expire(&mut cache, now_ms))
        .collect();
    assert_eq!((records.len(), records[0].volume.packets), (1, 4));
    assert_eq!(records[0].end, EndReason::Idle);
}

/// One packet of a flow is 20 s ahead, and the others go on without a gap.
#[test]
fn a_packet_whose_time_is_wrong_cuts_its_own_flow_nowhere_else() {
    let mut cache = cache_with(100, Timeouts::default());
    let mut records = observe(&mut cache, &[arrival(1, 40, 0, 120_000)]);
    for step in 0..40 {
        let now_ms = 120_000.max(100_000 + step * 500);
        records.extend(strays(&mut cache, &[100_000 + step * 500], now_ms));
    }
    cache.drain(usize::MAX, &mut records);
    let mut spans: Vec<_> = records
        .iter()
        .map(|record| (record.first_ms, record.last_ms, record.volume.packets))
        .collect();
    spans.sort_unstable();
    assert_eq!(spans, [(100_000, 119_500, 40), (120_000, 120_000, 1)]);
}

/// Lets time pass from one time to another as in a capture file: from one flow that is due to the
/// next.
fn let_time_pass(cache: &mut FlowCache, from_ms: u64, until_ms: u64) -> Vec<FlowRecord> {
    let (mut passed_ms, mut records) = (from_ms, Vec::new());
    while let Some(due_ms) = cache.earliest_due_ms(until_ms) {
        passed_ms = due_ms.max(passed_ms + HAND_ROUND_MS);
        cache.expire(passed_ms, usize::MAX, &mut records);
    }
    cache.expire(until_ms, usize::MAX, &mut records);
    records
}

/// Flows and sets that were read since the last call.
fn reads(cache: &FlowCache) -> (u64, u64) {
    (cache.flows_read.take(), cache.sets_read.take())
}

#[test]
fn a_gap_in_a_large_cache_costs_as_much_as_the_flows_that_fall_due_in_it() {
    let mut cache = cache(1_000_000);
    for gap in 0..1_000 {
        let now_ms = gap * 60_000;
        let flow = u32::try_from(gap).unwrap();
        assert!(observe(&mut cache, &[arrival(flow, 40, 0, now_ms)]).is_empty());
        let ended = let_time_pass(&mut cache, now_ms, now_ms + 60_000);
        assert_eq!((ended.len(), ended[0].last_ms), (1, now_ms));
    }
    // Each flow is looked at, found and expired, and its group of 64 sets is gone through.
    let (flows, sets) = reads(&cache);
    assert!(flows <= 3_000 && sets <= 64 * 1_000, "{flows} {sets}");
}

#[test]
fn a_gap_reads_no_flows_that_are_due_much_later() {
    const FLOWS: u32 = 50_000;
    const GAPS: u64 = 30;
    let timeouts = Timeouts {
        idle_ms: 2_000_000,
        active_ms: 3_000_000,
        linger_ms: 1_000,
        lifetime_spread_ms: 0,
    };
    let mut cache = cache_with(100_000, timeouts);
    let arrivals: Vec<_> = (0..FLOWS).map(|flow| arrival(flow, 40, 0, 0)).collect();
    assert!(observe(&mut cache, &arrivals).is_empty());
    assert!(let_time_pass(&mut cache, 0, 60_000).is_empty());
    reads(&cache);
    for gap in 1..=GAPS {
        let (now_ms, flow) = (gap * 60_000, FLOWS + u32::try_from(gap).unwrap());
        observe(&mut cache, &[arrival(flow, 40, 1, now_ms)]);
        let ended = let_time_pass(&mut cache, now_ms, now_ms + 60_000);
        assert_eq!(ended.len(), 1);
    }
    // One group of some 400 flows in each gap, to find the flow and to expire it.
    let (flows, sets) = reads(&cache);
    assert!(
        flows <= GAPS * 2_000 && sets <= 64 * 2 * GAPS,
        "{flows} {sets}"
    );
}

/// Gaps too short to be looked into, in which nothing falls due.
#[test]
fn short_gaps_read_no_flows_that_are_due_much_later() {
    const FLOWS: u32 = 50_000;
    let timeouts = Timeouts {
        idle_ms: 2_000_000,
        active_ms: 3_000_000,
        linger_ms: 1_000,
        lifetime_spread_ms: 0,
    };
    for gap_ms in [600, 2_000, 10_000, 14_000] {
        let mut cache = cache_with(100_000, timeouts);
        for flow in 0..FLOWS {
            observe(&mut cache, &[arrival(flow, 40, 0, u64::from(flow))]);
        }
        reads(&cache);
        for gap in 1..=100 {
            let now_ms = u64::from(FLOWS) + gap * gap_ms;
            observe(&mut cache, &[arrival(0, 40, 0, now_ms)]);
            assert!(let_time_pass(&mut cache, now_ms, now_ms + gap_ms).is_empty());
        }
        // No flow but that with packets.
        let (flows, sets) = reads(&cache);
        assert!(
            flows <= 200 && sets <= 64 * 200,
            "{gap_ms} ms: {flows} {sets}"
        );
    }
}
