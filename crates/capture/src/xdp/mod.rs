//! AF_XDP: frames are taken from a card's queue before the host's stack sees them.
//!
//! [`XdpInterface`] is what an interface has once: the program that redirects, attached as a BPF
//! link that the kernel undoes when this process ends, however it ends; the map from queues to
//! sockets; promiscuous mode. [`XdpQueue`] is what each queue has: a socket with its rings and
//! frames, opened on the thread that will read it. Order of the start: attach with an empty map
//! (frames pass to the host), open and fill each queue, and put its socket into the map last, so
//! that no frame is taken that nobody could read.

mod queue;
mod rest;
mod socket_options;

pub use queue::{QueueReport, XdpQueue};
pub use socket_options::Losses;

use crate::interface::{NamedDrops, Refused};
use crate::{CaptureError, Dropped, Filter, Interface, Sampling, SamplingMode};
use aya::maps::{MapData, PerCpuArray, XskMap};
use aya::programs::links::FdLink;
use aya::programs::{ProgramError, Xdp, xdp::XdpMode};
use aya::{Ebpf, EbpfLoader};
use rest::Rests;
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Which ways of AF_XDP are tried.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Mode {
    /// Zero-copy, else copy in the driver's own XDP, else skb mode.
    #[default]
    Auto,
    /// Frames stay where the card put them; the driver must support it.
    ZeroCopy,
    /// The driver runs XDP and the kernel copies each frame once.
    Copy,
    /// Any driver: XDP runs behind it, on socket buffers.
    Skb,
}

/// How an interface is captured from.
#[derive(Clone, Debug)]
pub struct XdpConfig {
    /// Which ways are tried.
    pub mode: Mode,
    /// Entries of each queue's receive ring, a power of two. It has twice as many frames, and a
    /// fill ring of four times.
    pub ring_entries: u32,
    /// Never sleep: the reader drives the card itself.
    pub busy_poll: bool,
    /// What the XDP program drops, before any filter.
    pub sampling: Sampling,
    /// What is wanted; the rest is dropped as soon as it is received.
    pub filter: Option<Filter>,
}

impl XdpConfig {
    /// 10 ms at 3 Mpps: a reader that lost its core for so long loses nothing.
    pub const RING_ENTRIES: u32 = 32_768;
}

/// An interface with the redirecting program attached.
pub struct XdpInterface {
    interface: Interface,
    config: XdpConfig,
    /// Where the program runs: in the driver, or behind it on socket buffers.
    in_driver: bool,
    /// Frames of more than one buffer are let through.
    frags: bool,
    sockets: Mutex<XskMap<MapData>>,
    rests: Rests,
    opened: Mutex<Vec<Opened>>,
    counters: PerCpuArray<MapData, u64>,
    driver_drops_before: u64,
    /// As last read: an interface that is gone has no counts any more.
    driver_drops: AtomicU64,
    named_drops: NamedDrops,
    tunables: Vec<(&'static str, u64)>,
    // Dropped in this order: the program is detached, then promiscuous mode is left, then the maps
    // go.
    _link: FdLink,
    _promiscuous: OwnedFd,
    _program: Ebpf,
}

/// A queue that was opened, with its socket for what that refused.
struct Opened {
    queue: u32,
    report: QueueReport,
    socket: OwnedFd,
}

/// What an interface counted, in packets: the driver, the XDP program behind it, and the sockets.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct InterfaceCounters {
    /// Handed to a socket.
    pub redirected: u64,
    /// Of these, frames that are counted once more since their driver offered them again after the
    /// socket had refused them.
    pub offered_again: u64,
    /// Passed on to the host: their queue had no socket.
    pub no_socket: u64,
    /// Dropped by the program, since others of their number stand for them.
    pub sampled_out: u64,
    /// Dropped by the driver since the start.
    pub driver: u64,
    /// Each open queue.
    pub queues: Vec<QueueCounters>,
}

/// A queue's socket, and what that refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct QueueCounters {
    /// The queue.
    pub queue: u32,
    /// What it got.
    pub report: QueueReport,
    /// What it refused, in packets.
    pub losses: Losses,
}

impl InterfaceCounters {
    /// What came to the observation point.
    #[must_use]
    pub fn offered(&self) -> u64 {
        self.redirected - self.offered_again + self.no_socket + self.sampled_out + self.driver
    }

    /// The losses that belong to no queue of ours.
    #[must_use]
    pub fn dropped(&self) -> Dropped {
        Dropped {
            driver: self.driver,
            no_socket: self.no_socket,
            ..Dropped::default()
        }
    }

    /// Adds a queue whose socket refused so many, and takes out of the other counts what the socket
    /// has counted too.
    fn add(&mut self, queue: u32, report: QueueReport, mut losses: Losses) {
        match report.refused {
            Refused::Dropped => {}
            Refused::CountedAgain => {
                self.driver = self
                    .driver
                    .saturating_sub(losses.ring_full + losses.no_frame)
            }
            Refused::OfferedAgain => {
                // A full ring has delayed these frames and not lost them.
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

/// Aligned as the ELF reader wants it.
#[repr(C, align(8))]
struct Aligned<T: ?Sized>(T);

static OBJECT: &Aligned<[u8]> =
    &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/redirect.bpf.o")));

/// The largest MTU whose frames fit one buffer in every driver, with its own needs around them: the
/// smallest limit is that of drivers with 4 KiB pages, 256 octets of headroom and 320 of shared
/// info. Above it the frags program is used.
const LINEAR_MTU_MAX: u32 = 3_498;

impl XdpInterface {
    /// Attaches the program to an interface. Frames still pass to the host until a queue is opened.
    ///
    /// # Errors
    ///
    /// [`CaptureError::Xdp`] with what failed and what to do about it.
    pub fn attach(interface: Interface, config: XdpConfig) -> Result<Self, CaptureError> {
        let failed = |what: String| CaptureError::Xdp {
            interface: interface.name.clone(),
            what,
        };
        let frags = interface.mtu > LINEAR_MTU_MAX || !queue::fits_one_frame(&interface);
        let driver_drops_before = interface.driver_drops();
        let mut program = load(interface.queue_count, config.sampling).map_err(&failed)?;
        let promiscuous = socket_options::promiscuous(&interface).map_err(|error| {
            failed(format!(
                "promiscuous mode: {error} (wanted: root, or CAP_NET_RAW)"
            ))
        })?;
        let xdp: &mut Xdp = program
            .program_mut(if frags {
                "redirect_frags"
            } else {
                "redirect_linear"
            })
            .and_then(|xdp| xdp.try_into().ok())
            .ok_or_else(|| failed("its own XDP program is not in this binary".to_owned()))?;
        xdp.load().map_err(|error| failed(in_one_line(&error)))?;
        let (link, in_driver) = attach(xdp, &interface, config.mode).map_err(&failed)?;
        let no_map = || failed("its own XDP program lacks a map".to_owned());
        let sockets = program
            .take_map("sockets")
            .and_then(|map| XskMap::try_from(map).ok())
            .ok_or_else(no_map)?;
        let counters = program
            .take_map("counters")
            .and_then(|map| PerCpuArray::try_from(map).ok())
            .ok_or_else(no_map)?;
        let (rests, bells) = program
            .take_map("rests")
            .zip(program.take_map("bells"))
            .ok_or_else(no_map)?;
        let rests = Rests::new(rests, bells).map_err(&failed)?;
        let mut this = Self {
            driver_drops_before,
            driver_drops: AtomicU64::new(0),
            // With the program attached: a driver can have other rings for it.
            named_drops: NamedDrops::of(&interface.name),
            interface,
            config,
            in_driver,
            frags,
            sockets: Mutex::new(sockets),
            rests,
            opened: Mutex::default(),
            counters,
            tunables: Vec::new(),
            _link: link,
            _promiscuous: promiscuous,
            _program: program,
        };
        if this.config.busy_poll {
            this.defer_interrupts();
        }
        Ok(this)
    }

    /// Opens a queue: frames, socket, rings; its socket goes into the map last. Called on the
    /// thread that will read it, so that its memory is near that thread's core.
    ///
    /// # Errors
    ///
    /// [`CaptureError::Xdp`] with what failed and what to do about it.
    pub fn open_queue(&self, queue: u32) -> Result<XdpQueue, CaptureError> {
        let Interface {
            name, queue_count, ..
        } = &self.interface;
        let failed = |what: String| CaptureError::Xdp {
            interface: name.clone(),
            what: format!("queue {queue}: {what}"),
        };
        if queue >= *queue_count {
            return Err(failed(format!(
                "it has {queue_count} queues, 0 to {}",
                queue_count - 1
            )));
        }
        let sleeper = self
            .rests
            .sleeper(queue, self.config.ring_entries)
            .map_err(&failed)?;
        let opened = XdpQueue::open(
            &self.interface,
            queue,
            &self.config,
            self.in_driver,
            self.frags,
            sleeper,
        )?;
        let socket = opened
            .share_socket()
            .map_err(|error| failed(error.to_string()))?;
        let entry = Opened {
            queue,
            report: opened.report(),
            socket,
        };
        self.opened
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(entry);
        self.set_socket(queue, opened.socket_fd()).map_err(failed)?;
        Ok(opened)
    }

    /// Takes all sockets out of the map: once this returns frames pass to the host, all that were
    /// redirected are in the rings, and those can be read to their end.
    pub fn stop_redirecting(&self) {
        let mut sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        for queue in 0..sockets.len() {
            // Empty entries say so; there is nothing to do about them.
            let _ = sockets.unset(queue);
        }
        socket_options::await_drivers();
    }

    /// What was counted on the interface: some system calls for each queue, so at most once a
    /// second while it receives.
    ///
    /// The counts are read against the way of a frame, so that none is in a later count and not yet
    /// in an earlier one: drivers' own, then sockets', then the program's.
    #[must_use]
    pub fn counters(&self) -> InterfaceCounters {
        let driver = self
            .interface
            .driver_drops()
            .saturating_sub(self.driver_drops_before);
        let driver = self
            .driver_drops
            .fetch_max(driver, Ordering::Relaxed)
            .max(driver);
        let opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        let refused =
            |entry: &Opened| socket_options::losses(entry.socket.as_raw_fd()).unwrap_or_default();
        let losses: Vec<_> = opened.iter().map(refused).collect();
        let sum = |index| {
            self.counters
                .get(&index, 0)
                .map_or(0, |values| values.iter().sum())
        };
        let mut counters = InterfaceCounters {
            redirected: sum(0),
            no_socket: sum(1),
            sampled_out: sum(2),
            driver,
            ..InterfaceCounters::default()
        };
        if self.interface.driver.counts_sampled_out(self.in_driver) {
            counters.driver = counters.driver.saturating_sub(counters.sampled_out);
        }
        for (Opened { queue, report, .. }, losses) in opened.iter().zip(losses) {
            counters.add(*queue, *report, losses);
        }
        counters
    }

    /// The driver's own counters of received frames lost, by name: for looking at, and in no sum
    /// with [`counters`](Self::counters). A system call or two, and some drivers ask the card: at
    /// most once a second.
    #[must_use]
    pub fn named_drops(&self) -> Vec<(String, u64)> {
        self.named_drops.read()
    }

    /// The interface.
    #[must_use]
    pub fn interface(&self) -> &Interface {
        &self.interface
    }

    fn set_socket(&self, queue: u32, socket: RawFd) -> Result<(), String> {
        let mut sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        sockets
            .set(queue, socket, 0)
            .map_err(|error| in_one_line(&error))
    }

    /// Lets the reader's own polling drive the card (Documentation/networking/napi.rst); undone
    /// when this is dropped.
    fn defer_interrupts(&mut self) {
        for (tunable, value) in [("napi_defer_hard_irqs", 2), ("gro_flush_timeout", 200_000)] {
            match self.interface.set_tunable(tunable, value) {
                Ok(before) => self.tunables.push((tunable, before)),
                Err(error) => tracing::warn!(
                    "{}: cannot set {tunable} to {value}: {error}",
                    self.interface.name
                ),
            }
        }
    }
}

impl Drop for XdpInterface {
    fn drop(&mut self) {
        for (tunable, before) in self.tunables.drain(..) {
            if let Err(error) = self.interface.set_tunable(tunable, before) {
                tracing::warn!(
                    "{}: cannot set {tunable} back to {before}: {error}",
                    self.interface.name
                );
            }
        }
    }
}

impl fmt::Display for XdpInterface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            interface:
                Interface {
                    name,
                    mtu,
                    queue_count,
                    ..
                },
            in_driver,
            frags,
            ..
        } = self;
        let place = if *in_driver {
            "in the driver (native)"
        } else {
            "behind the driver (skb mode)"
        };
        let frags = if *frags {
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

fn load(queue_count: u32, sampling: Sampling) -> Result<Ebpf, String> {
    let interval = u32::from(sampling.interval.get());
    let random = u32::from(sampling.mode == SamplingMode::Random);
    let loaded = EbpfLoader::new()
        .map_max_entries("sockets", queue_count)
        .map_max_entries("rests", queue_count)
        .map_max_entries("bells", queue_count)
        .override_global("sampling_interval", &interval, true)
        .override_global("sampling_random", &random, true)
        .load(&OBJECT.0);
    loaded.map_err(|error| {
        format!(
            "{} (wanted: root, or CAP_BPF and CAP_NET_ADMIN)",
            in_one_line(&error)
        )
    })
}

/// Attaches in the driver where mode and driver allow it, else behind it where the mode allows
/// that; says which it was.
fn attach(xdp: &mut Xdp, interface: &Interface, mode: Mode) -> Result<(FdLink, bool), String> {
    let places: &[(XdpMode, bool)] = match mode {
        Mode::Auto => &[(XdpMode::Driver, true), (XdpMode::Skb, false)],
        Mode::ZeroCopy | Mode::Copy => &[(XdpMode::Driver, true)],
        Mode::Skb => &[(XdpMode::Skb, false)],
    };
    let mut reasons = String::new();
    for &(place, in_driver) in places {
        match xdp.attach_to_if_index(interface.index, place) {
            Ok(id) => {
                let link = xdp.take_link(id).map_err(|error| in_one_line(&error))?;
                // Netlink was used: nothing would detach such a program after a crash.
                let link = FdLink::try_from(link).map_err(|_| {
                    "the kernel has no BPF links for XDP; wanted: Linux 5.9 or newer".to_owned()
                })?;
                return Ok((link, in_driver));
            }
            Err(error) if is_busy(&error) => {
                return Err(
                    "another XDP program is attached to it already, perhaps another xdprobe; \
                            `ip link show` names it: stop that first"
                        .to_owned(),
                );
            }
            Err(error) => reasons = in_one_line(&error),
        }
    }
    let remedy = match mode {
        Mode::ZeroCopy | Mode::Copy => "its driver has no XDP of its own for this: try --mode skb",
        Mode::Auto | Mode::Skb => "try --capture pcap",
    };
    Err(format!(
        "the XDP program cannot be attached: {reasons}; {remedy}"
    ))
}

fn is_busy(error: &ProgramError) -> bool {
    let errno = match error {
        ProgramError::SyscallError(error) => error.io_error.raw_os_error(),
        _ => None,
    };
    matches!(errno, Some(libc::EBUSY | libc::EEXIST))
}

/// An error with its causes on one line, the verifier's log left out but for its last words.
fn in_one_line(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !line.contains(&text) {
            line = format!("{line}: {text}");
        }
        cause = error.source();
    }
    line.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join("; ")
}

/// The system's error number behind an error of a library.
fn errno(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(errno) = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::raw_os_error)
        {
            return Some(errno);
        }
        cause = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_socket_refused_is_counted_once_whatever_the_driver_does_with_it() {
        let counted = |refused| {
            let report = QueueReport {
                zero_copy: false,
                in_driver: true,
                huge_pages: false,
                refused,
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
        assert_eq!(counted(Refused::Dropped), (100, 15, 10));
        assert_eq!(counted(Refused::CountedAgain), (100, 3, 10));
        assert_eq!(counted(Refused::OfferedAgain), (90, 15, 0));
    }
}
