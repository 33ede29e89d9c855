//! `xdprobe run`: the probe.
//!
//! [`Arguments`] is the command line as it was written, [`plan`](plan::plan) is what it means once
//! it is valid. The pipeline does the work; this command connects it to the terminal, the signals,
//! metrics and the control socket.

mod arguments;
mod export_options;
mod listeners;
mod plan;
mod reload;
mod sampling;
mod signals;
mod table_options;
mod values;

pub use arguments::Arguments;
pub use signals::SecondSignal;

use super::files::{named_inputs, refuse_stdout_among};
use super::usage::UsageError;
use crate::config::Effective;
use crate::control::{Order, ReloadRequest};
use crate::progress::ProgressBar;
use crate::say::put;
use anyhow::{Context, bail};
use arguments::Report;
use crossbeam_channel::{Receiver, bounded, never, select, tick};
use listeners::Listeners;
use plan::{plan, start_error};
use reload::Reloader;
use signals::{Signal, Signals};
use std::io::{ErrorKind, Write, stdout};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;
use xdprobe_pipeline::{Destination, Ledger, Outcome, Pipeline, StartError, Starting};

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
            "capturing on {worker_count} {queues}, engine {}:{}; Ctrl-C exports open flows and \
             exits",
            engine.r#type,
            engine.id
        );
    }
    let mut attendance = Attendance {
        pipeline: &pipeline,
        signals: &signals,
        ordered: &ordered,
        reloader: &reloader,
        second: None,
    };
    let Outcome { ledger, error } = attendance.wait()?;
    let second = attendance.second;
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

/// What the program attends to while the probe works.
struct Attendance<'a> {
    pipeline: &'a Pipeline,
    signals: &'a Signals,
    ordered: &'a Receiver<Order>,
    reloader: &'a Reloader,
    /// The number of a second signal to stop.
    second: Option<u8>,
}

impl Attendance<'_> {
    /// Passes signals and orders on and shows progress until the probe has ended. The death of a
    /// thread that this needs ends the probe, as that of any other.
    fn wait(&mut self) -> anyhow::Result<Outcome> {
        let pass_on = AssertUnwindSafe(|| self.pass_on());
        catch_unwind(pass_on).unwrap_or_else(|_| {
            self.pipeline.boards().deaths.note("main");
            let outcome = self.pipeline.outcome().recv();
            outcome.context("the probe died; please report this")
        })
    }

    fn pass_on(&mut self) -> anyhow::Result<Outcome> {
        let bar = self.pipeline.progress().and_then(ProgressBar::new);
        let due = bar.as_ref().map_or_else(never, |_| tick(PROGRESS_INTERVAL));
        let mut arrivals = self.signals.arrivals().clone();
        let mut ordered = self.ordered.clone();
        loop {
            select! {
                recv(self.pipeline.outcome()) -> outcome => {
                    return outcome.context("the probe died; please report this");
                }
                recv(arrivals) -> signal => match signal {
                    Ok(Signal::Stop) => self.pipeline.stop(),
                    Ok(Signal::StopNow(number)) => {
                        self.second = Some(number);
                        self.pipeline.stop_now();
                    }
                    Ok(Signal::Reload) => {
                        // What comes of it is logged.
                        let (reply, _) = bounded(1);
                        let is_dry = false;
                        self.reloader.ask(ReloadRequest { is_dry, reply });
                    }
                    Ok(Signal::Report) => log_ledger(self.pipeline),
                    Err(_) => {
                        self.pipeline.boards().deaths.note("signals");
                        arrivals = never();
                    }
                },
                recv(ordered) -> order => match order {
                    Ok(Order::Stop) => self.pipeline.stop(),
                    Ok(Order::Reload(request)) => self.reloader.ask(request),
                    Ok(Order::ShowConfig(reply)) => {
                        let settings = serde_json::to_value(self.reloader.settings())?;
                        // The other side may have stopped waiting.
                        let _ = reply.try_send(settings);
                    }
                    // There is no control socket.
                    Err(_) => ordered = never(),
                },
                recv(due) -> _ => bar.iter().for_each(ProgressBar::show),
            }
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
