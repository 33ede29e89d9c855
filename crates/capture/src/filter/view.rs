//! What a filter sees of a frame: the frame as it came, or the packet behind its tags under the
//! frame's own link header.

use super::program::Octets;

/// A link header that names the protocol of what follows by an EtherType.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LinkHeader {
    /// Its length in octets.
    pub octets: u8,
    /// Offset of the EtherType in it.
    pub ether_type_at: u8,
}

/// The longest [`LinkHeader`]: LINKTYPE_LINUX_SLL2's.
const HEADER_OCTETS_MAX: usize = 20;

/// IEEE 802.1Q customer tag, 802.1ad service tag, and the two numbers that Q-in-Q used before
/// 802.1ad.
pub const VLAN_TAGS: [u16; 4] = [0x8100, 0x88a8, 0x9100, 0x9200];
/// RFC 5332: MPLS unicast, and upstream-assigned or multicast.
pub const MPLS: [u16; 2] = [0x8847, 0x8848];
/// RFC 2516: a PPPoE session.
pub const PPPOE_SESSION: u16 = 0x8864;
/// IPv4.
pub const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
/// IPv4, as PPP numbers it (IANA, *PPP Numbers*).
pub const PPP_IPV4: u16 = 0x0021;
const PPP_IPV6: u16 = 0x0057;
/// MPLS unicast, as PPP numbers it.
pub const PPP_MPLS: u16 = 0x0281;

/// Whether an EtherType says that a tag, a label or a PPPoE header follows.
#[inline]
fn is_tag(ether_type: u16) -> bool {
    // The usual type first: it decides for most frames.
    ether_type != IPV4
        && (VLAN_TAGS.contains(&ether_type)
            || MPLS.contains(&ether_type)
            || ether_type == PPPOE_SESSION)
}

/// The EtherTypes for which [`behind_tags`] may return a view.
pub fn tags() -> impl Iterator<Item = u16> {
    VLAN_TAGS.into_iter().chain(MPLS).chain([PPPOE_SESSION])
}

/// A frame whose header was replaced by another.
pub struct Reheaded<'a> {
    header: [u8; HEADER_OCTETS_MAX],
    header_octets: u8,
    /// What follows the header.
    rest: &'a [u8],
}

impl Octets for Reheaded<'_> {
    #[inline]
    fn octet(&self, at: u32) -> Option<u8> {
        match at.checked_sub(self.header_octets.into()) {
            Some(at) => self.rest.octet(at),
            None => Some(self.header[at as usize]),
        }
    }

    #[inline]
    fn half(&self, at: u32) -> Option<u16> {
        match at.checked_sub(self.header_octets.into()) {
            Some(at) => self.rest.half(at),
            None => Some(u16::from_be_bytes([self.octet(at)?, self.octet(at + 1)?])),
        }
    }

    #[inline]
    fn word(&self, at: u32) -> Option<u32> {
        match at.checked_sub(self.header_octets.into()) {
            Some(at) => self.rest.word(at),
            None => Some(u32::from_be_bytes([
                self.octet(at)?,
                self.octet(at + 1)?,
                self.octet(at + 2)?,
                self.octet(at + 3)?,
            ])),
        }
    }
}

/// The frame without its VLAN tags, MPLS labels and PPPoE header, and how many octets they have;
/// `None` if it has none.
///
/// A tag that is cut, labels with something else than IP behind them, and PPPoE with something else
/// than IP or MPLS in it stay, and with them what follows.
#[inline]
pub fn behind_tags(frame: &[u8], link: LinkHeader) -> Option<(Reheaded<'_>, usize)> {
    let ether_type = u16_at(frame, link.ether_type_at.into())?;
    if is_tag(ether_type) && frame.len() > usize::from(link.octets) {
        without_tags(frame, link, ether_type)
    } else {
        None
    }
}

#[inline(never)]
fn without_tags(
    frame: &[u8],
    link: LinkHeader,
    mut ether_type: u16,
) -> Option<(Reheaded<'_>, usize)> {
    let header_octets = usize::from(link.octets);
    let mut at = header_octets;
    while let Some((behind, behind_at)) = skip(frame, ether_type, at) {
        (ether_type, at) = (behind, behind_at);
    }
    if at == header_octets {
        return None;
    }
    let mut header = [0; HEADER_OCTETS_MAX];
    header[..header_octets].copy_from_slice(&frame[..header_octets]);
    header[usize::from(link.ether_type_at)..][..2].copy_from_slice(&ether_type.to_be_bytes());
    let view = Reheaded {
        header,
        header_octets: link.octets,
        rest: &frame[at..],
    };
    Some((view, at - header_octets))
}

/// The EtherType and the offset of what is behind the tag, label stack or PPPoE header at `at`.
fn skip(frame: &[u8], ether_type: u16, at: usize) -> Option<(u16, usize)> {
    if VLAN_TAGS.contains(&ether_type) {
        Some((u16_at(frame, at + 2)?, at + 4))
    } else if MPLS.contains(&ether_type) {
        behind_labels(frame, at)
    } else if ether_type == PPPOE_SESSION {
        match u16_at(frame, at + 6)? {
            PPP_IPV4 => Some((IPV4, at + 8)),
            PPP_IPV6 => Some((IPV6, at + 8)),
            PPP_MPLS => behind_labels(frame, at + 8),
            _ => None,
        }
    } else {
        None
    }
}

/// RFC 3032, section 2.1: the bottom label has the lowest bit of its third octet set; what is
/// behind it is IP if it begins with an IP version. Decoding asks for more, so a filter may let
/// through what is then not metered, and never the reverse.
fn behind_labels(frame: &[u8], mut at: usize) -> Option<(u16, usize)> {
    loop {
        let bottom = frame.get(at + 2)? & 1 == 1;
        at += 4;
        if bottom {
            return match frame.get(at)? >> 4 {
                4 => Some((IPV4, at)),
                6 => Some((IPV6, at)),
                _ => None,
            };
        }
    }
}

/// A frame of LINKTYPE_NULL or LINKTYPE_LOOP with its address family as libpcap compares it on this
/// host: in `to_octets`' byte order, and of IPv6 with Linux' number. `None` if it is cut.
///
/// LINKTYPE_NULL has the family in the byte order of the machine that captured, LINKTYPE_LOOP in
/// network order. Families are small numbers, so the smaller of both readings is the right one.
#[inline]
pub fn with_own_family(frame: &[u8], to_octets: fn(u32) -> [u8; 4]) -> Option<Reheaded<'_>> {
    /// AF_INET6 of NetBSD and OpenBSD, of FreeBSD, of macOS.
    const AF_INET6_ELSEWHERE: [u32; 3] = [24, 28, 30];
    const AF_INET6: u32 = 10;
    let (family, rest) = frame.split_first_chunk()?;
    let family = u32::from_be_bytes(*family);
    let mut family = family.min(family.swap_bytes());
    if AF_INET6_ELSEWHERE.contains(&family) {
        family = AF_INET6;
    }
    let mut header = [0; HEADER_OCTETS_MAX];
    header[..4].copy_from_slice(&to_octets(family));
    Some(Reheaded {
        header,
        header_octets: 4,
        rest,
    })
}

#[inline]
fn u16_at(octets: &[u8], at: usize) -> Option<u16> {
    let pair = octets.get(at..)?.first_chunk()?;
    Some(u16::from_be_bytes(*pair))
}
