//! NetFlow version 5 on the wire: a 24-octet header and 1 to 30 records of 48 octets, all integers
//! big-endian.
//!
//! [`Header`] and [`Record`] are the layout: their fields have the order and the byte order of the
//! wire, so that decoding is a view of the datagram's octets. Source: Cisco, *NetFlow Export
//! Datagram Format*, tables B-3 and B-4.

use crate::engine::Engine;
use crate::layout::{self, DatagramError, EncodeError, Layout, Opening};
use std::mem::offset_of;
use zerocopy::byteorder::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The number that opens every version 5 datagram.
pub const VERSION: u16 = 5;
/// Length of the header in octets.
pub const HEADER_OCTETS: usize = 24;
/// Length of a record in octets.
pub const RECORD_OCTETS: usize = 48;
/// The most records that one datagram carries.
pub const RECORDS_MAX: usize = 30;
/// Length of the longest datagram: 24 + 30 * 48 octets of UDP payload.
pub const DATAGRAM_OCTETS_MAX: usize = HEADER_OCTETS + RECORDS_MAX * RECORD_OCTETS;

const _: () = assert!(size_of::<Header>() == HEADER_OCTETS);
const _: () = assert!(size_of::<Record>() == RECORD_OCTETS);
const _: () = assert!(offset_of!(Header, version) == offset_of!(Opening, version));
const _: () = assert!(offset_of!(Header, count) == offset_of!(Opening, count));

/// A version 5 header.
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
    /// Records that follow, 1 to 30.
    pub count: U16,
    /// SysUptime: ms modulo 2^32 at the moment of export.
    pub sys_uptime_ms: U32,
    /// UTC seconds at the same moment.
    pub unix_s: U32,
    /// Residual nanoseconds, 0 to 999 999 999.
    pub unix_ns: U32,
    /// Records sent in this sequence space before this datagram, modulo 2^32.
    pub flow_sequence: U32,
    /// Engine type.
    pub engine_type: u8,
    /// Engine id. The exporter's address, engine type and engine id name one sequence space.
    pub engine_id: u8,
    /// A [`SamplingInterval`]; 0 = not sampled.
    pub sampling: U16,
}

impl Header {
    /// The engine that the header names.
    #[must_use]
    pub const fn engine(&self) -> Engine {
        Engine {
            r#type: self.engine_type,
            id: self.engine_id,
        }
    }
}

impl Layout for Header {
    type Record = Record;
    const VERSION: u16 = VERSION;
    const RECORDS_MAX: usize = RECORDS_MAX;
}

/// A version 5 record.
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
    pub pad1: u8,
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
    /// Zero.
    pub pad2: U16,
}

/// The sampling field of a header: a mode in the top 2 bits and, in the low 14, the interval N of
/// "one of N packets was metered".
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct SamplingInterval(u16);

/// How packets are selected. The discriminant is the number in the sampling field.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SamplingMode {
    /// Not given.
    None = 0,
    /// Every Nth packet.
    Deterministic = 1,
    /// Each packet with a probability of 1 in N.
    Random = 2,
}

impl SamplingInterval {
    /// The largest interval that the field holds, in 14 bits.
    pub const INTERVAL_MAX: u16 = 0x3fff;
    /// Bits of the interval, below those of the mode.
    const INTERVAL_BITS: u32 = Self::INTERVAL_MAX.trailing_ones();

    /// One of `interval` packets was metered; an interval of 1 is no sampling. `None` if `interval`
    /// is 0 or above [`INTERVAL_MAX`](Self::INTERVAL_MAX).
    #[must_use]
    pub fn new(mode: SamplingMode, interval: u32) -> Option<Self> {
        let interval = u16::try_from(interval)
            .ok()
            .filter(|interval| (1..=Self::INTERVAL_MAX).contains(interval))?;
        Some(if interval == 1 {
            Self::default()
        } else {
            Self((mode as u16) << Self::INTERVAL_BITS | interval)
        })
    }

    /// The value of a header's field, which may be one that [`new`](Self::new) never makes.
    #[must_use]
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    /// The value for the header's field.
    #[must_use]
    pub const fn to_bits(self) -> u16 {
        self.0
    }

    /// The mode; `None` for number 3, which has no meaning.
    #[must_use]
    pub const fn mode(self) -> Option<SamplingMode> {
        match self.0 >> Self::INTERVAL_BITS {
            0 => Some(SamplingMode::None),
            1 => Some(SamplingMode::Deterministic),
            2 => Some(SamplingMode::Random),
            _ => None,
        }
    }

    /// The interval; 0 = not sampled.
    #[must_use]
    pub const fn interval(self) -> u16 {
        self.0 & Self::INTERVAL_MAX
    }
}

/// The header and records of a version 5 datagram, as views of its octets.
///
/// # Errors
///
/// [`DatagramError`] if the octets are not one header and exactly its count of records.
pub fn decode(datagram: &[u8]) -> Result<(&Header, &[Record]), DatagramError> {
    layout::decode(datagram)
}

/// Encodes one datagram into `datagram` and returns its length in octets.
///
/// `datagram` must hold [`HEADER_OCTETS`] and [`RECORD_OCTETS`] for each of the 1 to 30 `records`;
/// only that prefix is written. Version and count are set here, whatever `header` has in them.
///
/// # Errors
///
/// [`EncodeError::RecordCount`] if `records` is empty or longer than 30, [`EncodeError::Buffer`] if
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

    /// What ng_netflow 0.1 sent for one ICMP packet of 84 octets from 192.168.1.2 to 192.168.1.1 in
    /// January 2004.
    #[rustfmt::skip]
    const SEED: [u8; 72] = [
        0x00, 0x05, 0x00, 0x01, 0x00, 0x00, 0x03, 0xc5, 0x3f, 0xfe, 0xa9, 0x8c,
        0x00, 0x04, 0xdf, 0x9c, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0xc0, 0xa8, 0x01, 0x02, 0xc0, 0xa8, 0x01, 0x01, 0x00, 0x00, 0x00, 0x00,
        0x00, 0x01, 0x00, 0x01, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, 0x54,
        0x00, 0x00, 0x03, 0xb2, 0x00, 0x00, 0x03, 0xb2, 0x00, 0x00, 0x00, 0x00,
        0x00, 0x00, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x18, 0x18, 0x00, 0x00,
    ];

    #[test]
    fn decodes_the_seed_datagram_and_encodes_it_again() {
        let (header, records) = decode(&SEED).unwrap();
        let expected_header = Header {
            version: 5.into(),
            count: 1.into(),
            sys_uptime_ms: 965.into(),
            unix_s: 1_073_654_156.into(),
            unix_ns: 319_388.into(),
            flow_sequence: 0.into(),
            engine_type: 0,
            engine_id: 0,
            sampling: 0.into(),
        };
        let expected_record = Record {
            source: [192, 168, 1, 2],
            destination: [192, 168, 1, 1],
            next_hop: [0; 4],
            input: 1.into(),
            output: 1.into(),
            packets: 1.into(),
            octets: 84.into(),
            first_ms: 946.into(),
            last_ms: 946.into(),
            source_port: 0.into(),
            destination_port: 0.into(),
            pad1: 0,
            tcp_flags: 0,
            protocol: 1,
            tos: 0,
            source_as: 0.into(),
            destination_as: 0.into(),
            source_mask: 24,
            destination_mask: 24,
            pad2: 0.into(),
        };
        assert_eq!(
            (header, records),
            (&expected_header, &[expected_record][..])
        );
        assert_eq!(header.engine(), Engine::default());
        let mut again = [0; SEED.len()];
        assert_eq!(
            encode(&expected_header, &[expected_record], &mut again),
            Ok(SEED.len())
        );
        assert_eq!(again, SEED);
    }

    #[test]
    fn refuses_what_is_not_one_header_and_its_records() {
        assert_eq!(
            decode(&SEED[..23]),
            Err(DatagramError::Short {
                found: 23,
                expected: 24
            })
        );
        assert_eq!(
            decode(&SEED[..71]),
            Err(DatagramError::Length {
                found: 71,
                expected: 72
            })
        );
        let long: Vec<u8> = SEED.iter().copied().chain([0]).collect();
        assert_eq!(
            decode(&long),
            Err(DatagramError::Length {
                found: 73,
                expected: 72
            })
        );
        let mut other = SEED;
        other[1] = 9;
        assert_eq!(
            decode(&other),
            Err(DatagramError::Version {
                found: 9,
                expected: 5
            })
        );
        other = SEED;
        other[3] = 31;
        assert_eq!(
            decode(&other),
            Err(DatagramError::Count { found: 31, max: 30 })
        );
        other[3] = 0;
        assert_eq!(
            decode(&other),
            Err(DatagramError::Count { found: 0, max: 30 })
        );
    }

    #[test]
    fn encodes_one_to_thirty_records_and_no_others() {
        let mut datagram = [0; DATAGRAM_OCTETS_MAX];
        let records = [Record::default(); 31];
        assert_eq!(
            encode(&Header::default(), &[], &mut datagram),
            Err(EncodeError::RecordCount { found: 0, max: 30 })
        );
        assert_eq!(
            encode(&Header::default(), &records, &mut datagram),
            Err(EncodeError::RecordCount { found: 31, max: 30 })
        );
        assert_eq!(
            encode(&Header::default(), &records[..30], &mut datagram),
            Ok(DATAGRAM_OCTETS_MAX)
        );
        let expected = EncodeError::Buffer {
            found: 71,
            expected: 72,
        };
        assert_eq!(
            encode(&Header::default(), &records[..1], &mut datagram[..71]),
            Err(expected)
        );
    }

    #[test]
    fn sampling_has_two_bits_of_mode_and_fourteen_of_interval() {
        use SamplingMode::{Deterministic, None as NotGiven, Random};
        for (mode, interval, bits) in [
            (NotGiven, 100, 100),
            (Deterministic, 100, 0x4064),
            (Random, 16_383, 0xbfff),
        ] {
            let sampling = SamplingInterval::new(mode, interval.into()).unwrap();
            assert_eq!(sampling.to_bits(), bits);
            assert_eq!(SamplingInterval::from_bits(bits), sampling);
            assert_eq!(
                (sampling.mode(), sampling.interval()),
                (Some(mode), interval)
            );
        }
        assert_eq!(
            SamplingInterval::new(Random, 1),
            Some(SamplingInterval::default())
        );
        assert_eq!(SamplingInterval::new(Random, 0), None);
        assert_eq!(SamplingInterval::new(Random, 16_384), None);
        assert_eq!(SamplingInterval::from_bits(0xc005).mode(), None);
    }
}
