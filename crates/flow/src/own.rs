//! The probe's own export datagrams, which it does not meter: each would cause further ones.
//!
//! A datagram is recognised by both addresses and both ports, after decoding, so whatever tags a
//! mirrored link puts in front of it.

use crate::decode::PROTOCOL_UDP;
use crate::key::KeyV4;
use std::net::{SocketAddr, SocketAddrV4};

/// The datagrams that one socket sends to one collector.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct OwnDatagrams {
    /// The local address of the socket.
    pub source: SocketAddrV4,
    /// The collector's address.
    pub destination: SocketAddrV4,
}

impl OwnDatagrams {
    /// The datagrams from `local` to `peer`. `None` over IPv6, which is not metered anyway.
    #[must_use]
    pub fn between(local: SocketAddr, peer: SocketAddr) -> Option<Self> {
        match (local, peer) {
            (SocketAddr::V4(source), SocketAddr::V4(destination)) => Some(Self {
                source,
                destination,
            }),
            _ => None,
        }
    }

    /// Whether a UDP packet of this key is one of these datagrams. The collector's port is compared
    /// first: few other packets have it, and the key was written field by field a moment ago, so
    /// that reading it as a whole would have to wait until that is done.
    #[inline]
    fn have_ends_of(&self, key: &KeyV4) -> bool {
        self.destination.port() == key.destination_port
            && self.source.port() == key.source_port
            && *self.destination.ip() == key.destination
            && *self.source.ip() == key.source
    }
}

/// Whether a packet of this key is one of the probe's own.
#[inline]
pub(crate) fn is_own(own: &[OwnDatagrams], key: &KeyV4) -> bool {
    key.protocol == PROTOCOL_UDP && own.iter().any(|datagrams| datagrams.have_ends_of(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(tos: u8, point: u16) -> KeyV4 {
        KeyV4 {
            source: "192.0.2.1".parse().unwrap(),
            destination: "192.0.2.9".parse().unwrap(),
            source_port: 4000,
            destination_port: 2055,
            protocol: PROTOCOL_UDP,
            tos,
            point,
        }
    }

    #[test]
    fn own_datagrams_are_recognised_by_addresses_and_ports_whatever_their_class_and_point() {
        let (local, peer) = ("192.0.2.1:4000", "192.0.2.9:2055");
        let own = OwnDatagrams::between(local.parse().unwrap(), peer.parse().unwrap());
        let is_own = |key| is_own(own.as_slice(), &key);
        assert!(is_own(key(0, 0)) && is_own(key(0xb8, 7)));
        let answer = KeyV4 {
            source: key(0, 0).destination,
            destination: key(0, 0).source,
            ..key(0, 0)
        };
        #[rustfmt::skip]
        let others = [
            KeyV4 { source_port: 4001, ..key(0, 0) },
            KeyV4 { destination_port: 2056, ..key(0, 0) },
            KeyV4 { source: "192.0.2.2".parse().unwrap(), ..key(0, 0) },
            KeyV4 { destination: "192.0.2.2".parse().unwrap(), ..key(0, 0) },
            KeyV4 { protocol: 6, ..key(0, 0) },
            answer,
        ];
        assert!(!others.into_iter().any(is_own));
    }

    #[test]
    fn nothing_is_excluded_over_ipv6() {
        let address = "[::1]:2055".parse().unwrap();
        assert_eq!(OwnDatagrams::between(address, address), None);
    }
}
