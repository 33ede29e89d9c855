//! The flow key: NetFlow v5's seven fields in 16 octets.

use std::hash::{Hash, Hasher};
use std::net::Ipv4Addr;

/// The seven fields that tell one flow from another (Cisco, *NetFlow Services Solutions Guide*,
/// "flow definition").
#[derive(Clone, Copy, Debug)]
#[repr(C)]
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
    /// Observation point that the packet was seen at: the ifIndex of the interface, or a number
    /// that rules gave it.
    pub input: u16,
}

impl FlowKey {
    /// The whole key as one integer, so that comparing and hashing are one step each.
    ///
    /// Its octets are those of the fields where they stand in memory, so on a little-endian machine
    /// this is two loads.
    #[must_use]
    #[inline]
    pub fn to_bits(&self) -> u128 {
        let addresses = u64::from(u32::from_le_bytes(self.source.octets()))
            | u64::from(u32::from_le_bytes(self.destination.octets())) << 32;
        let rest = u64::from(self.source_port)
            | u64::from(self.destination_port) << 16
            | u64::from(self.protocol) << 32
            | u64::from(self.tos) << 40
            | u64::from(self.input) << 48;
        u128::from(addresses) | u128::from(rest) << 64
    }

    /// The key that [`to_bits`](Self::to_bits) made an integer of.
    #[must_use]
    #[inline]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "each field is cut out of the integer at its own width"
    )]
    pub fn from_bits(bits: u128) -> Self {
        Self {
            source: Ipv4Addr::from((bits as u32).to_le_bytes()),
            destination: Ipv4Addr::from(((bits >> 32) as u32).to_le_bytes()),
            source_port: (bits >> 64) as u16,
            destination_port: (bits >> 80) as u16,
            protocol: (bits >> 96) as u8,
            tos: (bits >> 104) as u8,
            input: (bits >> 112) as u16,
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
