//! Time in capture files: whatever the order of the packets' times, a record has those of its own
//! packets, and no packet is lost. The worker's and the exporter's own code, over frames in memory
//! and datagrams in memory.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use xdprobe_lab::frames::udp;
use xdprobe_pipeline::Regime;
use xdprobe_pipeline::capture::{
    BURST_MAX, CaptureError, CaptureTime, Frame, Received, Source, SourceCounters,
};
use xdprobe_pipeline::capture_clock::CaptureClock;
use xdprobe_pipeline::clock::LiveClock;
use xdprobe_pipeline::export::netflow::v5;
use xdprobe_pipeline::export::{
    DatagramConfig, DatagramOutlet, Distribution, Exporter, FixedFormat, Transport,
};
use xdprobe_pipeline::exporting::ExporterThread;
use xdprobe_pipeline::flow::{Backing, CacheConfig, Meter, MeterConfig, Timeouts};
use xdprobe_pipeline::hand_over::{Patience, channels};
use xdprobe_pipeline::mailbox::mailbox;
use xdprobe_pipeline::worker::Worker;

/// 2023-11-14 22:13:20 UTC, in ms.
const T: u64 = 1_700_000_000_000;
const HOUR: u64 = 3_600_000;
const IDLE_MS: u64 = 15_000;
/// LINKTYPE_RAW, and one that is not decoded.
const RAW: u16 = 101;
const UNDECODED: u16 = 9_999;

/// A packet of a flow, or a frame that is not decoded.
#[derive(Clone, Copy, Eq, PartialEq)]
struct Sent {
    /// UTC in ms.
    at_ms: u64,
    flow: Option<u16>,
}

impl fmt::Debug for Sent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let after_ms = self.at_ms.cast_signed() - T.cast_signed();
        write!(f, "({:?} {after_ms})", self.flow.unwrap_or(0))
    }
}

fn sent(flow: u16, at_ms: u64) -> Sent {
    Sent {
        at_ms,
        flow: Some(flow),
    }
}

/// What a collector makes of a record.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Seen {
    flow: u16,
    /// The numbers of its packets among those of the flow, where there are few: a bit each.
    packets: u64,
    /// UTC in ms.
    first_ms: u64,
    last_ms: u64,
}

#[derive(Debug, Default)]
struct Output {
    records: Vec<Seen>,
    /// UTC of the header of each record, in ms, and its `SysUptime`.
    headers: Vec<(u64, u32)>,
    datagrams: Vec<Vec<u8>>,
}

impl Output {
    /// The records, in an order that says nothing of when they were sent.
    fn sorted(&self) -> Vec<Seen> {
        let mut records = self.records.clone();
        records.sort();
        records
    }

    /// Those of some flows and of the flows 100 and more further on.
    fn of_flows(&self, flows: Range<u16>) -> Vec<Seen> {
        let mut records = self.sorted();
        records.retain(|record| flows.contains(&(record.flow % 100)));
        records
    }
}

/// A capture file in memory, cut into bursts as files are.
struct Frames {
    list: Vec<(u64, u16, Vec<u8>)>,
    next: usize,
}

impl Source for Frames {
    fn receive(&mut self, each: &mut impl FnMut(Frame<'_>)) -> Result<Received, CaptureError> {
        let rest = &self.list[self.next..];
        let Some((first_ms, _, _)) = rest.first() else {
            return Ok(Received::End);
        };
        let burst = rest.iter().take(BURST_MAX);
        for (at_ms, link, octets) in burst.take_while(|frame| frame.0.abs_diff(*first_ms) <= 100) {
            self.next += 1;
            each(Frame {
                octets,
                wire_octets: octets.len().try_into().unwrap(),
                link: *link,
                captured: CaptureTime::Wall(at_ms * 1_000_000),
            });
        }
        Ok(Received::Frames)
    }

    fn wait(&mut self, _: Duration) {}

    fn counters(&self) -> SourceCounters {
        SourceCounters::default()
    }
}

/// Datagrams that stay in memory.
struct Kept(Arc<Mutex<Vec<Vec<u8>>>>);

impl Transport for Kept {
    fn send(&mut self, datagrams: &[IoSlice<'_>]) -> io::Result<usize> {
        let octets = datagrams.iter().map(|datagram| datagram.to_vec());
        self.0.lock().unwrap().extend(octets);
        Ok(datagrams.len())
    }

    fn payload_octets_max(&self) -> usize {
        1_472
    }
}

/// What is exported of a file of these packets. The n-th packet of a flow has 28 + 2^n octets.
fn exported(file: &[Sent]) -> Output {
    let mut numbers = BTreeMap::new();
    let frames = file.iter().map(|Sent { at_ms, flow }| {
        let Some(flow) = *flow else {
            return (*at_ms, UNDECODED, vec![0; 60]);
        };
        let number = numbers.entry(flow).or_insert(0);
        let payload = vec![0; 1 << (*number % 14)];
        *number += 1;
        let from = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), flow));
        let to = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 2), 53));
        (*at_ms, RAW, udp(from, to, &payload))
    });
    let source = Frames {
        list: frames.collect(),
        next: 0,
    };
    let cache = CacheConfig {
        flows_max: 10_000,
        timeouts: Timeouts {
            idle_ms: IDLE_MS,
            active_ms: 120_000,
            ..Timeouts::default()
        },
        counter_max: u32::MAX.into(),
        seed: 0,
        backing: Backing::OnDemand,
    };
    let (points, own) = Default::default();
    let meter = Meter::new(&MeterConfig { cache, points, own }).unwrap();
    let (mut outboxes, inbox) = channels(1, Patience::Wait);
    let (outbox, (_postbox, mailbox)) = (outboxes.remove(0), mailbox());
    let datagrams = Arc::default();
    let mut exporter = Exporter::new(Distribution::Copy);
    let outlet = DatagramOutlet::new(
        Kept(Arc::clone(&datagrams)),
        FixedFormat::default(),
        DatagramConfig::default(),
    );
    exporter.add("kept", Box::new(outlet.unwrap()));
    let (_requests, arrivals) = crossbeam_channel::bounded(1);
    let (start, started) = crossbeam_channel::bounded(1);
    start.send(()).unwrap();
    let exporter = ExporterThread::new(exporter, inbox, arrivals, started, LiveClock::start());
    std::thread::scope(|threads| {
        let worker = Worker::new(
            source,
            CaptureClock::default(),
            meter,
            outbox,
            mailbox,
            Arc::default(),
        );
        let worker = threads.spawn(|| worker.run());
        exporter.run(Regime::Replay).unwrap();
        worker.join().unwrap().unwrap();
    });
    let datagrams = std::mem::take(&mut *datagrams.lock().unwrap());
    let mut output = Output::default();
    for datagram in &datagrams {
        let (header, records) = v5::decode(datagram).unwrap();
        let unix_ms =
            u64::from(header.unix_s.get()) * 1_000 + u64::from(header.unix_ns.get()) / 1_000_000;
        let uptime_ms = header.sys_uptime_ms.get();
        let utc = |ms: u32| unix_ms - u64::from(uptime_ms.wrapping_sub(ms));
        for record in records {
            let payloads = record.octets.get() - 28 * record.packets.get();
            output.records.push(Seen {
                flow: record.source_port.get(),
                packets: payloads.into(),
                first_ms: utc(record.first_ms.get()),
                last_ms: utc(record.last_ms.get()),
            });
            output.headers.push((unix_ms, uptime_ms));
        }
    }
    output.datagrams = datagrams;
    output
}

/// Each packet is in one record, and First and Last of a record are the times of its packets.
fn assert_records_are_their_packets(file: &[Sent], output: &Output) -> Result<(), TestCaseError> {
    let mut times: BTreeMap<u16, Vec<u64>> = BTreeMap::new();
    for Sent { at_ms, flow } in file {
        flow.map(|flow| times.entry(flow).or_default().push(*at_ms));
    }
    let mut packets: BTreeMap<u16, u64> = BTreeMap::new();
    for record in &output.records {
        let before = packets.entry(record.flow).or_default();
        prop_assert_eq!(*before & record.packets, 0, "a packet is in two records");
        *before |= record.packets;
        let own = times[&record.flow].iter().enumerate();
        let own = own.filter(|(number, _)| record.packets >> number & 1 == 1);
        let own: Vec<_> = own.map(|(_, at_ms)| *at_ms).collect();
        let span = (*own.iter().min().unwrap(), *own.iter().max().unwrap());
        prop_assert_eq!((record.first_ms, record.last_ms), span, "{:?}", record);
    }
    for (flow, times) in &times {
        prop_assert_eq!(packets.get(flow), Some(&((1 << times.len()) - 1)));
    }
    Ok(())
}

/// The same packets with at most 14 of each flow: the others are of flows that are 100 further on.
fn few_of_each(mut file: Vec<Sent>) -> Vec<Sent> {
    let mut counts = BTreeMap::new();
    for flow in file.iter_mut().filter_map(|sent| sent.flow.as_mut()) {
        let count = counts.entry(*flow).or_insert(0);
        *count += 1;
        *flow += (*count - 1) / 14 * 100;
    }
    file
}

/// Packets in any order: a step from the time of the one before, or any time.
fn in_any_order() -> impl Strategy<Value = Vec<Sent>> {
    let step = prop_oneof![
        6 => (0i64..3_000).prop_map(Ok),
        2 => (-3_000i64..0).prop_map(Ok),
        1 => (-70_000i64..70_000).prop_map(Ok),
        1 => prop_oneof![Just(Ok(3_600_000)), Just(Ok(-3_600_000))],
        1 => (0u64..4_000_000_000_000).prop_map(Err),
    ];
    vec((step, 1u16..7), 1..80).prop_map(|steps| {
        let mut now_ms = T;
        let file = steps.into_iter().map(|(step, flow)| match step {
            Ok(step) => {
                now_ms = now_ms.saturating_add_signed(step);
                sent(flow, now_ms)
            }
            Err(at_ms) => sent(flow, at_ms),
        });
        few_of_each(file.collect())
    })
}

/// Packets of flows in order, with pauses in which some of them end.
fn in_order(flows: Range<u16>) -> impl Strategy<Value = Vec<Sent>> {
    let pause = prop_oneof![4 => 0u64..300, 3 => 300u64..5_000, 1 => 5_000u64..40_000];
    paused(pause, flows)
}

/// Packets of flows in order, with such pauses between them.
fn paused(
    pause_ms: impl Strategy<Value = u64>,
    flows: Range<u16>,
) -> impl Strategy<Value = Vec<Sent>> {
    vec((pause_ms, flows), 1..60).prop_map(|steps| {
        let mut now_ms = T;
        let file = steps.into_iter().map(|(pause_ms, flow)| {
            now_ms += pause_ms;
            sent(flow, now_ms)
        });
        few_of_each(file.collect())
    })
}

proptest! {
    #[test]
    fn a_record_has_the_times_of_its_own_packets_whatever_their_order(file in in_any_order()) {
        let output = exported(&file);
        assert_records_are_their_packets(&file, &output)?;
        prop_assert_eq!(exported(&file).datagrams, output.datagrams);
    }

    /// Up to three packets of another flow, at any place and of any time.
    #[test]
    fn packets_whose_times_are_wrong_change_no_record_of_another_flow(
        mut file in in_order(1..7),
        wrong in prop_oneof![
            vec((any::<prop::sample::Index>(), 0u64..4_000_000_000_000), 1..4),
            vec((any::<prop::sample::Index>(), T - 100_000..T + 300_000), 1..4),
        ],
    ) {
        let expected = exported(&file).sorted();
        for (place, at_ms) in wrong {
            file.insert(place.index(file.len() + 1), sent(900, at_ms));
        }
        let output = exported(&file);
        assert_records_are_their_packets(&file, &output)?;
        prop_assert_eq!(output.of_flows(1..7), expected);
    }

    /// Two sources whose clocks are apart, merged as their packets came. Each has some packets
    /// among 16 of the other: more in a row would look like a clock that was set.
    #[test]
    fn two_sources_whose_clocks_are_apart_have_the_flows_that_each_has_alone(
        one in paused(250u64..3_000, 1..4), other in paused(250u64..3_000, 4..7),
        apart_ms in 0u64..50_000,
    ) {
        let other: Vec<_> = other
            .iter()
            .map(|sent| Sent { at_ms: sent.at_ms - apart_ms, ..*sent })
            .collect();
        // By the time of a clock that is right.
        let mut merged: Vec<_> = one.iter().map(|sent| (sent.at_ms, *sent)).collect();
        merged.extend(other.iter().map(|sent| (sent.at_ms + apart_ms, *sent)));
        merged.sort_by_key(|(right_ms, _)| *right_ms);
        let file: Vec<_> = merged.iter().map(|(_, sent)| *sent).collect();
        let output = exported(&file);
        assert_records_are_their_packets(&file, &output)?;
        prop_assert_eq!(output.of_flows(1..4), exported(&one).sorted());
        prop_assert_eq!(output.of_flows(4..7), exported(&other).sorted());
    }

    /// Frames that are not decoded, at any place behind the first packet and of any time.
    #[test]
    fn frames_that_are_not_metered_never_move_the_clock(
        mut file in in_order(1..7),
        others in vec(
            (any::<prop::sample::Index>(), prop_oneof![0u64..4_000_000_000_000, T..T + 300_000]),
            1..6,
        ),
    ) {
        let expected = exported(&file);
        for (place, at_ms) in others {
            file.insert(1 + place.index(file.len()), Sent { at_ms, flow: None });
        }
        let output = exported(&file);
        prop_assert_eq!(output.sorted(), expected.sorted());
        // A frame may cut a burst of 100 ms in two.
        let latest = |output: &Output| output.headers.iter().max().copied().unwrap();
        prop_assert!(latest(&output).0.abs_diff(latest(&expected).0) <= 1_000);
    }
}

/// `count` packets of one flow, one each `every_ms` from `from_ms` on.
fn steady(flow: u16, count: u64, every_ms: u64, from_ms: u64) -> Vec<Sent> {
    let at = |number| sent(flow, from_ms + number * every_ms);
    (0..count).map(at).collect()
}

#[test]
fn what_waits_when_the_clock_is_set_back_has_headers_of_the_old_clock() {
    for back_ms in [90_000, HOUR, 1_000 * HOUR] {
        // The last flow of the old clock is resident, the first waits in its datagram.
        let mut file = vec![sent(1, T)];
        file.extend(steady(2, 14, 1_150, T + 1_000));
        file.push(sent(3, T + 15_999));
        file.extend(steady(4, 14, 1_500, T + 16_000 - back_ms));
        file.extend(steady(5, 14, 2_000, T + 40_000 - back_ms));
        let output = exported(&file);
        assert_records_are_their_packets(&file, &output).unwrap();
        assert_eq!(output.records.len(), 5);
        for (record, (unix_ms, uptime_ms)) in output.records.iter().zip(&output.headers) {
            let old = T..=T + 16_000;
            let new = T - back_ms + 16_000..=T - back_ms + 70_000;
            let expected = if record.flow < 4 { &old } else { &new };
            assert!(expected.contains(unix_ms), "{record:?}: {unix_ms}");
            // Uptime goes on over the step.
            assert!(
                (15_000..=70_000).contains(uptime_ms),
                "{record:?}: {uptime_ms}"
            );
        }
    }
}

#[test]
fn a_packet_from_before_the_first_one_is_dated_though_uptime_begins_later() {
    let mut file = steady(1, 10, 1_000, T);
    file.insert(8, sent(2, T - 20_000));
    let output = exported(&file);
    assert_records_are_their_packets(&file, &output).unwrap();
    let mut naive = output.datagrams.iter().map(|datagram| {
        let (header, records) = v5::decode(datagram).unwrap();
        let uptime_ms = header.sys_uptime_ms.get();
        records
            .iter()
            .all(|record| record.last_ms.get() <= uptime_ms)
    });
    assert!(naive.all(|is_in_order| is_in_order), "an uptime wraps");
}

#[test]
fn a_clock_that_leaps_for_a_packet_lets_no_time_pass() {
    // Flow 1 has a packet each second, and between two of them one is an hour ahead.
    for wrong in [sent(2, T + HOUR), sent(1, T + HOUR)] {
        let mut file = steady(1, 12, 1_000, T);
        file.insert(5, wrong);
        let output = exported(&file);
        assert_records_are_their_packets(&file, &output).unwrap();
        assert_eq!(output.records.len(), 2, "{:?}", output.records);
    }
}

#[test]
fn a_gap_is_time_that_passed_though_few_packets_follow() {
    let file = [sent(1, T), sent(2, T + 30_000), sent(3, T + 30_001)];
    let output = exported(&file);
    let of_first = output.records.iter().position(|record| record.flow == 1);
    assert_eq!(output.headers[of_first.unwrap()], (T + 16_000, 16_000));
}
