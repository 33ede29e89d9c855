//! Builds frames for tests, and capture files of frames.
//!
//! A *packet* begins with the IP header; [`udp`], [`tcp`] and [`icmp`] build one. [`Ethernet`] is
//! the headers in front of a packet, outermost first, and [`Ethernet::carry`] makes a *frame* of
//! both. [`PcapWriter`] writes frames to a classic capture file in either byte order and either
//! resolution.

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use etherparse::{
    Icmpv4Type, Icmpv6Type, IpHeaders, Ipv4Header, Ipv6Header, PacketBuilder, PacketBuilderStep,
    ip_number,
};
use zerocopy::FromBytes;

use crate::headers::{Ipv4, MORE_FRAGMENTS};

/// Shortest Ethernet frame in octets without its frame check sequence (IEEE 802.3, clause 4A.4.2).
pub const FRAME_OCTETS_MIN: usize = 60;
/// Octets of an Ethernet header without tags.
pub const ETHERNET_OCTETS: usize = 14;
/// Octets of a VLAN tag.
pub const VLAN_OCTETS: usize = 4;
/// Octets of an MPLS label with its class, bottom-of-stack bit and time to live.
const MPLS_OCTETS: usize = 4;
/// Octets of a PPPoE header and of the PPP protocol number behind it.
const PPPOE_OCTETS: usize = 8;
/// Octets of an IPv4 header without options.
pub const IPV4_OCTETS: usize = size_of::<Ipv4>();
/// Time to live or hop limit of all packets.
const TTL: u8 = 64;

/// EtherTypes (IEEE 802 Numbers, IANA).
pub mod ether_type {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
    /// A customer VLAN tag (IEEE 802.1Q).
    pub const VLAN: u16 = 0x8100;
    /// A service VLAN tag (IEEE 802.1ad).
    pub const SERVICE_VLAN: u16 = 0x88a8;
    /// MPLS with labels assigned downstream (RFC 5332).
    pub const MPLS: u16 = 0x8847;
    /// MPLS with labels assigned upstream (RFC 5332).
    pub const MPLS_UPSTREAM: u16 = 0x8848;
    /// A PPPoE session (RFC 2516).
    pub const PPPOE: u16 = 0x8864;
}

/// PPP protocol numbers (IANA, *PPP Numbers*).
mod ppp {
    pub const IPV4: u16 = 0x0021;
    pub const IPV6: u16 = 0x0057;
    pub const MPLS: u16 = 0x0281;
}

/// TCP flags as they are in octet 13 of the header.
pub mod flags {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronize sequence numbers: the connection begins.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// Push the data to the application.
    pub const PSH: u8 = 0x08;
    /// The acknowledgement number is valid.
    pub const ACK: u8 = 0x10;
}

/// The headers in front of a packet: Ethernet, then VLAN tags, MPLS labels or PPPoE in the order in
/// which they were added.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Ethernet {
    octets: Vec<u8>,
    next: Next,
    /// Offset of the PPPoE length, if there is one.
    pppoe_length: Option<usize>,
}

/// How the headers so far name the protocol of what follows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Next {
    /// By an EtherType, which is their last two octets.
    EtherType,
    /// By a PPP protocol number, which is their last two octets.
    Ppp,
    /// Not at all: a payload of MPLS is recognized by its first four bits.
    Unnamed,
}

impl Default for Ethernet {
    /// Locally administered addresses: from 02:00:00:00:00:01 to 02:00:00:00:00:02.
    fn default() -> Self {
        Self::new([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
    }
}

impl Ethernet {
    /// A plain Ethernet II header.
    #[must_use]
    pub fn new(source: [u8; 6], destination: [u8; 6]) -> Self {
        let octets = [&destination[..], &source[..], &[0, 0]].concat();
        Self {
            octets,
            next: Next::EtherType,
            pppoe_length: None,
        }
    }

    /// Adds an IEEE 802.1Q tag (EtherType 0x8100) with a VLAN identifier of 12 bits.
    #[must_use]
    pub fn vlan(self, id: u16) -> Self {
        self.tag(ether_type::VLAN, id)
    }

    /// Adds a tag with any EtherType: 0x88a8 is a service tag.
    #[must_use]
    pub fn tag(self, ether_type: u16, id: u16) -> Self {
        self.then(
            ether_type,
            &[id.to_be_bytes(), [0, 0]].concat(),
            Next::EtherType,
        )
    }

    /// Adds a stack of MPLS labels of 20 bits each, outermost first (RFC 3032).
    #[must_use]
    pub fn mpls(self, labels: &[u32]) -> Self {
        let bottom = labels.len().saturating_sub(1);
        let entry = |(at, label): (usize, &u32)| {
            label << 12 | u32::from(at == bottom) << 8 | u32::from(TTL)
        };
        let stack: Vec<u8> = labels
            .iter()
            .enumerate()
            .map(entry)
            .flat_map(u32::to_be_bytes)
            .collect();
        self.then(ether_type::MPLS, &stack, Next::Unnamed)
    }

    /// Adds a PPPoE session header (RFC 2516).
    #[must_use]
    pub fn pppoe(self, session: u16) -> Self {
        let [high, low] = session.to_be_bytes();
        let header: [u8; PPPOE_OCTETS] = [0x11, 0, high, low, 0, 0, 0, 0];
        let mut longer = self.then(ether_type::PPPOE, &header, Next::Ppp);
        // The length precedes the number of the PPP protocol; it counts that number too.
        longer.pppoe_length = Some(longer.octets.len() - 2 * size_of::<u16>());
        longer
    }

    /// Length of the headers in octets, and so the offset of the packet.
    #[must_use]
    pub fn octets(&self) -> usize {
        self.octets.len()
    }

    /// The frame that carries an IPv4 or IPv6 packet, padded with zeros to the shortest length that
    /// Ethernet allows.
    #[must_use]
    pub fn carry(&self, packet: &[u8]) -> Vec<u8> {
        let is_ipv6 = packet.first().is_some_and(|octet| octet >> 4 == 6);
        let ether_type = if is_ipv6 {
            ether_type::IPV6
        } else {
            ether_type::IPV4
        };
        self.carry_as(ether_type, packet)
    }

    /// The frame that carries any payload under the given EtherType, padded to the shortest length
    /// that Ethernet allows.
    #[must_use]
    pub fn carry_as(&self, ether_type: u16, payload: &[u8]) -> Vec<u8> {
        let mut frame = self.clone().name_next(ether_type).octets;
        frame.extend_from_slice(payload);
        if let Some(at) = self.pppoe_length {
            let length = length_16(frame.len() - at - size_of::<u16>());
            frame[at..][..size_of::<u16>()].copy_from_slice(&length.to_be_bytes());
        }
        frame.resize(frame.len().max(FRAME_OCTETS_MIN), 0);
        frame
    }

    fn then(self, ether_type: u16, header: &[u8], next: Next) -> Self {
        let mut longer = self.name_next(ether_type);
        longer.octets.extend_from_slice(header);
        Self { next, ..longer }
    }

    /// Writes the type of what follows into the last header, if that has a field for it.
    fn name_next(mut self, ether_type: u16) -> Self {
        let number = match self.next {
            Next::EtherType => ether_type,
            Next::Ppp => match ether_type {
                ether_type::IPV4 => ppp::IPV4,
                ether_type::IPV6 => ppp::IPV6,
                ether_type::MPLS => ppp::MPLS,
                other => other,
            },
            Next::Unnamed => return self,
        };
        let place = self.octets.len() - 2;
        self.octets[place..].copy_from_slice(&number.to_be_bytes());
        self
    }
}

/// Offset of the IP header in a frame, behind VLAN tags, MPLS labels and PPPoE; `None` if there is
/// no IP header.
#[must_use]
pub fn ip_offset(frame: &[u8]) -> Option<usize> {
    let word_before = |end: usize| {
        let word = frame.get(end.checked_sub(2)?..end)?;
        Some(u16::from_be_bytes([word[0], word[1]]))
    };
    let mut at = ETHERNET_OCTETS;
    loop {
        match word_before(at)? {
            ether_type::VLAN | ether_type::SERVICE_VLAN => at += VLAN_OCTETS,
            ether_type::MPLS | ether_type::MPLS_UPSTREAM => {
                // Bit 0 of a label's third octet is set in the last label of the stack.
                while frame.get(at + 2)? & 1 == 0 {
                    at += MPLS_OCTETS;
                }
                at += MPLS_OCTETS;
                break;
            }
            ether_type::PPPOE
                if matches!(word_before(at + PPPOE_OCTETS)?, ppp::IPV4 | ppp::IPV6) =>
            {
                at += PPPOE_OCTETS;
                break;
            }
            ether_type::IPV4 | ether_type::IPV6 => break,
            _ => return None,
        }
    }
    matches!(frame.get(at)? >> 4, 4 | 6).then_some(at)
}

/// A UDP packet over IPv4 or IPv6, as the addresses are.
///
/// # Panics
///
/// If one address is IPv4 and the other IPv6, or the payload is longer than a datagram.
#[must_use]
pub fn udp(source: SocketAddr, destination: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let builder = ip(source.ip(), destination.ip()).udp(source.port(), destination.port());
    let mut packet = Vec::with_capacity(builder.size(payload.len()));
    builder
        .write(&mut packet, payload)
        .expect("a vector takes any datagram of less than 64 KiB");
    packet
}

/// A TCP packet with the given [`flags`], over IPv4 or IPv6, as the addresses are.
///
/// # Panics
///
/// If one address is IPv4 and the other IPv6, or the payload is longer than a packet.
#[must_use]
pub fn tcp(source: SocketAddr, destination: SocketAddr, tcp_flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut header = etherparse::TcpHeader::new(source.port(), destination.port(), 1, u16::MAX);
    header.fin = tcp_flags & flags::FIN != 0;
    header.syn = tcp_flags & flags::SYN != 0;
    header.rst = tcp_flags & flags::RST != 0;
    header.psh = tcp_flags & flags::PSH != 0;
    header.ack = tcp_flags & flags::ACK != 0;
    let builder = ip(source.ip(), destination.ip()).tcp_header(header);
    let mut packet = Vec::with_capacity(builder.size(payload.len()));
    builder
        .write(&mut packet, payload)
        .expect("a vector takes any packet of less than 64 KiB");
    packet
}

/// An ICMP packet, or ICMPv6 over IPv6, with the given type and code. The rest of the header is
/// zero.
///
/// # Panics
///
/// If one address is IPv4 and the other IPv6, or the payload is longer than a packet.
#[must_use]
pub fn icmp(
    source: IpAddr,
    destination: IpAddr,
    icmp_type: u8,
    code: u8,
    payload: &[u8],
) -> Vec<u8> {
    let mut packet = Vec::new();
    let written = match source {
        IpAddr::V4(_) => {
            let kind = Icmpv4Type::Unknown {
                type_u8: icmp_type,
                code_u8: code,
                bytes5to8: [0; 4],
            };
            ip(source, destination)
                .icmpv4(kind)
                .write(&mut packet, payload)
        }
        IpAddr::V6(_) => {
            let kind = Icmpv6Type::Unknown {
                type_u8: icmp_type,
                code_u8: code,
                bytes5to8: [0; 4],
            };
            ip(source, destination)
                .icmpv6(kind)
                .write(&mut packet, payload)
        }
    };
    written.expect("a vector takes any packet of less than 64 KiB");
    packet
}

/// The fragments of an IPv4 packet without options, each but the last with `piece_octets` of
/// payload (RFC 791).
///
/// # Panics
///
/// If `piece_octets` is not a multiple of 8 above 0, or `packet` is not an IPv4 packet of at most
/// 64 KiB.
#[must_use]
pub fn fragments(packet: &[u8], piece_octets: usize) -> Vec<Vec<u8>> {
    assert!(
        piece_octets > 0 && piece_octets.is_multiple_of(8),
        "piece of {piece_octets} octets, expected a multiple of 8"
    );
    let (header, payload) = packet.split_at(IPV4_OCTETS);
    let last = payload.len().div_ceil(piece_octets).saturating_sub(1);
    let fragment = |(at, piece): (usize, &[u8])| {
        let more = if at < last { MORE_FRAGMENTS } else { 0 };
        rewritten(&[header, piece].concat(), |header| {
            header.total_octets = length_16(IPV4_OCTETS + piece.len()).into();
            header.fragment = (more | length_16(at * piece_octets / 8)).into();
        })
    };
    payload
        .chunks(piece_octets)
        .enumerate()
        .map(fragment)
        .collect()
}

/// Order of octets in a capture file's headers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ByteOrder {
    /// Least significant octet first.
    Little,
    /// Most significant octet first.
    Big,
}

/// Unit of the fraction in a capture file's time stamps.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum StampResolution {
    /// Microseconds: magic number 0xa1b2c3d4.
    Micro,
    /// Nanoseconds: magic number 0xa1b23c4d.
    Nano,
}

/// Writes a classic capture file of Ethernet frames (draft-ietf-opsawg-pcap).
pub struct PcapWriter<W> {
    output: W,
    order: ByteOrder,
    resolution: StampResolution,
    octets: u64,
}

impl<W: Write> PcapWriter<W> {
    /// Writes the file header. The snapshot length is 262144 octets, as in tcpdump.
    ///
    /// # Errors
    ///
    /// If the output cannot be written.
    pub fn new(output: W, order: ByteOrder, resolution: StampResolution) -> io::Result<Self> {
        let mut writer = Self {
            output,
            order,
            resolution,
            octets: 0,
        };
        let magic = match resolution {
            StampResolution::Micro => 0xa1b2_c3d4,
            StampResolution::Nano => 0xa1b2_3c4d,
        };
        writer.number(magic)?;
        // Version 2.4 is two halves of 16 bits.
        writer.number(match order {
            ByteOrder::Little => 4 << 16 | 2,
            ByteOrder::Big => 2 << 16 | 4,
        })?;
        for field in [0, 0, 262_144, 1] {
            writer.number(field)?;
        }
        Ok(writer)
    }

    /// Writes one frame, captured at `time` after 1970.
    ///
    /// # Errors
    ///
    /// If the output cannot be written.
    pub fn frame(&mut self, time: Duration, frame: &[u8]) -> io::Result<()> {
        self.cut_frame(time, frame, frame.len())
    }

    /// Writes the octets that a capture kept of a frame of `wire_octets`.
    ///
    /// # Errors
    ///
    /// If the output cannot be written.
    pub fn cut_frame(&mut self, time: Duration, kept: &[u8], wire_octets: usize) -> io::Result<()> {
        let fraction = match self.resolution {
            StampResolution::Micro => time.subsec_micros(),
            StampResolution::Nano => time.subsec_nanos(),
        };
        let invalid = |_| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                "value above 2^32 - 1 does not fit a pcap file",
            )
        };
        self.number(u32::try_from(time.as_secs()).map_err(invalid)?)?;
        self.number(fraction)?;
        self.number(u32::try_from(kept.len()).map_err(invalid)?)?;
        self.number(u32::try_from(wire_octets).map_err(invalid)?)?;
        self.write(kept)
    }

    /// Octets written so far, the file header included.
    #[must_use]
    pub fn octets(&self) -> u64 {
        self.octets
    }

    /// Flushes the output and returns it.
    ///
    /// # Errors
    ///
    /// If the output cannot be written.
    pub fn finish(mut self) -> io::Result<W> {
        self.output.flush()?;
        Ok(self.output)
    }

    fn number(&mut self, value: u32) -> io::Result<()> {
        self.write(&match self.order {
            ByteOrder::Little => value.to_le_bytes(),
            ByteOrder::Big => value.to_be_bytes(),
        })
    }

    fn write(&mut self, octets: &[u8]) -> io::Result<()> {
        self.octets += octets.len() as u64;
        self.output.write_all(octets)
    }
}

fn ip(source: IpAddr, destination: IpAddr) -> PacketBuilderStep<IpHeaders> {
    let headers = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut header = Ipv4Header::new(
                0,
                TTL,
                ip_number::UDP,
                source.octets(),
                destination.octets(),
            )
            .expect("an empty payload fits an IPv4 packet");
            header.dont_fragment = false;
            IpHeaders::Ipv4(header, etherparse::Ipv4Extensions::default())
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let header = Ipv6Header {
                hop_limit: TTL,
                source: source.octets(),
                destination: destination.octets(),
                ..Ipv6Header::default()
            };
            IpHeaders::Ipv6(header, etherparse::Ipv6Extensions::default())
        }
        _ => panic!("addresses {source} and {destination}, expected both IPv4 or both IPv6"),
    };
    PacketBuilder::ip(headers)
}

/// The same IPv4 packet after `change` to its header, with the right header checksum.
fn rewritten(packet: &[u8], change: impl FnOnce(&mut Ipv4)) -> Vec<u8> {
    let mut packet = packet.to_vec();
    let (header, _) = Ipv4::mut_from_prefix(&mut packet).expect("an IPv4 packet");
    change(header);
    let (header, _) = Ipv4Header::from_slice(&packet).expect("an IPv4 packet");
    let checksum = header.calc_header_checksum();
    let (header, _) = Ipv4::mut_from_prefix(&mut packet).expect("an IPv4 packet");
    header.checksum = checksum.into();
    packet
}

fn length_16(octets: usize) -> u16 {
    u16::try_from(octets).expect("lengths in a packet are below 64 KiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet() -> Vec<u8> {
        udp(
            "10.0.0.1:1000".parse().unwrap(),
            "10.0.0.2:2000".parse().unwrap(),
            &[7; 40],
        )
    }

    #[test]
    fn stacks_headers_in_the_order_in_which_they_are_added() {
        let frame = Ethernet::default()
            .tag(ether_type::SERVICE_VLAN, 5)
            .vlan(6)
            .mpls(&[16, 17])
            .carry(&packet());
        #[rustfmt::skip]
        let link = [
            2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xa8, 0, 5, 0x81, 0, 0, 6, 0x88, 0x47,
            0, 1, 0, 64, 0, 1, 0x11, 64, 0x45,
        ];
        assert_eq!(frame[..link.len()], link);
    }

    #[test]
    fn pppoe_has_its_length_and_the_protocol_of_ppp() {
        let ethernet = Ethernet::default().pppoe(0x0102);
        let frame = ethernet.carry(&packet());
        assert_eq!(frame[12..22], [0x88, 0x64, 0x11, 0, 1, 2, 0, 70, 0, 0x21]);
        assert_eq!(ethernet.octets(), 22);
    }

    #[test]
    fn finds_the_packet_behind_any_headers() {
        let plain = Ethernet::default;
        for link in [
            plain(),
            plain().vlan(1).vlan(2),
            plain().mpls(&[1, 2]),
            plain().vlan(3).mpls(&[4]),
            plain().pppoe(5),
        ] {
            assert_eq!(ip_offset(&link.carry(&packet())), Some(link.octets()));
        }
        assert_eq!(ip_offset(&plain().carry_as(0x0806, &[0; 28])), None);
        assert_eq!(ip_offset(&plain().vlan(1).carry(&packet())[..15]), None);
    }

    #[test]
    fn pads_to_the_shortest_frame() {
        let short = udp(
            "10.0.0.1:1".parse().unwrap(),
            "10.0.0.2:2".parse().unwrap(),
            &[],
        );
        assert_eq!(Ethernet::default().carry(&short).len(), FRAME_OCTETS_MIN);
    }

    #[test]
    fn fragments_carry_the_payload_and_right_checksums() {
        let pieces = fragments(&packet(), 24);
        assert_eq!(pieces.iter().map(Vec::len).collect::<Vec<_>>(), [44, 44]);
        for piece in &pieces {
            let (header, _) = Ipv4Header::from_slice(piece).unwrap();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
        }
        assert_eq!(pieces[0][6..8], [0x20, 0]);
        assert_eq!(pieces[1][6..8], [0, 3]);
    }

    #[test]
    fn capture_files_begin_as_in_the_format() {
        let bytes = |order, resolution| {
            let mut writer = PcapWriter::new(Vec::new(), order, resolution).unwrap();
            writer.frame(Duration::new(1, 5_000), &[9]).unwrap();
            writer.finish().unwrap()
        };
        let big = bytes(ByteOrder::Big, StampResolution::Nano);
        assert_eq!(big[..8], [0xa1, 0xb2, 0x3c, 0x4d, 0, 2, 0, 4]);
        assert_eq!(
            big[24..],
            [0, 0, 0, 1, 0, 0, 0x13, 0x88, 0, 0, 0, 1, 0, 0, 0, 1, 9]
        );
        let little = bytes(ByteOrder::Little, StampResolution::Micro);
        assert_eq!(little[..8], [0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0]);
        assert_eq!(little[24..32], [1, 0, 0, 0, 5, 0, 0, 0]);
    }
}
