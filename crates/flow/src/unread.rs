//! What a frame carries that is not read: its name, and how many frames of each name there were.
//!
//! An operator who sees that a third of the frames is not metered has to know what they are. The
//! name is a number of a registry: a link type, an EtherType, a PPP protocol. Frames can carry any
//! number, so only the first [`NAMES_MAX`] numbers have a count of their own.

use std::fmt;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A protocol that is not read, by its number.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Unread {
    /// A LINKTYPE number (tcpdump.org/linktypes.html).
    LinkType(u16),
    /// An EtherType (IEEE 802 Numbers, IANA).
    EtherType(u16),
    /// A PPP protocol (IANA), behind PPPoE.
    Ppp(u16),
    /// An address family of a loopback header.
    Family(u16),
    /// A destination service access point of IEEE 802.2.
    Llc(u8),
    /// A protocol behind LLC/SNAP. With organization code 0 it is an EtherType.
    Snap {
        /// The organization code.
        organization: [u8; 3],
        /// The protocol, as this organization numbers it.
        protocol: u16,
    },
    /// A payload behind MPLS labels that is not IP, by the EtherType of the labels: there is no
    /// number for the payload.
    Mpls(u16),
}

impl Unread {
    /// The registry of the number, as reports and metrics name it.
    #[must_use]
    pub const fn kind(self) -> &'static str {
        match self {
            Self::LinkType(_) => "link_type",
            Self::EtherType(_) => "ether_type",
            Self::Ppp(_) => "ppp",
            Self::Family(_) => "family",
            Self::Llc(_) => "llc",
            Self::Snap { .. } => "snap",
            Self::Mpls(_) => "mpls",
        }
    }

    /// The number as its registry writes it: `9` is a link type, `0x8903` an EtherType,
    /// `00000c:0x010b` a SNAP protocol of another organization than IEEE.
    #[must_use]
    pub fn number(self) -> String {
        match self {
            Self::LinkType(number) | Self::Family(number) => number.to_string(),
            Self::EtherType(number) | Self::Ppp(number) | Self::Mpls(number) => {
                format!("{number:#06x}")
            }
            Self::Llc(number) => format!("{number:#04x}"),
            Self::Snap {
                organization: [0, 0, 0],
                protocol,
            } => format!("{protocol:#06x}"),
            Self::Snap {
                organization: [a, b, c],
                protocol,
            } => format!("{a:02x}{b:02x}{c:02x}:{protocol:#06x}"),
        }
    }

    /// The name as one integer, which is never 0: the kind in the highest octet, the number in the
    /// others.
    const fn to_code(self) -> u64 {
        let (kind, number) = match self {
            Self::LinkType(number) => (1, number as u64),
            Self::EtherType(number) => (2, number as u64),
            Self::Ppp(number) => (3, number as u64),
            Self::Family(number) => (4, number as u64),
            Self::Llc(number) => (5, number as u64),
            Self::Snap {
                organization: [a, b, c],
                protocol,
            } => (
                6,
                (a as u64) << 32 | (b as u64) << 24 | (c as u64) << 16 | protocol as u64,
            ),
            Self::Mpls(number) => (7, number as u64),
        };
        kind << 56 | number
    }

    /// The name with this code: the inverse of [`to_code`](Self::to_code). `None` for 0, and for
    /// any integer that is no code.
    const fn from_code(code: u64) -> Option<Self> {
        let [kind, _, _, a, b, c, high, low] = code.to_be_bytes();
        let number = u16::from_be_bytes([high, low]);
        Some(match kind {
            1 => Self::LinkType(number),
            2 => Self::EtherType(number),
            3 => Self::Ppp(number),
            4 => Self::Family(number),
            5 => Self::Llc(low),
            6 => Self::Snap {
                organization: [a, b, c],
                protocol: number,
            },
            7 => Self::Mpls(number),
            _ => return None,
        })
    }
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self {
            Self::LinkType(_) => "link type",
            Self::EtherType(_) => "EtherType",
            Self::Ppp(_) => "PPP protocol",
            Self::Family(_) => "address family",
            Self::Llc(_) => "LLC service access point",
            Self::Snap { .. } => "LLC/SNAP protocol",
            Self::Mpls(_) => "MPLS payload without IP, EtherType",
        };
        write!(f, "{what} {}", self.number())
    }
}

/// The names that have a count of their own. Others are counted together, so that neither a report
/// nor a metric grows with what frames contain.
pub const NAMES_MAX: usize = 8;

/// Frames by what they carry that is not read: 64-bit integers only, so that a worker can publish
/// them.
#[derive(
    Clone, Copy, Debug, Default, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq,
)]
#[repr(C)]
pub struct UnreadCounts {
    /// Names in the order in which they were first seen, 0 where there is none yet.
    codes: [u64; NAMES_MAX],
    counts: [u64; NAMES_MAX],
    /// Frames of all other names.
    pub other: u64,
}

impl UnreadCounts {
    /// Counts a frame.
    #[cold]
    pub fn count(&mut self, unread: Unread) {
        let code = unread.to_code();
        for (known, count) in self.codes.iter_mut().zip(&mut self.counts) {
            if *known == 0 {
                *known = code;
            }
            if *known == code {
                *count += 1;
                return;
            }
        }
        self.other += 1;
    }

    /// The names and their counts, in the order in which they were first seen.
    pub fn by_name(&self) -> impl Iterator<Item = (Unread, u64)> + use<> {
        let named = self.codes.into_iter().zip(self.counts);
        named.filter_map(|(code, count)| Some((Unread::from_code(code)?, count)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_number_is_written_as_its_registry_does() {
        let snap = |organization, protocol| Unread::Snap {
            organization,
            protocol,
        };
        for (unread, kind, number, text) in [
            (Unread::LinkType(9), "link_type", "9", "link type 9"),
            (
                Unread::EtherType(0x8903),
                "ether_type",
                "0x8903",
                "EtherType 0x8903",
            ),
            (Unread::Ppp(0xc021), "ppp", "0xc021", "PPP protocol 0xc021"),
            (Unread::Family(7), "family", "7", "address family 7"),
            (
                Unread::Llc(0x42),
                "llc",
                "0x42",
                "LLC service access point 0x42",
            ),
            (
                snap([0, 0, 0], 0x0800),
                "snap",
                "0x0800",
                "LLC/SNAP protocol 0x0800",
            ),
            (
                snap([0, 0, 0x0c], 0x010b),
                "snap",
                "00000c:0x010b",
                "LLC/SNAP protocol 00000c:0x010b",
            ),
        ] {
            assert_eq!((unread.kind(), unread.number()), (kind, number.to_owned()));
            assert_eq!(unread.to_string(), text);
        }
    }

    #[test]
    fn names_beyond_the_first_eight_are_counted_together() {
        let mut counts = UnreadCounts::default();
        for number in (0..20).chain(0..20) {
            counts.count(Unread::EtherType(number));
        }
        let expected: Vec<_> = (0..8)
            .map(|number| (Unread::EtherType(number), 2))
            .collect();
        assert_eq!(counts.by_name().collect::<Vec<_>>(), expected);
        assert_eq!(counts.other, 24);
    }

    fn any_unread() -> impl Strategy<Value = Unread> {
        prop_oneof![
            any::<u16>().prop_map(Unread::LinkType),
            any::<u16>().prop_map(Unread::EtherType),
            any::<u16>().prop_map(Unread::Ppp),
            any::<u16>().prop_map(Unread::Family),
            any::<u8>().prop_map(Unread::Llc),
            any::<([u8; 3], u16)>().prop_map(|(organization, protocol)| Unread::Snap {
                organization,
                protocol
            }),
            any::<u16>().prop_map(Unread::Mpls),
        ]
    }

    proptest! {
        #[test]
        fn a_code_is_a_name_and_never_0(unread in any_unread()) {
            prop_assert_ne!(unread.to_code(), 0);
            prop_assert_eq!(Unread::from_code(unread.to_code()), Some(unread));
        }
    }
}
