//! A flow record as flow-tools stores it, and its layouts in files.
//!
//! A [`StoredRecord`] has the fields of all three versions, in native integers. In a file each
//! version has a fixed layout in the file's byte order: version 1 has 56 octets that all versions
//! have and four of zero, version 5 has the same 56 and eight more, version 7 has the octets of
//! version 5 and the router's address. Source: flow-tools 0.68, `lib/ftlib.h`, `struct fts3rec_v1`,
//! `_v5` and `_v7`.

use std::net::Ipv4Addr;
use xdprobe_netflow::{Version, v1, v5, v7};
use zerocopy::byteorder::{BigEndian, LittleEndian, U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Length in octets of the longest record in a file, that of version 7.
pub const RECORD_OCTETS_MAX: usize = size_of::<Layout7<BigEndian>>();

const _: () = assert!(size_of::<Layout1<BigEndian>>() == 60);
const _: () = assert!(size_of::<Layout5<BigEndian>>() == 64);
const _: () = assert!(size_of::<Layout7<BigEndian>>() == 68);

/// A flow record, and parts of the header of its datagram.
///
/// Fields that the version lacks are zero. Uptimes are milliseconds modulo 2^32.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct StoredRecord {
    /// UTC seconds when the datagram was sent.
    pub unix_s: u32,
    /// Residual nanoseconds.
    pub unix_ns: u32,
    /// SysUptime when the datagram was sent, in ms.
    pub sys_uptime_ms: u32,
    /// Sender of the datagram; unspecified if it came over IPv6.
    pub exporter: Ipv4Addr,
    /// Source address.
    pub source: Ipv4Addr,
    /// Destination address.
    pub destination: Ipv4Addr,
    /// Next hop router.
    pub next_hop: Ipv4Addr,
    /// ifIndex that the flow came in on.
    pub input: u16,
    /// ifIndex that the flow went out on.
    pub output: u16,
    /// Packets.
    pub packets: u32,
    /// Layer-3 octets.
    pub octets: u32,
    /// SysUptime at the first packet, in ms.
    pub first_ms: u32,
    /// SysUptime at the last packet, in ms.
    pub last_ms: u32,
    /// Source port.
    pub source_port: u16,
    /// Destination port; ICMP type * 256 + code.
    pub destination_port: u16,
    /// IP protocol.
    pub protocol: u8,
    /// IP type of service.
    pub tos: u8,
    /// OR of the TCP flags.
    pub tcp_flags: u8,
    /// Engine type (versions 5 and 7).
    pub engine_type: u8,
    /// Engine id (versions 5 and 7).
    pub engine_id: u8,
    /// Prefix length of the source (versions 5 and 7).
    pub source_mask: u8,
    /// Prefix length of the destination (versions 5 and 7).
    pub destination_mask: u8,
    /// AS of the source (versions 5 and 7).
    pub source_as: u16,
    /// AS of the destination (versions 5 and 7).
    pub destination_as: u16,
    /// Router that the switch short-cuts (version 7).
    pub router: Ipv4Addr,
}

impl Default for StoredRecord {
    fn default() -> Self {
        Self {
            unix_s: 0,
            unix_ns: 0,
            sys_uptime_ms: 0,
            exporter: Ipv4Addr::UNSPECIFIED,
            source: Ipv4Addr::UNSPECIFIED,
            destination: Ipv4Addr::UNSPECIFIED,
            next_hop: Ipv4Addr::UNSPECIFIED,
            input: 0,
            output: 0,
            packets: 0,
            octets: 0,
            first_ms: 0,
            last_ms: 0,
            source_port: 0,
            destination_port: 0,
            protocol: 0,
            tos: 0,
            tcp_flags: 0,
            engine_type: 0,
            engine_id: 0,
            source_mask: 0,
            destination_mask: 0,
            source_as: 0,
            destination_as: 0,
            router: Ipv4Addr::UNSPECIFIED,
        }
    }
}

impl StoredRecord {
    /// One record of a version 1 datagram that `exporter` sent under `header`.
    #[must_use]
    pub fn from_v1(exporter: Ipv4Addr, header: &v1::Header, record: &v1::Record) -> Self {
        Self {
            unix_s: header.unix_s.get(),
            unix_ns: header.unix_ns.get(),
            sys_uptime_ms: header.sys_uptime_ms.get(),
            exporter,
            source: record.source.into(),
            destination: record.destination.into(),
            next_hop: record.next_hop.into(),
            input: record.input.get(),
            output: record.output.get(),
            packets: record.packets.get(),
            octets: record.octets.get(),
            first_ms: record.first_ms.get(),
            last_ms: record.last_ms.get(),
            source_port: record.source_port.get(),
            destination_port: record.destination_port.get(),
            protocol: record.protocol,
            tos: record.tos,
            tcp_flags: record.tcp_flags,
            ..Self::default()
        }
    }

    /// One record of a version 5 datagram that `exporter` sent under `header`.
    #[must_use]
    pub fn from_v5(exporter: Ipv4Addr, header: &v5::Header, record: &v5::Record) -> Self {
        Self {
            unix_s: header.unix_s.get(),
            unix_ns: header.unix_ns.get(),
            sys_uptime_ms: header.sys_uptime_ms.get(),
            exporter,
            source: record.source.into(),
            destination: record.destination.into(),
            next_hop: record.next_hop.into(),
            input: record.input.get(),
            output: record.output.get(),
            packets: record.packets.get(),
            octets: record.octets.get(),
            first_ms: record.first_ms.get(),
            last_ms: record.last_ms.get(),
            source_port: record.source_port.get(),
            destination_port: record.destination_port.get(),
            protocol: record.protocol,
            tos: record.tos,
            tcp_flags: record.tcp_flags,
            engine_type: header.engine_type,
            engine_id: header.engine_id,
            source_mask: record.source_mask,
            destination_mask: record.destination_mask,
            source_as: record.source_as.get(),
            destination_as: record.destination_as.get(),
            router: Ipv4Addr::UNSPECIFIED,
        }
    }

    /// One record of a version 7 datagram that `exporter` sent under `header`.
    #[must_use]
    pub fn from_v7(exporter: Ipv4Addr, header: &v7::Header, record: &v7::Record) -> Self {
        let engine = header.engine();
        Self {
            unix_s: header.unix_s.get(),
            unix_ns: header.unix_ns.get(),
            sys_uptime_ms: header.sys_uptime_ms.get(),
            exporter,
            source: record.source.into(),
            destination: record.destination.into(),
            next_hop: record.next_hop.into(),
            input: record.input.get(),
            output: record.output.get(),
            packets: record.packets.get(),
            octets: record.octets.get(),
            first_ms: record.first_ms.get(),
            last_ms: record.last_ms.get(),
            source_port: record.source_port.get(),
            destination_port: record.destination_port.get(),
            protocol: record.protocol,
            tos: record.tos,
            tcp_flags: record.tcp_flags,
            engine_type: engine.r#type,
            engine_id: engine.id,
            source_mask: record.source_mask,
            destination_mask: record.destination_mask,
            source_as: record.source_as.get(),
            destination_as: record.destination_as.get(),
            router: record.router.into(),
        }
    }

    /// UTC time of uptime `stamp_ms` in ms since 1970: of the times that the stamp can mean, since
    /// the uptime wraps every 49.7 days, the one nearest to the datagram's own.
    ///
    /// So a stamp from before a wrap is in the past, and one that an exporter read after it had
    /// read the header's SysUptime is a little later than the datagram. flow-print computes times
    /// in another way, and so do the formats that are its own.
    #[must_use]
    pub fn unix_ms_of(&self, stamp_ms: u32) -> i64 {
        let sent_ms = i64::from(self.unix_s) * 1000 + i64::from(self.unix_ns / 1_000_000);
        sent_ms + i64::from(nearest_ms(self.sys_uptime_ms, stamp_ms))
    }

    /// Time from the first to the last packet in ms; 0 if the record has them in the other order.
    #[must_use]
    pub fn duration_ms(&self) -> u32 {
        u32::try_from(nearest_ms(self.first_ms, self.last_ms)).unwrap_or(0)
    }

    /// Length in octets of a record of `version` in a file: 60, 64 or 68. On the wire it is
    /// shorter, see [`Version::record_octets`].
    #[must_use]
    pub const fn encoded_octets(version: Version) -> usize {
        match version {
            Version::V1 => size_of::<Layout1<BigEndian>>(),
            Version::V5 => size_of::<Layout5<BigEndian>>(),
            Version::V7 => size_of::<Layout7<BigEndian>>(),
        }
    }

    /// Appends the record to `octets` in the layout of `version`, without the
    /// fields that this version lacks.
    #[inline]
    pub fn encode(&self, version: Version, order: ByteOrder, octets: &mut Vec<u8>) {
        match order {
            ByteOrder::Little => self.encode_in::<LittleEndian>(version, octets),
            ByteOrder::Big => self.encode_in::<BigEndian>(version, octets),
        }
    }

    #[inline]
    fn encode_in<O: zerocopy::ByteOrder>(&self, version: Version, octets: &mut Vec<u8>) {
        let common = Common::<O>::from(self);
        match version {
            Version::V1 => octets.extend_from_slice(
                Layout1 {
                    common,
                    reserved: [0; 4],
                }
                .as_bytes(),
            ),
            Version::V5 => octets.extend_from_slice(
                Layout5 {
                    common,
                    rest: Rest::from(self),
                }
                .as_bytes(),
            ),
            Version::V7 => {
                let layout = Layout7 {
                    common,
                    rest: Rest::from(self),
                    router: u32::from(self.router).into(),
                };
                octets.extend_from_slice(layout.as_bytes());
            }
        }
    }

    /// Reads one record from the front of `octets`; `None` if they are fewer than
    /// [`encoded_octets`](Self::encoded_octets).
    #[must_use]
    #[inline]
    pub fn decode(version: Version, order: ByteOrder, octets: &[u8]) -> Option<Self> {
        match order {
            ByteOrder::Little => Self::decode_in::<LittleEndian>(version, octets),
            ByteOrder::Big => Self::decode_in::<BigEndian>(version, octets),
        }
    }

    #[inline]
    fn decode_in<O: zerocopy::ByteOrder>(version: Version, octets: &[u8]) -> Option<Self> {
        match version {
            Version::V1 => Layout1::<O>::ref_from_prefix(octets)
                .ok()
                .map(|(layout, _)| layout.common.to_record()),
            Version::V5 => {
                let (layout, _) = Layout5::<O>::ref_from_prefix(octets).ok()?;
                Some(layout.rest.fill(layout.common.to_record()))
            }
            Version::V7 => {
                let (layout, _) = Layout7::<O>::ref_from_prefix(octets).ok()?;
                let record = layout.rest.fill(layout.common.to_record());
                Some(Self {
                    router: layout.router.get().into(),
                    ..record
                })
            }
        }
    }
}

/// Time from uptime `from_ms` to uptime `to_ms` in ms, up to 24.8 days in each direction.
fn nearest_ms(from_ms: u32, to_ms: u32) -> i32 {
    to_ms.wrapping_sub(from_ms).cast_signed()
}

/// The order of octets in every integer of a file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ByteOrder {
    /// Least significant octet first.
    Little,
    /// Most significant octet first.
    Big,
}

impl ByteOrder {
    /// This machine's order, the default of flow-tools.
    pub const NATIVE: Self = if cfg!(target_endian = "little") {
        Self::Little
    } else {
        Self::Big
    };
}

/// Fields of all versions, 56 octets. Addresses are integers, because they follow the file's byte
/// order too.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Common<O> {
    unix_s: U32<O>,
    unix_ns: U32<O>,
    sys_uptime_ms: U32<O>,
    exporter: U32<O>,
    source: U32<O>,
    destination: U32<O>,
    next_hop: U32<O>,
    input: U16<O>,
    output: U16<O>,
    packets: U32<O>,
    octets: U32<O>,
    first_ms: U32<O>,
    last_ms: U32<O>,
    source_port: U16<O>,
    destination_port: U16<O>,
    protocol: u8,
    tos: u8,
    tcp_flags: u8,
    pad: u8,
}

/// Fields of versions 5 and 7, 8 octets.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Rest<O> {
    engine_type: u8,
    engine_id: u8,
    source_mask: u8,
    destination_mask: u8,
    source_as: U16<O>,
    destination_as: U16<O>,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Layout1<O> {
    common: Common<O>,
    reserved: [u8; 4],
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Layout5<O> {
    common: Common<O>,
    rest: Rest<O>,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Layout7<O> {
    common: Common<O>,
    rest: Rest<O>,
    router: U32<O>,
}

impl<O: zerocopy::ByteOrder> From<&StoredRecord> for Common<O> {
    #[inline]
    fn from(record: &StoredRecord) -> Self {
        Self {
            unix_s: record.unix_s.into(),
            unix_ns: record.unix_ns.into(),
            sys_uptime_ms: record.sys_uptime_ms.into(),
            exporter: u32::from(record.exporter).into(),
            source: u32::from(record.source).into(),
            destination: u32::from(record.destination).into(),
            next_hop: u32::from(record.next_hop).into(),
            input: record.input.into(),
            output: record.output.into(),
            packets: record.packets.into(),
            octets: record.octets.into(),
            first_ms: record.first_ms.into(),
            last_ms: record.last_ms.into(),
            source_port: record.source_port.into(),
            destination_port: record.destination_port.into(),
            protocol: record.protocol,
            tos: record.tos,
            tcp_flags: record.tcp_flags,
            pad: 0,
        }
    }
}

impl<O: zerocopy::ByteOrder> Common<O> {
    #[inline]
    fn to_record(self) -> StoredRecord {
        StoredRecord {
            unix_s: self.unix_s.get(),
            unix_ns: self.unix_ns.get(),
            sys_uptime_ms: self.sys_uptime_ms.get(),
            exporter: self.exporter.get().into(),
            source: self.source.get().into(),
            destination: self.destination.get().into(),
            next_hop: self.next_hop.get().into(),
            input: self.input.get(),
            output: self.output.get(),
            packets: self.packets.get(),
            octets: self.octets.get(),
            first_ms: self.first_ms.get(),
            last_ms: self.last_ms.get(),
            source_port: self.source_port.get(),
            destination_port: self.destination_port.get(),
            protocol: self.protocol,
            tos: self.tos,
            tcp_flags: self.tcp_flags,
            ..StoredRecord::default()
        }
    }
}

impl<O: zerocopy::ByteOrder> From<&StoredRecord> for Rest<O> {
    #[inline]
    fn from(record: &StoredRecord) -> Self {
        Self {
            engine_type: record.engine_type,
            engine_id: record.engine_id,
            source_mask: record.source_mask,
            destination_mask: record.destination_mask,
            source_as: record.source_as.into(),
            destination_as: record.destination_as.into(),
        }
    }
}

impl<O: zerocopy::ByteOrder> Rest<O> {
    #[inline]
    fn fill(self, record: StoredRecord) -> StoredRecord {
        StoredRecord {
            engine_type: self.engine_type,
            engine_id: self.engine_id,
            source_mask: self.source_mask,
            destination_mask: self.destination_mask,
            source_as: self.source_as.get(),
            destination_as: self.destination_as.get(),
            ..record
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn octets_of(record: &StoredRecord, version: Version, order: ByteOrder) -> Vec<u8> {
        let mut octets = Vec::new();
        record.encode(version, order, &mut octets);
        octets
    }

    /// The first record of a file that flow-capture wrote on a little-endian machine, and what
    /// flow-export printed for it.
    #[test]
    fn reads_a_record_of_the_real_flow_capture() {
        #[rustfmt::skip]
        const OCTETS: [u8; 64] = [
            0x18, 0xe6, 0x02, 0x6b, 0xa0, 0xe4, 0x44, 0x0e, 0x02, 0x00, 0x00, 0x00,
            0x01, 0x00, 0x00, 0x7f, 0x10, 0x05, 0xa8, 0xc0, 0x85, 0xfd, 0xe9, 0x44,
            0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0x00, 0x00, 0x00,
            0x62, 0x00, 0x00, 0x00, 0xce, 0xc1, 0xb9, 0x45, 0x3e, 0x1b, 0xba, 0x45,
            0x65, 0xd1, 0x50, 0x00, 0x06, 0x00, 0x15, 0x00, 0x00, 0x00, 0x00, 0x00,
            0x00, 0x00, 0x00, 0x00,
        ];
        let record = StoredRecord::decode(Version::V5, ByteOrder::Little, &OCTETS).unwrap();
        let expected = StoredRecord {
            unix_s: 1_795_352_088,
            unix_ns: 239_396_000,
            sys_uptime_ms: 2,
            exporter: Ipv4Addr::LOCALHOST,
            source: [192, 168, 5, 16].into(),
            destination: [68, 233, 253, 133].into(),
            packets: 2,
            octets: 98,
            first_ms: 1_169_801_678,
            last_ms: 1_169_824_574,
            source_port: 53605,
            destination_port: 80,
            protocol: 6,
            tcp_flags: 21,
            ..StoredRecord::default()
        };
        assert_eq!(record, expected);
        assert_eq!(octets_of(&record, Version::V5, ByteOrder::Little), OCTETS);
    }

    #[test]
    fn stamps_from_before_the_wrap_of_the_uptime_are_in_the_past() {
        let record = StoredRecord {
            unix_s: 100,
            unix_ns: 5_999_999,
            sys_uptime_ms: 10,
            ..StoredRecord::default()
        };
        assert_eq!(record.unix_ms_of(10), 100_005);
        assert_eq!(record.unix_ms_of(0), 99_995);
        assert_eq!(record.unix_ms_of(u32::MAX), 99_994);
    }

    #[test]
    fn stamps_after_the_uptime_of_their_datagram_are_a_little_later_than_it() {
        let record = StoredRecord {
            unix_s: 100,
            sys_uptime_ms: u32::MAX - 1,
            ..StoredRecord::default()
        };
        assert_eq!(record.unix_ms_of(u32::MAX), 100_001);
        // The uptime wraps in between.
        assert_eq!(record.unix_ms_of(3), 100_005);
        assert_eq!(record.unix_ms_of(record.sys_uptime_ms - 20), 99_980);
    }

    #[test]
    fn durations_are_never_negative_nor_wrapped() {
        let duration = |first_ms, last_ms| {
            StoredRecord {
                first_ms,
                last_ms,
                ..StoredRecord::default()
            }
            .duration_ms()
        };
        assert_eq!(duration(100, 142), 42);
        assert_eq!(duration(100, 100), 0);
        assert_eq!(duration(100, 42), 0);
        assert_eq!(duration(u32::MAX, 9), 10);
        assert_eq!(duration(9, u32::MAX), 0);
        assert_eq!(duration(0, 0x7fff_ffff), 0x7fff_ffff);
        assert_eq!(duration(0, 0x8000_0000), 0);
    }

    proptest! {
        #[test]
        fn decoding_undoes_encoding(
            octets in proptest::collection::vec(any::<u8>(), RECORD_OCTETS_MAX),
            little: bool,
        ) {
            let order = if little { ByteOrder::Little } else { ByteOrder::Big };
            for version in Version::ALL {
                let record = StoredRecord::decode(version, order, &octets).unwrap();
                let again = octets_of(&record, version, order);
                prop_assert_eq!(again.len(), StoredRecord::encoded_octets(version));
                prop_assert_eq!(StoredRecord::decode(version, order, &again), Some(record));
                prop_assert_eq!(StoredRecord::decode(version, order, &again[1..]), None);
            }
        }
    }
}
