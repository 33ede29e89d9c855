//! One running probe, and the handle that drives it.
//!
//! Start: collectors are resolved and connected; the exporter starts; each interface gets its XDP
//! program; each worker makes its flow cache and opens its source on its own pinned thread. Stop
//! (at the handle's request, when every source has ended, or when a thread has died): no frame is
//! redirected any more, workers read what their rings hold and drain their caches, the exporter
//! sends the rest, and the ledger is drawn up.

use crate::clock::LiveClock;
use crate::connect::{Connected, check_files};
use crate::control::{Applying, Change, Control, Controlled};
use crate::crew::{Common, Crew, NewCrew};
use crate::ending::{Ending, Stop};
use crate::error::StartError;
use crate::exporting::{ExporterRequest, ExporterThread};
use crate::filter_watch::{FilterWatch, FiltersInForce};
use crate::hand_over::channels;
use crate::ledger::Ledger;
use crate::left_over::is_cut_short;
use crate::losses::LossLog;
use crate::mailbox::{Expiry, FlowBatch, Postbox, Request, VISIT_BATCH_FLOWS, Visit};
use crate::memory;
use crate::own_export::OwnExport;
use crate::plan::{CapturePlan, ExportPlan, Plan};
use crate::resolver::Resolver;
use crate::snapshot::{Boards, Snapshot};
use crate::thread::{CoreList, Deaths};
use crate::unread::{UnreadLog, check_file};
use crate::watch::{Watch, WatchLog};
use crossbeam_channel::{Receiver, Sender, bounded, select, tick};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
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
    stop: Sender<Stop>,
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
    #[error("{} died: {losses}; please report this", names.join(", "))]
    Died {
        /// The threads.
        names: Vec<String>,
        /// What was lost in the run.
        losses: String,
    },
    /// The time for the end was over before everything was exported.
    #[error("stopped before everything was exported: {losses}; see --stop-timeout")]
    CutShort {
        /// What was lost in the run.
        losses: String,
    },
    /// The run was stopped before the end of its capture file.
    #[error(
        "{path} was read in part, up to octet {octets}{}, since the run was stopped: {losses}",
        of_total(*octets_total)
    )]
    ReadInPart {
        /// The file.
        path: PathBuf,
        /// Octets of it that were read.
        octets: u64,
        /// Its length, where that is known.
        octets_total: Option<u64>,
        /// What was lost in the run.
        losses: String,
    },
}

fn of_total(octets: Option<u64>) -> String {
    octets.map_or_else(String::new, |octets| format!(" of {octets}"))
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
    /// If the plan contradicts itself, takes more memory than there is, or the system gives no
    /// thread; what else may keep it from starting comes from [`Starting`].
    pub fn start(mut plan: Plan) -> Result<Starting, StartError> {
        plan.check()?;
        memory::fit(&mut plan)?;
        let (started, starting) = bounded(1);
        let deaths = Deaths::default();
        let of_parts = deaths.clone();
        deaths.spawn("pipeline", move || match Running::start(plan, &of_parts) {
            Ok((pipeline, running)) => {
                // Where the handle was not taken it is dropped here, which stops the probe.
                let _ = started.send(Ok(pipeline));
                running.run();
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

    /// Asks the probe to stop: it has [`Plan::stop_timeout`] for that. Further requests change
    /// nothing.
    pub fn stop(&self) {
        let _ = self.stop.try_send(Stop::InTime);
    }

    /// Asks the probe to stop now: what cannot be exported at once is lost.
    pub fn stop_now(&self) {
        let _ = self.stop.try_send(Stop::Now);
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
    exporter_requests: Sender<ExporterRequest>,
    /// Closed once the exporter has ended.
    exporter_ended: Receiver<()>,
    export: ExportPlan,
    stop_timeout: Duration,
    boards: Boards,
    logs: Logs,
    watch: Watch,
    /// The capture file, where it is one.
    file: Option<(PathBuf, ReadProgress)>,
    stop: Receiver<Stop>,
    outcome: Sender<Outcome>,
}

impl Running {
    fn start(plan: Plan, deaths: &Deaths) -> Result<(Pipeline, Self), StartError> {
        Self::start_with(plan, deaths, |new, captures| {
            captures
                .into_iter()
                .try_for_each(|capture| new.add(capture))
        })
    }

    /// Starts a probe whose workers `add` adds, one for each that the plan needs.
    fn start_with(
        mut plan: Plan,
        deaths: &Deaths,
        add: impl FnOnce(&mut NewCrew, Vec<CapturePlan>) -> Result<(), StartError>,
    ) -> Result<(Pipeline, Self), StartError> {
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
            deaths.clone(),
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
        let (exporter_works, exporter_ended) = bounded::<()>(1);
        let exporter = deaths.spawn("exporter", move || {
            let _works = exporter_works;
            exporter.run(regime)
        })?;
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
            deaths: deaths.clone(),
        };
        let file = plan.captures.iter().find_map(|capture| match capture {
            CapturePlan::File { path, .. } => Some(path.clone()),
            CapturePlan::Pcap { .. } | CapturePlan::Xdp { .. } => None,
        });
        let cores = CoreList::new(plan.cores.as_deref(), pinned_count(&plan.captures));
        let passive = plan.captures.iter().filter_map(|capture| match capture {
            CapturePlan::Pcap { interface, .. } => Some(interface.clone()),
            CapturePlan::Xdp { .. } | CapturePlan::File { .. } => None,
        });
        let passive = passive.collect();
        let filters = FiltersInForce::of(&plan.captures);
        let filter_watch = FilterWatch::new(&plan.captures, filters.clone());
        let add = |new: &mut NewCrew| add(new, plan.captures);
        let mut crew = match Crew::start(common, outboxes, cores, add) {
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
            deaths: deaths.clone(),
        };
        let export = plan.export.clone();
        let details = plan.tables.details();
        let timeouts = Arc::new(Mutex::new(plan.timeouts));
        let controlled = Controlled {
            workers: crew.postboxes().to_vec(),
            boards: boards.workers.clone(),
            interfaces: boards.interfaces.iter().map(Arc::downgrade).collect(),
            passive,
            exporter_board: Arc::clone(&boards.exporter),
            tables: plan.tables,
            exporter: requests.clone(),
            export: plan.export,
            collectors,
            own,
            resolver,
            filters,
            timeouts: Arc::clone(&timeouts),
        };
        let helped =
            Watch::over(&boards).and_then(|watch| Ok((watch, Control::start(controlled, deaths)?)));
        let (watch, control) = match helped {
            Ok(both) => both,
            Err(error) => {
                drop(has_started);
                crew.stop(0);
                let _ = (crew.join(), exporter.join());
                return Err(error);
            }
        };
        has_started
            .try_send(())
            .expect("there is room for one message");
        let (stop, stop_requests) = bounded(STOPS_MAX);
        let (outcome, outcomes) = bounded(1);
        let pipeline = Pipeline {
            boards: boards.clone(),
            workers: crew.postboxes().to_vec(),
            control,
            details,
            timeouts,
            progress: crew.progress.clone(),
            stop,
            outcome: outcomes,
        };
        let running = Self {
            file: file.zip(crew.progress.clone()),
            crew,
            exporter,
            exporter_requests: requests,
            exporter_ended,
            export,
            stop_timeout: plan.stop_timeout,
            boards,
            logs: Logs::new(filter_watch),
            watch,
            stop: stop_requests,
            outcome,
        };
        Ok((pipeline, running))
    }

    /// Waits until the probe is to end, ends it, and sends the outcome.
    fn run(mut self) {
        let waited = AssertUnwindSafe(|| self.wait());
        let asked = catch_unwind(waited).unwrap_or_else(|_| {
            self.boards.deaths.note("pipeline");
            Some(Stop::InTime)
        });
        let ending = Ending {
            crew: &self.crew,
            exporter: &self.exporter_requests,
            exporter_ended: &self.exporter_ended,
            boards: &self.boards,
            export: &self.export,
            timeout: self.stop_timeout,
        };
        let ended = AssertUnwindSafe(|| ending.wait(asked, self.stop.clone()));
        let has_ended = catch_unwind(ended).unwrap_or_else(|_| {
            self.boards.deaths.note("pipeline");
            false
        });
        let (worked, finished) = if has_ended {
            let worked = self.crew.join();
            // Its death is noted where it happens.
            (worked, self.exporter.join().unwrap_or(Ok(())))
        } else {
            (Ok(()), Ok(()))
        };
        // It has a copy of the boards, and may have died.
        drop(self.watch);
        let last = Snapshot {
            is_last: true,
            is_given_up: !has_ended,
            ..self.boards.snapshot()
        };
        self.logs.report_last(&last);
        let ledger = Ledger::draw_up(&last);
        // Programs are detached with the last copy of the boards: from here on, the handle's.
        drop(self.boards);
        let losses = ledger.losses();
        let error = if !last.died.is_empty() {
            Some(RunError::Died {
                names: last.died.clone(),
                losses,
            })
        } else if let Err(error) = worked {
            Some(error.into())
        } else if let Err(error) = finished {
            Some(RunError::Export(error))
        } else if let Some((path, read)) = self.file.as_ref().filter(|_| last.leaves_unread()) {
            Some(RunError::ReadInPart {
                path: path.clone(),
                octets: read.octets_read(),
                octets_total: read.octets_total(),
                losses,
            })
        } else if is_cut_short(&last) {
            Some(RunError::CutShort { losses })
        } else {
            let nothing_read = self.file.and_then(|(path, _)| check_file(&path, &last));
            nothing_read.map(RunError::NothingRead)
        };
        // The handle may have been dropped.
        let _ = self.outcome.send(Outcome { ledger, error });
    }

    /// Reports what happens, until the probe is asked to stop, or for another reason to end.
    fn wait(&mut self) -> Option<Stop> {
        let due = tick(LOOK_INTERVAL);
        loop {
            select! {
                // The handle may have been dropped.
                recv(self.stop) -> asked => return Some(asked.unwrap_or(Stop::InTime)),
                // Every worker has reported that it started; now comes nothing but the last one's
                // end.
                recv(self.crew.ended) -> _ => return None,
                recv(self.boards.deaths.bell()) -> _ => return Some(Stop::InTime),
                recv(due) -> _ => self.logs.report(&self.boards.snapshot()),
            }
        }
    }
}

/// What is read from snapshots for the log.
struct Logs {
    filters: FilterWatch,
    losses: LossLog,
    unread: UnreadLog,
    watched: WatchLog,
}

impl Logs {
    fn new(filters: FilterWatch) -> Self {
        Self {
            filters,
            losses: LossLog::default(),
            unread: UnreadLog::default(),
            watched: WatchLog::default(),
        }
    }

    /// Logs what is due by a snapshot.
    fn report(&mut self, snapshot: &Snapshot) {
        inform_of(&self.unread.lines(snapshot));
        warn_of(&self.watched.warnings(snapshot));
        inform_of(&self.watched.all_clear(snapshot));
        warn_of(&self.losses.lines(snapshot));
        warn_of(&self.filters.lines(snapshot));
    }

    /// Logs at the end what no line has said yet.
    fn report_last(&mut self, last: &Snapshot) {
        inform_of(&self.unread.lines(last));
        warn_of(&self.watched.warnings(last));
        warn_of(&self.losses.last_lines(last));
        warn_of(&self.filters.last_lines(last));
    }
}

/// Requests to stop that wait; more of them would ask for nothing new.
const STOPS_MAX: usize = 4;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crew::{Opening, Post};
    use crate::readiness::not_ready;
    use crate::tables::Tables;
    use std::net::{Ipv4Addr, SocketAddr};
    use xdprobe_capture::xdp::{Mode, XdpConfig};
    use xdprobe_capture::{
        CaptureTime, Frame, Interface, Received, Sampling, Source, SourceCounters,
    };
    use xdprobe_export::{
        CollectorCounters, DatagramConfig, DetailedRecord, Distribution, FixedFormat, Moment,
        Outlet, SocketOptions, Tally,
    };
    use xdprobe_flow::Timeouts;
    use xdprobe_lab::test_collector::{Keep, TestCollector};

    /// A burst of one flow a frame, then silence, or a panic when it was shown so many more frames.
    struct Burst {
        flows: u32,
        panics_after: Option<u32>,
        shown: u32,
        counters: SourceCounters,
    }

    impl Burst {
        fn new(flows: u32, panics_after: Option<u32>) -> Self {
            Self {
                flows,
                panics_after,
                shown: 0,
                counters: SourceCounters::default(),
            }
        }

        fn show(&mut self, each: &mut impl FnMut(Frame<'_>)) {
            let from = Ipv4Addr::from_bits(0x0a00_0000 + self.shown);
            let to = SocketAddr::from(([192, 0, 2, 1], 9));
            let octets = xdprobe_lab::frames::udp(SocketAddr::from((from, 7)), to, &[]);
            self.shown += 1;
            self.counters.received += 1;
            each(Frame {
                octets: &octets,
                wire_octets: 28,
                // LINKTYPE_RAW
                link: 101,
                captured: CaptureTime::AtReceipt,
            });
        }
    }

    impl Source for Burst {
        fn receive(&mut self, each: &mut impl FnMut(Frame<'_>)) -> Result<Received, CaptureError> {
            if self.shown < self.flows {
                for _ in 0..self.flows.min(10) {
                    self.show(each);
                }
                return Ok(Received::Frames);
            }
            if let Some(frames) = self.panics_after {
                (0..frames).for_each(|_| self.show(each));
                panic!("this source dies in a test");
            }
            Ok(Received::Nothing)
        }

        fn wait(&mut self, _: Duration) {
            std::thread::sleep(Duration::from_millis(1));
        }

        fn counters(&self) -> SourceCounters {
            self.counters
        }
    }

    /// An outlet that dies with the second records.
    struct Dying(CollectorCounters);

    impl Outlet for Dying {
        fn push(&mut self, records: &[DetailedRecord], _: Moment) {
            assert_eq!(
                self.0.exported,
                Tally::default(),
                "this outlet dies in a test"
            );
            let tally = DetailedRecord::tally(records);
            self.0.sent += tally;
            self.0.exported += tally;
        }

        fn counters(&self) -> CollectorCounters {
            self.0
        }
    }

    /// An outlet that hangs with the first records, as one on a dead file server.
    struct Hanging;

    impl Outlet for Hanging {
        fn push(&mut self, _: &[DetailedRecord], _: Moment) {
            loop {
                std::thread::park();
            }
        }

        fn counters(&self) -> CollectorCounters {
            CollectorCounters::default()
        }
    }

    /// A plan of `workers` workers whose flows end by `idle_ms`, for a collector.
    fn plan(workers: u32, idle_ms: u64, collector: SocketAddr) -> Plan {
        Plan {
            shrink_to_fit: false,
            captures: vec![CapturePlan::Xdp {
                interface: Interface::look_up("lo").unwrap(),
                config: XdpConfig {
                    mode: Mode::Auto,
                    ring_entries: XdpConfig::RING_ENTRIES,
                    busy_poll: false,
                    sampling: Sampling::NONE,
                    filter: None,
                },
                queues: (0..workers).collect(),
            }],
            cores: None,
            timeouts: Timeouts {
                idle_ms,
                ..Timeouts::default()
            },
            flows_per_queue: 1_000,
            export: ExportPlan {
                distribution: Distribution::Copy,
                format: FixedFormat::default(),
                datagrams: DatagramConfig::default(),
                sockets: SocketOptions::default(),
                resolve_interval: Duration::from_secs(60),
                destinations: vec![collector.to_string().parse().unwrap()],
                overwrite: false,
                inputs: Vec::new(),
            },
            input: None,
            tables: Tables::default(),
            stop_timeout: Duration::from_secs(60),
        }
    }

    /// Starts the plan with a worker for each of `sources`, called `memory/0` and so on.
    fn start(plan: Plan, sources: Vec<Burst>) -> Result<(Pipeline, Running), StartError> {
        Running::start_with(plan, &Deaths::default(), |new, _| {
            for (queue, source) in (0..).zip(sources) {
                let post = Post {
                    interface: "memory".to_owned(),
                    queue: Some(queue),
                    core: None,
                    rules: Arc::default(),
                };
                let clock = LiveClock::start();
                new.spawn(post, clock, Opening::at_once(move |(), ()| Ok(source)))?;
            }
            Ok(())
        })
    }

    fn outcome_of(pipeline: &Pipeline, running: Running) -> Outcome {
        let thread = std::thread::Builder::new().name("running".to_owned());
        let thread = thread.spawn(move || running.run()).unwrap();
        let outcome = pipeline.outcome().recv().unwrap();
        thread.join().unwrap();
        outcome
    }

    #[test]
    fn a_worker_that_dies_ends_the_run_and_what_it_held_is_a_named_loss() {
        let collector = TestCollector::start(Keep::Counts).unwrap();
        let sources = vec![Burst::new(10, Some(3)), Burst::new(20, None)];
        let (pipeline, running) = start(plan(2, 60_000, collector.address()), sources).unwrap();
        // Not asked to stop: the death ends the run.
        let outcome = outcome_of(&pipeline, running);
        assert_eq!(not_ready(&pipeline.snapshot())[0], "memory/0 died");
        let text = outcome.ledger.to_string();
        assert!(
            text.ends_with("ledger balanced, lost 3 packets (3 died) and 10 records (10 died)"),
            "{text}"
        );
        let error = outcome.error.unwrap().to_string();
        assert!(
            error.starts_with("memory/0 died: lost 3 packets"),
            "{error}"
        );
        assert_eq!(collector.stop().unwrap().records, 20);
    }

    #[test]
    fn an_exporter_that_dies_ends_the_run_and_what_it_held_is_a_named_loss() {
        let collector = TestCollector::start(Keep::Counts).unwrap();
        let sources = vec![Burst::new(500, None)];
        let (pipeline, running) = start(plan(1, 60_000, collector.address()), sources).unwrap();
        let (reply, added) = bounded(1);
        let outlet = Box::new(Dying(CollectorCounters::default()));
        let add = ExporterRequest::Add {
            name: "dying".to_owned(),
            outlet,
            reply,
        };
        running.exporter_requests.send(add).unwrap();
        added.recv().unwrap();
        while pipeline.snapshot().workers[0].counters.meter.cache.created < 500 {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(pipeline.expire(&FlowFilter::default()).wait(), 500);
        let outcome = outcome_of(&pipeline, running);
        assert_eq!(not_ready(&pipeline.snapshot())[0], "exporter died");
        let ledger = serde_json::to_value(&outcome.ledger).unwrap();
        assert_eq!(ledger["balanced"], true, "{}", outcome.ledger);
        let died = ledger["lost"]["reasons"]["died"].as_u64().unwrap();
        let exported = ledger["exported"]["records"].as_u64().unwrap();
        assert_eq!(died + exported, 500, "{}", outcome.ledger);
        assert_eq!(ledger["resident"]["flows"], 0);
        let error = outcome.error.unwrap().to_string();
        assert!(error.starts_with("exporter died: lost "), "{error}");
        let received = collector.stop().unwrap().records;
        assert!(
            died > 0 && received <= exported,
            "{received} {}",
            outcome.ledger
        );
    }

    #[test]
    fn any_thread_that_dies_ends_the_run_and_nothing_is_lost_by_one_that_held_nothing() {
        let collector = TestCollector::start(Keep::Counts).unwrap();
        let sources = vec![Burst::new(10, None)];
        let (pipeline, running) = start(plan(1, 60_000, collector.address()), sources).unwrap();
        while pipeline.snapshot().workers[0].counters.meter.cache.created < 10 {
            std::thread::sleep(Duration::from_millis(1));
        }
        let deaths = &pipeline.boards().deaths;
        let spawned = deaths.spawn("control", || panic!("this thread dies in a test"));
        assert!(spawned.unwrap().join().is_err());
        let outcome = outcome_of(&pipeline, running);
        let text = outcome.ledger.to_string();
        assert!(text.ends_with("ledger balanced, nothing lost"), "{text}");
        let error = outcome.error.unwrap().to_string();
        assert!(error.starts_with("control died: nothing lost"), "{error}");
        assert_eq!(collector.stop().unwrap().records, 10);
    }

    #[test]
    fn a_worker_that_dies_while_it_opens_its_source_ends_the_start_though_others_work() {
        let plan = plan(2, 60_000, "127.0.0.1:9".parse().unwrap());
        let started = Running::start_with(plan, &Deaths::default(), |new, _| {
            for queue in 0..2 {
                let post = Post {
                    interface: "memory".to_owned(),
                    queue: Some(queue),
                    core: None,
                    rules: Arc::default(),
                };
                let open = move |(), ()| match queue {
                    0 => Ok(Burst::new(1, None)),
                    _ => panic!("this source dies in a test"),
                };
                new.spawn(post, LiveClock::start(), Opening::at_once(open))?;
            }
            Ok(())
        });
        assert!(matches!(started.err(), Some(StartError::Died)));
    }

    #[test]
    fn a_thread_that_hangs_is_not_waited_for_and_what_it_holds_is_a_named_loss() {
        let sources = vec![Burst::new(500, None)];
        let plan = plan(1, 60_000, "127.0.0.1:9".parse().unwrap());
        let (pipeline, running) = start(plan, sources).unwrap();
        let (reply, added) = bounded(1);
        let add = ExporterRequest::Add {
            name: "hanging".to_owned(),
            outlet: Box::new(Hanging),
            reply,
        };
        running.exporter_requests.send(add).unwrap();
        added.recv().unwrap();
        while pipeline.snapshot().workers[0].counters.meter.cache.created < 500 {
            std::thread::sleep(Duration::from_millis(1));
        }
        pipeline.stop_now();
        let outcome = outcome_of(&pipeline, running);
        let text = outcome.ledger.to_string();
        assert!(
            text.ends_with("ledger balanced, lost 500 records (500 stop)"),
            "{text}"
        );
        assert!(matches!(outcome.error, Some(RunError::CutShort { .. })));
    }

    #[test]
    fn what_a_pace_keeps_back_is_lost_when_the_time_for_the_end_is_over() {
        let collector = TestCollector::start(Keep::Counts).unwrap();
        for is_asked_twice in [false, true] {
            let mut plan = plan(1, 60_000, collector.address());
            plan.export.datagrams.pace.records_per_s = std::num::NonZeroU64::new(1);
            if !is_asked_twice {
                plan.stop_timeout = Duration::from_millis(100);
            }
            let (pipeline, running) = start(plan, vec![Burst::new(500, None)]).unwrap();
            while pipeline.snapshot().workers[0].counters.meter.cache.created < 500 {
                std::thread::sleep(Duration::from_millis(1));
            }
            pipeline.stop();
            if is_asked_twice {
                pipeline.stop_now();
            }
            let outcome = outcome_of(&pipeline, running);
            let text = outcome.ledger.to_string();
            assert!(
                text.ends_with("ledger balanced, lost 470 records (470 stop)"),
                "{text}"
            );
            assert!(matches!(outcome.error, Some(RunError::CutShort { .. })));
        }
        assert_eq!(collector.stop().unwrap().records, 60);
    }
}
