//! The probe as a whole: workers, exporter and the thread that watches over both.
//!
//! Start: collectors are resolved and channels made; the exporter starts; each interface gets its
//! XDP program; each worker makes its cache and opens its source on its own pinned thread. Stop (a
//! signal, or all workers ended): no frame is redirected any more, workers read what their rings
//! hold and drain their caches, the exporter sends the rest, and the ledger is drawn up.

use crate::clock::{CaptureClock, Clock, LiveClock};
use crate::command::UsageError;
use crate::destination::{Destination, FlowFile};
use crate::exporting::{ExportClock, ExporterBoard, ExporterThread};
use crate::hand_over::{Outbox, Patience, channels};
use crate::ledger::Ledger;
use crate::metrics;
use crate::own_export::{OwnDatagrams, OwnExport};
use crate::progress::Progress;
use crate::published::Published;
use crate::resolver::{NamedCollector, Resolution, Resolver};
use crate::snapshot::{Counted, CountedWorker};
use crate::tables::{PointTable, Reloader, Tables};
use crate::worker::{ObservationPoint, Worker};
use anyhow::{Context, anyhow};
use crossbeam_channel::{Receiver, Sender, bounded, never, select, tick};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use xdprobe_capture::xdp::{XdpConfig, XdpInterface};
use xdprobe_capture::{
    CaptureError, CaptureFile, Filter, Interface, LiveCapture, Sampling, Source,
};
use xdprobe_export::{
    Collector, CollectorAddress, CollectorConfig, Distribution, Exporter, SocketOptions,
    UdpTransport,
};
use xdprobe_flow::{Backing, CacheConfig, FlowCache, Timeouts};

/// What the probe is to do; valid as it stands.
pub struct Plan {
    /// Where packets come from: interfaces, or one file.
    pub captures: Vec<CapturePlan>,
    /// Cores for the workers.
    pub cores: Option<Cores>,
    /// How long flows stay.
    pub timeouts: Timeouts,
    /// Flows that each worker's cache holds.
    pub flows_per_queue: usize,
    /// How records are exported, and to whom.
    pub export: ExportPlan,
    /// Input ifIndex in the records, where it is not the interface's own.
    pub input: Option<u16>,
    /// What else records say.
    pub tables: Arc<Tables>,
    /// Where metrics are served, if they are.
    pub metrics: Option<metrics::Address>,
}

/// How records are exported, and to whom.
pub struct ExportPlan {
    /// Which collector gets which record.
    pub distribution: Distribution,
    /// How each of them is exported to.
    pub collector: CollectorConfig,
    /// How sockets are set up.
    pub sockets: SocketOptions,
    /// How often names are resolved again.
    pub resolve_interval: Duration,
    /// Whom to.
    pub destinations: Vec<Destination>,
}

/// One interface or file.
pub enum CapturePlan {
    /// Queues of an interface, by AF_XDP.
    Xdp {
        /// The interface.
        interface: Interface,
        /// How.
        config: XdpConfig,
        /// Which queues.
        queues: Vec<u32>,
    },
    /// An interface, through libpcap.
    Pcap {
        /// The interface.
        interface: Interface,
        /// What is wanted.
        filter: Option<Filter>,
        /// How much of it.
        sampling: Sampling,
    },
    /// A capture file.
    File {
        /// Its path; `-` is standard input.
        path: PathBuf,
        /// What is wanted.
        filter: Option<Filter>,
        /// Of how much.
        sampling: Sampling,
    },
}

/// RX queues.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Queues {
    /// All that the interface has.
    All,
    /// These.
    Some(Vec<u32>),
}

/// Cores by number.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Cores(pub Vec<usize>);

/// How a run ended.
pub struct Outcome {
    /// Where every packet is.
    pub ledger: Ledger,
    /// What ended it, where that was no end of a file and no wish of the operator's.
    pub error: Option<anyhow::Error>,
}

/// Runs the probe until its sources end or somebody stops it.
pub fn run(plan: Plan) -> anyhow::Result<Outcome> {
    let asked = ask_on_signals()?;
    let metrics = plan
        .metrics
        .as_ref()
        .map(metrics::Address::listen)
        .transpose()?;
    let live = !matches!(plan.captures[..], [CapturePlan::File { .. }]);
    let clock = LiveClock::start();
    let export_clock = if live {
        ExportClock::Live
    } else {
        ExportClock::Capture
    };
    let patience = if live { Patience::Drop } else { Patience::Wait };
    let Connected {
        collectors,
        named,
        own,
    } = Connected::new(&plan.export)?;
    let exporter =
        Exporter::new(plan.export.distribution, collectors).with_details(plan.tables.details());
    let (resolutions, _resolving) = resolve(named, &plan.export, &own)?;

    let worker_count = plan.captures.iter().map(CapturePlan::worker_count).sum();
    let (outboxes, inbox) = channels(worker_count, patience);
    let board = Arc::new(ExporterBoard::new(&exporter));
    let _reloader = Reloader::start(&plan.tables)?;
    let mut crew = Crew::new(&plan, clock, outboxes, own, Arc::clone(&board));
    let exporter = ExporterThread::new(exporter, inbox, resolutions, clock, board);
    let exporter = spawn("exporter", move || exporter.run(export_clock))?;
    let started = plan
        .captures
        .into_iter()
        .try_for_each(|capture| crew.add(capture))
        .and_then(|()| crew.await_start());
    let started = started.and_then(|()| {
        metrics
            .map(|listener| metrics::Server::start(listener, crew.counted.clone()))
            .transpose()
    });
    let metrics = match started {
        Ok(server) => server,
        Err(error) => {
            crew.dismiss();
            return Err(error);
        }
    };
    plan.tables.warn_of_unused_rules();
    if live {
        tracing::info!(
            "receiving on {worker_count} queues; SIGINT or SIGTERM exports what is resident and ends"
        );
    }
    let (worked, counted) = crew.watch(&asked)?;
    let finished = exporter
        .join()
        .map_err(|_| anyhow!("the exporter died; its records are lost"))?;
    drop(metrics);
    let ledger = Ledger::draw_up(&counted.snapshot());
    let error = worked.err().map(anyhow::Error::from);
    let error = error.or_else(|| {
        finished
            .err()
            .map(|error| anyhow!("the records' file is incomplete: {error}"))
    });
    Ok(Outcome { ledger, error })
}

impl CapturePlan {
    fn worker_count(&self) -> usize {
        match self {
            Self::Xdp { queues, .. } => queues.len(),
            Self::Pcap { .. } | Self::File { .. } => 1,
        }
    }
}

/// Says so once SIGINT or SIGTERM has come; the second of them ends the process at once.
fn ask_on_signals() -> anyhow::Result<Receiver<()>> {
    let asked_before = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // In this order: a first signal finds the flag unset, and then sets it.
        signal_hook::flag::register_conditional_shutdown(
            signal,
            128 + signal,
            Arc::clone(&asked_before),
        )
        .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&asked_before)))
        .context("signals cannot be caught")?;
    }
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("signals cannot be caught")?;
    let (ask, asked) = bounded(1);
    // Nobody waits for its end, and nobody listens any more once all sources have ended.
    spawn("signals", move || {
        signals.forever().take(1).try_for_each(|_| ask.send(()))
    })?;
    Ok(asked)
}

/// Collectors with the ways to them.
struct Connected {
    collectors: Vec<Collector>,
    /// Those that have names.
    named: Vec<NamedCollector>,
    own: OwnExport,
}

impl Connected {
    fn new(plan: &ExportPlan) -> anyhow::Result<Self> {
        let mut connected = Self {
            collectors: Vec::new(),
            named: Vec::new(),
            own: OwnExport::default(),
        };
        for (nth, destination) in plan.destinations.iter().enumerate() {
            let collector = match destination {
                Destination::Collector(name) => connected.connect(nth, name, plan)?,
                Destination::File(path) => {
                    let file = FlowFile::create(path, plan.collector.version)
                        .with_context(|| format!("{} cannot be written", path.display()))?;
                    Collector::new(destination.to_string(), file, plan.collector)?
                }
            };
            connected.collectors.push(collector);
        }
        Ok(connected)
    }

    fn connect(
        &mut self,
        nth: usize,
        name: &CollectorAddress,
        plan: &ExportPlan,
    ) -> anyhow::Result<Collector> {
        let addresses = name
            .resolve()
            .with_context(|| format!("collector {name} cannot be resolved"))?;
        let transport = UdpTransport::connect(addresses[0], &plan.sockets)
            .with_context(|| format!("no way to collector {name}"))?;
        self.own.connected(nth, transport.local(), transport.peer());
        if !name.is_an_address() {
            self.named.push(NamedCollector {
                nth,
                name: name.clone(),
                address: addresses[0],
                failing: false,
            });
        }
        Collector::new(name.to_string(), transport, plan.collector).map_err(|error| {
            UsageError(format!("no way to collector {name}: {error}; see --mtu")).into()
        })
    }
}

/// Starts to resolve names again and again, if there are any; returns where the news come from, and
/// what keeps it going.
fn resolve(
    named: Vec<NamedCollector>,
    plan: &ExportPlan,
    own: &OwnExport,
) -> anyhow::Result<(Receiver<Resolution>, Sender<()>)> {
    let (stop, stopped) = bounded(1);
    let (news, resolutions) = bounded(named.len().max(1));
    if !named.is_empty() {
        let resolver = Resolver {
            collectors: named,
            sockets: plan.sockets.clone(),
            own: own.clone(),
            news,
        };
        let interval = plan.resolve_interval;
        // Nobody waits for its end: it may be waiting for an answer that never comes.
        spawn("resolver", move || resolver.run(interval, &stopped))?;
    }
    Ok((resolutions, stop))
}

type WorkerThread = JoinHandle<Result<(), CaptureError>>;

/// The workers and the interfaces that they read from.
struct Crew {
    cache: CacheConfig,
    input: Option<u16>,
    tables: Arc<Tables>,
    own: OwnExport,
    clock: LiveClock,
    /// Tells the workers to stop. Not the flag of the signals: a worker that stopped before its
    /// frames did would leave those in its ring that are redirected in between.
    stop: Arc<AtomicBool>,
    outboxes: std::vec::IntoIter<Outbox>,
    cores: CoreList,
    counted: Counted,
    threads: Vec<WorkerThread>,
    /// Each worker says once whether it could start, and lets go of its end when it ends.
    starts: (Sender<anyhow::Result<()>>, Receiver<anyhow::Result<()>>),
    progress: Option<Progress>,
}

/// How often the progress of a capture file is shown.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(20);

impl Crew {
    fn new(
        plan: &Plan,
        clock: LiveClock,
        outboxes: Vec<Outbox>,
        own: OwnExport,
        exporter: Arc<ExporterBoard>,
    ) -> Self {
        let live = !matches!(plan.captures[..], [CapturePlan::File { .. }]);
        let starts = bounded(outboxes.len().max(1));
        let cache = CacheConfig {
            flows_max: plan.flows_per_queue,
            timeouts: plan.timeouts,
            // A file is cut into the same records each time, whatever the hash; the order in which
            // they leave must not change either.
            seed: if live {
                RandomState::new().build_hasher().finish()
            } else {
                0
            },
            backing: if live {
                Backing::Prefaulted
            } else {
                Backing::OnDemand
            },
        };
        Self {
            cache,
            input: plan.input,
            tables: Arc::clone(&plan.tables),
            own,
            clock,
            stop: Arc::default(),
            cores: CoreList::new(plan),
            outboxes: outboxes.into_iter(),
            counted: Counted {
                clock,
                workers: Vec::new(),
                interfaces: Vec::new(),
                exporter,
            },
            threads: Vec::new(),
            starts,
            progress: None,
        }
    }

    /// Starts the workers of one interface or file.
    fn add(&mut self, capture: CapturePlan) -> anyhow::Result<()> {
        match capture {
            CapturePlan::File {
                path,
                filter,
                sampling,
            } => {
                let file = CaptureFile::open(&path, filter.as_ref())?.sampled(sampling);
                self.progress = Progress::of_file(file.progress());
                let points = self.tables.points_on("file", self.input.unwrap_or(0))?;
                self.spawn(
                    "file",
                    None,
                    None,
                    CaptureClock::default(),
                    points,
                    move || Ok(file),
                )
            }
            CapturePlan::Pcap {
                interface,
                filter,
                sampling,
            } => {
                let points = self.points_on(&interface)?;
                let core = self.cores.next_if_chosen();
                let opened = LiveCapture::open(&interface.name, filter.as_ref(), sampling)?;
                tracing::info!("{}: captured through libpcap", interface.name);
                self.spawn(&interface.name, None, core, self.clock, points, move || {
                    Ok(opened)
                })
            }
            CapturePlan::Xdp {
                interface,
                config,
                queues,
            } => {
                let points = self.points_on(&interface)?;
                let on = Arc::new(XdpInterface::attach(interface, config)?);
                tracing::info!("{on}");
                self.counted.interfaces.push(Arc::clone(&on));
                queues.into_iter().try_for_each(|queue| {
                    let (on, interface) = (Arc::clone(&on), on.interface().name.clone());
                    let (core, points) = (self.cores.next(), Arc::clone(&points));
                    self.spawn(
                        &interface.clone(),
                        Some(queue),
                        core,
                        self.clock,
                        points,
                        move || {
                            let opened = on.open_queue(queue)?;
                            tracing::info!("{interface}/{queue}: {}", opened.report());
                            Ok(opened)
                        },
                    )
                })
            }
        }
    }

    /// Starts one worker; it opens its source on its own thread, once it is pinned and has its
    /// cache.
    fn spawn<S: Source + 'static, C: Clock + 'static>(
        &mut self,
        interface: &str,
        queue: Option<u32>,
        core: Option<usize>,
        clock: C,
        points: PointTable,
        open: impl FnOnce() -> Result<S, CaptureError> + Send + 'static,
    ) -> anyhow::Result<()> {
        let outbox = self
            .outboxes
            .next()
            .ok_or_else(|| anyhow!("more workers than were planned"))?;
        let (cache, stop, started) = (self.cache, Arc::clone(&self.stop), self.starts.0.clone());
        let label = queue.map_or_else(
            || interface.to_owned(),
            |queue| format!("{interface}/{queue}"),
        );
        // What a file holds was captured elsewhere, or at another time.
        let own = if C::DRIVEN_BY_FRAMES {
            OwnDatagrams::default()
        } else {
            self.own.datagrams()
        };
        let point = ObservationPoint { points, own };
        let published = Arc::new(Published::default());
        self.counted.workers.push(CountedWorker {
            interface: interface.to_owned(),
            queue,
            flows_max: cache.flows_max as u64,
            published: Arc::clone(&published),
        });
        self.threads.push(spawn(&label.clone(), move || {
            let ready = pin(&label, core).and_then(|()| {
                let cache = FlowCache::new(&cache).with_context(|| {
                    format!(
                        "no memory for {} flows; lower --flows-per-queue",
                        cache.flows_max
                    )
                })?;
                tracing::debug!(
                    "{label}: {} places for flows on {}",
                    cache.capacity(),
                    cache.page_size()
                );
                Ok((open()?, cache))
            });
            match ready {
                Ok((source, cache)) => {
                    let _ = started.send(Ok(()));
                    let worked =
                        Worker::new(source, clock, cache, outbox, point, published, stop).run();
                    if let (Err(error), false) = (&worked, C::DRIVEN_BY_FRAMES) {
                        tracing::error!("{label}: {error}");
                    }
                    worked
                }
                Err(error) => {
                    let _ = started.send(Err(error));
                    Ok(())
                }
            }
        })?);
        Ok(())
    }

    /// Waits until every worker has its source, or one could not get it.
    fn await_start(&self) -> anyhow::Result<()> {
        self.threads.iter().try_for_each(|_| self.starts.1.recv()?)
    }

    /// Ends workers whose start failed as a whole.
    fn dismiss(self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(self.outboxes);
        for thread in self.threads {
            let _ = thread.join();
        }
    }

    /// Waits for the end, of the sources or by the operator's wish, and returns whether a source
    /// failed, and where all was counted: the interfaces' programs are detached once the ledger has
    /// been drawn up.
    fn watch(self, asked: &Receiver<()>) -> anyhow::Result<(Result<(), CaptureError>, Counted)> {
        drop(self.outboxes);
        let (started, ended) = self.starts;
        drop(started);
        let due = self
            .progress
            .as_ref()
            .map_or_else(never, |_| tick(PROGRESS_INTERVAL));
        loop {
            select! {
                recv(asked) -> _ => break,
                // Each worker said that it started; now nothing comes but the end of the last.
                recv(ended) -> _ => break,
                recv(due) -> _ => self.progress.iter().for_each(Progress::show),
            }
        }
        drop(self.progress);
        // From here on the host gets its frames again; what was redirected by now is read to its
        // end.
        self.counted
            .interfaces
            .iter()
            .for_each(|on| on.stop_redirecting());
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.threads.into_iter().map(|thread| {
            let name = thread.thread().name().unwrap_or("a worker").to_owned();
            thread.join().map_err(|_| {
                anyhow!("{name} died, and what it had counted with it; please report this")
            })
        });
        let ended: Vec<_> = ended.collect::<anyhow::Result<_>>()?;
        Ok((ended.into_iter().collect(), self.counted))
    }

    /// Where the packets of an interface are seen, by the rules as they are at each moment.
    fn points_on(&self, interface: &Interface) -> anyhow::Result<PointTable> {
        let input = self.input.unwrap_or_else(|| {
            u16::try_from(interface.index).unwrap_or_else(|_| {
                let Interface { name, index, .. } = interface;
                tracing::warn!("{name}: ifIndex {index} does not fit NetFlow v5; records say 0 (--input sets another)");
                0
            })
        });
        self.tables.points_on(&interface.name, input)
    }
}

/// Cores for workers, one after the other.
struct CoreList {
    cores: Vec<usize>,
    chosen: bool,
    used: usize,
}

impl CoreList {
    fn new(plan: &Plan) -> Self {
        let pinned: usize = plan
            .captures
            .iter()
            .filter(|capture| matches!(capture, CapturePlan::Xdp { .. }))
            .map(CapturePlan::worker_count)
            .sum();
        let there = || {
            core_affinity::get_core_ids()
                .unwrap_or_default()
                .into_iter()
                .map(|core| core.id)
                .collect()
        };
        let cores = plan
            .cores
            .as_ref()
            .map_or_else(there, |Cores(cores)| cores.clone());
        if pinned > cores.len() {
            tracing::warn!(
                "{pinned} queues share {} cores: some workers wait for others",
                cores.len()
            );
        }
        Self {
            cores,
            chosen: plan.cores.is_some(),
            used: 0,
        }
    }

    fn next(&mut self) -> Option<usize> {
        let core = self
            .cores
            .get(self.used.checked_rem(self.cores.len())?)
            .copied();
        self.used += 1;
        core
    }

    /// The next core, if an operator named cores: a worker that only looks on is not pinned
    /// otherwise.
    fn next_if_chosen(&mut self) -> Option<usize> {
        if self.chosen { self.next() } else { None }
    }
}

fn pin(worker: &str, core: Option<usize>) -> anyhow::Result<()> {
    let Some(id) = core else { return Ok(()) };
    if core_affinity::set_for_current(core_affinity::CoreId { id }) {
        return Ok(());
    }
    let there: Vec<_> = core_affinity::get_core_ids()
        .unwrap_or_default()
        .into_iter()
        .map(|core| core.id)
        .collect();
    Err(anyhow!(
        "{worker} cannot be pinned to core {id}: wanted one of {there:?} (--cores)"
    ))
}

fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> anyhow::Result<JoinHandle<T>> {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .with_context(|| format!("no thread for {name}"))
}
