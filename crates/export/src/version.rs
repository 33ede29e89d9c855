//! NetFlow versions as an operator chooses them: each with its own record, header and limit.

use crate::collector::Engine;
use crate::details::DetailedRecord;
use crate::exporter::Moment;
use crate::wire::DATAGRAM_OCTETS_MAX;
use crate::{v1, v5, v7};
use std::str::FromStr;
use xdprobe_flow::Volume;
use zerocopy::IntoBytes;

/// A version of NetFlow that can be exported.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Version {
    /// No sequence, no engine: 24 records.
    V1,
    /// What everybody reads: 30 records.
    #[default]
    V5,
    /// Version 5 with a router's address: 27 records.
    V7,
}

/// What a header says beside its version.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heading {
    pub count: usize,
    pub moment: Moment,
    pub sequence: u32,
    pub engine: Engine,
    pub sampling: v5::Sampling,
}

/// Where versions 5 and 7 carry the sequence.
const SEQUENCE: std::ops::Range<usize> = 16..20;
/// Where every version carries the count, in the header, and packets and octets, in each record.
const COUNT: std::ops::Range<usize> = 2..4;
const PACKETS: usize = 16;
const OCTETS: usize = 20;

impl Version {
    /// The number that opens its datagrams.
    #[must_use]
    pub const fn number(self) -> u16 {
        match self {
            Self::V1 => v1::VERSION,
            Self::V5 => v5::VERSION,
            Self::V7 => v7::VERSION,
        }
    }

    /// The most records of one datagram, whatever the way carries.
    #[must_use]
    pub const fn records_max(self) -> usize {
        match self {
            Self::V1 => v1::RECORDS_MAX,
            Self::V5 => v5::RECORDS_MAX,
            Self::V7 => v7::RECORDS_MAX,
        }
    }

    /// Length of a header in octets.
    #[must_use]
    pub const fn header_octets(self) -> usize {
        match self {
            Self::V1 => v1::HEADER_OCTETS,
            Self::V5 => v5::HEADER_OCTETS,
            Self::V7 => v7::HEADER_OCTETS,
        }
    }

    /// Length of a record in octets.
    #[must_use]
    pub const fn record_octets(self) -> usize {
        match self {
            Self::V1 => v1::RECORD_OCTETS,
            Self::V5 => v5::RECORD_OCTETS,
            Self::V7 => v7::RECORD_OCTETS,
        }
    }

    /// Length of a datagram of `count` records, in octets.
    #[must_use]
    pub const fn datagram_octets(self, count: usize) -> usize {
        self.header_octets() + count * self.record_octets()
    }

    /// How many records fit a payload of so many octets: 0 if none does, and never above the
    /// version's own limit.
    #[must_use]
    pub fn records_in(self, payload_octets: usize) -> usize {
        (payload_octets.saturating_sub(self.header_octets()) / self.record_octets())
            .min(self.records_max())
    }

    /// Writes `records` into a datagram that holds `before` of them; there is room.
    #[inline]
    pub(crate) fn write_records(
        self,
        records: &[DetailedRecord],
        before: usize,
        datagram: &mut [u8; DATAGRAM_OCTETS_MAX],
    ) {
        let room = &mut datagram[self.datagram_octets(before)..];
        match self {
            Self::V1 => write_each::<v1::Record>(records, room),
            Self::V5 => write_each::<v5::Record>(records, room),
            Self::V7 => write_each::<v7::Record>(records, room),
        }
    }

    /// Writes a header to the front of a datagram.
    pub(crate) fn write_header(self, heading: &Heading, datagram: &mut [u8; DATAGRAM_OCTETS_MAX]) {
        const NS_PER_S: u64 = 1_000_000_000;
        let Heading {
            moment,
            sequence,
            engine,
            sampling,
            ..
        } = *heading;
        let count = count_on_the_wire(heading.count).into();
        let sys_uptime_ms = v5::uptime_on_the_wire(moment.uptime_ms).into();
        // Unsigned 32-bit seconds last until 2106.
        let unix_s = u32::try_from(moment.unix_ns / NS_PER_S)
            .unwrap_or(u32::MAX)
            .into();
        let unix_ns = u32::try_from(moment.unix_ns % NS_PER_S).unwrap_or(0).into();
        let (version, flow_sequence) = (self.number().into(), sequence.into());
        let front = &mut datagram[..self.header_octets()];
        match self {
            Self::V1 => {
                front.copy_from_slice(
                    v1::Header {
                        version,
                        count,
                        sys_uptime_ms,
                        unix_s,
                        unix_ns,
                    }
                    .as_bytes(),
                );
            }
            Self::V5 => {
                let (engine_type, engine_id) = (engine.r#type, engine.id);
                let sampling = sampling.to_bits().into();
                let header = v5::Header {
                    version,
                    count,
                    sys_uptime_ms,
                    unix_s,
                    unix_ns,
                    flow_sequence,
                    engine_type,
                    engine_id,
                    sampling,
                };
                front.copy_from_slice(header.as_bytes());
            }
            Self::V7 => {
                let reserved = [0; 4];
                let header = v7::Header {
                    version,
                    count,
                    sys_uptime_ms,
                    unix_s,
                    unix_ns,
                    flow_sequence,
                    reserved,
                };
                front.copy_from_slice(header.as_bytes());
            }
        }
    }

    /// Gives a complete datagram another place in a sequence.
    pub(crate) fn renumber(self, datagram: &mut [u8], sequence: u32) {
        if self != Self::V1 {
            datagram[SEQUENCE].copy_from_slice(&sequence.to_be_bytes());
        }
    }

    /// Writes records `from..to` of a complete datagram as a datagram of their own; returns its
    /// length and what its records count. `sequence` is that of the complete one.
    pub(crate) fn write_piece(
        self,
        whole: &[u8],
        from: usize,
        to: usize,
        sequence: u32,
        piece: &mut [u8; DATAGRAM_OCTETS_MAX],
    ) -> (usize, Volume) {
        let octets = self.datagram_octets(to - from);
        let records = &whole[self.datagram_octets(from)..self.datagram_octets(to)];
        piece[..self.header_octets()].copy_from_slice(&whole[..self.header_octets()]);
        piece[COUNT].copy_from_slice(&count_on_the_wire(to - from).to_be_bytes());
        piece[self.header_octets()..octets].copy_from_slice(records);
        let skipped = u32::from(count_on_the_wire(from));
        self.renumber(&mut piece[..octets], sequence.wrapping_add(skipped));
        let mut volume = Volume::default();
        for record in records.chunks_exact(self.record_octets()) {
            volume += Volume {
                packets: u32_at(record, PACKETS),
                octets: u32_at(record, OCTETS),
            };
        }
        (octets, volume)
    }
}

impl FromStr for Version {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "1" => Ok(Self::V1),
            "5" => Ok(Self::V5),
            "7" => Ok(Self::V7),
            _ => Err(format!(
                "'{text}' is no NetFlow version that is exported: wanted 1, 5 or 7"
            )),
        }
    }
}

fn write_each<R>(records: &[DetailedRecord], room: &mut [u8])
where
    R: for<'a> From<&'a DetailedRecord> + IntoBytes + zerocopy::Immutable,
{
    for (record, place) in records.iter().zip(room.chunks_exact_mut(size_of::<R>())) {
        place.copy_from_slice(R::from(record).as_bytes());
    }
}

/// A count of records as headers carry it.
fn count_on_the_wire(count: usize) -> u16 {
    u16::try_from(count).unwrap_or(u16::MAX)
}

fn u32_at(record: &[u8], at: usize) -> u64 {
    let field = record.get(at..).and_then(<[u8]>::first_chunk).copied();
    field.map_or(0, |octets| u64::from(u32::from_be_bytes(octets)))
}
