//! The flow cache compared with the same cache on hashbrown, and with the floor that memory sets:
//! all flows resident, each packet of a random one, in bursts of 64.
//!
//! In `floor`, as many known records are read, changed and written, in random order, with
//! prefetching. `hashbrown` looks each packet up by itself; `hashbrown_prefetched` requests the tags
//! and records of a burst before it updates any. Both store 64-octet records in place, on the same
//! kind of huge pages, with the same hash, and do with a record what `flow_cache`
//! (`FlowCache::observe`) does: timeouts, limits, counters. All are created for the same number of
//! flows and hold them: hashbrown then has places for 2.1 million if there are a million flows, and
//! for 16.8 million if there are ten million.

use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
    measurement::WallTime,
};
use foldhash::SharedSeed;
use foldhash::quality::FoldHasher;
use hashbrown::HashTable;
use std::hash::Hasher;
use std::hint::black_box;
use std::time::Duration;
use xdprobe_benches::frames::{RandomFlows, key};
use xdprobe_benches::memory::HugePages;
use xdprobe_benches::metering::{NEVER, cache};
use xdprobe_benches::rivals::Floor;
use xdprobe_pipeline::capture::{BURST_MAX, prefetch};
use xdprobe_pipeline::flow::fragment::Fragment;
use xdprobe_pipeline::flow::{Arrival, FlowRecord, Key, Packet, Timeouts};

/// A flow, as large as one in the flow cache.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Record {
    key: u128,
    first_ms: u64,
    last_ms: u64,
    packets: u32,
    octets: u32,
    tcp_flags: u8,
}

const TIMEOUTS: Timeouts = Timeouts {
    linger_ms: 1_000,
    ..NEVER
};

impl Record {
    fn new(key: u128) -> Self {
        Self {
            key,
            first_ms: 0,
            last_ms: 0,
            packets: 0,
            octets: 0,
            tcp_flags: 0,
        }
    }

    /// Does what the cache does to a resident flow; false if the flow would end.
    #[inline]
    fn add(&mut self, arrival: &Arrival, timeouts: &Timeouts) -> bool {
        let quiet_ms = if self.tcp_flags & 5 == 0 {
            timeouts.idle_ms
        } else {
            timeouts.linger_ms
        };
        let due_ms = (self.last_ms + quiet_ms).min(self.first_ms + timeouts.active_ms);
        let (Some(packets), Some(octets)) = (
            self.packets.checked_add(1),
            self.octets.checked_add(arrival.packet.octets),
        ) else {
            *self = Self::new(self.key);
            return true;
        };
        (self.packets, self.octets) = (packets, octets);
        self.last_ms = self.last_ms.max(arrival.at_ms);
        self.tcp_flags |= arrival.packet.tcp_flags;
        arrival.at_ms < due_ms
    }
}

fn arrival(flow: u32) -> Arrival {
    let packet = Packet {
        key: key(flow),
        octets: 46,
        tcp_flags: 0,
        fragment: Fragment::Whole,
    };
    Arrival { packet, at_ms: 0 }
}

struct Hash(SharedSeed);

impl Hash {
    #[inline]
    fn of(&self, key: u128) -> u64 {
        let mut hasher = FoldHasher::with_seed(1, &self.0);
        hasher.write_u128(key);
        hasher.finish()
    }
}

type Group<'a> = BenchmarkGroup<'a, WallTime>;

fn next(flows: &mut RandomFlows) -> u32 {
    flows.next().expect("random flows do not end")
}

fn floor(group: &mut Group<'_>, count: u32) {
    let mut floor = Floor::new(count);
    let mut flows = RandomFlows::below(count);
    group.bench_function(BenchmarkId::new("floor", count), |bench| {
        bench.iter(|| {
            let burst: [u32; BURST_MAX] = std::array::from_fn(|_| next(&mut flows));
            floor.update(&burst, 1);
        });
    });
}

fn hashbrown(group: &mut Group<'_>, count: u32) {
    let hash = Hash(SharedSeed::from_u64(1));
    let mut table = HashTable::with_capacity_in(count as usize, HugePages);
    for flow in 0..count {
        let key = key(flow).to_bits();
        table.insert_unique(hash.of(key), Record::new(key), |record: &Record| {
            hash.of(record.key)
        });
    }
    let mut flows = RandomFlows::below(count);
    let mut observed = (0u64, 0u64);
    let timeouts = black_box(TIMEOUTS);
    let mut update =
        |table: &mut HashTable<Record, HugePages>, hash: u64, key: u128, arrival: &Arrival| {
            observed = (
                observed.0 + 1,
                observed.1 + u64::from(arrival.packet.octets),
            );
            let found = table.find_mut(hash, |record| record.key == key);
            assert!(found.is_some_and(|record| record.add(arrival, &timeouts)));
        };
    group.bench_function(BenchmarkId::new("hashbrown", count), |bench| {
        bench.iter(|| {
            let arrivals: [Arrival; BURST_MAX] = std::array::from_fn(|_| arrival(next(&mut flows)));
            for arrival in &arrivals {
                let key = arrival.packet.key.to_bits();
                update(&mut table, hash.of(key), key, arrival);
            }
        });
    });
    group.bench_function(BenchmarkId::new("hashbrown_prefetched", count), |bench| {
        bench.iter(|| {
            let arrivals: [Arrival; BURST_MAX] = std::array::from_fn(|_| arrival(next(&mut flows)));
            let mut hashes = [0; BURST_MAX];
            for (into, arrival) in hashes.iter_mut().zip(&arrivals) {
                *into = hash.of(arrival.packet.key.to_bits());
                black_box(table.find(*into, |record| {
                    prefetch(record);
                    true
                }));
            }
            for (&hash, arrival) in hashes.iter().zip(&arrivals) {
                update(&mut table, hash, arrival.packet.key.to_bits(), arrival);
            }
        });
    });
}

fn flow_cache(group: &mut Group<'_>, count: u32) {
    let mut cache = cache(count as usize, TIMEOUTS);
    let mut records: Vec<FlowRecord> = Vec::new();
    let all: Vec<u32> = (0..count).collect();
    for burst in all.chunks(BURST_MAX) {
        let mut arrivals: Vec<_> = burst.iter().map(|&flow| arrival(flow)).collect();
        cache.observe(&mut arrivals, &mut records);
    }
    let mut flows = RandomFlows::below(count);
    group.bench_function(BenchmarkId::new("flow_cache", count), |bench| {
        bench.iter(|| {
            let mut arrivals: [Arrival; BURST_MAX] =
                std::array::from_fn(|_| arrival(next(&mut flows)));
            cache.observe(&mut arrivals, &mut records);
            records.clear();
        });
    });
}

fn flow_table(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("flow_table");
    group.throughput(Throughput::Elements(BURST_MAX as u64));
    group
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3))
        .sample_size(30);
    for count in [10_000, 1_000_000, 10_000_000] {
        floor(&mut group, count);
        hashbrown(&mut group, count);
        flow_cache(&mut group, count);
    }
    group.finish();
}

criterion_group!(benches, flow_table);
criterion_main!(benches);
