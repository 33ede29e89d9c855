//! A bar for those who wait for a long capture file: on a terminal only, and only after a second.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, stderr};
use std::time::Duration;
use xdprobe_capture::ReadProgress;

/// How far a capture file has been read.
pub struct Progress {
    bar: ProgressBar,
    read: ReadProgress,
}

impl Progress {
    /// A bar for a file of a known length; none unless stderr is a terminal.
    pub fn of_file(read: ReadProgress) -> Option<Self> {
        let octets = read.octets_total()?;
        if !stderr().is_terminal() {
            return None;
        }
        let bar = ProgressBar::with_draw_target(Some(octets), ProgressDrawTarget::hidden());
        let style = "{wide_bar} {bytes}/{total_bytes} at {bytes_per_sec}, {eta} to go";
        bar.set_style(
            ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        Some(Self { bar, read })
    }

    /// Brings the bar up to date.
    pub fn show(&self) {
        const QUIET: Duration = Duration::from_secs(1);
        if self.bar.is_hidden() && self.bar.elapsed() > QUIET {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        self.bar.set_position(self.read.octets_read());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
