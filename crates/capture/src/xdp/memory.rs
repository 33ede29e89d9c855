//! Rings and a bell in plain memory, for tests: the kernel and the card are queues of integers.

use super::abi::{Rest, Stamp};
use super::bell::Bell;
use super::rings::{Descriptor, Rings};
use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::time::Duration;

/// Rings of UMEM frames with the addresses from 0 on.
pub(super) struct MemoryRings {
    /// The most UMEM frames that the fill ring takes at once.
    pub produce_max: usize,
    /// The error number of the next kicks, if they fail.
    pub kick_errno: Option<i32>,
    /// Kicks so far.
    pub kicks: Cell<usize>,
    /// Whether the driver asks for kicks.
    pub needs_kick: bool,
    /// The stamps of UMEM frames, by address.
    pub stamps: HashMap<u32, Stamp>,
    frame_count: u32,
    fill: VecDeque<u32>,
    received: VecDeque<Segment>,
    /// Each UMEM frame, filled with its address.
    memory: Vec<[u8; SEGMENT_OCTETS_MAX]>,
}

/// A descriptor in memory.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Segment {
    pub address: u32,
    octets: u32,
    is_continued: bool,
}

/// The longest segment.
const SEGMENT_OCTETS_MAX: usize = 64;

impl MemoryRings {
    /// Empty rings for a UMEM of so many frames, 256 at most.
    pub fn new(frame_count: u32) -> Self {
        let memory =
            (0..frame_count).map(|address| [u8::try_from(address).unwrap(); SEGMENT_OCTETS_MAX]);
        Self {
            produce_max: usize::MAX,
            kick_errno: None,
            kicks: Cell::new(0),
            needs_kick: false,
            stamps: HashMap::new(),
            frame_count,
            fill: VecDeque::new(),
            received: VecDeque::new(),
            memory: memory.collect(),
        }
    }

    /// All UMEM frames, as they are handed out when a socket is opened.
    pub fn umem(&self) -> Vec<Segment> {
        let segment = |address| Segment {
            address,
            ..Segment::default()
        };
        (0..self.frame_count).map(segment).collect()
    }

    /// The card receives a frame in segments of these lengths, if the fill ring has UMEM frames for
    /// all of them; returns the address of the first.
    pub fn arrive(&mut self, octets: &[u32]) -> Option<u32> {
        if self.fill.len() < octets.len() {
            return None;
        }
        let first = self.fill.front().copied();
        for (index, &octets_here) in octets.iter().enumerate() {
            let address = self.fill.pop_front().unwrap();
            self.received.push_back(Segment {
                address,
                octets: octets_here,
                is_continued: index + 1 < octets.len(),
            });
        }
        first
    }

    /// Entries of the receive ring.
    pub fn received_count(&self) -> usize {
        self.received.len()
    }

    /// Entries of the fill ring.
    pub fn fill_count(&self) -> usize {
        self.fill.len()
    }

    /// The addresses of the UMEM frames in both rings.
    pub fn addresses(&self) -> impl Iterator<Item = u32> + '_ {
        let received = self.received.iter().map(|segment| segment.address);
        self.fill.iter().copied().chain(received)
    }
}

impl Rings for MemoryRings {
    type Descriptor = Segment;

    fn consume(&mut self, burst: &mut [Segment]) -> usize {
        let count = burst.len().min(self.received.len());
        for (into, segment) in burst.iter_mut().zip(self.received.drain(..count)) {
            *into = segment;
        }
        count
    }

    fn produce(&mut self, idle: &[Segment]) -> usize {
        let count = idle.len().min(self.produce_max);
        self.fill
            .extend(idle[..count].iter().map(|segment| segment.address));
        count
    }

    fn octets(&self, segment: &Segment) -> &[u8] {
        &self.memory[segment.address as usize][..segment.octets as usize]
    }

    fn stamp(&self, segment: &Segment) -> Stamp {
        self.stamps.get(&segment.address).copied().unwrap_or(Stamp {
            monotonic_ns: 0,
            rest: 0,
            unused: 0,
        })
    }

    fn needs_kick(&self) -> bool {
        self.needs_kick
    }

    fn kick(&self) -> io::Result<()> {
        self.kicks.set(self.kicks.get() + 1);
        self.kick_errno
            .map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)))
    }

    fn has_frames(&self) -> bool {
        !self.received.is_empty()
    }
}

impl Descriptor for Segment {
    fn octets(&self) -> u32 {
        self.octets
    }

    fn is_continued(&self) -> bool {
        self.is_continued
    }
}

/// A bell that a test rings.
#[derive(Default)]
pub(super) struct MemoryBell {
    /// Whether it rings during each wait.
    pub rings: bool,
    /// Whether no rest can be published.
    pub is_broken: bool,
    /// The time.
    pub now_ns: u64,
    /// How long it has not run after each nap.
    pub stopped_ns: u64,
    /// What its reader did.
    pub calls: Vec<Call>,
}

/// A call of a reader.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Call {
    Publish { number: u32, entries: u32 },
    Wait(Duration),
    Silence,
    Nap(Duration),
}

impl Bell for MemoryBell {
    fn publish(&mut self, rest: Rest) -> bool {
        let Rest {
            number, entries, ..
        } = rest;
        self.calls.push(Call::Publish { number, entries });
        !self.is_broken
    }

    fn wait(&mut self, timeout: Duration) -> bool {
        self.calls.push(Call::Wait(timeout));
        self.rings
    }

    fn silence(&mut self) {
        self.calls.push(Call::Silence);
    }

    fn nap(&mut self, time: Duration) {
        self.calls.push(Call::Nap(time));
        self.now_ns += self.stopped_ns;
    }

    fn now_ns(&self) -> u64 {
        self.now_ns
    }
}
