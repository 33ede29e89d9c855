//! The probe's own datagrams, which it never meters: it would feed itself.
//!
//! Whoever connects a socket to a collector says so here; workers look once a turn whether anybody
//! has, which is one load of a number that hardly ever changes. They tell the datagrams by both
//! addresses and both ports, after decoding has stepped over whatever tags a mirrored link put in
//! front of them.

use std::net::{SocketAddr, SocketAddrV4};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use xdprobe_flow::FlowKey;

/// The sockets that export goes through. Copies are the same.
#[derive(Clone, Debug, Default)]
pub struct OwnExport(Arc<Sockets>);

#[derive(Debug, Default)]
struct Sockets {
    /// Counts changes.
    generation: AtomicU64,
    /// Each collector's, by its number: from whom to whom.
    addresses: Mutex<Vec<(usize, Datagrams)>>,
}

/// What a worker knows of them.
#[derive(Debug, Default)]
pub struct OwnDatagrams {
    export: OwnExport,
    generation: u64,
    known: Vec<Datagrams>,
}

/// From whom to whom.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Datagrams {
    local: SocketAddrV4,
    peer: SocketAddrV4,
}

/// IANA's number of UDP.
const PROTOCOL_UDP: u8 = 17;

impl OwnExport {
    /// From here on the `nth` collector is sent to from `local` to `peer`. Over IPv6 nothing is
    /// metered in any case.
    pub fn connected(&self, nth: usize, local: SocketAddr, peer: SocketAddr) {
        let mut addresses = self
            .0
            .addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        addresses.retain(|(other, _)| *other != nth);
        addresses.extend(Datagrams::between(local, peer).map(|datagrams| (nth, datagrams)));
        self.0.generation.fetch_add(1, Ordering::Release);
    }

    /// A worker's view.
    pub fn datagrams(&self) -> OwnDatagrams {
        let mut datagrams = OwnDatagrams {
            export: self.clone(),
            ..OwnDatagrams::default()
        };
        datagrams.begin_turn();
        datagrams
    }
}

impl OwnDatagrams {
    /// Looks whether sockets were connected since the last turn.
    #[inline]
    pub fn begin_turn(&mut self) {
        let generation = self.export.0.generation.load(Ordering::Acquire);
        if generation != self.generation {
            self.read(generation);
        }
    }

    /// Whether a packet of this key is one of them.
    #[inline]
    pub fn hold(&self, key: &FlowKey) -> bool {
        key.protocol == PROTOCOL_UDP && self.known.iter().any(|datagrams| datagrams.hold(key))
    }

    #[cold]
    fn read(&mut self, generation: u64) {
        let addresses = self
            .export
            .0
            .addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        self.known.clear();
        self.known
            .extend(addresses.iter().map(|(_, datagrams)| *datagrams));
        self.generation = generation;
    }
}

impl Datagrams {
    fn between(local: SocketAddr, peer: SocketAddr) -> Option<Self> {
        let (SocketAddr::V4(local), SocketAddr::V4(peer)) = (local, peer) else {
            return None;
        };
        Some(Self { local, peer })
    }

    /// Whether a UDP packet of this key is one of these. The collector's port comes first: few
    /// others have it, and the key was written field by field a moment ago, so that reading it as a
    /// whole would have to wait for that.
    #[inline]
    fn hold(&self, key: &FlowKey) -> bool {
        self.peer.port() == key.destination_port
            && self.local.port() == key.source_port
            && *self.peer.ip() == key.destination
            && *self.local.ip() == key.source
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(tos: u8, input: u16) -> FlowKey {
        FlowKey {
            source: "192.0.2.1".parse().unwrap(),
            destination: "192.0.2.9".parse().unwrap(),
            source_port: 4000,
            destination_port: 2055,
            protocol: PROTOCOL_UDP,
            tos,
            input,
        }
    }

    #[test]
    fn datagrams_are_told_by_addresses_and_ports_whatever_their_class_and_wherever_they_are_seen() {
        let export = OwnExport::default();
        export.connected(
            0,
            "192.0.2.1:4000".parse().unwrap(),
            "192.0.2.9:2055".parse().unwrap(),
        );
        let own = export.datagrams();
        assert!(own.hold(&key(0, 0)) && own.hold(&key(0xb8, 7)));
        assert!(!own.hold(&FlowKey {
            source_port: 4001,
            ..key(0, 0)
        }));
        assert!(!own.hold(&FlowKey {
            destination_port: 2056,
            ..key(0, 0)
        }));
        assert!(!own.hold(&FlowKey {
            protocol: 6,
            ..key(0, 0)
        }));
        let answer = FlowKey {
            source: key(0, 0).destination,
            destination: key(0, 0).source,
            ..key(0, 0)
        };
        assert!(!own.hold(&answer));
    }

    #[test]
    fn a_socket_that_was_connected_anew_takes_the_place_of_the_old_one_at_the_next_turn() {
        let export = OwnExport::default();
        let mut own = export.datagrams();
        export.connected(
            0,
            "192.0.2.1:4000".parse().unwrap(),
            "192.0.2.9:2055".parse().unwrap(),
        );
        export.connected(
            1,
            "[::1]:4000".parse().unwrap(),
            "[::1]:2055".parse().unwrap(),
        );
        assert!(!own.hold(&key(0, 0)));
        own.begin_turn();
        assert!(own.hold(&key(0, 0)));
        export.connected(
            0,
            "192.0.2.1:4001".parse().unwrap(),
            "192.0.2.8:2055".parse().unwrap(),
        );
        own.begin_turn();
        assert_eq!((own.hold(&key(0, 0)), own.known.len()), (false, 1));
    }
}
