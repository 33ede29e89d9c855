//! The route table: a million prefixes, read from CSV and looked up, against well-known tries.
//!
//! Prefixes are at random in the whole address space, with lengths distributed as in the Internet's
//! tables: 60 % are /24. `known` looks up addresses in prefixes of the table, `anywhere` any address;
//! both at random, which is the worst case for caches. Times are CPU times of the measuring thread:
//! on a shared machine, wall time includes other processes.

use criterion::{Bencher, Criterion, Throughput, criterion_group, criterion_main};
use ip_network_table_deps_treebitmap::IpLookupTable;
use ipnet::Ipv4Net;
use iptrie::{IpPrefix, Ipv4Prefix, map::RTrieMap};
use nix::time::{ClockId, clock_gettime};
use prefix_trie::PrefixMap;
use std::fmt::Write;
use std::hint::black_box;
use std::net::Ipv4Addr;
use std::time::Duration;
use xdprobe_pipeline::export::RouteTable;

const PREFIXES: usize = 1_000_000;
/// Addresses that are looked up in one iteration: far more than the processor's caches hold.
const ADDRESSES: usize = 1 << 20;

/// xorshift64*, its upper half.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        u32::try_from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32).unwrap_or(0)
    }

    fn below(&mut self, count: usize) -> usize {
        self.next() as usize % count
    }
}

fn mask(length: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0)
}

fn prefixes(random: &mut Random) -> Vec<(u32, u8)> {
    let mut prefixes = std::collections::BTreeSet::new();
    while prefixes.len() < PREFIXES {
        let length = match random.below(100) {
            0..60 => 24,
            60..73 => 22,
            73..81 => 23,
            81..87 => 21,
            87..93 => 20,
            93..97 => 19,
            97..99 => 16,
            _ => 12,
        };
        prefixes.insert((random.next() & mask(length), length));
    }
    prefixes.into_iter().collect()
}

fn csv(prefixes: &[(u32, u8)]) -> String {
    let mut file = "prefix,as,nexthop\n".to_owned();
    for (number, &(bits, length)) in prefixes.iter().enumerate() {
        let _ = writeln!(
            file,
            "{}/{length},{},192.0.2.1",
            Ipv4Addr::from_bits(bits),
            number % 70_000
        );
    }
    file
}

fn net(&(bits, length): &(u32, u8)) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::from_bits(bits), length)
}

fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

fn in_cpu_time<T>(bench: &mut Bencher<'_>, work: impl Fn() -> T) {
    bench.iter_custom(|rounds| {
        let before = cpu_time();
        for _ in 0..rounds {
            black_box(work());
        }
        cpu_time() - before
    });
}

fn route_table(criterion: &mut Criterion) {
    let mut random = Random(7);
    let prefixes = prefixes(&mut random);
    let file = csv(&prefixes);
    let mut load = criterion.benchmark_group("route_table_load");
    load.sample_size(10)
        .measurement_time(Duration::from_secs(8))
        .throughput(Throughput::Elements(PREFIXES as u64));
    load.bench_function("million_prefixes", |bench| {
        in_cpu_time(bench, || {
            RouteTable::read(file.as_bytes()).map_or(0, |table| table.len())
        });
    });
    load.finish();

    let Ok(table) = RouteTable::read(file.as_bytes()) else {
        return;
    };
    let mut bitmap = IpLookupTable::<Ipv4Addr, u32>::new();
    let (mut trie, mut radix) = (
        PrefixMap::<Ipv4Net, u32>::new(),
        RTrieMap::<Ipv4Prefix, u32>::new(),
    );
    for (number, prefix) in (0u32..).zip(&prefixes) {
        let (address, length) = (Ipv4Addr::from_bits(prefix.0), prefix.1);
        bitmap.insert(address, length.into(), number);
        trie.insert(net(prefix), number);
        if let Ok(prefix) = Ipv4Prefix::new(address, length) {
            radix.insert(prefix, number);
        }
    }
    let compressed = radix.compress();

    let known = (0..ADDRESSES).map(|_| {
        let (bits, length) = prefixes[random.below(PREFIXES)];
        Ipv4Addr::from_bits(bits | (random.next() & !mask(length)))
    });
    let known: Vec<_> = known.collect();
    let anywhere: Vec<_> = (0..ADDRESSES)
        .map(|_| Ipv4Addr::from_bits(random.next()))
        .collect();
    for (name, addresses) in [("known", &known), ("anywhere", &anywhere)] {
        let mut group = criterion.benchmark_group(format!("route_look_up_{name}"));
        group
            .throughput(Throughput::Elements(ADDRESSES as u64))
            .sample_size(10);
        group
            .warm_up_time(Duration::from_millis(500))
            .measurement_time(Duration::from_secs(2));
        group.bench_function("route_table", |bench| {
            in_cpu_time(bench, || {
                addresses
                    .iter()
                    .map(|&address| u64::from(table.look_up(address).mask))
                    .sum::<u64>()
            });
        });
        group.bench_function("treebitmap", |bench| {
            let length = |address: &Ipv4Addr| {
                bitmap
                    .longest_match(*address)
                    .map_or(0, |(_, length, _)| u64::from(length))
            };
            in_cpu_time(bench, || addresses.iter().map(length).sum::<u64>());
        });
        group.bench_function("prefix_trie", |bench| {
            let length = |address: &Ipv4Addr| {
                trie.get_lpm(&Ipv4Net::from(*address))
                    .map_or(0, |(net, _)| net.prefix_len())
            };
            in_cpu_time(bench, || {
                addresses
                    .iter()
                    .map(|address| u64::from(length(address)))
                    .sum::<u64>()
            });
        });
        group.bench_function("iptrie", |bench| {
            in_cpu_time(bench, || {
                addresses
                    .iter()
                    .map(|address| u64::from(compressed.lookup(address).0.len()))
                    .sum::<u64>()
            });
        });
        group.finish();
    }
}

criterion_group!(benches, route_table);
criterion_main!(benches);
