//! The rules for datagrams of NetFlow versions 1, 5 and 7, besides those for length and count,
//! which decoding checks.
//!
//! [`DatagramAsV5`] is a datagram of any version in the fields of version 5.
//! [`DatagramAsV5::violations`] are the rules that the datagram breaks by itself,
//! [`SpaceHistory::violations`] those that it breaks together with the datagrams before it in its
//! sequence space.

use crate::frames::IPV4_OCTETS;
use crate::headers::{self, ICMP, TCP};
use xdprobe_netflow::v5::{self, Record, SamplingInterval, SamplingMode};
use xdprobe_netflow::{DatagramError, Engine, v1, v7, wire};

/// A rule that a datagram or one of its records breaks, and the values found.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Violation {
    /// Nanoseconds in a header are less than a second.
    #[error("unix_nsecs {0}, expected at most 999999999")]
    Nanoseconds(u32),
    /// Reserved octets of a header are zero.
    #[error("a reserved octet of the header is not zero")]
    HeaderPadding,
    /// The sampling mode is 0, 1 or 2; modes 1 and 2 have an interval.
    #[error("sampling field {0:#06x}: mode 3, or a mode without an interval")]
    Sampling(u16),
    /// The sampling field never changes: collectors use that of the first datagram.
    #[error("sampling field {found:#06x}, expected {first:#06x} as in the first datagram")]
    SamplingChanged {
        /// Field of the first datagram.
        first: u16,
        /// Field of this datagram.
        found: u16,
    },
    /// SysUptime never decreases, in the order of numbers modulo 2^32.
    #[error("SysUptime {found_ms} ms after {before_ms} ms")]
    UptimeWentBack {
        /// SysUptime of the datagram before.
        before_ms: u32,
        /// SysUptime of the datagram.
        found_ms: u32,
    },
    /// First <= Last <= SysUptime, in ms and in the order of numbers modulo 2^32.
    #[error("First {first_ms}, Last {last_ms}, SysUptime {sys_uptime_ms}, expected in this order")]
    Times {
        /// First of the record.
        first_ms: u32,
        /// Last of the record.
        last_ms: u32,
        /// SysUptime of its header.
        sys_uptime_ms: u32,
    },
    /// A record of one packet has First equal to Last.
    #[error("one packet with First {first_ms} and Last {last_ms}, expected the same")]
    OnePacketTwoTimes {
        /// First of the record.
        first_ms: u32,
        /// Last of the record.
        last_ms: u32,
    },
    /// A flow has packets, and each has at least the 20 octets of an IPv4 header (RFC 791, section
    /// 3.1).
    #[error(
        "{packets} packets of {octets} octets together, expected at least one packet, and 20 \
         octets for each"
    )]
    Volume {
        /// Packets of the record.
        packets: u32,
        /// Octets of the record.
        octets: u32,
    },
    /// Only records of protocols with ports have ports; ICMP has type and code as the destination
    /// port.
    #[error(
        "ports {source_port} and {destination_port} in a record of protocol {protocol}, expected 0"
    )]
    Ports {
        /// IP protocol.
        protocol: u8,
        /// Source port.
        source_port: u16,
        /// Destination port.
        destination_port: u16,
    },
    /// Only records of TCP have TCP flags.
    #[error("TCP flags {tcp_flags:#04x} in a record of protocol {protocol}, expected 0")]
    TcpFlags {
        /// IP protocol.
        protocol: u8,
        /// The flags.
        tcp_flags: u8,
    },
    /// An IPv4 prefix has at most 32 bits.
    #[error("prefix lengths /{0} and /{1}, expected at most /32")]
    Masks(u8, u8),
    /// Padding octets of a record are zero.
    #[error("a padding octet of a record is not zero")]
    RecordPadding,
}

/// A datagram of version 1, 5 or 7 in the fields of version 5. Fields that its version lacks are
/// zero.
pub struct DatagramAsV5 {
    header: v5::Header,
    /// Whether the version has sequence numbers.
    is_numbered: bool,
    header_padding: bool,
    record_paddings: usize,
    records: Vec<Record>,
}

impl DatagramAsV5 {
    /// Decodes a datagram of any of the versions.
    ///
    /// # Errors
    ///
    /// If the version, count or length is wrong.
    pub fn read(octets: &[u8]) -> Result<Self, DatagramError> {
        match wire::version_of(octets) {
            Some(v1::VERSION) => {
                v1::decode(octets).map(|(header, records)| Self::from_v1(header, records))
            }
            Some(v7::VERSION) => {
                v7::decode(octets).map(|(header, records)| Self::from_v7(header, records))
            }
            _ => v5::decode(octets).map(|(header, records)| Self {
                header: *header,
                is_numbered: true,
                header_padding: false,
                record_paddings: records
                    .iter()
                    .filter(|of| of.pad1 != 0 || of.pad2.get() != 0)
                    .count(),
                records: records.to_vec(),
            }),
        }
    }

    fn from_v1(header: &v1::Header, records: &[v1::Record]) -> Self {
        let v1::Header {
            version,
            count,
            sys_uptime_ms,
            unix_s,
            unix_ns,
        } = *header;
        let padded =
            |of: &&v1::Record| of.pad1.get() != 0 || of.pad2 != [0; 3] || of.reserved.get() != 0;
        let as_v5 = |of: &v1::Record| Record {
            source: of.source,
            destination: of.destination,
            next_hop: of.next_hop,
            input: of.input,
            output: of.output,
            packets: of.packets,
            octets: of.octets,
            first_ms: of.first_ms,
            last_ms: of.last_ms,
            source_port: of.source_port,
            destination_port: of.destination_port,
            tcp_flags: of.tcp_flags,
            protocol: of.protocol,
            tos: of.tos,
            ..Record::default()
        };
        Self {
            header: v5::Header {
                version,
                count,
                sys_uptime_ms,
                unix_s,
                unix_ns,
                ..v5::Header::default()
            },
            is_numbered: false,
            header_padding: false,
            record_paddings: records.iter().filter(padded).count(),
            records: records.iter().map(as_v5).collect(),
        }
    }

    fn from_v7(header: &v7::Header, records: &[v7::Record]) -> Self {
        let v7::Header {
            version,
            count,
            sys_uptime_ms,
            unix_s,
            unix_ns,
            flow_sequence,
            reserved,
        } = *header;
        let as_v5 = |of: &v7::Record| Record {
            source: of.source,
            destination: of.destination,
            next_hop: of.next_hop,
            input: of.input,
            output: of.output,
            packets: of.packets,
            octets: of.octets,
            first_ms: of.first_ms,
            last_ms: of.last_ms,
            source_port: of.source_port,
            destination_port: of.destination_port,
            tcp_flags: of.tcp_flags,
            protocol: of.protocol,
            tos: of.tos,
            source_as: of.source_as,
            destination_as: of.destination_as,
            source_mask: of.source_mask,
            destination_mask: of.destination_mask,
            ..Record::default()
        };
        Self {
            header: v5::Header {
                version,
                count,
                sys_uptime_ms,
                unix_s,
                unix_ns,
                flow_sequence,
                ..v5::Header::default()
            },
            is_numbered: true,
            header_padding: reserved != [0; 4],
            record_paddings: records
                .iter()
                .filter(|of| of.flags1 != 0 || of.flags2.get() != 0)
                .count(),
            records: records.iter().map(as_v5).collect(),
        }
    }

    /// The version.
    pub fn version(&self) -> u16 {
        self.header.version.get()
    }

    /// The engine; 0:0 if the version has none.
    pub fn engine(&self) -> Engine {
        self.header.engine()
    }

    /// The sampling field; 0 if the version has none.
    pub fn sampling(&self) -> u16 {
        self.header.sampling.get()
    }

    /// Sequence numbers of the first record and of the record after the last; `None` if the version
    /// has no sequence.
    pub fn sequence(&self) -> Option<(u32, u32)> {
        let first = self.header.flow_sequence.get();
        self.is_numbered
            .then(|| (first, first.wrapping_add(self.header.count.get().into())))
    }

    /// The records.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// The rules that the datagram breaks by itself.
    pub fn violations(&self) -> impl Iterator<Item = Violation> {
        const NS_PER_S: u32 = 1_000_000_000;
        let (unix_ns, sampling) = (self.header.unix_ns.get(), self.header.sampling.get());
        let of_header = [
            (unix_ns >= NS_PER_S).then_some(Violation::Nanoseconds(unix_ns)),
            self.header_padding.then_some(Violation::HeaderPadding),
            (!is_sampling(sampling)).then_some(Violation::Sampling(sampling)),
        ];
        let sys_uptime_ms = self.header.sys_uptime_ms.get();
        let of_records = self
            .records
            .iter()
            .flat_map(move |record| of_record(record, sys_uptime_ms));
        let paddings = std::iter::repeat_n(Violation::RecordPadding, self.record_paddings);
        of_header
            .into_iter()
            .flatten()
            .chain(of_records)
            .chain(paddings)
    }
}

/// What the datagrams of a sequence space so far require of the next one.
#[derive(Clone, Copy)]
pub struct SpaceHistory {
    /// The next sequence number; `None` if the version has no sequence.
    pub next: Option<u32>,
    sampling: u16,
    sys_uptime_ms: u32,
}

impl SpaceHistory {
    /// The history after the first datagram.
    pub fn begin(datagram: &DatagramAsV5) -> Self {
        let v5::Header {
            sampling,
            sys_uptime_ms,
            ..
        } = datagram.header;
        let next = datagram.sequence().map(|(_, next)| next);
        Self {
            next,
            sampling: sampling.get(),
            sys_uptime_ms: sys_uptime_ms.get(),
        }
    }

    /// The rules that the next datagram breaks together with those before it. The caller checks its
    /// sequence number, with [`next`](Self::next).
    pub fn violations(
        &mut self,
        datagram: &DatagramAsV5,
    ) -> impl Iterator<Item = Violation> + use<> {
        let (found, found_ms) = (
            datagram.header.sampling.get(),
            datagram.header.sys_uptime_ms.get(),
        );
        let before_ms = std::mem::replace(&mut self.sys_uptime_ms, found_ms);
        let (first, went_back) = (self.sampling, !is_at_most(before_ms, found_ms));
        self.next = datagram.sequence().map(|(_, next)| next);
        let changed = (found != first).then_some(Violation::SamplingChanged { first, found });
        let went_back = went_back.then_some(Violation::UptimeWentBack {
            before_ms,
            found_ms,
        });
        changed.into_iter().chain(went_back)
    }
}

/// The rules that a record breaks.
fn of_record(record: &Record, sys_uptime_ms: u32) -> impl Iterator<Item = Violation> + use<> {
    let (first_ms, last_ms) = (record.first_ms.get(), record.last_ms.get());
    let (packets, octets) = (record.packets.get(), record.octets.get());
    let (source_port, destination_port) = (record.source_port.get(), record.destination_port.get());
    let Record {
        protocol,
        tcp_flags,
        source_mask,
        destination_mask,
        ..
    } = *record;
    let in_order = is_at_most(first_ms, last_ms) && is_at_most(last_ms, sys_uptime_ms);
    let has_volume = packets > 0 && u64::from(octets) >= IPV4_OCTETS as u64 * u64::from(packets);
    let has_ports = match protocol {
        _ if headers::has_ports(protocol) => true,
        // The destination port is type * 256 + code.
        ICMP => source_port == 0,
        _ => source_port == 0 && destination_port == 0,
    };
    let violations = [
        (!in_order).then_some(Violation::Times {
            first_ms,
            last_ms,
            sys_uptime_ms,
        }),
        (packets == 1 && first_ms != last_ms)
            .then_some(Violation::OnePacketTwoTimes { first_ms, last_ms }),
        (!has_volume).then_some(Violation::Volume { packets, octets }),
        (!has_ports).then_some(Violation::Ports {
            protocol,
            source_port,
            destination_port,
        }),
        (protocol != TCP && tcp_flags != 0).then_some(Violation::TcpFlags {
            protocol,
            tcp_flags,
        }),
        (source_mask.max(destination_mask) > 32)
            .then_some(Violation::Masks(source_mask, destination_mask)),
    ];
    violations.into_iter().flatten()
}

/// Whether a sampling field has a valid mode, and an interval if the mode needs one.
fn is_sampling(field: u16) -> bool {
    let sampling = SamplingInterval::from_bits(field);
    match sampling.mode() {
        Some(SamplingMode::None) => true,
        Some(SamplingMode::Deterministic | SamplingMode::Random) => sampling.interval() > 0,
        None => false,
    }
}

/// Order of numbers modulo 2^32: `other` is less than 2^31 ahead of `one` (RFC 1982, section 3.2).
fn is_at_most(one: u32, other: u32) -> bool {
    other.wrapping_sub(one) < 1 << 31
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header and a record without a fault.
    fn sound() -> (v5::Header, Record) {
        let header = v5::Header {
            sys_uptime_ms: 100.into(),
            unix_ns: 999_999_999.into(),
            ..v5::Header::default()
        };
        let record = Record {
            packets: 2.into(),
            octets: 40.into(),
            first_ms: u32::MAX.into(),
            last_ms: 100.into(),
            source_port: 5.into(),
            destination_port: 6.into(),
            protocol: 17,
            source_mask: 32,
            ..Record::default()
        };
        (header, record)
    }

    fn datagram(change: impl FnOnce(&mut v5::Header, &mut Record)) -> DatagramAsV5 {
        let (mut header, mut record) = sound();
        change(&mut header, &mut record);
        let mut octets = [0; 72];
        v5::encode(&header, &[record], &mut octets).unwrap();
        DatagramAsV5::read(&octets).unwrap()
    }

    fn broken(change: impl FnOnce(&mut v5::Header, &mut Record)) -> Vec<Violation> {
        datagram(change).violations().collect()
    }

    #[test]
    fn a_sound_datagram_breaks_nothing_even_across_a_wrap() {
        assert_eq!(broken(|_, _| {}), []);
        assert_eq!(
            broken(|_, record| (record.protocol, record.source_port) = (1, 0.into())),
            []
        );
        assert_eq!(
            broken(|header, _| header.sampling = (1 << 14 | 16_383).into()),
            []
        );
        assert_eq!(
            broken(|header, _| header.sampling = 100.into()),
            [],
            "an interval without a mode"
        );
    }

    #[test]
    fn each_rule_is_broken_by_its_own_fault() {
        use Violation::*;
        assert_eq!(
            broken(|header, _| header.unix_ns = 1_000_000_000.into()),
            [Nanoseconds(1_000_000_000)]
        );
        for field in [3 << 14 | 5, 1 << 14, 2 << 14] {
            assert_eq!(
                broken(|header, _| header.sampling = field.into()),
                [Sampling(field)]
            );
        }
        let times = |first_ms, last_ms| Times {
            first_ms,
            last_ms,
            sys_uptime_ms: 100,
        };
        assert_eq!(
            broken(|_, record| record.last_ms = 101.into()),
            [times(u32::MAX, 101)]
        );
        assert_eq!(
            broken(|_, record| record.first_ms = 101.into()),
            [times(101, 100)]
        );
        let one_packet = |record: &mut Record| record.packets = 1.into();
        let expected = [OnePacketTwoTimes {
            first_ms: u32::MAX,
            last_ms: 100,
        }];
        assert_eq!(broken(|_, record| one_packet(record)), expected);
        assert_eq!(
            broken(|_, record| record.packets = 0.into()),
            [Volume {
                packets: 0,
                octets: 40
            }]
        );
        assert_eq!(
            broken(|_, record| record.octets = 39.into()),
            [Volume {
                packets: 2,
                octets: 39
            }]
        );
        let ports = |protocol, source_port, destination_port| Ports {
            protocol,
            source_port,
            destination_port,
        };
        assert_eq!(broken(|_, record| record.protocol = 1), [ports(1, 5, 6)]);
        assert_eq!(broken(|_, record| record.protocol = 47), [ports(47, 5, 6)]);
        assert_eq!(
            broken(|_, record| record.tcp_flags = 2),
            [TcpFlags {
                protocol: 17,
                tcp_flags: 2
            }]
        );
        assert_eq!(broken(|_, record| record.source_mask = 33), [Masks(33, 0)]);
        assert_eq!(broken(|_, record| record.pad1 = 1), [RecordPadding]);
        assert_eq!(broken(|_, record| record.pad2 = 1.into()), [RecordPadding]);
    }

    #[test]
    fn sampling_is_constant_and_uptime_never_decreases() {
        let mut history = SpaceHistory::begin(&datagram(|_, _| {}));
        let mut beside = |change: fn(&mut v5::Header)| -> Vec<_> {
            history
                .violations(&datagram(|header, _| change(header)))
                .collect()
        };
        assert_eq!(beside(|header| header.sys_uptime_ms = 101.into()), []);
        let back = Violation::UptimeWentBack {
            before_ms: 101,
            found_ms: 100,
        };
        assert_eq!(beside(|_| {}), [back]);
        let changed = Violation::SamplingChanged { first: 0, found: 7 };
        assert_eq!(beside(|header| header.sampling = 7.into()), [changed]);
    }

    #[test]
    fn versions_1_and_7_have_the_same_rules() {
        let mut octets = [0; 76];
        let record = v1::Record {
            protocol: 47,
            tcp_flags: 1,
            packets: 1.into(),
            pad2: [0, 0, 1],
            ..Default::default()
        };
        let length = v1::encode(&v1::Header::default(), &[record], &mut octets).unwrap();
        let read = DatagramAsV5::read(&octets[..length]).unwrap();
        assert_eq!((read.version(), read.sequence()), (1, None));
        assert_eq!(read.violations().count(), 3, "volume, flags, padding");
        let header = v7::Header {
            flow_sequence: 7.into(),
            reserved: [0, 0, 0, 1],
            ..Default::default()
        };
        let record = v7::Record {
            flags2: 1.into(),
            packets: 1.into(),
            octets: 20.into(),
            ..Default::default()
        };
        let length = v7::encode(&header, &[record], &mut octets).unwrap();
        let read = DatagramAsV5::read(&octets[..length]).unwrap();
        assert_eq!((read.version(), read.sequence()), (7, Some((7, 8))));
        let found: Vec<_> = read.violations().collect();
        assert_eq!(found, [Violation::HeaderPadding, Violation::RecordPadding]);
        assert_eq!(
            DatagramAsV5::read(&[0, 9, 0, 1]).err(),
            Some(DatagramError::Short {
                found: 4,
                expected: 24
            })
        );
    }
}
