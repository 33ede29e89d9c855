//! The flow key: NetFlow v5's seven fields in 16 octets.

use std::hash::{Hash, Hasher};
use std::net::Ipv4Addr;

/// The seven fields that tell one flow from another (Cisco, *NetFlow Services Solutions Guide*, "flow definition").
#[derive(Clone, Copy, Debug)]
pub struct FlowKey {
    /// Source address.
    pub source: Ipv4Addr,
    /// Destination address.
    pub destination: Ipv4Addr,
    /// TCP, UDP, SCTP, DCCP or UDP-Lite source port; else 0.
    pub source_port: u16,
    /// Destination port; ICMP type * 256 + code; else 0.
    pub destination_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// IP type of service octet.
    pub tos: u8,
    /// ifIndex of the interface that the packet was seen on.
    pub input: u16,
}

impl FlowKey {
    /// The whole key as one integer, so that comparing and hashing are one step each.
    #[must_use]
    #[inline]
    pub fn to_bits(&self) -> u128 {
        u128::from(self.source.to_bits()) << 96
            | u128::from(self.destination.to_bits()) << 64
            | u128::from(self.source_port) << 48
            | u128::from(self.destination_port) << 32
            | u128::from(self.protocol) << 24
            | u128::from(self.tos) << 16
            | u128::from(self.input)
    }

    /// The key that [`to_bits`](Self::to_bits) made an integer of.
    #[must_use]
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "each field is cut out of the integer at its own width")]
    pub fn from_bits(bits: u128) -> Self {
        Self {
            source: Ipv4Addr::from_bits((bits >> 96) as u32),
            destination: Ipv4Addr::from_bits((bits >> 64) as u32),
            source_port: (bits >> 48) as u16,
            destination_port: (bits >> 32) as u16,
            protocol: (bits >> 24) as u8,
            tos: (bits >> 16) as u8,
            input: bits as u16,
        }
    }
}

impl PartialEq for FlowKey {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        self.to_bits() == other.to_bits()
    }
}

impl Eq for FlowKey {}

impl Hash for FlowKey {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u128(self.to_bits());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bits_hold_the_whole_key(bits in any::<u128>()) {
            prop_assert_eq!(FlowKey::from_bits(bits).to_bits(), bits);
        }
    }
}
