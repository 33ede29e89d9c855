//! The steps of a packet's way, each by itself: criterion times them and callgrind counts their
//! instructions.

use crate::clock::SteadyClock;
use crate::exporting::exporter;
use crate::frames::{Frames, RandomFlows, key};
use crate::metering::{NEVER, cache, meter};
use crate::records::{LATER, batch, record};
use crate::rig::Rig;
use crate::ring::ring;
use std::hint::black_box;
use std::sync::Arc;
use xdprobe_pipeline::Regime;
use xdprobe_pipeline::capture::BURST_MAX;
use xdprobe_pipeline::counters::WorkerCounters;
use xdprobe_pipeline::export::netflow::Version;
use xdprobe_pipeline::export::netflow::wire::DATAGRAM_OCTETS_MAX;
use xdprobe_pipeline::export::{
    DetailedRecord, Details, Distribution, FixedFormat, Format, Heading,
};
use xdprobe_pipeline::flow::fragment::Fragment;
use xdprobe_pipeline::flow::{
    Arrival, FlowCache, FlowRecord, Link, Meter, Packet, RecordSink, Timeouts,
};
use xdprobe_pipeline::hand_over::{BATCH_RECORDS, Outbox, Patience, channels};
use xdprobe_pipeline::published::Published;

/// A step: its name, and how it is set up.
pub struct Step {
    /// `STEP/VARIANT`.
    pub name: &'static str,
    /// Sets the step up. The result does the step for a number of packets, records or publications,
    /// rounded up to whole bursts or datagrams.
    pub make: fn() -> Box<dyn FnMut(usize)>,
}

/// All steps, in a packet's order.
pub const STEPS: [Step; 20] = [
    Step {
        name: "decode/plain",
        make: || decode(&[]),
    },
    Step {
        name: "decode/vlan",
        make: || decode(&[0x81, 0, 0, 7]),
    },
    Step {
        name: "decode/two_vlans",
        make: || decode(&[0x88, 0xa8, 0, 7, 0x81, 0, 0, 8]),
    },
    Step {
        name: "decode/ipv6_refused",
        make: || decode(&[0x86, 0xdd]),
    },
    Step {
        name: "observe/10_000_flows",
        make: || observe(10_000, 100),
    },
    Step {
        name: "observe/100_000_flows",
        make: || observe(100_000, 100),
    },
    Step {
        name: "observe/1_000_000_flows",
        make: || observe(1_000_000, 100),
    },
    Step {
        name: "observe/10_000_000_flows",
        make: || observe(10_000_000, 100),
    },
    Step {
        name: "observe/hits_99_in_100",
        make: || observe(1_000_000, 99),
    },
    Step {
        name: "observe/hits_90_in_100",
        make: || observe(1_000_000, 90),
    },
    Step {
        name: "observe/hits_50_in_100",
        make: || observe(1_000_000, 50),
    },
    Step {
        name: "observe/hits_none",
        make: || observe(1_000_000, 0),
    },
    Step {
        name: "expire/nothing_due",
        make: expire_nothing,
    },
    Step {
        name: "expire/every_flow",
        make: expire_every_flow,
    },
    Step {
        name: "meter/plain",
        make: meter_bursts,
    },
    Step {
        name: "turn/plain",
        make: turn,
    },
    Step {
        name: "hand_over/record",
        make: hand_over,
    },
    Step {
        name: "publish/worker",
        make: publish,
    },
    Step {
        name: "encode/record",
        make: encode,
    },
    Step {
        name: "export/record",
        make: export,
    },
];

/// Decodes frames with these tags, or with another EtherType; see [`Frames::tagged`].
fn decode(tags: &'static [u8]) -> Box<dyn FnMut(usize)> {
    const FRAMES: usize = 1_024;
    let mut frames = Frames::tagged(FRAMES, tags);
    frames.write(RandomFlows::below(1_000_000).take(FRAMES));
    let mut first = 0;
    Box::new(move |count| {
        for _ in 0..count.div_ceil(BURST_MAX) {
            frames.decode(first, BURST_MAX, |packet| {
                let _ = black_box(packet);
            });
            first = (first + BURST_MAX) % FRAMES;
        }
    })
}

/// Observes packets in a full cache of `count` flows. `hits` in 100 of them are of random resident
/// flows; each of the others is of a new flow, for which another one makes room.
fn observe(count: u32, hits: u32) -> Box<dyn FnMut(usize)> {
    let mut cache = full_cache(count, NEVER);
    let mut flows = RandomFlows::below(count);
    let mut lots = RandomFlows::below(100);
    let mut new = count;
    let mut records = Vec::with_capacity(BURST_MAX);
    Box::new(move |packets| {
        for _ in 0..packets.div_ceil(BURST_MAX) {
            let mut burst: [Arrival; BURST_MAX] = std::array::from_fn(|_| {
                let is_hit = hits == 100 || lots.next().is_some_and(|lot| lot < hits);
                let flow = if is_hit {
                    flows.next().expect("random flows do not end")
                } else {
                    next(&mut new)
                };
                arrival(flow, 0)
            });
            cache.observe(&mut burst, &mut records);
            records.clear();
        }
    })
}

/// Bursts in a ms at 10 million packets a second.
const BURSTS_PER_MS: u64 = 10_000 / BURST_MAX as u64;

/// Moves the clock hand over a million flows that are not due, at 10 million packets a second.
fn expire_nothing() -> Box<dyn FnMut(usize)> {
    let mut cache = full_cache(1_000_000, NEVER);
    let mut records = Vec::with_capacity(BURST_MAX);
    let mut turns = 0;
    Box::new(move |packets| {
        for _ in 0..packets.div_ceil(BURST_MAX) {
            turns += 1;
            cache.expire(turns / BURSTS_PER_MS, usize::MAX, &mut records);
            assert!(records.is_empty(), "nothing is due");
        }
    })
}

/// Observes flows of one packet each, and expires them when they are due: a packet and a record
/// for each flow.
fn expire_every_flow() -> Box<dyn FnMut(usize)> {
    const FLOWS: u32 = 100_000;
    let mut cache = full_cache(
        FLOWS,
        Timeouts {
            idle_ms: 1,
            linger_ms: 1,
            ..NEVER
        },
    );
    let mut records: Vec<FlowRecord> = Vec::with_capacity(FLOWS as usize);
    let (mut flow, mut now_ms) = (0, 0);
    Box::new(move |count| {
        for _ in 0..count.div_ceil(BURST_MAX) {
            let mut burst: [Arrival; BURST_MAX] =
                std::array::from_fn(|_| arrival(next(&mut flow), now_ms));
            cache.observe(&mut burst, &mut records);
            if cache.len() >= FLOWS as usize / 2 {
                now_ms += 1_000;
                cache.expire(now_ms, usize::MAX, &mut records);
                records.clear();
            }
        }
    })
}

/// Meters frames of 10 000 flows, all resident, at 10 million packets a second: the metering step
/// of a worker.
fn meter_bursts() -> Box<dyn FnMut(usize)> {
    const FLOWS: u32 = 10_000;
    const FRAMES: usize = 1_024;
    let mut metering = meter(FLOWS as usize, NEVER);
    let (mut outboxes, _inbox) = channels(1, Patience::Drop);
    let mut frames = Frames::new(FRAMES);
    let all: Vec<u32> = (0..FLOWS).collect();
    for burst in all.chunks(BURST_MAX) {
        frames.write(burst.iter().copied());
        meter_burst(&mut metering, &frames, 0, burst.len(), 0, &mut outboxes[0]);
    }
    frames.write(RandomFlows::below(FLOWS).take(FRAMES));
    let (mut first, mut turns) = (0, 0);
    Box::new(move |packets| {
        for _ in 0..packets.div_ceil(BURST_MAX) {
            turns += 1;
            let now_ms = turns / BURSTS_PER_MS;
            meter_burst(
                &mut metering,
                &frames,
                first,
                BURST_MAX,
                now_ms,
                &mut outboxes[0],
            );
            first = (first + BURST_MAX) % FRAMES;
        }
        assert_eq!(outboxes[0].pushed().records, 0, "nothing is due");
    })
}

#[inline]
fn meter_burst(
    meter: &mut Meter,
    frames: &Frames,
    first: usize,
    count: usize,
    now_ms: u64,
    outbox: &mut Outbox,
) {
    frames.show(first, count, |octets, wire_octets| {
        meter.meter(octets, wire_octets, Link::Ethernet, now_ms);
    });
    meter.observe(outbox);
    meter.expire(now_ms, Regime::Live.expire_sets_max(), outbox);
}

/// The same as turns of the worker, with its ring, its mailbox and the publishing of its counters.
fn turn() -> Box<dyn FnMut(usize)> {
    const FLOWS: u32 = 10_000;
    const FRAMES: usize = 1_024;
    let (filler, ring) = ring();
    let metering = meter(FLOWS as usize, NEVER);
    let mut rig = Rig::new(ring, SteadyClock::new(BURSTS_PER_MS), metering);
    let mut turns = move |frames: &Arc<Frames>| {
        filler.fill(Arc::clone(frames));
        for _ in 0..frames.len().div_ceil(BURST_MAX) {
            black_box(rig.turn());
        }
        assert_eq!(rig.export(), 0, "nothing is due");
    };
    let mut frames = Arc::new(Frames::new(FRAMES));
    let all: Vec<u32> = (0..FLOWS).collect();
    for flows in all.chunks(FRAMES) {
        let written = Arc::get_mut(&mut frames).expect("the ring has shown all frames");
        written.write(flows.iter().copied());
        turns(&frames);
    }
    let written = Arc::get_mut(&mut frames).expect("the ring has shown all frames");
    written.write(RandomFlows::below(FLOWS).take(FRAMES));
    let mut owed = 0;
    Box::new(move |packets| {
        owed += packets;
        while owed >= FRAMES {
            owed -= FRAMES;
            turns(&frames);
        }
    })
}

/// Hands records over to an exporter that returns every batch at once.
fn hand_over() -> Box<dyn FnMut(usize)> {
    let (mut outboxes, inbox) = channels(1, Patience::Drop);
    let record = record(1);
    Box::new(move |count| {
        for _ in 0..count {
            RecordSink::push(&mut outboxes[0], *black_box(&record));
        }
        for batch in inbox.batches().try_iter() {
            inbox.give_back(batch);
        }
        assert_eq!(
            outboxes[0].dropped().records,
            0,
            "there are batches for all records at once"
        );
    })
}

/// Publishes a worker's counters.
fn publish() -> Box<dyn FnMut(usize)> {
    let published = Published::<WorkerCounters>::default();
    let counters = WorkerCounters::default();
    Box::new(move |count| {
        for _ in 0..count {
            published.publish(black_box(&counters));
        }
    })
}

/// Encodes version 5 datagrams of 30 records.
fn encode() -> Box<dyn FnMut(usize)> {
    let mut format: Box<dyn Format> = Box::new(FixedFormat::default());
    let datagram_records = format.records_in(DATAGRAM_OCTETS_MAX);
    let detailed = DetailedRecord {
        flow: record(1),
        details: Details::default(),
    };
    let records = vec![detailed; datagram_records];
    let heading = Heading {
        moment: LATER,
        sequence: 0,
    };
    let mut datagram = [0; DATAGRAM_OCTETS_MAX];
    Box::new(move |count| {
        for _ in 0..count.div_ceil(records.len()) {
            let records = black_box(&records);
            format.append(records, 0, DATAGRAM_OCTETS_MAX, &mut datagram);
            format.finish(&heading, records.len(), &mut datagram);
            black_box(&datagram);
        }
    })
}

/// Exports batches to one collector: details, encoding, queueing and sending, but for the system
/// call.
fn export() -> Box<dyn FnMut(usize)> {
    let batch = batch();
    let mut exporter = exporter(Version::V5, Distribution::Copy, 1);
    let mut owed = 0;
    Box::new(move |count| {
        owed += count;
        while owed >= BATCH_RECORDS {
            owed -= BATCH_RECORDS;
            exporter.push(black_box(&batch), LATER);
            exporter.send(false, LATER);
        }
    })
}

fn full_cache(flows: u32, timeouts: Timeouts) -> FlowCache {
    let mut cache = cache(flows as usize, timeouts);
    let mut records = Vec::new();
    let all: Vec<u32> = (0..flows).collect();
    for burst in all.chunks(BURST_MAX) {
        let mut burst: Vec<Arrival> = burst.iter().map(|&flow| arrival(flow, 0)).collect();
        cache.observe(&mut burst, &mut records);
    }
    cache
}

fn arrival(flow: u32, at_ms: u64) -> Arrival {
    let packet = Packet {
        key: key(flow),
        octets: 46,
        tcp_flags: 0,
        fragment: Fragment::Whole,
    };
    Arrival { packet, at_ms }
}

fn next(flow: &mut u32) -> u32 {
    *flow = flow.wrapping_add(1);
    *flow
}
