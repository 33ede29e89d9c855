//! Batch and send: steps 6 and 7 of a packet's way.

use crate::collector::Collector;
use crate::v5::{self, Header, Record};
use std::io;
use std::str::FromStr;
use xdprobe_flow::{FlowRecord, Volume};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// One moment on both clocks: uptime for the records, UTC for the header. They are taken together or not at all.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Moment {
    /// Monotonic ms since the probe's epoch, not reduced to 32 bits.
    pub uptime_ms: u64,
    /// UTC at the start of that millisecond, in ns since 1970.
    pub unix_ns: u64,
}

impl Moment {
    /// The same wall clock at another uptime.
    #[must_use]
    pub fn at(self, uptime_ms: u64) -> Self {
        const NS_PER_MS: i128 = 1_000_000;
        let moved_ns = (i128::from(uptime_ms) - i128::from(self.uptime_ms)) * NS_PER_MS;
        let unix_ns = u64::try_from(i128::from(self.unix_ns) + moved_ns).unwrap_or(0);
        Self { uptime_ms, unix_ns }
    }
}

/// Engine type and id: with the exporter's address they name one sequence space.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Engine {
    /// Engine type.
    pub r#type: u8,
    /// Engine id.
    pub id: u8,
}

impl FromStr for Engine {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text
            .split_once(':')
            .and_then(|(r#type, id)| Some(Self { r#type: r#type.parse().ok()?, id: id.parse().ok()? }));
        parsed.ok_or_else(|| format!("'{text}' is not an engine: wanted TYPE:ID, each 0 to 255, as in 0:1"))
    }
}

/// How an exporter exports.
#[derive(Clone, Copy, Debug)]
pub struct ExporterConfig {
    /// Engine type and id in every header.
    pub engine: Engine,
    /// The longest that a record waits for its datagram to fill, in ms.
    pub flush_delay_ms: u64,
    /// What every header says of sampling.
    pub sampling: v5::Sampling,
}

/// Records with the packets and octets in them, and the datagrams that they went in.
#[derive(Clone, Copy, Debug, Default, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C)]
pub struct Tally {
    /// Flow records.
    pub records: u64,
    /// Datagrams.
    pub datagrams: u64,
    /// Packets and octets of the records.
    pub volume: Volume,
}

impl Tally {
    /// Adds one record.
    #[inline]
    pub fn add_record(&mut self, record: &FlowRecord) {
        self.records += 1;
        self.volume.add_record(record);
    }
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.records += other.records;
        self.datagrams += other.datagrams;
        self.volume += other.volume;
    }
}

/// What an exporter has done.
#[derive(Clone, Copy, Debug, Default, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C)]
pub struct ExporterCounters {
    /// What at least one collector was sent.
    pub exported: Tally,
    /// What no collector could be sent.
    pub failed: Tally,
}

/// Gathers records into datagrams and sends each to every collector.
pub struct Exporter {
    config: ExporterConfig,
    collectors: Vec<Collector>,
    records_max: usize,
    /// Records sent in this sequence space, modulo 2^32.
    flow_sequence: u32,
    counters: ExporterCounters,
    /// The datagram under way: room for the header, then the records so far.
    datagram: Box<[u8; v5::DATAGRAM_OCTETS_MAX]>,
    gathered: Tally,
    /// Uptime at which the oldest record of the datagram came, in ms.
    oldest_ms: u64,
    /// The latest uptime that a record of the datagram speaks of, in ms.
    latest_ms: u64,
}

impl Exporter {
    /// An exporter to `collectors`, with as many records a datagram as the narrowest way carries in one piece.
    #[must_use]
    pub fn new(config: ExporterConfig, collectors: Vec<Collector>) -> Self {
        let payload_octets = collectors.iter().map(Collector::payload_octets_max).min().unwrap_or(usize::MAX);
        let records_max = payload_octets.saturating_sub(v5::HEADER_OCTETS) / v5::RECORD_OCTETS;
        Self {
            config,
            collectors,
            records_max: records_max.clamp(1, v5::RECORDS_MAX),
            flow_sequence: 0,
            counters: ExporterCounters::default(),
            datagram: Box::new([0; v5::DATAGRAM_OCTETS_MAX]),
            gathered: Tally::default(),
            oldest_ms: 0,
            latest_ms: 0,
        }
    }

    /// Adds a record to the datagram under way, and sends that once it is full. `now` is no earlier than any uptime in it.
    pub fn push(&mut self, record: &FlowRecord, now: Moment) {
        debug_assert!(record.first_ms <= record.last_ms && record.last_ms <= now.uptime_ms);
        let slot = self.gathered_count();
        if slot == 0 {
            self.oldest_ms = now.uptime_ms;
        }
        let start = v5::HEADER_OCTETS + slot * v5::RECORD_OCTETS;
        self.datagram[start..start + v5::RECORD_OCTETS].copy_from_slice(Record::from(record).as_bytes());
        self.latest_ms = self.latest_ms.max(record.last_ms);
        self.gathered.add_record(record);
        if slot + 1 == self.records_max {
            self.flush(now);
        }
    }

    /// The uptime at which the datagram under way has to leave, in ms; none while it is empty.
    #[must_use]
    pub fn flush_due_ms(&self) -> Option<u64> {
        (self.gathered.records > 0).then(|| self.oldest_ms + self.config.flush_delay_ms)
    }

    /// The uptime at which the oldest record of the datagram under way came, in ms; none while it is empty.
    #[must_use]
    pub fn oldest_ms(&self) -> Option<u64> {
        (self.gathered.records > 0).then_some(self.oldest_ms)
    }

    /// Sends the datagram under way if its flush delay is over at `now`, stamped with the moment at which it was over: so
    /// that what a capture file exports does not depend on when somebody looked.
    pub fn flush_due(&mut self, now: Moment) {
        if let Some(due_ms) = self.flush_due_ms()
            && due_ms <= now.uptime_ms
        {
            self.flush(now.at(due_ms));
        }
    }

    /// Sends the datagram under way, if it has a record.
    pub fn flush(&mut self, now: Moment) {
        let count = self.gathered_count();
        if count == 0 {
            return;
        }
        self.write_header(count, now.at(now.uptime_ms.max(self.latest_ms)));
        let octets = v5::HEADER_OCTETS + count * v5::RECORD_OCTETS;
        let mut sent = false;
        for collector in &mut self.collectors {
            sent |= collector.send(&self.datagram[..octets], count);
        }
        let gathered = Tally { datagrams: 1, ..std::mem::take(&mut self.gathered) };
        if sent {
            self.counters.exported += gathered;
        } else {
            self.counters.failed += gathered;
        }
        // A datagram that failed advances the sequence too: collectors then see the loss.
        self.flow_sequence = self.flow_sequence.wrapping_add(u32::from(records_on_the_wire(count)));
        self.latest_ms = 0;
    }

    /// Sends the datagram under way and completes what each collector was sent.
    ///
    /// # Errors
    ///
    /// What kept one of them incomplete, with its name; the others are completed all the same.
    pub fn finish(&mut self, now: Moment) -> io::Result<()> {
        self.flush(now);
        let name = |name: &str, error: io::Error| io::Error::new(error.kind(), format!("{name}: {error}"));
        let finish = |to: &mut Collector| to.finish().map_err(|error| name(to.name(), error));
        // All of them before the first error is told.
        let finished: Vec<_> = self.collectors.iter_mut().map(finish).collect();
        finished.into_iter().collect()
    }

    /// What it has done so far. Records under way are in neither count.
    #[must_use]
    pub fn counters(&self) -> &ExporterCounters {
        &self.counters
    }

    /// The collectors, with their own counters.
    #[must_use]
    pub fn collectors(&self) -> &[Collector] {
        &self.collectors
    }

    fn gathered_count(&self) -> usize {
        // At most 30.
        usize::try_from(self.gathered.records).unwrap_or(usize::MAX)
    }

    fn write_header(&mut self, count: usize, now: Moment) {
        const NS_PER_S: u64 = 1_000_000_000;
        let header = Header {
            version: v5::VERSION.into(),
            count: records_on_the_wire(count).into(),
            sys_uptime_ms: v5::uptime_on_the_wire(now.uptime_ms).into(),
            // Unsigned 32-bit seconds last until 2106.
            unix_s: u32::try_from(now.unix_ns / NS_PER_S).unwrap_or(u32::MAX).into(),
            unix_ns: u32::try_from(now.unix_ns % NS_PER_S).unwrap_or(0).into(),
            flow_sequence: self.flow_sequence.into(),
            engine_type: self.config.engine.r#type,
            engine_id: self.config.engine.id,
            sampling: self.config.sampling.to_bits().into(),
        };
        self.datagram[..v5::HEADER_OCTETS].copy_from_slice(header.as_bytes());
    }
}

/// A count of records as headers carry it.
fn records_on_the_wire(count: usize) -> u16 {
    u16::try_from(count).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::Transport;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;
    use std::sync::{Arc, Mutex};
    use xdprobe_flow::{EndReason, FlowKey};

    /// Keeps what it is sent; fails every `fails`-th datagram where that is not 0.
    #[derive(Clone, Default)]
    struct Kept {
        datagrams: Arc<Mutex<Vec<Vec<u8>>>>,
        calls: usize,
        fails: usize,
        payload_octets_max: usize,
    }

    impl Transport for Kept {
        fn send(&mut self, datagram: &[u8]) -> io::Result<()> {
            self.calls += 1;
            if self.fails != 0 && self.calls.is_multiple_of(self.fails) {
                return Err(io::ErrorKind::NetworkUnreachable.into());
            }
            self.datagrams.lock().unwrap().push(datagram.to_vec());
            Ok(())
        }

        fn payload_octets_max(&self) -> usize {
            self.payload_octets_max
        }
    }

    fn exporter_to(kept: &[Kept]) -> Exporter {
        let sampling = v5::Sampling::new(v5::SamplingMode::Random, 100).unwrap();
        let config = ExporterConfig { engine: Engine { r#type: 1, id: 7 }, flush_delay_ms: 500, sampling };
        Exporter::new(config, kept.iter().map(|kept| Collector::new("test", kept.clone())).collect())
    }

    fn kept(payload_octets_max: usize) -> Kept {
        Kept { payload_octets_max, ..Kept::default() }
    }

    fn record(first_ms: u64, last_ms: u64) -> FlowRecord {
        let key = FlowKey {
            source: Ipv4Addr::new(192, 0, 2, 1),
            destination: Ipv4Addr::new(198, 51, 100, 2),
            source_port: 1234,
            destination_port: 80,
            protocol: 6,
            tos: 0,
            input: 3,
        };
        FlowRecord { key, packets: 2, octets: 100, first_ms, last_ms, tcp_flags: 0x1b, end: EndReason::Idle }
    }

    /// 1 700 000 000 s after 1970, in ms: when the tests' uptime began.
    const EPOCH_MS: u64 = 1_700_000_000_000;

    fn moment(uptime_ms: u64) -> Moment {
        Moment { uptime_ms: 0, unix_ns: EPOCH_MS * 1_000_000 }.at(uptime_ms)
    }

    #[test]
    fn thirty_records_fill_a_datagram_over_ipv4_and_twenty_nine_over_ipv6() {
        for (payload, wanted) in [(1472, 30), (1452, 29)] {
            let kept = kept(payload);
            let mut exporter = exporter_to(std::slice::from_ref(&kept));
            for _ in 0..60 {
                exporter.push(&record(1, 2), moment(5));
            }
            exporter.flush(moment(5));
            let datagrams = kept.datagrams.lock().unwrap();
            assert_eq!(v5::decode(&datagrams[0]).unwrap().1.len(), wanted);
            assert!(datagrams.iter().all(|datagram| datagram.len() <= payload));
        }
    }

    #[test]
    fn a_lonely_record_waits_no_longer_than_the_flush_delay() {
        let kept = kept(1472);
        let mut exporter = exporter_to(std::slice::from_ref(&kept));
        assert_eq!(exporter.flush_due_ms(), None);
        exporter.push(&record(1, 2), moment(100));
        exporter.push(&record(1, 2), moment(300));
        assert_eq!(exporter.flush_due_ms(), Some(600));
        exporter.flush_due(moment(599));
        assert!(kept.datagrams.lock().unwrap().is_empty());
        exporter.flush_due(moment(9_000));
        let datagrams = kept.datagrams.lock().unwrap();
        let (header, records) = v5::decode(&datagrams[0]).unwrap();
        assert_eq!((header.sys_uptime_ms.get(), records.len()), (600, 2));
        assert_eq!((header.engine_type, header.engine_id, header.sampling.get()), (1, 7, 0x8064));
    }

    #[test]
    fn what_no_collector_takes_is_counted_as_failed_and_seen_in_the_sequence() {
        let kept = Kept { fails: 2, ..kept(1472) };
        let mut exporter = exporter_to(std::slice::from_ref(&kept));
        for _ in 0..3 {
            exporter.push(&record(1, 2), moment(5));
            exporter.flush(moment(5));
        }
        let counters = exporter.counters();
        assert_eq!((counters.exported.records, counters.failed.records), (2, 1));
        assert_eq!((counters.exported.volume.packets, counters.failed.volume.octets), (4, 100));
        let datagrams = kept.datagrams.lock().unwrap();
        assert_eq!(v5::decode(&datagrams[1]).unwrap().0.flow_sequence.get(), 2);
    }

    #[test]
    fn one_collector_that_fails_costs_the_others_nothing() {
        let (good, bad) = (kept(1472), Kept { fails: 1, ..kept(1472) });
        let mut exporter = exporter_to(&[bad, good.clone()]);
        exporter.push(&record(1, 2), moment(5));
        exporter.flush(moment(5));
        assert_eq!(exporter.counters().exported.records, 1);
        assert_eq!(exporter.collectors()[0].counters().errors.iter().sum::<u64>(), 1);
        assert_eq!(good.datagrams.lock().unwrap().len(), 1);
    }

    #[test]
    fn engines_are_two_octets() {
        assert_eq!("1:255".parse(), Ok(Engine { r#type: 1, id: 255 }));
        for bad in ["1", "1:256", ":", "a:b", "1:2:3"] {
            assert!(bad.parse::<Engine>().unwrap_err().contains("wanted TYPE:ID"), "{bad}");
        }
    }

    proptest! {
        /// The sequence of each datagram is that of the one before plus its count, and in the order of arithmetic modulo
        /// 2^32 First <= Last <= SysUptime, from any start: also across the wrap after 49.7 days.
        #[test]
        fn sequence_and_uptimes_hold_on_every_record(
            start_ms in prop_oneof![0u64..10_000, (1u64 << 32) - 5_000..(1 << 32) + 5_000],
            steps in vec((0u64..900, 0u64..3_000, 0u64..3_000), 1..200),
        ) {
            let kept = kept(1472);
            let mut exporter = exporter_to(std::slice::from_ref(&kept));
            let mut now_ms = start_ms;
            for (pause_ms, age_ms, length_ms) in &steps {
                now_ms += pause_ms;
                let last_ms = now_ms.saturating_sub(*age_ms);
                exporter.flush_due(moment(now_ms));
                exporter.push(&record(last_ms.saturating_sub(*length_ms), last_ms), moment(now_ms));
            }
            exporter.flush(moment(now_ms));
            let mut sequence = 0u32;
            for datagram in kept.datagrams.lock().unwrap().iter() {
                let (header, records) = v5::decode(datagram).unwrap();
                prop_assert_eq!(header.flow_sequence.get(), sequence);
                sequence = sequence.wrapping_add(u32::from(header.count.get()));
                let uptime = header.sys_uptime_ms.get();
                for record in records {
                    let (first, last) = (record.first_ms.get(), record.last_ms.get());
                    prop_assert!(last.wrapping_sub(first) < 1 << 31 && uptime.wrapping_sub(last) < 1 << 31);
                }
                let unix_ms = u64::from(header.unix_s.get()) * 1_000 + u64::from(header.unix_ns.get()) / 1_000_000;
                prop_assert_eq!(v5::uptime_on_the_wire(unix_ms - EPOCH_MS), uptime);
            }
            prop_assert_eq!(sequence as usize, steps.len());
            prop_assert_eq!(exporter.counters().exported.records, steps.len() as u64);
        }
    }
}
