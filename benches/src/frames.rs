//! Frames in memory, as a receive ring holds them.

use crate::memory::HugePages;
use std::net::Ipv4Addr;
use xdprobe_pipeline::capture::{PREFETCH_AHEAD, prefetch};
use xdprobe_pipeline::flow::{DecodeError, KeyV4, Link, Packet, decode};

/// Frames one after the other, each of a flow that the caller chooses.
pub struct Frames {
    octets: allocator_api2::vec::Vec<u8, HugePages>,
    len: usize,
    /// Offset of the IPv4 header in a frame.
    ip: usize,
    /// Length of a frame on the wire. With tags it is longer than what is shown of it, so that no
    /// packet exceeds its frame.
    wire_octets: u32,
}

/// The observation point of all packets.
pub const POINT: u16 = 1;
/// LINKTYPE number of the frames' link layer (tcpdump.org/linktypes.html).
pub const ETHERNET: u16 = 1;
/// Octets of a frame without its frame check sequence: the shortest that Ethernet allows.
const FRAME_OCTETS: usize = 60;
/// Octets from one frame to the next, as in the UMEM of an AF_XDP socket.
const STRIDE: usize = 2048;

/// UDP over IPv4 without options, 46 octets long. Zero: header checksum, addresses and source port.
const TEMPLATE: [u8; FRAME_OCTETS] = {
    let mut frame = [0; FRAME_OCTETS];
    let headers = [
        2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, // Ethernet: to, from, IPv4
        0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0, // IPv4, up to the addresses
    ];
    let mut at = 0;
    while at < headers.len() {
        frame[at] = headers[at];
        at += 1;
    }
    frame[37] = 9; // UDP destination port
    frame[39] = 26; // UDP length
    frame
};

impl Frames {
    /// `count` frames, each of flow 0 until [`write`](Self::write) is called.
    #[must_use]
    pub fn new(count: usize) -> Self {
        Self::tagged(count, &[])
    }

    /// The same with `tags`: VLAN tags of four octets each in front of the EtherType, or two
    /// octets, which are another EtherType.
    #[must_use]
    pub fn tagged(count: usize, tags: &[u8]) -> Self {
        let (addresses, rest) = TEMPLATE.split_at(12);
        let rest = if tags.len() == 2 { &rest[2..] } else { rest };
        let frame = [addresses, tags, rest].concat();
        let mut octets = allocator_api2::vec::Vec::with_capacity_in(count * STRIDE, HugePages);
        octets.resize(count * STRIDE, 0);
        for place in octets.chunks_exact_mut(STRIDE) {
            place[..frame.len()].copy_from_slice(&frame);
        }
        let mut frames = Self {
            octets,
            len: 0,
            ip: 14 + tags.len() / 4 * 4,
            wire_octets: u32::try_from(frame.len()).expect("a frame is short"),
        };
        frames.write(std::iter::repeat_n(0, count));
        frames
    }

    /// How many frames there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no frame.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Replaces the frames by one of each of these flows, in order; no more than there were at
    /// first.
    pub fn write(&mut self, flows: impl IntoIterator<Item = u32>) {
        self.len = 0;
        for (frame, flow) in self.octets.chunks_exact_mut(STRIDE).zip(flows) {
            let (key, packet) = (key(flow), &mut frame[self.ip..]);
            packet[12..16].copy_from_slice(&key.source.octets());
            packet[16..20].copy_from_slice(&key.destination.octets());
            packet[20..22].copy_from_slice(&key.source_port.to_be_bytes());
            self.len += 1;
        }
    }

    /// Shows `count` frames from the `first` on, each with its length on the wire. Headers are
    /// prefetched as far ahead as the sources of a probe do it.
    #[inline]
    pub fn show(&self, first: usize, count: usize, mut each: impl FnMut(&[u8], u32)) {
        let ahead = |index: usize| {
            if let Some(octet) = self.octets.get((first + index) * STRIDE) {
                prefetch(octet);
            }
        };
        (0..count.min(PREFETCH_AHEAD)).for_each(ahead);
        for index in 0..count {
            ahead(index + PREFETCH_AHEAD);
            let start = (first + index) * STRIDE;
            each(&self.octets[start..start + FRAME_OCTETS], self.wire_octets);
        }
    }

    /// Decodes `count` frames from the `first` on. Their packets have an observation point, so
    /// that their key is the whole key of the flow.
    #[inline]
    pub fn decode(
        &self,
        first: usize,
        count: usize,
        mut each: impl FnMut(Result<Packet, DecodeError>),
    ) {
        self.show(first, count, |octets, wire_octets| {
            let mut packet = decode(octets, wire_octets, Link::Ethernet);
            if let Ok(packet) = &mut packet {
                packet.key.point = POINT;
            }
            each(packet);
        });
    }
}

/// The key of a flow: that of the packets in its frames.
#[must_use]
pub fn key(flow: u32) -> KeyV4 {
    KeyV4 {
        source: Ipv4Addr::from_bits(0x0a00_0000 | flow >> 8),
        destination: Ipv4Addr::new(10, 99, 0, 2),
        source_port: 1024 + u16::from(flow.to_le_bytes()[0]),
        destination_port: 9,
        protocol: 17,
        tos: 0,
        point: POINT,
    }
}

/// Flows in random order: xorshift64*, scaled without a division.
pub struct RandomFlows {
    state: u64,
    count: u32,
}

impl RandomFlows {
    /// An endless sequence of flows below `count`.
    #[must_use]
    pub fn below(count: u32) -> Self {
        Self { state: 7, count }
    }
}

impl Iterator for RandomFlows {
    type Item = u32;

    #[inline]
    fn next(&mut self) -> Option<u32> {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        let random = self.state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        u32::try_from((random * u64::from(self.count)) >> 32).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_in_front_of_the_ether_type() {
        for (tags, is_ipv4) in [
            (&[0x81, 0, 0, 7][..], true),
            (&[0x88, 0xa8, 0, 7, 0x81, 0, 0, 8], true),
            (&[0x86, 0xdd], false),
        ] {
            let mut frames = Frames::tagged(1, tags);
            frames.write([77]);
            frames.decode(0, 1, |packet| match packet {
                Ok(packet) => {
                    assert!(is_ipv4 && packet.key == key(77));
                    assert_eq!(packet.octets, 46, "the frame has room for its packet");
                }
                Err(error) => assert_eq!((is_ipv4, error), (false, DecodeError::Ipv6)),
            });
        }
    }

    #[test]
    fn frames_are_of_the_flows_that_were_written() {
        let flows = [0, 1, 255, 256, 0x00ff_ffff, u32::MAX];
        let mut frames = Frames::new(flows.len());
        frames.write(flows);
        let mut decoded = Vec::new();
        frames.decode(0, flows.len(), |packet| decoded.push(packet.unwrap()));
        assert_eq!(
            decoded.iter().map(|packet| packet.key).collect::<Vec<_>>(),
            flows.map(key)
        );
        assert!(decoded.iter().all(|packet| packet.octets == 46));
    }
}
