//! The plan of a run: what the probe is to do.
//!
//! A front end makes it from its command line or configuration. [`Plan::regime`] follows from it.

use crate::error::StartError;
use crate::regime::Regime;
use crate::tables::Tables;
use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;
use xdprobe_capture::xdp::XdpConfig;
use xdprobe_capture::{Filter, Interface, Sampling};
use xdprobe_collect::output::Target;
use xdprobe_export::{
    CollectorAddress, DatagramConfig, Distribution, FixedFormat, Format, Pace, SocketOptions,
};
use xdprobe_flow::Timeouts;

/// What the probe is to do.
pub struct Plan {
    /// Where packets come from: interfaces, or one file.
    pub captures: Vec<CapturePlan>,
    /// Cores for the workers, by number; those that the host has where none are named.
    pub cores: Option<Vec<usize>>,
    /// How long flows stay resident.
    pub timeouts: Timeouts,
    /// Flows that each worker's cache holds.
    pub flows_per_queue: usize,
    /// Whether caches and rings are made smaller where the system has too little memory; otherwise
    /// the start is refused.
    pub shrink_to_fit: bool,
    /// How records are exported, and where to.
    pub export: ExportPlan,
    /// Input ifIndex in the records, where it is not the interface's own.
    pub input: Option<u16>,
    /// Rules for interfaces, and routes.
    pub tables: Tables,
    /// How long the probe may take to end once it is asked to: what is not exported by then is
    /// lost.
    pub stop_timeout: Duration,
}

/// How records are exported, and where to.
#[derive(Clone)]
pub struct ExportPlan {
    /// Which collector gets which record.
    pub distribution: Distribution,
    /// Version and headers of the datagrams, the same for every collector.
    pub format: FixedFormat,
    /// Flush delay and pace of the datagrams, the same for every collector.
    pub datagrams: DatagramConfig,
    /// How sockets are set up.
    pub sockets: SocketOptions,
    /// How often names are resolved again.
    pub resolve_interval: Duration,
    /// The collectors, and files that take their place.
    pub destinations: Vec<Destination>,
    /// Whether finished files may be replaced.
    pub overwrite: bool,
    /// Files that are read, tables for example: records are never written to one of them. The
    /// capture file need not be named here.
    pub inputs: Vec<PathBuf>,
}

/// One interface or file.
pub enum CapturePlan {
    /// Queues of an interface, by AF_XDP.
    Xdp {
        /// The interface.
        interface: Interface,
        /// How frames are captured.
        config: XdpConfig,
        /// The RX queues, by number.
        queues: Vec<u32>,
    },
    /// An interface, through libpcap.
    Pcap {
        /// The interface.
        interface: Interface,
        /// Which frames are taken.
        filter: Option<Filter>,
        /// Which share of them.
        sampling: Sampling,
    },
    /// A capture file.
    File {
        /// Its path; `-` is standard input.
        path: PathBuf,
        /// Which frames are taken.
        filter: Option<Filter>,
        /// Which share of them.
        sampling: Sampling,
    },
}

/// Where records go, as an operator names it: `HOST:PORT`, `[V6]:PORT` or `file:PATH`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Destination {
    /// A collector over UDP.
    Collector(CollectorAddress),
    /// A flow-tools file; `-` is standard output.
    File(PathBuf),
}

/// What the name of a file begins with, where an operator names a destination.
pub const FILE_PREFIX: &str = "file:";

/// The most that versions 1, 5 and 7 carry in a record's counters of packets and octets.
pub const COUNTER_MAX: u64 = u32::MAX as u64;

impl Plan {
    /// The regime: replay for a capture file, else live.
    #[must_use]
    pub fn regime(&self) -> Regime {
        match self.captures[..] {
            [CapturePlan::File { .. }] => Regime::Replay,
            _ => Regime::Live,
        }
    }

    /// Checks what must fit together.
    ///
    /// # Errors
    ///
    /// [`StartError::Timeouts`], [`StartError::Mixed`], or [`StartError::Twice`] with the first
    /// interface that is captured twice.
    pub fn check(&self) -> Result<(), StartError> {
        let is_file = |capture: &CapturePlan| matches!(capture, CapturePlan::File { .. });
        if self.captures.len() > 1 && self.captures.iter().any(is_file) {
            return Err(StartError::Mixed);
        }
        let mut seen = BTreeSet::new();
        for interface in self.captures.iter().filter_map(CapturePlan::interface) {
            if !seen.insert(interface.index) {
                return Err(StartError::Twice(interface.name.clone()));
            }
        }
        Ok(self.timeouts.check()?)
    }

    /// Workers that the plan needs, one for each queue, interface or file.
    #[must_use]
    pub fn worker_count(&self) -> usize {
        self.captures.iter().map(CapturePlan::worker_count).sum()
    }

    /// The ceiling of a flow's counters: every version that can be exported has 32 bits for each.
    #[must_use]
    pub const fn counter_max(&self) -> u64 {
        COUNTER_MAX
    }
}

impl ExportPlan {
    /// How long so many records take at the pace of the collectors; none without a pace.
    #[must_use]
    pub fn time_at_pace(&self, records: u64) -> Option<Duration> {
        let is_paced = |to: &&Destination| matches!(to, Destination::Collector(_));
        let paced_count = self.destinations.iter().filter(is_paced).count() as u64;
        if paced_count == 0 {
            return None;
        }
        let records = match self.distribution {
            Distribution::Copy | Distribution::Failover => records,
            Distribution::Balance => records.div_ceil(self.destinations.len() as u64),
        };
        let message_octets = self.format.message_octets_max();
        let message_records = self.format.records_in(message_octets) as u64;
        let octets = records.saturating_mul(message_octets as u64) / message_records;
        let Pace {
            records_per_s,
            octets_per_s,
        } = self.datagrams.pace;
        let by_records = records_per_s.map(|rate| records / rate);
        let by_octets = octets_per_s.map(|rate| octets / rate);
        by_records.max(by_octets).map(Duration::from_secs)
    }
}

impl CapturePlan {
    /// The interface; none for a file.
    #[must_use]
    pub fn interface(&self) -> Option<&Interface> {
        match self {
            Self::Xdp { interface, .. } | Self::Pcap { interface, .. } => Some(interface),
            Self::File { .. } => None,
        }
    }

    /// The capture file, if it is one.
    pub(crate) fn path(&self) -> Option<PathBuf> {
        match self {
            Self::File { path, .. } => Some(path.clone()),
            Self::Xdp { .. } | Self::Pcap { .. } => None,
        }
    }

    /// Workers that it needs.
    #[must_use]
    pub fn worker_count(&self) -> usize {
        match self {
            Self::Xdp { queues, .. } => queues.len(),
            Self::Pcap { .. } | Self::File { .. } => 1,
        }
    }
}

impl Destination {
    /// Whether records go to standard output, so that nothing else may be written there.
    #[must_use]
    pub fn is_stdout(&self) -> bool {
        match self {
            Self::Collector(_) => false,
            Self::File(path) => Target::is_stdout_at(path),
        }
    }

    /// Whether what is sent there is meant to be thrown away: port 9 is the discard service (RFC
    /// 863). That nothing listens there is no failure of a run.
    #[must_use]
    pub fn discards(&self) -> bool {
        match self {
            Self::Collector(address) => address.to_string().ends_with(":9"),
            Self::File(_) => false,
        }
    }
}

impl FromStr for Destination {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix(FILE_PREFIX) {
            Some("") => {
                Err("'file:' names no file: expected file:PATH, as in file:flows.ft".to_owned())
            }
            Some(path) => Ok(Self::File(path.into())),
            None => text.parse().map(Self::Collector),
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Collector(address) => address.fmt(f),
            Self::File(path) => write!(f, "{FILE_PREFIX}{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_files_and_collectors() {
        assert_eq!(
            "file:/tmp/x.ft".parse(),
            Ok(Destination::File("/tmp/x.ft".into()))
        );
        assert!(matches!(
            "192.0.2.9:2055".parse(),
            Ok(Destination::Collector(_))
        ));
        let error = "file:".parse::<Destination>().unwrap_err();
        assert!(error.contains("expected file:PATH"));
    }
}
