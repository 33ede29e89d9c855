//! The longest burst while flows come and go: a million resident flows, each packet a new flow for
//! which an old one makes room. A receive ring of 32 768 entries is full after 3.3 ms at 10 million
//! packets a second.
//!
//! hashbrown leaves tombstones and clears them by rehashing the whole table in place from time to
//! time; the flow cache always evicts within two sets. Times include those when the thread is not
//! on a core, so the median of the longest bursts of all rounds is reported, and of the rounds'
//! means the least, the median and the most: `cargo bench --bench churn -- --rounds 150` shows over
//! a minute whether the mean stays the same.
#![expect(clippy::print_stdout, reason = "its result")]

use clap::Parser;
use foldhash::SharedSeed;
use foldhash::quality::FoldHasher;
use hashbrown::HashTable;
use std::hash::Hasher;
use std::net::Ipv4Addr;
use std::time::Duration;
use xdprobe_benches::clock::now;
use xdprobe_benches::metering::{NEVER, cache};
use xdprobe_pipeline::capture::BURST_MAX;
use xdprobe_pipeline::flow::fragment::Fragment;
use xdprobe_pipeline::flow::{Arrival, FlowRecord, Key, KeyV4, Packet, Timeouts};

/// Packets of a burst.
#[expect(clippy::cast_possible_truncation, reason = "a burst is short")]
const BURST: u32 = BURST_MAX as u32;
const RESIDENT: u32 = 1_000_000;
const PACKETS: u32 = 8_000_000;

/// The longest burst while flows come and go.
#[derive(Parser)]
struct Arguments {
    /// Rounds of 8 million packets
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// An option that cargo gives to every bench
    #[arg(long, hide = true)]
    bench: bool,
}

fn key(flow: u32) -> KeyV4 {
    let (source, destination) = (Ipv4Addr::from_bits(flow), Ipv4Addr::new(10, 99, 0, 2));
    KeyV4 {
        source,
        destination,
        source_port: 1024,
        destination_port: 9,
        protocol: 6,
        tos: 0,
        point: 1,
    }
}

/// Measures one more round, of new flows each time; returns its longest burst, and its mean for a
/// packet.
type Round = Box<dyn FnMut() -> (Duration, Duration)>;

fn rounds(mut burst: impl FnMut(u32) + 'static) -> Round {
    let mut next = 0_u32;
    Box::new(move || {
        let last = next.wrapping_add(PACKETS);
        let mut longest = Duration::ZERO;
        let start = now();
        while next != last {
            let before = now();
            burst(next);
            longest = longest.max(before.elapsed());
            next = next.wrapping_add(BURST);
        }
        (longest, start.elapsed() / PACKETS)
    })
}

fn hash(key: u128) -> u64 {
    let mut hasher = FoldHasher::with_seed(1, SharedSeed::global_fixed());
    hasher.write_u128(key);
    hasher.finish()
}

fn hashbrown() -> Round {
    let mut table = HashTable::with_capacity(RESIDENT as usize);
    let record = |flow: u32| (key(flow).to_bits(), [0u64; 6]);
    let insert = move |table: &mut HashTable<(u128, [u64; 6])>, flow| {
        let record = record(flow);
        table.insert_unique(hash(record.0), record, |record| hash(record.0));
    };
    (0..RESIDENT).for_each(|flow| insert(&mut table, flow));
    rounds(move |first| {
        for flow in first..first + BURST {
            let old = key(flow).to_bits();
            if let Ok(entry) = table.find_entry(hash(old), |record| record.0 == old) {
                entry.remove();
            }
            insert(&mut table, flow.wrapping_add(RESIDENT));
        }
    })
}

fn flow_cache() -> Round {
    let timeouts = Timeouts {
        linger_ms: 1_000,
        ..NEVER
    };
    let mut cache = cache((RESIDENT * 5 / 6) as usize, timeouts);
    let mut records: Vec<FlowRecord> = Vec::with_capacity(4_096);
    let mut now_ms = 0;
    let mut observe = move |first: u32| {
        now_ms += 1;
        let packet = |flow| Packet {
            key: key(flow),
            octets: 46,
            tcp_flags: 2,
            fragment: Fragment::Whole,
        };
        let mut arrivals: [Arrival; BURST as usize] = std::array::from_fn(|n| Arrival {
            packet: packet(first + u32::try_from(n).unwrap_or(0)),
            at_ms: now_ms,
        });
        cache.observe(&mut arrivals, &mut records);
        records.clear();
    };
    (0..2 * RESIDENT)
        .step_by(BURST as usize)
        .for_each(&mut observe);
    rounds(move |first| observe(first.wrapping_add(2 * RESIDENT)))
}

fn main() {
    let arguments = Arguments::parse();
    for (name, mut round) in [("hashbrown", hashbrown()), ("flow_cache", flow_cache())] {
        let mut longest = Vec::new();
        let mut means = Vec::new();
        for _ in 0..arguments.rounds.max(1) {
            let (one, mean) = round();
            longest.push(one);
            means.push(mean);
        }
        longest.sort_unstable();
        means.sort_unstable();
        let median = longest.len() / 2;
        println!(
            "churn/{name}: longest burst of {BURST} {:?}, a packet {:?} to {:?}, median {:?}; {} rounds",
            longest[median],
            means[0],
            means[means.len() - 1],
            means[median],
            means.len()
        );
    }
}
