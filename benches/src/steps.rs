//! The steps of a packet's way, each by itself, as criterion times them and callgrind counts their
//! instructions.

use crate::BURST;
use crate::frames::{Frames, RandomFlows, key};
use crate::hand_over::{Inbox, Outbox, Patience, channels};
use std::hint::black_box;
use xdprobe_export::v5::{self, Header, Record};
use xdprobe_export::{DetailedRecord, Details};
use xdprobe_flow::fragment::Fragment;
use xdprobe_flow::{
    Arrival, Backing, CacheConfig, EndReason, FlowCache, FlowRecord, Packet, Timeouts,
};

/// A step: what it is called, and how to set it up.
pub struct Step {
    /// `STEP/VARIANT`.
    pub name: &'static str,
    /// Sets it up; what comes of it does the step for at least so many packets or records, in
    /// bursts of [`BURST`].
    pub make: fn() -> Box<dyn FnMut(usize)>,
}

/// All of them, in a packet's order.
pub const STEPS: [Step; 16] = [
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
        name: "hand_over/record",
        make: hand_over,
    },
    Step {
        name: "encode/record",
        make: encode,
    },
];

/// What one turn takes off a ring, decoded; `tags` stand in front of the EtherType, or are another
/// one.
fn decode(tags: &'static [u8]) -> Box<dyn FnMut(usize)> {
    const FRAMES: usize = 1_024;
    let mut frames = Frames::tagged(FRAMES, tags);
    frames.write(RandomFlows::below(1_000_000).take(FRAMES));
    let mut first = 0;
    Box::new(move |count| {
        for _ in 0..count.div_ceil(BURST) {
            frames.decode(first, BURST, |packet| {
                let _ = black_box(packet);
            });
            first = (first + BURST) % FRAMES;
        }
    })
}

/// Packets of random flows out of `count`, `hits` in 100 of them resident and the others new. A
/// cache that is full makes room for each of those.
fn observe(count: u32, hits: u32) -> Box<dyn FnMut(usize)> {
    let mut cache = full_cache(count, NEVER);
    let mut flows = RandomFlows::below(count);
    let mut lots = RandomFlows::below(100);
    let mut new = count;
    let mut records = Vec::with_capacity(BURST);
    Box::new(move |packets| {
        for _ in 0..packets.div_ceil(BURST) {
            let mut burst: [Arrival; BURST] = std::array::from_fn(|_| {
                let is_hit = hits == 100 || lots.next().is_some_and(|lot| lot < hits);
                let flow = if is_hit {
                    flows.next().unwrap_or(0)
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

/// The clock hand of a cache of a million flows that are not due, at 10 million packets a second.
fn expire_nothing() -> Box<dyn FnMut(usize)> {
    const BURSTS_A_MS: u64 = 10_000 / BURST as u64;
    let mut cache = full_cache(1_000_000, NEVER);
    let mut records = Vec::with_capacity(BURST);
    let mut turns = 0;
    Box::new(move |packets| {
        for _ in 0..packets.div_ceil(BURST) {
            turns += 1;
            cache.expire(turns / BURSTS_A_MS, usize::MAX, &mut records);
            assert!(records.is_empty(), "nothing is due");
        }
    })
}

/// Flows that are seen once, and fall due: a packet and a record each.
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
        for _ in 0..count.div_ceil(BURST) {
            let mut burst: [Arrival; BURST] =
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

/// The probe's own outbox and inbox, with an exporter that gives every batch back at once.
fn hand_over() -> Box<dyn FnMut(usize)> {
    let (mut outboxes, inbox): (Vec<Outbox>, Inbox) = channels(1, Patience::Drop);
    let record = record();
    Box::new(move |count| {
        for _ in 0..count {
            xdprobe_flow::RecordSink::push(&mut outboxes[0], record);
        }
        for batch in inbox.batches().try_iter() {
            inbox.give_back(batch);
        }
        assert_eq!(
            outboxes[0].dropped().records,
            0,
            "more records at once than there are batches"
        );
    })
}

/// Version 5 datagrams of 30 records.
fn encode() -> Box<dyn FnMut(usize)> {
    let records = [DetailedRecord {
        flow: record(),
        details: Details::default(),
    }; v5::RECORDS_MAX];
    let mut datagram = [0; v5::DATAGRAM_OCTETS_MAX];
    Box::new(move |count| {
        for _ in 0..count.div_ceil(records.len()) {
            let on_the_wire: [Record; v5::RECORDS_MAX] =
                std::array::from_fn(|at| Record::from(black_box(&records[at])));
            let _ = black_box(v5::encode(&Header::default(), &on_the_wire, &mut datagram));
        }
    })
}

const FOREVER_MS: u64 = u64::MAX / 4;
/// No flow ever falls due.
const NEVER: Timeouts = Timeouts {
    idle_ms: FOREVER_MS,
    active_ms: FOREVER_MS,
    linger_ms: FOREVER_MS,
    lifetime_spread_ms: 0,
};

fn full_cache(flows: u32, timeouts: Timeouts) -> FlowCache {
    let config = CacheConfig {
        flows_max: flows as usize,
        timeouts,
        seed: 1,
        backing: Backing::Prefaulted,
    };
    let mut cache = FlowCache::new(&config).expect("memory for the flows");
    let mut records = Vec::new();
    for first in (0..flows).step_by(BURST) {
        let mut burst: Vec<Arrival> = (first..flows.min(first + 64))
            .map(|flow| arrival(flow, 0))
            .collect();
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

fn record() -> FlowRecord {
    FlowRecord {
        key: key(1),
        packets: 3,
        octets: 138,
        first_ms: 1,
        last_ms: 2,
        tcp_flags: 0,
        end: EndReason::Idle,
    }
}

fn next(flow: &mut u32) -> u32 {
    *flow = flow.wrapping_add(1);
    *flow
}
