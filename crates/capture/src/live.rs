//! Live captures through libpcap: they look on, see both directions and take nothing from the host.

use crate::sampling::Sampler;
use crate::{
    BURST_MAX, CaptureError, CaptureTime, Dropped, Filter, Frame, Received, Sampling, Source,
    SourceCounters,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use pcap::{Active, Capture, Stat};
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

/// An interface seen through libpcap.
pub struct LiveCapture {
    capture: Capture<Active>,
    name: String,
    link: u16,
    sampler: Sampler,
    counters: SourceCounters,
    /// libpcap's own counters at the last look: 32 bits wide, so they are added up by their
    /// differences.
    seen: (u32, u32),
    /// The link is down, as far as is known; it comes back by itself.
    down: bool,
}

/// Headers are all that decoding reads: room for eight tags or labels, the longest IP and TCP
/// headers, and some to spare.
const SNAP_OCTETS: i32 = 256;
/// 10 ms of 10 Gbit/s in the smallest frames, with libpcap's overhead for each.
const BUFFER_OCTETS: i32 = 64 << 20;
/// How long the kernel gathers packets before it shows a block of them.
const GATHER_MS: i32 = 20;

impl LiveCapture {
    /// Opens `name` in promiscuous mode, with `filter` running in the kernel; what it lets through
    /// is sampled.
    ///
    /// # Errors
    ///
    /// [`CaptureError::Live`] or [`CaptureError::Filter`] with what libpcap said.
    pub fn open(
        name: &str,
        filter: Option<&Filter>,
        sampling: Sampling,
    ) -> Result<Self, CaptureError> {
        let failed = |error| CaptureError::Live {
            name: name.to_owned(),
            what: in_plain_words(error),
        };
        let inactive = Capture::from_device(name).map_err(failed)?;
        let mut capture = inactive
            .promisc(true)
            .snaplen(SNAP_OCTETS)
            .buffer_size(BUFFER_OCTETS)
            .timeout(GATHER_MS)
            .precision(pcap::Precision::Nano)
            .open()
            .and_then(Capture::setnonblock)
            .map_err(failed)?;
        let link = u16::try_from(capture.get_datalink().0).unwrap_or(u16::MAX);
        if let Some(filter) = filter {
            capture
                .filter(filter.expression(), true)
                .map_err(|error| CaptureError::Filter {
                    expression: filter.expression().to_owned(),
                    link,
                    what: in_plain_words(error),
                })?;
        }
        Ok(Self {
            capture,
            name: name.to_owned(),
            link,
            sampler: sampling.sampler(RandomState::new().build_hasher().finish()),
            counters: SourceCounters::default(),
            seen: (0, 0),
            down: false,
        })
    }
}

impl Source for LiveCapture {
    fn receive(&mut self, each: &mut impl FnMut(Frame<'_>)) -> Result<Received, CaptureError> {
        for shown in 0..BURST_MAX {
            let packet = match self.capture.next_packet() {
                Ok(packet) => packet,
                Err(pcap::Error::TimeoutExpired | pcap::Error::NoMorePackets) => {
                    return Ok(if shown == 0 {
                        Received::Nothing
                    } else {
                        Received::Frames
                    });
                }
                // The kernel reports a link that went down this way; it comes back by itself.
                Err(pcap::Error::PcapError(what)) if what.contains("went down") => {
                    self.down = true;
                    return Ok(if shown == 0 {
                        Received::Nothing
                    } else {
                        Received::Frames
                    });
                }
                Err(_) if nix::net::if_::if_nametoindex(self.name.as_str()).is_err() => {
                    return Err(CaptureError::Gone(self.name.clone()));
                }
                Err(error) => {
                    return Err(CaptureError::Live {
                        name: self.name.clone(),
                        what: in_plain_words(error),
                    });
                }
            };
            if !self.sampler.takes_next() {
                self.counters.sampled_out += 1;
                continue;
            }
            // With nanosecond precision tv_usec holds nanoseconds.
            let (s, ns) = (packet.header.ts.tv_sec, packet.header.ts.tv_usec);
            let captured = match (u64::try_from(s), u64::try_from(ns)) {
                (Ok(s), Ok(ns)) => CaptureTime::Wall(s * 1_000_000_000 + ns),
                _ => CaptureTime::OfTheTurn,
            };
            self.down = false;
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
        // SAFETY: the descriptor belongs to the capture, which outlives the borrow.
        let fd = unsafe { BorrowedFd::borrow_raw(self.capture.as_raw_fd()) };
        let mut waiting = [PollFd::new(fd, PollFlags::POLLIN)];
        let ready = poll(&mut waiting, timeout);
        // A link that is down makes poll return at once, again and again: sleep instead.
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
        if let Ok(Stat {
            dropped,
            if_dropped,
            ..
        }) = self.capture.stats()
        {
            let (dropped_before, if_dropped_before) =
                std::mem::replace(&mut self.seen, (dropped, if_dropped));
            self.counters.dropped += Dropped {
                kernel: u64::from(dropped.wrapping_sub(dropped_before)),
                interface: u64::from(if_dropped.wrapping_sub(if_dropped_before)),
                ..Dropped::default()
            };
        }
    }

    fn is_down(&self) -> bool {
        self.down
    }
}

/// What libpcap said, without the crate's own wrapping.
pub(crate) fn in_plain_words(error: pcap::Error) -> String {
    match error {
        pcap::Error::PcapError(what) => what.trim().to_owned(),
        other => other.to_string(),
    }
}
