//! Changes to a running probe, carried out one after the other on a thread of their own, since
//! names may take long to resolve and files to read.

use crate::connect::Connected;
use crate::error::StartError;
use crate::exporting::{ExporterBoard, ExporterRequest};
use crate::filter_watch::FiltersInForce;
use crate::mailbox::{Expiry, Postbox, Request};
use crate::own_export::OwnExport;
use crate::plan::{Destination, ExportPlan};
use crate::resolver::Resolver;
use crate::snapshot::WorkerBoard;
use crate::tables::{TableFiles, Tables};
use crate::thread::Deaths;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use xdprobe_capture::xdp::XdpInterface;
use xdprobe_capture::{Filter, Interface, LiveCapture, Sampling, SourceChange};
use xdprobe_export::netflow::v5::SamplingInterval;
use xdprobe_export::{CollectorId, Pace};
use xdprobe_flow::{FlowFilter, Timeouts};

/// A change to a running probe.
#[derive(Clone, Debug)]
pub enum Change {
    /// Expire flows by other timeouts.
    Timeouts(Timeouts),
    /// Take other frames; all of them without a filter.
    Filter(Option<Filter>),
    /// Take another share of the frames, and state it in headers. Every resident flow is expired,
    /// so that none counts packets of both shares, but for those of some ms.
    Sampling {
        /// The share that is taken.
        taken: Sampling,
        /// The interval in headers; of the share, and of a tap that is sampled already.
        stated: SamplingInterval,
    },
    /// Send to each collector at another pace. Records that may wait for it remain as many as they
    /// were.
    Pace(Pace),
    /// Read these files, and use what they say; without a file there is no such table.
    Tables(TableFiles),
    /// Export to these destinations. Those that are among the present ones stay as they are, in
    /// their order; new ones come behind them, which is their order in failover.
    Destinations(Vec<Destination>),
}

/// A change that was not made as a whole. What it refused at goes on as before; of a change that
/// concerns several workers, interfaces, collectors or files, the others may have taken it.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{change} not changed: {why}")]
pub struct Refused {
    /// What was to be changed.
    pub change: &'static str,
    /// Why it was not.
    pub why: String,
}

/// A change under way.
#[derive(Debug)]
pub struct Applying(Receiver<Result<(), Refused>>);

impl Applying {
    /// Where the answer arrives, once; closed without one if the probe ends first.
    #[must_use]
    pub fn answer(&self) -> &Receiver<Result<(), Refused>> {
        &self.0
    }

    /// Waits until the change was made.
    ///
    /// # Errors
    ///
    /// [`Refused`] where it was not.
    pub fn wait(self) -> Result<(), Refused> {
        self.0.recv().unwrap_or_else(|_| {
            Err(Refused {
                change: "probe",
                why: "it has ended".to_owned(),
            })
        })
    }
}

/// Asks for changes. Copies lead to the same thread.
#[derive(Clone)]
pub struct Control(Sender<Order>);

struct Order {
    change: Change,
    reply: Sender<Result<(), Refused>>,
}

/// Changes that wait for the one under way.
const ORDERS_MAX: usize = 16;
/// How long a worker or the exporter may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// How long it may take to expire every resident flow.
const EXPIRY_MAX: Duration = Duration::from_secs(60);
/// After this long a worker has handed over what it expired, also one that sleeps.
const HAND_OVER_MAX: Duration = Duration::from_millis(100);

impl Control {
    /// Starts the thread; it ends when every copy is dropped.
    ///
    /// # Errors
    ///
    /// If the system gives no thread.
    pub fn start(probe: Controlled, deaths: &Deaths) -> Result<Self, StartError> {
        let (orders, arrived) = bounded(ORDERS_MAX);
        // Not waited for at the end: a resolver or a file may keep it waiting.
        deaths.spawn("control", move || probe.run(&arrived))?;
        Ok(Self(orders))
    }

    /// Asks for a change, without waiting for it.
    #[must_use]
    pub fn apply(&self, change: Change) -> Applying {
        let (reply, answer) = bounded(1);
        let name = change.name();
        let order = Order {
            change,
            reply: reply.clone(),
        };
        if self.0.try_send(order).is_err() {
            let refused = Refused {
                change: name,
                why: format!("{ORDERS_MAX} changes are waiting already; try again later"),
            };
            // There is room for one answer, and this is the first.
            let _ = reply.try_send(Err(refused));
        }
        Applying(answer)
    }
}

/// What changes are made to.
pub struct Controlled {
    /// Where requests to each worker are posted.
    pub workers: Vec<Postbox>,
    /// Where each worker publishes what it counts.
    pub boards: Vec<WorkerBoard>,
    /// Interfaces that are captured from with AF_XDP. Weak: the thread must not keep them attached.
    pub interfaces: Vec<Weak<XdpInterface>>,
    /// Interfaces that are captured from through libpcap.
    pub passive: Vec<Interface>,
    /// Where the exporter publishes what it counts.
    pub exporter_board: Arc<ExporterBoard>,
    /// Rules for interfaces, and routes.
    pub tables: Tables,
    /// The exporter.
    pub exporter: Sender<ExporterRequest>,
    /// How records are exported.
    pub export: ExportPlan,
    /// The collectors in use, in the order in which they were named.
    pub collectors: Vec<(CollectorId, Destination)>,
    /// Sockets to collectors.
    pub own: OwnExport,
    /// Names of collectors.
    pub resolver: Resolver,
    /// The filters in force, which are watched.
    pub filters: FiltersInForce,
    /// The timeouts in force, which the handle shows.
    pub timeouts: Arc<Mutex<Timeouts>>,
}

impl Controlled {
    fn run(mut self, orders: &Receiver<Order>) {
        for Order { change, reply } in orders {
            let name = change.name();
            let applied = self.apply(change);
            let applied = applied.map_err(|why| Refused { change: name, why });
            match &applied {
                Ok(()) => tracing::info!("{name} changed"),
                Err(refused) => tracing::error!("{refused}"),
            }
            // The other side may have stopped waiting.
            let _ = reply.try_send(applied);
        }
    }

    fn apply(&mut self, change: Change) -> Result<(), String> {
        match change {
            Change::Timeouts(timeouts) => self.set_timeouts(timeouts),
            Change::Filter(filter) => self.set_filter(&filter),
            Change::Sampling { taken, stated } => self.set_sampling(taken, stated),
            Change::Pace(pace) => {
                self.export.datagrams.pace = pace;
                self.ask_exporter(ExporterRequest::SetPace(pace))
            }
            Change::Tables(files) => self.read_tables(&files),
            Change::Destinations(asked) => self.set_destinations(&asked),
        }
    }

    fn set_timeouts(&self, timeouts: Timeouts) -> Result<(), String> {
        timeouts.check().map_err(|error| error.to_string())?;
        for worker in &self.workers {
            worker.post_or_wait(Request::Timeouts(timeouts));
        }
        *self.timeouts.lock().unwrap_or_else(PoisonError::into_inner) = timeouts;
        Ok(())
    }

    fn set_filter(&self, filter: &Option<Filter>) -> Result<(), String> {
        if let Some(filter) = filter {
            // Here, so that no worker has to.
            let prepare = |interface| LiveCapture::prepare(interface, filter);
            let prepared = self.passive.iter().try_for_each(prepare);
            prepared.map_err(|error| error.to_string())?;
        }
        let change = SourceChange::Filter(filter.clone());
        change_sources(self.workers.iter(), &change)?;
        self.filters.set(filter.as_ref());
        if let Some(filter) = filter {
            // Other sources log this themselves: they know their link types.
            for interface in self.interfaces.iter().filter_map(Weak::upgrade) {
                filter.warn_if_blind(&interface.interface().name);
            }
        }
        Ok(())
    }

    /// Expires what was metered at the old share, once before and once after the change, and has it
    /// exported before headers state the new one.
    fn set_sampling(&mut self, taken: Sampling, stated: SamplingInterval) -> Result<(), String> {
        self.export_resident()?;
        for interface in self.interfaces.iter().filter_map(Weak::upgrade) {
            interface
                .set_sampling(taken)
                .map_err(|refused| refused.to_string())?;
        }
        // Queues of an interface are sampled by its program.
        let others = self.workers.iter().zip(&self.boards);
        let others = others.filter(|(_, board)| board.queue.is_none());
        let change = SourceChange::Sampling(taken);
        change_sources(others.map(|(worker, _)| worker), &change)?;
        self.export_resident()?;
        self.export.format.sampling = stated;
        self.ask_exporter(ExporterRequest::SetSampling(stated))
    }

    /// Expires every resident flow, and waits until the exporter has taken the records.
    fn export_resident(&self) -> Result<(), String> {
        let (done, expired) = bounded(self.workers.len().max(1));
        for worker in &self.workers {
            let expiry = Expiry::new(FlowFilter::default(), done.clone());
            worker.post_or_wait(Request::Expire(expiry));
        }
        drop(done);
        for _ in &self.workers {
            expired.recv_timeout(EXPIRY_MAX).map_err(|_| {
                format!("resident flows were not exported within {EXPIRY_MAX:?}; try again")
            })?;
        }
        // A batch is handed over 20 ms after its oldest record at the latest.
        std::thread::sleep(HAND_OVER_MAX);
        let handed_over = |board: &WorkerBoard| {
            let counters = board.published.read();
            counters.expired.records - counters.dropped.records - counters.kept
        };
        let handed_over: u64 = self.boards.iter().map(handed_over).sum();
        for _ in 0..ANSWER_MAX.as_millis() {
            if self.exporter_board.counters.read().taken.records >= handed_over {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Err(format!(
            "the exporter did not take all records within {ANSWER_MAX:?}; try again"
        ))
    }

    fn read_tables(&self, files: &TableFiles) -> Result<(), String> {
        let errors = self.tables.reload(files);
        if errors.is_empty() {
            return Ok(());
        }
        let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
        Err(format!(
            "{}; the tables that were read before stay in force",
            errors.join("; ")
        ))
    }

    /// Connects to what is new before anything is removed: one that cannot be reached changes
    /// nothing.
    fn set_destinations(&mut self, asked: &[Destination]) -> Result<(), String> {
        if asked.is_empty() {
            return Err("no collector is left: name one at least".to_owned());
        }
        for (nth, to) in asked.iter().enumerate() {
            if asked[..nth].contains(to) {
                return Err(format!("collector {to} is named twice: name it once"));
            }
        }
        let known: Vec<_> = self.collectors.iter().map(|(_, to)| to.clone()).collect();
        let new: Vec<_> = asked.iter().filter(|to| !known.contains(to)).collect();
        let connected: Result<Vec<_>, StartError> = new
            .iter()
            .map(|to| Connected::to(to, &self.export))
            .collect();
        let connected = connected.map_err(|error| error.to_string())?;
        for (to, connected) in new.into_iter().zip(connected) {
            self.add(to.clone(), connected)?;
        }
        let (kept, removed) = std::mem::take(&mut self.collectors)
            .into_iter()
            .partition(|(_, to)| asked.contains(to));
        self.collectors = kept;
        for (id, _) in removed {
            self.resolver.forget(id);
            self.ask_exporter(ExporterRequest::Remove(id))?;
            self.own.disconnected(id);
        }
        Ok(())
    }

    fn add(&mut self, to: Destination, connected: Connected) -> Result<(), String> {
        let (reply, added) = bounded(1);
        self.ask_exporter(ExporterRequest::Add {
            name: to.to_string(),
            outlet: connected.outlet,
            reply,
        })?;
        let id = added
            .recv_timeout(ANSWER_MAX)
            .map_err(|_| format!("the exporter did not answer within {ANSWER_MAX:?}"))?;
        if let Some(socket) = connected.socket {
            let registered = socket.register(id, &self.own, &mut self.resolver);
            registered.map_err(|error| error.to_string())?;
        }
        self.collectors.push((id, to));
        Ok(())
    }

    fn ask_exporter(&self, request: ExporterRequest) -> Result<(), String> {
        let sent = self.exporter.send(request);
        sent.map_err(|_| "the exporter has ended".to_owned())
    }
}

/// Changes the sources of `workers`. Where one refuses, those that took the change keep it.
fn change_sources<'a>(
    workers: impl Iterator<Item = &'a Postbox>,
    change: &SourceChange,
) -> Result<(), String> {
    let workers: Vec<_> = workers.collect();
    let (reply, answers) = bounded(workers.len().max(1));
    for worker in &workers {
        worker.post_or_wait(Request::Source(change.clone(), reply.clone()));
    }
    for answered in 0..workers.len() {
        match answers.recv_timeout(ANSWER_MAX) {
            Ok(Ok(())) => {}
            Ok(Err(refused)) => return Err(refused.to_string()),
            Err(_) => {
                return Err(format!(
                    "{answered} of {} workers answered within {ANSWER_MAX:?}",
                    workers.len()
                ));
            }
        }
    }
    Ok(())
}

impl Change {
    /// What is changed.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Timeouts(_) => "timeouts",
            Self::Filter(_) => "filter",
            Self::Sampling { .. } => "sampling",
            Self::Pace(_) => "pace",
            Self::Tables(_) => "tables",
            Self::Destinations(_) => "collectors",
        }
    }
}
