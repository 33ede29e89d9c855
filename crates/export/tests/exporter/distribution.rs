//! Several collectors: which of them gets which record.

use crate::support::*;
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::HashMap;
use std::num::NonZeroU64;
use xdprobe_export::{CollectorState, DatagramConfig, Distribution, LossReason, Pace, Tally};
use xdprobe_netflow::v5;

#[test]
fn one_collector_that_fails_costs_the_others_nothing() {
    let lines = [Line::new(), Line::new(), Line::new()];
    lines[0].with(|end| end.fails_with = Some(101));
    lines[1].with(|end| end.refuses = true);
    let mut exporter = copying(&lines);
    for now_ms in 0..20 {
        turn(&mut exporter, &[record(0, 0); 40], now_ms);
    }
    assert_eq!(lines[2].numbers().len(), 800);
    assert_eq!(
        settled(&mut exporter).exported.records,
        800,
        "of the collector that got most"
    );
    for (_, _, counters) in exporter.collectors().take(2) {
        // What was sent last had no answer yet.
        assert!(counters.lost_total().records >= 760, "{counters:?}");
        assert_eq!((counters.exported + counters.lost_total()).records, 800);
    }
    assert_eq!(counters_of(&exporter, 1).state(), CollectorState::Refusing);
}

#[test]
fn each_key_has_one_collector_and_each_collector_a_like_share() {
    let lines = [Line::new(), Line::new(), Line::new()];
    lines[2].with(|end| end.refuses = true);
    let mut exporter = exporter(Distribution::Balance, DatagramConfig::default(), &lines);
    let records = numbered(0..9_000);
    for (now_ms, batch) in (5..).zip(records.chunks(100)) {
        turn(&mut exporter, batch, now_ms);
        turn(&mut exporter, batch, now_ms);
    }
    let mut homes = HashMap::new();
    for (home, line) in lines.iter().enumerate() {
        for number in line.numbers() {
            assert_eq!(*homes.entry(number).or_insert(home), home);
        }
        let mut sequence = 0;
        for datagram in line.datagrams() {
            let (header, records) = v5::decode(&datagram).unwrap();
            assert_eq!(header.flow_sequence.get(), sequence);
            sequence += u32::try_from(records.len()).unwrap();
        }
    }
    let sent = |nth: usize| counters_of(&exporter, nth).sent.records;
    assert_eq!(
        (lines[0].numbers().len() + lines[1].numbers().len()) as u64 + sent(2),
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
    let lines = [Line::new(), Line::new()];
    let mut exporter = exporter(Distribution::Failover, DatagramConfig::default(), &lines);
    turn(&mut exporter, &numbered(0..30), 5);
    lines[0].with(|end| end.refuses = true);
    turn(&mut exporter, &numbered(30..40), 10);
    // The answer comes: this one never goes to the first, and the second gets all of it.
    turn(&mut exporter, &numbered(40..80), 20);
    assert_eq!(
        (lines[0].numbers().len(), lines[1].numbers()),
        (30, (40..80).collect())
    );
    // Not before its time; then with one record, which is refused again.
    turn(&mut exporter, &numbered(80..90), 1_019);
    turn(&mut exporter, &numbered(90..100), 1_020);
    turn(&mut exporter, &numbered(100..110), 2_020);
    assert_eq!(
        lines[1].numbers(),
        (40..90).chain(91..110).collect::<Vec<_>>()
    );
    lines[0].with(|end| end.refuses = false);
    turn(&mut exporter, &numbered(110..120), 4_019);
    turn(&mut exporter, &numbered(120..130), 4_020);
    turn(&mut exporter, &numbered(130..140), 5_019);
    turn(&mut exporter, &[], 5_020);
    turn(&mut exporter, &numbered(140..150), 5_021);
    assert_eq!(
        lines[0].numbers(),
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
    for line in &lines {
        assert!(line.sequences().is_sorted());
    }
    assert_eq!(
        counters_of(&exporter, 1).sent.records,
        lines[1].numbers().len() as u64
    );
    let second = lines[1].datagrams();
    let last = v5::decode(second.last().unwrap()).unwrap().0;
    assert_eq!(
        last.flow_sequence.get() + u32::from(last.count.get()),
        98,
        "an unbroken sequence of its own"
    );
}

#[test]
fn a_collector_that_gave_its_place_back_sends_what_it_was_filling() {
    let lines = [Line::new(), Line::new()];
    let mut exporter = exporter(Distribution::Failover, DatagramConfig::default(), &lines);
    lines[0].with(|end| end.refuses = true);
    turn(&mut exporter, &numbered(0..1), 10);
    turn(&mut exporter, &numbered(1..2), 20);
    lines[0].with(|end| end.refuses = false);
    turn(&mut exporter, &numbered(2..3), 1_020);
    exporter.begin_turn(2_020);
    exporter.push(&numbered(3..4), moment(2_020));
    assert_eq!(
        exporter.send(true, moment(2_020)),
        None,
        "with nothing left to wait for"
    );
    assert_eq!(
        (lines[0].numbers(), lines[1].numbers()),
        (vec![2], vec![1, 3])
    );
}

#[test]
fn where_all_refuse_the_last_one_is_sent_to_all_the_same_and_the_first_that_is_back_is_found() {
    let lines = [Line::new(), Line::new()];
    lines
        .iter()
        .for_each(|line| line.with(|end| end.refuses = true));
    let mut exporter = exporter(Distribution::Failover, DatagramConfig::default(), &lines);
    for now_ms in 0..15_000 {
        if now_ms == 5_000 {
            lines[0].with(|end| end.refuses = false);
        }
        turn(&mut exporter, &[record(0, 0)], now_ms);
    }
    assert!(lines[0].numbers().len() > 1_000);
    let counters = settled(&mut exporter);
    let lost: u64 = counters.lost.iter().map(|lost| lost.records).sum();
    assert_eq!(counters.exported.records + lost, 15_000);
}

proptest! {
    /// Whatever happens at which collector, in every distribution: each record is exported or lost
    /// by count, once for each collector that it is meant for, with its packets; and the datagrams
    /// that arrived at a collector never overlap in its sequence.
    #[test]
    fn no_record_is_lost_or_counted_twice(
        distribution in any_distribution(),
        paced: bool,
        turns in vec((0u16..200, 0u64..1_500, 0usize..3, 0usize..6), 1..60),
    ) {
        let lines = [Line::new(), Line::new(), Line::new()];
        let pace = Pace {
            records_per_s: NonZeroU64::new(1_000),
            octets_per_s: NonZeroU64::new(60_000),
        };
        let pace = if paced { pace } else { Pace::default() };
        let config = DatagramConfig { pace, paced_records_max: 300, ..Default::default() };
        let mut exporter = exporter(distribution, config, &lines);
        let (mut now_ms, mut pushed) = (0, 0u16);
        for (count, pause_ms, nth, behaviour) in turns {
            now_ms += pause_ms;
            lines[nth].behave(behaviour);
            let records = numbered(pushed..pushed + count);
            pushed += count;
            exporter.begin_turn(now_ms);
            exporter.push(&records, moment(now_ms + 2));
            exporter.flush_due(moment(now_ms + 2));
            exporter.send(behaviour % 2 == 0, moment(now_ms + 2));
        }
        lines.iter().for_each(|line| line.with(|end| end.fails_with = None));
        send_all(&mut exporter, now_ms);
        let total = settled(&mut exporter).settled();
        let pushed = u64::from(pushed);
        prop_assert_eq!((total.records, total.volume.packets), (pushed, 2 * pushed));
        for (line, (_, _, counters)) in lines.iter().zip(exporter.collectors()) {
            prop_assert_eq!(counters.waiting, Tally::default());
            prop_assert!(counters.accounts_for_all(), "{:?}", counters);
            let settled = counters.exported + counters.lost_total();
            prop_assert!(distribution != Distribution::Copy || settled.records == pushed);
            prop_assert!(line.numbers().len() as u64 <= counters.sent.records);
            let mut next = 0;
            for datagram in line.datagrams() {
                let (header, records) = v5::decode(&datagram).unwrap();
                prop_assert!(header.flow_sequence.get() >= next);
                next = header.flow_sequence.get() + u32::try_from(records.len()).unwrap();
            }
        }
    }
}

#[test]
fn a_trial_lasts_until_the_next_hop_has_answered() {
    let lines = [Line::new(), Line::new()];
    let mut exporter = exporter(Distribution::Failover, DatagramConfig::default(), &lines);
    lines[0].with(|end| (end.answer, end.holds) = (Some(EHOSTUNREACH), true));
    turn(&mut exporter, &numbered(0..10), 10);
    assert_eq!(lines[1].numbers().len(), 10);
    // The trial: the kernel holds its record for three seconds.
    for now_ms in (1_100..4_000).step_by(100) {
        turn(&mut exporter, &numbered(10..20), now_ms);
    }
    assert_eq!(lines[0].numbers().len(), 1);
    lines[0].with(|end| end.answer = Some(EHOSTUNREACH));
    for now_ms in (4_000..5_000).step_by(100) {
        turn(&mut exporter, &numbered(20..30), now_ms);
    }
    assert_eq!(lines[0].numbers().len(), 1);
    let refused = counters_of(&exporter, 0).lost[LossReason::Refused as usize];
    assert_eq!(refused.records, 1);
}
