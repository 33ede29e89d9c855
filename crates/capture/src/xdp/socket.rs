//! An AF_XDP socket: its UMEM, its rings, and how it is bound to a queue.

use super::abi::Stamp;
use super::config::Mode;
use super::rings::{Descriptor, Rings};
use super::socket_options;
use crate::error::{errno, in_one_line};
use crate::forbidden::{NET_ADMIN, NET_RAW, forbidden};
use crate::interface::Interface;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io;
use std::num::NonZeroU32;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;
use xsk_rs::config::{BindFlags, FrameSize, LibxdpFlags, QueueSize, SocketConfig, UmemConfig};
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, TxQueue, Umem};

/// An AF_XDP socket bound to one RX queue.
pub(super) struct Socket {
    // The kernel closes the socket when the last of its four rings is dropped, so the two unused
    // ones are kept beside the others.
    rx: RxQueue,
    fill: FillQueue,
    _unused: (TxQueue, CompQueue),
    umem: Umem,
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor stays open as long as `rx` lives, which the borrow of `self`
        // ensures.
        unsafe { BorrowedFd::borrow_raw(self.rx.fd().as_raw_fd()) }
    }
}

// The rings are used by one reader, whose `Frames` has each UMEM frame in one place: descriptors
// that are passed to `octets` and `stamp` came from `consume` and were not passed to `produce`
// since.
impl Rings for Socket {
    type Descriptor = FrameDesc;

    #[inline]
    fn consume(&mut self, burst: &mut [FrameDesc]) -> usize {
        // SAFETY: the descriptors are used with the UMEM of this socket alone.
        unsafe { self.rx.consume(burst) }
    }

    #[inline]
    fn produce(&mut self, idle: &[FrameDesc]) -> usize {
        // SAFETY: the descriptors were made by this UMEM or its receive ring, are in no ring, and
        // are not used after being produced.
        unsafe { self.fill.produce(idle) }
    }

    #[inline(always)]
    fn octets(&self, descriptor: &FrameDesc) -> &[u8] {
        // SAFETY: the descriptor came from this UMEM's receive ring and has not been produced
        // since, so kernel and card do not write to the frame; nothing here writes to frames.
        unsafe { self.umem.data(descriptor) }.contents()
    }

    #[inline]
    fn stamp(&self, descriptor: &FrameDesc) -> Stamp {
        let stamp = self
            .octets(descriptor)
            .as_ptr()
            .cast::<Stamp>()
            .wrapping_sub(1);
        // SAFETY: the kernel leaves 256 octets (XDP_PACKET_HEADROOM) before a received frame in the
        // same UMEM. Any octets are a stamp, at any alignment. Kernel and card do not write there
        // until the frame is produced.
        unsafe { stamp.read_unaligned() }
    }

    #[inline]
    fn needs_kick(&self) -> bool {
        self.fill.needs_wakeup()
    }

    fn kick(&self) -> io::Result<()> {
        socket_options::kick(self.as_fd())
    }

    fn has_frames(&self) -> bool {
        poll(
            &mut [PollFd::new(self.as_fd(), PollFlags::POLLIN)],
            PollTimeout::ZERO,
        ) == Ok(1)
    }
}

impl Descriptor for FrameDesc {
    #[inline(always)]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the length field of xdp_desc has 32 bits"
    )]
    fn octets(&self) -> u32 {
        self.lengths().data() as u32
    }

    #[inline(always)]
    fn is_continued(&self) -> bool {
        self.has_more_frames()
    }
}

/// The sizes of a queue's memory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Layout {
    ring_entries: u32,
    frame_count: NonZeroU32,
    frame_octets: u32,
}

impl Layout {
    /// The layout of each queue of `interface` with so many ring entries.
    ///
    /// # Errors
    ///
    /// What is wrong with the number of ring entries.
    pub fn new(interface: &Interface, ring_entries: u32) -> Result<Self, String> {
        let frame_count = ring_entries.checked_mul(2).and_then(NonZeroU32::new);
        let frame_octets = if fits(interface, FRAME_OCTETS_MIN) {
            FRAME_OCTETS_MIN
        } else {
            FRAME_OCTETS_MAX
        };
        Ok(Self {
            ring_entries,
            frame_count: frame_count.ok_or_else(|| invalid_ring(ring_entries))?,
            frame_octets,
        })
    }

    /// UMEM frames of a queue.
    pub fn frame_count(&self) -> u32 {
        self.frame_count.get()
    }

    /// Octets of each UMEM frame, headroom included.
    pub fn frame_octets(&self) -> u32 {
        self.frame_octets
    }

    /// Octets of a received frame that one UMEM frame takes, and so one entry of the receive ring.
    pub fn entry_octets(&self, interface: &Interface) -> u32 {
        entry_octets(interface, self.frame_octets)
    }

    /// Octets of memory that all of it takes.
    pub fn octets(&self) -> u64 {
        /// An entry of the fill ring is an address; the receive ring has descriptors (struct
        /// xdp_desc). xsk-rs makes the two rings for sending too, of a size of its own.
        const FILL_ENTRY: u64 = 8;
        const RECEIVE_ENTRY: u64 = 16;
        let (frames, entries) = (u64::from(self.frame_count()), u64::from(self.ring_entries));
        let frame = u64::from(self.frame_octets) + size_of::<FrameDesc>() as u64 + 2 * FILL_ENTRY;
        frames * frame + entries * RECEIVE_ENTRY
    }

    /// The entries of one ring, if their number is possible.
    fn queue_size(&self, entries: u32) -> Result<QueueSize, BindError> {
        QueueSize::new(entries).map_err(|_| BindError::invalid(&invalid_ring(self.ring_entries)))
    }
}

/// Whether the longest frames of an interface fit one UMEM frame.
pub(super) fn fits_one_umem_frame(interface: &Interface) -> bool {
    fits(interface, FRAME_OCTETS_MAX)
}

const FRAME_OCTETS_MIN: u32 = 2048;
/// A page: the kernel allows no more.
const FRAME_OCTETS_MAX: u32 = 4096;

fn fits(interface: &Interface, frame_octets: u32) -> bool {
    /// Ethernet header and two VLAN tags.
    const LINK_HEADER: u32 = 22;
    interface.mtu.saturating_add(LINK_HEADER) <= entry_octets(interface, frame_octets)
}

fn entry_octets(interface: &Interface, frame_octets: u32) -> u32 {
    /// Octets of each UMEM frame that the kernel reserves (XDP_PACKET_HEADROOM).
    const HEADROOM: u32 = 256;
    interface.driver.filled(frame_octets - HEADROOM)
}

fn invalid_ring(entries: u32) -> String {
    format!("a ring of {entries} entries is not possible: choose a smaller power of two")
}

/// The UMEM of a queue that is to be opened. The kernel has allocated and pinned all of its pages.
pub(super) struct Memory {
    umem: Umem,
    /// All frames of it.
    frames: Vec<FrameDesc>,
    /// It is on reserved huge pages.
    huge_pages: bool,
}

impl Memory {
    /// Allocates a UMEM, on reserved huge pages if there are enough.
    ///
    /// # Errors
    ///
    /// What failed, why, and what to do.
    pub fn reserve(layout: &Layout) -> Result<Self, String> {
        Self::new(layout).map_err(|error| {
            explained(&error, layout).unwrap_or_else(|| format!("no UMEM ({})", error.what))
        })
    }

    fn new(layout: &Layout) -> Result<Self, BindError> {
        let config = UmemConfig::builder()
            .frame_size(
                FrameSize::new(layout.frame_octets).map_err(|error| BindError::invalid(&error))?,
            )
            .fill_queue_size(layout.queue_size(layout.frame_count().saturating_mul(2))?)
            .build()
            .map_err(|error| BindError::invalid(&error))?;
        let (umem, frames, huge_pages) = match Umem::new(config, layout.frame_count, true) {
            Ok((umem, frames)) => (umem, frames, true),
            Err(_) => {
                let (umem, frames) = Umem::new(config, layout.frame_count, false)
                    .map_err(|error| BindError::system(&error))?;
                (umem, frames, false)
            }
        };
        Ok(Self {
            umem,
            frames,
            huge_pages,
        })
    }
}

/// How a socket is bound.
pub(super) struct Binding {
    /// The AF_XDP modes to try.
    pub mode: Mode,
    /// The XDP program runs in the driver.
    pub in_driver: bool,
    /// A frame may need several UMEM frames.
    pub frags: bool,
}

/// A socket that was just bound.
pub(super) struct Bound {
    pub socket: Socket,
    /// All frames of its UMEM.
    pub umem_frames: Vec<FrameDesc>,
    /// The UMEM is on reserved huge pages.
    pub huge_pages: bool,
}

/// Binds a socket with this memory to a queue.
///
/// # Errors
///
/// What failed, why, and what to do.
pub(super) fn bind(
    interface: &Interface,
    queue: u32,
    layout: &Layout,
    binding: &Binding,
    memory: Memory,
) -> Result<Bound, String> {
    let copy = match binding.mode {
        Mode::ZeroCopy => BindFlags::XDP_ZEROCOPY,
        // With neither flag the kernel tries zero-copy and falls back to copying without notice.
        Mode::Auto if binding.in_driver => BindFlags::empty(),
        Mode::Auto | Mode::Copy | Mode::Skb => BindFlags::XDP_COPY,
    };
    let frags = if binding.frags {
        BindFlags::XDP_USE_SG
    } else {
        BindFlags::empty()
    };
    let flags = copy | frags | BindFlags::XDP_USE_NEED_WAKEUP;
    let error = match bind_when_free(interface, queue, layout, flags, memory) {
        Ok(bound) => return Ok(bound),
        Err(error) => error,
    };
    if let Some(explained) = explained(&error, layout) {
        return Err(explained);
    }
    Err(match binding.mode {
        Mode::ZeroCopy if binding.frags => format!(
            "the driver does not support zero-copy for frames of several buffers, which MTU {} \
             requires ({}); lower the MTU or try --mode auto",
            interface.mtu, error.what
        ),
        Mode::ZeroCopy => format!(
            "the driver does not support zero-copy ({}); try --mode auto",
            error.what
        ),
        _ => format!(
            "the socket cannot be bound ({}); `ethtool -l {}` lists the queues",
            error.what, interface.name
        ),
    })
}

struct BindError {
    errno: Option<i32>,
    what: String,
    /// Why the system forbids it, where it does.
    forbidden: Option<String>,
}

impl BindError {
    /// A value of the configuration is not possible.
    fn invalid(what: &impl ToString) -> Self {
        Self {
            errno: None,
            what: what.to_string(),
            forbidden: None,
        }
    }

    /// The system refused.
    fn system(error: &(dyn std::error::Error + 'static)) -> Self {
        Self {
            errno: errno(error),
            what: in_one_line(error),
            forbidden: forbidden("an AF_XDP socket", error, &[NET_RAW, NET_ADMIN]),
        }
    }
}

/// The cause and the remedy of an error that has the same cause in every mode.
fn explained(error: &BindError, layout: &Layout) -> Option<String> {
    match error.errno? {
        libc::ENOBUFS | libc::ENOMEM => Some(format!(
            "no memory for {} MiB of UMEM frames: raise the memlock limit (ulimit -l), grant \
             CAP_IPC_LOCK, or set a smaller --ring",
            (u64::from(layout.frame_count()) * u64::from(layout.frame_octets)) >> 20
        )),
        libc::EBUSY => {
            Some("another AF_XDP socket is bound to this queue: stop that program first".to_owned())
        }
        _ => error.forbidden.clone(),
    }
}

/// How often and how far apart binding is tried while the queue is busy: the longest time seen
/// until the kernel had released it was 36 ms.
const BUSY_RETRIES: u32 = 100;
const BUSY_PAUSE: Duration = Duration::from_millis(5);

/// Binds once the queue is free: the kernel releases the socket of a process only some time after
/// the process has ended. The UMEM of a failed attempt is not used again.
fn bind_when_free(
    interface: &Interface,
    queue: u32,
    layout: &Layout,
    flags: BindFlags,
    mut memory: Memory,
) -> Result<Bound, BindError> {
    for _ in 0..BUSY_RETRIES {
        match bind_once(interface, queue, layout, flags, memory) {
            Err(BindError {
                errno: Some(libc::EBUSY),
                ..
            }) => std::thread::sleep(BUSY_PAUSE),
            done => return done,
        }
        memory = Memory::new(layout)?;
    }
    bind_once(interface, queue, layout, flags, memory)
}

/// Creates a socket with this memory and binds it.
fn bind_once(
    interface: &Interface,
    queue: u32,
    layout: &Layout,
    flags: BindFlags,
    memory: Memory,
) -> Result<Bound, BindError> {
    let Memory {
        umem,
        frames,
        huge_pages,
    } = memory;
    let socket_config = SocketConfig::builder()
        .rx_queue_size(layout.queue_size(layout.ring_entries)?)
        .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
        .bind_flags(flags)
        .build();
    let name = interface.name.parse().map_err(|_| {
        BindError::invalid(&format!("'{}' is not an interface name", interface.name))
    })?;
    // SAFETY: the UMEM is new and shared with no other socket, and libxdp loads no program.
    let opened = unsafe { xsk_rs::Socket::new(socket_config, &umem, &name, queue) };
    let (tx, rx, rings) = opened.map_err(|error| BindError::system(&error))?;
    let (fill, completion) =
        rings.ok_or_else(|| BindError::invalid(&"the kernel gave no fill ring"))?;
    Ok(Bound {
        socket: Socket {
            rx,
            fill,
            _unused: (tx, completion),
            umem,
        },
        umem_frames: frames,
        huge_pages,
    })
}
