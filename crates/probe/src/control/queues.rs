//! Each worker: its queue, what it received and lost, and how full its cache is.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use xdprobe_pipeline::Snapshot;
use xdprobe_pipeline::counters::Phase;
use xdprobe_pipeline::flow::EndReason;
use xdprobe_pipeline::snapshot::WorkerSnapshot;

/// The answer.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Queues {
    /// Uptime of the probe at which it was counted, in ms.
    pub uptime_ms: u64,
    /// Packets of each interface that were lost outside its queues, by place.
    pub interfaces: BTreeMap<String, BTreeMap<String, u64>>,
    /// Each worker: one for each queue, or for an interface with libpcap.
    pub queues: Vec<QueueLine>,
}

/// One worker.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct QueueLine {
    /// Its interface.
    pub interface: String,
    /// Its RX queue; none with libpcap.
    pub queue: Option<u32>,
    /// `opening`, `running`, `down`, `ending` or `ended`.
    pub state: String,
    /// Packets received.
    pub received_packets: u64,
    /// Their octets on the wire.
    pub received_octets: u64,
    /// Packets left out by the filter.
    pub filtered: u64,
    /// Packets left out by sampling on the worker.
    pub sampled_out: u64,
    /// Packets lost at its socket, by place.
    pub dropped: BTreeMap<String, u64>,
    /// Frames without an IPv4 packet.
    pub undecoded: u64,
    /// Packets observed.
    pub observed_packets: u64,
    /// Flows in its cache now.
    pub resident_flows: u64,
    /// Flows that its cache holds.
    pub flows_max: u64,
    /// Flows created.
    pub flows_created: u64,
    /// Flows that made room for others.
    pub flows_evicted: u64,
    /// Turns that found no frame.
    pub idle_turns: u64,
    /// Turns that found frames.
    pub busy_turns: u64,
    /// Busy turns whose burst was full.
    pub full_turns: u64,
    /// Time for which its link was down, in ms.
    pub down_ms: u64,
}

impl Queues {
    /// What a snapshot says of the workers.
    pub fn of(snapshot: &Snapshot) -> Self {
        let owned = |(place, packets): (&str, u64)| (place.to_owned(), packets);
        let interfaces = snapshot.interfaces.iter().map(|on| {
            let dropped = on.counters.dropped().by_place().into_iter().map(owned);
            let dropped = dropped.filter(|(_, packets)| *packets > 0);
            (on.name.clone(), dropped.collect())
        });
        let queue = |worker: &WorkerSnapshot| {
            let counters = &worker.counters;
            let mut dropped = counters.source.dropped;
            let interface = snapshot
                .interfaces
                .iter()
                .find(|on| worker.queue.is_some() && on.name == worker.interface);
            let sockets = interface.iter().flat_map(|on| &on.counters.queues);
            for socket in sockets.filter(|socket| Some(socket.queue) == worker.queue) {
                dropped += socket.dropped();
            }
            QueueLine {
                interface: worker.interface.clone(),
                queue: worker.queue,
                state: match counters.phase() {
                    Phase::Opening => "opening",
                    Phase::Running => "running",
                    Phase::Ending => "ending",
                    Phase::Down => "down",
                    Phase::Ended => "ended",
                }
                .to_owned(),
                received_packets: counters.source.received,
                received_octets: counters.source.received_octets,
                filtered: counters.source.filtered,
                sampled_out: counters.source.sampled_out,
                dropped: dropped
                    .by_place()
                    .into_iter()
                    .filter(|(_, packets)| *packets > 0)
                    .map(owned)
                    .collect(),
                undecoded: counters.meter.undecoded.into_iter().sum(),
                observed_packets: counters.meter.cache.observed.packets,
                resident_flows: counters.meter.resident_flows,
                flows_max: worker.flows_max,
                flows_created: counters.meter.cache.created,
                flows_evicted: counters.meter.cache.expired[EndReason::LackOfResources as usize],
                idle_turns: counters.turns.idle,
                busy_turns: counters.turns.busy,
                full_turns: counters.turns.full,
                down_ms: counters.down_ms,
            }
        };
        Self {
            uptime_ms: snapshot.uptime_ms,
            interfaces: interfaces.collect(),
            queues: snapshot.workers.iter().map(queue).collect(),
        }
    }
}

impl QueueLine {
    /// `tap0/3`, or `eth0` with libpcap.
    pub fn label(&self) -> String {
        match self.queue {
            Some(queue) => format!("{}/{queue}", self.interface),
            None => self.interface.clone(),
        }
    }
}
