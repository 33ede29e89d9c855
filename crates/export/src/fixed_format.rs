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

    fn set_sampling(&mut self, sampling: SamplingInterval) {
        self.sampling = sampling;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::details::Details;
    use crate::routes::Route;
    use std::net::Ipv4Addr;
    use xdprobe_flow::Interfaces;
    use xdprobe_flow::{EndReason, FlowRecord, KeyV4};

    const MOMENT: Moment = Moment {
        uptime_ms: (1 << 32) + 4_000,
        unix_ns: 1_700_000_000_123_000_000,
    };

    /// A record each of whose fields has a value of its own; `number` is the source port.
    fn record(number: u16) -> DetailedRecord {
        let key = KeyV4 {
            source: Ipv4Addr::new(192, 0, 2, 1),
            destination: Ipv4Addr::new(198, 51, 100, 2),
            source_port: number,
            destination_port: 443,
            protocol: 6,
            tos: 0xb8,
            point: 3,
        };
        let flow = FlowRecord {
            key,
            volume: Volume {
                packets: 9,
                octets: u32::MAX.into(),
            },
            first_ms: (1 << 32) - 2_000,
            last_ms: (1 << 32) + 3_000,
            tcp_flags: 0x1b,
            end: EndReason::Idle,
        };
        let details = Details {
            interfaces: Interfaces {
                input: 4,
                output: 5,
            },
            source: Route {
                next_hop: [203, 0, 113, 1],
                r#as: 64_496,
                mask: 24,
            },
            destination: Route {
                next_hop: [203, 0, 113, 2],
                r#as: 64_497,
                mask: 25,
            },
        };
        DetailedRecord { flow, details }
    }

    fn format(version: Version) -> FixedFormat {
        FixedFormat {
            version,
            engine: Engine { r#type: 1, id: 2 },
            sampling: SamplingInterval::default(),
        }
    }

    /// A message of `count` numbered records, appended two at a time, with sequence 100.
    fn message(format: &mut FixedFormat, count: u16) -> Vec<u8> {
        let records: Vec<_> = (0..count).map(record).collect();
        let mut message = vec![0xff; format.message_octets_max()];
        let mut before = 0;
        for records in records.chunks(2) {
            let appended = format.append(records, before, 9_000, &mut message);
            assert_eq!(appended.count, records.len());
            before += records.len();
        }
        let heading = Heading {
            moment: MOMENT,
            sequence: 100,
        };
        let length = format.finish(&heading, before, &mut message);
        assert_eq!(length, format.message_octets(before));
        message.truncate(length);
        message
    }

    #[test]
    fn version_5_carries_each_field_at_its_place() {
        let message = message(&mut format(Version::V5), 1);
        let (header, records) = v5::decode(&message).unwrap();
        let expected_header = v5::Header {
            version: 5.into(),
            count: 1.into(),
            sys_uptime_ms: 4_000.into(),
            unix_s: 1_700_000_000.into(),
            unix_ns: 123_000_000.into(),
            flow_sequence: 100.into(),
            engine_type: 1,
            engine_id: 2,
            sampling: 0.into(),
        };
        let expected = v5::Record {
            source: [192, 0, 2, 1],
            destination: [198, 51, 100, 2],
            next_hop: [203, 0, 113, 2],
            input: 4.into(),
            output: 5.into(),
            packets: 9.into(),
            octets: u32::MAX.into(),
            first_ms: (u32::MAX - 1_999).into(),
            last_ms: 3_000.into(),
            source_port: 0.into(),
            destination_port: 443.into(),
            pad1: 0,
            tcp_flags: 0x1b,
            protocol: 6,
            tos: 0xb8,
            source_as: 64_496.into(),
            destination_as: 64_497.into(),
            source_mask: 24,
            destination_mask: 25,
            pad2: 0.into(),
        };
        assert_eq!((header, records), (&expected_header, &[expected][..]));
    }

    #[test]
    fn versions_1_and_7_carry_what_version_5_does_as_far_as_they_have_fields_for_it() {
        let of_5 = message(&mut format(Version::V5), 1);
        let (header, record) = v5::decode(&of_5)
            .map(|(header, all)| (header, all[0]))
            .unwrap();
        let of_1 = message(&mut format(Version::V1), 1);
        let of_7 = message(&mut format(Version::V7), 1);
        let expected_header = v1::Header {
            version: 1.into(),
            count: 1.into(),
            sys_uptime_ms: header.sys_uptime_ms,
            unix_s: header.unix_s,
            unix_ns: header.unix_ns,
        };
        let expected = v1::Record {
            source: record.source,
            destination: record.destination,
            next_hop: record.next_hop,
            input: record.input,
            output: record.output,
            packets: record.packets,
            octets: record.octets,
            first_ms: record.first_ms,
            last_ms: record.last_ms,
            source_port: record.source_port,
            destination_port: record.destination_port,
            tcp_flags: record.tcp_flags,
            protocol: record.protocol,
            tos: record.tos,
            ..v1::Record::default()
        };
        assert_eq!(v1::decode(&of_1), Ok((&expected_header, &[expected][..])));
        let expected_header = v7::Header {
            version: 7.into(),
            count: 1.into(),
            sys_uptime_ms: header.sys_uptime_ms,
            unix_s: header.unix_s,
            unix_ns: header.unix_ns,
            flow_sequence: header.flow_sequence,
            reserved: [0; 4],
        };
        let expected = v7::Record {
            source: record.source,
            destination: record.destination,
            next_hop: record.next_hop,
            input: record.input,
            output: record.output,
            packets: record.packets,
            octets: record.octets,
            first_ms: record.first_ms,
            last_ms: record.last_ms,
            source_port: record.source_port,
            destination_port: record.destination_port,
            tcp_flags: record.tcp_flags,
            protocol: record.protocol,
            tos: record.tos,
            source_as: record.source_as,
            destination_as: record.destination_as,
            source_mask: record.source_mask,
            destination_mask: record.destination_mask,
            ..v7::Record::default()
        };
        assert_eq!(v7::decode(&of_7), Ok((&expected_header, &[expected][..])));
    }

    #[test]
    fn a_message_is_full_at_the_limit_of_its_version_or_of_the_path() {
        for (version, payload_octets, full_at) in [
            (Version::V1, 9_000, 24),
            (Version::V5, 9_000, 30),
            (Version::V7, 9_000, 27),
            (Version::V5, 1_452, 29),
            (Version::V5, 10, 1),
        ] {
            let mut format = format(version);
            let mut message = vec![0; format.message_octets_max()];
            let records = [record(1); 40];
            let appended = format.append(&records, 0, payload_octets, &mut message);
            let all = Appended {
                count: full_at,
                is_full: true,
            };
            assert_eq!(appended, all, "{version} in {payload_octets}");
            let last = format.append(&records, full_at - 1, payload_octets, &mut message);
            assert_eq!(last, Appended { count: 1, ..all });
            let none = format.append(&records, full_at, payload_octets, &mut message);
            assert_eq!(none, Appended { count: 0, ..all });
            if full_at > 1 {
                let one = format.append(&records[..1], full_at - 2, payload_octets, &mut message);
                let has_room = Appended {
                    count: 1,
                    is_full: false,
                };
                assert_eq!(one, has_room);
            }
        }
    }

    #[test]
    fn the_pieces_of_a_message_have_its_records_in_order_and_an_unbroken_sequence() {
        for version in Version::ALL {
            let mut format = format(version);
            let message = message(&mut format, 20);
            let (mut numbers, mut tally) = (Vec::new(), Tally::default());
            format.split(&message, 450, &mut |piece, of_piece| {
                assert!(piece.len() <= 450);
                let before = numbers.len();
                let sequence = match version {
                    Version::V1 => {
                        let (_, records) = v1::decode(piece).unwrap();
                        numbers.extend(records.iter().map(|record| record.source_port.get()));
                        None
                    }
                    Version::V5 => {
                        let (header, records) = v5::decode(piece).unwrap();
                        numbers.extend(records.iter().map(|record| record.source_port.get()));
                        Some(header.flow_sequence.get())
                    }
                    Version::V7 => {
                        let (header, records) = v7::decode(piece).unwrap();
                        numbers.extend(records.iter().map(|record| record.source_port.get()));
                        Some(header.flow_sequence.get())
                    }
                };
                assert!(sequence.is_none_or(|sequence| sequence as usize == 100 + before));
                assert_eq!(of_piece.records, (numbers.len() - before) as u64);
                tally += of_piece;
            });
            assert_eq!(numbers, (0..20).collect::<Vec<_>>());
            let pieces = 20usize.div_ceil(format.records_in(450));
            assert_eq!((tally.records, tally.datagrams), (20, pieces as u64));
            let expected = Volume {
                packets: 180,
                octets: 20 * u64::from(u32::MAX),
            };
            assert_eq!(tally.volume, expected, "{version}");
        }
    }

    #[test]
    #[should_panic(expected = "caps the counters of a record at 2^32-1")]
    fn a_counter_of_more_than_32_bits_is_never_cut_short() {
        let mut record = record(1);
        record.flow.volume.octets += 1;
        let _ = v5::Record::from(&record);
    }
}
