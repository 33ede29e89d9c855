//! An interface with the XDP program attached, and its counters.

use super::config::{Mode, XdpConfig};
use super::deferral::{Deferred, end_leftovers};
use super::link::{Link, LinkState, Place};
use super::program::{Attached, Counter, Program};
use super::queue::{AddedQueue, QueueMemory, QueueReport, XdpQueue};
use super::socket::fits_one_umem_frame;
use super::socket_options::{self, Losses};
use super::watch::{Difference, Differences, Found, Reading, Reason, Unseen};
use crate::counters::Dropped;
use crate::error::CaptureError;
use crate::forbidden::{BPF, NET_RAW, forbidden};
use crate::interface::{Interface, LinkCount, NamedDrops, RefusedFrame};
use crate::sampling::Sampling;
use crate::source::{SourceChange, Unchangeable};
use crossbeam_channel::Sender;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// An interface with the redirecting XDP program attached.
pub struct XdpInterface {
    interface: Interface,
    config: XdpConfig,
    /// Frames that need several buffers are accepted.
    frags: bool,
    opened: Mutex<Vec<Opened>>,
    /// The driver's count when frames began to be redirected; until then `u64::MAX`.
    driver_drops_before: AtomicU64,
    /// As last read: an interface that was removed has no counters any more.
    driver_drops: AtomicU64,
    /// Frames are no longer redirected: what the driver drops now concerns the host.
    stopped: AtomicBool,
    named_drops: NamedDrops,
    place: Place,
    watch: Mutex<Watch>,
    findings: Mutex<Findings>,
    /// For `--busy-poll`, ended first.
    deferred: Option<Deferred>,
    // Dropped in this order: the program is detached, then promiscuous mode ends, then the maps are
    // closed.
    link: Mutex<Attachment>,
    _promiscuous: OwnedFd,
    program: Program,
}

/// The program's link.
struct Attachment {
    /// None while the program cannot be attached again.
    link: Option<Link>,
    /// As the kernel reported it when the program was attached first.
    program: u32,
}

/// What is remembered from one look at the interface to the next.
#[derive(Default)]
struct Watch {
    /// Frames are redirected.
    is_on: bool,
    /// None where the link's count cannot be read.
    unseen: Option<Unseen>,
    differences: Differences,
}

/// What the latest look found. It has a lock of its own, so that reading it waits for no look.
#[derive(Clone, Default)]
struct Findings {
    differences: Vec<Difference>,
    begun: [u64; Reason::ALL.len()],
    /// Frames that the program did not see.
    no_program: u64,
    /// The kernel has unbound the sockets: nothing can be received any more.
    is_unbound: bool,
}

/// A queue that was opened, and its socket for the counters.
struct Opened {
    queue: u32,
    report: QueueReport,
    socket: OwnedFd,
    /// Where its reader gets channels that are added; none where another reader reads it.
    arrivals: Option<Sender<AddedQueue>>,
}

/// The largest MTU whose frames fit one buffer in every driver: the smallest limit is that of
/// drivers with 4 KiB pages, less 256 octets of headroom and 320 of shared info. Above it the frags
/// program is used.
const LINEAR_MTU_MAX: u32 = 3_498;

/// An interface whose XDP program is loaded and verified, but not attached: its traffic is not
/// affected.
pub struct LoadedInterface {
    interface: Interface,
    config: XdpConfig,
    frags: bool,
    program: Program,
}

impl LoadedInterface {
    /// Loads the program for an interface.
    ///
    /// # Errors
    ///
    /// [`CaptureError::Xdp`] with what failed and what to do about it.
    pub fn load(interface: Interface, config: XdpConfig) -> Result<Self, CaptureError> {
        let failed = |what: String| CaptureError::Xdp {
            interface: interface.name.clone(),
            what,
        };
        if let Some(filter) = &config.filter {
            filter.warn_if_blind(&interface.name);
        }
        let frags = interface.mtu > LINEAR_MTU_MAX || !fits_one_umem_frame(&interface);
        let program = Program::load(interface.queue_count, frags).map_err(failed)?;
        program.set_sampling(config.sampling).map_err(failed)?;
        Ok(Self {
            interface,
            config,
            frags,
            program,
        })
    }

    /// Attaches the program. All frames pass to the host until
    /// [`start_redirecting`](XdpInterface::start_redirecting).
    ///
    /// # Errors
    ///
    /// [`CaptureError::Xdp`] with what failed and what to do about it.
    pub fn attach(self) -> Result<XdpInterface, CaptureError> {
        let Self {
            interface,
            config,
            frags,
            program,
        } = self;
        let failed = |what: String| CaptureError::Xdp {
            interface: interface.name.clone(),
            what,
        };
        let promiscuous = socket_options::promiscuous(interface.index).map_err(|error| {
            let what = "a packet socket for promiscuous mode";
            failed(
                forbidden(what, &error, &[NET_RAW])
                    .unwrap_or_else(|| format!("promiscuous mode is not possible ({error})")),
            )
        })?;
        let Attached { place, link } = program.attach(&interface, config.mode).map_err(failed)?;
        let state = link.state().map_err(|error| {
            let what = "asking where the XDP program is attached";
            failed(forbidden(what, &error, &[BPF]).unwrap_or_else(|| format!("{what}: {error}")))
        })?;
        let mut this = XdpInterface {
            driver_drops_before: AtomicU64::new(u64::MAX),
            driver_drops: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
            // Read after attaching: a driver can have other rings, and so other counters, then.
            named_drops: NamedDrops::of(interface.index),
            interface,
            config,
            frags,
            opened: Mutex::default(),
            deferred: None,
            place,
            watch: Mutex::default(),
            findings: Mutex::default(),
            link: Mutex::new(Attachment {
                link: Some(link),
                program: state.program,
            }),
            _promiscuous: promiscuous,
            program,
        };
        end_leftovers(&this.interface);
        if this.config.busy_poll {
            match Deferred::on(&this.interface) {
                Ok(deferred) => this.deferred = Some(deferred),
                Err(error) => tracing::warn!(
                    "{}: interrupts cannot be deferred while its queues are polled ({error}): \
                     polling costs more",
                    this.interface.name
                ),
            }
        }
        Ok(this)
    }
}

impl XdpInterface {
    /// Opens a queue with memory that was reserved for it. No frame is redirected to it yet. Call
    /// it on the thread that will read the queue, so that the kernel allocates its rings near that
    /// thread's core.
    ///
    /// # Errors
    ///
    /// [`CaptureError::Xdp`] with what failed and what to do about it.
    pub fn open_queue(&self, queue: u32, memory: QueueMemory) -> Result<XdpQueue, CaptureError> {
        let Interface {
            name, queue_count, ..
        } = &self.interface;
        if queue >= *queue_count {
            return Err(CaptureError::Xdp {
                interface: name.clone(),
                what: format!(
                    "queue {queue}: no such queue: {name} has {queue_count}, 0 to {}",
                    queue_count - 1
                ),
            });
        }
        let (opened, socket) = self.bind_queue(queue, memory)?;
        let report = opened.report();
        if self.config.mode == Mode::Auto && report.in_driver && !report.zero_copy {
            let frames = if self.frags {
                " for frames of several buffers"
            } else {
                ""
            };
            tracing::info!(
                "{name} queue {queue}: driver and kernel have no zero-copy{frames}, so each frame \
                 is copied once"
            );
        }
        locked(&self.opened).push(Opened {
            queue,
            report,
            socket,
            arrivals: Some(opened.arrivals()),
        });
        Ok(opened)
    }

    /// A queue, and a descriptor of its socket.
    fn bind_queue(
        &self,
        queue: u32,
        memory: QueueMemory,
    ) -> Result<(XdpQueue, OwnedFd), CaptureError> {
        let failed = |what: String| CaptureError::Xdp {
            interface: self.interface.name.clone(),
            what: format!("queue {queue}: {what}"),
        };
        let bell = self.program.bell(queue).map_err(failed)?;
        let place = (self.in_driver(), self.frags);
        let opened = XdpQueue::open(&self.interface, queue, &self.config, place, memory, bell)?;
        let socket = opened
            .socket()
            .try_clone_to_owned()
            .map_err(|error| failed(error.to_string()))?;
        Ok((opened, socket))
    }

    /// Redirects the frames of all queues that were opened, and counts from here on: each queue's
    /// frames from the moment that its socket takes them, and those of queues without a socket once
    /// all others have theirs.
    ///
    /// # Errors
    ///
    /// [`CaptureError::Xdp`] with the kernel's error.
    pub fn start_redirecting(&self) -> Result<(), CaptureError> {
        let failed = |what: String| CaptureError::Xdp {
            interface: self.interface.name.clone(),
            what: format!("frames cannot be redirected: {what}"),
        };
        let opened = locked(&self.opened);
        // What the driver drops from here on may have been meant for a socket. What it dropped
        // before, when attaching or binding made it reset the card, was not.
        let dropped = self.interface.driver_drops();
        self.driver_drops_before.store(dropped, Ordering::Relaxed);
        for Opened { queue, socket, .. } in opened.iter() {
            self.program
                .set_socket(*queue, socket.as_fd())
                .map_err(failed)?;
        }
        self.program.set_counts_no_socket(true).map_err(failed)?;
        drop(opened);
        let counts = self.interface.driver.link_count(self.in_driver());
        let first = self.reading(counts);
        *locked(&self.watch) = Watch {
            is_on: true,
            unseen: first.map(|first| Unseen::since(counts, first)),
            differences: Differences::default(),
        };
        Ok(())
    }

    /// Redirects no more frames, and counts those that pass no more. Once this returns, frames pass
    /// to the host, and all redirected frames are in the rings, which can be read to their end.
    pub fn stop_redirecting(&self) {
        let mut watch = locked(&self.watch);
        self.look_with(&mut watch);
        // The watch stays locked: a look would put the sockets back.
        self.stop();
    }

    fn stop(&self) {
        // A frame that finds no socket must find that it is not counted either: wait for the frames
        // that are between the two look-ups.
        if let Err(error) = self.program.set_counts_no_socket(false) {
            tracing::warn!("{}: {error}", self.interface.name);
        }
        socket_options::await_drivers();
        self.program.unset_sockets();
        socket_options::await_drivers();
        self.read_driver_drops();
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// Asks the kernel whether program, sockets, namespace and channels are as they were, compares
    /// the frames that the program saw with those that the link counted, and mends what can be
    /// mended: a program that was detached is attached again, and sockets that were taken out of
    /// its map are put back. If the sockets were unbound, frames are redirected no more, so that
    /// their readers end.
    ///
    /// For a thread that calls this once a second: some system calls for each queue.
    pub fn look(&self) {
        self.look_with(&mut locked(&self.watch));
    }

    fn look_with(&self, watch: &mut Watch) {
        if self.stopped.load(Ordering::Relaxed) || !watch.is_on {
            return;
        }
        let unbound = self.unbound();
        let is_unbound = unbound.is_some();
        if let Some((reason, found)) = unbound {
            watch.differences.note(reason, Some(found));
            self.stop();
            // In another namespace it would run for nothing.
            locked(&self.link).link = None;
        } else {
            self.look_for_differences(watch);
        }
        *locked(&self.findings) = Findings {
            differences: watch.differences.present(),
            begun: watch.differences.begun(),
            no_program: watch.unseen.as_ref().map_or(0, Unseen::frames),
            is_unbound,
        };
    }

    fn look_for_differences(&self, watch: &mut Watch) {
        let Interface {
            driver,
            queue_count,
            ..
        } = &self.interface;
        let program = self.restore_program();
        let channels = self.interface.channels().unwrap_or(*queue_count);
        let taken = self.take_channels(channels);
        let is_missed = taken.is_some() && driver.misses_new_channels(self.in_driver());
        let is_blind = program.is_some() || is_missed;
        let is_unseen = watch.unseen.as_mut().is_some_and(|unseen| {
            let now = self.reading(unseen.link_count());
            now.is_some_and(|now| unseen.look(now, channels, is_blind))
        });
        let is_explained = program.is_some() || taken.is_some();
        let unseen = (is_unseen && !is_explained)
            .then(|| Found::lasting("its driver counts frames that the XDP program does not see"));
        for (reason, found) in [
            (Reason::Program, program),
            (Reason::Sockets, self.restore_sockets()),
            (Reason::Channels, taken),
            (Reason::Unseen, unseen),
        ] {
            watch.differences.note(reason, found);
        }
    }

    /// What is no longer as it was by the latest look, or was not in the last seconds.
    #[must_use]
    pub fn differences(&self) -> Vec<Difference> {
        locked(&self.findings).differences.clone()
    }

    /// How often each kind of difference has begun, in the order of [`Reason::ALL`].
    #[must_use]
    pub fn differences_begun(&self) -> [u64; Reason::ALL.len()] {
        locked(&self.findings).begun
    }

    /// Why nothing can be received any more, if the kernel has unbound a socket.
    fn unbound(&self) -> Option<(Reason, Found)> {
        let is_unbound = |opened: &Opened| socket_options::is_unbound(opened.socket.as_fd());
        if !locked(&self.opened).iter().any(is_unbound) {
            return None;
        }
        Some(match self.interface.present_name() {
            None => {
                let what = "it was removed, or moved to another network namespace";
                (Reason::Namespace, Found::lasting(what))
            }
            Some(_) => {
                let what = "the kernel unbound its sockets: it was moved away and back";
                (Reason::Sockets, Found::lasting(what))
            }
        })
    }

    /// Attaches the program again if it is not attached any more; what was found then.
    fn restore_program(&self) -> Option<Found> {
        let mut attachment = locked(&self.link);
        let state = attachment.link.as_ref().map(Link::state);
        let found = match state {
            Some(Ok(LinkState { program, index })) if index != 0 => {
                if program == attachment.program {
                    return None;
                }
                "another process replaced the XDP program"
            }
            Some(Err(error)) => {
                let what = "the kernel does not report whether the XDP program is attached";
                return Some(Found::lasting(format!("{what}: {error}")));
            }
            Some(Ok(_)) | None => "another process detached the XDP program",
        };
        Some(match self.attach_again(&mut attachment) {
            Ok(()) => Found::mended(format!("{found}; it is attached again")),
            Err(error) => Found::lasting(format!(
                "{found}, and it cannot be attached again ({error}); another attempt each second"
            )),
        })
    }

    fn attach_again(&self, attachment: &mut Attachment) -> io::Result<()> {
        // Closing the link detaches the program.
        attachment.link = None;
        let link = self.program.attach_at(self.interface.index, self.place)?;
        attachment.link = Some(link);
        if let Some(deferred) = &self.deferred {
            // Without it, polling costs more.
            let _ = deferred.renew();
        }
        Ok(())
    }

    /// Puts sockets back into the program's map; what was found if one was missing.
    fn restore_sockets(&self) -> Option<Found> {
        let mut restored = 0;
        for Opened { queue, socket, .. } in locked(&self.opened).iter() {
            match self.program.restore_socket(*queue, socket.as_fd()) {
                Ok(was_missing) => restored += u32::from(was_missing),
                Err(error) => {
                    return Some(Found::lasting(format!(
                        "frames cannot be redirected: {error}"
                    )));
                }
            }
        }
        (restored > 0).then(|| {
            Found::mended(
                "another process took sockets out of the XDP program's map; they are in it again",
            )
        })
    }

    /// What changed, if the number of channels did and not all of them are read. If all were read
    /// at the start, those that were added are given to the readers that there are.
    fn take_channels(&self, channels: u32) -> Option<Found> {
        let before = self.interface.queue_count;
        let (read, readers): (Vec<_>, Vec<_>) = locked(&self.opened)
            .iter()
            .map(|opened| (opened.queue, opened.arrivals.clone()))
            .unzip();
        let unread = (0..channels).filter(|channel| !read.contains(channel));
        let unread: Vec<_> = unread.collect();
        if channels == before || unread.is_empty() {
            return None;
        }
        let found = format!("it has {channels} channels, at the start {before}");
        if !(0..before).all(|channel| read.contains(&channel)) {
            return Some(Found::lasting(format!(
                "{found}, and not all of them are read (--queues)"
            )));
        }
        let readers: Vec<_> = readers.into_iter().flatten().collect();
        let mut taken = 0;
        let added = unread.into_iter().try_for_each(|queue| {
            self.add_queue(queue, &readers)?;
            taken += 1;
            Ok(())
        });
        let is_missed = taken > 0 && self.interface.driver.misses_new_channels(self.in_driver());
        let attached = if is_missed {
            self.attach_again(&mut locked(&self.link))
        } else {
            Ok(())
        };
        let added = added.and(attached.map_err(|error| error.to_string()));
        Some(match added {
            Ok(()) => Found::mended(format!(
                "{found}; those that are new are read by the workers of the others"
            )),
            Err(error) => Found::lasting(format!("{found}, and not all can be read: {error}")),
        })
    }

    /// Opens a queue that is to be read by one of the readers that there are.
    fn add_queue(&self, queue: u32, readers: &[Sender<AddedQueue>]) -> Result<(), String> {
        let failed = |error: CaptureError| error.to_string();
        let memory = QueueMemory::reserve(&self.interface, &self.config).map_err(failed)?;
        let (added, socket) = self.bind_queue(queue, memory).map_err(failed)?;
        let nth = usize::try_from(queue)
            .ok()
            .and_then(|at| at.checked_rem(readers.len()));
        let report = added.report();
        // If it cannot be read it is closed, which takes it out of the map again.
        self.program.set_socket(queue, socket.as_fd())?;
        if nth.is_none_or(|nth| readers[nth].try_send(added.into_added()).is_err()) {
            return Err("no reader takes it".to_owned());
        }
        locked(&self.opened).push(Opened {
            queue,
            report,
            socket,
            arrivals: None,
        });
        Ok(())
    }

    /// Both counts of frames now; `None` without a link's count. Where many frames came between the
    /// program's two counts, since the thread lost its core, they are read once more.
    fn reading(&self, counts: LinkCount) -> Option<Reading> {
        const ATTEMPTS: usize = 3;
        const CLOSE_FRAMES: u64 = 256;
        let mut closest = self.read_once(counts)?;
        for _ in 1..ATTEMPTS {
            if closest.width() <= CLOSE_FRAMES {
                break;
            }
            let again = self.read_once(counts)?;
            if again.width() < closest.width() {
                closest = again;
            }
        }
        Some(closest)
    }

    fn read_once(&self, counts: LinkCount) -> Option<Reading> {
        let program = || match counts {
            LinkCount::PassedFrames => self.program.count(Counter::NoSocket),
            LinkCount::EveryFrame | LinkCount::Unknown => self.kernel_counters().seen(),
        };
        let program_before = program();
        let link = self.interface.received()?;
        Some(Reading {
            program_before,
            link,
            program_after: program(),
        })
    }

    fn in_driver(&self) -> bool {
        self.place == Place::Driver
    }

    /// Changes the sampling of all queues. Each CPU uses the new setting from its next frame on.
    ///
    /// # Errors
    ///
    /// [`Unchangeable`] with the kernel's error; the old setting stays.
    pub fn set_sampling(&self, sampling: Sampling) -> Result<(), Unchangeable> {
        let set = self.program.set_sampling(sampling);
        set.map_err(|reason| Unchangeable {
            setting: SourceChange::Sampling(sampling).setting(),
            reason,
        })
    }

    /// The counters of the driver, the XDP program and the sockets. Makes some system calls for
    /// each queue: at most once a second while frames arrive.
    ///
    /// The counters are read against the direction of a frame, so that no frame is in a later
    /// counter and not yet in an earlier one: the driver's, then the sockets', then the program's.
    #[must_use]
    pub fn counters(&self) -> InterfaceCounters {
        let mut counters = self.kernel_counters();
        let findings = locked(&self.findings);
        counters.no_program = findings.no_program;
        counters.is_unbound = findings.is_unbound;
        drop(findings);
        counters
    }

    fn kernel_counters(&self) -> InterfaceCounters {
        let driver = self.read_driver_drops();
        let opened = locked(&self.opened);
        let losses = opened.iter().map(|opened| {
            socket_options::losses(opened.socket.as_fd())
                .expect("an open AF_XDP socket has XDP_STATISTICS")
        });
        let losses: Vec<_> = losses.collect();
        let mut counters = InterfaceCounters {
            redirected: self.program.count(Counter::Redirected),
            no_socket: self.program.count(Counter::NoSocket),
            sampled_out: self.program.count(Counter::SampledOut),
            driver,
            ..InterfaceCounters::default()
        };
        if self.interface.driver.counts_sampled_out(self.in_driver()) {
            counters.driver = counters.driver.saturating_sub(counters.sampled_out);
        }
        for (Opened { queue, report, .. }, losses) in opened.iter().zip(losses) {
            counters.add(*queue, *report, losses);
        }
        counters
    }

    /// The driver's own counters of lost frames, by name, for display only: they overlap with each
    /// other and with [`counters`](Self::counters). Makes system calls, and some drivers query the
    /// card: at most once a second.
    #[must_use]
    pub fn named_drops(&self) -> Vec<(String, u64)> {
        self.named_drops.read()
    }

    /// The interface.
    #[must_use]
    pub fn interface(&self) -> &Interface {
        &self.interface
    }

    /// What the driver dropped while frames were redirected.
    fn read_driver_drops(&self) -> u64 {
        if self.stopped.load(Ordering::Relaxed) {
            return self.driver_drops.load(Ordering::Relaxed);
        }
        let before = self.driver_drops_before.load(Ordering::Relaxed);
        let driver = self.interface.driver_drops().saturating_sub(before);
        self.driver_drops
            .fetch_max(driver, Ordering::Relaxed)
            .max(driver)
    }
}

impl fmt::Display for XdpInterface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Interface {
            name,
            mtu,
            queue_count,
            ..
        } = &self.interface;
        let place = if self.in_driver() {
            "in the driver (native)"
        } else {
            "after the driver (skb mode)"
        };
        let frags = if self.frags {
            ", frames of several buffers"
        } else {
            ""
        };
        write!(
            f,
            "{name}: XDP program {place}, {queue_count} queues, MTU {mtu}{frags}"
        )
    }
}

/// What is locked is whole at any time: a list that only grows, a link, what a look has noted.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What an interface counted, in packets: its driver, the XDP program, and the sockets.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct InterfaceCounters {
    /// Handed to a socket.
    pub redirected: u64,
    /// Packets that `redirected` counts repeatedly: their driver offered them again after the
    /// socket had refused them.
    pub offered_again: u64,
    /// Passed on to the host because their queue had no socket while others had theirs.
    pub no_socket: u64,
    /// Counted by the link and not seen by the XDP program: it was not attached, or the driver did
    /// not run it on a channel that was added. At least so many.
    pub no_program: u64,
    /// Handed to sockets that the kernel had unbound, since the interface was removed or moved to
    /// another network namespace: see [`settle`](Self::settle).
    pub unbound: u64,
    /// The kernel has unbound the sockets.
    pub is_unbound: bool,
    /// Dropped by sampling in the XDP program.
    pub sampled_out: u64,
    /// Dropped by the driver while frames were redirected.
    pub driver: u64,
    /// Each open queue.
    pub queues: Vec<QueueCounters>,
}

impl InterfaceCounters {
    /// All packets that reached the observation point.
    #[must_use]
    pub fn offered(&self) -> u64 {
        self.seen() + self.no_program + self.driver
    }

    /// All packets that the XDP program saw.
    fn seen(&self) -> u64 {
        self.redirected - self.offered_again + self.no_socket + self.sampled_out
    }

    /// Counts as `unbound` what was redirected and is in no other count, once the kernel has
    /// unbound the sockets and their readers, which took `taken` frames, have ended. Nothing else
    /// counts these frames.
    pub fn settle(&mut self, taken: u64) {
        if !self.is_unbound {
            return;
        }
        let refused = |queue: &QueueCounters| queue.losses.ring_full + queue.losses.no_frame;
        let refused: u64 = self.queues.iter().map(refused).sum();
        let redirected = self.redirected - self.offered_again;
        self.unbound = redirected.saturating_sub(taken + refused);
        let counts_again =
            |queue: &QueueCounters| queue.report.refused_frame == RefusedFrame::CountedAgain;
        if self.queues.iter().any(counts_again) {
            self.driver = self.driver.saturating_sub(self.unbound);
        }
    }

    /// The losses that belong to no open queue.
    #[must_use]
    pub fn dropped(&self) -> Dropped {
        Dropped {
            driver: self.driver,
            no_program: self.no_program,
            no_socket: self.no_socket,
            unbound: self.unbound,
            ..Dropped::default()
        }
    }

    /// Adds a queue, and takes the packets that its socket refused out of the other counters.
    fn add(&mut self, queue: u32, report: QueueReport, mut losses: Losses) {
        match report.refused_frame {
            RefusedFrame::Dropped => {}
            RefusedFrame::CountedAgain => {
                self.driver = self
                    .driver
                    .saturating_sub(losses.ring_full + losses.no_frame);
            }
            RefusedFrame::OfferedAgain => {
                // A full ring delayed these frames but did not lose them.
                self.offered_again += std::mem::take(&mut losses.ring_full);
            }
        }
        self.queues.push(QueueCounters {
            queue,
            report,
            losses,
        });
    }
}

/// The counters of one queue's socket.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct QueueCounters {
    /// The queue.
    pub queue: u32,
    /// What it got.
    pub report: QueueReport,
    /// What its socket refused, in packets.
    pub losses: Losses,
}

impl QueueCounters {
    /// The losses of this queue.
    #[must_use]
    pub fn dropped(&self) -> Dropped {
        Dropped {
            ring_full: self.losses.ring_full,
            no_frame: self.losses.no_frame,
            ..Dropped::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_that_a_socket_refused_is_counted_once_whatever_the_driver_does_with_it() {
        let counted = |refused_frame| {
            let report = QueueReport {
                zero_copy: false,
                in_driver: true,
                huge_pages: false,
                refused_frame,
                frame_count: 1,
                frame_octets: 2048,
            };
            let mut counters = InterfaceCounters {
                redirected: 100,
                driver: 15,
                ..InterfaceCounters::default()
            };
            counters.add(
                0,
                report,
                Losses {
                    ring_full: 10,
                    no_frame: 2,
                },
            );
            (
                counters.offered() - counters.driver,
                counters.driver,
                counters.queues[0].dropped().ring_full,
            )
        };
        assert_eq!(counted(RefusedFrame::Dropped), (100, 15, 10));
        assert_eq!(counted(RefusedFrame::CountedAgain), (100, 3, 10));
        assert_eq!(counted(RefusedFrame::OfferedAgain), (90, 15, 0));
    }

    #[test]
    fn what_went_to_unbound_sockets_is_in_one_count() {
        let report = QueueReport {
            zero_copy: false,
            in_driver: true,
            huge_pages: false,
            refused_frame: RefusedFrame::CountedAgain,
            frame_count: 1,
            frame_octets: 2048,
        };
        let counted = |is_unbound| {
            let mut counters = InterfaceCounters {
                redirected: 100,
                driver: 40,
                is_unbound,
                ..InterfaceCounters::default()
            };
            counters.add(0, report, Losses::default());
            counters.settle(70);
            (counters.unbound, counters.driver, counters.offered())
        };
        assert_eq!(counted(true), (30, 10, 110));
        assert_eq!(counted(false), (0, 40, 140));
    }
}
