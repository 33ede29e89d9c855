//! NetFlow version 1 on the wire: a 16-octet header and 1 to 24 records of 48 octets, all integers
//! big-endian.
//!
//! The first version: no sequence, no engine, no masks or AS numbers. The structures are the wire
//! format, as in [`v5`](crate::v5). Source: Cisco, *NetFlow Export Datagram Format*, tables B-1 and
//! B-2.

use crate::wire::{self, DatagramError, EncodeError};
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
/// [`DatagramError`] where the octets are anything but one header and exactly its count of records;
/// nothing is guessed.
pub fn decode(datagram: &[u8]) -> Result<(&Header, &[Record]), DatagramError> {
    wire::decode(datagram, VERSION, RECORDS_MAX)
}

/// Encodes one datagram into `datagram` and returns its length in octets: `16 + 48 *
/// records.len()`.
///
/// Version and count of `header` are written as they must be, whatever it says.
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
    wire::encode(header, records, datagram, VERSION, RECORDS_MAX)
}

/// Places `records` behind the `count` records that `datagram` already holds.
///
/// # Panics
///
/// If `datagram` is too short for them.
#[inline]
pub fn append(datagram: &mut [u8], count: usize, records: impl IntoIterator<Item = Record>) {
    wire::append::<Header, Record>(datagram, count, records);
}

/// Writes the header in front of `count` records and returns the length of the datagram in octets.
///
/// # Panics
///
/// If `datagram` is shorter than a header.
pub fn finish(datagram: &mut [u8], header: &Header, count: u16) -> usize {
    wire::finish::<Header, Record>(datagram, header, VERSION, count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn any_octets<T: FromBytes + std::fmt::Debug>() -> impl Strategy<Value = T> {
        vec(any::<u8>(), size_of::<T>()).prop_map(|octets| T::read_from_bytes(&octets).unwrap())
    }

    /// One record, each of whose octets is its own offset in the datagram.
    fn counted() -> Vec<u8> {
        let mut datagram: Vec<u8> =
            (0..u8::try_from(HEADER_OCTETS + RECORD_OCTETS).unwrap()).collect();
        datagram[..4].copy_from_slice(&[0, 1, 0, 1]);
        datagram
    }

    #[test]
    fn every_field_is_at_its_offset() {
        let datagram = counted();
        let (header, records) = decode(&datagram).unwrap();
        assert_eq!(
            (header.sys_uptime_ms.get(), header.unix_s.get()),
            (0x0405_0607, 0x0809_0a0b)
        );
        assert_eq!(header.unix_ns.get(), 0x0c0d_0e0f);
        let record = &records[0];
        assert_eq!(
            (record.source, record.destination),
            ([16, 17, 18, 19], [20, 21, 22, 23])
        );
        assert_eq!(
            (record.packets.get(), record.octets.get()),
            (0x2021_2223, 0x2425_2627)
        );
        assert_eq!(
            (record.source_port.get(), record.destination_port.get()),
            (0x3031, 0x3233)
        );
        assert_eq!(
            (record.protocol, record.tos, record.tcp_flags),
            (16 + 38, 16 + 39, 16 + 40)
        );
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

    proptest! {
        #[test]
        fn decoding_undoes_encoding(header in any_octets::<Header>(), records in vec(any_octets::<Record>(), 1..=24)) {
            let mut datagram = [0; DATAGRAM_OCTETS_MAX];
            let octets = encode(&header, &records, &mut datagram).unwrap();
            let (found, found_records) = decode(&datagram[..octets]).unwrap();
            prop_assert_eq!(usize::from(found.count.get()), records.len());
            let count = found.count;
            prop_assert_eq!(found, &Header { version: VERSION.into(), count, ..header });
            prop_assert_eq!(found_records, &records[..]);
        }

        #[test]
        fn no_octets_panic(octets in vec(any::<u8>(), 0..2000)) {
            let _ = decode(&octets);
        }
    }
}
