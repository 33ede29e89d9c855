//! One running probe, and the handle that drives it.
//!
//! Start: collectors are resolved and connected; the exporter starts; each interface gets its XDP
//! program; each worker makes its flow cache and opens its source on its own pinned thread. Stop
//! (at the handle's request, or when every source has ended): no frame is redirected any more,
//! workers read what their rings hold and drain their caches, the exporter sends the rest, and the
//! ledger is drawn up.

use crate::clock::LiveClock;
use crate::connect::{Connected, check_files};
use crate::control::{Applying, Change, Control, Controlled};
use crate::crew::{Common, Crew};
use crate::error::StartError;
use crate::exporting::ExporterThread;
use crate::filter_watch::{FilterWatch, FiltersInForce};
use crate::hand_over::channels;
use crate::ledger::Ledger;
use crate::losses::LossLog;
use crate::mailbox::{Expiry, FlowBatch, Postbox, Request, VISIT_BATCH_FLOWS, Visit};
use crate::own_export::OwnExport;
use crate::plan::{CapturePlan, Plan};
use crate::resolver::Resolver;
use crate::snapshot::{Boards, Snapshot};
use crate::thread::{CoreList, spawn};
use crate::unread::{UnreadLog, check_file};
use crate::watch::{Watch, WatchLog};
use crossbeam_channel::{Receiver, Sender, bounded, select, tick};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use xdprobe_capture::{CaptureError, ReadProgress};
use xdprobe_export::{DetailTables, Exporter};
use xdprobe_flow::{CacheConfig, FlowFilter, FlowRecord, Timeouts};

/// A probe at work. No call waits for a worker or the exporter; dropping the handle stops the
/// probe.
pub struct Pipeline {
    boards: Boards,
    workers: Vec<Postbox>,
    control: Control,
    details: Arc<DetailTables>,
    timeouts: Arc<Mutex<Timeouts>>,
    progress: Option<ReadProgress>,
    stop: Sender<()>,
    outcome: Receiver<Outcome>,
}

/// How a run ended.
pub struct Outcome {
    /// Where every packet is.
    pub ledger: Ledger,
    /// What ended it, where that was neither the end of a file nor a request to stop.
    pub error: Option<RunError>,
}

/// What went wrong in a run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A source can give no more frames; what it gave was exported.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// No frame of the capture file is of a link type that is read.
    #[error("{0}")]
    NothingRead(String),
    /// An outlet could not be completed.
    #[error("the records' file is incomplete: {0}")]
    Export(io::Error),
    /// Threads panicked, and what they held is lost.
    #[error("{} died, and what it held is lost; please report this", .0.join(", "))]
    Died(Vec<String>),
}

/// A probe that is being started.
pub struct Starting(Receiver<Result<Pipeline, StartError>>);

impl Starting {
    /// Where the probe arrives, once it receives.
    #[must_use]
    pub fn started(&self) -> &Receiver<Result<Pipeline, StartError>> {
        &self.0
    }

    /// Waits until the probe receives.
    ///
    /// # Errors
    ///
    /// Why it cannot.
    pub fn wait(self) -> Result<Pipeline, StartError> {
        self.0.recv().unwrap_or(Err(StartError::Died))
    }
}

/// Batches of each worker that a visit of the flows goes through.
const VISIT_BATCHES: usize = 4;

impl Pipeline {
    /// Starts a probe on threads of its own, without waiting for it.
    ///
    /// # Errors
    ///
    /// If the system gives no thread; what else may keep it from starting comes from [`Starting`].
    pub fn start(plan: Plan) -> Result<Starting, StartError> {
        let (started, starting) = bounded(1);
        spawn("pipeline", move || match Running::start(plan) {
            Ok((pipeline, running)) => {
                // Where the handle was not taken it is dropped here, which stops the probe.
                let _ = started.send(Ok(pipeline));
                running.watch();
            }
            Err(error) => {
                let _ = started.send(Err(error));
            }
        })?;
        Ok(Starting(starting))
    }

    /// Where everything is counted.
    #[must_use]
    pub fn boards(&self) -> &Boards {
        &self.boards
    }

    /// Reads all counters: see [`Boards::snapshot`].
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.boards.snapshot()
    }

    /// How far the capture file has been read, where it is one.
    #[must_use]
    pub fn progress(&self) -> Option<&ReadProgress> {
        self.progress.as_ref()
    }

    /// Interfaces by observation point, and routes.
    #[must_use]
    pub fn details(&self) -> &DetailTables {
        &self.details
    }

    /// The timeouts in force.
    #[must_use]
    pub fn timeouts(&self) -> Timeouts {
        *self.timeouts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks every worker for the resident flows that `filter` picks. Each flow that stays resident
    /// meanwhile comes once.
    #[must_use]
    pub fn flows(&self, filter: &FlowFilter) -> Flows {
        let (full, batches) = bounded(self.workers.len() * VISIT_BATCHES);
        let mut unasked = 0;
        let visit = |(worker, postbox): (usize, &Postbox)| {
            let (give_back, empty) = bounded(VISIT_BATCHES);
            for _ in 0..VISIT_BATCHES {
                let batch = Vec::with_capacity(VISIT_BATCH_FLOWS);
                give_back
                    .try_send(batch)
                    .expect("there is room for all batches");
            }
            let visit = Visit::new(worker, *filter, empty, full.clone());
            unasked += usize::from(postbox.post(Request::Visit(visit)).is_err());
            give_back
        };
        let empty = self.workers.iter().enumerate().map(visit).collect();
        Flows {
            batches,
            empty,
            unasked,
        }
    }

    /// Asks every worker to expire the resident flows that `filter` picks now.
    #[must_use]
    pub fn expire(&self, filter: &FlowFilter) -> Expiring {
        let (done, reports) = bounded(self.workers.len().max(1));
        let ask = |worker: &&Postbox| {
            let expiry = Expiry::new(*filter, done.clone());
            worker.post(Request::Expire(expiry)).is_err()
        };
        let unasked = self.workers.iter().filter(ask).count();
        Expiring { reports, unasked }
    }

    /// Asks for a change.
    #[must_use]
    pub fn apply(&self, change: Change) -> Applying {
        self.control.apply(change)
    }

    /// Asks the probe to stop. Further requests change nothing.
    pub fn stop(&self) {
        let _ = self.stop.try_send(());
    }

    /// Where the outcome arrives, once, when the probe has stopped or every source has ended. The
    /// interfaces' programs are detached when the handle and every copy of its boards are dropped.
    #[must_use]
    pub fn outcome(&self) -> &Receiver<Outcome> {
        &self.outcome
    }
}

/// The resident flows, in batches that go round between the workers and the reader.
pub struct Flows {
    batches: Receiver<FlowBatch>,
    empty: Vec<Sender<Vec<FlowRecord>>>,
    unasked: usize,
}

impl Flows {
    /// Workers that could not be asked, since they have ended or do not look into their mailbox:
    /// their flows are missing.
    #[must_use]
    pub fn unasked(&self) -> usize {
        self.unasked
    }

    /// Where batches arrive; closed once every worker has given out all that it has.
    #[must_use]
    pub fn batches(&self) -> &Receiver<FlowBatch> {
        &self.batches
    }

    /// Returns a batch that was read: its worker can go on with it.
    pub fn give_back(&self, batch: FlowBatch) {
        let FlowBatch { worker, mut flows } = batch;
        flows.clear();
        // A worker that has given out all that it has needs no more batches.
        let _ = self.empty[worker].try_send(flows);
    }

    /// Calls `each` with every flow and its worker, and returns once that was the last.
    pub fn for_each(self, mut each: impl FnMut(usize, &FlowRecord)) {
        while let Ok(batch) = self.batches.recv() {
            batch.flows.iter().for_each(|flow| each(batch.worker, flow));
            self.give_back(batch);
        }
    }
}

/// An expiry under way.
pub struct Expiring {
    reports: Receiver<u64>,
    unasked: usize,
}

impl Expiring {
    /// Where each worker reports how many flows it expired; closed after the last.
    #[must_use]
    pub fn reports(&self) -> &Receiver<u64> {
        &self.reports
    }

    /// Workers that could not be asked, since they have ended or do not look into their mailbox:
    /// they expire nothing.
    #[must_use]
    pub fn unasked(&self) -> usize {
        self.unasked
    }

    /// Waits for every worker, and returns how many flows were expired.
    #[must_use]
    pub fn wait(self) -> u64 {
        self.reports.iter().sum()
    }
}

/// The thread that starts a probe and waits for its end.
struct Running {
    crew: Crew,
    exporter: JoinHandle<io::Result<()>>,
    boards: Boards,
    filters: FilterWatch,
    watch: Watch,
    /// The capture file, where it is one.
    file: Option<PathBuf>,
    stop: Receiver<()>,
    outcome: Sender<Outcome>,
}

impl Running {
    fn start(mut plan: Plan) -> Result<(Pipeline, Self), StartError> {
        plan.check()?;
        plan.export
            .inputs
            .extend(plan.captures.iter().filter_map(CapturePlan::path));
        check_files(&plan.export)?;
        let (regime, worker_count) = (plan.regime(), plan.worker_count());
        let clock = LiveClock::start();
        let (requests, exporter_requests) = bounded(EXPORTER_REQUESTS_MAX);
        let own = OwnExport::default();
        let mut resolver = Resolver::new(
            plan.export.resolve_interval,
            plan.export.sockets.clone(),
            own.clone(),
            requests.clone(),
        );
        let mut exporter =
            Exporter::new(plan.export.distribution).with_details(plan.tables.details());
        let mut collectors = Vec::new();
        let connected = Connected::to_all(&plan.export, regime)?;
        for (to, Connected { outlet, socket }) in plan.export.destinations.iter().zip(connected) {
            let id = exporter.add(to.to_string(), outlet);
            if let Some(socket) = socket {
                socket.register(id, &own, &mut resolver)?;
            }
            collectors.push((id, to.clone()));
        }
        let (outboxes, inbox) = channels(worker_count, regime.patience());
        let (has_started, started) = bounded(1);
        let exporter = ExporterThread::new(exporter, inbox, exporter_requests, started, clock);
        let board = exporter.board();
        let exporter = spawn("exporter", move || exporter.run(regime))?;
        let common = Common {
            cache: CacheConfig {
                flows_max: plan.flows_per_queue,
                timeouts: plan.timeouts,
                counter_max: plan.counter_max(),
                seed: regime.seed(),
                backing: regime.backing(),
            },
            input: plan.input,
            tables: plan.tables.clone(),
            own: own.clone(),
            clock,
        };
        let file = plan.captures.iter().find_map(|capture| match capture {
            CapturePlan::File { path, .. } => Some(path.clone()),
            CapturePlan::Pcap { .. } | CapturePlan::Xdp { .. } => None,
        });
        let cores = CoreList::new(plan.cores.as_deref(), pinned_count(&plan.captures));
        let filters = FiltersInForce::of(&plan.captures);
        let filter_watch = FilterWatch::new(&plan.captures, filters.clone());
        let mut crew = match Crew::start(common, plan.captures, outboxes, cores) {
            Ok(crew) => crew,
            Err(error) => {
                drop(has_started);
                // It removes the files that it has begun.
                let _ = exporter.join();
                return Err(error);
            }
        };
        plan.tables.warn_of_unused_rules();
        let boards = Boards {
            clock,
            workers: std::mem::take(&mut crew.boards),
            interfaces: crew.interfaces.clone(),
            looked_ms: Arc::default(),
            exporter: board,
        };
        let details = plan.tables.details();
        let timeouts = Arc::new(Mutex::new(plan.timeouts));
        let controlled = Controlled {
            workers: crew.postboxes().to_vec(),
            boards: boards.workers.clone(),
            interfaces: boards.interfaces.iter().map(Arc::downgrade).collect(),
            exporter_board: Arc::clone(&boards.exporter),
            tables: plan.tables,
            exporter: requests,
            export: plan.export,
            collectors,
            own,
            resolver,
            filters,
            timeouts: Arc::clone(&timeouts),
        };
        let helped =
            Watch::over(&boards).and_then(|watch| Ok((watch, Control::start(controlled)?)));
        let (watch, control) = match helped {
            Ok(both) => both,
            Err(error) => {
                drop(has_started);
                crew.ask_to_stop();
                let _ = (crew.join(), exporter.join());
                return Err(error);
            }
        };
        has_started
            .try_send(())
            .expect("there is room for one message");
        let (stop, stop_requests) = bounded(1);
        let (outcome, outcomes) = bounded(1);
        let pipeline = Pipeline {
            boards: boards.clone(),
            workers: crew.postboxes().to_vec(),
            control,
            details,
            timeouts,
            progress: crew.progress.take(),
            stop,
            outcome: outcomes,
        };
        let running = Self {
            crew,
            exporter,
            boards,
            filters: filter_watch,
            watch,
            file,
            stop: stop_requests,
            outcome,
        };
        Ok((pipeline, running))
    }

    /// Waits until the probe is to stop or every source has ended, ends it, and sends the outcome.
    fn watch(mut self) {
        let (due, mut losses) = (tick(LOOK_INTERVAL), LossLog::default());
        let (mut unread, mut watched) = (UnreadLog::default(), WatchLog::default());
        loop {
            select! {
                recv(self.stop) -> _ => break,
                // Every worker has reported that it started; now comes nothing but the last one's
                // end.
                recv(self.crew.ended) -> _ => break,
                recv(due) -> _ => {
                    let snapshot = self.boards.snapshot();
                    inform_of(&unread.lines(&snapshot));
                    warn_of(&watched.warnings(&snapshot));
                    inform_of(&watched.all_clear(&snapshot));
                    warn_of(&losses.lines(&snapshot));
                    warn_of(&self.filters.lines(&snapshot));
                }
            }
        }
        let Self {
            crew,
            exporter,
            boards,
            filters,
            watch,
            file,
            outcome,
            ..
        } = self;
        drop(watch);
        crew.ask_to_stop();
        let (worked, mut died) = crew.join();
        let finished = exporter.join().unwrap_or_else(|_| {
            died.push("exporter".to_owned());
            Ok(())
        });
        let last = boards.snapshot();
        inform_of(&unread.lines(&last));
        warn_of(&watched.warnings(&last));
        warn_of(&losses.last_lines(&last));
        warn_of(&filters.last_lines(&last));
        let nothing_read = file.and_then(|path| check_file(&path, &last));
        let ledger = Ledger::draw_up(&last);
        // Programs are detached with the last copy of the boards: from here on, the handle's.
        drop(boards);
        let error = match (died.is_empty(), worked, finished) {
            (false, ..) => Some(RunError::Died(died)),
            (true, Err(error), _) => Some(error.into()),
            (true, Ok(()), Err(error)) => Some(RunError::Export(error)),
            (true, Ok(()), Ok(())) => nothing_read.map(RunError::NothingRead),
        };
        // The handle may have been dropped.
        let _ = outcome.send(Outcome { ledger, error });
    }
}

/// How often losses and filters that let nothing through are looked for.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

fn inform_of(lines: &[String]) {
    lines.iter().for_each(|line| tracing::info!("{line}"));
}

fn warn_of(lines: &[String]) {
    lines.iter().for_each(|line| tracing::warn!("{line}"));
}

/// Requests to the exporter under way; it takes them once a turn.
const EXPORTER_REQUESTS_MAX: usize = 64;

/// Workers that are pinned to a core even where none is named.
fn pinned_count(captures: &[CapturePlan]) -> usize {
    let by_xdp = |capture: &&CapturePlan| matches!(capture, CapturePlan::Xdp { .. });
    captures
        .iter()
        .filter(by_xdp)
        .map(CapturePlan::worker_count)
        .sum()
}
