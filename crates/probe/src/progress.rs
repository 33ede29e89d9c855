//! A bar for those who wait for a long capture file: on a terminal only, and only after a second.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::fs;
use std::io::{IsTerminal, stderr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How far a capture file has been read.
pub struct Progress {
    bar: ProgressBar,
    read_octets: Arc<AtomicU64>,
}

impl Progress {
    /// A bar for the file at `path`, of which `read_octets` says how much is read; none where
    /// nobody looks on.
    pub fn of_file(path: &Path, read_octets: Arc<AtomicU64>) -> Option<Self> {
        let octets = fs::metadata(path).ok()?.len();
        if !stderr().is_terminal() {
            return None;
        }
        let bar = ProgressBar::with_draw_target(Some(octets), ProgressDrawTarget::hidden());
        let style = "{wide_bar} {bytes}/{total_bytes} at {bytes_per_sec}, {eta} to go";
        bar.set_style(
            ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        Some(Self { bar, read_octets })
    }

    /// Brings the bar up to date.
    pub fn show(&self) {
        const QUIET: Duration = Duration::from_secs(1);
        if self.bar.is_hidden() && self.bar.elapsed() > QUIET {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        self.bar
            .set_position(self.read_octets.load(Ordering::Relaxed));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
