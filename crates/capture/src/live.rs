//! Passive live captures through libpcap: copies of the frames of both directions, while the host
//! receives and sends as before.
//!
//! The filter runs on the frame as libpcap gives it, with its tags. So that frames that do not
//! match are not copied, the kernel runs a program of its own before, which accepts at least what
//! the filter matches.

mod kernel_filter;

use crate::counters::{Dropped, SourceCounters};
use crate::error::{CaptureError, pcap_text};
use crate::filter::{CompiledFilter, ETHERNET, Filter};
use crate::frame::{CaptureTime, Frame};
use crate::interface::Interface;
use crate::sampling::{Sampler, Sampling};
use crate::source::{BURST_MAX, Received, Source, SourceChange, Unchangeable};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use pcap::{Active, Capture, Stat};
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

/// An interface captured through libpcap.
pub struct LiveCapture {
    capture: Capture<Active>,
    interface: Interface,
    link: u16,
    /// Octets of a frame that libpcap keeps.
    snap_octets: u32,
    filter: Option<Arc<CompiledFilter>>,
    sampler: Sampler,
    counters: SourceCounters,
    /// libpcap's drop counter when it was last read. It has 32 bits, so its differences are summed.
    kernel_drops_before: u32,
    /// The card's drop counter when the capture began. libpcap reads it by the name of the
    /// interface, so that a renamed one would have dropped less than before.
    card_drops_before: u64,
    /// The link went down and no frame has arrived since.
    down: bool,
}

/// Decoding reads headers only: eight tags or labels, the longest IP and TCP headers, and a
/// reserve.
const SNAP_OCTETS: u32 = 256;
/// More than any frame has: what libpcap captures by default.
const SNAP_OCTETS_MAX: u32 = 262_144;
/// Room for eight tags or labels in front of what the filter looks at.
const TAG_OCTETS: u32 = 32;
/// By how much the longest link header exceeds Ethernet's, rounded up.
const HEADER_DIFFERENCE: u32 = 16;
/// 10 ms of 10 Gbit/s in the smallest frames, with libpcap's overhead for each.
const BUFFER_OCTETS: u32 = 64 << 20;
/// How long the kernel collects packets before it delivers a block of them.
const BLOCK_MS: i32 = 20;

impl LiveCapture {
    /// Octets of the kernel's buffer for one interface.
    pub const BUFFER_OCTETS: u64 = BUFFER_OCTETS as u64;

    /// Compiles a filter for the frames of an interface where they have no Ethernet header, for
    /// which it is compiled already. This may take seconds: call it before the interface is opened,
    /// or before its filter is changed, since frames wait for neither.
    ///
    /// # Errors
    ///
    /// [`CaptureError::Live`] or [`CaptureError::Filter`] with libpcap's error.
    pub fn prepare(interface: &Interface, filter: &Filter) -> Result<(), CaptureError> {
        if interface.has_ethernet_frames() {
            return Ok(());
        }
        let opened = Capture::from_device(interface.name.as_str()).and_then(Capture::open);
        let opened = opened.map_err(|error| CaptureError::Live {
            name: interface.name.clone(),
            what: pcap_text(error),
        })?;
        let link = link_of(&opened);
        drop(opened);
        filter.compile(link).map(drop)
    }

    /// Opens an interface in promiscuous mode. The packets that match `filter` are sampled.
    ///
    /// # Errors
    ///
    /// [`CaptureError::Live`] or [`CaptureError::Filter`] with libpcap's error.
    pub fn open(
        interface: Interface,
        filter: Option<&Filter>,
        sampling: Sampling,
    ) -> Result<Self, CaptureError> {
        let failed = |error| CaptureError::Live {
            name: interface.name.clone(),
            what: pcap_text(error),
        };
        if let Some(filter) = filter {
            Self::prepare(&interface, filter)?;
        }
        let inactive = Capture::from_device(interface.name.as_str()).map_err(failed)?;
        // The link type is not known yet, so the filter is asked how far it looks on Ethernet.
        let snap_octets = match filter {
            Some(filter) => SNAP_OCTETS
                .max(needed_octets(&*filter.compile(ETHERNET)?) + HEADER_DIFFERENCE)
                .min(SNAP_OCTETS_MAX),
            None => SNAP_OCTETS,
        };
        let capture = inactive
            .promisc(true)
            .snaplen(i32::try_from(snap_octets).expect("it is at most libpcap's default"))
            .buffer_size(BUFFER_OCTETS.cast_signed())
            .timeout(BLOCK_MS)
            .precision(pcap::Precision::Nano)
            .open()
            .and_then(Capture::setnonblock)
            .map_err(failed)?;
        let link = link_of(&capture);
        let mut this = Self {
            capture,
            card_drops_before: interface.card_drops(),
            interface,
            link,
            snap_octets,
            filter: None,
            sampler: sampler(sampling),
            counters: SourceCounters::default(),
            kernel_drops_before: 0,
            down: false,
        };
        if let Some(filter) = filter {
            this.set_filter(filter)?;
        }
        Ok(this)
    }

    /// Filters from the next frame on.
    fn set_filter(&mut self, filter: &Filter) -> Result<(), CaptureError> {
        let compiled = filter.compile(self.link)?;
        if needed_octets(&compiled) > self.snap_octets {
            return Err(CaptureError::Live {
                name: self.interface.name.clone(),
                what: format!(
                    "filter '{}' looks further into a frame than the {} octets that are captured; \
                     restart with this filter",
                    filter.expression(),
                    self.snap_octets
                ),
            });
        }
        filter.warn_if_blind_as(&compiled, &self.interface.name);
        let in_kernel = match compiled.kernel_program() {
            Some(mut program) => kernel_filter::attach(self.socket(), &mut program),
            None => kernel_filter::detach(self.socket()),
        };
        if let Err(error) = in_kernel {
            tracing::info!(
                "{}: the kernel does not take filter '{}' ({error}): frames are filtered after \
                 they are copied",
                self.interface.name,
                filter.expression()
            );
            self.pass_all()?;
        }
        self.filter = Some(compiled);
        Ok(())
    }

    /// Makes the kernel pass every frame.
    fn pass_all(&self) -> Result<(), CaptureError> {
        kernel_filter::detach(self.socket()).map_err(|error| CaptureError::Live {
            name: self.interface.name.clone(),
            what: format!("the filter in the kernel cannot be removed: {error}"),
        })
    }

    fn socket(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor belongs to the capture, which outlives the borrow.
        unsafe { BorrowedFd::borrow_raw(self.capture.as_raw_fd()) }
    }
}

fn link_of(capture: &Capture<Active>) -> u16 {
    u16::try_from(capture.get_datalink().0).expect("link types are numbered in 16 bits")
}

/// How many octets of a frame have to be captured for a filter.
fn needed_octets(filter: &CompiledFilter) -> u32 {
    let needed = filter.reach_octets().saturating_add(TAG_OCTETS.into());
    u32::try_from(needed).map_or(SNAP_OCTETS_MAX, |needed| needed.min(SNAP_OCTETS_MAX))
}

impl Source for LiveCapture {
    fn receive(&mut self, each: &mut impl FnMut(Frame<'_>)) -> Result<Received, CaptureError> {
        for taken in 0..BURST_MAX {
            let packet = match self.capture.next_packet() {
                Ok(packet) => packet,
                Err(pcap::Error::TimeoutExpired | pcap::Error::NoMorePackets) => {
                    return Ok(received(taken));
                }
                Err(_) if self.interface.present_name().is_none() => {
                    return Err(CaptureError::Gone(self.interface.name.clone()));
                }
                // The kernel reports a link that went down as an error; capturing continues once
                // the link is up. Where the interface was also renamed, libpcap does not find it by
                // its name and says that it disappeared; its socket is bound to the ifIndex.
                Err(pcap::Error::PcapError(what))
                    if what.contains("went down") || what.contains("disappeared") =>
                {
                    self.down = true;
                    return Ok(received(taken));
                }
                Err(error) => {
                    return Err(CaptureError::Live {
                        name: self.interface.name.clone(),
                        what: pcap_text(error),
                    });
                }
            };
            self.down = false;
            let matches =
                |filter: &Arc<CompiledFilter>| filter.matches(packet.data, packet.header.len);
            if !self.filter.as_ref().is_none_or(matches) {
                self.counters.filtered += 1;
                continue;
            }
            if !self.sampler.takes_next() {
                self.counters.sampled_out += 1;
                continue;
            }
            // With nanosecond precision tv_usec holds nanoseconds.
            let (s, ns) = (packet.header.ts.tv_sec, packet.header.ts.tv_usec);
            let captured = match (u64::try_from(s), u64::try_from(ns)) {
                (Ok(s), Ok(ns)) => CaptureTime::Wall(s * 1_000_000_000 + ns),
                _ => CaptureTime::AtReceipt,
            };
            self.counters.received += 1;
            self.counters.received_octets += u64::from(packet.header.len);
            each(Frame {
                octets: packet.data,
                wire_octets: packet.header.len,
                link: self.link,
                captured,
            });
        }
        Ok(Received::Frames)
    }

    fn wait(&mut self, timeout: Duration) {
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        let mut waiting = [PollFd::new(self.socket(), PollFlags::POLLIN)];
        let ready = poll(&mut waiting, timeout);
        // While the link is down poll returns at once: sleep instead.
        let erred = waiting[0]
            .revents()
            .is_some_and(|flags| flags.contains(PollFlags::POLLERR));
        if ready.is_ok() && erred {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn counters(&self) -> SourceCounters {
        self.counters
    }

    fn look_for_losses(&mut self) {
        if let Ok(Stat { dropped, .. }) = self.capture.stats() {
            let before = std::mem::replace(&mut self.kernel_drops_before, dropped);
            self.counters.dropped += Dropped {
                kernel: u64::from(dropped.wrapping_sub(before)),
                ..Dropped::default()
            };
        }
        let card = self.interface.card_drops();
        let card = card.saturating_sub(self.card_drops_before);
        // An interface that was removed has no counters any more.
        self.counters.dropped.interface = self.counters.dropped.interface.max(card);
    }

    fn is_down(&self) -> bool {
        self.down
    }

    /// Sampling and filter change with the next frame.
    fn apply(&mut self, change: SourceChange) -> Result<(), Unchangeable> {
        let setting = change.setting();
        let applied = match change {
            SourceChange::Sampling(sampling) => {
                self.sampler = sampler(sampling);
                return Ok(());
            }
            SourceChange::Filter(Some(filter)) => self.set_filter(&filter),
            SourceChange::Filter(None) => self.pass_all().map(|()| self.filter = None),
        };
        applied.map_err(|error| Unchangeable {
            setting,
            reason: error.to_string(),
        })
    }
}

/// A sampler whose random numbers differ from run to run.
fn sampler(sampling: Sampling) -> Sampler {
    sampling.sampler(RandomState::new().build_hasher().finish())
}

fn received(taken: usize) -> Received {
    if taken == 0 {
        Received::Nothing
    } else {
        Received::Frames
    }
}
