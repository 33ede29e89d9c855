//! NetFlow version 7 on the wire: a 24-octet header and 1 to 27 records of 52 octets, all integers
//! big-endian.
//!
//! What Catalyst 5000 switches sent: version 5 with the address of the router that the switch
//! short-cuts, and no engine. The structures are the wire format, as in [`v5`](crate::v5). Source:
//! Cisco, *NetFlow Export Datagram Format*, tables B-5 and B-6; the limit of 27 records is
//! flow-tools'.

use crate::wire::{self, DatagramError, EncodeError};
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
    /// Zero. Some exporters put an engine type and id in the first two octets, as version 5 does.
    pub reserved: [u8; 4],
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
    /// Which fields a switch's flow mask left out; zero where all are valid.
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
    /// Which fields are invalid; write 0.
    pub flags2: U16,
    /// Address of the router that the switch short-cuts.
    pub router: [u8; 4],
}

/// The header and records of a version 7 datagram, as views of its octets.
///
/// # Errors
///
/// [`DatagramError`] where the octets are anything but one header and exactly its count of records;
/// nothing is guessed.
pub fn decode(datagram: &[u8]) -> Result<(&Header, &[Record]), DatagramError> {
    wire::decode(datagram, VERSION, RECORDS_MAX)
}

/// Encodes one datagram into `datagram` and returns its length in octets: `24 + 52 *
/// records.len()`.
///
/// Version and count of `header` are written as they must be, whatever it says.
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
        datagram[..4].copy_from_slice(&[0, 7, 0, 1]);
        datagram
    }

    #[test]
    fn every_field_is_at_its_offset() {
        let datagram = counted();
        let (header, records) = decode(&datagram).unwrap();
        assert_eq!(
            (header.flow_sequence.get(), header.reserved),
            (0x1011_1213, [20, 21, 22, 23])
        );
        let record = &records[0];
        assert_eq!(
            (record.source, record.router),
            ([24, 25, 26, 27], [72, 73, 74, 75])
        );
        assert_eq!((record.input.get(), record.output.get()), (0x2425, 0x2627));
        assert_eq!(
            (record.tcp_flags, record.protocol, record.tos),
            (24 + 37, 24 + 38, 24 + 39)
        );
        assert_eq!(
            (record.source_as.get(), record.destination_as.get()),
            (0x4041, 0x4243)
        );
        assert_eq!(
            (record.source_mask, record.destination_mask),
            (24 + 44, 24 + 45)
        );
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

    proptest! {
        #[test]
        fn decoding_undoes_encoding(header in any_octets::<Header>(), records in vec(any_octets::<Record>(), 1..=27)) {
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
