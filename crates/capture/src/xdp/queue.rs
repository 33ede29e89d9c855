//! One queue as a source of frames: a socket, the accounting of its UMEM frames, and the sleep of
//! its reader. Channels that are added to the interface later are given to the readers that there
//! are, which then read several queues in turn.

use super::abi::Stamp;
use super::bell::{Bell, ProgramBell};
use super::config::XdpConfig;
use super::frames::{Frames, Whole};
use super::rest::{Sleeper, Slept};
use super::rings::Rings;
use super::socket::{Binding, Layout, Memory, Socket, bind};
use super::socket_options;
use crate::counters::SourceCounters;
use crate::error::CaptureError;
use crate::filter::{CompiledFilter, ETHERNET, Filter};
use crate::frame::Frame;
use crate::interface::{Interface, RefusedFrame};
use crate::prefetch::{PREFETCH_AHEAD, prefetch};
use crate::source::{Received, Source, SourceChange, Unchangeable};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

/// An AF_XDP socket bound to one RX queue, and those of channels that were added later.
pub struct XdpQueue {
    readers: Readers<Socket, ProgramBell>,
    report: QueueReport,
    arrivals: Sender<AddedQueue>,
}

/// A queue on its way to the one that reads it.
pub(super) type AddedQueue = Reader<Socket, ProgramBell>;

/// Queues that may be on their way to one reader: more than a card has.
const ARRIVALS_MAX: usize = 1024;

/// The memory of a queue that is to be opened: the part of opening it that takes long.
pub struct QueueMemory {
    layout: Layout,
    memory: Memory,
}

impl QueueMemory {
    /// Allocates and pins the memory of a queue. Call it on the thread that will read the queue, so
    /// that the kernel allocates it near that thread's core.
    ///
    /// # Errors
    ///
    /// [`CaptureError::Xdp`] with what failed and what to do about it.
    pub fn reserve(interface: &Interface, config: &XdpConfig) -> Result<Self, CaptureError> {
        let failed = |what: String| CaptureError::Xdp {
            interface: interface.name.clone(),
            what,
        };
        let layout = Layout::new(interface, config.ring_entries).map_err(failed)?;
        let memory = Memory::reserve(&layout).map_err(failed)?;
        Ok(Self { layout, memory })
    }

    /// Octets of memory that a queue takes: its UMEM, its rings, and the notes of its reader.
    /// `u64::MAX` if so many ring entries are not possible.
    #[must_use]
    pub fn octets_for(interface: &Interface, config: &XdpConfig) -> u64 {
        Layout::new(interface, config.ring_entries).map_or(u64::MAX, |layout| layout.octets())
    }
}

impl XdpQueue {
    /// Opens a queue and fills its ring; `bell` wakes its reader. No frame is redirected to it yet.
    pub(super) fn open(
        interface: &Interface,
        queue: u32,
        config: &XdpConfig,
        (in_driver, frags): (bool, bool),
        memory: QueueMemory,
        bell: ProgramBell,
    ) -> Result<Self, CaptureError> {
        let failed = |what: String| CaptureError::Xdp {
            interface: interface.name.clone(),
            what: format!("queue {queue}: {what}"),
        };
        let QueueMemory { layout, memory } = memory;
        let filter = config.filter.as_ref().map(compile).transpose()?;
        let binding = Binding {
            mode: config.mode,
            in_driver,
            frags,
        };
        let bound = bind(interface, queue, &layout, &binding, memory).map_err(failed)?;
        let zero_copy = socket_options::is_zero_copy(bound.socket.as_fd())
            .map_err(|error| failed(format!("the kernel does not report XDP_OPTIONS: {error}")))?;
        if config.busy_poll {
            socket_options::prefer_busy_poll(bound.socket.as_fd()).map_err(|error| {
                failed(format!(
                    "busy polling is not possible ({error}): use Linux 5.11 or newer, or omit \
                     --busy-poll"
                ))
            })?;
        }
        let mut reader = Reader {
            rings: bound.socket,
            frames: Frames::new(bound.umem_frames),
            sleeper: Sleeper::new(bell, config.ring_entries, layout.entry_octets(interface)),
            filter,
            busy_poll: config.busy_poll,
            interface: interface.name.clone(),
            queue,
            link: Link::Up,
            taken_before: 0,
            counters: SourceCounters::default(),
        };
        reader.frames.fill(&mut reader.rings);
        let idle = reader.frames.idle_count();
        if idle > 0 {
            return Err(failed(format!(
                "{idle} UMEM frames do not fit the fill ring"
            )));
        }
        // Some drivers (mlx5) look at the fill ring only after a kick.
        reader.kick();
        let (arrivals, arriving) = bounded(ARRIVALS_MAX);
        Ok(Self {
            readers: Readers::new(reader, arriving),
            arrivals,
            report: QueueReport {
                zero_copy,
                in_driver,
                huge_pages: bound.huge_pages,
                refused_frame: interface.driver.refused_frame(in_driver, zero_copy),
                frame_count: layout.frame_count(),
                frame_octets: layout.frame_octets(),
            },
        })
    }

    /// What the kernel granted.
    #[must_use]
    pub fn report(&self) -> QueueReport {
        self.report
    }

    /// The socket, for the XDP program's map and the socket's counters.
    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.readers.own.rings.as_fd()
    }

    /// Where queues arrive that this one is to read too.
    pub(super) fn arrivals(&self) -> Sender<AddedQueue> {
        self.arrivals.clone()
    }

    /// The queue, to be read by another one.
    pub(super) fn into_added(self) -> AddedQueue {
        self.readers.own
    }
}

impl Source for XdpQueue {
    #[inline]
    fn receive(&mut self, each: &mut impl FnMut(Frame<'_>)) -> Result<Received, CaptureError> {
        self.readers.receive(each)
    }

    fn wait(&mut self, timeout: Duration) {
        self.readers.wait(timeout);
    }

    /// The frames that its socket refused are counted by the interface:
    /// [`InterfaceCounters`](super::InterfaceCounters).
    fn counters(&self) -> SourceCounters {
        self.readers.counters()
    }

    fn is_down(&self) -> bool {
        self.readers.own.link == Link::Down
    }

    fn runs_dry(&self) -> bool {
        true
    }

    /// The filter changes with the next burst. Sampling is refused: the XDP program has one setting
    /// for all queues of the interface,
    /// [`XdpInterface::set_sampling`](super::XdpInterface::set_sampling).
    fn apply(&mut self, change: SourceChange) -> Result<(), Unchangeable> {
        self.readers.apply(&change)
    }
}

/// What a queue got, as the kernel reports it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct QueueReport {
    /// Frames stay where the card wrote them.
    pub zero_copy: bool,
    /// The XDP program runs in the driver, not after it.
    pub in_driver: bool,
    /// The UMEM is on reserved huge pages.
    pub huge_pages: bool,
    /// What the driver does with frames that the socket refuses.
    pub refused_frame: RefusedFrame,
    /// UMEM frames.
    pub frame_count: u32,
    /// Octets of each UMEM frame.
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

/// The reader of a queue, and those that were added to it.
struct Readers<R: Rings, B> {
    own: Reader<R, B>,
    added: Vec<Reader<R, B>>,
    arriving: Receiver<Reader<R, B>>,
    /// Whose turn was last: 0 is `own`.
    turn: usize,
    /// Naps in a row in which nothing arrived.
    vain_naps: u32,
}

impl<R: Rings, B: Bell> Readers<R, B> {
    fn new(own: Reader<R, B>, arriving: Receiver<Reader<R, B>>) -> Self {
        Self {
            own,
            added: Vec::new(),
            arriving,
            turn: 0,
            vain_naps: 0,
        }
    }

    /// Shows a burst of the next reader that has frames.
    // One call of `Reader::receive`, so that what is done with each frame is inlined into its loop.
    #[inline]
    fn receive(&mut self, each: &mut impl FnMut(Frame<'_>)) -> Result<Received, CaptureError> {
        if !self.arriving.is_empty() {
            self.admit();
        }
        let mut ended = Ok(Received::Nothing);
        for _ in 0..=self.added.len() {
            match self.next().receive(each) {
                Ok(Received::Frames) => {
                    self.vain_naps = 0;
                    return Ok(Received::Frames);
                }
                Ok(_) => {}
                // What the others hold is shown first.
                Err(error) => ended = Err(error),
            }
        }
        ended
    }

    /// The reader whose turn is next.
    #[inline]
    fn next(&mut self) -> &mut Reader<R, B> {
        if self.added.is_empty() {
            return &mut self.own;
        }
        self.turn = (self.turn + 1) % (1 + self.added.len());
        match self.turn {
            0 => &mut self.own,
            added => &mut self.added[added - 1],
        }
    }

    /// Takes the readers that arrived.
    #[cold]
    fn admit(&mut self) {
        while let Ok(mut reader) = self.arriving.try_recv() {
            reader.filter.clone_from(&self.own.filter);
            // Allocates, once for each channel that is added.
            self.added.push(reader);
        }
    }

    fn wait(&mut self, timeout: Duration) {
        /// So many naps are as long as a rest, after which a reader asks for the link's state.
        const KICK_NAPS: u32 = 100;
        if self.added.is_empty() {
            return self.own.wait(timeout);
        }
        if self.own.busy_poll {
            return;
        }
        // A rest ends by the bell of one queue: of several, each frame has its time by naps alone.
        self.own.sleeper.nap(timeout);
        self.vain_naps += 1;
        if self.vain_naps.is_multiple_of(KICK_NAPS) {
            self.own.kick();
            self.added.iter_mut().for_each(Reader::kick);
        }
    }

    fn counters(&self) -> SourceCounters {
        let mut counters = self.own.counters;
        self.added
            .iter()
            .for_each(|added| counters += added.counters);
        counters
    }

    fn apply(&mut self, change: &SourceChange) -> Result<(), Unchangeable> {
        self.own.apply(change.clone())?;
        let mut added = self.added.iter_mut();
        added.try_for_each(|reader| reader.apply(change.clone()))
    }
}

/// The receive path, over any rings and any bell.
pub(super) struct Reader<R: Rings, B> {
    rings: R,
    frames: Frames<R::Descriptor>,
    sleeper: Sleeper<B>,
    filter: Option<Arc<CompiledFilter>>,
    busy_poll: bool,
    interface: String,
    queue: u32,
    link: Link,
    /// Frames taken up to the last sleep.
    taken_before: u64,
    counters: SourceCounters,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Link {
    Up,
    /// The socket is kept and receives again once the link is up.
    Down,
    /// The device was removed; the socket will not receive again.
    Gone,
}

impl<R: Rings, B: Bell> Reader<R, B> {
    #[inline]
    fn receive(&mut self, each: &mut impl FnMut(Frame<'_>)) -> Result<Received, CaptureError> {
        let received = self.frames.receive(&mut self.rings);
        for descriptor in self.frames.waiting().iter().take(PREFETCH_AHEAD) {
            self.prefetch(descriptor);
        }
        while let Some(descriptor) = self.frames.next() {
            if let Some(ahead) = self.frames.waiting().get(PREFETCH_AHEAD - 1) {
                self.prefetch(ahead);
            }
            if let Some(whole) = self.frames.join(descriptor) {
                self.show(&whole, each);
                self.frames.release(whole);
            }
        }
        self.frames.fill(&mut self.rings);
        if self.rings.needs_kick() || (self.busy_poll && received == 0) {
            self.kick();
        }
        if received == 0 {
            self.sleeper.all_taken();
            return if self.link == Link::Gone {
                Err(CaptureError::Gone(self.interface.clone()))
            } else {
                Ok(Received::Nothing)
            };
        }
        if self.link == Link::Down {
            self.set_link(Link::Up);
        }
        Ok(Received::Frames)
    }

    /// Requests the cache lines of a frame's headers and of its stamp.
    #[inline(always)]
    fn prefetch(&self, descriptor: &R::Descriptor) {
        let octets = self.rings.octets(descriptor).as_ptr();
        prefetch(octets);
        if self.sleeper.reads_stamps() {
            prefetch(octets.wrapping_sub(size_of::<Stamp>()));
        }
    }

    #[inline]
    fn show(&mut self, whole: &Whole<R::Descriptor>, each: &mut impl FnMut(Frame<'_>)) {
        let rings = &self.rings;
        let octets = rings.octets(&whole.first);
        let captured = self.sleeper.time_of(|| rings.stamp(&whole.first));
        let matches = |filter: &Arc<CompiledFilter>| filter.matches(octets, whole.octets);
        if self.filter.as_ref().is_none_or(matches) {
            self.counters.received += 1;
            self.counters.received_octets += u64::from(whole.octets);
            each(Frame {
                octets,
                wire_octets: whole.octets,
                // AF_XDP sockets are bound to Ethernet devices.
                link: ETHERNET,
                captured,
            });
        } else {
            self.counters.filtered += 1;
        }
    }

    fn wait(&mut self, timeout: Duration) {
        if self.busy_poll {
            return;
        }
        let taken = self.counters.taken();
        let since_last = taken - self.taken_before;
        let slept = self
            .sleeper
            .sleep(since_last, timeout, || self.rings.has_frames());
        // Neither the bell nor the socket reports a link that went down or a device that was
        // removed; a kick does.
        if slept == Slept::TimedOut {
            self.kick();
        }
        self.taken_before = taken;
    }

    /// Wakes the driver, and finds out whether the device still exists and is up.
    fn kick(&mut self) {
        let link = match self.rings.kick().map_err(|error| error.raw_os_error()) {
            Err(Some(libc::ENXIO | libc::ENODEV)) => Link::Gone,
            Err(Some(libc::ENETDOWN)) => Link::Down,
            // EAGAIN, EBUSY, EINTR, ENOBUFS: the next kick succeeds.
            _ => Link::Up,
        };
        if link != self.link {
            self.set_link(link);
        }
    }

    #[cold]
    fn set_link(&mut self, link: Link) {
        let Self {
            interface, queue, ..
        } = self;
        match link {
            Link::Down => tracing::warn!("{interface} queue {queue}: link is down; flows are kept"),
            Link::Up => tracing::info!("{interface} queue {queue}: link is up again"),
            Link::Gone => tracing::warn!(
                "{interface} queue {queue}: the interface was removed, or moved to another network \
                 namespace"
            ),
        }
        self.link = link;
    }

    fn apply(&mut self, change: SourceChange) -> Result<(), Unchangeable> {
        let setting = change.setting();
        let unchangeable = |reason: String| Unchangeable { setting, reason };
        match change {
            SourceChange::Filter(filter) => {
                let compiled = filter.as_ref().map(compile).transpose();
                self.filter = compiled.map_err(|error| unchangeable(error.to_string()))?;
                Ok(())
            }
            SourceChange::Sampling(_) => Err(unchangeable(format!(
                "the XDP program samples all queues of {} alike; change it for the interface",
                self.interface
            ))),
        }
    }
}

/// The filter as it was compiled before anything was captured.
fn compile(filter: &Filter) -> Result<Arc<CompiledFilter>, CaptureError> {
    filter.compile(ETHERNET)
}

#[cfg(test)]
mod tests {
    use super::super::memory::{Call, MemoryBell, MemoryRings};
    use super::*;
    use crate::frame::CaptureTime;
    use crate::sampling::Sampling;

    const SECOND: Duration = Duration::from_secs(1);

    /// A queue in memory with so many UMEM frames, all in the fill ring.
    fn reader(frame_count: u32) -> Reader<MemoryRings, MemoryBell> {
        let rings = MemoryRings::new(frame_count);
        let mut reader = Reader {
            frames: Frames::new(rings.umem()),
            rings,
            sleeper: Sleeper::new(MemoryBell::default(), frame_count / 2, 64),
            filter: None,
            busy_poll: false,
            interface: "memory0".to_owned(),
            queue: 3,
            link: Link::Up,
            taken_before: 0,
            counters: SourceCounters::default(),
        };
        reader.frames.fill(&mut reader.rings);
        reader
    }

    /// One burst: each frame's octets in its first UMEM frame, the value of those, and its length.
    fn receive(reader: &mut Reader<MemoryRings, MemoryBell>) -> Vec<(usize, u8, u32)> {
        let mut shown = Vec::new();
        reader
            .receive(&mut |frame| {
                shown.push((frame.octets.len(), frame.octets[0], frame.wire_octets));
            })
            .unwrap();
        shown
    }

    #[test]
    fn frames_are_shown_once_in_order_and_their_memory_is_used_again() {
        let mut reader = reader(4);
        for round in 0..10 {
            for octets in [60, 61, 62] {
                assert!(reader.rings.arrive(&[octets]).is_some(), "round {round}");
            }
            let lengths: Vec<_> = receive(&mut reader).iter().map(|shown| shown.2).collect();
            assert_eq!(lengths, [60, 61, 62]);
            assert_eq!(receive(&mut reader), []);
        }
        let counters = reader.counters;
        assert_eq!((counters.received, counters.received_octets), (30, 1830));
    }

    #[test]
    fn added_queues_are_read_in_turn_and_what_they_hold_is_shown_before_the_end_is_told() {
        let (arrivals, arriving) = bounded(2);
        let mut readers = Readers::new(reader(8), arriving);
        let receive = |readers: &mut Readers<_, _>| {
            let mut lengths = Vec::new();
            let received = readers.receive(&mut |frame| lengths.push(frame.wire_octets));
            (received.map_err(drop), lengths)
        };
        readers.own.rings.arrive(&[60]);
        assert_eq!(receive(&mut readers), (Ok(Received::Frames), vec![60]));
        for octets in [40, 50] {
            let mut added = reader(8);
            added.rings.arrive(&[octets]);
            added.rings.arrive(&[octets + 1]);
            assert!(arrivals.try_send(added).is_ok());
        }
        readers.own.rings.arrive(&[61]);
        readers.own.link = Link::Gone;
        let bursts: Vec<_> = (0..3).map(|_| receive(&mut readers)).collect();
        let shown = |lengths: &[u32]| (Ok(Received::Frames), lengths.to_vec());
        assert_eq!(bursts, [shown(&[40, 41]), shown(&[50, 51]), shown(&[61])]);
        assert_eq!(receive(&mut readers), (Err(()), vec![]));
        assert_eq!(readers.counters().received, 6);
        readers.own.link = Link::Up;
        assert_eq!(receive(&mut readers), (Ok(Received::Nothing), vec![]));
        // Of several queues each frame has its time by naps: the program knows of no rest.
        readers.wait(SECOND);
        let calls = std::mem::take(&mut readers.own.sleeper.bell.calls);
        assert!(matches!(calls[..], [Call::Nap(_)]), "{calls:?}");
    }

    #[test]
    fn a_frame_in_several_umem_frames_is_shown_by_its_first_with_its_whole_length() {
        let mut reader = reader(8);
        let first = u8::try_from(reader.rings.arrive(&[64, 64, 10]).unwrap()).unwrap();
        reader.rings.arrive(&[60]);
        assert_eq!(
            receive(&mut reader),
            [(64, first, 138), (60, first + 3, 60)]
        );
        assert_eq!(reader.rings.fill_count(), 8);
    }

    #[test]
    fn a_frame_that_is_cut_by_the_end_of_a_burst_is_shown_in_the_next() {
        let mut reader = reader(200);
        let long = [1; 70];
        let first = u8::try_from(reader.rings.arrive(&long).unwrap()).unwrap();
        assert_eq!(receive(&mut reader), []);
        assert_eq!(receive(&mut reader), [(1, first, 70)]);
        assert_eq!(reader.rings.fill_count(), 200);
    }

    #[test]
    fn umem_frames_that_the_fill_ring_has_no_room_for_are_returned_later() {
        let mut reader = reader(4);
        reader.rings.produce_max = 0;
        (0..4).for_each(|_| assert!(reader.rings.arrive(&[60]).is_some()));
        assert_eq!(receive(&mut reader).len(), 4);
        assert_eq!(reader.frames.idle_count(), 4);
        reader.rings.produce_max = 3;
        receive(&mut reader);
        assert_eq!(reader.frames.idle_count(), 1);
        receive(&mut reader);
        assert_eq!(reader.rings.fill_count(), 4);
    }

    #[test]
    fn a_filter_can_be_set_changed_and_removed_between_bursts() {
        let mut reader = reader(64);
        let mut shown_with = |filter: Option<&str>| {
            let filter = filter.map(|expression| Filter::new(expression).unwrap());
            reader.apply(SourceChange::Filter(filter)).unwrap();
            (0..4).for_each(|_| assert!(reader.rings.arrive(&[60]).is_some()));
            receive(&mut reader).len()
        };
        assert_eq!(shown_with(Some("ether[0] = 2")), 1);
        assert_eq!(shown_with(Some("ether[0] < 6")), 2);
        assert_eq!(shown_with(None), 4);
        let counters = reader.counters;
        assert_eq!((counters.received, counters.filtered), (7, 5));
    }

    #[test]
    fn sampling_is_refused_by_name_with_the_place_where_it_can_be_changed() {
        let change = SourceChange::Sampling(Sampling::NONE);
        let refused = reader(2).apply(change).unwrap_err().to_string();
        assert!(
            refused.starts_with("sampling cannot be changed: ") && refused.contains("memory0"),
            "{refused}"
        );
    }

    #[test]
    fn the_driver_is_kicked_when_it_asks_for_it_or_a_busy_poller_finds_nothing() {
        let mut reader = reader(4);
        receive(&mut reader);
        assert_eq!(reader.rings.kicks.get(), 0);
        reader.rings.needs_kick = true;
        receive(&mut reader);
        assert_eq!(reader.rings.kicks.get(), 1);
        reader.rings.needs_kick = false;
        reader.busy_poll = true;
        reader.rings.arrive(&[60]);
        receive(&mut reader);
        assert_eq!(reader.rings.kicks.get(), 1);
        receive(&mut reader);
        assert_eq!(reader.rings.kicks.get(), 2);
        reader.wait(SECOND);
        assert_eq!(reader.sleeper.bell.calls, [], "a busy poller never sleeps");
    }

    #[test]
    fn a_link_that_is_down_is_noticed_by_a_wait_without_frames_and_up_again_with_a_frame() {
        let mut reader = reader(4);
        reader.rings.kick_errno = Some(libc::ENETDOWN);
        reader.wait(SECOND);
        assert_eq!(reader.link, Link::Down);
        assert_eq!(receive(&mut reader), []);
        reader.rings.arrive(&[60]);
        assert_eq!(receive(&mut reader).len(), 1);
        assert_eq!(reader.link, Link::Up);
    }

    #[test]
    fn a_removed_interface_is_an_error_once_its_frames_have_been_shown() {
        let mut reader = reader(4);
        reader.rings.kick_errno = Some(libc::ENXIO);
        reader.wait(SECOND);
        reader.rings.arrive(&[60]);
        assert_eq!(receive(&mut reader).len(), 1);
        let error = reader.receive(&mut |_| ()).unwrap_err();
        assert!(matches!(error, CaptureError::Gone(name) if name == "memory0"));
    }

    #[test]
    fn frames_that_arrive_in_a_rest_have_the_times_of_their_stamps() {
        let mut reader = reader(8);
        reader.sleeper.bell.rings = true;
        reader.wait(SECOND);
        let Some(&Call::Publish { number, .. }) = reader.sleeper.bell.calls.first() else {
            panic!("the reader rests at first")
        };
        for monotonic_ns in [5, 7] {
            let address = reader.rings.arrive(&[60]).unwrap();
            let stamp = Stamp {
                monotonic_ns,
                rest: number,
                unused: 0,
            };
            reader.rings.stamps.insert(address, stamp);
        }
        let mut times = Vec::new();
        reader
            .receive(&mut |frame| times.push(frame.captured))
            .unwrap();
        receive(&mut reader);
        reader.rings.arrive(&[60]);
        reader
            .receive(&mut |frame| times.push(frame.captured))
            .unwrap();
        let [first, second] = [5, 7].map(CaptureTime::Monotonic);
        assert_eq!(times, [first, second, CaptureTime::AtReceipt]);
    }
}
