//! [`FixedFormat`]: NetFlow versions 1, 5 and 7, whose records all have one length.

use crate::details::DetailedRecord;
use crate::format::{Appended, Format, Heading};
use crate::moment::Moment;
use crate::tally::Tally;
use xdprobe_flow::Volume;
use xdprobe_netflow::v5::SamplingInterval;
use xdprobe_netflow::wire::{DATAGRAM_OCTETS_MAX, uptime_on_the_wire};
use xdprobe_netflow::{EncodeError, Engine, Version, v1, v5, v7};
use zerocopy::byteorder::network_endian::U32;

/// Version 1, 5 or 7: a header, then records of one length. Its sequence counts records.
#[derive(Clone, Copy, Debug, Default)]
pub struct FixedFormat {
    /// Version of the messages.
    pub version: Version,
    /// Engine type and id, in headers that have a field for them.
    pub engine: Engine,
    /// Sampling, in headers that have a field for it.
    pub sampling: SamplingInterval,
}

impl Format for FixedFormat {
    fn message_octets_max(&self) -> usize {
        self.version.datagram_octets(self.version.records_max())
    }

    fn message_octets(&self, records: usize) -> usize {
        self.version.datagram_octets(records)
    }

    fn records_in(&self, payload_octets: usize) -> usize {
        self.version.records_in(payload_octets)
    }

    fn append(
        &mut self,
        records: &[DetailedRecord],
        before: usize,
        payload_octets: usize,
        message: &mut [u8],
    ) -> Appended {
        let records_max = self.records_in(payload_octets).max(1);
        let count = records_max.saturating_sub(before).min(records.len());
        let records = records[..count].iter();
        match self.version {
            Version::V1 => v1::append(message, before, records.map(v1::Record::from)),
            Version::V5 => v5::append(message, before, records.map(v5::Record::from)),
            Version::V7 => v7::append(message, before, records.map(v7::Record::from)),
        }
        Appended {
            count,
            is_full: before + count >= records_max,
        }
    }

    fn finish(&mut self, heading: &Heading, count: usize, message: &mut [u8]) -> usize {
        let count = u16::try_from(count).expect("a message holds no more records than 16 bits do");
        let Times {
            sys_uptime_ms,
            unix_s,
            unix_ns,
        } = Times::of(heading.moment);
        let flow_sequence = heading.sequence.into();
        match self.version {
            Version::V1 => {
                let header = v1::Header {
                    sys_uptime_ms,
                    unix_s,
                    unix_ns,
                    ..v1::Header::default()
                };
                v1::finish(message, &header, count)
            }
            Version::V5 => {
                let header = v5::Header {
                    sys_uptime_ms,
                    unix_s,
                    unix_ns,
                    flow_sequence,
                    engine_type: self.engine.r#type,
                    engine_id: self.engine.id,
                    sampling: self.sampling.to_bits().into(),
                    ..v5::Header::default()
                };
                v5::finish(message, &header, count)
            }
            Version::V7 => {
                let header = v7::Header {
                    sys_uptime_ms,
                    unix_s,
                    unix_ns,
                    flow_sequence,
                    ..v7::Header::default()
                };
                v7::finish(message, &header, count)
            }
        }
    }

    fn split(&self, message: &[u8], payload_octets: usize, piece: &mut dyn FnMut(&[u8], Tally)) {
        const COMPLETE: &str = "a finished message is one of this format";
        let records_max = self.records_in(payload_octets).max(1);
        match self.version {
            Version::V1 => {
                let (header, records) = v1::decode(message).expect(COMPLETE);
                for records in records.chunks(records_max) {
                    let volumes = records.iter().map(|record| (record.packets, record.octets));
                    give_piece(piece, tally_of(volumes), |octets| {
                        v1::encode(header, records, octets)
                    });
                }
            }
            Version::V5 => {
                let (header, records) = v5::decode(message).expect(COMPLETE);
                let mut header = *header;
                for records in records.chunks(records_max) {
                    let volumes = records.iter().map(|record| (record.packets, record.octets));
                    give_piece(piece, tally_of(volumes), |octets| {
                        v5::encode(&header, records, octets)
                    });
                    header.flow_sequence += self.sequence_step(records.len());
                }
            }
            Version::V7 => {
                let (header, records) = v7::decode(message).expect(COMPLETE);
                let mut header = *header;
                for records in records.chunks(records_max) {
                    let volumes = records.iter().map(|record| (record.packets, record.octets));
                    give_piece(piece, tally_of(volumes), |octets| {
                        v7::encode(&header, records, octets)
                    });
                    header.flow_sequence += self.sequence_step(records.len());
                }
            }
        }
    }

    fn sequence_step(&self, records: usize) -> u32 {
        u32::try_from(records).expect("fewer than 2^32 records are pushed at once")
    }
}

/// Encodes a piece of a message and gives it away.
fn give_piece(
    piece: &mut dyn FnMut(&[u8], Tally),
    tally: Tally,
    encode: impl FnOnce(&mut [u8]) -> Result<usize, EncodeError>,
) {
    let mut octets = [0; DATAGRAM_OCTETS_MAX];
    let length = encode(&mut octets).expect("a piece has 1 record or more and is no longer");
    piece(&octets[..length], tally);
}

/// The tally of one datagram with records of these packets and octets.
fn tally_of(volumes: impl Iterator<Item = (U32, U32)>) -> Tally {
    let one = Tally {
        datagrams: 1,
        ..Tally::default()
    };
    volumes.fold(one, |sum, (packets, octets)| Tally {
        records: sum.records + 1,
        datagrams: sum.datagrams,
        volume: sum.volume
            + Volume {
                packets: packets.get().into(),
                octets: octets.get().into(),
            },
    })
}

/// The time fields of a header.
struct Times {
    sys_uptime_ms: U32,
    unix_s: U32,
    unix_ns: U32,
}

impl Times {
    fn of(moment: Moment) -> Self {
        const NS_PER_S: u64 = 1_000_000_000;
        let residue_ns = u32::try_from(moment.unix_ns % NS_PER_S);
        Self {
            sys_uptime_ms: uptime_on_the_wire(moment.uptime_ms).into(),
            // Unsigned 32-bit seconds last until 2106; later they stay at the last.
            unix_s: u32::try_from(moment.unix_ns / NS_PER_S)
                .unwrap_or(u32::MAX)
                .into(),
            unix_ns: residue_ns.expect("below 10^9, and so below 2^32").into(),
        }
    }
}

/// Packets and octets as the versions carry them, in 32 bits each.
#[inline]
#[expect(
    clippy::cast_possible_truncation,
    reason = "asserted: neither has a bit above the lower 32"
)]
fn counters_on_the_wire(volume: Volume) -> (U32, U32) {
    assert!(
        (volume.packets | volume.octets) >> 32 == 0,
        "a plan with versions 1, 5 or 7 caps the counters of a record at 2^32-1"
    );
    let Volume { packets, octets } = volume;
    ((packets as u32).into(), (octets as u32).into())
}

impl From<&DetailedRecord> for v1::Record {
    /// The record as version 1 carries it; uptimes are reduced modulo 2^32.
    #[inline]
    fn from(record: &DetailedRecord) -> Self {
        let DetailedRecord { flow, details } = record;
        let (packets, octets) = counters_on_the_wire(flow.volume);
        Self {
            source: flow.key.source.octets(),
            destination: flow.key.destination.octets(),
            next_hop: details.destination.next_hop,
            input: details.interfaces.input.into(),
            output: details.interfaces.output.into(),
            packets,
            octets,
            first_ms: uptime_on_the_wire(flow.first_ms).into(),
            last_ms: uptime_on_the_wire(flow.last_ms).into(),
            source_port: flow.key.source_port.into(),
            destination_port: flow.key.destination_port.into(),
            tcp_flags: flow.tcp_flags,
            protocol: flow.key.protocol,
            tos: flow.key.tos,
            ..Self::default()
        }
    }
}

impl From<&DetailedRecord> for v5::Record {
    /// The record as version 5 carries it; uptimes are reduced modulo 2^32.
    #[inline]
    fn from(record: &DetailedRecord) -> Self {
        let DetailedRecord { flow, details } = record;
        let (packets, octets) = counters_on_the_wire(flow.volume);
        Self {
            source: flow.key.source.octets(),
            destination: flow.key.destination.octets(),
            next_hop: details.destination.next_hop,
            input: details.interfaces.input.into(),
            output: details.interfaces.output.into(),
            packets,
            octets,
            first_ms: uptime_on_the_wire(flow.first_ms).into(),
            last_ms: uptime_on_the_wire(flow.last_ms).into(),
            source_port: flow.key.source_port.into(),
            destination_port: flow.key.destination_port.into(),
            tcp_flags: flow.tcp_flags,
            protocol: flow.key.protocol,
            tos: flow.key.tos,
            source_as: details.source.r#as.into(),
            destination_as: details.destination.r#as.into(),
            source_mask: details.source.mask,
            destination_mask: details.destination.mask,
            ..Self::default()
        }
    }
}

impl From<&DetailedRecord> for v7::Record {
    /// The record as version 7 carries it; uptimes are reduced modulo 2^32.
    #[inline]
    fn from(record: &DetailedRecord) -> Self {
        let DetailedRecord { flow, details } = record;
        let (packets, octets) = counters_on_the_wire(flow.volume);
        Self {
            source: flow.key.source.octets(),
            destination: flow.key.destination.octets(),
            next_hop: details.destination.next_hop,
            input: details.interfaces.input.into(),
            output: details.interfaces.output.into(),
            packets,
            octets,
            first_ms: uptime_on_the_wire(flow.first_ms).into(),
            last_ms: uptime_on_the_wire(flow.last_ms).into(),
            source_port: flow.key.source_port.into(),
            destination_port: flow.key.destination_port.into(),
            tcp_flags: flow.tcp_flags,
            protocol: flow.key.protocol,
            tos: flow.key.tos,
            source_as: details.source.r#as.into(),
            destination_as: details.destination.r#as.into(),
            source_mask: details.source.mask,
            destination_mask: details.destination.mask,
            ..Self::default()
        }
    }
}
