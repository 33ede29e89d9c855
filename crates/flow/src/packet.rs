//! What decoding finds in a frame, and when it was seen.

use crate::fragment::Fragment;
use crate::key::KeyV4;

/// A packet as the flow cache observes it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Packet<K = KeyV4> {
    /// Key of the packet's flow. Decoding leaves the observation point 0, and the ports of later
    /// fragments too.
    pub key: K,
    /// Layer-3 octets: the IP total length, or if that is 0, the octets on the wire behind the link
    /// header.
    pub octets: u32,
    /// TCP flags octet; 0 for other protocols.
    pub tcp_flags: u8,
    /// The packet's place in a fragmented datagram.
    pub fragment: Fragment,
}

/// A packet and its time of arrival.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<K = KeyV4> {
    /// The packet.
    pub packet: Packet<K>,
    /// Uptime in ms, by the packet's own time. It may be less than that of an earlier arrival.
    pub at_ms: u64,
}
