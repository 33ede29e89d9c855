//! What the engine is compared with: the floor that the machine's memory sets, and hashbrown with
//! one look-up for each packet.
//!
//! Both store records of 64 octets in place, on the same kind of pages as the flow cache.

use crate::memory::HugePages;
use foldhash::SharedSeed;
use foldhash::quality::FoldHasher;
use hashbrown::HashTable;
use std::hash::Hasher;
use xdprobe_pipeline::capture::{BURST_MAX, prefetch};

/// The floor: records whose places are known are read, changed and written, each burst
/// prefetched.
pub struct Floor(allocator_api2::vec::Vec<Record, HugePages>);

impl Floor {
    /// Records of the flows below `count`.
    #[must_use]
    pub fn new(count: u32) -> Self {
        let mut records = allocator_api2::vec::Vec::with_capacity_in(count as usize, HugePages);
        records.extend((0..count).map(|flow| Record::new(flow.into())));
        Self(records)
    }

    /// Adds one packet of each of these flows.
    #[inline]
    pub fn update(&mut self, flows: &[u32], now_ms: u64) {
        for burst in flows.chunks(BURST_MAX) {
            burst
                .iter()
                .for_each(|flow| prefetch(&self.0[*flow as usize]));
            burst
                .iter()
                .for_each(|flow| self.0[*flow as usize].add(now_ms));
        }
    }

    /// Packets added so far.
    #[must_use]
    pub fn packets(&self) -> u64 {
        self.0.iter().map(|record| u64::from(record.packets)).sum()
    }
}

/// hashbrown in its simplest use: one `find_mut` for each packet, with a good hash of the same key.
pub struct LookUp {
    table: HashTable<Record, HugePages>,
    seed: SharedSeed,
}

impl LookUp {
    /// A table with these keys, as large as hashbrown makes it for `count` of them.
    pub fn new(count: u32, keys: impl Iterator<Item = u128>) -> Self {
        let seed = SharedSeed::from_u64(1);
        let mut table = HashTable::with_capacity_in(count as usize, HugePages);
        for key in keys {
            table.insert_unique(hash(&seed, key), Record::new(key), |record: &Record| {
                hash(&seed, record.key)
            });
        }
        Self { table, seed }
    }

    /// Adds one packet of each of these flows.
    ///
    /// # Panics
    ///
    /// If one of them is not in the table.
    #[inline]
    pub fn update(&mut self, keys: &[u128], now_ms: u64) {
        for key in keys {
            let found = self
                .table
                .find_mut(hash(&self.seed, *key), |record| record.key == *key);
            found.expect("all keys are in the table").add(now_ms);
        }
    }
}

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

    /// The least that a packet changes.
    #[inline]
    fn add(&mut self, now_ms: u64) {
        self.packets = self.packets.wrapping_add(1);
        self.octets = self.octets.wrapping_add(46);
        self.last_ms = now_ms;
    }
}

#[inline]
fn hash(seed: &SharedSeed, key: u128) -> u64 {
    let mut hasher = FoldHasher::with_seed(1, seed);
    hasher.write_u128(key);
    hasher.finish()
}
