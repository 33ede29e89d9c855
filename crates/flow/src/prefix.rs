//! A network of IPv4 addresses.

use std::fmt;
use std::net::Ipv4Addr;

/// The addresses that share their first bits (RFC 4632, section 3.1), for example 10.0.0.0/8.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ipv4Prefix {
    network: u32,
    mask: u32,
}

impl Ipv4Prefix {
    /// The network of the addresses whose first `length` bits are those of `address`; `None` if the
    /// length is above 32. Bits of `address` behind the prefix are ignored.
    #[must_use]
    pub fn new(address: Ipv4Addr, length: u8) -> Option<Self> {
        let mask = match length {
            0 => 0,
            1..=32 => u32::MAX << (32 - length),
            33.. => return None,
        };
        Some(Self {
            network: address.to_bits() & mask,
            mask,
        })
    }

    /// Whether the address belongs to the network.
    #[must_use]
    #[inline]
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        address.to_bits() & self.mask == self.network
    }
}

impl fmt::Display for Ipv4Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let network = Ipv4Addr::from_bits(self.network);
        write!(f, "{network}/{}", self.mask.count_ones())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_contains_the_addresses_that_share_its_bits() {
        let prefix = |length| Ipv4Prefix::new(Ipv4Addr::new(10, 1, 2, 3), length).unwrap();
        assert!(prefix(8).contains(Ipv4Addr::new(10, 255, 0, 0)));
        assert!(!prefix(8).contains(Ipv4Addr::new(11, 1, 2, 3)));
        assert!(prefix(0).contains(Ipv4Addr::BROADCAST));
        assert!(prefix(32).contains(Ipv4Addr::new(10, 1, 2, 3)));
        assert!(!prefix(32).contains(Ipv4Addr::new(10, 1, 2, 2)));
    }

    #[test]
    fn bits_behind_a_prefix_are_ignored() {
        let prefix = Ipv4Prefix::new(Ipv4Addr::new(10, 1, 2, 3), 16).unwrap();
        assert_eq!(
            Ipv4Prefix::new(Ipv4Addr::new(10, 1, 0, 0), 16),
            Some(prefix)
        );
        assert_eq!(prefix.to_string(), "10.1.0.0/16");
    }

    #[test]
    fn a_prefix_has_at_most_32_bits() {
        assert_eq!(Ipv4Prefix::new(Ipv4Addr::LOCALHOST, 33), None);
    }
}
