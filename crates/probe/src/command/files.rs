//! What `cat` and `print` share: going on after a bad file, a quiet end when nobody reads any more,
//! and a progress bar.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::cell::Cell;
use std::io::{self, IsTerminal};
use std::time::Duration;

/// Work that takes longer shows its progress.
const PROGRESS_AFTER: Duration = Duration::from_secs(1);

/// Errors of single files: each is told, and the last becomes the command's own.
#[derive(Debug, Default)]
pub struct Failures(Option<anyhow::Error>);

impl Failures {
    /// Remembers a failure; the one before it is told now.
    pub fn note(&mut self, done: anyhow::Result<()>) {
        if let Err(error) = done
            && let Some(before) = self.0.replace(error)
        {
            eprintln!("xdprobe: {before:#}");
        }
    }

    /// The last failure.
    pub fn last(self) -> anyhow::Result<()> {
        self.0.map_or(Ok(()), Err)
    }
}

/// Turns "nobody reads our output any more" into success, as `| head` expects.
pub fn quietly(done: anyhow::Result<()>) -> anyhow::Result<()> {
    done.or_else(|error| {
        if is_broken_pipe(&error) {
            Ok(())
        } else {
            Err(error)
        }
    })
}

/// Whether the error is that of writing to a pipe that nobody reads.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let broken = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
    error
        .chain()
        .any(|cause| cause.downcast_ref().is_some_and(broken))
}

/// A bar on standard error, over octets of input. It shows when the output is not a terminal, the
/// error output is one, and the work takes more than a second.
#[derive(Debug)]
pub struct InputProgress {
    bar: ProgressBar,
    done: Cell<u64>,
    shown: Cell<bool>,
    expected: bool,
}

impl InputProgress {
    /// A bar for `octets` of input whose result goes to standard output.
    pub fn to_stdout(octets: u64) -> Self {
        Self::new(octets, !io::stdout().is_terminal())
    }

    /// A bar for `octets` of input.
    pub fn new(octets: u64, expected: bool) -> Self {
        let bar = ProgressBar::with_draw_target(Some(octets), ProgressDrawTarget::hidden());
        let style = "{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
        bar.set_style(
            ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        let expected = expected && octets > 0 && io::stderr().is_terminal();
        Self {
            bar,
            done: Cell::new(0),
            shown: Cell::new(false),
            expected,
        }
    }

    /// The input in hand has been read up to `octets`.
    pub fn at(&self, octets: u64) {
        if !self.shown.get() && self.expected && self.bar.elapsed() > PROGRESS_AFTER {
            self.shown.set(true);
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        self.bar.set_position(self.done.get() + octets);
    }

    /// An input of `octets` has been read, or given up.
    pub fn finish_part(&self, octets: u64) {
        self.done.set(self.done.get() + octets);
    }
}

impl Drop for InputProgress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
