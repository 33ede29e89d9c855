//! NetFlow version 1 on the wire: a 16-octet header and 1 to 24 records of 48 octets, all integers
//! big-endian.
//!
//! The first version: no sequence, no engine, no prefix lengths, no AS numbers. [`Header`] and
//! [`Record`] are the layout, as in version 5. Source: Cisco, *NetFlow Export Datagram Format*,
//! tables B-1 and B-2.

use crate::layout::{self, DatagramError, EncodeError, Layout, Opening};
use std::mem::offset_of;
use zerocopy::byteorder::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The number that opens every version 1 datagram.
pub const VERSION: u16 = 1;
/// Length of the header in octets.
pub const HEADER_OCTETS: usize = 16;
/// Length of a record in octets.
pub const RECORD_OCTETS: usize = 48;
/// The most records that one datagram carries.
pub const RECORDS_MAX: usize = 24;
/// Length of the longest datagram: 16 + 24 * 48 octets of UDP payload.
pub const DATAGRAM_OCTETS_MAX: usize = HEADER_OCTETS + RECORDS_MAX * RECORD_OCTETS;

const _: () = assert!(size_of::<Header>() == HEADER_OCTETS);
const _: () = assert!(size_of::<Record>() == RECORD_OCTETS);
const _: () = assert!(offset_of!(Header, version) == offset_of!(Opening, version));
const _: () = assert!(offset_of!(Header, count) == offset_of!(Opening, count));

/// A version 1 header.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    Eq,
    PartialEq,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(C)]
pub struct Header {
    /// Always [`VERSION`].
    pub version: U16,
    /// Records that follow, 1 to 24.
    pub count: U16,
    /// SysUptime: ms modulo 2^32 at the moment of export.
    pub sys_uptime_ms: U32,
    /// UTC seconds at the same moment.
    pub unix_s: U32,
    /// Residual nanoseconds, 0 to 999 999 999.
    pub unix_ns: U32,
}

impl Layout for Header {
    type Record = Record;
    const VERSION: u16 = VERSION;
    const RECORDS_MAX: usize = RECORDS_MAX;
}

/// A version 1 record.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    Eq,
    PartialEq,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(C)]
pub struct Record {
    /// Source IPv4 address.
    pub source: [u8; 4],
    /// Destination IPv4 address.
    pub destination: [u8; 4],
    /// Next hop router; 0 if unknown.
    pub next_hop: [u8; 4],
    /// ifIndex that the flow came in on.
    pub input: U16,
    /// ifIndex that the flow went out on; 0 if unknown.
    pub output: U16,
    /// Packets.
    pub packets: U32,
    /// Layer-3 octets.
    pub octets: U32,
    /// SysUptime at the first packet, in ms.
    pub first_ms: U32,
    /// SysUptime at the last packet, in ms.
    pub last_ms: U32,
    /// Source port.
    pub source_port: U16,
    /// Destination port; ICMP type * 256 + code.
    pub destination_port: U16,
    /// Zero.
    pub pad1: U16,
    /// IP protocol.
    pub protocol: u8,
    /// IP type of service.
    pub tos: u8,
    /// OR of the TCP flags.
    pub tcp_flags: u8,
    /// Zero.
    pub pad2: [u8; 3],
    /// Zero.
    pub reserved: U32,
}

/// The header and records of a version 1 datagram, as views of its octets.
///
/// # Errors
///
/// [`DatagramError`] if the octets are not one header and exactly its count of records.
pub fn decode(datagram: &[u8]) -> Result<(&Header, &[Record]), DatagramError> {
    layout::decode(datagram)
}

/// Encodes one datagram into `datagram` and returns its length in octets.
///
/// `datagram` must hold [`HEADER_OCTETS`] and [`RECORD_OCTETS`] for each of the 1 to 24 `records`;
/// only that prefix is written. Version and count are set here, whatever `header` has in them.
///
/// # Errors
///
/// [`EncodeError::RecordCount`] if `records` is empty or longer than 24, [`EncodeError::Buffer`] if
/// `datagram` is too short. Nothing is written in either case.
pub fn encode(
    header: &Header,
    records: &[Record],
    datagram: &mut [u8],
) -> Result<usize, EncodeError> {
    layout::encode(header, records, datagram)
}

/// Writes `records` behind the first `count` records of `datagram`. [`finish`] completes it.
///
/// # Panics
///
/// If `datagram` is too short for them.
#[inline]
pub fn append(datagram: &mut [u8], count: usize, records: impl IntoIterator<Item = Record>) {
    layout::append::<Header>(datagram, count, records);
}

/// Writes `header` in front of `count` records and returns the length of the datagram in octets.
///
/// Version and count are set here, whatever `header` has in them.
///
/// # Panics
///
/// If `datagram` is shorter than a header.
pub fn finish(datagram: &mut [u8], header: &Header, count: u16) -> usize {
    layout::finish(datagram, header, count)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One record, each of whose octets is its own offset in the datagram.
    fn counted() -> Vec<u8> {
        let mut datagram: Vec<u8> =
            (0..u8::try_from(HEADER_OCTETS + RECORD_OCTETS).unwrap()).collect();
        datagram[..4].copy_from_slice(&[0, 1, 0, 1]);
        datagram
    }

    #[test]
    fn every_field_is_at_its_offset() {
        let header = Header {
            version: VERSION.into(),
            count: 1.into(),
            sys_uptime_ms: 0x0405_0607.into(),
            unix_s: 0x0809_0a0b.into(),
            unix_ns: 0x0c0d_0e0f.into(),
        };
        let record = Record {
            source: [16, 17, 18, 19],
            destination: [20, 21, 22, 23],
            next_hop: [24, 25, 26, 27],
            input: 0x1c1d.into(),
            output: 0x1e1f.into(),
            packets: 0x2021_2223.into(),
            octets: 0x2425_2627.into(),
            first_ms: 0x2829_2a2b.into(),
            last_ms: 0x2c2d_2e2f.into(),
            source_port: 0x3031.into(),
            destination_port: 0x3233.into(),
            pad1: 0x3435.into(),
            protocol: 54,
            tos: 55,
            tcp_flags: 56,
            pad2: [57, 58, 59],
            reserved: 0x3c3d_3e3f.into(),
        };
        let datagram = counted();
        assert_eq!(decode(&datagram), Ok((&header, &[record][..])));
        let mut again = vec![0; datagram.len()];
        assert_eq!(encode(&header, &[record], &mut again), Ok(datagram.len()));
        assert_eq!(again, datagram);
    }

    #[test]
    fn refuses_what_is_not_one_header_and_its_records() {
        let datagram = counted();
        assert_eq!(
            decode(&datagram[..15]),
            Err(DatagramError::Short {
                found: 15,
                expected: 16
            })
        );
        assert_eq!(
            decode(&datagram[..63]),
            Err(DatagramError::Length {
                found: 63,
                expected: 64
            })
        );
        let mut other = datagram.clone();
        other.push(0);
        assert_eq!(
            decode(&other),
            Err(DatagramError::Length {
                found: 65,
                expected: 64
            })
        );
        other[1] = 5;
        assert_eq!(
            decode(&other[..16]),
            Err(DatagramError::Version {
                found: 5,
                expected: 1
            })
        );
        other[..4].copy_from_slice(&[0, 1, 0, 25]);
        assert_eq!(
            decode(&other[..16]),
            Err(DatagramError::Count { found: 25, max: 24 })
        );
        other[3] = 0;
        assert_eq!(
            decode(&other[..16]),
            Err(DatagramError::Count { found: 0, max: 24 })
        );
    }

    #[test]
    fn encodes_one_to_twenty_four_records_and_no_others() {
        let mut datagram = [0; DATAGRAM_OCTETS_MAX];
        let records = [Record::default(); 25];
        let refused = |found| Err(EncodeError::RecordCount { found, max: 24 });
        assert_eq!(encode(&Header::default(), &[], &mut datagram), refused(0));
        assert_eq!(
            encode(&Header::default(), &records, &mut datagram),
            refused(25)
        );
        assert_eq!(
            encode(&Header::default(), &records[..24], &mut datagram),
            Ok(DATAGRAM_OCTETS_MAX)
        );
        let expected = EncodeError::Buffer {
            found: 63,
            expected: 64,
        };
        assert_eq!(
            encode(&Header::default(), &records[..1], &mut datagram[..63]),
            Err(expected)
        );
    }
}
