//! Collectors that are added and removed while the exporter works.

use crate::support::*;
use proptest::collection::vec;
use proptest::prelude::*;
use std::num::NonZeroU64;
use std::slice::from_ref;
use std::sync::{Arc, Mutex};
use xdprobe_export::{
    CollectorCounters, CollectorId, DatagramConfig, DetailedRecord, Distribution, Exporter,
    ExporterCounters, FixedFormat, LossReason, Moment, Outlet, Pace, Tally,
};

/// The shortest outlet: keeps the records themselves, as a file does.
#[derive(Clone, Default)]
struct Notebook(Arc<Mutex<Vec<u16>>>, CollectorCounters);

impl Outlet for Notebook {
    fn push(&mut self, records: &[DetailedRecord], _: Moment) {
        let numbers = records.iter().map(|record| record.flow.key.source_port);
        self.0.lock().unwrap().extend(numbers);
        let tally = DetailedRecord::tally(records);
        self.1.sent += tally;
        self.1.exported += tally;
    }

    fn counters(&self) -> CollectorCounters {
        self.1
    }
}

/// An outlet that sends 1 000 records a second, and keeps what waits as records if it may.
fn paced(line: &Line, keeps_records: bool) -> Box<dyn Outlet> {
    let pace = Pace {
        records_per_s: NonZeroU64::new(1_000),
        octets_per_s: None,
    };
    let config = DatagramConfig {
        pace,
        keeps_records,
        paced_records_max: 300,
        ..DatagramConfig::default()
    };
    outlet(FixedFormat::default(), config, line)
}

fn lost(counters: &ExporterCounters, reason: LossReason) -> u64 {
    counters.lost[reason as usize].records
}

#[test]
fn an_id_is_never_used_again() {
    let mut exporter = Exporter::new(Distribution::Copy);
    let line = Line::new();
    let first = exporter.add("first", paced(&line, false));
    assert_eq!(exporter.remove(first, moment(0)).unwrap().name, "first");
    let second = exporter.add("second", paced(&line, false));
    assert_ne!(first, second);
    assert!(exporter.remove(first, moment(0)).is_none());
    exporter.note_resolved(first, false);
    exporter.replace_transport(first, Box::new(line));
    let names: Vec<_> = exporter
        .collectors()
        .map(|(id, name, _)| (id, name))
        .collect();
    assert_eq!(names, [(second, "second")]);
}

#[test]
fn a_copy_that_waits_for_a_removed_collector_is_lost_by_that_reason() {
    let mut exporter = Exporter::new(Distribution::Copy);
    let lines = [Line::new(), Line::new()];
    let ids = lines
        .each_ref()
        .map(|line| exporter.add("paced", paced(line, true)));
    turn(&mut exporter, &numbered(0..100), 10);
    let removed = exporter.remove(ids[0], moment(10)).unwrap();
    // One datagram was in the bucket.
    assert_eq!(lines[0].numbers().len(), 30);
    let of_it = ExporterCounters::from(&removed.counters);
    assert_eq!(
        (of_it.exported.records, lost(&of_it, LossReason::Removed)),
        (30, 70)
    );
    send_all(&mut exporter, 10);
    assert_eq!(lines[1].numbers().len(), 100);
    assert_eq!(settled(&mut exporter).exported.records, 100);
}

#[test]
fn what_waits_for_a_removed_collector_goes_to_the_others_where_each_record_goes_to_one() {
    for distribution in [Distribution::Balance, Distribution::Failover] {
        let mut exporter = Exporter::new(distribution);
        let line = Line::new();
        let notebook = Notebook::default();
        let first = exporter.add("paced", paced(&line, true));
        turn(&mut exporter, &numbered(0..100), 10);
        exporter.add("notebook", Box::new(notebook.clone()));
        let removed = exporter.remove(first, moment(10)).unwrap();
        assert_eq!(removed.counters.handed_on.records, 70);
        assert_eq!(line.numbers(), (0..30).collect::<Vec<_>>());
        assert_eq!(*notebook.0.lock().unwrap(), (30..100).collect::<Vec<_>>());
        let counters = settled(&mut exporter);
        assert_eq!(
            (counters.exported.records, counters.settled().records),
            (100, 100)
        );
    }
}

#[test]
fn failover_hands_what_waits_from_an_outlet_of_one_kind_to_one_of_another() {
    let mut exporter = Exporter::new(Distribution::Failover);
    let line = Line::new();
    let notebook = Notebook::default();
    exporter.add("refuses", paced(&line, true));
    exporter.add("notebook", Box::new(notebook.clone()));
    line.with(|end| end.refuses = true);
    turn(&mut exporter, &numbered(0..100), 10);
    turn(&mut exporter, &numbered(100..110), 20);
    assert_eq!(*notebook.0.lock().unwrap(), (30..110).collect::<Vec<_>>());
    line.with(|end| end.refuses = false);
    // The trial is numbered behind what was sent: what was handed on never counted.
    turn(&mut exporter, &numbered(110..111), 1_020);
    assert_eq!((line.numbers(), line.sequences()), (vec![110], vec![30]));
}

#[test]
fn without_a_collector_records_are_lost_and_the_first_one_gets_all_from_then_on() {
    for distribution in [
        Distribution::Copy,
        Distribution::Balance,
        Distribution::Failover,
    ] {
        let mut exporter = Exporter::new(distribution);
        turn(&mut exporter, &numbered(0..10), 10);
        let counters = settled(&mut exporter);
        assert_eq!(
            (
                counters.settled().records,
                lost(&counters, LossReason::Removed)
            ),
            (10, 10)
        );
        let notebook = Notebook::default();
        exporter.add("notebook", Box::new(notebook.clone()));
        turn(&mut exporter, &numbered(10..30), 20);
        assert_eq!(*notebook.0.lock().unwrap(), (10..30).collect::<Vec<_>>());
        let counters = settled(&mut exporter);
        assert_eq!(
            (counters.exported.records, counters.settled().records),
            (20, 30)
        );
        assert_eq!(counters_of(&exporter, 0).taken_before.records, 10);
    }
}

#[test]
fn what_the_removed_collector_got_stays_exported_even_if_another_one_loses_it_later() {
    let lines = [Line::new(), Line::new()];
    let mut exporter = copying(from_ref(&lines[0]));
    let second = exporter.add("paced", paced(&lines[1], false));
    turn(&mut exporter, &numbered(0..100), 10);
    assert_eq!(settled(&mut exporter).exported.records, 100);
    let (first, ..) = exporter.collectors().next().unwrap();
    exporter.remove(first, moment(10)).unwrap();
    assert_eq!(exporter.counters().exported.records, 100);
    // The other one still has 70 of these records, and gets 20 new ones.
    turn(&mut exporter, &numbered(100..120), 11);
    send_all(&mut exporter, 11);
    let counters = settled(&mut exporter);
    assert_eq!(
        (counters.exported.records, counters.settled().records),
        (120, 120)
    );
    assert!(exporter.remove(second, moment(2_000)).is_some());
    assert_eq!(exporter.counters(), counters);
}

/// What happens before the records of a turn come.
#[derive(Clone, Debug)]
enum Change {
    Nothing,
    /// A collector is added: over a line or as a notebook, and whether it keeps records.
    Add {
        over_line: Option<usize>,
        keeps_records: bool,
    },
    /// The `nth` of those that there are is removed.
    Remove(usize),
    /// The other end of a line behaves in another way.
    Line(usize, usize),
    /// All that waits is sent.
    Settle,
}

fn any_change() -> impl Strategy<Value = Change> {
    prop_oneof![
        2 => Just(Change::Nothing),
        2 => (proptest::option::weighted(0.8, 0usize..3), any::<bool>())
            .prop_map(|(over_line, keeps_records)| Change::Add { over_line, keeps_records }),
        2 => (0usize..5).prop_map(Change::Remove),
        4 => (0usize..3, 0usize..6).prop_map(|(line, what)| Change::Line(line, what)),
        1 => Just(Change::Settle),
    ]
}

/// Every number that never falls.
fn numbers_of(counters: &ExporterCounters) -> Vec<u64> {
    let tallies = std::iter::once(counters.exported).chain(counters.lost);
    tallies
        .flat_map(|tally| {
            [
                tally.records,
                tally.datagrams,
                tally.volume.packets,
                tally.volume.octets,
            ]
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whichever collectors come and go and whatever they do, no total ever falls; each collector
    /// accounts for all records that were meant for it, at every moment; and at rest the totals are
    /// what was pushed. Where every collector gets every record, what had been taken before one
    /// came and what became of its own are that as well.
    #[test]
    fn totals_never_fall_and_are_exact_at_rest(
        distribution in any_distribution(),
        is_paced: bool,
        turns in vec((any_change(), 0u16..200, 0u64..1_500), 1..60),
    ) {
        let lines = [Line::new(), Line::new(), Line::new()];
        let mut exporter = Exporter::new(distribution);
        let mut ids: Vec<CollectorId> = Vec::new();
        let (mut now_ms, mut pushed) = (0, 0u16);
        let mut before = numbers_of(&exporter.counters());
        for (change, count, pause_ms) in turns {
            now_ms += pause_ms;
            exporter.begin_turn(now_ms);
            match change {
                Change::Nothing => {}
                Change::Add { over_line: None, .. } => {
                    ids.push(exporter.add("notebook", Box::new(Notebook::default())));
                }
                Change::Add { over_line: Some(line), keeps_records } => {
                    let config = DatagramConfig { keeps_records, ..DatagramConfig::default() };
                    lines[line].with(|end| end.payload_octets_max = 1_472);
                    let outlet = if is_paced {
                        paced(&lines[line], keeps_records)
                    } else {
                        outlet(FixedFormat::default(), config, &lines[line])
                    };
                    ids.push(exporter.add("line", outlet));
                }
                Change::Remove(nth) => {
                    if let Some(id) = ids.get(nth).copied() {
                        ids.remove(nth);
                        let counters = exporter.remove(id, moment(now_ms + 2)).unwrap().counters;
                        let settled = counters.exported + counters.lost_total();
                        prop_assert_eq!(
                            (settled + counters.handed_on).metered(),
                            counters.pushed.metered()
                        );
                    }
                }
                Change::Line(line, what) => lines[line].behave(what),
                Change::Settle => {
                    now_ms = send_all(&mut exporter, now_ms);
                    exporter.finish().unwrap();
                }
            }
            exporter.push(&numbered(pushed..pushed + count), moment(now_ms + 2));
            pushed += count;
            exporter.flush_due(moment(now_ms + 2));
            exporter.send(pause_ms % 2 == 0, moment(now_ms + 2));
            for (_, _, counters) in exporter.collectors() {
                prop_assert!(counters.accounts_for_all(), "{:?}", counters);
            }
            let numbers = numbers_of(&exporter.counters());
            let fell = before.iter().zip(&numbers).any(|(before, now)| now < before);
            prop_assert!(!fell, "{:?} {:?}", before, numbers);
            before = numbers;
        }
        lines.iter().for_each(|line| line.with(|end| end.fails_with = None));
        send_all(&mut exporter, now_ms);
        let counters = settled(&mut exporter);
        let fell = before.iter().zip(numbers_of(&counters)).any(|(before, now)| now < *before);
        prop_assert!(!fell);
        let records = u64::from(pushed);
        prop_assert_eq!(exporter.taken().records, records);
        prop_assert_eq!(counters.settled().metered(), exporter.taken().metered());
        prop_assert_eq!(exporter.taken().volume.packets, 2 * records);
        let ids_now: Vec<_> = exporter.collectors().map(|(id, ..)| id).collect();
        prop_assert_eq!(ids_now, ids);
        for (_, _, counters) in exporter.collectors() {
            prop_assert_eq!(counters.waiting, Tally::default());
            let settled = counters.exported + counters.lost_total();
            if distribution == Distribution::Copy {
                let all = (counters.taken_before + settled).metered();
                prop_assert_eq!(all, exporter.taken().metered());
            }
        }
    }
}
