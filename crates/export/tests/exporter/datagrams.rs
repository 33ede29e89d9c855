//! One collector: what its datagrams hold, when they leave, and what is lost.

use crate::support::*;
use proptest::collection::vec;
use proptest::prelude::*;
use std::num::NonZeroU64;
use std::slice::from_ref;
use xdprobe_export::{
    CollectorState, DatagramConfig, DatagramOutlet, Distribution, FixedFormat, LossReason, Moment,
    Pace,
};
use xdprobe_flow::Volume;
use xdprobe_netflow::wire::uptime_on_the_wire;
use xdprobe_netflow::{Version, v1, v5, v7};

#[test]
fn a_datagram_has_as_many_records_as_the_version_and_the_path_allow() {
    for (version, payload, expected) in [
        (Version::V5, 1472, 30),
        (Version::V5, 1452, 29),
        (Version::V5, 72, 1),
        (Version::V1, 9000, 24),
        (Version::V1, 1000, 20),
        (Version::V7, 1472, 27),
        (Version::V7, 1400, 26),
    ] {
        let line = Line::new();
        line.with(|end| end.payload_octets_max = payload);
        let mut exporter = in_version(version, &line);
        turn(&mut exporter, &vec![record(1, 2); 60], 5);
        let datagrams = line.datagrams();
        assert_eq!(
            version.records_in(datagrams[0].len()),
            expected,
            "{version:?} in {payload}"
        );
        assert!(datagrams.iter().all(|datagram| datagram.len() <= payload));
        assert_eq!(settled(&mut exporter).exported.records, 60);
    }
}

#[test]
fn a_path_too_narrow_for_one_record_is_refused_with_both_lengths() {
    let line = Line::new();
    line.with(|end| end.payload_octets_max = 71);
    let error = DatagramOutlet::new(line, FixedFormat::default(), DatagramConfig::default())
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
    let line = Line::new();
    let mut exporter = copying(from_ref(&line));
    assert_eq!(exporter.flush_due_ms(), None);
    exporter.push(&[record(1, 2)], moment(100));
    exporter.push(&[record(1, 2)], moment(300));
    assert_eq!(exporter.flush_due_ms(), Some(600));
    exporter.flush_due(moment(599));
    exporter.send(true, moment(599));
    assert!(line.datagrams().is_empty());
    exporter.flush_due(moment(9_000));
    exporter.send(true, moment(9_000));
    let datagrams = line.datagrams();
    let (header, records) = v5::decode(&datagrams[0]).unwrap();
    assert_eq!((header.sys_uptime_ms.get(), records.len()), (600, 2));
    assert_eq!(
        (header.engine_type, header.engine_id, header.sampling.get()),
        (1, 7, 0x8064)
    );
}

#[test]
fn what_cannot_be_sent_is_lost_by_kind_and_seen_in_the_sequence() {
    // ENETUNREACH, ENOBUFS, EMSGSIZE, EPERM, ECONNREFUSED, ENOSPC, EIO.
    for (kind, errno) in [101, 105, EMSGSIZE, 1, ECONNREFUSED, 28, 5]
        .into_iter()
        .enumerate()
    {
        let line = Line::new();
        let mut exporter = copying(from_ref(&line));
        line.with(|end| end.fails_with = Some(errno));
        turn(&mut exporter, &[record(1, 2)], 5);
        line.with(|end| end.fails_with = None);
        turn(&mut exporter, &[record(1, 2); 2], 5);
        let counters = settled(&mut exporter);
        let lost = counters.lost[LossReason::Send as usize];
        assert_eq!(
            (counters.exported.records, lost.records, lost.volume.octets),
            (2, 1, 100),
            "errno {errno}"
        );
        assert_eq!(counters_of(&exporter, 0).errors[kind], 1, "errno {errno}");
        assert_eq!(line.sequences()[0], 1);
    }
}

#[test]
fn a_refused_collector_that_comes_back_is_up_again() {
    let line = Line::new();
    let mut exporter = copying(from_ref(&line));
    line.with(|end| end.refuses = true);
    turn(&mut exporter, &[record(1, 2); 30], 5);
    line.with(|end| end.refuses = false);
    turn(&mut exporter, &[record(1, 2); 30], 6);
    turn(&mut exporter, &[record(1, 2); 30], 7);
    settled(&mut exporter);
    let counters = counters_of(&exporter, 0);
    assert_eq!(
        (
            counters.refusals,
            counters.sent.records,
            counters.exported.records
        ),
        (1, 90, 60)
    );
    assert_eq!(counters_of(&exporter, 0).state(), CollectorState::Up);
    assert_eq!(line.sequences()[0], 30, "the loss is seen");
}

#[test]
fn a_pace_spreads_what_comes_at_once_and_refuses_what_does_not_fit() {
    let line = Line::new();
    let pace = Pace {
        records_per_s: NonZeroU64::new(30_000),
        octets_per_s: None,
    };
    let config = DatagramConfig {
        pace,
        paced_records_max: 3_000,
        ..Default::default()
    };
    let mut exporter = exporter(Distribution::Copy, config, from_ref(&line));
    let mut due = turn(&mut exporter, &numbered(0..4_000), 100);
    let mut sent_by = Vec::new();
    while let Some(due_ms) = due {
        sent_by.push((due_ms, line.datagrams().len()));
        exporter.begin_turn(due_ms);
        due = exporter.send(true, moment(due_ms));
    }
    // 300 are there at once, which is ten milliseconds' worth; then one datagram a millisecond.
    assert_eq!(sent_by[0], (101, 10));
    assert!(sent_by.is_sorted() && sent_by.windows(2).all(|pair| pair[1].1 - pair[0].1 <= 1));
    let counters = counters_of(&exporter, 0);
    let refused = counters.lost[LossReason::Pacing as usize].records;
    assert_eq!((counters.sent.records, refused), (3_030, 970));
    assert_eq!(counters.delayed_records, 3_030 - 300);
    assert_eq!(counters.delayed_ms, (1..=91).sum::<u64>());
    turn(&mut exporter, &numbered(0..1), 1_000);
    assert_eq!(line.sequences().last(), Some(&4_000), "the loss is seen");
}

#[test]
fn what_waits_when_the_time_is_over_is_lost_by_that_reason_and_what_need_not_wait_is_sent() {
    let (paced, free) = (Line::new(), Line::new());
    let pace = Pace {
        records_per_s: NonZeroU64::new(30),
        octets_per_s: None,
    };
    let config = DatagramConfig {
        pace,
        ..Default::default()
    };
    let mut exporter = exporter(Distribution::Copy, config, from_ref(&paced));
    exporter.add(
        "free",
        outlet(FixedFormat::default(), DatagramConfig::default(), &free),
    );
    exporter.begin_turn(100);
    exporter.push(&numbered(0..100), moment(100));
    exporter.abandon(moment(100));
    for nth in 0..2 {
        let counters = counters_of(&exporter, nth);
        assert_eq!(counters.waiting.records, 0);
        assert!(counters.accounts_for_all());
        assert_eq!(
            (
                counters.sent.records,
                counters.lost[LossReason::Stop as usize].records
            ),
            [(30, 70), (100, 0)][nth]
        );
    }
    assert_eq!(exporter.send(true, moment(100)), None);
}

#[test]
fn a_socket_that_takes_nothing_keeps_records_waiting_and_then_loses_them() {
    let line = Line::new();
    let mut exporter = copying(from_ref(&line));
    line.with(|end| end.fails_with = Some(EAGAIN));
    assert_eq!(turn(&mut exporter, &[record(1, 2); 60], 5), Some(6));
    assert_eq!(counters_of(&exporter, 0).waiting.records, 60);
    line.with(|end| end.fails_with = None);
    assert_eq!(turn(&mut exporter, &[], 6), None);
    assert_eq!(settled(&mut exporter).exported.records, 60);
    line.with(|end| end.fails_with = Some(EAGAIN));
    turn(&mut exporter, &vec![record(1, 2); 40_000], 10);
    turn(&mut exporter, &[], 5_010);
    let lost = settled(&mut exporter).lost;
    let (socket, send) = (
        lost[LossReason::Socket as usize].records,
        lost[LossReason::Send as usize].records,
    );
    // The first push of a turn finds nothing blocked yet, so what does not fit then counts as
    // `pacing`.
    assert_eq!(
        socket + lost[LossReason::Pacing as usize].records,
        40_000 - 1_024 * 30
    );
    assert_eq!(send, 1_024 * 30);
}

#[test]
fn a_path_that_becomes_narrower_gets_shorter_datagrams_and_the_sequence_stays_unbroken() {
    for version in [Version::V1, Version::V5, Version::V7] {
        let line = Line::new();
        let mut exporter = in_version(version, &line);
        line.with(|end| end.payload_octets_max = 500);
        turn(&mut exporter, &vec![record(1, 2); 70], 5);
        turn(&mut exporter, &vec![record(1, 2); 70], 6);
        let datagrams = line.datagrams();
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
fn another_transport_to_a_collector_continues_its_sequence() {
    let lines = [Line::new(), Line::new()];
    let mut exporter = copying(&lines[..1]);
    turn(&mut exporter, &numbered(0..10), 5);
    exporter.push(&numbered(10..20), moment(6));
    let (id, ..) = exporter.collectors().next().unwrap();
    exporter.replace_transport(id, Box::new(lines[1].clone()));
    exporter.note_resolved(id, true);
    turn(&mut exporter, &numbered(20..30), 7);
    assert_eq!(
        (lines[0].numbers(), lines[1].numbers()),
        ((0..10).collect(), (10..30).collect())
    );
    assert_eq!(lines[1].sequences()[0], 10);
    exporter.note_resolved(id, false);
    let counters = counters_of(&exporter, 0);
    assert_eq!((counters.resolves, counters.resolve_failures), (1, 1));
    assert_eq!(counters.state(), CollectorState::Unresolved);
}

/// Times and sequence in one datagram: count, uptime, UTC in ms, sequence where it has
/// one, First and Last.
type Times = (u16, u32, u64, Option<u32>, Vec<(u32, u32)>);

fn times_in(version: Version, datagram: &[u8]) -> Times {
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
    /// In every version the sequence of each datagram is that of the one before plus its count; in
    /// the order of arithmetic modulo 2^32 First <= Last <= SysUptime; and the header's two clocks
    /// belong together: from any start, across the wrap after 49.7 days, and across a step of the
    /// wall clock of an hour either way, which changes no First or Last.
    #[test]
    fn sequence_and_uptimes_hold_on_every_record(
        version in prop_oneof![Just(Version::V1), Just(Version::V5), Just(Version::V7)],
        start_ms in prop_oneof![0u64..10_000, (1u64 << 32) - 5_000..(1 << 32) + 5_000],
        steps in vec((0u64..900, 0u64..3_000, 0u64..3_000, 1usize..50), 1..60),
        wall_step in (0usize..60, prop_oneof![Just(-3_600_000i64), Just(0), Just(3_600_000)]),
    ) {
        let line = Line::new();
        let mut exporter = in_version(version, &line);
        let (mut now_ms, mut pushed, mut wall_ms) = (start_ms, 0, EPOCH_MS);
        let moment = |now_ms, wall_ms: u64| {
            let unix_ns = wall_ms * 1_000_000;
            Moment { uptime_ms: 0, unix_ns }.at(now_ms)
        };
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
        for datagram in line.datagrams() {
            let (count, uptime, unix_ms, found, times) = times_in(version, &datagram);
            prop_assert_eq!(found.unwrap_or(sequence), sequence);
            sequence = sequence.wrapping_add(u32::from(count));
            for (first, last) in times {
                prop_assert!(last.wrapping_sub(first) <= 3_000);
                prop_assert!(uptime.wrapping_sub(last) <= 6_000);
            }
            let uptimes = [EPOCH_MS, wall_ms]
                .map(|wall_ms| uptime_on_the_wire(unix_ms.wrapping_sub(wall_ms)));
            prop_assert!(uptimes.contains(&uptime));
        }
        prop_assert_eq!(sequence as usize, pushed);
        prop_assert_eq!(settled(&mut exporter).exported.records, pushed as u64);
    }
}

#[test]
fn what_the_kernel_holds_for_a_host_that_does_not_answer_is_not_taken_as_delivered() {
    let line = Line::new();
    line.with(|end| end.holds = true);
    let mut exporter = copying(std::slice::from_ref(&line));
    for now_ms in (100..3_100).step_by(100) {
        let due_ms = turn(&mut exporter, &numbered(0..30), now_ms);
        assert!(due_ms.is_some(), "it looks again soon");
    }
    let counters = counters_of(&exporter, 0);
    assert_eq!(
        (counters.exported.records, counters.unanswered().records),
        (0, 900)
    );
    line.with(|end| end.answer = Some(EHOSTUNREACH));
    turn(&mut exporter, &[], 3_150);
    let counters = counters_of(&exporter, 0);
    assert_eq!(counters.lost[LossReason::Refused as usize].records, 900);
    // Silence is no proof now that it is back, until the kernel has sent it.
    turn(&mut exporter, &numbered(0..30), 3_200);
    turn(&mut exporter, &[], 3_300);
    assert_eq!(counters_of(&exporter, 0).state(), CollectorState::Refusing);
    line.with(|end| end.holds = false);
    turn(&mut exporter, &[], 3_400);
    let counters = counters_of(&exporter, 0);
    assert_eq!(counters.state(), CollectorState::Up);
    assert_eq!(
        (counters.exported.records, counters.in_doubt.records),
        (30, 0)
    );
}

#[test]
fn a_path_on_which_something_is_always_under_way_is_proven_when_no_error_has_come() {
    let line = Line::new();
    line.with(|end| end.holds = true);
    let mut exporter = copying(std::slice::from_ref(&line));
    for now_ms in (100..=4_200).step_by(100) {
        turn(&mut exporter, &numbered(0..30), now_ms);
    }
    assert!(counters_of(&exporter, 0).exported.records >= 40 * 30);
    assert_eq!(turn(&mut exporter, &numbered(0..30), 4_300), None);
    assert_eq!(settled(&mut exporter).exported.records, 43 * 30);
}

#[test]
fn of_a_host_that_goes_off_what_was_sent_shortly_before_is_in_doubt() {
    let line = Line::new();
    let mut exporter = copying(std::slice::from_ref(&line));
    // Long before, then shortly before.
    for now_ms in [100, 300, 200_000, 230_000] {
        turn(&mut exporter, &numbered(0..30), now_ms);
        turn(&mut exporter, &[], now_ms + 100);
    }
    line.with(|end| (end.answer, end.holds) = (Some(EHOSTUNREACH), true));
    turn(&mut exporter, &numbered(0..10), 231_000);
    let counters = counters_of(&exporter, 0);
    assert_eq!(
        (counters.exported.records, counters.in_doubt.records),
        (120, 60)
    );
    // Each is in doubt once, and what nothing is known of at the end is so too.
    line.with(|end| end.answer = Some(EHOSTUNREACH));
    turn(&mut exporter, &[], 234_000);
    turn(&mut exporter, &numbered(0..5), 234_100);
    settled(&mut exporter);
    let counters = counters_of(&exporter, 0);
    assert_eq!(
        (counters.exported.records, counters.in_doubt.records),
        (125, 65)
    );
    assert_eq!(counters.lost[LossReason::Refused as usize].records, 10);
    assert!(counters.accounts_for_all());
}
