//! NetFlow version 7 on the wire: a 24-octet header and 1 to 27 records of 52 octets, all integers
//! big-endian.
//!
//! The version of Catalyst 5000 switches: version 5 with the address of the router that the switch
//! short-cuts, and without an engine. [`Header`] and [`Record`] are the layout, as in version 5.
//! Source: Cisco, *NetFlow Export Datagram Format*, tables B-5 and B-6; the limit of 27 records is
//! flow-tools'.

use crate::engine::Engine;
use crate::layout::{self, DatagramError, EncodeError, Layout, Opening};
use std::mem::offset_of;
use zerocopy::byteorder::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The number that opens every version 7 datagram.
pub const VERSION: u16 = 7;
/// Length of the header in octets.
pub const HEADER_OCTETS: usize = 24;
/// Length of a record in octets.
pub const RECORD_OCTETS: usize = 52;
/// The most records that one datagram carries.
pub const RECORDS_MAX: usize = 27;
/// Length of the longest datagram: 24 + 27 * 52 octets of UDP payload.
pub const DATAGRAM_OCTETS_MAX: usize = HEADER_OCTETS + RECORDS_MAX * RECORD_OCTETS;

const _: () = assert!(size_of::<Header>() == HEADER_OCTETS);
const _: () = assert!(size_of::<Record>() == RECORD_OCTETS);
const _: () = assert!(offset_of!(Header, version) == offset_of!(Opening, version));
const _: () = assert!(offset_of!(Header, count) == offset_of!(Opening, count));

/// A version 7 header.
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
    /// Records that follow, 1 to 27.
    pub count: U16,
    /// SysUptime: ms modulo 2^32 at the moment of export.
    pub sys_uptime_ms: U32,
    /// UTC seconds at the same moment.
    pub unix_s: U32,
    /// Residual nanoseconds, 0 to 999 999 999.
    pub unix_ns: U32,
    /// Records sent before this datagram, modulo 2^32.
    pub flow_sequence: U32,
    /// Zero. Some exporters put an engine type and id in the first two octets, as in version 5: see
    /// [`engine`](Self::engine).
    pub reserved: [u8; 4],
}

impl Header {
    /// The engine that the header names, as some exporters have it in the reserved octets; 0:0 for
    /// those that leave them zero.
    #[must_use]
    pub const fn engine(&self) -> Engine {
        let [r#type, id, ..] = self.reserved;
        Engine { r#type, id }
    }
}

impl Layout for Header {
    type Record = Record;
    const VERSION: u16 = VERSION;
    const RECORDS_MAX: usize = RECORDS_MAX;
}

/// A version 7 record.
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
    /// Fields that the switch's flow mask left out; zero if all fields are valid.
    pub flags1: u8,
    /// OR of the TCP flags.
    pub tcp_flags: u8,
    /// IP protocol.
    pub protocol: u8,
    /// IP type of service.
    pub tos: u8,
    /// AS of the source.
    pub source_as: U16,
    /// AS of the destination.
    pub destination_as: U16,
    /// Prefix length of the source.
    pub source_mask: u8,
    /// Prefix length of the destination.
    pub destination_mask: u8,
    /// Fields that are invalid; exporters write zero.
    pub flags2: U16,
    /// Address of the router that the switch short-cuts.
    pub router: [u8; 4],
}

/// The header and records of a version 7 datagram, as views of its octets.
///
/// # Errors
///
/// [`DatagramError`] if the octets are not one header and exactly its count of records.
pub fn decode(datagram: &[u8]) -> Result<(&Header, &[Record]), DatagramError> {
    layout::decode(datagram)
}

/// Encodes one datagram into `datagram` and returns its length in octets.
///
/// `datagram` must hold [`HEADER_OCTETS`] and [`RECORD_OCTETS`] for each of the 1 to 27 `records`;
/// only that prefix is written. Version and count are set here, whatever `header` has in them.
///
/// # Errors
///
/// [`EncodeError::RecordCount`] if `records` is empty or longer than 27, [`EncodeError::Buffer`] if
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
        datagram[..4].copy_from_slice(&[0, 7, 0, 1]);
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
            flow_sequence: 0x1011_1213.into(),
            reserved: [20, 21, 22, 23],
        };
        let record = Record {
            source: [24, 25, 26, 27],
            destination: [28, 29, 30, 31],
            next_hop: [32, 33, 34, 35],
            input: 0x2425.into(),
            output: 0x2627.into(),
            packets: 0x2829_2a2b.into(),
            octets: 0x2c2d_2e2f.into(),
            first_ms: 0x3031_3233.into(),
            last_ms: 0x3435_3637.into(),
            source_port: 0x3839.into(),
            destination_port: 0x3a3b.into(),
            flags1: 60,
            tcp_flags: 61,
            protocol: 62,
            tos: 63,
            source_as: 0x4041.into(),
            destination_as: 0x4243.into(),
            source_mask: 68,
            destination_mask: 69,
            flags2: 0x4647.into(),
            router: [72, 73, 74, 75],
        };
        let datagram = counted();
        assert_eq!(decode(&datagram), Ok((&header, &[record][..])));
        let mut again = vec![0; datagram.len()];
        assert_eq!(encode(&header, &[record], &mut again), Ok(datagram.len()));
        assert_eq!(again, datagram);
        assert_eq!(header.engine(), Engine { r#type: 20, id: 21 });
    }

    #[test]
    fn refuses_what_is_not_one_header_and_its_records() {
        let datagram = counted();
        assert_eq!(
            decode(&datagram[..23]),
            Err(DatagramError::Short {
                found: 23,
                expected: 24
            })
        );
        assert_eq!(
            decode(&datagram[..75]),
            Err(DatagramError::Length {
                found: 75,
                expected: 76
            })
        );
        let mut other = datagram.clone();
        other.push(0);
        assert_eq!(
            decode(&other),
            Err(DatagramError::Length {
                found: 77,
                expected: 76
            })
        );
        other[1] = 5;
        assert_eq!(
            decode(&other[..24]),
            Err(DatagramError::Version {
                found: 5,
                expected: 7
            })
        );
        other[..4].copy_from_slice(&[0, 7, 0, 28]);
        assert_eq!(
            decode(&other[..24]),
            Err(DatagramError::Count { found: 28, max: 27 })
        );
        other[3] = 0;
        assert_eq!(
            decode(&other[..24]),
            Err(DatagramError::Count { found: 0, max: 27 })
        );
    }

    #[test]
    fn encodes_one_to_twenty_seven_records_and_no_others() {
        let mut datagram = [0; DATAGRAM_OCTETS_MAX];
        let records = [Record::default(); 28];
        let refused = |found| Err(EncodeError::RecordCount { found, max: 27 });
        assert_eq!(encode(&Header::default(), &[], &mut datagram), refused(0));
        assert_eq!(
            encode(&Header::default(), &records, &mut datagram),
            refused(28)
        );
        assert_eq!(
            encode(&Header::default(), &records[..27], &mut datagram),
            Ok(DATAGRAM_OCTETS_MAX)
        );
        let expected = EncodeError::Buffer {
            found: 75,
            expected: 76,
        };
        assert_eq!(
            encode(&Header::default(), &records[..1], &mut datagram[..75]),
            Err(expected)
        );
    }
}
