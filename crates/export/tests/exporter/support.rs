//! A transport whose other end a test plays, and records to send over it.

use proptest::prelude::*;
use std::io::{self, IoSlice};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use xdprobe_export::{
    CollectorCounters, DatagramConfig, DatagramOutlet, Distribution, Exporter, ExporterCounters,
    FixedFormat, Moment, Outlet, Transport,
};
use xdprobe_flow::{EndReason, FlowRecord, KeyV4, Volume};
use xdprobe_netflow::{Engine, Version, v5};

/// A transport that keeps what it is sent, and whose other end a test plays.
#[derive(Clone, Default)]
pub struct Line(Arc<Mutex<OtherEnd>>);

#[derive(Default)]
pub struct OtherEnd {
    pub datagrams: Vec<Vec<u8>>,
    /// The errno of each send.
    pub fails_with: Option<i32>,
    /// Takes datagrams and answers that the port is closed.
    pub refuses: bool,
    pub answer: Option<i32>,
    /// The kernel holds what was sent.
    pub holds: bool,
    pub payload_octets_max: usize,
    pub datagrams_a_call: usize,
}

pub const ECONNREFUSED: i32 = 111;
pub const EHOSTUNREACH: i32 = 113;
pub const EMSGSIZE: i32 = 90;
pub const EAGAIN: i32 = 11;

impl Line {
    pub fn new() -> Self {
        let end = OtherEnd {
            payload_octets_max: 1472,
            datagrams_a_call: 5,
            ..OtherEnd::default()
        };
        Self(Arc::new(Mutex::new(end)))
    }

    pub fn with<T>(&self, change: impl FnOnce(&mut OtherEnd) -> T) -> T {
        change(&mut self.0.lock().unwrap())
    }

    /// Behaves from here on as one of six numbers says: well, refusing, unreachable, blocked, or
    /// with a narrower path.
    pub fn behave(&self, behaviour: usize) {
        const ENETUNREACH: i32 = 101;
        let fails_with = [None, None, Some(ENETUNREACH), Some(EAGAIN), None, None];
        self.with(|end| {
            end.refuses = behaviour == 1;
            end.fails_with = fails_with[behaviour];
            end.payload_octets_max = [1472, 1472, 1472, 1472, 300, 1452][behaviour];
        });
    }

    pub fn datagrams(&self) -> Vec<Vec<u8>> {
        self.with(|end| end.datagrams.clone())
    }

    /// Sequence numbers of the datagrams that arrived.
    pub fn sequences(&self) -> Vec<u32> {
        let datagrams = self.datagrams();
        let headers = datagrams
            .iter()
            .map(|datagram| v5::decode(datagram).unwrap().0);
        headers.map(|header| header.flow_sequence.get()).collect()
    }

    /// Source ports, in which tests number their records, of all that arrived.
    pub fn numbers(&self) -> Vec<u16> {
        let datagrams = self.datagrams();
        let records = datagrams
            .iter()
            .flat_map(|datagram| v5::decode(datagram).unwrap().1);
        records.map(|record| record.source_port.get()).collect()
    }
}

impl Transport for Line {
    fn send(&mut self, datagrams: &[IoSlice<'_>]) -> io::Result<usize> {
        self.with(|end| {
            if let Some(errno) = end.fails_with {
                return Err(io::Error::from_raw_os_error(errno));
            }
            if datagrams[0].len() > end.payload_octets_max {
                return Err(io::Error::from_raw_os_error(EMSGSIZE));
            }
            if end.refuses {
                end.answer = Some(ECONNREFUSED);
                return Ok(datagrams.len().min(end.datagrams_a_call));
            }
            let sent = datagrams
                .iter()
                .take(end.datagrams_a_call)
                .map(|datagram| datagram.to_vec());
            let before = end.datagrams.len();
            end.datagrams.extend(sent);
            Ok(end.datagrams.len() - before)
        })
    }

    fn take_error(&mut self) -> Option<io::Error> {
        self.with(|end| end.answer.take().map(io::Error::from_raw_os_error))
    }

    fn holds_datagrams(&self) -> bool {
        self.with(|end| end.holds)
    }

    fn payload_octets_max(&self) -> usize {
        self.with(|end| end.payload_octets_max)
    }
}

pub fn format(version: Version) -> FixedFormat {
    FixedFormat {
        version,
        ..FixedFormat::default()
    }
}

pub fn outlet(format: FixedFormat, config: DatagramConfig, line: &Line) -> Box<dyn Outlet> {
    Box::new(DatagramOutlet::new(line.clone(), format, config).unwrap())
}

pub fn exporter_of(
    distribution: Distribution,
    format: FixedFormat,
    config: DatagramConfig,
    lines: &[Line],
) -> Exporter {
    let mut exporter = Exporter::new(distribution);
    let config = DatagramConfig {
        keeps_records: distribution != Distribution::Copy,
        ..config
    };
    for line in lines {
        exporter.add("test", outlet(format, config, line));
    }
    exporter
}

pub fn exporter(distribution: Distribution, config: DatagramConfig, lines: &[Line]) -> Exporter {
    exporter_of(distribution, FixedFormat::default(), config, lines)
}

/// An exporter that copies, with an engine and sampling in its headers.
pub fn copying(lines: &[Line]) -> Exporter {
    let format = FixedFormat {
        version: Version::V5,
        engine: Engine { r#type: 1, id: 7 },
        sampling: v5::SamplingInterval::new(v5::SamplingMode::Random, 100).unwrap(),
    };
    let config = DatagramConfig {
        flush_delay_ms: 500,
        ..DatagramConfig::default()
    };
    exporter_of(Distribution::Copy, format, config, lines)
}

/// An exporter to one collector in this version.
pub fn in_version(version: Version, line: &Line) -> Exporter {
    let lines = std::slice::from_ref(line);
    let config = DatagramConfig::default();
    exporter_of(Distribution::Copy, format(version), config, lines)
}

/// The counters of the `nth` collector.
pub fn counters_of(exporter: &Exporter, nth: usize) -> CollectorCounters {
    exporter.collectors().nth(nth).unwrap().2
}

/// A record of 2 packets and 100 octets.
pub fn record(first_ms: u64, last_ms: u64) -> FlowRecord {
    let key = KeyV4 {
        source: Ipv4Addr::new(192, 0, 2, 1),
        destination: Ipv4Addr::new(198, 51, 100, 2),
        source_port: 1234,
        destination_port: 80,
        protocol: 6,
        tos: 0,
        point: 3,
    };
    FlowRecord {
        key,
        volume: Volume {
            packets: 2,
            octets: 100,
        },
        first_ms,
        last_ms,
        tcp_flags: 0x1b,
        end: EndReason::Idle,
    }
}

/// Records that differ in their source port, which numbers them.
pub fn numbered(numbers: std::ops::Range<u16>) -> Vec<FlowRecord> {
    let number = |source_port| FlowRecord {
        key: KeyV4 {
            source_port,
            ..record(1, 2).key
        },
        ..record(1, 2)
    };
    numbers.map(number).collect()
}

/// UTC at uptime 0, in ms.
pub const EPOCH_MS: u64 = 1_700_000_000_000;

pub fn moment(uptime_ms: u64) -> Moment {
    Moment {
        uptime_ms: 0,
        unix_ns: EPOCH_MS * 1_000_000,
    }
    .at(uptime_ms)
}

/// One turn of the exporter at `now_ms`; returns when to send again.
pub fn turn(exporter: &mut Exporter, records: &[FlowRecord], now_ms: u64) -> Option<u64> {
    exporter.begin_turn(now_ms);
    exporter.flush_due(moment(now_ms));
    exporter.push(records, moment(now_ms));
    exporter.flush(moment(now_ms));
    exporter.send(true, moment(now_ms))
}

/// Sends until nothing waits any more, and returns what time it is then.
pub fn send_all(exporter: &mut Exporter, mut now_ms: u64) -> u64 {
    exporter.flush(moment(now_ms + 2));
    for _ in 0..10_000 {
        exporter.begin_turn(now_ms);
        let Some(due_ms) = exporter.send(true, moment(now_ms + 2)) else {
            break;
        };
        now_ms = due_ms;
    }
    now_ms
}

/// The counters, once everything is answered.
pub fn settled(exporter: &mut Exporter) -> ExporterCounters {
    exporter.finish().unwrap();
    exporter.counters()
}

pub fn any_distribution() -> impl Strategy<Value = Distribution> {
    prop_oneof![
        Just(Distribution::Copy),
        Just(Distribution::Balance),
        Just(Distribution::Failover)
    ]
}
