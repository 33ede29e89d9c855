//! The command line of `xdprobe run`, and what can be checked of it without the host.

use super::export_options::ExportOptions;
use super::sampling::SamplingArguments;
use super::table_options::TableArguments;
use super::values::{
    Cores, Queues, ms, parse_cores, parse_flows, parse_queues, parse_ring, parse_spread,
    parse_timeout,
};
use crate::command::usage::UsageError;
use crate::control::ControlSocket;
use crate::http::Address;
use crate::logging::LogOptions;
use clap::{Args, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;
use xdprobe_pipeline::capture::Filter;
use xdprobe_pipeline::capture::xdp::XdpConfig;
use xdprobe_pipeline::flow::Timeouts;

/// The command line of `xdprobe run`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  xdprobe run -i tap0 192.0.2.9:2055                     every queue of tap0, by AF_XDP if possible
  xdprobe run -i ngeth0 -f ip 172.27.20.3:2055           only IP
  xdprobe run -i eth0 --capture pcap 192.0.2.9:2055      passive capture with libpcap
  xdprobe run -c /etc/xdprobe.toml                       all of it from a file
  xdprobe run -r capture.pcap --report json 192.0.2.9:2055
  xdprobe run -r capture.pcap file:flows.ft && xdprobe print flows.ft")]
pub struct Arguments {
    /// Capture from this interface; repeat for several
    #[arg(short, long, value_name = "IFACE", conflicts_with = "read")]
    pub(super) interface: Vec<String>,

    /// Read this capture file (pcap or pcapng; - for standard input) by the packets' own clock
    #[arg(short, long, value_name = "FILE")]
    pub(super) read: Option<PathBuf>,

    /// Meter only the packets that match this filter, in libpcap's syntax
    ///
    /// A filter sees the packet behind all VLAN tags, MPLS labels and PPPoE headers. One with the
    /// word vlan, mpls, pppoes or pppoed sees the frame as it came.
    #[arg(short, long, value_name = "FILTER")]
    pub(super) filter: Option<String>,

    /// How to capture: auto uses AF_XDP, but libpcap where the host uses the interface itself
    #[arg(long, value_enum, default_value_t, value_name = "KIND")]
    pub(super) capture: CaptureKind,

    /// AF_XDP mode: auto tries the others, in this order
    #[arg(long, value_enum, default_value_t, value_name = "MODE")]
    pub(super) mode: ModeName,

    /// RX queues to capture from: all, or a list such as 0-3,6
    #[arg(long, default_value = "all", value_name = "LIST", value_parser = parse_queues)]
    pub(super) queues: Queues,

    /// Cores to pin the workers to, in the order of the queues, such as 2,3 or 2-5 [default: all
    /// that the process may use]
    #[arg(long, value_name = "LIST", value_parser = parse_cores)]
    pub(super) cores: Option<Cores>,

    /// Capture with AF_XDP even though the host then no longer receives the interface's frames
    #[arg(long)]
    pub(super) consume: bool,

    /// Entries of each queue's receive ring, a power of two; memory for twice as many frames is
    /// reserved
    #[arg(
        long,
        default_value_t = XdpConfig::RING_ENTRIES,
        value_name = "N",
        value_parser = parse_ring
    )]
    pub(super) ring: u32,

    /// Never sleep: poll the network card from the worker's core
    #[arg(long)]
    pub(super) busy_poll: bool,

    /// Active timeout: expire a flow that has lasted for this long
    #[arg(long, default_value = "60s", value_name = "TIME", value_parser = parse_timeout)]
    pub(super) active_timeout: Duration,

    /// Idle timeout: expire a flow without packets for this long
    #[arg(long, default_value = "15s", value_name = "TIME", value_parser = parse_timeout)]
    pub(super) idle_timeout: Duration,

    /// Idle timeout of a flow after FIN or RST
    #[arg(long, default_value = "1s", value_name = "TIME", value_parser = parse_timeout)]
    pub(super) linger: Duration,

    /// Shorten each flow's active timeout by up to this much, so that flows that began together do
    /// not all end together
    #[arg(long, default_value = "0", value_name = "TIME", value_parser = parse_spread)]
    pub(super) lifetime_spread: Duration,

    /// Flows that each queue's cache holds before it evicts the oldest, at about 81 octets each
    #[arg(long, default_value_t = 1_000_000, value_name = "N", value_parser = parse_flows)]
    pub(super) flows_per_queue: usize,

    /// Where there is too little memory, start with smaller caches and rings (--flows-per-queue,
    /// --ring) instead of refusing
    #[arg(long)]
    pub(super) shrink_to_fit: bool,

    /// Input ifIndex in the records [default: the interface's own; 0 for a capture file]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(0..))]
    pub(super) input: Option<u16>,

    #[arg(
        long,
        value_name = "ADDRESS",
        help = "Serve Prometheus metrics, /healthz and /readyz on ADDR:PORT, [V6]:PORT, PORT (on \
                127.0.0.1) or unix:PATH"
    )]
    pub(super) metrics: Option<Address>,

    /// Serve requests of `xdprobe show` and others on this Unix socket; none for no socket
    /// [default: /run/xdprobe/IFACE.sock, where it can be made]
    #[arg(long, value_name = "PATH")]
    pub(super) control: Option<ControlSocket>,

    /// Let members of this group look through the control socket [default: the probe's own group]
    #[arg(long, value_name = "GROUP")]
    pub(super) control_group: Option<String>,

    /// How long the end may take once a signal asks for it; what is not exported by then is lost
    #[arg(long, default_value = "60s", value_name = "TIME", value_parser = parse_timeout)]
    pub(super) stop_timeout: Duration,

    /// How the ledger is printed on standard output when the probe ends
    #[arg(long, value_enum, default_value_t, value_name = "FORM")]
    pub(super) report: Report,

    // Groups come last: an option behind one would be listed under its heading.
    #[command(flatten)]
    pub(super) sampling: SamplingArguments,

    #[command(flatten)]
    pub(super) tables: TableArguments,

    #[command(flatten)]
    pub(super) export: ExportOptions,

    #[command(flatten)]
    pub log: LogOptions,
}

/// How to capture.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum CaptureKind {
    /// AF_XDP, or libpcap where the host uses the interface itself
    #[default]
    Auto,
    /// AF_XDP: the host no longer receives the frames
    AfXdp,
    /// libpcap: passive, and sees both directions
    Pcap,
}

/// AF_XDP modes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum ModeName {
    /// Zero-copy, else copy, else skb
    #[default]
    Auto,
    /// Frames stay where the network card put them
    ZeroCopy,
    /// Native XDP, each frame copied once
    Copy,
    /// Generic XDP, behind the driver
    Skb,
}

/// Forms of the ledger.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum Report {
    /// Text for people
    #[default]
    Text,
    /// One JSON object
    Json,
}

impl Arguments {
    /// What is wrong with options that depend on each other; all that can be known without the
    /// host, but for the filter.
    pub fn faults(&self) -> Vec<String> {
        let timeouts = self.timeouts().check().map_err(|error| {
            format!("{error} (--idle-timeout, --active-timeout, --lifetime-spread)")
        });
        let misplaced = self.read.as_ref().and_then(|_| self.only_for_interfaces());
        let misplaced =
            misplaced.map(|option| format!("{option} is for interfaces, not for -r: leave it out"));
        let sampling = self.sampling.plan().err().map(|UsageError(text)| text);
        let faults = [timeouts.err(), sampling, misplaced];
        faults
            .into_iter()
            .flatten()
            .chain(self.export.faults())
            .collect()
    }

    /// The filter, compiled.
    pub fn filter(&self) -> Result<Option<Filter>, UsageError> {
        let filter = self.filter.as_deref().map(Filter::new).transpose();
        filter.map_err(|error| UsageError(format!("{error} (--filter)")))
    }

    /// Checks that there are packets, and a place for records. Either may be in a configuration
    /// file, so that the parser cannot demand it.
    pub(super) fn check_complete(&self) -> Result<(), UsageError> {
        let missing = if self.interface.is_empty() && self.read.is_none() {
            "no packets: expected --interface IFACE, or --read FILE for a capture file"
        } else if self.export.collectors.is_empty() {
            "no COLLECTOR: expected HOST:PORT, or file:PATH for a flow-tools file"
        } else {
            return Ok(());
        };
        Err(UsageError(missing.to_owned()))
    }

    pub(super) fn timeouts(&self) -> Timeouts {
        Timeouts {
            idle_ms: ms(self.idle_timeout),
            active_ms: ms(self.active_timeout),
            linger_ms: ms(self.linger),
            lifetime_spread_ms: ms(self.lifetime_spread),
        }
    }

    /// An option that was given and has no meaning for a capture file.
    fn only_for_interfaces(&self) -> Option<&'static str> {
        [
            (self.capture != CaptureKind::Auto, "--capture"),
            (self.cores.is_some(), "--cores"),
            (self.control.is_some(), "--control"),
            (self.control_group.is_some(), "--control-group"),
        ]
        .into_iter()
        .chain(self.only_for_af_xdp())
        .find_map(|(is_given, option)| is_given.then_some(option))
    }

    /// Options that only AF_XDP has, and whether they were given.
    pub(super) fn only_for_af_xdp(&self) -> [(bool, &'static str); 5] {
        [
            (self.mode != ModeName::Auto, "--mode"),
            (self.queues != Queues::All, "--queues"),
            (self.consume, "--consume"),
            (self.ring != XdpConfig::RING_ENTRIES, "--ring"),
            (self.busy_poll, "--busy-poll"),
        ]
    }
}
