//! Signals that a running probe obeys.

use anyhow::Context;
use crossbeam_channel::{Receiver, bounded};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::{iterator, low_level};
use std::thread;
use std::time::Duration;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Signal {
    /// SIGINT or SIGTERM: export every resident flow and end.
    Stop,
    /// A second one of them, and its number: end now.
    StopNow(u8),
    /// SIGHUP: read the tables again.
    Reload,
    /// SIGUSR1: log the ledger.
    Report,
}

/// The run was ended by a second signal.
#[derive(Debug, thiserror::Error)]
#[error("ended at once by a second signal: {losses}")]
pub struct SecondSignal {
    /// Its number.
    pub number: u8,
    /// What was lost in the run.
    pub losses: String,
}

impl SecondSignal {
    /// What the process ends with: 128 and the number, as shells have it.
    pub fn exit_code(&self) -> u8 {
        exit_code(self.number)
    }
}

fn exit_code(signal: u8) -> u8 {
    128_u8.saturating_add(signal)
}

/// Signals, caught until the process ends.
pub struct Signals(Receiver<Signal>);

/// Signals that wait to be obeyed; more of them would ask for nothing new.
const ARRIVALS_MAX: usize = 8;

/// How long the process goes on after a second request to stop, at most.
const NOW_MAX: Duration = Duration::from_secs(5);

impl Signals {
    /// Catches SIGINT, SIGTERM, SIGHUP and SIGUSR1.
    ///
    /// # Errors
    ///
    /// If the system does not let them be caught.
    pub fn catch() -> anyhow::Result<Self> {
        let mut signals = iterator::Signals::new([SIGINT, SIGTERM, SIGHUP, SIGUSR1])
            .context("signals cannot be caught")?;
        let (send, arrivals) = bounded(ARRIVALS_MAX);
        let pass_on = move || {
            let mut is_stopping = false;
            for number in signals.forever() {
                let signal = match number {
                    SIGHUP => Signal::Reload,
                    SIGUSR1 => Signal::Report,
                    _ if !is_stopping => Signal::Stop,
                    // Linux: SIGINT is 2, SIGTERM 15.
                    _ => Signal::StopNow(u8::try_from(number).unwrap_or(0)),
                };
                is_stopping |= signal == Signal::Stop;
                // Where many wait already, one more adds nothing; at the end nothing listens.
                let _ = send.try_send(signal);
                if let Signal::StopNow(number) = signal {
                    // The rest of the probe may hang: the process ends all the same.
                    thread::sleep(NOW_MAX);
                    low_level::exit(exit_code(number).into());
                }
            }
        };
        // Not waited for: it ends with the process.
        thread::Builder::new()
            .name("signals".to_owned())
            .spawn(pass_on)
            .context("no thread for signals")?;
        Ok(Self(arrivals))
    }

    /// Where signals arrive.
    pub fn arrivals(&self) -> &Receiver<Signal> {
        &self.0
    }
}
