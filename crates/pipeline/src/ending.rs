//! The end of a run: how long it may take, what is reported meanwhile, and when it is given up.

use crate::counters::Phase;
use crate::crew::Crew;
use crate::exporting::ExporterRequest;
use crate::left_over::{records_left, unread};
use crate::plan::ExportPlan;
use crate::snapshot::{Boards, Snapshot, WorkerSnapshot};
use crossbeam_channel::{Receiver, Sender, never, select, tick};
use std::time::Duration;

/// The end of a run, from the moment at which it is due.
pub struct Ending<'a> {
    /// The workers.
    pub crew: &'a Crew,
    /// What the exporter is asked.
    pub exporter: &'a Sender<ExporterRequest>,
    /// Closed once the exporter has ended.
    pub exporter_ended: &'a Receiver<()>,
    /// Where everything is counted.
    pub boards: &'a Boards,
    /// How records are exported.
    pub export: &'a ExportPlan,
    /// How long the end may take once it is asked for.
    pub timeout: Duration,
}

/// How soon the probe is asked to end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stop {
    /// Once everything is exported, or the time for that is over.
    InTime,
    /// Now: what cannot leave at once is lost.
    Now,
}

/// How often it is looked whether anything is due.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// When the first line says what there is still to do, and how often one follows, in ms.
const FIRST_LINE_MS: u64 = 1_000;
const LINE_INTERVAL_MS: u64 = 10_000;
/// How long after the time is over threads have to give up what they hold. Then the run ends
/// without them: one may hang in a system call.
const GRACE_MS: u64 = 2_000;

impl Ending<'_> {
    /// Ends the run, which was `asked` for or whose sources have all ended, and waits until every
    /// thread has ended: `false` where one is not waited for any longer.
    pub fn wait(&self, mut asked: Option<Stop>, mut stop: Receiver<Stop>) -> bool {
        let begun_ms = self.boards.uptime_ms();
        let mut by_ms = asked.map(|asked| self.limit(asked));
        self.crew.stop(by_ms.unwrap_or(u64::MAX));
        self.hurry(by_ms);
        self.report_pace(by_ms);
        let (mut workers, mut exporter) = (self.crew.ended.clone(), self.exporter_ended.clone());
        let (mut working, mut exporting) = (true, true);
        let (due, mut line_due_ms) = (tick(LOOK_INTERVAL), begun_ms + FIRST_LINE_MS);
        while working || exporting {
            select! {
                recv(workers) -> _ => (working, workers) = (false, never()),
                recv(exporter) -> _ => (exporting, exporter) = (false, never()),
                recv(stop) -> request => {
                    // Where the handle is dropped nothing more is asked.
                    asked = Some(request.unwrap_or(Stop::InTime));
                    if request.is_err() {
                        stop = never();
                    }
                    by_ms = by_ms.into_iter().chain(asked.map(|asked| self.limit(asked))).min();
                    self.hurry(by_ms);
                }
                recv(self.boards.deaths.bell()) -> _ => {
                    by_ms.get_or_insert_with(|| self.limit(Stop::InTime));
                    self.hurry(by_ms);
                }
                recv(due) -> _ => {
                    let now_ms = self.boards.uptime_ms();
                    if by_ms.is_some_and(|by_ms| now_ms >= by_ms.saturating_add(GRACE_MS)) {
                        report_hanging(&self.boards.snapshot());
                        return false;
                    }
                    if now_ms >= line_due_ms {
                        line_due_ms = now_ms + LINE_INTERVAL_MS;
                        report_left(&self.boards.snapshot(), by_ms);
                    }
                }
            }
        }
        true
    }

    /// The uptime by which the run has to end, in ms.
    fn limit(&self, asked: Stop) -> u64 {
        let timeout = match asked {
            Stop::InTime => self.timeout,
            Stop::Now => Duration::ZERO,
        };
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        self.boards.uptime_ms().saturating_add(timeout_ms)
    }

    /// Sets the uptime by which workers and exporter have to end.
    fn hurry(&self, by_ms: Option<u64>) {
        /// How long an exporter may take to look at its requests; it is given up a little later.
        const ANSWER_MAX: Duration = Duration::from_millis(100);
        if let Some(by_ms) = by_ms {
            self.crew.hurry(by_ms);
            let _ = self
                .exporter
                .send_timeout(ExporterRequest::EndBy(by_ms), ANSWER_MAX);
        }
    }

    /// Reports how long the end will take where collectors have a pace.
    fn report_pace(&self, by_ms: Option<u64>) {
        let snapshot = self.boards.snapshot();
        let records = records_left(&snapshot).records;
        let Some(time) = self.export.time_at_pace(records) else {
            return;
        };
        if time >= Duration::from_secs(1) {
            tracing::info!(
                "ending: {records} records take about {} s at the collectors' pace{}",
                time.as_secs(),
                in_time(&snapshot, by_ms)
            );
        }
    }
}

/// Reports what there is still to do.
fn report_left(snapshot: &Snapshot, by_ms: Option<u64>) {
    let frames = snapshot.interfaces.iter().map(|on| unread(snapshot, on));
    let workers = snapshot.workers.iter().map(|worker| &worker.counters.meter);
    tracing::info!(
        "ending: {} frames to read, {} flows to expire, {} records to export{}",
        frames.sum::<u64>(),
        workers.map(|meter| meter.resident_flows).sum::<u64>(),
        snapshot.in_flight().records,
        in_time(snapshot, by_ms)
    );
}

/// Reports which threads are not waited for any longer.
fn report_hanging(snapshot: &Snapshot) {
    let workers = snapshot.workers.iter();
    let hanging = workers.filter(|worker| worker.counters.phase() != Phase::Ended);
    let exporter = (snapshot.exporting.ended == 0).then(|| "exporter".to_owned());
    let names: Vec<_> = hanging
        .map(WorkerSnapshot::label)
        .chain(exporter)
        .filter(|name| !snapshot.died.contains(name))
        .collect();
    tracing::error!(
        "the time for the end is over, and not waited for any longer: {}",
        names.join(", ")
    );
}

/// How much time is left, for the end of a line.
fn in_time(snapshot: &Snapshot, by_ms: Option<u64>) -> String {
    match by_ms.map(|by_ms| by_ms.saturating_sub(snapshot.uptime_ms)) {
        None => "; a signal to stop sets a limit (--stop-timeout)".to_owned(),
        Some(0) => "; the time for that is over".to_owned(),
        Some(left_ms) => format!(
            "; what is not exported in {} s is lost (--stop-timeout), with a second signal at once",
            left_ms.div_ceil(1_000)
        ),
    }
}
