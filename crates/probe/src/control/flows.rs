//! Resident flows as JSON lines.
//!
//! A thread of its own takes the flows from the workers in batches and writes lines into a bounded
//! channel. A reader that is slow or gone keeps back that thread, and no worker.

use super::probe::Probe;
use super::query::FlowQuery;
use axum::body::Bytes;
use clap::Args;
use jiff::Timestamp;
use nix::net::if_::if_indextoname;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::mpsc::Sender;
use tokio::time::timeout;
use xdprobe_pipeline::flow::{FlowRecord, Interfaces, KeyV4, Timeouts};

/// Which flows are listed.
#[derive(Args, Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct FlowsQuery {
    /// Which of them.
    #[command(flatten)]
    #[serde(flatten)]
    pub flows: FlowQuery,

    /// List at most this many flows
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
}

/// A resident flow.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct FlowLine {
    /// Source address.
    pub source: Ipv4Addr,
    /// Destination address.
    pub destination: Ipv4Addr,
    /// Source port; 0 for protocols without ports.
    pub source_port: u16,
    /// Destination port; for ICMP type * 256 + code.
    pub destination_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Type of service octet.
    pub tos: u8,
    /// OR of the TCP flags octets.
    pub tcp_flags: u8,
    /// Packets so far.
    pub packets: u64,
    /// Layer-3 octets so far.
    pub octets: u64,
    /// Time of the first packet.
    pub first: Timestamp,
    /// Time of the latest packet.
    pub last: Timestamp,
    /// Since the first packet, in ms.
    pub age_ms: u64,
    /// Since the latest packet, in ms.
    pub idle_ms: u64,
    /// Until the flow is due if no packet comes, in ms.
    pub left_ms: u64,
    /// Input ifIndex.
    pub input: u16,
    /// Name of the interface that has it; none if there is none.
    pub input_name: Option<String>,
    /// Output ifIndex; 0 if it is not known.
    pub output: u16,
    /// Name of the interface that has it; none if there is none.
    pub output_name: Option<String>,
}

/// Names of interfaces, looked up once each.
#[derive(Default)]
pub struct InterfaceNames(BTreeMap<u16, Option<String>>);

/// Where lines are read, from a thread that may wait for it.
pub struct Reader {
    /// Where chunks go.
    pub chunks: Sender<io::Result<Bytes>>,
    /// Where the time passes by which a reader that takes nothing is given up.
    pub runtime: Handle,
    /// Whether it was.
    pub is_given_up: Arc<AtomicBool>,
}

/// How long a listing waits for a reader that takes nothing.
const STALL_MAX: Duration = Duration::from_secs(10);

impl Reader {
    /// Waits until there is room for a chunk; false if the reader has gone, or takes nothing.
    fn send(&self, chunk: Vec<u8>) -> bool {
        let sent = timeout(STALL_MAX, self.chunks.send(Ok(chunk.into())));
        match self.runtime.block_on(sent) {
            Ok(sent) => sent.is_ok(),
            Err(_) => {
                self.is_given_up.store(true, Ordering::Relaxed);
                false
            }
        }
    }
}

/// Makes lines of records.
pub struct FlowLines {
    uptime_ms: u64,
    unix_ms: i64,
    timeouts: Timeouts,
    names: InterfaceNames,
}

const NS_PER_MS: u64 = 1_000_000;
/// Octets of lines that are written at a time.
const CHUNK_OCTETS: usize = 1 << 16;

/// Writes the flows as JSON lines, of those with `interface` if one is given, until all are written
/// or the reader is gone.
pub fn list(probe: &Probe, query: &FlowsQuery, interface: Option<u16>, lines: &Reader) {
    let mut writer = FlowLines::new(probe);
    let mut left = query.limit.unwrap_or(u64::MAX);
    let mut chunk = Vec::with_capacity(CHUNK_OCTETS + 1_024);
    let mut is_read = true;
    probe.visit(&query.flows, interface, &mut |record, interfaces| {
        if left > 0 {
            left -= 1;
            let line = writer.line(record, interfaces);
            serde_json::to_writer(&mut chunk, &line).expect("a vector takes every line");
            chunk.push(b'\n');
        }
        if chunk.len() >= CHUNK_OCTETS {
            let full = std::mem::replace(&mut chunk, Vec::with_capacity(CHUNK_OCTETS + 1_024));
            is_read = lines.send(full);
        }
        is_read && left > 0
    });
    if is_read && !chunk.is_empty() {
        lines.send(chunk);
    }
}

impl FlowLines {
    /// Lines of flows as they are now.
    pub fn new(probe: &Probe) -> Self {
        let now = probe.pipeline.boards().now();
        Self {
            uptime_ms: now.uptime_ms,
            unix_ms: i64::try_from(now.unix_ns / NS_PER_MS).unwrap_or(i64::MAX),
            timeouts: probe.pipeline.timeouts(),
            names: InterfaceNames::default(),
        }
    }

    fn line(&mut self, record: &FlowRecord, interfaces: Interfaces) -> FlowLine {
        let KeyV4 {
            source,
            destination,
            source_port,
            destination_port,
            protocol,
            tos,
            ..
        } = record.key;
        let since = |at_ms| self.uptime_ms.saturating_sub(at_ms);
        let time = |at_ms| {
            let unix_ms = self.unix_ms.saturating_sub_unsigned(since(at_ms));
            Timestamp::from_millisecond(unix_ms).unwrap_or_default()
        };
        FlowLine {
            source,
            destination,
            source_port,
            destination_port,
            protocol,
            tos,
            tcp_flags: record.tcp_flags,
            packets: record.volume.packets,
            octets: record.volume.octets,
            first: time(record.first_ms),
            last: time(record.last_ms),
            age_ms: since(record.first_ms),
            idle_ms: since(record.last_ms),
            left_ms: self.timeouts.due_ms(record).saturating_sub(self.uptime_ms),
            input: interfaces.input,
            input_name: self.names.of(interfaces.input),
            output: interfaces.output,
            output_name: self.names.of(interfaces.output),
        }
    }
}

impl InterfaceNames {
    /// The name of an interface; none where no interface has the number.
    pub fn of(&mut self, index: u16) -> Option<String> {
        let name = self.0.entry(index).or_insert_with(|| {
            let name = if_indextoname(index.into()).ok()?;
            // An interface that does not exist has an empty name there.
            Some(name.to_string_lossy().into_owned()).filter(|name| !name.is_empty())
        });
        name.clone()
    }
}
