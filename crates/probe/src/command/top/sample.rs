//! What a probe has counted at one moment.

use crate::control::{Client, Queues};
use serde::Deserialize;
use std::collections::BTreeMap;

/// Counters of a probe, since its start.
#[derive(Clone, Debug, Deserialize)]
pub struct Sample {
    /// Uptime of the probe, and each queue.
    pub queues: Queues,
    /// What is read of the ledger.
    pub ledger: Ledger,
}

/// What is read of the answer of `/ledger`; docs/METRICS.md has the meaning of each count.
#[derive(Clone, Debug, Deserialize)]
pub struct Ledger {
    /// Packets received, and their octets on the wire.
    pub received: Packets,
    /// Packets left out by sampling.
    pub sampled_out: Packets,
    /// Packets left out by the filter.
    pub filtered: Packets,
    /// The probe's own datagrams.
    pub excluded: Packets,
    /// Packets lost before they were received, by place.
    pub dropped: BTreeMap<String, u64>,
    /// Frames without an IPv4 packet, by reason.
    pub undecoded: BTreeMap<String, u64>,
    /// Flows created.
    pub flows: Flows,
    /// Records exported.
    pub exported: Exported,
    /// Records that were not.
    pub lost: Lost,
    /// Each collector.
    pub collectors: Vec<Collector>,
}

/// Packets, with their octets where those are counted.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Packets {
    /// Packets.
    pub packets: u64,
    /// Octets.
    #[serde(default)]
    pub octets: u64,
}

/// Flows.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Flows {
    /// Flows created.
    pub created: u64,
}

/// Records.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Exported {
    /// Records.
    pub records: u64,
}

/// Records lost.
#[derive(Clone, Debug, Deserialize)]
pub struct Lost {
    /// All of them.
    pub records: u64,
    /// By where they were lost.
    pub reasons: BTreeMap<String, u64>,
}

/// A collector.
#[derive(Clone, Debug, Deserialize)]
pub struct Collector {
    /// Its address, or its file.
    pub collector: String,
    /// `up`, `refusing`, `unresolved` or `unconnected`.
    pub state: String,
    /// Records sent.
    pub records: u64,
    /// Records that it did not get, by reason.
    pub lost: BTreeMap<String, u64>,
    /// Records that wait.
    pub waiting: u64,
    /// ICMP errors.
    pub refusals: u64,
}

impl Sample {
    /// Asks the probe. The ledger is drawn up a moment after the queues are counted.
    ///
    /// # Errors
    ///
    /// As [`Client::get`].
    pub fn take(client: &Client) -> anyhow::Result<Self> {
        Ok(Self {
            queues: client.get("/queues")?,
            ledger: client.get("/ledger")?,
        })
    }

    /// Uptime of the probe, in ms.
    pub fn uptime_ms(&self) -> u64 {
        self.queues.uptime_ms
    }

    /// Packets lost at all places.
    pub fn lost_packets(&self) -> u64 {
        self.ledger.dropped.values().sum()
    }

    /// Flows in all caches, and how many these hold.
    pub fn resident(&self) -> (u64, u64) {
        let queues = &self.queues.queues;
        (
            queues.iter().map(|queue| queue.resident_flows).sum(),
            queues.iter().map(|queue| queue.flows_max).sum(),
        )
    }

    /// Flows that made room for others.
    pub fn evicted(&self) -> u64 {
        let queues = self.queues.queues.iter();
        queues.map(|queue| queue.flows_evicted).sum()
    }

    /// The collector with this name.
    pub fn collector(&self, name: &str) -> Option<&Collector> {
        let mut collectors = self.ledger.collectors.iter();
        collectors.find(|collector| collector.collector == name)
    }
}

impl Collector {
    /// Records that it did not get.
    pub fn lost_records(&self) -> u64 {
        self.lost.values().sum()
    }
}
