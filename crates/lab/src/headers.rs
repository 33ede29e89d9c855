//! IP and transport headers as they are on the wire, integers big-endian: for reading packets and
//! for changing them. `etherparse` builds them.

use zerocopy::byteorder::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// IP protocol number of ICMP.
pub const ICMP: u8 = 1;
/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;

/// Flag in [`Ipv4::fragment`]: more fragments follow.
pub const MORE_FRAGMENTS: u16 = 0x2000;
/// Bits of [`Ipv4::fragment`]: the fragment's offset in units of 8 octets.
pub const FRAGMENT_OFFSET: u16 = 0x1fff;

/// Whether the protocol's header begins with a source and a destination port: TCP, UDP, DCCP, SCTP
/// and UDP-Lite (IANA, *Assigned Internet Protocol Numbers*).
pub const fn has_ports(protocol: u8) -> bool {
    matches!(protocol, TCP | UDP | 33 | 132 | 136)
}

/// An IPv4 header up to its options (RFC 791, section 3.1).
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Ipv4 {
    version_and_length: u8,
    pub tos: u8,
    pub total_octets: U16,
    id: U16,
    /// Flags and offset.
    pub fragment: U16,
    ttl: u8,
    pub protocol: u8,
    pub checksum: U16,
    pub source: U32,
    pub destination: U32,
}

impl Ipv4 {
    /// Length of the header with its options, in octets.
    pub fn octets(&self) -> usize {
        usize::from(self.version_and_length & 0xf) * 4
    }

    pub fn is_fragment(&self) -> bool {
        self.fragment.get() & (MORE_FRAGMENTS | FRAGMENT_OFFSET) != 0
    }

    /// Whether it is a fragment other than the first.
    pub fn is_later_fragment(&self) -> bool {
        self.fragment.get() & FRAGMENT_OFFSET != 0
    }
}

/// An IPv6 header (RFC 8200, section 3).
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Ipv6 {
    version_class_label: U32,
    pub payload_octets: U16,
    pub next_header: u8,
    hop_limit: u8,
    pub source: [u8; 16],
    pub destination: [u8; 16],
}

/// A TCP header up to its options (RFC 9293, section 3.1).
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Tcp {
    source_port: U16,
    destination_port: U16,
    sequence: U32,
    acknowledgement: U32,
    offset_and_flags: U16,
    window: U16,
    pub checksum: U16,
    urgent: U16,
}

/// A UDP header (RFC 768).
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Udp {
    source_port: U16,
    destination_port: U16,
    pub octets: U16,
    pub checksum: U16,
}
