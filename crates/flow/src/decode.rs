//! From a frame to its outermost IPv4 packet, without reading beyond what was captured.
//!
//! Every reader below starts with one length check, so the accessors after it cannot panic. A frame
//! that ends too early, is not IPv4 or contradicts itself is a [`DecodeError`], never a guess. Not
//! decoded: IPv6, packets inside tunnels (the outermost header makes the flow), and what MPLS
//! labels carry other than IP. Nothing names the payload of a label stack, so a header there has to
//! contradict nothing; everywhere else a number says what follows.

use crate::fragment::Fragment;
use crate::key::KeyV4;
use crate::packet::Packet;
use crate::unread::Unread;
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
    #[error("IEEE 802.3 frame with {0} is not read")]
    Llc(Unread),
    /// Another EtherType, address family, PPP protocol or MPLS payload.
    #[error("{0} is not IP")]
    NotIp(Unread),
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

    /// What the frame carries instead of IP, if its reason is `llc`, `not_ip` or `link_type`.
    #[must_use]
    #[inline]
    pub const fn unread(self) -> Option<Unread> {
        match self {
            Self::Llc(unread) | Self::NotIp(unread) => Some(unread),
            Self::LinkType(number) => Some(Unread::LinkType(number)),
            _ => None,
        }
    }
}

/// The outermost IPv4 packet of a frame, behind any stack of VLAN tags, MPLS labels and PPPoE.
///
/// `octets` is what was captured, starting with the link header. `wire_octets` is the length of the
/// frame on the wire, which is larger if a snap length cut the frame. The packet has the octets of
/// its total length, but never more than the frame had on the wire.
///
/// # Errors
///
/// [`DecodeError`] if the frame has no well-formed IPv4 packet. A packet whose transport header was
/// not captured is well-formed: its ports are 0.
#[inline(always)]
pub fn decode(octets: &[u8], wire_octets: u32, link: Link) -> Result<Packet, DecodeError> {
    decode_noting(octets, wire_octets, link, |_| ())
}

/// As [`decode`], and calls `beyond_frame` with the octets by which the total length of a decoded
/// packet exceeds its frame on the wire, if it does.
///
/// # Errors
///
/// As [`decode`].
// Always inlined: a result that goes through memory is read back in wider pieces than it was
// written in, and the processor has to wait for that.
#[inline(always)]
pub fn decode_noting(
    octets: &[u8],
    wire_octets: u32,
    link: Link,
    beyond_frame: impl FnOnce(u16),
) -> Result<Packet, DecodeError> {
    let network = match link {
        Link::Ethernet => {
            let protocol = u16_at(octets, ETHER_TYPE).ok_or(DecodeError::Truncated("Ethernet"))?;
            skip_tags(octets, wire_octets, ETHERNET_OCTETS, protocol)?
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
            skip_tags(octets, wire_octets, 16, protocol)?
        }
        Link::LinuxSll2 => {
            // The protocol comes first here, and the header is 20 octets long.
            let header: &[u8; 20] = octets
                .first_chunk()
                .ok_or(DecodeError::Truncated("Linux cooked v2"))?;
            skip_tags(
                octets,
                wire_octets,
                header.len(),
                u16::from_be_bytes([header[0], header[1]]),
            )?
        }
        Link::Unsupported(number) => return Err(DecodeError::LinkType(number)),
    };
    match network.protocol {
        ETHER_TYPE_IPV4 => {
            let on_the_wire = behind(wire_octets, network.offset);
            decode_ipv4(&octets[network.offset..], on_the_wire, beyond_frame)
        }
        ETHER_TYPE_IPV6 => Err(DecodeError::Ipv6),
        ETHER_TYPE_ARP | ETHER_TYPE_RARP => Err(DecodeError::Arp),
        length @ ..0x0600 => Err(DecodeError::Llc(unread_llc(
            octets,
            network.offset,
            length,
            link,
        ))),
        other => Err(DecodeError::NotIp(Unread::EtherType(other))),
    }
}

/// What is left of a frame on the wire behind `link_octets`.
#[inline]
fn behind(wire_octets: u32, link_octets: usize) -> u32 {
    wire_octets.saturating_sub(u32::try_from(link_octets).unwrap_or(u32::MAX))
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
fn skip_tags(
    octets: &[u8],
    wire_octets: u32,
    mut offset: usize,
    mut protocol: u16,
) -> Result<Network, DecodeError> {
    loop {
        if protocol == ETHER_TYPE_IPV4 {
            return Ok(Network { offset, protocol });
        } else if ETHER_TYPE_TAGS.contains(&protocol) {
            protocol = u16_at(octets, offset + 2).ok_or(DecodeError::Truncated("VLAN"))?;
            offset += 4;
        } else if ETHER_TYPE_MPLS.contains(&protocol) {
            return skip_labels(octets, wire_octets, offset, protocol);
        } else if protocol == ETHER_TYPE_PPPOE_SESSION {
            // RFC 2516, section 4: six octets, then the PPP protocol (RFC 1661): 0x0021 IPv4,
            // 0x0057 IPv6.
            let ppp = u16_at(octets, offset + 6).ok_or(DecodeError::Truncated("PPPoE"))?;
            offset += 8;
            protocol = match ppp {
                0x0021 => ETHER_TYPE_IPV4,
                0x0057 => ETHER_TYPE_IPV6,
                other => return Err(DecodeError::NotIp(Unread::Ppp(other))),
            };
        } else {
            return Ok(Network { offset, protocol });
        }
    }
}

/// Skips a label stack (RFC 3032, section 2.1). There is no protocol field for what follows the
/// bottom label: IP, Ethernet (RFC 4448) or a control word (RFC 4385). It is decoded if it is a
/// whole IP header that contradicts nothing, and otherwise not guessed at.
fn skip_labels(
    octets: &[u8],
    wire_octets: u32,
    mut offset: usize,
    ether_type: u16,
) -> Result<Network, DecodeError> {
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
            let not_ip = DecodeError::NotIp(Unread::Mpls(ether_type));
            let payload = &octets[offset..];
            let on_the_wire = behind(wire_octets, offset);
            let first = *payload.first().ok_or(DecodeError::Truncated("IP"))?;
            let protocol = match first >> 4 {
                4 if is_sound_ipv4(payload, on_the_wire)? => ETHER_TYPE_IPV4,
                6 if is_sound_ipv6(payload, on_the_wire)? => ETHER_TYPE_IPV6,
                _ => return Err(not_ip),
            };
            return Ok(Network { offset, protocol });
        }
    }
}

/// Whether octets that may be an IPv4 header contradict nothing: version, length of the header,
/// total length within the `on_the_wire` octets that the frame has, and checksum.
///
/// The checksum may be off by one, as routers leave it that lose or add the carry when they change
/// the TTL (RFC 1624). It proves nothing if it is 0, as a sender with checksum offload captures its
/// own packets, or if options were not captured. Then the packet has to end with the frame.
fn is_sound_ipv4(payload: &[u8], on_the_wire: u32) -> Result<bool, DecodeError> {
    let header_octets = payload.first().map_or(0, |first| (first & 0x0f) << 2);
    if usize::from(header_octets) < IPV4_OCTETS_MIN || on_the_wire < u32::from(header_octets) {
        return Ok(false);
    }
    let fixed: &[u8; IPV4_OCTETS_MIN] = payload
        .first_chunk()
        .ok_or(DecodeError::Truncated("IPv4"))?;
    let total_length = u16::from_be_bytes([fixed[2], fixed[3]]);
    let is_offloaded = total_length == 0;
    if u32::from(total_length) > on_the_wire
        || total_length < u16::from(header_octets) && !is_offloaded
    {
        return Ok(false);
    }
    let header = payload.get(..usize::from(header_octets));
    if header.is_some_and(|header| matches!(ones_complement_sum(header), 0xffff | 0xfffe | 1)) {
        return Ok(true);
    }
    let is_unproven = header.is_none() || fixed[10..12] == [0, 0];
    let ends_with_frame = u32::from(total_length) == on_the_wire;
    Ok(is_unproven && ends_with_frame && !has_ether_type(payload))
}

/// Whether octets that may be an IPv6 header (RFC 8200, section 3) contradict nothing. It has no
/// checksum, so where it does not end with the frame it may not look like an Ethernet header.
fn is_sound_ipv6(payload: &[u8], on_the_wire: u32) -> Result<bool, DecodeError> {
    const IPV6_OCTETS: u32 = 40;
    if on_the_wire < IPV6_OCTETS {
        return Ok(false);
    }
    let length = u16_at(payload, 4).ok_or(DecodeError::Truncated("IPv6"))?;
    let ends = IPV6_OCTETS + u32::from(length);
    Ok(ends == on_the_wire || ends < on_the_wire && !has_ether_type(payload))
}

/// Whether the octets could begin with an Ethernet header: there is an EtherType where it has one.
fn has_ether_type(payload: &[u8]) -> bool {
    u16_at(payload, ETHER_TYPE).is_some_and(|found| {
        matches!(found, ETHER_TYPE_IPV4 | ETHER_TYPE_IPV6 | ETHER_TYPE_ARP)
            || ETHER_TYPE_TAGS.contains(&found)
            || ETHER_TYPE_MPLS.contains(&found)
            || found == ETHER_TYPE_PPPOE_SESSION
    })
}

/// The sum of 16-bit words with the carries added (RFC 1071): 0xffff over a header whose checksum
/// is right.
fn ones_complement_sum(header: &[u8]) -> u16 {
    let (words, _) = header.as_chunks::<2>();
    words.iter().fold(0, |sum: u16, &word| {
        let (sum, carry) = sum.overflowing_add(u16::from_be_bytes(word));
        sum + u16::from(carry)
    })
}

/// What a frame with a length in place of an EtherType carries. Up to 1500 it is a length, and LLC
/// follows (IEEE 802.3); the values from there to 0x0600 are undefined. In a Linux cooked header it
/// is a number of Linux (if_ether.h), and 4 is LLC.
#[cold]
fn unread_llc(octets: &[u8], offset: usize, length: u16, link: Link) -> Unread {
    let is_llc = match link {
        Link::LinuxSll | Link::LinuxSll2 => length == 4,
        _ => length <= 1500,
    };
    match octets.get(offset..) {
        Some(&[0xaa, 0xaa, 3, a, b, c, high, low, ..]) if is_llc => Unread::Snap {
            organization: [a, b, c],
            protocol: u16::from_be_bytes([high, low]),
        },
        Some(&[point, ..]) if is_llc => Unread::Llc(point),
        _ => Unread::EtherType(length),
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
        other => {
            let other = u16::try_from(other).unwrap_or(u16::MAX);
            Err(DecodeError::NotIp(Unread::Family(other)))
        }
    }
}

const IPV4_OCTETS_MIN: usize = 20;
const PROTOCOL_ICMP: u8 = 1;
const PROTOCOL_TCP: u8 = 6;
pub(crate) const PROTOCOL_UDP: u8 = 17;
const PROTOCOL_DCCP: u8 = 33;
const PROTOCOL_SCTP: u8 = 132;
pub(crate) const PROTOCOL_UDP_LITE: u8 = 136;

/// Reads an IPv4 header (RFC 791, section 3.1) and the ports behind it. `on_the_wire` is what the
/// frame had on the wire from this header on.
#[inline(always)]
fn decode_ipv4(
    octets: &[u8],
    on_the_wire: u32,
    beyond_frame: impl FnOnce(u16),
) -> Result<Packet, DecodeError> {
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
    let total_length = u16::from_be_bytes([header[2], header[3]]);
    let is_within_frame = u32::from(total_length) <= on_the_wire;
    let total_octets = if is_within_frame && total_length >= u16::from(header_octets) {
        u32::from(total_length)
    } else {
        decide_length(total_length, header_octets, on_the_wire, beyond_frame)?
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

/// The octets of a packet whose total length is not between its header and the end of its frame.
///
/// A frame is at most as long as it was on the wire. A total length beyond that is an error of the
/// sender, damage, or a frame that was cut before it came here, and counting it would count octets
/// that nobody saw.
#[cold]
#[inline(never)]
fn decide_length(
    total_length: u16,
    header_octets: u8,
    on_the_wire: u32,
    beyond_frame: impl FnOnce(u16),
) -> Result<u32, DecodeError> {
    if on_the_wire < u32::from(header_octets) {
        return Err(DecodeError::Truncated("IPv4"));
    }
    match total_length {
        // A host with segmentation offload captures its own packets with a length of 0.
        0 => Ok(on_the_wire),
        total if total < u16::from(header_octets) => Err(DecodeError::TotalLength(total)),
        total => {
            let beyond = u32::from(total) - on_the_wire;
            beyond_frame(u16::try_from(beyond).expect("it is below a total length"));
            Ok(on_the_wire)
        }
    }
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

    /// The same header with its checksum.
    fn with_checksum(mut packet: Vec<u8>) -> Vec<u8> {
        let header_octets = usize::from(packet[0] & 0x0f) * 4;
        packet[10..12].copy_from_slice(&[0, 0]);
        let sum = !ones_complement_sum(&packet[..header_octets]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet
    }

    /// A label stack of one label, and what it carries.
    fn labelled(payload: &[u8]) -> Vec<u8> {
        ethernet(&[0x88, 0x47, 0, 6, 0x41, 64], payload)
    }

    const NOT_IP_BEHIND_LABELS: Result<Packet, DecodeError> =
        Err(DecodeError::NotIp(Unread::Mpls(0x8847)));

    /// RFC 4448: a pseudowire carries a whole Ethernet frame, with a control word before it or not.
    #[test]
    fn ethernet_behind_labels_is_not_taken_for_ip_whatever_its_addresses() {
        let packet = with_checksum(ipv4(5, 17, &UDP));
        for first in 0..=u8::MAX {
            let mut inner = ethernet(&[8, 0], &packet);
            inner[..6].copy_from_slice(&[first, 0x9e, 0xfc, 0x11, 0x22, 0x33]);
            for payload in [
                &inner[..],
                &[&[0; 4][..], &inner].concat(),
                &[&[0x10, 0, 0, 0x21][..], &inner].concat(),
            ] {
                assert_eq!(
                    decode_all(&labelled(payload), Link::Ethernet),
                    NOT_IP_BEHIND_LABELS,
                    "{payload:x?}"
                );
            }
        }
    }

    #[test]
    fn an_address_that_looks_like_a_header_which_fits_the_frame_is_not_ip() {
        // Version 4, 20 octets, and a total length that is that of the frame.
        let mut inner = ethernet(&[8, 0], &with_checksum(ipv4(5, 17, &UDP)));
        inner[..12].copy_from_slice(&[0x45, 0, 0, 42, 0x22, 0x33, 2, 0, 0, 0, 0, 0]);
        assert_eq!(
            decode_all(&labelled(&inner), Link::Ethernet),
            NOT_IP_BEHIND_LABELS
        );
        // Version 6, and a payload length that fits.
        inner[..6].copy_from_slice(&[0x60, 0, 0, 0, 0, 1]);
        assert_eq!(
            decode_all(&labelled(&inner), Link::Ethernet),
            NOT_IP_BEHIND_LABELS
        );
    }

    #[test]
    fn a_header_behind_labels_that_contradicts_itself_is_not_ip_and_no_damage() {
        let sound = with_checksum(ipv4(6, 17, &UDP));
        let octets = |packet: &[u8]| decode_all(&labelled(packet), Link::Ethernet);
        assert_eq!(octets(&sound).unwrap().octets, 32);
        let padded = [&sound[..], &[0; 14]].concat();
        assert_eq!(octets(&padded).unwrap().octets, 32);
        let changed = |at: usize, octet: u8| {
            let mut packet = sound.clone();
            packet[at] = octet;
            packet
        };
        let contradictions = [
            changed(0, 0x54),
            with_checksum(changed(0, 0x44)),
            with_checksum(changed(3, 23)),
            with_checksum(changed(3, 33)),
            changed(10, sound[10] ^ 1),
            changed(16, 7),
            sound[..19].to_vec(),
        ];
        for packet in contradictions {
            assert_eq!(octets(&packet), NOT_IP_BEHIND_LABELS, "{packet:x?}");
            let elsewhere = decode_all(&ethernet(&[8, 0], &packet), Link::Ethernet);
            assert_ne!(elsewhere, NOT_IP_BEHIND_LABELS, "{packet:x?}");
        }
    }

    #[test]
    fn a_wrong_checksum_matters_only_behind_labels() {
        let mut packet = with_checksum(ipv4(5, 17, &UDP));
        packet[10] ^= 0x55;
        let under_ethernet = decode_all(&ethernet(&[8, 0], &packet), Link::Ethernet);
        assert_eq!(under_ethernet.unwrap().octets, 28);
        assert_eq!(decode_all(&packet, Link::Raw).unwrap().octets, 28);
    }

    /// A sender's own capture has the checksum that its card fills in as 0; routers that change the
    /// TTL have been off by one.
    #[test]
    fn a_checksum_that_is_missing_or_off_by_one_does_not_hide_ip_behind_labels() {
        let sound = with_checksum(ipv4(5, 17, &UDP));
        let checksum = u16::from_be_bytes([sound[10], sound[11]]);
        let with = |checksum: u16, padding: usize| {
            let mut packet = sound.clone();
            packet[10..12].copy_from_slice(&checksum.to_be_bytes());
            packet.resize(packet.len() + padding, 0);
            decode_all(&labelled(&packet), Link::Ethernet).map(|packet| packet.octets)
        };
        for near in [checksum - 1, checksum + 1] {
            assert_eq!((with(near, 0), with(near, 14)), (Ok(28), Ok(28)));
        }
        assert!(with(checksum - 2, 0).is_err() && with(checksum + 2, 0).is_err());
        assert_eq!(with(0, 0), Ok(28));
        assert!(with(0, 1).is_err(), "nothing speaks for it");
    }

    #[test]
    fn behind_labels_a_snap_length_is_no_contradiction() {
        let long = with_checksum(ipv4(5, 17, &[UDP.to_vec(), vec![0; 1000]].concat()));
        let frame = labelled(&long);
        let wire_octets = u32::try_from(frame.len()).unwrap();
        let cut = |octets: usize| decode(&frame[..octets], wire_octets, Link::Ethernet);
        assert_eq!(cut(60).unwrap().octets, 1028);
        assert_eq!(cut(18 + 19), Err(DecodeError::Truncated("IPv4")));
        // Options that were not captured: the total length still shows where the packet ends.
        let frame = labelled(&with_checksum(ipv4(15, 17, &UDP)));
        let wire_octets = u32::try_from(frame.len()).unwrap();
        let cut = decode(&frame[..18 + 24], wire_octets, Link::Ethernet);
        assert_eq!(cut.unwrap().octets, 68);
        assert!(decode(&frame[..18 + 24], wire_octets + 1, Link::Ethernet).is_err());
    }

    #[test]
    fn ipv6_behind_labels_is_told_from_ethernet() {
        let mut packet = vec![0; 48];
        packet[..8].copy_from_slice(&[0x60, 0, 0, 0, 0, 8, 17, 64]);
        let found = |packet: &[u8]| decode_all(&labelled(packet), Link::Ethernet);
        assert_eq!(found(&packet), Err(DecodeError::Ipv6));
        assert_eq!(
            found(&[&packet[..], &[0; 4]].concat()),
            Err(DecodeError::Ipv6)
        );
        packet[5] = 9;
        assert_eq!(found(&packet), NOT_IP_BEHIND_LABELS);
        assert_eq!(found(&packet[..39]), NOT_IP_BEHIND_LABELS);
    }

    /// The octets of a frame's packet, and those by which its total length exceeds the frame.
    fn lengths(octets: &[u8], wire_octets: usize) -> (u32, u16) {
        let mut beyond = 0;
        let wire_octets = u32::try_from(wire_octets).unwrap();
        let packet = decode_noting(octets, wire_octets, Link::Ethernet, |by| beyond = by);
        (packet.unwrap().octets, beyond)
    }

    #[test]
    fn a_total_length_beyond_the_frame_is_not_believed() {
        let mut frame = ethernet(&[0x81, 0, 0, 5, 8, 0], &ipv4(5, 17, &UDP));
        let end = frame.len();
        for (total, octets, beyond) in [(28, 28, 0), (29, 28, 1), (0xffff, 28, 0xffff - 28)] {
            frame[20..22].copy_from_slice(&u16::to_be_bytes(total));
            assert_eq!(lengths(&frame, end), (octets, beyond));
            assert_eq!(lengths(&frame[..end - 8], end), (octets, beyond));
        }
        // With the lengths that segmentation offload leaves in captures of the sender.
        assert_eq!(lengths(&frame, 18 + 70_000), (0xffff, 0));
        frame[20..22].copy_from_slice(&[0, 0]);
        assert_eq!(lengths(&frame, 18 + 70_000), (70_000, 0));
    }

    #[test]
    fn a_frame_that_was_only_snapped_contradicts_nothing() {
        let frame = ethernet(
            &[8, 0],
            &ipv4(5, 17, &[UDP.to_vec(), vec![0; 1000]].concat()),
        );
        for captured in [34, 60, frame.len()] {
            assert_eq!(lengths(&frame[..captured], frame.len()), (1028, 0));
        }
    }

    #[test]
    fn names_what_a_frame_carries_that_is_not_read() {
        let snap = |organization, protocol| Unread::Snap {
            organization,
            protocol,
        };
        let cases: [(&[u8], Link, Unread); 12] = [
            (&[0x89, 0x03], Link::Ethernet, Unread::EtherType(0x8903)),
            (&[0x82, 0, 0, 5], Link::Ethernet, Unread::EtherType(0x8200)),
            (
                &[0x81, 0, 0, 5, 0x89, 0x09],
                Link::Ethernet,
                Unread::EtherType(0x8909),
            ),
            (
                &[0x88, 0x64, 0x11, 0, 0, 1, 0, 9, 0xc0, 0x21],
                Link::Ethernet,
                Unread::Ppp(0xc021),
            ),
            (
                &[0x88, 0x48, 0, 1, 1, 64, 0x12],
                Link::Ethernet,
                Unread::Mpls(0x8848),
            ),
            (
                &[0, 0x24, 0xaa, 0xaa, 3, 0, 0, 0, 8, 0, 0x45],
                Link::Ethernet,
                snap([0, 0, 0], 0x0800),
            ),
            (
                &[0x81, 0, 0, 5, 0, 50, 0xaa, 0xaa, 3, 0, 0, 12, 1, 11],
                Link::Ethernet,
                snap([0, 0, 12], 0x010b),
            ),
            (&[0, 38, 0x42, 0x42, 3], Link::Ethernet, Unread::Llc(0x42)),
            (&[0, 38, 0xaa, 0xaa, 3], Link::Ethernet, Unread::Llc(0xaa)),
            (&[0, 38], Link::Ethernet, Unread::EtherType(38)),
            (&[5, 0xdd, 0x42], Link::Ethernet, Unread::EtherType(0x05dd)),
            (&[], Link::Unsupported(9), Unread::LinkType(9)),
        ];
        for (tags, link, expected) in cases {
            let error = decode_all(&ethernet(tags, &[]), link).unwrap_err();
            assert_eq!(error.unread(), Some(expected), "{tags:x?}");
        }
        let cooked = |protocol: u8, payload: &[u8]| {
            let frame = [&[0; 15][..], &[protocol], payload].concat();
            decode_all(&frame, Link::LinuxSll).unwrap_err().unread()
        };
        assert_eq!(cooked(4, &[0x42, 0x42, 3]), Some(Unread::Llc(0x42)));
        assert_eq!(cooked(12, &[0x42]), Some(Unread::EtherType(12)));
        let loopback = decode_all(&[0, 0, 0, 7], Link::Loopback).unwrap_err();
        assert_eq!(loopback.unread(), Some(Unread::Family(7)));
        for named_by_its_reason in [DecodeError::Ipv6, DecodeError::Truncated("IP")] {
            assert_eq!(named_by_its_reason.unread(), None);
        }
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
                Llc(Unread::EtherType(0x26)),
            ),
            (
                &[&MACS[..], &[0x88, 0xcc]].concat(),
                Link::Ethernet,
                NotIp(Unread::EtherType(0x88cc)),
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
