//! A capture file for the XDP program to replay: the head of each frame, and counts of its packets.
//!
//! Of each frame 128 octets are kept, enough for all headers that a probe decodes, so that millions
//! of frames fit in memory. The rest of a frame is sent as zeros; checksums over it are wrong then.
//! Each loop adds 0.1.0.1 to all IPv4 addresses, and corrects header checksums, so that each loop
//! has flows of its own.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use pcap::Linktype;
use zerocopy::byteorder::network_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::options::LENGTH_MAX;
use super::report::Counts;
use crate::frames::{FRAME_OCTETS_MIN, IPV4_OCTETS, ip_offset};
use crate::headers::{ICMP, Ipv4, Ipv6, has_ports};

/// Octets of a frame that are kept; as in send.bpf.c.
const HEAD_OCTETS: usize = 128;
/// Length of a [`ReplayFrame`] in 64-bit words.
pub const FRAME_WORDS: usize = size_of::<ReplayFrame>() / size_of::<u64>();
const _: () = assert!(size_of::<ReplayFrame>().is_multiple_of(size_of::<u64>()));
/// Inverse of the program's shift of 0x00010001, modulo 2^32.
const SHIFT_INVERSE: u32 = 0xffff_0001;
const _: () = assert!(SHIFT_INVERSE.wrapping_mul(0x0001_0001) == 1);

/// The frames of a capture file.
pub struct Replay {
    frames: Vec<ReplayFrame>,
    /// Number of frames.
    pub count: u32,
    /// Length of the longest frame in octets.
    pub frame_octets_max: u32,
}

/// What is kept of a frame: `struct frame` of send.bpf.c.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
pub struct ReplayFrame {
    octets: u16,
    head_octets: u16,
    /// Offset of the IPv4 header; 0 = there is none.
    ipv4: u16,
    unused: u16,
    head: [u8; HEAD_OCTETS],
}

/// The part of an IPv4 flow's key that does not change when its addresses are shifted.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
struct Unshifted {
    destination_less_source: u32,
    ports: u32,
    protocol: u8,
    tos: u8,
}

impl Replay {
    /// Reads a capture file of any format that libpcap reads.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, has no frames, is not of Ethernet, or has a frame that is too
    /// long.
    pub fn read(path: &Path) -> Result<Self> {
        let mut file = pcap::Capture::from_file(path)
            .with_context(|| format!("reading {}", path.display()))?;
        let link = file.get_datalink();
        ensure!(
            link == Linktype::ETHERNET,
            "link type {} in {}, expected 1 (Ethernet)",
            link.0,
            path.display()
        );
        let mut frames = Vec::new();
        loop {
            match file.next_packet() {
                Ok(packet) => frames.push(
                    ReplayFrame::new(packet.data, packet.header.len as usize).with_context(
                        || format!("frame {} of {}", frames.len() + 1, path.display()),
                    )?,
                ),
                Err(pcap::Error::NoMorePackets) => break,
                Err(error) => {
                    return Err(error).with_context(|| {
                        format!("after frame {} of {}", frames.len(), path.display())
                    });
                }
            }
        }
        let longest = frames.iter().map(|frame| frame.octets).max();
        let longest = longest
            .with_context(|| format!("no frames in {}, expected at least one", path.display()))?;
        let count = u32::try_from(frames.len())?;
        Ok(Self {
            frames,
            count,
            frame_octets_max: longest.into(),
        })
    }

    /// The frames in order.
    pub fn frames(&self) -> &[ReplayFrame] {
        &self.frames
    }

    /// Counts of the first `packets` packets.
    pub fn counts(&self, packets: u64) -> Counts {
        let (loops, rest) = (
            packets / u64::from(self.count),
            packets % u64::from(self.count),
        );
        let mut counts = Counts::default();
        let mut flows = HashMap::new();
        let mut ipv6_flows = HashMap::new();
        for (at, frame) in (0..).zip(&self.frames) {
            let times = loops + u64::from(at < rest);
            counts.frame_octets += times * u64::from(frame.octets);
            if let Some((ip, packet)) = frame.ipv4() {
                counts.ipv4_packets += times;
                counts.octets += times * u64::from(ip.total_octets.get());
                counts.fragments += times * u64::from(ip.is_fragment());
                raise(flows.entry(ipv4_flow(ip, packet)).or_default(), times);
            } else if let Some((ip, transport)) = frame.ipv6() {
                let octets = size_of::<Ipv6>() + usize::from(ip.payload_octets.get());
                counts.ipv6_packets += times;
                counts.ipv6_octets += times * octets as u64;
                let ports = first_word(transport).filter(|_| has_ports(ip.next_header));
                let flow = (ip.source, ip.destination, ip.next_header, ports);
                raise(ipv6_flows.entry(flow).or_default(), times);
            }
        }
        counts.flows = distinct_shifted(flows);
        counts.ipv6_flows = ipv6_flows.values().filter(|times| **times > 0).count() as u64;
        counts
    }
}

impl ReplayFrame {
    fn new(data: &[u8], wire_octets: usize) -> Result<Self> {
        ensure!(
            wire_octets <= usize::from(LENGTH_MAX),
            "{wire_octets} octets, expected at most {LENGTH_MAX}, the limit of a live frame"
        );
        let octets = u16::try_from(wire_octets.max(FRAME_OCTETS_MIN))?;
        let mut head = [0; HEAD_OCTETS];
        let kept = data.len().min(HEAD_OCTETS);
        head[..kept].copy_from_slice(&data[..kept]);
        // An IPv4 header that is not complete cannot be shifted, and is not decoded by a probe.
        let ipv4 = ip_offset(&head)
            .filter(|at| head[*at] >> 4 == 4 && at + IPV4_OCTETS <= kept)
            .unwrap_or(0);
        Ok(Self {
            octets,
            head_octets: u16::try_from(usize::from(octets).min(HEAD_OCTETS))?,
            ipv4: u16::try_from(ipv4)?,
            unused: 0,
            head,
        })
    }

    /// The frame as a value of the program's map.
    pub fn to_words(&self) -> [u64; FRAME_WORDS] {
        <[u64; FRAME_WORDS]>::read_from_bytes(self.as_bytes())
            .expect("FRAME_WORDS is the length of a frame")
    }

    /// The IPv4 header, and what is kept of the packet from this header on.
    fn ipv4(&self) -> Option<(&Ipv4, &[u8])> {
        let packet = (self.ipv4 > 0).then(|| &self.head[usize::from(self.ipv4)..])?;
        let (ip, _) = Ipv4::ref_from_prefix(packet).ok()?;
        Some((ip, packet))
    }

    /// The IPv6 header, and what is kept of the packet behind it.
    fn ipv6(&self) -> Option<(&Ipv6, &[u8])> {
        let packet = &self.head[ip_offset(&self.head)?..];
        Ipv6::ref_from_prefix(packet)
            .ok()
            .filter(|_| packet[0] >> 4 == 6)
    }
}

/// NetFlow v5's key of the packet (later fragments have no ports), and its source address.
fn ipv4_flow(ip: &Ipv4, packet: &[u8]) -> (Unshifted, u32) {
    let transport = packet
        .get(ip.octets()..)
        .filter(|_| !ip.is_later_fragment());
    let ports = match transport.and_then(first_word) {
        Some(ports) if has_ports(ip.protocol) => ports,
        Some(type_code_checksum) if ip.protocol == ICMP => type_code_checksum >> 16,
        _ => 0,
    };
    let (source, destination) = (ip.source.get(), ip.destination.get());
    let unshifted = Unshifted {
        destination_less_source: destination.wrapping_sub(source),
        ports,
        protocol: ip.protocol,
        tos: ip.tos,
    };
    (unshifted, source)
}

/// Distinct flows if each flow of `flows` is sent in the first so many loops.
///
/// In units of the shift, a source address becomes an interval modulo 2^32, one unit for each loop.
/// The result is the length of the union of the intervals of flows that are otherwise equal.
fn distinct_shifted(flows: HashMap<(Unshifted, u32), u64>) -> u64 {
    let mut intervals: HashMap<Unshifted, Vec<(u64, u64)>> = HashMap::new();
    for ((unshifted, source), loops) in flows.into_iter().filter(|(_, loops)| *loops > 0) {
        let begin = u64::from(source.wrapping_mul(SHIFT_INVERSE));
        let end = begin + loops.min(1 << 32);
        let intervals = intervals.entry(unshifted).or_default();
        intervals.push((begin, end.min(1 << 32)));
        if end > 1 << 32 {
            intervals.push((0, end - (1 << 32)));
        }
    }
    intervals.into_values().map(union_length).sum()
}

fn union_length(mut intervals: Vec<(u64, u64)>) -> u64 {
    intervals.sort_unstable();
    let mut covered_until = 0;
    let mut length = 0;
    for (begin, end) in intervals {
        length += end.saturating_sub(begin.max(covered_until));
        covered_until = covered_until.max(end);
    }
    length
}

fn raise(times: &mut u64, to: u64) {
    *times = to.max(*times);
}

fn first_word(octets: &[u8]) -> Option<u32> {
    let (word, _) = U32::ref_from_prefix(octets).ok()?;
    Some(word.get())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::{Ethernet, udp};

    fn capture(sources: &[&str]) -> Replay {
        let packet = |source: &&str| {
            let source: std::net::Ipv4Addr = source.parse().unwrap();
            let destination = source.to_bits().wrapping_add(1);
            udp(
                (source, 1).into(),
                (std::net::Ipv4Addr::from_bits(destination), 2).into(),
                &[0; 50],
            )
        };
        let frame = |source| {
            let frame = Ethernet::default().carry(&packet(source));
            ReplayFrame::new(&frame, frame.len()).unwrap()
        };
        let frames: Vec<ReplayFrame> = sources.iter().map(frame).collect();
        Replay {
            count: u32::try_from(frames.len()).unwrap(),
            frames,
            frame_octets_max: 92,
        }
    }

    #[test]
    fn loops_are_flows_of_their_own_except_where_they_meet() {
        let apart = capture(&["10.0.0.1", "10.0.0.2", "10.0.0.1"]);
        assert_eq!(apart.counts(3).flows, 2);
        assert_eq!(apart.counts(9).flows, 6);
        assert_eq!(apart.counts(10).flows, 7);
        // The first address becomes the second one in the second loop.
        let meeting = capture(&["10.0.0.1", "10.1.0.2"]);
        assert_eq!(meeting.counts(2).flows, 2);
        assert_eq!(meeting.counts(4).flows, 3);
        assert_eq!(capture(&["255.255.255.255"]).counts(1 << 33).flows, 1 << 32);
    }

    #[test]
    fn counts_what_a_part_of_a_loop_holds() {
        let counts = capture(&["10.0.0.1", "10.0.0.2"]).counts(3);
        assert_eq!(
            (counts.ipv4_packets, counts.octets, counts.frame_octets),
            (3, 3 * 78, 3 * 92)
        );
    }
}
