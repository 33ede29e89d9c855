//! A capture file as the XDP program replays it: the head of each frame, and what is in the
//! packets.
//!
//! Frames are kept to 128 octets, which hold the headers of all that a probe decodes, so that
//! millions of them fit in memory; the rest of a frame is sent as zeros, and checksums over it are
//! as wrong as that makes them. With each loop all IPv4 addresses grow by 0.1.0.1, and header
//! checksums with them, so that loops are flows of their own.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use pcap::Linktype;

use super::{Counts, LENGTH_MAX};
use crate::frames::{FRAME_OCTETS_MIN, ip_offset};

/// Octets of a frame that are kept; as in send.bpf.c.
const HEAD_OCTETS: usize = 128;
/// Integers of `struct frame` in send.bpf.c: 8 octets of numbers, then the head.
pub const FRAME_WORDS: usize = 1 + HEAD_OCTETS / 8;
/// What undoes a multiplication by the program's shift of 0x00010001, modulo 2^32.
const SHIFT_INVERSE: u32 = 0xffff_0001;
const _: () = assert!(SHIFT_INVERSE.wrapping_mul(0x0001_0001) == 1);
/// Protocols whose headers begin with two ports: TCP, UDP, DCCP, SCTP, UDP-Lite.
const WITH_PORTS: [u8; 5] = [6, 17, 33, 132, 136];
const ICMP: u8 = 1;

/// The frames of a capture file.
pub struct Capture {
    frames: Vec<Frame>,
    /// How many there are.
    pub count: u32,
    /// Length of the longest frame as it is sent, in octets.
    pub frame_octets_max: u32,
}

/// What is kept of a frame.
pub struct Frame {
    octets: u16,
    head_octets: u16,
    /// Where the IPv4 header stands; 0 = there is none.
    ipv4: u16,
    head: [u8; HEAD_OCTETS],
}

/// What tells IPv4 flows apart however far their addresses are shifted.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
struct Unshifted {
    destination_less_source: u32,
    ports: u32,
    protocol: u8,
    tos: u8,
}

impl Capture {
    /// Reads a capture file of any format that libpcap reads.
    ///
    /// # Errors
    ///
    /// When it cannot be read, holds nothing, no Ethernet, or a frame that is too long.
    pub fn read(path: &Path) -> Result<Self> {
        let mut file = pcap::Capture::from_file(path)
            .with_context(|| format!("reading {}", path.display()))?;
        let link = file.get_datalink();
        ensure!(
            link == Linktype::ETHERNET,
            "link type {} in {}, wanted 1 (Ethernet)",
            link.0,
            path.display()
        );
        let mut frames = Vec::new();
        loop {
            match file.next_packet() {
                Ok(packet) => frames.push(
                    Frame::new(packet.data, packet.header.len as usize).with_context(|| {
                        format!("frame {} of {}", frames.len() + 1, path.display())
                    })?,
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
            .with_context(|| format!("{} holds no frames, wanted at least one", path.display()))?;
        let count = u32::try_from(frames.len())?;
        Ok(Self {
            frames,
            count,
            frame_octets_max: longest.into(),
        })
    }

    /// The frames in order.
    pub fn frames(&self) -> &[Frame] {
        &self.frames
    }

    /// What is in the first `packets` packets.
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
            if let Some(ip) = frame.ipv4_header() {
                let fragment = word(ip, 6) & 0x3fff;
                counts.ipv4_packets += times;
                counts.octets += times * u64::from(word(ip, 2));
                counts.fragments += times * u64::from(fragment != 0);
                raise(flows.entry(ipv4_flow(ip)).or_default(), times);
            } else if let Some(ip) = frame.ipv6_header() {
                counts.ipv6_packets += times;
                counts.ipv6_octets += times * (40 + u64::from(word(ip, 4)));
                let transport = if WITH_PORTS.contains(&ip[6]) {
                    ip.get(40..44).unwrap_or_default()
                } else {
                    &[]
                };
                raise(
                    ipv6_flows
                        .entry((&ip[8..40], ip[6], transport))
                        .or_default(),
                    times,
                );
            }
        }
        counts.flows = distinct_shifted(flows);
        counts.ipv6_flows = ipv6_flows.values().filter(|times| **times > 0).count() as u64;
        counts
    }
}

impl Frame {
    fn new(data: &[u8], wire_octets: usize) -> Result<Self> {
        ensure!(
            wire_octets <= usize::from(LENGTH_MAX),
            "{wire_octets} octets, wanted at most {LENGTH_MAX}, which is what a live frame holds"
        );
        let octets = u16::try_from(wire_octets.max(FRAME_OCTETS_MIN))?;
        let mut head = [0; HEAD_OCTETS];
        let kept = data.len().min(HEAD_OCTETS);
        head[..kept].copy_from_slice(&data[..kept]);
        // An IPv4 header that is not all there cannot be shifted, and is none for a probe either.
        let ipv4 = ip_offset(&head)
            .filter(|at| head[*at] >> 4 == 4 && at + 20 <= kept)
            .unwrap_or(0);
        Ok(Self {
            octets,
            head_octets: octets.min(128),
            ipv4: u16::try_from(ipv4)?,
            head,
        })
    }

    /// As it stands in the program's map.
    pub fn to_words(&self) -> [u64; FRAME_WORDS] {
        let numbers = [self.octets, self.head_octets, self.ipv4, 0]
            .map(u16::to_ne_bytes)
            .concat();
        let octets = [&numbers[..], &self.head].concat();
        let (words, _) = octets.as_chunks::<8>();
        std::array::from_fn(|at| u64::from_ne_bytes(words[at]))
    }

    fn ipv4_header(&self) -> Option<&[u8]> {
        (self.ipv4 > 0).then(|| &self.head[usize::from(self.ipv4)..])
    }

    fn ipv6_header(&self) -> Option<&[u8]> {
        let at = ip_offset(&self.head)?;
        (self.head[at] >> 4 == 6 && at + 40 <= HEAD_OCTETS).then(|| &self.head[at..])
    }
}

/// NetFlow v5's key of the packet (later fragments have no ports), and its source address.
fn ipv4_flow(ip: &[u8]) -> (Unshifted, u32) {
    let protocol = ip[9];
    let transport = usize::from(ip[0] & 0xf) * 4;
    let is_later_fragment = word(ip, 6) & 0x1fff != 0;
    let first_words = if is_later_fragment {
        None
    } else {
        ip.get(transport..transport + 4)
    };
    let ports = match first_words {
        Some(words) if WITH_PORTS.contains(&protocol) => double_word(words, 0),
        Some(words) if protocol == ICMP => u32::from(word(words, 0)),
        _ => 0,
    };
    let (source, destination) = (double_word(ip, 12), double_word(ip, 16));
    let destination_less_source = destination.wrapping_sub(source);
    (
        Unshifted {
            destination_less_source,
            ports,
            protocol,
            tos: ip[1],
        },
        source,
    )
}

/// Distinct flows when each flow of `flows` is seen in so many loops, from the first on.
///
/// In units of the shift, loops turn a source address into an interval on the circle of 2^32; what
/// is wanted is the length of the union of such intervals among flows that differ in nothing else.
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

fn word(octets: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([octets[at], octets[at + 1]])
}

fn double_word(octets: &[u8], at: usize) -> u32 {
    u32::from(word(octets, at)) << 16 | u32::from(word(octets, at + 2))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::{Ethernet, udp};

    fn capture(sources: &[&str]) -> Capture {
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
            Frame::new(&frame, frame.len()).unwrap()
        };
        let frames: Vec<Frame> = sources.iter().map(frame).collect();
        Capture {
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
        // The second is what the first becomes in the second loop.
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
