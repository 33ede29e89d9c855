//! Resident flows added up: which source, pair, port or protocol has most.
//!
//! Each resident flow of every worker is counted, so the sums are exact at the time at which a
//! worker gives its flows out.

use super::flows::InterfaceNames;
use super::probe::Probe;
use super::query::{FlowQuery, Protocol};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::net::Ipv4Addr;
use xdprobe_pipeline::flow::{FlowRecord, Interfaces};

/// What is added up, and how it is sorted.
#[derive(Args, Clone, Debug, Eq, PartialEq, Serialize)]
pub struct TopQuery {
    /// Sort by this
    #[arg(long, value_enum, default_value_t, value_name = "COUNT")]
    pub by: By,

    /// Add up the flows that share this; a flow is counted at both of its ports
    #[arg(long, value_enum, default_value_t, value_name = "WHAT")]
    pub over: Over,

    /// Rows to show
    #[arg(short = 'n', long = "rows", default_value_t = 20, value_name = "N")]
    pub rows: usize,

    /// Of which flows.
    #[command(flatten)]
    #[serde(flatten)]
    pub flows: FlowQuery,
}

/// What rows are sorted by.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum By {
    /// Layer-3 octets
    #[default]
    Octets,
    /// Packets
    Packets,
    /// Flows
    Flows,
}

/// What the flows of a row share.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Over {
    /// The source address
    #[default]
    Source,
    /// The destination address
    Destination,
    /// Both addresses, in the order of the traffic
    Pair,
    /// The protocol and one of the ports
    Port,
    /// The protocol
    Protocol,
    /// The whole flow key, whatever queue
    Flow,
}

/// The answer.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Top {
    /// What rows are sorted by.
    pub by: By,
    /// What the flows of a row share.
    pub over: Over,
    /// All flows that the query is about.
    pub total: Sum,
    /// Rows there are, shown or not.
    pub row_count: usize,
    /// The first rows.
    pub rows: Vec<TopRow>,
}

/// Flows that share something.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct TopRow {
    /// What they share; only that is set.
    #[serde(flatten)]
    pub subject: Subject,
    /// Their sum.
    #[serde(flatten)]
    pub sum: Sum,
}

/// A sum over flows.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Sum {
    /// Flows.
    pub flows: u64,
    /// Their packets.
    pub packets: u64,
    /// Their layer-3 octets.
    pub octets: u64,
}

/// What the flows of a row share.
#[derive(Clone, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(default)]
pub struct Subject {
    /// Source address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<Ipv4Addr>,
    /// Destination address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<Ipv4Addr>,
    /// IP protocol number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<u8>,
    /// Either port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Source port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_port: Option<u16>,
    /// Destination port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination_port: Option<u16>,
    /// Type of service octet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tos: Option<u8>,
    /// Input ifIndex.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<u16>,
    /// Output ifIndex.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<u16>,
}

impl Default for TopQuery {
    fn default() -> Self {
        Self {
            by: By::default(),
            over: Over::default(),
            rows: 20,
            flows: FlowQuery::default(),
        }
    }
}

/// Protocols with ports: TCP, UDP, DCCP, SCTP and UDP-Lite.
const WITH_PORTS: [u8; 5] = [6, 17, 33, 132, 136];

/// Adds up the resident flows, of those with `interface` if one is given.
pub fn top(probe: &Probe, query: &TopQuery, interface: Option<u16>) -> Top {
    let (mut sums, mut total) = (HashMap::<Subject, Sum>::new(), Sum::default());
    probe.visit(&query.flows, interface, &mut |record, interfaces| {
        total.add(record);
        let subjects = subjects_of(query.over, record, interfaces);
        for subject in subjects.into_iter().flatten() {
            sums.entry(subject).or_default().add(record);
        }
        true
    });
    let row_count = sums.len();
    let count = |sum: &Sum| match query.by {
        By::Octets => sum.octets,
        By::Packets => sum.packets,
        By::Flows => sum.flows,
    };
    let mut rows: Vec<_> = sums.into_iter().collect();
    let rank = |(a_is, a): &(Subject, Sum), (b_is, b): &(Subject, Sum)| {
        count(b).cmp(&count(a)).then_with(|| a_is.cmp(b_is))
    };
    if query.rows > 0 && query.rows < rows.len() {
        rows.select_nth_unstable_by(query.rows - 1, rank);
    }
    rows.truncate(query.rows);
    rows.sort_unstable_by(rank);
    Top {
        by: query.by,
        over: query.over,
        total,
        row_count,
        rows: rows
            .into_iter()
            .map(|(subject, sum)| TopRow { subject, sum })
            .collect(),
    }
}

/// What a flow is counted at: two ports where it has two different ones.
fn subjects_of(over: Over, record: &FlowRecord, interfaces: Interfaces) -> [Option<Subject>; 2] {
    let (key, none) = (&record.key, Subject::default());
    let one = match over {
        Over::Source => Subject {
            source: Some(key.source),
            ..none
        },
        Over::Destination => Subject {
            destination: Some(key.destination),
            ..none
        },
        Over::Pair => Subject {
            source: Some(key.source),
            destination: Some(key.destination),
            ..none
        },
        Over::Protocol => Subject {
            protocol: Some(key.protocol),
            ..none
        },
        Over::Port if WITH_PORTS.contains(&key.protocol) => {
            let at = |port| Subject {
                protocol: Some(key.protocol),
                port: Some(port),
                ..Subject::default()
            };
            let second = key.source_port != key.destination_port;
            return [
                Some(at(key.source_port)),
                second.then(|| at(key.destination_port)),
            ];
        }
        Over::Port => return [None, None],
        Over::Flow => Subject {
            source: Some(key.source),
            destination: Some(key.destination),
            protocol: Some(key.protocol),
            port: None,
            source_port: Some(key.source_port),
            destination_port: Some(key.destination_port),
            tos: Some(key.tos),
            input: Some(interfaces.input),
            output: Some(interfaces.output),
        },
    };
    [Some(one), None]
}

impl Sum {
    fn add(&mut self, record: &FlowRecord) {
        self.flows += 1;
        self.packets += record.volume.packets;
        self.octets += record.volume.octets;
    }
}

impl Subject {
    /// As people read it: `192.0.2.1 > 198.51.100.2`, `tcp 443`, `udp 192.0.2.1:4000 >
    /// 198.51.100.2:53 on tap0`.
    pub fn text(&self, names: &mut InterfaceNames) -> String {
        let at = |address: Option<Ipv4Addr>, port: Option<u16>| match (address, port) {
            (Some(address), Some(port)) => format!("{address}:{port}"),
            (Some(address), None) => address.to_string(),
            _ => String::new(),
        };
        let (source, destination) = (
            at(self.source, self.source_port),
            at(self.destination, self.destination_port),
        );
        let addresses = match (source.is_empty(), destination.is_empty()) {
            (false, false) => format!("{source} > {destination}"),
            _ => source + &destination,
        };
        let protocol = self.protocol.map(|number| Protocol(number).name());
        let port = self.port.map(|port| port.to_string());
        let input = self.input.map(|input| {
            let name = names.of(input).unwrap_or_else(|| input.to_string());
            format!("on {name}")
        });
        let parts = [protocol, port, Some(addresses), input]
            .into_iter()
            .flatten();
        let parts: Vec<_> = parts.filter(|part| !part.is_empty()).collect();
        parts.join(" ")
    }
}
