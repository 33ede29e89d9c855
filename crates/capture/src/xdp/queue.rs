//! One queue: a socket, its rings, and the frames that go round in them.
//!
//! A frame is in exactly one place: the fill ring or the card, the receive ring, the burst being
//! shown, or `idle`. What was shown goes to `idle` and from there back to the fill ring, at once
//! or, where the kernel has not yet taken what it already used, at the next turn. The fill ring has
//! twice as many entries as there are frames, so that this is rare; since producing is all or
//! nothing, a frame whose return failed would otherwise be gone for good.

use super::rest::{Sleeper, Slept};
use super::{Mode, XdpConfig, errno, in_one_line, socket_options};
use crate::filter::Matcher;
use crate::interface::Refused;
use crate::{
    BURST_MAX, CaptureError, Filter, Frame, Interface, PREFETCH_AHEAD, Received, Source,
    SourceCounters, prefetch,
};
use std::fmt;
use std::io;
use std::num::NonZeroU32;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;
use xsk_rs::config::{BindFlags, FrameSize, LibxdpFlags, QueueSize, SocketConfig, UmemConfig};
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue, Umem};

/// An AF_XDP socket bound to one RX queue.
pub struct XdpQueue {
    rings: Rings,
    interface: String,
    queue: u32,
    report: QueueReport,
    busy_poll: bool,
    filter: Option<Matcher>,
    burst: Box<[FrameDesc; BURST_MAX]>,
    /// Frames on their way back to the fill ring.
    idle: Vec<FrameDesc>,
    /// The first buffer of a frame whose last one has not come yet, and the octets so far.
    unfinished: Option<(FrameDesc, u32)>,
    state: State,
    sleeper: Sleeper,
    /// Frames taken when it last slept.
    taken_before: u64,
    counters: SourceCounters,
}

struct Rings {
    // The kernel's socket goes when the last of its four queues is dropped, so the unused two are
    // kept beside the others.
    rx: RxQueue,
    fill: FillQueue,
    _unused: (TxQueue, CompQueue),
    umem: Umem,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    Running,
    /// The link is down; the socket is kept and goes on by itself when the link is back.
    Down,
    /// The device went away, and the socket will never receive again.
    Gone,
}

/// What a queue really got, read from the kernel.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct QueueReport {
    /// Frames stay where the card put them.
    pub zero_copy: bool,
    /// XDP runs in the driver, not behind it.
    pub in_driver: bool,
    /// The frames stand on reserved huge pages.
    pub huge_pages: bool,
    /// What the driver does with frames that the socket refuses.
    pub refused: Refused,
    /// Frames.
    pub frame_count: u32,
    /// Octets of each.
    pub frame_octets: u32,
}

impl fmt::Display for QueueReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = match (self.zero_copy, self.in_driver) {
            (true, _) => "zero-copy",
            (false, true) => "copy (native)",
            (false, false) => "copy (skb)",
        };
        let pages = if self.huge_pages {
            "reserved huge pages"
        } else {
            "4 KiB pages"
        };
        write!(
            f,
            "{mode}, {} frames of {} octets on {pages}",
            self.frame_count, self.frame_octets
        )
    }
}

/// How often and how far apart binding is tried while the queue is still being released: 36 ms was
/// the longest ever seen.
const BUSY_RETRIES: u32 = 100;
const BUSY_PAUSE: Duration = Duration::from_millis(5);

impl XdpQueue {
    pub(super) fn open(
        interface: &Interface,
        queue: u32,
        config: &XdpConfig,
        in_driver: bool,
        frags: bool,
        sleeper: Sleeper,
    ) -> Result<Self, CaptureError> {
        let failed = |what: String| CaptureError::Xdp {
            interface: interface.name.clone(),
            what: format!("queue {queue}: {what}"),
        };
        let frame_count = NonZeroU32::new(config.ring_entries.saturating_mul(2))
            .ok_or_else(|| failed("a ring of 0 entries".to_owned()))?;
        let layout = Layout {
            frame_count,
            frame_octets: frame_octets(interface),
            config,
            frags,
        };
        let bound = bind(interface, queue, &layout, in_driver).map_err(&failed)?;
        let fd = bound.rings.rx.fd().as_raw_fd();
        let zero_copy = socket_options::is_zero_copy(fd).map_err(|error| {
            failed(format!(
                "the kernel does not say whether it copies: {error}"
            ))
        })?;
        if config.mode == Mode::Auto && in_driver && !zero_copy {
            let frames = if frags {
                " for frames of several buffers"
            } else {
                ""
            };
            tracing::info!(
                "{} queue {queue}: no zero-copy{frames} with this driver and kernel, so each frame is copied once",
                interface.name
            );
        }
        if config.busy_poll {
            socket_options::prefer_busy_poll(fd).map_err(|error| {
                failed(format!("busy polling is not possible: {error}; wanted: Linux 5.11 or newer, or no --busy-poll"))
            })?;
        }
        let mut opened = Self {
            rings: bound.rings,
            interface: interface.name.clone(),
            queue,
            report: QueueReport {
                zero_copy,
                in_driver,
                huge_pages: bound.huge_pages,
                refused: interface.driver.refused(in_driver, zero_copy),
                frame_count: frame_count.get(),
                frame_octets: layout.frame_octets,
            },
            busy_poll: config.busy_poll,
            filter: config.filter.as_ref().map(Filter::matcher),
            burst: Box::new([FrameDesc::default(); BURST_MAX]),
            idle: bound.frames,
            unfinished: None,
            state: State::Running,
            sleeper,
            taken_before: 0,
            counters: SourceCounters::default(),
        };
        opened.fill();
        if !opened.idle.is_empty() {
            return Err(failed(format!(
                "{} frames do not fit the fill ring",
                opened.idle.len()
            )));
        }
        // Some drivers (mlx5) only look at the fill ring once they are asked to.
        opened.kick();
        Ok(opened)
    }

    /// What it really got.
    #[must_use]
    pub fn report(&self) -> QueueReport {
        self.report
    }

    pub(super) fn socket_fd(&self) -> RawFd {
        self.rings.rx.fd().as_raw_fd()
    }

    /// The socket once more, for its counters.
    pub(super) fn share_socket(&self) -> io::Result<OwnedFd> {
        // SAFETY: the socket lives as long as `self`.
        let socket = unsafe { BorrowedFd::borrow_raw(self.socket_fd()) };
        socket.try_clone_to_owned()
    }

    /// Gives the idle frames back to the kernel, or keeps them until next time.
    #[inline]
    fn fill(&mut self) {
        // SAFETY: the descriptors were given out by this UMEM, are in no ring, and are not used
        // after being produced.
        let produced = unsafe { self.rings.fill.produce(&self.idle) };
        debug_assert!(produced == 0 || produced == self.idle.len());
        if produced > 0 {
            self.idle.clear();
        }
    }

    /// Wakes the driver and learns whether the device is still there and up.
    fn kick(&mut self) {
        let state =
            match socket_options::kick(self.socket_fd()).map_err(|error| error.raw_os_error()) {
                Err(Some(libc::ENXIO | libc::ENODEV)) => State::Gone,
                Err(Some(libc::ENETDOWN)) => State::Down,
                // EAGAIN, EBUSY, EINTR, ENOBUFS: nothing that the next kick would not mend.
                _ => State::Running,
            };
        if state != self.state {
            self.enter(state);
        }
    }

    #[cold]
    fn enter(&mut self, state: State) {
        let Self {
            interface, queue, ..
        } = self;
        match state {
            State::Down => {
                tracing::warn!("{interface} queue {queue}: link is down; flows are kept")
            }
            State::Running => tracing::info!("{interface} queue {queue}: link is up again"),
            State::Gone => tracing::warn!("{interface} queue {queue}: the interface is gone"),
        }
        self.state = state;
    }

    /// Asks for the cache line that a frame's headers begin in, and for that of its time.
    #[inline(always)]
    fn prefetch(&self, descriptor: &FrameDesc) {
        // SAFETY: the descriptor came from this UMEM's receive ring and has not been given back.
        let octets = unsafe { self.rings.umem.data(descriptor) }.contents();
        prefetch(octets.as_ptr());
        self.sleeper.prefetch_time_of(octets);
    }

    /// Shows the frame that `descriptor` completes, if it does complete one.
    #[inline]
    fn show(
        &mut self,
        descriptor: FrameDesc,
        each: &mut impl FnMut(Frame<'_>),
    ) -> Result<(), CaptureError> {
        let octets = u32::try_from(descriptor.lengths().data()).unwrap_or(u32::MAX);
        let (first, wire_octets) = match self.unfinished.take() {
            None => (descriptor, octets),
            Some((first, before)) => (first, before + octets),
        };
        if descriptor.has_more_frames() {
            // The first buffer has the headers and is kept; later ones only count.
            if first.addr() != descriptor.addr() {
                self.idle.push(descriptor);
            }
            self.unfinished = Some((first, wire_octets));
            return Ok(());
        }
        // SAFETY: the descriptor came from this UMEM's receive ring and has not been given back, so
        // the kernel leaves the frame alone, and nobody writes to it here.
        let data = unsafe { self.rings.umem.data(&first) };
        // AF_XDP sockets are bound to Ethernet devices: LINKTYPE_ETHERNET.
        let octets = data.contents();
        let frame = Frame {
            octets,
            wire_octets,
            link: 1,
            captured: self.sleeper.time_of(octets),
        };
        let wanted = self
            .filter
            .as_mut()
            .map_or(Ok(true), |filter| filter.wants(&frame))?;
        if wanted {
            self.counters.received += 1;
            self.counters.received_octets += u64::from(wire_octets);
            each(frame);
        } else {
            self.counters.filtered += 1;
        }
        self.idle.push(first);
        if first.addr() != descriptor.addr() {
            self.idle.push(descriptor);
        }
        Ok(())
    }
}

impl Source for XdpQueue {
    fn receive(&mut self, each: &mut impl FnMut(Frame<'_>)) -> Result<Received, CaptureError> {
        // SAFETY: the receive ring belongs to the UMEM that the descriptors are used with.
        let count = unsafe { self.rings.rx.consume(&mut self.burst[..]) };
        for descriptor in &self.burst[..count.min(PREFETCH_AHEAD)] {
            self.prefetch(descriptor);
        }
        for index in 0..count {
            if let Some(ahead) = self.burst[..count].get(index + PREFETCH_AHEAD) {
                self.prefetch(ahead);
            }
            self.show(self.burst[index], each)?;
        }
        if !self.idle.is_empty() {
            self.fill();
        }
        if self.rings.fill.needs_wakeup() || (self.busy_poll && count == 0) {
            self.kick();
        }
        if count == 0 {
            self.sleeper.all_is_taken();
            let gone = self.state == State::Gone;
            return if gone {
                Err(CaptureError::Gone(self.interface.clone()))
            } else {
                Ok(Received::Nothing)
            };
        }
        if self.state == State::Down {
            self.enter(State::Running);
        }
        Ok(Received::Frames)
    }

    fn wait(&mut self, timeout: Duration) {
        if self.busy_poll {
            return;
        }
        // SAFETY: the socket lives as long as `self`.
        let socket = unsafe { BorrowedFd::borrow_raw(self.socket_fd()) };
        let taken = self.counters.taken();
        // Neither bell nor socket tells of a link that went down or a device that went away; a kick
        // does.
        if self
            .sleeper
            .sleep(taken - self.taken_before, socket, timeout)
            == Slept::Through
        {
            self.kick();
        }
        self.taken_before = taken;
    }

    /// What its socket refused is counted by the interface: see
    /// [`InterfaceCounters`](super::InterfaceCounters).
    fn counters(&self) -> SourceCounters {
        self.counters
    }

    fn is_down(&self) -> bool {
        self.state == State::Down
    }
}

/// How a queue's memory is laid out.
struct Layout<'a> {
    frame_count: NonZeroU32,
    frame_octets: u32,
    config: &'a XdpConfig,
    frags: bool,
}

/// Octets of a frame buffer: a page is the most.
fn frame_octets(interface: &Interface) -> u32 {
    if fits(interface, FRAME_OCTETS_MIN) {
        FRAME_OCTETS_MIN
    } else {
        FRAME_OCTETS_MAX
    }
}

/// Whether the interface's longest frames fit one buffer.
pub(super) fn fits_one_frame(interface: &Interface) -> bool {
    fits(interface, FRAME_OCTETS_MAX)
}

const FRAME_OCTETS_MIN: u32 = 2048;
const FRAME_OCTETS_MAX: u32 = 4096;

fn fits(interface: &Interface, frame_octets: u32) -> bool {
    /// The kernel keeps these to itself (XDP_PACKET_HEADROOM).
    const HEADROOM: u32 = 256;
    /// Ethernet header and two VLAN tags.
    const LINK_HEADER: u32 = 22;
    interface.mtu.saturating_add(LINK_HEADER) <= interface.driver.filled(frame_octets - HEADROOM)
}

struct Bound {
    rings: Rings,
    frames: Vec<FrameDesc>,
    huge_pages: bool,
}

/// Binds a queue in the way that the mode asks for.
fn bind(
    interface: &Interface,
    queue: u32,
    layout: &Layout<'_>,
    in_driver: bool,
) -> Result<Bound, String> {
    let way = match layout.config.mode {
        Mode::ZeroCopy => BindFlags::XDP_ZEROCOPY,
        // With neither flag the kernel tries zero-copy and else copies, without a word: the report
        // says what it did.
        Mode::Auto if in_driver => BindFlags::empty(),
        Mode::Auto | Mode::Copy | Mode::Skb => BindFlags::XDP_COPY,
    };
    let frags = if layout.frags {
        BindFlags::XDP_USE_SG
    } else {
        BindFlags::empty()
    };
    let error = match bind_when_free(
        interface,
        queue,
        layout,
        way | frags | BindFlags::XDP_USE_NEED_WAKEUP,
    ) {
        Ok(bound) => return Ok(bound),
        Err(error) => error,
    };
    Err(match (error.errno, layout.config.mode) {
        (Some(libc::ENOBUFS | libc::ENOMEM), _) => format!(
            "no memory for {} MiB of frames; raise the memlock limit (ulimit -l), grant CAP_IPC_LOCK, or ask for a smaller \
             --ring",
            (u64::from(layout.frame_count.get()) * u64::from(layout.frame_octets)) >> 20
        ),
        (Some(libc::EPERM), _) => {
            "not permitted; wanted: root, or CAP_NET_RAW and CAP_NET_ADMIN".to_owned()
        }
        (Some(libc::EBUSY), _) => {
            "another AF_XDP socket is bound to it; stop that program first".to_owned()
        }
        (_, Mode::ZeroCopy) if layout.frags => format!(
            "the driver does not support zero-copy for frames of several buffers, as MTU {} needs them ({}); lower the MTU or \
             try --mode auto",
            interface.mtu, error.what
        ),
        (_, Mode::ZeroCopy) => format!(
            "the driver does not support zero-copy ({}); try --mode auto",
            error.what
        ),
        _ => format!(
            "the socket cannot be bound ({}); `ethtool -l {}` shows its queues",
            error.what, interface.name
        ),
    })
}

struct BindError {
    errno: Option<i32>,
    what: String,
}

/// Binds once the queue is free: the kernel releases the socket of a process that ended only a
/// little later.
fn bind_when_free(
    interface: &Interface,
    queue: u32,
    layout: &Layout<'_>,
    flags: BindFlags,
) -> Result<Bound, BindError> {
    for _ in 0..BUSY_RETRIES {
        match bind_once(interface, queue, layout, flags) {
            Err(BindError {
                errno: Some(libc::EBUSY),
                ..
            }) => std::thread::sleep(BUSY_PAUSE),
            done => return done,
        }
    }
    bind_once(interface, queue, layout, flags)
}

/// Makes frames and socket afresh: a UMEM that a failed bind left behind is not used again.
fn bind_once(
    interface: &Interface,
    queue: u32,
    layout: &Layout<'_>,
    flags: BindFlags,
) -> Result<Bound, BindError> {
    let wrong = |what: String| BindError { errno: None, what };
    let Layout {
        frame_count,
        frame_octets,
        config,
        ..
    } = *layout;
    let size = |entries: u32| {
        QueueSize::new(entries)
            .map_err(|_| wrong(format!("a ring of {entries} entries is not a power of two")))
    };
    let umem_config = UmemConfig::builder()
        .frame_size(FrameSize::new(frame_octets).map_err(|error| wrong(error.to_string()))?)
        .fill_queue_size(size(frame_count.get().saturating_mul(2))?)
        .build()
        .map_err(|error| wrong(error.to_string()))?;
    let (umem, frames, huge_pages) = match Umem::new(umem_config, frame_count, true) {
        Ok((umem, frames)) => (umem, frames, true),
        Err(_) => {
            let (umem, frames) =
                Umem::new(umem_config, frame_count, false).map_err(|error| BindError {
                    errno: errno(&error),
                    what: in_one_line(&error),
                })?;
            (umem, frames, false)
        }
    };
    let socket_config = SocketConfig::builder()
        .rx_queue_size(size(config.ring_entries)?)
        .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
        .bind_flags(flags)
        .build();
    let name = interface
        .name
        .parse()
        .map_err(|_| wrong(format!("'{}' is no interface name", interface.name)))?;
    // SAFETY: the UMEM is new and shared with no other socket, and no program is loaded by libxdp.
    let (tx, rx, rings) =
        unsafe { Socket::new(socket_config, &umem, &name, queue) }.map_err(|error| BindError {
            errno: errno(&error),
            what: in_one_line(&error),
        })?;
    let (fill, completion) =
        rings.ok_or_else(|| wrong("the kernel gave no fill ring".to_owned()))?;
    Ok(Bound {
        rings: Rings {
            rx,
            fill,
            _unused: (tx, completion),
            umem,
        },
        frames,
        huge_pages,
    })
}
