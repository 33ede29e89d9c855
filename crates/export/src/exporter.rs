//! Batch and send: steps 6 and 7 of a packet's way.

use crate::collector::{Collector, CollectorCounters, LossReason, OnRefusal, Transport};
use crate::details::{DetailTables, DetailedRecord};
use crate::failover::Failover;
use foldhash::quality::FixedState;
use std::hash::BuildHasher;
use std::io;
use std::str::FromStr;
use std::sync::Arc;
use xdprobe_flow::{FlowKey, FlowRecord, Volume};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// One moment on both clocks: uptime for the records, UTC for the header. They are taken together
/// or not at all.
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

/// Records with the packets and octets in them, and the datagrams that they went in.
#[derive(
    Clone, Copy, Debug, Default, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq,
)]
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

impl std::ops::Add for Tally {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            records: self.records + other.records,
            datagrams: self.datagrams + other.datagrams,
            volume: self.volume + other.volume,
        }
    }
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

/// Which collector gets which record.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Distribution {
    /// Every collector gets every record.
    #[default]
    Copy,
    /// Each record goes to one collector, all of one flow key to the same, whatever becomes of it
    /// there.
    Balance,
    /// All records go to the first collector that does not refuse them.
    Failover,
}

impl Distribution {
    /// The name that options, reports and metrics use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::Balance => "balance",
            Self::Failover => "failover",
        }
    }
}

impl FromStr for Distribution {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = [Self::Copy, Self::Balance, Self::Failover]
            .into_iter()
            .find(|how| how.name() == text);
        named.ok_or_else(|| {
            format!("'{text}' is no way to distribute records: wanted copy, balance or failover")
        })
    }
}

/// What an exporter has done with the records that were pushed, whoever was to get them.
#[derive(
    Clone, Copy, Debug, Default, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq,
)]
#[repr(C)]
pub struct ExporterCounters {
    /// What was sent and not refused.
    pub exported: Tally,
    /// What was not, by [`LossReason`].
    pub lost: [Tally; LossReason::NAMES.len()],
}

impl ExporterCounters {
    /// What was not sent, or refused, for whatever reason.
    #[must_use]
    pub fn lost_total(&self) -> Tally {
        self.lost
            .iter()
            .fold(Tally::default(), |sum, lost| sum + *lost)
    }
}

/// Distributes records over collectors, each of which makes its own datagrams of them.
///
/// Each turn: [`begin_turn`](Self::begin_turn), [`flush_due`](Self::flush_due),
/// [`push`](Self::push), [`send`](Self::send). Records and headers go by the [`Moment`] that they
/// are pushed at; pacing and patience go by the turn's own time, so that a capture file's export is
/// the same octets however long it takes.
pub struct Exporter {
    distribution: Distribution,
    collectors: Vec<Collector>,
    failover: Failover,
    tables: Arc<DetailTables>,
    /// The records that are being pushed, with their details.
    detailed: Vec<DetailedRecord>,
}

/// Records that get their details at a time.
const DETAILED_MAX: usize = 256;

impl Exporter {
    /// An exporter to `collectors`.
    #[must_use]
    pub fn new(distribution: Distribution, collectors: Vec<Collector>) -> Self {
        Self {
            distribution,
            failover: Failover::new(collectors.len()),
            collectors,
            tables: Arc::default(),
            detailed: Vec::with_capacity(DETAILED_MAX),
        }
    }

    /// The same exporter, whose records say what `tables` know when they are pushed.
    #[must_use]
    pub fn with_details(self, tables: Arc<DetailTables>) -> Self {
        Self { tables, ..self }
    }

    /// Tells the time that sending goes by, in ms of any epoch; it never goes back.
    pub fn begin_turn(&mut self, now_ms: u64) {
        self.collectors
            .iter_mut()
            .for_each(|collector| collector.begin_turn(now_ms));
        self.failover.begin_turn(now_ms);
    }

    /// Adds records to the datagrams under construction. `now` is no earlier than any uptime in
    /// them.
    pub fn push(&mut self, records: &[FlowRecord], now: Moment) {
        debug_assert!(
            records
                .iter()
                .all(|record| record.first_ms <= record.last_ms && record.last_ms <= now.uptime_ms)
        );
        let Self {
            distribution,
            collectors,
            failover,
            tables,
            detailed,
        } = self;
        for records in records.chunks(DETAILED_MAX) {
            detailed.clear();
            tables.detail(records, detailed);
            match distribution {
                Distribution::Copy => collectors
                    .iter_mut()
                    .for_each(|collector| collector.push(detailed, now)),
                Distribution::Balance => {
                    for record in detailed.iter() {
                        let share = share_of(&record.flow.key, collectors.len());
                        collectors[share].push(std::slice::from_ref(record), now);
                    }
                }
                Distribution::Failover => failover.push(collectors, detailed, now),
            }
        }
    }

    /// Records that can be pushed before any is refused, at the least.
    #[must_use]
    pub fn room(&self) -> usize {
        self.collectors
            .iter()
            .map(Collector::room)
            .min()
            .unwrap_or(usize::MAX)
    }

    /// The uptime at which the oldest record came that has not left yet, in ms; none while all
    /// have.
    #[must_use]
    pub fn oldest_ms(&self) -> Option<u64> {
        self.collectors
            .iter()
            .filter_map(Collector::oldest_ms)
            .min()
    }

    /// The uptime at which the next datagram under construction has to be complete, in ms; none
    /// while all are empty.
    #[must_use]
    pub fn flush_due_ms(&self) -> Option<u64> {
        self.collectors
            .iter()
            .filter_map(Collector::flush_due_ms)
            .min()
    }

    /// Completes the datagrams whose flush delay is over at `now`, stamped with the moment at which
    /// it was over: so that what a capture file exports does not depend on when somebody looked.
    pub fn flush_due(&mut self, now: Moment) {
        for collector in &mut self.collectors {
            if let Some(due_ms) = collector
                .flush_due_ms()
                .filter(|due_ms| *due_ms <= now.uptime_ms)
            {
                collector.complete(now.at(due_ms));
            }
        }
    }

    /// Completes all datagrams under construction.
    pub fn flush(&mut self, now: Moment) {
        self.collectors
            .iter_mut()
            .for_each(|collector| collector.complete(now));
    }

    /// Sends what may leave; with `all`, however little that is. Returns when to come back, in ms,
    /// if any has to wait for its pace or its socket. `now` stamps what a refusing collector leaves
    /// to another.
    pub fn send(&mut self, all: bool, now: Moment) -> Option<u64> {
        if self.distribution == Distribution::Failover {
            return self.failover.send(&mut self.collectors, all, now);
        }
        self.collectors
            .iter_mut()
            .filter_map(|collector| collector.send(all, OnRefusal::GoOn))
            .min()
    }

    /// Leads to the `nth` collector by another way from here on.
    pub fn replace_transport(&mut self, nth: usize, transport: Box<dyn Transport>) {
        self.collectors[nth].replace_transport(transport);
    }

    /// Notes that the `nth` collector's name was resolved again, or could not be.
    pub fn note_resolved(&mut self, nth: usize, resolved: bool) {
        self.collectors[nth].note_resolved(resolved);
    }

    /// Completes what each collector was sent. Everything has left.
    ///
    /// # Errors
    ///
    /// What kept one of them incomplete, with its name; the others are completed all the same.
    pub fn finish(&mut self) -> io::Result<()> {
        let name =
            |name: &str, error: io::Error| io::Error::new(error.kind(), format!("{name}: {error}"));
        let finish = |to: &mut Collector| to.finish().map_err(|error| name(to.name(), error));
        // All of them before the first error is told.
        let finished: Vec<_> = self.collectors.iter_mut().map(finish).collect();
        finished.into_iter().collect()
    }

    /// What was done with the records that were pushed; those that wait are in no count. Where
    /// every collector is to get all, this is what became of them at the collector that got most.
    #[must_use]
    pub fn counters(&self) -> ExporterCounters {
        let each = self
            .collectors
            .iter()
            .map(|collector| ExporterCounters::from(&collector.counters()));
        match self.distribution {
            Distribution::Copy => each
                .rev()
                .max_by_key(|one| one.exported.records)
                .unwrap_or_default(),
            Distribution::Balance | Distribution::Failover => {
                each.fold(ExporterCounters::default(), |sum, one| sum + one)
            }
        }
    }

    /// How records are distributed.
    #[must_use]
    pub fn distribution(&self) -> Distribution {
        self.distribution
    }

    /// The collectors, with their own counters.
    #[must_use]
    pub fn collectors(&self) -> &[Collector] {
        &self.collectors
    }
}

impl From<&CollectorCounters> for ExporterCounters {
    fn from(counters: &CollectorCounters) -> Self {
        Self {
            exported: counters.exported,
            lost: counters.lost,
        }
    }
}

impl std::ops::Add for ExporterCounters {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        let lost = std::array::from_fn(|reason| self.lost[reason] + other.lost[reason]);
        Self {
            exported: self.exported + other.exported,
            lost,
        }
    }
}

/// Which of `collectors` gets the records of a key: the same one in every run.
fn share_of(key: &FlowKey, collectors: usize) -> usize {
    const SEED: u64 = 0x7864_7072_6f62_6500;
    let hash = FixedState::with_seed(SEED).hash_one(key);
    // The hash as a fraction of 2^64, times the number of shares (Lemire, "Fast random integer
    // generation in an interval").
    let share = (u128::from(hash) * collectors as u128) >> 64;
    usize::try_from(share).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::{CollectorConfig, CollectorState, Engine};
    use crate::pace::Pace;
    use crate::version::Version;
    use crate::{v1, v5, v7};
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::collections::HashMap;
    use std::io::IoSlice;
    use std::net::Ipv4Addr;
    use std::num::NonZeroU64;
    use std::sync::{Arc, Mutex};
    use xdprobe_flow::EndReason;

    /// A way that keeps what it is sent, and whose other end a test plays.
    #[derive(Clone, Default)]
    struct Way(Arc<Mutex<OtherEnd>>);

    #[derive(Default)]
    struct OtherEnd {
        datagrams: Vec<Vec<u8>>,
        /// What each call does to the datagrams that it is given.
        fails_with: Option<i32>,
        /// Takes datagrams and answers that nobody is there.
        refuses: bool,
        answer: Option<i32>,
        payload_octets_max: usize,
        datagrams_a_call: usize,
    }

    const ECONNREFUSED: i32 = 111;
    const EMSGSIZE: i32 = 90;
    const EAGAIN: i32 = 11;

    impl Way {
        fn new() -> Self {
            let end = OtherEnd {
                payload_octets_max: 1472,
                datagrams_a_call: 5,
                ..OtherEnd::default()
            };
            Self(Arc::new(Mutex::new(end)))
        }

        fn with<T>(&self, change: impl FnOnce(&mut OtherEnd) -> T) -> T {
            change(&mut self.0.lock().unwrap())
        }

        fn datagrams(&self) -> Vec<Vec<u8>> {
            self.with(|end| end.datagrams.clone())
        }

        /// Source ports, in which tests number their records, of all that arrived.
        fn numbers(&self) -> Vec<u16> {
            let datagrams = self.datagrams();
            let records = datagrams
                .iter()
                .flat_map(|datagram| v5::decode(datagram).unwrap().1);
            records.map(|record| record.source_port.get()).collect()
        }
    }

    impl Transport for Way {
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

        fn payload_octets_max(&self) -> usize {
            self.with(|end| end.payload_octets_max)
        }
    }

    fn exporter(distribution: Distribution, config: CollectorConfig, ways: &[Way]) -> Exporter {
        let collectors = ways
            .iter()
            .map(|way| Collector::new("test", way.clone(), config).unwrap());
        Exporter::new(distribution, collectors.collect())
    }

    fn copying(ways: &[Way]) -> Exporter {
        let engine = Engine { r#type: 1, id: 7 };
        let sampling = v5::Sampling::new(v5::SamplingMode::Random, 100).unwrap();
        let config = CollectorConfig {
            engine,
            sampling,
            flush_delay_ms: 500,
            ..Default::default()
        };
        exporter(Distribution::Copy, config, ways)
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
        FlowRecord {
            key,
            packets: 2,
            octets: 100,
            first_ms,
            last_ms,
            tcp_flags: 0x1b,
            end: EndReason::Idle,
        }
    }

    fn numbered(numbers: std::ops::Range<u16>) -> Vec<FlowRecord> {
        let number = |source_port| FlowRecord {
            key: FlowKey {
                source_port,
                ..record(1, 2).key
            },
            ..record(1, 2)
        };
        numbers.map(number).collect()
    }

    /// 1 700 000 000 s after 1970, in ms: when the tests' uptime began.
    const EPOCH_MS: u64 = 1_700_000_000_000;

    fn moment(uptime_ms: u64) -> Moment {
        Moment {
            uptime_ms: 0,
            unix_ns: EPOCH_MS * 1_000_000,
        }
        .at(uptime_ms)
    }

    /// One turn of the exporter's thread at `now_ms`.
    fn turn(exporter: &mut Exporter, records: &[FlowRecord], now_ms: u64) -> Option<u64> {
        exporter.begin_turn(now_ms);
        exporter.flush_due(moment(now_ms));
        exporter.push(records, moment(now_ms));
        exporter.flush(moment(now_ms));
        exporter.send(true, moment(now_ms))
    }

    /// The counters, once everything is answered.
    fn settled(exporter: &mut Exporter) -> ExporterCounters {
        exporter.finish().unwrap();
        exporter.counters()
    }

    #[test]
    fn a_datagram_has_as_many_records_as_the_version_and_the_path_allow() {
        for (version, payload, wanted) in [
            (Version::V5, 1472, 30),
            (Version::V5, 1452, 29),
            (Version::V5, 72, 1),
            (Version::V1, 9000, 24),
            (Version::V1, 1000, 20),
            (Version::V7, 1472, 27),
            (Version::V7, 1400, 26),
        ] {
            let way = Way::new();
            way.with(|end| end.payload_octets_max = payload);
            let config = CollectorConfig {
                version,
                ..Default::default()
            };
            let mut exporter = exporter(Distribution::Copy, config, std::slice::from_ref(&way));
            turn(&mut exporter, &vec![record(1, 2); 60], 5);
            let datagrams = way.datagrams();
            assert_eq!(
                version.records_in(datagrams[0].len()),
                wanted,
                "{version:?} in {payload}"
            );
            assert!(datagrams.iter().all(|datagram| datagram.len() <= payload));
            assert_eq!(settled(&mut exporter).exported.records, 60);
        }
    }

    #[test]
    fn a_path_too_narrow_for_one_record_is_refused_with_both_lengths() {
        let way = Way::new();
        way.with(|end| end.payload_octets_max = 71);
        let error = Collector::new("narrow", way, CollectorConfig::default())
            .err()
            .unwrap()
            .to_string();
        assert!(
            error.contains("carries 71 octets") && error.contains("takes 72"),
            "{error}"
        );
    }

    #[test]
    fn a_lonely_record_waits_no_longer_than_the_flush_delay() {
        let way = Way::new();
        let mut exporter = copying(std::slice::from_ref(&way));
        assert_eq!(exporter.flush_due_ms(), None);
        exporter.push(&[record(1, 2)], moment(100));
        exporter.push(&[record(1, 2)], moment(300));
        assert_eq!(exporter.flush_due_ms(), Some(600));
        exporter.flush_due(moment(599));
        exporter.send(true, moment(599));
        assert!(way.datagrams().is_empty());
        exporter.flush_due(moment(9_000));
        exporter.send(true, moment(9_000));
        let datagrams = way.datagrams();
        let (header, records) = v5::decode(&datagrams[0]).unwrap();
        assert_eq!((header.sys_uptime_ms.get(), records.len()), (600, 2));
        assert_eq!(
            (header.engine_type, header.engine_id, header.sampling.get()),
            (1, 7, 0x8064)
        );
    }

    #[test]
    fn what_cannot_be_sent_is_lost_by_kind_and_seen_in_the_sequence() {
        // ENETUNREACH, ENOBUFS, EMSGSIZE, EPERM, ECONNREFUSED, EIO.
        for (kind, errno) in [101, 105, EMSGSIZE, 1, ECONNREFUSED, 5]
            .into_iter()
            .enumerate()
        {
            let way = Way::new();
            let mut exporter = copying(std::slice::from_ref(&way));
            way.with(|end| end.fails_with = Some(errno));
            turn(&mut exporter, &[record(1, 2)], 5);
            way.with(|end| end.fails_with = None);
            turn(&mut exporter, &[record(1, 2); 2], 5);
            let counters = settled(&mut exporter);
            let lost = counters.lost[LossReason::Send as usize];
            assert_eq!(
                (counters.exported.records, lost.records, lost.volume.octets),
                (2, 1, 100),
                "errno {errno}"
            );
            assert_eq!(
                exporter.collectors()[0].counters().errors[kind],
                1,
                "errno {errno}"
            );
            assert_eq!(
                v5::decode(&way.datagrams()[0])
                    .unwrap()
                    .0
                    .flow_sequence
                    .get(),
                1
            );
        }
    }

    #[test]
    fn one_collector_that_fails_costs_the_others_nothing() {
        let ways = [Way::new(), Way::new(), Way::new()];
        ways[0].with(|end| end.fails_with = Some(101));
        ways[1].with(|end| end.refuses = true);
        let mut exporter = copying(&ways);
        for now_ms in 0..20 {
            turn(&mut exporter, &[record(0, 0); 40], now_ms);
        }
        assert_eq!(ways[2].numbers().len(), 800);
        assert_eq!(
            settled(&mut exporter).exported.records,
            800,
            "of the collector that got most"
        );
        for collector in &exporter.collectors()[..2] {
            let counters = collector.counters();
            // What was sent last has no answer yet.
            assert!(counters.lost_total().records >= 760, "{counters:?}");
            assert_eq!((counters.exported + counters.lost_total()).records, 800);
        }
        assert_eq!(
            exporter.collectors()[1].counters().state(),
            CollectorState::Refusing
        );
    }

    #[test]
    fn a_refused_collector_that_comes_back_is_up_again() {
        let way = Way::new();
        let mut exporter = copying(std::slice::from_ref(&way));
        way.with(|end| end.refuses = true);
        turn(&mut exporter, &[record(1, 2); 30], 5);
        way.with(|end| end.refuses = false);
        turn(&mut exporter, &[record(1, 2); 30], 6);
        turn(&mut exporter, &[record(1, 2); 30], 7);
        settled(&mut exporter);
        let counters = exporter.collectors()[0].counters();
        assert_eq!(
            (
                counters.refusals,
                counters.sent.records,
                counters.exported.records
            ),
            (1, 90, 60)
        );
        assert_eq!(
            exporter.collectors()[0].counters().state(),
            CollectorState::Up
        );
        assert_eq!(
            v5::decode(&way.datagrams()[0])
                .unwrap()
                .0
                .flow_sequence
                .get(),
            30,
            "the loss is seen"
        );
    }

    #[test]
    fn each_key_has_one_collector_and_each_collector_a_like_share() {
        let ways = [Way::new(), Way::new(), Way::new()];
        ways[2].with(|end| end.refuses = true);
        let mut exporter = exporter(Distribution::Balance, CollectorConfig::default(), &ways);
        let records = numbered(0..9_000);
        for (now_ms, batch) in (5..).zip(records.chunks(100)) {
            turn(&mut exporter, batch, now_ms);
            turn(&mut exporter, batch, now_ms);
        }
        let mut homes = HashMap::new();
        for (home, way) in ways.iter().enumerate() {
            for number in way.numbers() {
                assert_eq!(*homes.entry(number).or_insert(home), home);
            }
            let mut sequence = 0;
            for datagram in way.datagrams() {
                let (header, records) = v5::decode(&datagram).unwrap();
                assert_eq!(header.flow_sequence.get(), sequence);
                sequence += u32::try_from(records.len()).unwrap();
            }
        }
        let sent = |nth: usize| exporter.collectors()[nth].counters().sent.records;
        assert_eq!(
            (ways[0].numbers().len() + ways[1].numbers().len()) as u64 + sent(2),
            18_000
        );
        assert!(
            (0..3).all(|nth| (5_400..6_600).contains(&sent(nth))),
            "{} {} {}",
            sent(0),
            sent(1),
            sent(2)
        );
        let counters = settled(&mut exporter);
        let lost: u64 = counters.lost.iter().map(|lost| lost.records).sum();
        assert_eq!(counters.exported.records + lost, 18_000);
    }

    #[test]
    fn failover_moves_on_with_what_waits_and_comes_back_after_a_trial() {
        let ways = [Way::new(), Way::new()];
        let mut exporter = exporter(Distribution::Failover, CollectorConfig::default(), &ways);
        turn(&mut exporter, &numbered(0..30), 5);
        ways[0].with(|end| end.refuses = true);
        turn(&mut exporter, &numbered(30..40), 10);
        // The answer comes: this one never goes to the first, and the second gets all of it.
        turn(&mut exporter, &numbered(40..80), 20);
        assert_eq!(
            (ways[0].numbers().len(), ways[1].numbers()),
            (30, (40..80).collect())
        );
        // Not before its time; then with one record, which is refused again.
        turn(&mut exporter, &numbered(80..90), 1_019);
        turn(&mut exporter, &numbered(90..100), 1_020);
        turn(&mut exporter, &numbered(100..110), 2_020);
        assert_eq!(
            ways[1].numbers(),
            (40..90).chain(91..110).collect::<Vec<_>>()
        );
        ways[0].with(|end| end.refuses = false);
        turn(&mut exporter, &numbered(110..120), 4_019);
        turn(&mut exporter, &numbered(120..130), 4_020);
        turn(&mut exporter, &numbered(130..140), 5_019);
        turn(&mut exporter, &[], 5_020);
        turn(&mut exporter, &numbered(140..150), 5_021);
        assert_eq!(
            ways[0].numbers(),
            (0..30).chain([120]).chain(140..150).collect::<Vec<_>>()
        );
        let counters = settled(&mut exporter);
        assert_eq!(
            (
                counters.exported.records,
                counters.lost[LossReason::Refused as usize].records
            ),
            (139, 11)
        );
        for way in &ways {
            let sequences: Vec<_> = way
                .datagrams()
                .iter()
                .map(|one| v5::decode(one).unwrap().0.flow_sequence.get())
                .collect();
            assert!(sequences.is_sorted());
        }
        assert_eq!(
            exporter.collectors()[1].counters().sent.records,
            ways[1].numbers().len() as u64
        );
        let second = ways[1].datagrams();
        let last = v5::decode(second.last().unwrap()).unwrap().0;
        assert_eq!(
            last.flow_sequence.get() + u32::from(last.count.get()),
            98,
            "an unbroken sequence of its own"
        );
    }

    #[test]
    fn a_collector_that_gave_its_place_back_sends_what_it_was_filling() {
        let ways = [Way::new(), Way::new()];
        let mut exporter = exporter(Distribution::Failover, CollectorConfig::default(), &ways);
        ways[0].with(|end| end.refuses = true);
        turn(&mut exporter, &numbered(0..1), 10);
        turn(&mut exporter, &numbered(1..2), 20);
        ways[0].with(|end| end.refuses = false);
        turn(&mut exporter, &numbered(2..3), 1_020);
        exporter.begin_turn(2_020);
        exporter.push(&numbered(3..4), moment(2_020));
        assert_eq!(
            exporter.send(true, moment(2_020)),
            None,
            "with nothing left to wait for"
        );
        assert_eq!(
            (ways[0].numbers(), ways[1].numbers()),
            (vec![2], vec![1, 3])
        );
    }

    #[test]
    fn where_all_refuse_the_last_one_is_sent_to_all_the_same_and_the_first_that_is_back_is_found() {
        let ways = [Way::new(), Way::new()];
        ways.iter()
            .for_each(|way| way.with(|end| end.refuses = true));
        let mut exporter = exporter(Distribution::Failover, CollectorConfig::default(), &ways);
        for now_ms in 0..15_000 {
            if now_ms == 5_000 {
                ways[0].with(|end| end.refuses = false);
            }
            turn(&mut exporter, &[record(0, 0)], now_ms);
        }
        assert!(ways[0].numbers().len() > 1_000);
        let counters = settled(&mut exporter);
        let lost: u64 = counters.lost.iter().map(|lost| lost.records).sum();
        assert_eq!(counters.exported.records + lost, 15_000);
    }

    #[test]
    fn a_pace_spreads_what_comes_at_once_and_refuses_what_does_not_fit() {
        let way = Way::new();
        let pace = Pace {
            records_per_s: NonZeroU64::new(30_000),
            octets_per_s: None,
        };
        let config = CollectorConfig {
            pace,
            paced_records_max: 3_000,
            ..Default::default()
        };
        let mut exporter = exporter(Distribution::Copy, config, std::slice::from_ref(&way));
        let mut due = turn(&mut exporter, &numbered(0..4_000), 100);
        let mut sent_by = Vec::new();
        while let Some(due_ms) = due {
            sent_by.push((due_ms, way.datagrams().len()));
            exporter.begin_turn(due_ms);
            due = exporter.send(true, moment(due_ms));
        }
        // 300 are there at once, which is ten milliseconds' worth; then one datagram a millisecond.
        assert_eq!(sent_by[0], (101, 10));
        assert!(sent_by.is_sorted() && sent_by.windows(2).all(|pair| pair[1].1 - pair[0].1 <= 1));
        let counters = exporter.collectors()[0].counters();
        let refused = counters.lost[LossReason::Pacing as usize].records;
        assert_eq!((counters.sent.records, refused), (3_030, 970));
        assert_eq!(counters.delayed_records, 3_030 - 300);
        assert_eq!(counters.delayed_ms, (1..=91).sum::<u64>());
        turn(&mut exporter, &numbered(0..1), 1_000);
        let datagrams = way.datagrams();
        assert_eq!(
            v5::decode(datagrams.last().unwrap())
                .unwrap()
                .0
                .flow_sequence
                .get(),
            4_000,
            "the loss is seen"
        );
    }

    #[test]
    fn a_socket_that_takes_nothing_keeps_records_waiting_and_then_loses_them() {
        let way = Way::new();
        let mut exporter = copying(std::slice::from_ref(&way));
        way.with(|end| end.fails_with = Some(EAGAIN));
        assert_eq!(turn(&mut exporter, &[record(1, 2); 60], 5), Some(6));
        assert_eq!(exporter.collectors()[0].counters().waiting, 60);
        way.with(|end| end.fails_with = None);
        assert_eq!(turn(&mut exporter, &[], 6), None);
        assert_eq!(settled(&mut exporter).exported.records, 60);
        way.with(|end| end.fails_with = Some(EAGAIN));
        turn(&mut exporter, &vec![record(1, 2); 40_000], 10);
        turn(&mut exporter, &[], 5_010);
        let lost = settled(&mut exporter).lost;
        let (socket, send) = (
            lost[LossReason::Socket as usize].records,
            lost[LossReason::Send as usize].records,
        );
        // The first push of a turn finds nothing blocked yet, so what does not fit then is not told
        // apart.
        assert_eq!(
            socket + lost[LossReason::Pacing as usize].records,
            40_000 - 1_024 * 30
        );
        assert_eq!(send, 1_024 * 30);
    }

    #[test]
    fn a_path_that_becomes_narrower_gets_shorter_datagrams_and_the_sequence_stays_unbroken() {
        for version in [Version::V1, Version::V5, Version::V7] {
            let way = Way::new();
            let config = CollectorConfig {
                version,
                ..Default::default()
            };
            let mut exporter = exporter(Distribution::Copy, config, std::slice::from_ref(&way));
            way.with(|end| end.payload_octets_max = 500);
            turn(&mut exporter, &vec![record(1, 2); 70], 5);
            turn(&mut exporter, &vec![record(1, 2); 70], 6);
            let datagrams = way.datagrams();
            assert!(datagrams.iter().all(|datagram| datagram.len() <= 500));
            let (mut records, mut packets) = (0, 0);
            for datagram in &datagrams {
                let counts: Vec<u32> = match version {
                    Version::V1 => v1::decode(datagram)
                        .unwrap()
                        .1
                        .iter()
                        .map(|record| record.packets.get())
                        .collect(),
                    Version::V5 => {
                        let (header, found) = v5::decode(datagram).unwrap();
                        assert_eq!(header.flow_sequence.get(), records);
                        found.iter().map(|record| record.packets.get()).collect()
                    }
                    Version::V7 => {
                        let (header, found) = v7::decode(datagram).unwrap();
                        assert_eq!(header.flow_sequence.get(), records);
                        found.iter().map(|record| record.packets.get()).collect()
                    }
                };
                records += u32::try_from(counts.len()).unwrap();
                packets += counts.iter().sum::<u32>();
            }
            assert_eq!((records, packets), (140, 280), "{version:?}");
            assert_eq!(
                settled(&mut exporter).exported.volume,
                Volume {
                    packets: 280,
                    octets: 14_000
                }
            );
        }
    }

    #[test]
    fn another_way_to_a_collector_goes_on_in_its_sequence() {
        let ways = [Way::new(), Way::new()];
        let mut exporter = copying(&ways[..1]);
        turn(&mut exporter, &numbered(0..10), 5);
        exporter.push(&numbered(10..20), moment(6));
        exporter.replace_transport(0, Box::new(ways[1].clone()));
        exporter.note_resolved(0, true);
        turn(&mut exporter, &numbered(20..30), 7);
        assert_eq!(
            (ways[0].numbers(), ways[1].numbers()),
            ((0..10).collect(), (10..30).collect())
        );
        assert_eq!(
            v5::decode(&ways[1].datagrams()[0])
                .unwrap()
                .0
                .flow_sequence
                .get(),
            10
        );
        exporter.note_resolved(0, false);
        let collector = &exporter.collectors()[0];
        assert_eq!(
            (
                collector.counters().resolves,
                collector.counters().resolve_failures
            ),
            (1, 1)
        );
        assert_eq!(collector.counters().state(), CollectorState::Unresolved);
    }

    /// What one datagram says of time and sequence: count, uptime, UTC in ms, sequence where it has
    /// one, First and Last.
    type Said = (u16, u32, u64, Option<u32>, Vec<(u32, u32)>);

    fn said(version: Version, datagram: &[u8]) -> Said {
        let unix_ms = |s: u32, ns: u32| u64::from(s) * 1_000 + u64::from(ns) / 1_000_000;
        match version {
            Version::V1 => {
                let (header, records) = v1::decode(datagram).unwrap();
                let times = records
                    .iter()
                    .map(|record| (record.first_ms.get(), record.last_ms.get()))
                    .collect();
                let unix_ms = unix_ms(header.unix_s.get(), header.unix_ns.get());
                (
                    header.count.get(),
                    header.sys_uptime_ms.get(),
                    unix_ms,
                    None,
                    times,
                )
            }
            Version::V5 => {
                let (header, records) = v5::decode(datagram).unwrap();
                let times = records
                    .iter()
                    .map(|record| (record.first_ms.get(), record.last_ms.get()))
                    .collect();
                let unix_ms = unix_ms(header.unix_s.get(), header.unix_ns.get());
                (
                    header.count.get(),
                    header.sys_uptime_ms.get(),
                    unix_ms,
                    Some(header.flow_sequence.get()),
                    times,
                )
            }
            Version::V7 => {
                let (header, records) = v7::decode(datagram).unwrap();
                let times = records
                    .iter()
                    .map(|record| (record.first_ms.get(), record.last_ms.get()))
                    .collect();
                let unix_ms = unix_ms(header.unix_s.get(), header.unix_ns.get());
                (
                    header.count.get(),
                    header.sys_uptime_ms.get(),
                    unix_ms,
                    Some(header.flow_sequence.get()),
                    times,
                )
            }
        }
    }

    proptest! {
        /// In every version the sequence of each datagram is that of the one before plus its count;
        /// in the order of arithmetic modulo 2^32 First <= Last <= SysUptime; and the header's two
        /// clocks belong together: from any start, across the wrap after 49.7 days, and across a
        /// step of the wall clock of an hour either way, which no First or Last shows.
        #[test]
        fn sequence_and_uptimes_hold_on_every_record(
            version in prop_oneof![Just(Version::V1), Just(Version::V5), Just(Version::V7)],
            start_ms in prop_oneof![0u64..10_000, (1u64 << 32) - 5_000..(1 << 32) + 5_000],
            steps in vec((0u64..900, 0u64..3_000, 0u64..3_000, 1usize..50), 1..60),
            wall_step in (0usize..60, prop_oneof![Just(-3_600_000i64), Just(0), Just(3_600_000)]),
        ) {
            let way = Way::new();
            let config = CollectorConfig { version, ..Default::default() };
            let mut exporter = exporter(Distribution::Copy, config, std::slice::from_ref(&way));
            let (mut now_ms, mut pushed, mut wall_ms) = (start_ms, 0, EPOCH_MS);
            let moment = |now_ms, wall_ms: u64| Moment { uptime_ms: 0, unix_ns: wall_ms * 1_000_000 }.at(now_ms);
            for (nth, (pause_ms, age_ms, length_ms, count)) in steps.iter().enumerate() {
                now_ms += pause_ms;
                if nth == wall_step.0 {
                    wall_ms = wall_ms.checked_add_signed(wall_step.1).unwrap();
                }
                let last_ms = now_ms.saturating_sub(*age_ms);
                exporter.begin_turn(now_ms);
                exporter.flush_due(moment(now_ms, wall_ms));
                let records = vec![record(last_ms.saturating_sub(*length_ms), last_ms); *count];
                exporter.push(&records, moment(now_ms, wall_ms));
                exporter.send(nth % 2 == 0, moment(now_ms, wall_ms));
                pushed += count;
            }
            exporter.flush(moment(now_ms, wall_ms));
            exporter.send(true, moment(now_ms, wall_ms));
            let mut sequence = 0u32;
            for datagram in way.datagrams() {
                let (count, uptime, unix_ms, found, times) = said(version, &datagram);
                prop_assert_eq!(found.unwrap_or(sequence), sequence);
                sequence = sequence.wrapping_add(u32::from(count));
                for (first, last) in times {
                    prop_assert!(last.wrapping_sub(first) <= 3_000 && uptime.wrapping_sub(last) <= 6_000);
                }
                let began_ms = [EPOCH_MS, wall_ms].map(|wall_ms| v5::uptime_on_the_wire(unix_ms.wrapping_sub(wall_ms)));
                prop_assert!(began_ms.contains(&uptime));
            }
            prop_assert_eq!(sequence as usize, pushed);
            prop_assert_eq!(settled(&mut exporter).exported.records, pushed as u64);
        }

        /// Whatever happens to whom, in every distribution: each record is exported or lost by
        /// count, once for each that was to get it, with its packets; and each collector's
        /// datagrams that arrived never overlap in its sequence.
        #[test]
        fn no_record_is_lost_or_counted_twice(
            distribution in prop_oneof![Just(Distribution::Copy), Just(Distribution::Balance), Just(Distribution::Failover)],
            paced: bool,
            turns in vec((0u16..200, 0u64..1_500, 0usize..3, 0usize..6), 1..60),
        ) {
            let ways = [Way::new(), Way::new(), Way::new()];
            let pace = Pace { records_per_s: NonZeroU64::new(1_000), octets_per_s: NonZeroU64::new(60_000) };
            let pace = if paced { pace } else { Pace::default() };
            let config = CollectorConfig { pace, paced_records_max: 300, ..Default::default() };
            let mut exporter = exporter(distribution, config, &ways);
            let (mut now_ms, mut pushed) = (0, 0u16);
            for (count, pause_ms, whose, what) in turns {
                now_ms += pause_ms;
                ways[whose].with(|end| {
                    end.refuses = what == 1;
                    end.fails_with = [None, None, Some(101), Some(EAGAIN), None, None][what];
                    end.payload_octets_max = [1472, 1472, 1472, 1472, 300, 1452][what];
                });
                let records = numbered(pushed..pushed + count);
                pushed += count;
                exporter.begin_turn(now_ms);
                exporter.push(&records, moment(now_ms + 2));
                exporter.flush_due(moment(now_ms + 2));
                exporter.send(what % 2 == 0, moment(now_ms + 2));
            }
            ways.iter().for_each(|way| way.with(|end| end.fails_with = None));
            exporter.flush(moment(now_ms + 2));
            for _ in 0..10_000 {
                exporter.begin_turn(now_ms);
                let Some(due_ms) = exporter.send(true, moment(now_ms + 2)) else { break };
                now_ms = due_ms;
            }
            let counters = settled(&mut exporter);
            let total = counters.lost.iter().fold(counters.exported, |sum, lost| sum + *lost);
            prop_assert_eq!((total.records, total.volume.packets), (u64::from(pushed), 2 * u64::from(pushed)));
            for (way, collector) in ways.iter().zip(exporter.collectors()) {
                prop_assert_eq!(collector.counters().waiting, 0);
                let of_it = collector.counters().exported + collector.counters().lost_total();
                prop_assert!(distribution != Distribution::Copy || of_it.records == u64::from(pushed));
                prop_assert!(way.numbers().len() as u64 <= collector.counters().sent.records);
                let mut next = 0;
                for datagram in way.datagrams() {
                    let (header, records) = v5::decode(&datagram).unwrap();
                    prop_assert!(header.flow_sequence.get() >= next);
                    next = header.flow_sequence.get() + u32::try_from(records.len()).unwrap();
                }
            }
        }
    }
}
