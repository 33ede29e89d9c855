//! What a source received, left out and lost, in packets.

use std::ops::AddAssign;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The counters of one source. They only grow.
#[derive(
    Clone, Copy, Debug, Default, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq,
)]
#[repr(C)]
pub struct SourceCounters {
    /// Frames shown to the caller.
    pub received: u64,
    /// Octets of the shown frames on the wire, link header included.
    pub received_octets: u64,
    /// Frames taken from the source that the filter rejected.
    pub filtered: u64,
    /// Frames taken from the source that sampling left out.
    pub sampled_out: u64,
    /// Packets lost, by place.
    pub dropped: Dropped,
}

impl SourceCounters {
    /// Frames taken from the source, shown or not.
    #[must_use]
    #[inline]
    pub fn taken(&self) -> u64 {
        self.received + self.filtered + self.sampled_out
    }
}

impl AddAssign for SourceCounters {
    fn add_assign(&mut self, other: Self) {
        self.received += other.received;
        self.received_octets += other.received_octets;
        self.filtered += other.filtered;
        self.sampled_out += other.sampled_out;
        self.dropped += other.dropped;
    }
}

/// Packets that were offered but not received, by the place where they were lost.
#[derive(
    Clone, Copy, Debug, Default, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq,
)]
#[repr(C)]
pub struct Dropped {
    /// In the network card or its driver, before the XDP program ran.
    pub driver: u64,
    /// Not seen by the XDP program, because it was not attached or not run on their channel.
    pub no_program: u64,
    /// Passed on to the host because their queue had no socket.
    pub no_socket: u64,
    /// The kernel had unbound the socket: the interface was removed or moved away.
    pub unbound: u64,
    /// The socket's receive ring was full: the reader was too slow.
    pub ring_full: u64,
    /// The socket had no free UMEM frame, or the packet was too long for one.
    pub no_frame: u64,
    /// libpcap's buffer was full: the reader was too slow.
    pub kernel: u64,
    /// By the interface, as libpcap reports it.
    pub interface: u64,
}

impl Dropped {
    /// The sum over all places.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.by_place().iter().map(|(_, packets)| packets).sum()
    }

    /// Each place with the name that reports and metrics use for it.
    #[must_use]
    pub fn by_place(&self) -> [(&'static str, u64); 8] {
        [
            ("driver", self.driver),
            ("no_program", self.no_program),
            ("no_socket", self.no_socket),
            ("unbound", self.unbound),
            ("ring_full", self.ring_full),
            ("no_frame", self.no_frame),
            ("kernel", self.kernel),
            ("interface", self.interface),
        ]
    }
}

impl AddAssign for Dropped {
    fn add_assign(&mut self, other: Self) {
        self.driver += other.driver;
        self.no_program += other.no_program;
        self.no_socket += other.no_socket;
        self.unbound += other.unbound;
        self.ring_full += other.ring_full;
        self.no_frame += other.no_frame;
        self.kernel += other.kernel;
        self.interface += other.interface;
    }
}
