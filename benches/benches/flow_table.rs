//! The flow cache against the same cache on hashbrown, and against memory itself: all flows resident, each packet of a random
//! one, in bursts of 64.
//!
//! `floor` is what the memory allows: as many known records are read, changed and written, in random order, with prefetching.
//! `hashbrown` looks each packet up by itself; `hashbrown_prefetched` asks for the tags and records of a burst before it
//! updates any. Both keep 64-octet records in place, on the same huge pages, with the same hash, and do with a record what
//! `flow_cache` (`FlowCache::observe`) does: timeouts, limits, counters. All have been asked for as many flows, and hold them:
//! hashbrown then has places for 2.1 million where a million flows are, and for 16.8 million where ten million are.
use allocator_api2::alloc::{AllocError, Allocator};
use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use foldhash::SharedSeed;
use foldhash::quality::FoldHasher;
use hashbrown::HashTable;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};
use std::alloc::Layout;
use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
use std::hash::Hasher;
use std::hint::black_box;
use std::net::Ipv4Addr;
use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::time::Duration;
use xdprobe_flow::fragment::Fragment;
use xdprobe_flow::{Arrival, Backing, CacheConfig, FlowCache, FlowKey, FlowRecord, Packet, Timeouts};

const BURST: usize = 64;

fn key(flow: u32) -> FlowKey {
    FlowKey {
        source: Ipv4Addr::from_bits(0x0a00_0000 | flow >> 8),
        destination: Ipv4Addr::new(10, 99, 0, 2),
        source_port: u16::try_from(1024 + (flow & 0xff)).unwrap_or(0),
        destination_port: 9,
        protocol: 17,
        tos: 0,
        input: 1,
    }
}

/// Flows in random order: xorshift64*, scaled without a division.
struct Flows {
    state: u64,
    count: u32,
}

impl Flows {
    fn next(&mut self) -> u32 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        let random = self.state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        u32::try_from((random * u64::from(self.count)) >> 32).unwrap_or(0)
    }
}

/// As large as the cache's own.
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

const TIMEOUTS: Timeouts =
    Timeouts { idle_ms: u64::MAX / 4, active_ms: u64::MAX / 4, linger_ms: 1_000, lifetime_spread_ms: 0 };

impl Record {
    fn new(key: u128) -> Self {
        Self { key, first_ms: 0, last_ms: 0, packets: 0, octets: 0, tcp_flags: 0 }
    }

    /// What the cache does to a resident flow; false where the flow would end.
    #[inline]
    fn add(&mut self, arrival: &Arrival, timeouts: &Timeouts) -> bool {
        let quiet_ms = if self.tcp_flags & 5 == 0 { timeouts.idle_ms } else { timeouts.linger_ms };
        let due_ms = (self.last_ms + quiet_ms).min(self.first_ms + timeouts.active_ms);
        let (Some(packets), Some(octets)) =
            (self.packets.checked_add(1), self.octets.checked_add(arrival.packet.octets))
        else {
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
    let packet = Packet { key: key(flow), octets: 46, tcp_flags: 0, fragment: Fragment::Whole };
    Arrival { packet, at_ms: 0 }
}

#[inline(always)]
fn prefetch<T>(value: &T) {
    // SAFETY: prefetching reads nothing architecturally and faults on no address.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(value).cast()) };
}

/// Gives hashbrown the pages that the flow cache has.
#[derive(Clone, Copy)]
struct HugePages;

// SAFETY: each allocation is a mapping of its own, at least as long and as aligned (to a page) as asked, until it is unmapped.
unsafe impl Allocator for HugePages {
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        let octets = NonZeroUsize::new(layout.size().next_multiple_of(2 << 20)).ok_or(AllocError)?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches nothing that exists.
        let mapping =
            unsafe { mmap_anonymous(None, octets, protection, MapFlags::MAP_PRIVATE) }.map_err(|_| AllocError)?;
        // SAFETY: the range is the mapping just made.
        let _ = unsafe { madvise(mapping, octets.get(), MmapAdvise::MADV_HUGEPAGE) };
        Ok(NonNull::slice_from_raw_parts(mapping.cast(), layout.size()))
    }

    unsafe fn deallocate(&self, start: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller gives back what `allocate` mapped.
        let _ = unsafe { munmap(start.cast(), layout.size().next_multiple_of(2 << 20)) };
    }
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

fn floor(group: &mut Group<'_>, count: u32) {
    let mut records = allocator_api2::vec::Vec::with_capacity_in(count as usize, HugePages);
    records.extend((0..count).map(|flow| Record::new(key(flow).to_bits())));
    let mut flows = Flows { state: 7, count };
    group.bench_function(BenchmarkId::new("floor", count), |bench| {
        bench.iter(|| {
            let burst: [usize; BURST] = std::array::from_fn(|_| flows.next() as usize);
            burst.iter().for_each(|&slot| prefetch(&records[slot]));
            for &slot in &burst {
                records[slot].packets = records[slot].packets.wrapping_add(1);
                records[slot].last_ms += 1;
            }
        });
    });
}

fn hashbrown(group: &mut Group<'_>, count: u32) {
    let hash = Hash(SharedSeed::from_u64(1));
    let mut table = HashTable::with_capacity_in(count as usize, HugePages);
    for flow in 0..count {
        let key = key(flow).to_bits();
        table.insert_unique(hash.of(key), Record::new(key), |record: &Record| hash.of(record.key));
    }
    let mut flows = Flows { state: 7, count };
    let mut observed = (0u64, 0u64);
    let timeouts = black_box(TIMEOUTS);
    let mut update = |table: &mut HashTable<Record, HugePages>, hash: u64, key: u128, arrival: &Arrival| {
        observed = (observed.0 + 1, observed.1 + u64::from(arrival.packet.octets));
        let found = table.find_mut(hash, |record| record.key == key);
        assert!(found.is_some_and(|record| record.add(arrival, &timeouts)));
    };
    group.bench_function(BenchmarkId::new("hashbrown", count), |bench| {
        bench.iter(|| {
            let arrivals: [Arrival; BURST] = std::array::from_fn(|_| arrival(flows.next()));
            for arrival in &arrivals {
                let key = arrival.packet.key.to_bits();
                update(&mut table, hash.of(key), key, arrival);
            }
        });
    });
    group.bench_function(BenchmarkId::new("hashbrown_prefetched", count), |bench| {
        bench.iter(|| {
            let arrivals: [Arrival; BURST] = std::array::from_fn(|_| arrival(flows.next()));
            let mut hashes = [0; BURST];
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
    let config = CacheConfig { flows_max: count as usize, timeouts: TIMEOUTS, seed: 1, backing: Backing::Prefaulted };
    let mut cache = FlowCache::new(&config).expect("memory for the flows");
    let mut records: Vec<FlowRecord> = Vec::new();
    let all: Vec<u32> = (0..count).collect();
    for burst in all.chunks(BURST) {
        let mut arrivals: Vec<_> = burst.iter().map(|&flow| arrival(flow)).collect();
        cache.observe(&mut arrivals, &mut records);
    }
    let mut flows = Flows { state: 7, count };
    group.bench_function(BenchmarkId::new("flow_cache", count), |bench| {
        bench.iter(|| {
            let mut arrivals: [Arrival; BURST] = std::array::from_fn(|_| arrival(flows.next()));
            cache.observe(&mut arrivals, &mut records);
            records.clear();
        });
    });
}

fn flow_table(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("flow_table");
    group.throughput(Throughput::Elements(BURST as u64));
    group.warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3)).sample_size(30);
    for count in [10_000, 1_000_000, 10_000_000] {
        floor(&mut group, count);
        hashbrown(&mut group, count);
        flow_cache(&mut group, count);
    }
    group.finish();
}

criterion_group!(benches, flow_table);
criterion_main!(benches);
