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
    /// A second one of them: end now.
    StopNow,
    /// SIGHUP: read the tables again.
    Reload,
    /// SIGUSR1: log the ledger.
    Report,
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
            let mut stops = 0;
            for number in signals.forever() {
                let signal = match number {
                    SIGHUP => Signal::Reload,
                    SIGUSR1 => Signal::Report,
                    _ if stops == 0 => Signal::Stop,
                    _ => Signal::StopNow,
                };
                stops += u32::from(matches!(signal, Signal::Stop | Signal::StopNow));
                // Where many wait already, one more adds nothing; at the end nothing listens.
                let _ = send.try_send(signal);
                if signal == Signal::StopNow {
                    // The rest of the probe may hang: the process ends all the same.
                    thread::sleep(NOW_MAX);
                    low_level::exit(128 + number);
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
