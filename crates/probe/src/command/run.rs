//! `xdprobe run`: the probe.
//!
//! [`Arguments`] is the command line as it was written, a [`Plan`] is what it means once it is
//! valid. The pipeline does the work; this command connects it to the terminal, the signals and the
//! metrics server.

mod export_options;
mod reload;
mod sampling;
mod signals;
mod table_options;
mod values;

use super::files::{named_inputs, refuse_stdout_among};
use super::usage::UsageError;
use crate::config::Effective;
use crate::control::{self, ControlSocket, Order, ReloadRequest};
use crate::http::{Access, Address, Endpoint, Listener, Server};
use crate::logging::{LogLevel, LogOptions};
use crate::metrics::{self, Reloads};
use crate::progress::ProgressBar;
use crate::say::put;
use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use crossbeam_channel::{Receiver, Sender, bounded, never, select, tick};
use export_options::{ExportOptions, live_engine};
use reload::{Part, Reloadable, Reloader};
use sampling::SamplingArguments;
pub use signals::SecondSignal;
use signals::{Signal, Signals};
use std::io::{ErrorKind, Write, stdout};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use table_options::TableArguments;
use values::{
    Cores, Queues, ms, parse_cores, parse_flows, parse_queues, parse_ring, parse_spread,
    parse_timeout,
};
use xdprobe_pipeline::capture::xdp::{Mode, XdpConfig};
use xdprobe_pipeline::capture::{Filter, Interface, Sampling};
use xdprobe_pipeline::export::netflow::v5::SamplingInterval;
use xdprobe_pipeline::export::netflow::{Engine, Version};
use xdprobe_pipeline::flow::Timeouts;
use xdprobe_pipeline::{
    CapturePlan, Change, Destination, Ledger, Outcome, Pipeline, Plan, StartError, Starting,
    TableFiles, Tables,
};

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
    interface: Vec<String>,

    /// Read this capture file (pcap or pcapng; - for standard input) by the packets' own clock
    #[arg(short, long, value_name = "FILE")]
    read: Option<PathBuf>,

    /// Meter only the packets that match this filter, in libpcap's syntax
    ///
    /// A filter sees the packet behind all VLAN tags, MPLS labels and PPPoE headers. One with the
    /// word vlan, mpls, pppoes or pppoed sees the frame as it came.
    #[arg(short, long, value_name = "FILTER")]
    filter: Option<String>,

    /// How to capture: auto uses AF_XDP, but libpcap where the host uses the interface itself
    #[arg(long, value_enum, default_value_t, value_name = "KIND")]
    capture: CaptureKind,

    /// AF_XDP mode: auto tries the others, in this order
    #[arg(long, value_enum, default_value_t, value_name = "MODE")]
    mode: ModeName,

    /// RX queues to capture from: all, or a list such as 0-3,6
    #[arg(long, default_value = "all", value_name = "LIST", value_parser = parse_queues)]
    queues: Queues,

    /// Cores to pin the workers to, in the order of the queues, such as 2,3 or 2-5 [default: all
    /// that the process may use]
    #[arg(long, value_name = "LIST", value_parser = parse_cores)]
    cores: Option<Cores>,

    /// Capture with AF_XDP even though the host then no longer receives the interface's frames
    #[arg(long)]
    consume: bool,

    /// Entries of each queue's receive ring, a power of two; memory for twice as many frames is
    /// reserved
    #[arg(
        long,
        default_value_t = XdpConfig::RING_ENTRIES,
        value_name = "N",
        value_parser = parse_ring
    )]
    ring: u32,

    /// Never sleep: poll the network card from the worker's core
    #[arg(long)]
    busy_poll: bool,

    /// Active timeout: expire a flow that has lasted for this long
    #[arg(long, default_value = "60s", value_name = "TIME", value_parser = parse_timeout)]
    active_timeout: Duration,

    /// Idle timeout: expire a flow without packets for this long
    #[arg(long, default_value = "15s", value_name = "TIME", value_parser = parse_timeout)]
    idle_timeout: Duration,

    /// Idle timeout of a flow after FIN or RST
    #[arg(long, default_value = "1s", value_name = "TIME", value_parser = parse_timeout)]
    linger: Duration,

    /// Shorten each flow's active timeout by up to this much, so that flows that began together do
    /// not all end together
    #[arg(long, default_value = "0", value_name = "TIME", value_parser = parse_spread)]
    lifetime_spread: Duration,

    /// Flows that each queue's cache holds before it evicts the oldest, at about 81 octets each
    #[arg(long, default_value_t = 1_000_000, value_name = "N", value_parser = parse_flows)]
    flows_per_queue: usize,

    /// Where there is too little memory, start with smaller caches and rings (--flows-per-queue,
    /// --ring) instead of refusing
    #[arg(long)]
    shrink_to_fit: bool,

    /// Input ifIndex in the records [default: the interface's own; 0 for a capture file]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(0..))]
    input: Option<u16>,

    #[arg(
        long,
        value_name = "ADDRESS",
        help = "Serve Prometheus metrics, /healthz and /readyz on ADDR:PORT, [V6]:PORT, PORT (on \
                127.0.0.1) or unix:PATH"
    )]
    metrics: Option<Address>,

    /// Serve requests of `xdprobe show` and others on this Unix socket; none for no socket
    /// [default: /run/xdprobe/IFACE.sock, where it can be made]
    #[arg(long, value_name = "PATH")]
    control: Option<ControlSocket>,

    /// Let members of this group look through the control socket [default: the probe's own group]
    #[arg(long, value_name = "GROUP")]
    control_group: Option<String>,

    /// How long the end may take once a signal asks for it; what is not exported by then is lost
    #[arg(long, default_value = "60s", value_name = "TIME", value_parser = parse_timeout)]
    stop_timeout: Duration,

    /// How the ledger is printed on standard output when the probe ends
    #[arg(long, value_enum, default_value_t, value_name = "FORM")]
    report: Report,

    // Groups come last: an option behind one would be listed under its heading.
    #[command(flatten)]
    sampling: SamplingArguments,

    #[command(flatten)]
    tables: TableArguments,

    #[command(flatten)]
    export: ExportOptions,

    #[command(flatten)]
    pub log: LogOptions,
}

/// How to capture.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
enum CaptureKind {
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
enum ModeName {
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

/// Runs the probe until its file ends or a signal stops it.
pub fn run(effective: Effective<Arguments>) -> anyhow::Result<()> {
    let arguments = effective.arguments();
    let report = arguments.report;
    let signals = Signals::catch()?;
    if arguments.read.is_some() {
        refuse_stdout_among(&named_inputs(arguments.read.as_slice()))?;
    }
    let listeners = Listeners::bind(&arguments)?;
    let plan = plan(arguments).map_err(|error| match error.downcast() {
        Ok(UsageError(text)) => UsageError(effective.located(&text)).into(),
        Err(error) => error,
    })?;
    let (is_live, worker_count) = (plan.regime().is_live(), plan.worker_count());
    let engine = plan.export.format.engine;
    let is_discarded = plan.export.destinations.iter().all(Destination::discards);
    // What else is printed must not mix with records.
    let is_stdout_taken = plan.export.destinations.iter().any(Destination::is_stdout);
    let starting = Pipeline::start(plan).map_err(start_error)?;
    let pipeline = await_start(&starting, &signals)?;
    let pipeline = Arc::new(pipeline);
    let (orders, ordered) = bounded(ORDERS_MAX);
    let reloads = Arc::default();
    let served = listeners
        .serve(&pipeline, orders, &reloads)
        .and_then(|server| Ok((server, Reloader::start(effective, &pipeline, reloads)?)));
    let (server, reloader) = served.inspect_err(|_| {
        // Files that were begun are completed before the program ends.
        pipeline.stop();
        let _ = pipeline.outcome().recv();
    })?;
    if is_live {
        let queues = if worker_count == 1 { "queue" } else { "queues" };
        tracing::info!(
            "capturing on {worker_count} {queues}, engine {}:{}; Ctrl-C exports open flows and exits",
            engine.r#type,
            engine.id
        );
    }
    let mut second = None;
    let attended = attend(&pipeline, &signals, &ordered, &reloader, &mut second);
    let Outcome { ledger, error } = attended?;
    drop(server);
    let printed = print_ledger(&ledger, report, is_stdout_taken);
    if let Some(number) = second {
        let losses = ledger.losses();
        return Err(SecondSignal { number, losses }.into());
    }
    if let Some(error) = error {
        return Err(error.into());
    }
    if !ledger.is_balanced() {
        bail!("the ledger is out of balance: some packets are in no count, or in two; report this");
    }
    if ledger.lost_every_record() && !is_discarded {
        let what = if ledger.has_doubts() {
            "no record is known to have arrived"
        } else {
            "every record was lost"
        };
        bail!("{what}: {}", ledger.losses());
    }
    printed
}

/// Orders from the control socket that wait.
const ORDERS_MAX: usize = 16;
/// How long a scrape may last, and an answer of the control socket: a listing may have millions of
/// lines.
const SCRAPE_MAX: Duration = Duration::from_secs(30);
const ANSWER_MAX: Duration = Duration::from_secs(3_600);

/// Where the probe can be asked, bound before anything else starts.
struct Listeners {
    metrics: Option<Listener>,
    control: Option<Listener>,
}

impl Listeners {
    fn bind(arguments: &Arguments) -> anyhow::Result<Self> {
        const METRICS: Access = Access {
            mode: 0o666,
            what: "metrics",
            option: "--metrics",
        };
        let metrics = arguments.metrics.as_ref();
        let metrics = metrics.map(|address| address.listen(&METRICS));
        let control = match arguments.read {
            Some(_) => None,
            None => {
                let socket = arguments.control.clone().unwrap_or_default();
                let name = arguments.interface.join("+");
                socket.listen(&name, arguments.control_group.as_deref())?
            }
        };
        Ok(Self {
            metrics: metrics.transpose()?,
            control,
        })
    }

    /// Serves what is asked for; nothing if there is no listener.
    fn serve(
        self,
        pipeline: &Arc<Pipeline>,
        orders: Sender<Order>,
        reloads: &Arc<Reloads>,
    ) -> anyhow::Result<Option<Server>> {
        let metrics = self.metrics.map(|listener| {
            tracing::info!("metrics on {listener}{}", metrics::PATH);
            Endpoint {
                name: "metrics",
                listener,
                pages: metrics::pages(pipeline.boards().clone(), Arc::clone(reloads)),
                connection_max: SCRAPE_MAX,
            }
        });
        let control = self.control.map(|listener| {
            tracing::info!("control socket {listener}");
            Endpoint {
                name: "control socket",
                listener,
                pages: control::pages(Arc::clone(pipeline), orders),
                connection_max: ANSWER_MAX,
            }
        });
        let endpoints: Vec<_> = metrics.into_iter().chain(control).collect();
        if endpoints.is_empty() {
            return Ok(None);
        }
        Server::start(endpoints, &pipeline.boards().deaths).map(Some)
    }
}

/// How often the progress of a capture file is shown.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(20);

/// Waits until the probe receives. A signal to stop is passed on then; a second one ends the start.
fn await_start(starting: &Starting, signals: &Signals) -> anyhow::Result<Pipeline> {
    let mut is_stopping = false;
    loop {
        select! {
            recv(starting.started()) -> started => {
                let pipeline = started.unwrap_or(Err(StartError::Died)).map_err(start_error)?;
                if is_stopping {
                    pipeline.stop();
                }
                return Ok(pipeline);
            }
            recv(signals.arrivals()) -> signal => match signal? {
                Signal::Stop => is_stopping = true,
                Signal::StopNow(number) => {
                    let losses = "it had not begun to receive".to_owned();
                    return Err(SecondSignal { number, losses }.into());
                }
                // The tables are being read, and there is no ledger yet.
                Signal::Reload | Signal::Report => {}
            },
        }
    }
}

/// Passes signals on and shows progress until the probe has ended; `second` gets the number of a
/// second signal to stop. The death of a thread that this needs ends the probe, as that of any
/// other.
fn attend(
    pipeline: &Pipeline,
    signals: &Signals,
    ordered: &Receiver<Order>,
    reloader: &Reloader,
    second: &mut Option<u8>,
) -> anyhow::Result<Outcome> {
    let pass_on = AssertUnwindSafe(|| pass_on(pipeline, signals, ordered, reloader, second));
    catch_unwind(pass_on).unwrap_or_else(|_| {
        pipeline.boards().deaths.note("main");
        let outcome = pipeline.outcome().recv();
        outcome.context("the probe died; please report this")
    })
}

fn pass_on(
    pipeline: &Pipeline,
    signals: &Signals,
    ordered: &Receiver<Order>,
    reloader: &Reloader,
    second: &mut Option<u8>,
) -> anyhow::Result<Outcome> {
    let bar = pipeline.progress().and_then(ProgressBar::new);
    let due = bar.as_ref().map_or_else(never, |_| tick(PROGRESS_INTERVAL));
    let mut arrivals = signals.arrivals().clone();
    loop {
        select! {
            recv(pipeline.outcome()) -> outcome => {
                return outcome.context("the probe died; please report this");
            }
            recv(arrivals) -> signal => match signal {
                Ok(Signal::Stop) => pipeline.stop(),
                Ok(Signal::StopNow(number)) => {
                    *second = Some(number);
                    pipeline.stop_now();
                }
                Ok(Signal::Reload) => {
                    // What comes of it is logged.
                    let (reply, _) = bounded(1);
                    let is_dry = false;
                    reloader.ask(ReloadRequest { is_dry, reply });
                }
                Ok(Signal::Report) => log_ledger(pipeline),
                Err(_) => {
                    pipeline.boards().deaths.note("signals");
                    arrivals = never();
                }
            },
            recv(ordered) -> order => match order {
                Ok(Order::Stop) => pipeline.stop(),
                Ok(Order::Reload(request)) => reloader.ask(request),
                Ok(Order::ShowConfig(reply)) => {
                    let settings = serde_json::to_value(reloader.settings())?;
                    // The other side may have stopped waiting.
                    let _ = reply.try_send(settings);
                }
                // Nothing is served any more.
                Err(_) => {}
            },
            recv(due) -> _ => bar.iter().for_each(ProgressBar::show),
        }
    }
}

fn log_ledger(pipeline: &Pipeline) {
    let ledger = Ledger::draw_up(&pipeline.snapshot()).to_string();
    ledger.lines().for_each(|line| tracing::info!("{line}"));
}

/// Prints the ledger on standard output, or on standard error if records went to the former.
fn print_ledger(ledger: &Ledger, report: Report, is_stdout_taken: bool) -> anyhow::Result<()> {
    let text = match report {
        Report::Text => ledger.to_string(),
        Report::Json => serde_json::to_string(ledger)?,
    };
    if is_stdout_taken {
        put(format!("{text}\n").into_bytes());
        return Ok(());
    }
    match writeln!(stdout(), "{text}") {
        // The reader closed its end, which is its choice.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("the ledger cannot be written"),
    }
}

fn start_error(error: StartError) -> anyhow::Error {
    if error.is_usage() {
        UsageError(error.to_string()).into()
    } else {
        error.into()
    }
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
    fn check_complete(&self) -> Result<(), UsageError> {
        let missing = if self.interface.is_empty() && self.read.is_none() {
            "no packets: expected --interface IFACE, or --read FILE for a capture file"
        } else if self.export.collectors.is_empty() {
            "no COLLECTOR: expected HOST:PORT, or file:PATH for a flow-tools file"
        } else {
            return Ok(());
        };
        Err(UsageError(missing.to_owned()))
    }

    fn timeouts(&self) -> Timeouts {
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
    fn only_for_af_xdp(&self) -> [(bool, &'static str); 5] {
        [
            (self.mode != ModeName::Auto, "--mode"),
            (self.queues != Queues::All, "--queues"),
            (self.consume, "--consume"),
            (self.ring != XdpConfig::RING_ENTRIES, "--ring"),
            (self.busy_poll, "--busy-poll"),
        ]
    }
}

impl Reloadable for Arguments {
    fn faults(&self) -> Vec<String> {
        Arguments::faults(self)
    }

    fn change(&self, part: Part) -> Result<Option<Change>, String> {
        let change = match part {
            Part::Tables => Change::Tables(self.tables.files()),
            Part::Collectors => Change::Destinations(self.export.collectors.clone()),
            Part::Filter => Change::Filter(self.filter().map_err(|error| error.to_string())?),
            Part::Sampling => {
                let plan = self.sampling.plan().map_err(|error| error.to_string())?;
                Change::Sampling {
                    taken: plan.capture,
                    stated: plan.header,
                }
            }
            Part::Timeouts => Change::Timeouts(self.timeouts()),
            Part::Pace => Change::Pace(self.export.pace()),
            Part::LogLevel => return Ok(None),
        };
        Ok(Some(change))
    }

    fn table_files(&self) -> TableFiles {
        self.tables.files()
    }

    fn log_level(&self) -> LogLevel {
        self.log.level()
    }
}

/// Checks what the parser could not: options that depend on each other or on the host.
fn plan(arguments: Arguments) -> anyhow::Result<Plan> {
    let usage = |text: String| anyhow::Error::from(UsageError(text));
    arguments.check_complete()?;
    let faults = arguments.faults();
    if !faults.is_empty() {
        return Err(usage(faults.join("\n")));
    }
    let filter = arguments.filter()?;
    let timeouts = arguments.timeouts();
    let sampling = arguments.sampling.plan()?;
    let captures = match &arguments.read {
        Some(path) => vec![CapturePlan::File {
            path: path.clone(),
            filter,
            sampling: sampling.capture,
        }],
        None => {
            let plan =
                |name: &String| plan_interface(&arguments, name, filter.clone(), sampling.capture);
            let captures = arguments.interface.iter().map(plan);
            captures.collect::<anyhow::Result<_>>()?
        }
    };
    let files = arguments.tables.files();
    let inputs = [&files.rules, &files.prefixes].into_iter().flatten();
    let export = arguments.export.plan(
        sampling.header,
        inputs.cloned().collect(),
        default_engine(&captures),
    );
    if export.format.version != Version::V5 && sampling.header != SamplingInterval::default() {
        let version = export.format.version.number();
        tracing::warn!(
            "NetFlow {version} has no header field for sampling: set the sampling interval at the \
             collectors"
        );
    }
    let plan = Plan {
        captures,
        cores: arguments.cores.map(|Cores(cores)| cores),
        timeouts,
        flows_per_queue: arguments.flows_per_queue,
        shrink_to_fit: arguments.shrink_to_fit,
        input: arguments.input,
        tables: Tables::read(&files).map_err(|error| usage(error.to_string()))?,
        stop_timeout: arguments.stop_timeout,
        export,
    };
    plan.check().map_err(start_error)?;
    Ok(plan)
}

/// The engine unless --engine names one. That of a capture file is 0:0, so that the same file gives
/// the same octets on every host.
fn default_engine(captures: &[CapturePlan]) -> Engine {
    match captures {
        [
            CapturePlan::Xdp { interface, .. } | CapturePlan::Pcap { interface, .. },
            ..,
        ] => {
            let hostname = nix::unistd::gethostname().unwrap_or_default();
            live_engine(&hostname.to_string_lossy(), interface.index)
        }
        _ => Engine::default(),
    }
}

fn plan_interface(
    arguments: &Arguments,
    name: &str,
    filter: Option<Filter>,
    sampling: Sampling,
) -> anyhow::Result<CapturePlan> {
    let interface = Interface::look_up(name)?;
    let pcap = |filter| {
        let mut given = arguments.only_for_af_xdp().into_iter();
        if let Some((_, option)) = given.find(|(is_given, _)| *is_given) {
            tracing::warn!("{name}: {option} has no effect, since it is captured with libpcap");
        }
        Ok(CapturePlan::Pcap {
            interface: interface.clone(),
            filter,
            sampling,
        })
    };
    if arguments.capture == CaptureKind::Pcap {
        return pcap(filter);
    }
    if !interface.has_ethernet_frames() {
        if arguments.capture == CaptureKind::AfXdp {
            return Err(UsageError(format!(
                "AF_XDP needs an Ethernet interface, which {name} is not: use --capture pcap"
            ))
            .into());
        }
        return pcap(filter);
    }
    if let Some(reason) = interface.carries_host_traffic()
        && !arguments.consume
    {
        if arguments.capture == CaptureKind::AfXdp {
            return Err(UsageError(format!(
                "AF_XDP would take {name}'s frames away from the host, and {reason}: capture from \
                 a tap, use --capture pcap, or force it with --consume"
            ))
            .into());
        }
        tracing::info!(
            "{name}: {reason}, so xdprobe captures passively with libpcap; --consume forces AF_XDP"
        );
        return pcap(filter);
    }
    let dark = interface.goes_dark();
    if !dark.is_empty() {
        tracing::warn!(
            "{name}: --consume takes the host's frames; no longer reached through it: {}",
            dark.join(", ")
        );
    }
    let mode = match arguments.mode {
        ModeName::Auto => Mode::Auto,
        ModeName::ZeroCopy => Mode::ZeroCopy,
        ModeName::Copy => Mode::Copy,
        ModeName::Skb => Mode::Skb,
    };
    let config = XdpConfig {
        mode,
        ring_entries: arguments.ring,
        busy_poll: arguments.busy_poll,
        sampling,
        filter,
    };
    let queues = match &arguments.queues {
        Queues::All => (0..interface.queue_count).collect(),
        Queues::Some(queues) => queues.clone(),
    };
    Ok(CapturePlan::Xdp {
        interface,
        config,
        queues,
    })
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    pub fn planned(line: &str) -> anyhow::Result<Plan> {
        plan(Line::try_parse_from(format!("run {line}").split_whitespace())?.arguments)
    }

    pub fn refused(line: &str, expected: &str) {
        let error = planned(line).err().unwrap().to_string();
        assert!(error.contains(expected), "{line}: {error}");
    }

    #[test]
    fn takes_the_line_that_fprobe_took() {
        let line = "run -i ngeth0 -f ip 172.27.20.3:2055";
        let arguments = Line::try_parse_from(line.split_whitespace())
            .unwrap()
            .arguments;
        assert_eq!(
            (arguments.interface, arguments.filter.as_deref()),
            (vec!["ngeth0".to_owned()], Some("ip"))
        );
        assert_eq!(
            arguments.export.collectors[0].to_string(),
            "172.27.20.3:2055"
        );
    }

    #[test]
    fn the_hosts_own_interface_is_captured_passively() {
        assert!(matches!(
            planned("-i lo 127.0.0.1:9").unwrap().captures[..],
            [CapturePlan::Pcap { .. }]
        ));
        refused("-i lo --capture af-xdp 127.0.0.1:9", "--consume");
        let consumed = planned("-i lo --consume 127.0.0.1:9").unwrap();
        assert!(matches!(consumed.captures[..], [CapturePlan::Xdp { .. }]));
    }

    #[test]
    fn refuses_what_cannot_be_meant() {
        refused("127.0.0.1:9", "--interface");
        refused("-i lo", "no COLLECTOR");
        refused("-i lo -r x.pcap 127.0.0.1:9", "cannot be used with");
        refused("-i ngeth77 127.0.0.1:9", "'ngeth77' does not exist");
        refused("-i lo -i lo 127.0.0.1:9", "'lo' is captured twice");
        refused(
            "-i lo -i lo --consume 127.0.0.1:9",
            "'lo' is captured twice",
        );
        refused("-i lo --cores 1024 127.0.0.1:9", "from 0 to 1023");
        refused(
            "-i lo --idle-timeout 2min 127.0.0.1:9",
            "idle timeout of 120 s is above the active timeout of 60 s",
        );
        refused(
            "-i lo --lifetime-spread 46s 127.0.0.1:9",
            "lifetime spread of 46 s is above the 45 s between",
        );
        refused(
            "-i lo --idle-timeout soon 127.0.0.1:9",
            "expected a number and a unit",
        );
        refused(
            "-i lo --queues 3-1 127.0.0.1:9",
            "expected numbers and ranges",
        );
        refused("-i lo --ring 1000 127.0.0.1:9", "power of two");
        refused(
            "-r x.pcap --queues 0 127.0.0.1:9",
            "--queues is for interfaces, not for -r",
        );
        refused("-i lo -f udprot 127.0.0.1:9", "filter 'udprot'");
    }
}
