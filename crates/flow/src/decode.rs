//! From a frame to its outermost IPv4 packet, without reading beyond what was captured.
//!
//! Every reader below starts with one length check, so the accessors after it cannot panic. A frame
//! that ends too early, is not IPv4 or contradicts itself is a [`DecodeError`], never a guess. Not
//! decoded: IPv6, packets inside tunnels (the outermost header makes the flow), and Ethernet inside
//! MPLS, which can be distinguished from IP only by guessing.

use crate::fragment::Fragment;
use crate::key::KeyV4;
use crate::packet::Packet;
use std::net::Ipv4Addr;

/// What precedes the network layer in a frame, by the numbers of the LINKTYPE registry
/// (tcpdump.org/linktypes.html).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Link {
    /// LINKTYPE_ETHERNET: addresses and an EtherType.
    Ethernet,
    /// LINKTYPE_RAW, LINKTYPE_IPV4 and LINKTYPE_IPV6: nothing.
    Raw,
    /// LINKTYPE_NULL and LINKTYPE_LOOP: an address family in four octets, of either byte order.
    Loopback,
    /// LINKTYPE_LINUX_SLL: the cooked header of 16 octets.
    LinuxSll,
    /// LINKTYPE_LINUX_SLL2: the cooked header of 20 octets.
    LinuxSll2,
    /// Any other number: nothing in such a frame is decoded.
    Unsupported(u16),
}

impl Link {
    /// The link layer with this LINKTYPE number, or this result of `pcap_datalink` on Linux.
    #[must_use]
    pub const fn from_number(number: u16) -> Self {
        match number {
            1 => Self::Ethernet,
            // 12 and 14 are DLT_RAW of Linux and of OpenBSD: live captures and some old files have
            // them.
            12 | 14 | 101 | 228 | 229 => Self::Raw,
            0 | 108 => Self::Loopback,
            113 => Self::LinuxSll,
            276 => Self::LinuxSll2,
            other => Self::Unsupported(other),
        }
    }
}

/// Why a frame was not metered. `Copy` and allocation-free; counted by [`reason`](Self::reason),
/// never logged.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum DecodeError {
    /// The frame ends before the named header does.
    #[error("frame ends inside the {0} header")]
    Truncated(&'static str),
    /// An IPv6 packet: only IPv4 is metered.
    #[error("IPv6 is not metered")]
    Ipv6,
    /// ARP or RARP.
    #[error("ARP is not IP")]
    Arp,
    /// An IEEE 802.3 length field in place of an EtherType: LLC, for example spanning tree.
    #[error("IEEE 802.3 frame of {0} octets is not IP")]
    Llc(u16),
    /// Another EtherType, address family, PPP protocol or MPLS payload.
    #[error("protocol {0:#06x} of the link layer is not IP")]
    NotIp(u16),
    /// RFC 791, section 3.1: the version is 4.
    #[error("IP version {0} in an IPv4 frame")]
    Version(u8),
    /// RFC 791, section 3.1: at least five 32-bit words.
    #[error("IPv4 header length of {0} octets is below 20")]
    HeaderLength(u8),
    /// RFC 791, section 3.1: the total length includes the header.
    #[error("IPv4 total length of {0} octets is below that of its header")]
    TotalLength(u16),
    /// A link type that is not decoded.
    #[error("link type {0} is not supported")]
    LinkType(u16),
}

impl DecodeError {
    /// Every result of [`reason`](Self::reason), in the order of [`index`](Self::index).
    pub const REASONS: [&'static str; 9] = [
        "truncated",
        "ipv6",
        "arp",
        "llc",
        "not_ip",
        "version",
        "header_length",
        "total_length",
        "link_type",
    ];

    /// A small number for counting by reason.
    #[must_use]
    #[inline]
    pub const fn index(self) -> usize {
        match self {
            Self::Truncated(_) => 0,
            Self::Ipv6 => 1,
            Self::Arp => 2,
            Self::Llc(_) => 3,
            Self::NotIp(_) => 4,
            Self::Version(_) => 5,
            Self::HeaderLength(_) => 6,
            Self::TotalLength(_) => 7,
            Self::LinkType(_) => 8,
        }
    }

    /// The name that reports and metrics use.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        Self::REASONS[self.index()]
    }
}

/// The outermost IPv4 packet of a frame, behind any stack of VLAN tags, MPLS labels and PPPoE.
///
/// `octets` is what was captured, starting with the link header. `wire_octets` is the length of the
/// frame on the wire, which is larger if a snap length cut the frame.
///
/// # Errors
///
/// [`DecodeError`] if the frame has no well-formed IPv4 packet. A packet whose transport header was
/// not captured is well-formed: its ports are 0.
// Always inlined: a result that goes through memory is read back in wider pieces than it was
// written in, and the processor has to wait for that.
#[inline(always)]
pub fn decode(octets: &[u8], wire_octets: u32, link: Link) -> Result<Packet, DecodeError> {
    let network = match link {
        Link::Ethernet => {
            let protocol = u16_at(octets, ETHER_TYPE).ok_or(DecodeError::Truncated("Ethernet"))?;
            skip_tags(octets, ETHERNET_OCTETS, protocol)?
        }
        Link::Raw => Network {
            offset: 0,
            protocol: protocol_by_version(octets)?,
        },
        Link::Loopback => Network {
            offset: 4,
            protocol: protocol_by_family(octets)?,
        },
        Link::LinuxSll => {
            let protocol = u16_at(octets, 14).ok_or(DecodeError::Truncated("Linux cooked"))?;
            skip_tags(octets, 16, protocol)?
        }
        Link::LinuxSll2 => {
            // The protocol comes first here, and the header is 20 octets long.
            let header: &[u8; 20] = octets
                .first_chunk()
                .ok_or(DecodeError::Truncated("Linux cooked v2"))?;
            skip_tags(
                octets,
                header.len(),
                u16::from_be_bytes([header[0], header[1]]),
            )?
        }
        Link::Unsupported(number) => return Err(DecodeError::LinkType(number)),
    };
    match network.protocol {
        ETHER_TYPE_IPV4 => decode_ipv4(&octets[network.offset..], wire_octets, network.offset),
        ETHER_TYPE_IPV6 => Err(DecodeError::Ipv6),
        ETHER_TYPE_ARP | ETHER_TYPE_RARP => Err(DecodeError::Arp),
        // IEEE 802.3: up to 1500 (0x05dc) this is a length; the values from there to 0x0600 are
        // undefined, and not IP either.
        length @ ..0x0600 => Err(DecodeError::Llc(length)),
        other => Err(DecodeError::NotIp(other)),
    }
}

/// Where the network header starts, at most at the frame's end, and its EtherType.
struct Network {
    offset: usize,
    protocol: u16,
}

const ETHERNET_OCTETS: usize = 14;
const ETHER_TYPE: usize = 12;
const ETHER_TYPE_IPV4: u16 = 0x0800;
const ETHER_TYPE_ARP: u16 = 0x0806;
const ETHER_TYPE_RARP: u16 = 0x8035;
const ETHER_TYPE_IPV6: u16 = 0x86dd;
/// IEEE 802.1Q customer tag, 802.1ad service tag, and the two numbers that Q-in-Q used before
/// 802.1ad.
pub(crate) const ETHER_TYPE_TAGS: [u16; 4] = [0x8100, 0x88a8, 0x9100, 0x9200];
/// RFC 5332: MPLS unicast, and upstream-assigned or multicast.
const ETHER_TYPE_MPLS: [u16; 2] = [0x8847, 0x8848];
const ETHER_TYPE_PPPOE_SESSION: u16 = 0x8864;

/// Skips VLAN tags, MPLS labels and PPPoE headers in any order. Each takes at least 4 octets, so
/// the loop ends with the frame.
#[inline]
fn skip_tags(octets: &[u8], mut offset: usize, mut protocol: u16) -> Result<Network, DecodeError> {
    loop {
        if protocol == ETHER_TYPE_IPV4 {
            return Ok(Network { offset, protocol });
        } else if ETHER_TYPE_TAGS.contains(&protocol) {
            protocol = u16_at(octets, offset + 2).ok_or(DecodeError::Truncated("VLAN"))?;
            offset += 4;
        } else if ETHER_TYPE_MPLS.contains(&protocol) {
            return skip_labels(octets, offset);
        } else if protocol == ETHER_TYPE_PPPOE_SESSION {
            // RFC 2516, section 4: six octets, then the PPP protocol (RFC 1661): 0x0021 IPv4,
            // 0x0057 IPv6.
            let ppp = u16_at(octets, offset + 6).ok_or(DecodeError::Truncated("PPPoE"))?;
            offset += 8;
            protocol = match ppp {
                0x0021 => ETHER_TYPE_IPV4,
                0x0057 => ETHER_TYPE_IPV6,
                other => return Err(DecodeError::NotIp(other)),
            };
        } else {
            return Ok(Network { offset, protocol });
        }
    }
}

/// Skips a label stack (RFC 3032, section 2.1). There is no protocol field for what follows the
/// bottom label: it is decoded if it begins with an IP version, and otherwise not guessed at.
fn skip_labels(octets: &[u8], mut offset: usize) -> Result<Network, DecodeError> {
    loop {
        let bottom = octets
            .get(offset + 2)
            .ok_or(DecodeError::Truncated("MPLS"))?
            & 1;
        if octets.len() < offset + 4 {
            return Err(DecodeError::Truncated("MPLS"));
        }
        offset += 4;
        if bottom == 1 {
            return Ok(Network {
                offset,
                protocol: protocol_by_version(&octets[offset..])?,
            });
        }
    }
}

/// The EtherType of an IP header, by its version.
fn protocol_by_version(octets: &[u8]) -> Result<u16, DecodeError> {
    let first = *octets.first().ok_or(DecodeError::Truncated("IP"))?;
    match first >> 4 {
        4 => Ok(ETHER_TYPE_IPV4),
        6 => Ok(ETHER_TYPE_IPV6),
        version => Err(DecodeError::Version(version)),
    }
}

/// The EtherType for the address family of a loopback header. LINKTYPE_NULL has the family in the
/// byte order of the machine that captured, LINKTYPE_LOOP in network order. Families are small
/// numbers, so the smaller of both readings is the right one.
fn protocol_by_family(octets: &[u8]) -> Result<u16, DecodeError> {
    let family: &[u8; 4] = octets
        .first_chunk()
        .ok_or(DecodeError::Truncated("loopback"))?;
    let family = u32::from_be_bytes(*family);
    match family.min(family.swap_bytes()) {
        2 => Ok(ETHER_TYPE_IPV4),
        // AF_INET6 of Linux, NetBSD and OpenBSD, FreeBSD, macOS.
        10 | 24 | 28 | 30 => Ok(ETHER_TYPE_IPV6),
        other => Err(DecodeError::NotIp(u16::try_from(other).unwrap_or(u16::MAX))),
    }
}

const IPV4_OCTETS_MIN: usize = 20;
const PROTOCOL_ICMP: u8 = 1;
const PROTOCOL_TCP: u8 = 6;
pub(crate) const PROTOCOL_UDP: u8 = 17;
const PROTOCOL_DCCP: u8 = 33;
const PROTOCOL_SCTP: u8 = 132;
pub(crate) const PROTOCOL_UDP_LITE: u8 = 136;

/// Reads an IPv4 header (RFC 791, section 3.1) and the ports behind it. `link_octets` is the length
/// of what precedes it in the frame.
#[inline(always)]
fn decode_ipv4(octets: &[u8], wire_octets: u32, link_octets: usize) -> Result<Packet, DecodeError> {
    let header: &[u8; IPV4_OCTETS_MIN] =
        octets.first_chunk().ok_or(DecodeError::Truncated("IPv4"))?;
    let version = header[0] >> 4;
    if version != 4 {
        return Err(DecodeError::Version(version));
    }
    let header_octets = (header[0] & 0x0f) << 2;
    if usize::from(header_octets) < IPV4_OCTETS_MIN {
        return Err(DecodeError::HeaderLength(header_octets));
    }
    let on_the_wire = wire_octets.saturating_sub(u32::try_from(link_octets).unwrap_or(u32::MAX));
    if on_the_wire < u32::from(header_octets) {
        return Err(DecodeError::Truncated("IPv4"));
    }
    let total_length = u16::from_be_bytes([header[2], header[3]]);
    let total_octets = match total_length {
        // A host with segmentation offload captures its own packets with a length of 0.
        0 => on_the_wire,
        total if total < u16::from(header_octets) => return Err(DecodeError::TotalLength(total)),
        total => u32::from(total),
    };
    let fragment_field = u16::from_be_bytes([header[6], header[7]]);
    let id = u16::from_be_bytes([header[4], header[5]]);
    let fragment = Fragment::from_field(fragment_field, id);
    let protocol = header[9];
    // Padding behind the total length does not belong to the transport header.
    let end = octets
        .len()
        .min(usize::try_from(total_octets).unwrap_or(usize::MAX));
    let transport = match fragment {
        Fragment::Later(_) => &[],
        Fragment::Whole | Fragment::First(_) => {
            octets.get(usize::from(header_octets)..end).unwrap_or(&[])
        }
    };
    let (source_port, destination_port) = ports(protocol, transport);
    Ok(Packet {
        key: KeyV4 {
            source: Ipv4Addr::new(header[12], header[13], header[14], header[15]),
            destination: Ipv4Addr::new(header[16], header[17], header[18], header[19]),
            source_port,
            destination_port,
            protocol,
            tos: header[1],
            point: 0,
        },
        octets: total_octets,
        tcp_flags: if protocol == PROTOCOL_TCP {
            transport.get(13).copied().unwrap_or(0)
        } else {
            0
        },
        fragment,
    })
}

/// The ports of a transport header, or (0, type * 256 + code) for ICMP, as collectors expect it; 0
/// where they were not captured.
#[inline]
fn ports(protocol: u8, transport: &[u8]) -> (u16, u16) {
    match protocol {
        PROTOCOL_TCP | PROTOCOL_UDP | PROTOCOL_DCCP | PROTOCOL_SCTP | PROTOCOL_UDP_LITE => {
            transport.first_chunk().map_or((0, 0), |&[a, b, c, d]| {
                (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
            })
        }
        PROTOCOL_ICMP => (0, u16_at(transport, 0).unwrap_or(0)),
        _ => (0, 0),
    }
}

/// The big-endian integer at `offset`, if both octets were captured.
#[inline]
fn u16_at(octets: &[u8], offset: usize) -> Option<u16> {
    octets
        .get(offset..)?
        .first_chunk()
        .map(|&pair| u16::from_be_bytes(pair))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    const MACS: [u8; 12] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];

    /// An IPv4 header of `words` 32-bit words followed by `payload`, with the right total length.
    fn ipv4(words: u8, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let header_octets = usize::from(words) * 4;
        let mut packet = vec![0; header_octets.max(20)];
        packet[0] = 0x40 | words;
        packet[1] = 0x2e;
        let total = u16::try_from(header_octets + payload.len()).unwrap();
        packet[2..4].copy_from_slice(&total.to_be_bytes());
        packet[4..6].copy_from_slice(&0x1234u16.to_be_bytes());
        packet[9] = protocol;
        packet[12..16].copy_from_slice(&[192, 0, 2, 1]);
        packet[16..20].copy_from_slice(&[198, 51, 100, 2]);
        packet.extend_from_slice(payload);
        packet
    }

    fn ethernet(tags: &[u8], packet: &[u8]) -> Vec<u8> {
        [&MACS, tags, packet].concat()
    }

    fn decode_all(octets: &[u8], link: Link) -> Result<Packet, DecodeError> {
        decode(octets, u32::try_from(octets.len()).unwrap(), link)
    }

    const UDP: [u8; 8] = [0x04, 0xd2, 0x00, 0x35, 0, 8, 0, 0];

    #[test]
    fn reads_udp_behind_ethernet() {
        let packet = decode_all(&ethernet(&[8, 0], &ipv4(5, 17, &UDP)), Link::Ethernet).unwrap();
        let key = KeyV4 {
            source: Ipv4Addr::new(192, 0, 2, 1),
            destination: Ipv4Addr::new(198, 51, 100, 2),
            source_port: 1234,
            destination_port: 53,
            protocol: 17,
            tos: 0x2e,
            point: 0,
        };
        assert_eq!(
            packet,
            Packet {
                key,
                octets: 28,
                tcp_flags: 0,
                fragment: Fragment::Whole
            }
        );
    }

    #[test]
    fn skips_any_stack_of_tags_labels_and_pppoe() {
        let stacks: [&[u8]; 7] = [
            &[0x81, 0, 0, 5, 8, 0],
            &[0x88, 0xa8, 0, 5, 0x81, 0, 0, 6, 8, 0],
            &[0x91, 0, 0, 5, 0x91, 0, 0, 6, 0x81, 0, 0, 7, 8, 0],
            &[0x88, 0x47, 0, 1, 0x01, 64],
            &[0x81, 0, 0, 5, 0x88, 0x48, 0, 1, 0, 64, 0, 2, 0x01, 64],
            &[0x88, 0x64, 0x11, 0, 0, 1, 0, 30, 0, 0x21],
            &[
                0x81, 0, 0, 5, 0x81, 0, 0, 6, 0x88, 0x64, 0x11, 0, 0, 1, 0, 30, 0, 0x21,
            ],
        ];
        for stack in stacks {
            let packet = decode_all(&ethernet(stack, &ipv4(5, 17, &UDP)), Link::Ethernet).unwrap();
            assert_eq!(
                (packet.octets, packet.key.destination_port),
                (28, 53),
                "{stack:x?}"
            );
        }
    }

    #[test]
    fn reads_every_supported_link_type() {
        let packet = ipv4(5, 17, &UDP);
        let sll = [&[0; 14][..], &[8, 0], &packet].concat();
        let sll2 = [&[8, 0][..], &[0; 18], &packet].concat();
        let null = [&[2, 0, 0, 0][..], &packet].concat();
        let r#loop = [&[0, 0, 0, 2][..], &packet].concat();
        for (number, octets) in [
            (113, &sll),
            (276, &sll2),
            (0, &null),
            (108, &r#loop),
            (0, &r#loop),
            (12, &packet),
            (101, &packet),
            (228, &packet),
        ] {
            let found = decode_all(octets, Link::from_number(number)).unwrap();
            assert_eq!(
                (found.octets, found.key.destination_port),
                (28, 53),
                "link type {number}"
            );
        }
        assert_eq!(
            decode_all(&packet, Link::from_number(105)),
            Err(DecodeError::LinkType(105))
        );
    }

    #[test]
    fn finds_ports_behind_options_and_for_each_transport() {
        for (protocol, ports) in [
            (6, (1234, 53)),
            (17, (1234, 53)),
            (33, (1234, 53)),
            (132, (1234, 53)),
            (136, (1234, 53)),
            (1, (0, 1234)),
            (47, (0, 0)),
        ] {
            let packet = decode_all(
                &ethernet(&[8, 0], &ipv4(15, protocol, &UDP)),
                Link::Ethernet,
            )
            .unwrap();
            assert_eq!(
                (packet.key.source_port, packet.key.destination_port),
                ports,
                "protocol {protocol}"
            );
            assert_eq!(packet.octets, 68);
        }
    }

    #[test]
    fn reads_tcp_flags() {
        let mut tcp = [0; 20];
        tcp[13] = 0x12;
        assert_eq!(
            decode_all(&ethernet(&[8, 0], &ipv4(5, 6, &tcp)), Link::Ethernet)
                .unwrap()
                .tcp_flags,
            0x12
        );
        assert_eq!(
            decode_all(&ethernet(&[8, 0], &ipv4(5, 6, &tcp[..13])), Link::Ethernet)
                .unwrap()
                .tcp_flags,
            0
        );
    }

    #[test]
    fn counts_the_total_length_and_neither_padding_nor_snap_length() {
        let padded = [ethernet(&[8, 0], &ipv4(5, 17, &UDP)), vec![0xff; 18]].concat();
        assert_eq!(decode_all(&padded, Link::Ethernet).unwrap().octets, 28);
        let mut long = ethernet(
            &[8, 0],
            &ipv4(5, 17, &[UDP.to_vec(), vec![0; 1000]].concat()),
        );
        long.truncate(38);
        let packet = decode(&long, 1042, Link::Ethernet).unwrap();
        assert_eq!((packet.octets, packet.key.destination_port), (1028, 53));
    }

    #[test]
    fn takes_no_ports_from_padding() {
        let padded = [
            ethernet(&[8, 0], &ipv4(5, 17, &[0x04, 0xd2])),
            vec![0xff; 24],
        ]
        .concat();
        let packet = decode_all(&padded, Link::Ethernet).unwrap();
        assert_eq!(
            (
                packet.key.source_port,
                packet.key.destination_port,
                packet.octets
            ),
            (0, 0, 22)
        );
    }

    #[test]
    fn takes_a_total_length_of_zero_for_segmentation_offload() {
        let mut frame = ethernet(&[0x81, 0, 0, 5, 8, 0], &ipv4(5, 6, &[0; 60]));
        frame[20..22].copy_from_slice(&[0, 0]);
        assert_eq!(
            decode(&frame, 40_018, Link::Ethernet).unwrap().octets,
            40_000
        );
    }

    #[test]
    fn accounts_a_header_whose_options_the_snap_length_cut() {
        let mut frame = ethernet(&[8, 0], &ipv4(15, 17, &UDP));
        frame.truncate(14 + 24);
        let packet = decode(&frame, 82, Link::Ethernet).unwrap();
        assert_eq!((packet.octets, packet.key.destination_port), (68, 0));
    }

    #[test]
    fn distinguishes_whole_first_and_later_fragments() {
        let mut frame = ethernet(&[8, 0], &ipv4(5, 17, &UDP));
        frame[20] = 0x20;
        let first = decode_all(&frame, Link::Ethernet).unwrap();
        assert_eq!(
            (first.fragment, first.key.destination_port),
            (Fragment::First(0x1234), 53)
        );
        frame[20..22].copy_from_slice(&[0x00, 0x01]);
        let later = decode_all(&frame, Link::Ethernet).unwrap();
        assert_eq!(
            (later.fragment, later.key.destination_port),
            (Fragment::Later(0x1234), 0)
        );
        frame[20..22].copy_from_slice(&[0x40, 0x00]);
        assert_eq!(
            decode_all(&frame, Link::Ethernet).unwrap().fragment,
            Fragment::Whole
        );
    }

    #[test]
    fn names_each_reason_by_the_shortest_frame_that_causes_it() {
        use DecodeError::*;
        let cases: [(&[u8], Link, DecodeError); 14] = [
            (&[], Link::Ethernet, Truncated("Ethernet")),
            (&[], Link::LinuxSll, Truncated("Linux cooked")),
            (&[], Link::LinuxSll2, Truncated("Linux cooked v2")),
            (&[], Link::Loopback, Truncated("loopback")),
            (&[], Link::Raw, Truncated("IP")),
            (&[0x45], Link::Raw, Truncated("IPv4")),
            (&[0x60], Link::Raw, Ipv6),
            (&[0x50], Link::Raw, Version(5)),
            (&[&MACS[..], &[0x08, 0x06]].concat(), Link::Ethernet, Arp),
            (
                &[&MACS[..], &[0x00, 0x26]].concat(),
                Link::Ethernet,
                Llc(0x26),
            ),
            (
                &[&MACS[..], &[0x88, 0xcc]].concat(),
                Link::Ethernet,
                NotIp(0x88cc),
            ),
            (
                &[&MACS[..], &[0x81, 0x00]].concat(),
                Link::Ethernet,
                Truncated("VLAN"),
            ),
            (
                &[&MACS[..], &[0x88, 0x47, 0, 0, 1]].concat(),
                Link::Ethernet,
                Truncated("MPLS"),
            ),
            (
                &[&MACS[..], &[0x88, 0x64, 0x11]].concat(),
                Link::Ethernet,
                Truncated("PPPoE"),
            ),
        ];
        for (octets, link, expected) in cases {
            assert_eq!(decode_all(octets, link), Err(expected), "{octets:x?}");
        }
        let mut packet = ipv4(5, 17, &UDP);
        packet[0] = 0x44;
        assert_eq!(decode_all(&packet, Link::Raw), Err(HeaderLength(16)));
        packet[0] = 0x46;
        packet[3] = 23;
        assert_eq!(decode_all(&packet, Link::Raw), Err(TotalLength(23)));
        let under_ethernet = ethernet(&[8, 0], &[&[0x60], &[0; 39][..]].concat());
        assert_eq!(decode_all(&under_ethernet, Link::Ethernet), Err(Version(6)));
    }

    #[test]
    fn reasons_have_names_of_their_own() {
        let names: std::collections::BTreeSet<_> = DecodeError::REASONS.into_iter().collect();
        assert_eq!(names.len(), DecodeError::REASONS.len());
        assert_eq!(DecodeError::LinkType(0).reason(), "link_type");
        assert_eq!(DecodeError::Truncated("IP").reason(), "truncated");
    }

    proptest! {
        #[test]
        fn no_octets_panic(
            octets in vec(any::<u8>(), 0..200), wire in any::<u32>(), link in 0u16..300,
        ) {
            let _ = decode(&octets, wire, Link::from_number(link));
        }

        /// Random octets rarely get past the EtherType, so here valid frames are changed and cut.
        #[test]
        fn no_damage_to_a_valid_frame_panics(
            words in 0u8..16, protocol in any::<u8>(),
            at in 0usize..80, value in any::<u8>(), end in 0usize..100,
        ) {
            let tags = [0x81, 0, 0, 5, 0x88, 0x47, 0, 1, 1, 64];
            let mut frame = ethernet(&tags, &ipv4(words, protocol, &[7; 20]));
            if let Some(octet) = frame.get_mut(at) {
                *octet = value;
            }
            frame.truncate(end);
            if let Ok(packet) = decode_all(&frame, Link::Ethernet) {
                prop_assert!(packet.octets >= 20);
            }
        }
    }
}
