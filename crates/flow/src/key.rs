//! Flow keys: the fields that distinguish one flow from another.
//!
//! The flow cache is generic over its [`Key`]. It hashes and compares a key as integers, never
//! field by field, and it is compiled once for each key type, so a longer key costs a shorter one
//! nothing. [`KeyV4`] is the key of IPv4 flows.

use std::fmt::Debug;
use std::hash::{Hash, Hasher};
use std::net::Ipv4Addr;
use zerocopy::FromZeros;

/// A flow key as the flow cache uses it.
pub trait Key: Copy + Debug + Eq + Hash {
    /// All fields of the key in one integer, or in as few as possible: what the cache stores,
    /// hashes and compares. Two keys are equal exactly if their bits are.
    type Bits: Copy + Debug + Eq + Hash + FromZeros;

    /// The bits of this key.
    fn to_bits(&self) -> Self::Bits;

    /// The key with these bits: the inverse of [`to_bits`](Self::to_bits).
    fn from_bits(bits: Self::Bits) -> Self;

    /// 64 bits that depend on all bits of the key and on nothing else, in particular on no seed.
    /// They need not be well mixed.
    fn fold(bits: &Self::Bits) -> u64;

    /// Source and destination port.
    fn ports(&self) -> (u16, u16);

    /// This key with other ports.
    #[must_use]
    fn with_ports(self, source: u16, destination: u16) -> Self;

    /// The part of the key that all fragments of one datagram have in common: this key with its
    /// ports and its type of service (traffic class) set to 0.
    #[must_use]
    fn without_transport(self) -> Self;
}

/// The key of an IPv4 flow: seven fields in 16 octets (Cisco, *NetFlow Services Solutions Guide*,
/// "flow definition").
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct KeyV4 {
    /// Source address.
    pub source: Ipv4Addr,
    /// Destination address.
    pub destination: Ipv4Addr,
    /// TCP, UDP, SCTP, DCCP or UDP-Lite source port; otherwise 0.
    pub source_port: u16,
    /// Destination port; for ICMP type * 256 + code; otherwise 0.
    pub destination_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// IP type of service octet.
    pub tos: u8,
    /// Observation point at which the packet was seen: the ifIndex of the interface, or a number
    /// from [`PointRules`](crate::point::PointRules).
    pub point: u16,
}

const _: () = assert!(size_of::<KeyV4>() == 16 && size_of::<<KeyV4 as Key>::Bits>() == 16);

impl Key for KeyV4 {
    type Bits = u128;

    // The integer's octets are those of the fields in memory order, so on a little-endian machine
    // this is two loads.
    #[inline]
    fn to_bits(&self) -> u128 {
        let addresses = u64::from(u32::from_le_bytes(self.source.octets()))
            | u64::from(u32::from_le_bytes(self.destination.octets())) << 32;
        let rest = u64::from(self.source_port)
            | u64::from(self.destination_port) << 16
            | u64::from(self.protocol) << 32
            | u64::from(self.tos) << 40
            | u64::from(self.point) << 48;
        u128::from(addresses) | u128::from(rest) << 64
    }

    #[inline]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "each field is cut out of the integer at its own width"
    )]
    fn from_bits(bits: u128) -> Self {
        Self {
            source: Ipv4Addr::from((bits as u32).to_le_bytes()),
            destination: Ipv4Addr::from(((bits >> 32) as u32).to_le_bytes()),
            source_port: (bits >> 64) as u16,
            destination_port: (bits >> 80) as u16,
            protocol: (bits >> 96) as u8,
            tos: (bits >> 104) as u8,
            point: (bits >> 112) as u16,
        }
    }

    #[inline]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the two halves of the integer are folded into one"
    )]
    fn fold(bits: &u128) -> u64 {
        (bits >> 64) as u64 ^ (*bits as u64).rotate_left(32)
    }

    #[inline]
    fn ports(&self) -> (u16, u16) {
        (self.source_port, self.destination_port)
    }

    #[inline]
    fn with_ports(self, source_port: u16, destination_port: u16) -> Self {
        Self {
            source_port,
            destination_port,
            ..self
        }
    }

    #[inline]
    fn without_transport(self) -> Self {
        Self {
            source_port: 0,
            destination_port: 0,
            tos: 0,
            ..self
        }
    }
}

impl PartialEq for KeyV4 {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        self.to_bits() == other.to_bits()
    }
}

impl Eq for KeyV4 {}

impl Hash for KeyV4 {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u128(self.to_bits());
    }
}

/// A key as long as one of IPv6 flows would be, which shows that the cache works with others than
/// [`KeyV4`].
#[cfg(test)]
pub(crate) mod long {
    use super::Key;

    /// 40 octets: two addresses of 16 octets, and the rest.
    #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
    pub(crate) struct LongKey(pub(crate) [u64; 5]);

    impl Key for LongKey {
        type Bits = [u64; 5];

        fn to_bits(&self) -> [u64; 5] {
            self.0
        }

        fn from_bits(bits: [u64; 5]) -> Self {
            Self(bits)
        }

        fn fold(bits: &[u64; 5]) -> u64 {
            bits.iter()
                .fold(0, |folded, word| folded.rotate_left(13) ^ word)
        }

        fn ports(&self) -> (u16, u16) {
            let [_, _, _, _, a, b, c, d] = self.0[4].to_be_bytes();
            (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
        }

        fn with_ports(mut self, source: u16, destination: u16) -> Self {
            self.0[4] = self.0[4] >> 32 << 32 | u64::from(source) << 16 | u64::from(destination);
            self
        }

        fn without_transport(self) -> Self {
            self.with_ports(0, 0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bits_hold_the_whole_key(bits in any::<u128>()) {
            prop_assert_eq!(KeyV4::from_bits(bits).to_bits(), bits);
        }

        #[test]
        fn ports_and_type_of_service_are_all_that_a_fragment_lacks(bits in any::<u128>()) {
            let key = KeyV4::from_bits(bits);
            let (source_port, destination_port) = key.ports();
            let restored = key.without_transport().with_ports(source_port, destination_port);
            prop_assert_eq!(KeyV4 { tos: key.tos, ..restored }, key);
        }
    }
}
