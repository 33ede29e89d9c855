//! The observation point: AF_XDP queues, libpcap and capture files, all of them a [`Source`] of
//! frames.
//!
//! A source is asked for a burst and shows each frame of it once, in place; nothing is copied and
//! nothing is decoded here. [`xdp`] takes frames from a network card's queue before the host's
//! stack sees them; [`LiveCapture`] looks on through libpcap; [`CaptureFile`] reads what somebody
//! captured. Whatever a source lost is in its [`SourceCounters`], by the place where it was lost.

mod file;
mod filter;
pub mod interface;
mod live;
mod sampling;
pub mod xdp;

pub use file::CaptureFile;
pub use filter::Filter;
pub use interface::Interface;
pub use live::LiveCapture;
pub use sampling::{Sampling, SamplingMode};

use std::io;
use std::time::Duration;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The most frames that one call of [`Source::receive`] shows.
pub const BURST_MAX: usize = 64;

/// Headers are asked for this many frames ahead of the one that is shown.
const PREFETCH_AHEAD: usize = 8;

/// One frame, where the source has it.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// What was captured, from the link header on.
    pub octets: &'a [u8],
    /// How long it was on the wire, in octets.
    pub wire_octets: u32,
    /// The LINKTYPE number of its link layer.
    pub link: u16,
    /// When it was captured.
    pub captured: CaptureTime,
}

/// When a frame was captured.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CaptureTime {
    /// As late as it was received: nobody noted a time.
    OfTheTurn,
    /// In ns since 1970.
    Wall(u64),
    /// In ns of CLOCK_MONOTONIC.
    Monotonic(u64),
}

/// What one call of [`Source::receive`] came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Received {
    /// Frames were taken, shown or filtered out, and more may be waiting.
    Frames,
    /// None is waiting.
    Nothing,
    /// There will be no more.
    End,
}

/// Where frames come from.
pub trait Source: Send {
    /// Shows up to [`BURST_MAX`] waiting frames to `each`, oldest first, without waiting for any.
    ///
    /// # Errors
    ///
    /// [`CaptureError`] once the source can give no more frames; all that came before has been
    /// shown.
    fn receive(&mut self, each: &mut impl FnMut(Frame<'_>)) -> Result<Received, CaptureError>;

    /// Sleeps until frames may be waiting, at most for `timeout`.
    fn wait(&mut self, timeout: Duration);

    /// What it has seen so far, and lost as far as it knows by itself. Makes no system call.
    fn counters(&self) -> SourceCounters;

    /// Asks the system what was lost, where nobody else does: a system call, so at most once a
    /// second.
    fn look_for_losses(&mut self) {}

    /// Whether its link is down: frames will come again without anybody's help once it is up.
    fn is_down(&self) -> bool {
        false
    }
}

/// What a source has seen and lost, in packets.
#[derive(
    Clone, Copy, Debug, Default, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq,
)]
#[repr(C)]
pub struct SourceCounters {
    /// Shown to the caller.
    pub received: u64,
    /// Octets of these frames on the wire, link header included.
    pub received_octets: u64,
    /// Taken from the source and not shown, since the filter does not want them.
    pub filtered: u64,
    /// Taken from the source and not shown, since others of their number stand for them.
    pub sampled_out: u64,
    /// Lost, by place.
    pub dropped: Dropped,
}

/// Packets that were offered and never received, by the place where they were lost.
#[derive(
    Clone, Copy, Debug, Default, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq,
)]
#[repr(C)]
pub struct Dropped {
    /// In the network card or its driver, before any program saw them.
    pub driver: u64,
    /// Passed on to the host, since their queue had no socket.
    pub no_socket: u64,
    /// The socket's receive ring was full: the reader was too slow.
    pub ring_full: u64,
    /// The socket had no frame to put them in, or they were too long for one.
    pub no_frame: u64,
    /// libpcap's buffer was full: the reader was too slow.
    pub kernel: u64,
    /// By the interface, as libpcap tells it.
    pub interface: u64,
}

impl Dropped {
    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.by_place().iter().map(|(_, packets)| packets).sum()
    }

    /// Each place by the name that reports and metrics use.
    #[must_use]
    pub fn by_place(&self) -> [(&'static str, u64); 6] {
        [
            ("driver", self.driver),
            ("no_socket", self.no_socket),
            ("ring_full", self.ring_full),
            ("no_frame", self.no_frame),
            ("kernel", self.kernel),
            ("interface", self.interface),
        ]
    }
}

impl SourceCounters {
    /// Frames taken from the source, shown or not.
    #[must_use]
    #[inline]
    pub fn taken(&self) -> u64 {
        self.received + self.filtered + self.sampled_out
    }
}

impl std::ops::AddAssign for Dropped {
    fn add_assign(&mut self, other: Self) {
        self.driver += other.driver;
        self.no_socket += other.no_socket;
        self.ring_full += other.ring_full;
        self.no_frame += other.no_frame;
        self.kernel += other.kernel;
        self.interface += other.interface;
    }
}

impl std::ops::AddAssign for SourceCounters {
    fn add_assign(&mut self, other: Self) {
        self.received += other.received;
        self.received_octets += other.received_octets;
        self.filtered += other.filtered;
        self.sampled_out += other.sampled_out;
        self.dropped += other.dropped;
    }
}

/// Why a source cannot be opened or cannot go on: what was found, what was wanted, where, and what
/// to do.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The file cannot be read.
    #[error("{name}: {error}")]
    Read {
        /// The file.
        name: String,
        /// What the system said.
        error: io::Error,
    },
    /// The file is something else.
    #[error("{name}: begins with {found}, wanted a capture file (pcap or pcapng)")]
    NotACapture {
        /// The file.
        name: String,
        /// Its first octets, or what they are known to be.
        found: String,
    },
    /// The file is truncated or contradicts itself; everything before the offset was read.
    #[error("{name}: damaged at octet {offset}: {what}; everything before it was accounted")]
    Damaged {
        /// The file.
        name: String,
        /// Where, in octets from its start.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// The filter expression is not one, or not for this link type.
    #[error("filter '{expression}' on link type {link}: {what}")]
    Filter {
        /// The expression.
        expression: String,
        /// The LINKTYPE number that it was compiled for.
        link: u16,
        /// What libpcap said.
        what: String,
    },
    /// There is no such interface.
    #[error("interface '{0}' does not exist; `ip link` lists those that do")]
    NoInterface(String),
    /// The interface went away while it was captured from.
    #[error("interface '{0}' is gone; what was seen of it is exported")]
    Gone(String),
    /// libpcap would not open the interface.
    #[error("cannot capture from '{name}' through libpcap: {what}")]
    Live {
        /// The interface.
        name: String,
        /// What libpcap said.
        what: String,
    },
    /// AF_XDP could not be set up.
    #[error("cannot capture from '{interface}' with AF_XDP: {what}")]
    Xdp {
        /// The interface.
        interface: String,
        /// What failed, why, and what to do.
        what: String,
    },
}

/// Asks for the cache line at an address, ahead of its use.
#[inline(always)]
fn prefetch<T>(address: *const T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: prefetching reads nothing architecturally and faults on no address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}
