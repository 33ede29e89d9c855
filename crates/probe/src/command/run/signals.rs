//! Signals that a running probe obeys.

use anyhow::Context;
use crossbeam_channel::{Receiver, bounded};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Signal {
    /// SIGINT or SIGTERM: export every resident flow and end. The second of them ends the process
    /// at once.
    Stop,
    /// SIGHUP: read the tables again.
    Reload,
    /// SIGUSR1: log the ledger.
    Report,
}

/// Signals, caught until the process ends.
pub struct Signals(Receiver<Signal>);

/// Signals that wait to be obeyed; more of them would ask for nothing new.
const ARRIVALS_MAX: usize = 8;

impl Signals {
    /// Catches SIGINT, SIGTERM, SIGHUP and SIGUSR1.
    ///
    /// # Errors
    ///
    /// If the system does not let them be caught.
    pub fn catch() -> anyhow::Result<Self> {
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
        let mut signals = iterator::Signals::new([SIGINT, SIGTERM, SIGHUP, SIGUSR1])
            .context("signals cannot be caught")?;
        let (send, arrivals) = bounded(ARRIVALS_MAX);
        let pass_on = move || {
            for signal in signals.forever() {
                let signal = match signal {
                    SIGHUP => Signal::Reload,
                    SIGUSR1 => Signal::Report,
                    _ => Signal::Stop,
                };
                // Where many wait already, one more adds nothing; at the end nothing listens.
                let _ = send.try_send(signal);
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
