//! Threads that wait: for answers of the probe, for keys, and for signals. What they get arrives in
//! one bounded channel.

use super::sample::Sample;
use crate::control::{Client, Refusal, Top, TopQuery, to_parameters};
use anyhow::{Context, bail};
use crossbeam_channel::{Receiver, Sender, bounded};
use ratatui::crossterm::event;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io;
use std::path::Path;
use std::thread;
use std::time::Duration;

/// What a thread got.
pub enum Arrival {
    /// A sample.
    Sample(Box<Sample>),
    /// The heaviest flows, or why the probe does not say them.
    Top(Result<Top, String>),
    /// A key, or another size of the terminal.
    Terminal(event::Event),
    /// The terminal cannot be read.
    NoTerminal(io::Error),
    /// A signal that ends the process.
    Signal(i32),
    /// There is nothing more to wait for.
    Failure(anyhow::Error),
}

/// Threads that wait until the process ends.
pub struct Watch {
    arrivals: Receiver<Arrival>,
    questions: Sender<TopQuery>,
}

/// Arrivals that wait to be seen.
const ARRIVALS_MAX: usize = 64;

impl Watch {
    /// Watches the probe at a socket, which is asked for samples at an interval.
    ///
    /// # Errors
    ///
    /// If there can be no more threads, or signals cannot be caught.
    pub fn start(socket: &Path, interval: Duration) -> anyhow::Result<Self> {
        let (send, arrivals) = bounded(ARRIVALS_MAX);
        let (questions, asked) = bounded::<TopQuery>(1);
        let client = Client::new(Some(socket))?;
        start_thread("samples", &send, move |send| {
            loop {
                thread::sleep(interval);
                match Sample::take(&client) {
                    Ok(sample) => send(Arrival::Sample(Box::new(sample))),
                    Err(_) => check_answered(&client)?,
                }
            }
        })?;
        let client = Client::new(Some(socket))?;
        start_thread("heaviest", &send, move |send| {
            for query in asked {
                send(Arrival::Top(ask_for_top(&client, &query)?));
            }
            Ok(())
        })?;
        let mut signals =
            Signals::new([SIGHUP, SIGINT, SIGQUIT, SIGTERM]).context("signals cannot be caught")?;
        start_thread("signals", &send, move |send| {
            signals
                .forever()
                .for_each(|signal| send(Arrival::Signal(signal)));
            Ok(())
        })?;
        start_thread("keys", &send, |send| {
            loop {
                match event::read() {
                    Ok(event) => send(Arrival::Terminal(event)),
                    Err(error) => break send(Arrival::NoTerminal(error)),
                }
            }
            Ok(())
        })?;
        Ok(Self {
            arrivals,
            questions,
        })
    }

    /// Where everything arrives.
    pub fn arrivals(&self) -> &Receiver<Arrival> {
        &self.arrivals
    }

    /// Asks for the heaviest flows; one question waits at the most.
    pub fn ask(&self, query: &TopQuery) {
        // The caller asks again once it has the answer.
        let _ = self.questions.try_send(query.clone());
    }
}

/// The heaviest flows, or why the probe does not say them.
///
/// # Errors
///
/// If the probe has ended.
pub fn ask_for_top(client: &Client, query: &TopQuery) -> anyhow::Result<Result<Top, String>> {
    let asked = client.get(&format!("/top?{}", to_parameters(query)));
    asked.map(Ok).or_else(|error| {
        if !error.is::<Refusal>() {
            check_answered(client)?;
        }
        Ok(Err(format!("{error:#}")))
    })
}

/// Goes on after an error of a probe that still listens: it may have too much to do.
fn check_answered(client: &Client) -> anyhow::Result<()> {
    if client.is_answered() {
        return Ok(());
    }
    bail!("{}: the probe has ended", client.path().display())
}

fn start_thread(
    name: &str,
    arrivals: &Sender<Arrival>,
    work: impl FnOnce(&dyn Fn(Arrival)) -> anyhow::Result<()> + Send + 'static,
) -> anyhow::Result<()> {
    let arrivals = arrivals.clone();
    let run = move || {
        // Once the screen is gone nothing listens, and the process ends.
        let send = |arrival| drop(arrivals.send(arrival));
        if let Err(error) = work(&send) {
            send(Arrival::Failure(error));
        }
    };
    // Not waited for: it ends with the process.
    let thread = thread::Builder::new().name(name.to_owned()).spawn(run);
    thread.with_context(|| format!("no thread for {name}"))?;
    Ok(())
}
