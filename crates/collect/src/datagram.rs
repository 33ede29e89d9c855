//! From a datagram to stored records, whatever the datagram's version.

use crate::record::StoredRecord;
use std::net::{IpAddr, Ipv4Addr};
use xdprobe_netflow::wire::{self, HEADER_OCTETS_MIN};
use xdprobe_netflow::{DatagramError, Engine, Version, v1, v5, v7};

/// What the header of a datagram says about the datagram's place in its exporter's sequence.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DatagramSummary {
    /// Version of the datagram.
    pub version: Version,
    /// Records in the datagram.
    pub count: u16,
    /// Records sent before the datagram, modulo 2^32; `None` in version 1, which has no sequence.
    pub sequence: Option<u32>,
    /// Engine of the exporter; each has a sequence of its own. 0:0 in version 1.
    pub engine: Engine,
    /// UTC time in ms since 1970 when the datagram was sent, by the exporter's clock.
    pub sent_ms: u64,
    /// SysUptime when the datagram was sent, in ms modulo 2^32.
    pub sys_uptime_ms: u32,
}

/// Why a datagram was not stored.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(usize)]
pub enum Refusal {
    /// Shorter than a header.
    Short,
    /// A version other than 1, 5 and 7.
    Version,
    /// A record count of zero or above the version's limit.
    Count,
    /// A length that contradicts the count.
    Length,
    /// An exporter that is not allowed.
    Exporter,
}

impl Refusal {
    /// Every reason, in the order of their numbers.
    pub const ALL: [Self; 5] = [
        Self::Short,
        Self::Version,
        Self::Count,
        Self::Length,
        Self::Exporter,
    ];

    /// The reason's name in totals and log lines.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::Version => "version",
            Self::Count => "count",
            Self::Length => "length",
            Self::Exporter => "exporter",
        }
    }
}

impl From<DatagramError> for Refusal {
    fn from(error: DatagramError) -> Self {
        match error {
            DatagramError::Short { .. } => Self::Short,
            DatagramError::Version { .. } => Self::Version,
            DatagramError::Count { .. } => Self::Count,
            DatagramError::Length { .. } => Self::Length,
        }
    }
}

/// Decodes `datagram`, which `exporter` sent, appends its records to `records`, and summarizes its
/// header.
///
/// # Errors
///
/// [`DatagramError`] if the octets are not a datagram of version 1, 5 or 7; nothing is appended
/// then.
#[inline]
pub fn decode(
    datagram: &[u8],
    exporter: IpAddr,
    records: &mut Vec<StoredRecord>,
) -> Result<DatagramSummary, DatagramError> {
    let address = stored_address(exporter);
    let short = DatagramError::Short {
        found: datagram.len(),
        expected: HEADER_OCTETS_MIN,
    };
    match wire::version_of(datagram).ok_or(short)? {
        v1::VERSION => {
            let (header, flows) = v1::decode(datagram)?;
            records.extend(
                flows
                    .iter()
                    .map(|flow| StoredRecord::from_v1(address, header, flow)),
            );
            Ok(DatagramSummary {
                version: Version::V1,
                count: header.count.get(),
                sequence: None,
                engine: Engine::default(),
                sent_ms: sent_ms(header.unix_s.get(), header.unix_ns.get()),
                sys_uptime_ms: header.sys_uptime_ms.get(),
            })
        }
        v7::VERSION => {
            let (header, flows) = v7::decode(datagram)?;
            records.extend(
                flows
                    .iter()
                    .map(|flow| StoredRecord::from_v7(address, header, flow)),
            );
            Ok(DatagramSummary {
                version: Version::V7,
                count: header.count.get(),
                sequence: Some(header.flow_sequence.get()),
                engine: header.engine(),
                sent_ms: sent_ms(header.unix_s.get(), header.unix_ns.get()),
                sys_uptime_ms: header.sys_uptime_ms.get(),
            })
        }
        _ => {
            let (header, flows) = v5::decode(datagram)?;
            records.extend(
                flows
                    .iter()
                    .map(|flow| StoredRecord::from_v5(address, header, flow)),
            );
            Ok(DatagramSummary {
                version: Version::V5,
                count: header.count.get(),
                sequence: Some(header.flow_sequence.get()),
                engine: header.engine(),
                sent_ms: sent_ms(header.unix_s.get(), header.unix_ns.get()),
                sys_uptime_ms: header.sys_uptime_ms.get(),
            })
        }
    }
}

fn sent_ms(unix_s: u32, unix_ns: u32) -> u64 {
    u64::from(unix_s) * 1000 + u64::from(unix_ns / 1_000_000)
}

/// The exporter's address in a record: an IPv6 address does not fit and is left unspecified.
fn stored_address(exporter: IpAddr) -> Ipv4Addr {
    match exporter {
        IpAddr::V4(address) => address,
        IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EXPORTER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9));

    fn v5_datagram(header: &v5::Header, count: usize) -> Vec<u8> {
        let mut datagram = vec![0; v5::DATAGRAM_OCTETS_MAX];
        let octets =
            v5::encode(header, &vec![v5::Record::default(); count], &mut datagram).unwrap();
        datagram.truncate(octets);
        datagram
    }

    #[test]
    fn decodes_each_version() {
        let mut records = Vec::new();
        let mut datagram = vec![0; wire::DATAGRAM_OCTETS_MAX];
        let octets = v1::encode(
            &v1::Header::default(),
            &[v1::Record::default(); 2],
            &mut datagram,
        )
        .unwrap();
        let summary = decode(&datagram[..octets], EXPORTER, &mut records).unwrap();
        assert_eq!(
            summary,
            DatagramSummary {
                version: Version::V1,
                count: 2,
                sequence: None,
                engine: Engine::default(),
                sent_ms: 0,
                sys_uptime_ms: 0
            }
        );

        let header = v5::Header {
            flow_sequence: 7.into(),
            engine_type: 1,
            engine_id: 2,
            unix_s: 10.into(),
            unix_ns: 5_999_999.into(),
            sys_uptime_ms: 8.into(),
            ..v5::Header::default()
        };
        let summary = decode(&v5_datagram(&header, 3), EXPORTER, &mut records).unwrap();
        assert_eq!(
            summary,
            DatagramSummary {
                version: Version::V5,
                count: 3,
                sequence: Some(7),
                engine: Engine { r#type: 1, id: 2 },
                sent_ms: 10_005,
                sys_uptime_ms: 8
            }
        );

        let header = v7::Header {
            flow_sequence: 9.into(),
            ..v7::Header::default()
        };
        let flow = v7::Record {
            router: [1, 2, 3, 4],
            ..v7::Record::default()
        };
        let octets = v7::encode(&header, &[flow], &mut datagram).unwrap();
        let summary = decode(&datagram[..octets], EXPORTER, &mut records).unwrap();
        assert_eq!(
            summary,
            DatagramSummary {
                version: Version::V7,
                count: 1,
                sequence: Some(9),
                engine: Engine::default(),
                sent_ms: 0,
                sys_uptime_ms: 0
            }
        );

        assert_eq!(records.len(), 6);
        assert!(
            records
                .iter()
                .all(|record| IpAddr::V4(record.exporter) == EXPORTER)
        );
        assert_eq!(records[5].router, Ipv4Addr::new(1, 2, 3, 4));
    }

    #[test]
    fn refuses_by_reason() {
        let reason =
            |octets: &[u8]| Refusal::from(decode(octets, EXPORTER, &mut Vec::new()).unwrap_err());
        assert_eq!(reason(&[]), Refusal::Short);
        assert_eq!(reason(&[0, 5, 0]), Refusal::Short);
        assert_eq!(reason(&[&[0, 9][..], &[0; 30]].concat()), Refusal::Version);
        assert_eq!(
            reason(&[&[0, 5, 0, 31][..], &[0; 20]].concat()),
            Refusal::Count
        );
        assert_eq!(
            reason(&[&[0, 1, 0, 1][..], &[0; 12]].concat()),
            Refusal::Length
        );
    }

    proptest! {
        #[test]
        fn no_octets_panic(
            version in 0u16..10,
            mut octets in proptest::collection::vec(any::<u8>(), 2..1600),
        ) {
            octets[..2].copy_from_slice(&version.to_be_bytes());
            let mut records = Vec::new();
            match decode(&octets, EXPORTER, &mut records) {
                Ok(summary) => prop_assert_eq!(records.len(), usize::from(summary.count)),
                Err(_) => prop_assert!(records.is_empty()),
            }
        }
    }
}
