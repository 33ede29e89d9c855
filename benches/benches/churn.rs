//! How long the longest burst takes while flows come and go: a million resident, each packet a new flow that takes the place
//! of an old one. A receive ring of 32 768 entries is full after 3.3 ms at 10 million packets a second.
//!
//! hashbrown leaves tombstones behind and clears them by rehashing the whole table in place, now and then; the flow cache
//! evicts within two sets, always. Times include being taken off the core, so the median of five rounds is given too.

use foldhash::SharedSeed;
use foldhash::quality::FoldHasher;
use hashbrown::HashTable;
use std::hash::Hasher;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};
use xdprobe_flow::fragment::Fragment;
use xdprobe_flow::{Arrival, Backing, CacheConfig, FlowCache, FlowKey, FlowRecord, Packet, Timeouts};

const BURST: u32 = 64;
const RESIDENT: u32 = 1_000_000;
const PACKETS: u32 = 8_000_000;
const ROUNDS: usize = 5;

fn key(flow: u32) -> FlowKey {
    let (source, destination) = (Ipv4Addr::from_bits(flow), Ipv4Addr::new(10, 99, 0, 2));
    FlowKey { source, destination, source_port: 1024, destination_port: 9, protocol: 6, tos: 0, input: 1 }
}

/// The longest burst of one round, and the round's mean for a packet.
fn round(mut burst: impl FnMut(u32)) -> (Duration, Duration) {
    let mut longest = Duration::ZERO;
    let start = now();
    for first in (0..PACKETS).step_by(BURST as usize) {
        let before = now();
        burst(first);
        longest = longest.max(before.elapsed());
    }
    (longest, start.elapsed() / PACKETS)
}

#[expect(clippy::disallowed_methods, reason = "a bench is there to read the clock")]
fn now() -> Instant {
    Instant::now()
}

fn hashbrown() -> (Duration, Duration) {
    let seed = SharedSeed::from_u64(1);
    let hash = |key: u128| {
        let mut hasher = FoldHasher::with_seed(1, &seed);
        hasher.write_u128(key);
        hasher.finish()
    };
    let mut table = HashTable::with_capacity(RESIDENT as usize);
    let record = |flow: u32| (key(flow).to_bits(), [0u64; 6]);
    let insert = |table: &mut HashTable<(u128, [u64; 6])>, flow| {
        let record = record(flow);
        table.insert_unique(hash(record.0), record, |record| hash(record.0));
    };
    (0..RESIDENT).for_each(|flow| insert(&mut table, flow));
    round(|first| {
        for flow in first..first + BURST {
            let old = key(flow).to_bits();
            if let Ok(entry) = table.find_entry(hash(old), |record| record.0 == old) {
                entry.remove();
            }
            insert(&mut table, flow + RESIDENT);
        }
    })
}

fn flow_cache() -> (Duration, Duration) {
    let timeouts = Timeouts { idle_ms: u64::MAX / 4, active_ms: u64::MAX / 4, linger_ms: 1_000, lifetime_spread_ms: 0 };
    let flows_max = (RESIDENT * 5 / 6) as usize;
    let config = CacheConfig { flows_max, timeouts, seed: 1, backing: Backing::Prefaulted };
    let mut cache = FlowCache::new(&config).expect("memory for the flows");
    let mut records: Vec<FlowRecord> = Vec::with_capacity(4_096);
    let mut observe = |first: u32| {
        let packet = |flow| Packet { key: key(flow), octets: 46, tcp_flags: 2, fragment: Fragment::Whole };
        let mut arrivals: [Arrival; BURST as usize] = std::array::from_fn(|n| Arrival {
            packet: packet(first + u32::try_from(n).unwrap_or(0)),
            at_ms: u64::from(first),
        });
        cache.observe(&mut arrivals, &mut records);
        records.clear();
    };
    (0..2 * RESIDENT).step_by(BURST as usize).for_each(&mut observe);
    round(|first| observe(first + 2 * RESIDENT))
}

fn main() {
    for (name, bench) in [("hashbrown", hashbrown as fn() -> _), ("flow_cache", flow_cache)] {
        let mut rounds: Vec<(Duration, Duration)> = (0..ROUNDS).map(|_| bench()).collect();
        rounds.sort();
        let (longest, mean) = rounds[ROUNDS / 2];
        println!("churn/{name}: longest burst of {BURST} {longest:?} (median of {ROUNDS} rounds), {mean:?} a packet");
    }
}
