//! The flow of each fragment: only the first fragment of a datagram carries ports, so later ones
//! are given those of their first.
//!
//! The table is small and bounded: the fragments of a datagram follow each other within
//! milliseconds or never. A later fragment that comes before its first, or after the table has
//! forgotten it, is still accounted, with ports 0.

use crate::key::Key;
use hashbrown::HashMap;
use std::collections::VecDeque;

/// A packet's place in a fragmented datagram (RFC 791, section 3.2), with the datagram's
/// identification.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fragment {
    /// Not fragmented.
    Whole,
    /// Offset 0 and more fragments to come: carries the transport header.
    First(u16),
    /// Offset above 0: carries no transport header.
    Later(u16),
}

impl Fragment {
    /// Reads the flags and fragment offset field of an IPv4 header, in host byte order.
    #[must_use]
    #[inline]
    pub const fn from_field(field: u16, id: u16) -> Self {
        const MORE_FRAGMENTS: u16 = 0x2000;
        const OFFSET: u16 = 0x1fff;
        if field & OFFSET != 0 {
            Self::Later(id)
        } else if field & MORE_FRAGMENTS != 0 {
            Self::First(id)
        } else {
            Self::Whole
        }
    }
}

/// The ports of recent first fragments. Holds at most [`ENTRIES_MAX`](Self::ENTRIES_MAX) of them,
/// in memory that is allocated at once.
#[derive(Debug)]
pub struct FragmentTable<K> {
    ports: HashMap<FragmentedPacket<K>, Ports>,
    /// The keys of `ports`, oldest first, each once.
    arrivals: VecDeque<FragmentedPacket<K>>,
}

/// Identifies one fragmented datagram: the flow key without ports and type of service, and the
/// identification.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct FragmentedPacket<K> {
    key: K,
    id: u16,
}

#[derive(Clone, Copy, Debug)]
struct Ports {
    source: u16,
    destination: u16,
    seen_ms: u64,
}

impl<K: Key> FragmentTable<K> {
    /// Datagrams that are remembered: enough for 136 fragmented datagrams a second at 30 s each.
    pub const ENTRIES_MAX: usize = 4096;
    /// How long a first fragment is remembered: as long as Linux waits for the others
    /// (net.ipv4.ipfrag_time).
    pub const REMEMBERED_MS: u64 = 30_000;

    /// An empty table.
    #[must_use]
    pub fn new() -> Self {
        // Twice the entries, so that the map never has to clear tombstones by rehashing more than a
        // few hundred of them.
        Self {
            ports: HashMap::with_capacity(2 * Self::ENTRIES_MAX),
            arrivals: VecDeque::with_capacity(Self::ENTRIES_MAX),
        }
    }

    /// Remembers the ports of a first fragment; sets the ports of a later one to those of its
    /// first, if that was seen.
    // Never inlined: fragments are rare, and the loop that calls this is on every packet's path.
    #[inline(never)]
    pub fn resolve(&mut self, key: &mut K, fragment: Fragment, now_ms: u64) {
        match fragment {
            Fragment::Whole => {}
            Fragment::First(id) => self.remember(key, id, now_ms),
            Fragment::Later(id) => {
                if let Some(ports) = self.ports.get(&FragmentedPacket::new(key, id))
                    && now_ms.saturating_sub(ports.seen_ms) < Self::REMEMBERED_MS
                {
                    *key = key.with_ports(ports.source, ports.destination);
                }
            }
        }
    }

    fn remember(&mut self, key: &K, id: u16, now_ms: u64) {
        let datagram = FragmentedPacket::new(key, id);
        let (source, destination) = key.ports();
        let ports = Ports {
            source,
            destination,
            seen_ms: now_ms,
        };
        if let Some(known) = self.ports.get_mut(&datagram) {
            *known = ports;
            return;
        }
        if self.arrivals.len() == Self::ENTRIES_MAX
            && let Some(oldest) = self.arrivals.pop_front()
        {
            self.ports.remove(&oldest);
        }
        self.arrivals.push_back(datagram);
        self.ports.insert(datagram, ports);
        debug_assert_eq!(self.ports.len(), self.arrivals.len());
    }
}

impl<K: Key> Default for FragmentTable<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Key> FragmentedPacket<K> {
    fn new(key: &K, id: u16) -> Self {
        Self {
            key: key.without_transport(),
            id,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::KeyV4;
    use std::net::Ipv4Addr;

    type Table = FragmentTable<KeyV4>;

    fn key(host: u32, source_port: u16, destination_port: u16) -> KeyV4 {
        KeyV4 {
            source: Ipv4Addr::from_bits(host),
            destination: Ipv4Addr::LOCALHOST,
            source_port,
            destination_port,
            protocol: 17,
            tos: 0,
            point: 1,
        }
    }

    fn resolved(table: &mut Table, host: u32, id: u16, now_ms: u64) -> (u16, u16) {
        let mut later = key(host, 0, 0);
        table.resolve(&mut later, Fragment::Later(id), now_ms);
        (later.source_port, later.destination_port)
    }

    #[test]
    fn later_fragments_get_the_ports_of_their_first() {
        let mut table = Table::new();
        assert_eq!(resolved(&mut table, 9, 7, 0), (0, 0), "before its first");
        table.resolve(&mut key(9, 1000, 53), Fragment::First(7), 0);
        assert_eq!(resolved(&mut table, 9, 7, 10), (1000, 53));
        assert_eq!(resolved(&mut table, 9, 8, 10), (0, 0), "another datagram");
        assert_eq!(resolved(&mut table, 8, 7, 10), (0, 0), "another host");
        assert_eq!(
            resolved(&mut table, 9, 7, Table::REMEMBERED_MS),
            (0, 0),
            "too late"
        );
    }

    #[test]
    fn a_full_table_forgets_the_oldest() {
        let mut table = Table::new();
        let entries = u32::try_from(Table::ENTRIES_MAX).unwrap();
        for host in 0..=entries {
            table.resolve(&mut key(host, 1000, 53), Fragment::First(7), 0);
        }
        assert_eq!(table.ports.len(), Table::ENTRIES_MAX);
        assert_eq!(resolved(&mut table, 0, 7, 1), (0, 0));
        assert_eq!(resolved(&mut table, 1, 7, 1), (1000, 53));
        assert_eq!(resolved(&mut table, entries, 7, 1), (1000, 53));
    }
}
