//! A progress bar for long capture files: on a terminal only, and only after a second.

use indicatif::{ProgressBar as Bar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, stderr};
use std::time::Duration;
use xdprobe_pipeline::capture::ReadProgress;

/// How far a capture file has been read, on standard error.
pub struct ProgressBar<'a> {
    bar: Bar,
    progress: &'a ReadProgress,
}

impl<'a> ProgressBar<'a> {
    /// A bar; none where standard error is no terminal, or the length of the file is not known.
    pub fn new(progress: &'a ReadProgress) -> Option<Self> {
        let octets = progress.octets_total()?;
        if !stderr().is_terminal() {
            return None;
        }
        let bar = Bar::with_draw_target(Some(octets), ProgressDrawTarget::hidden());
        let style = "{wide_bar} {bytes}/{total_bytes} at {bytes_per_sec}, {eta} left";
        let style = ProgressStyle::with_template(style).expect("the template is well-formed");
        bar.set_style(style);
        Some(Self { bar, progress })
    }

    /// Brings the bar up to date.
    pub fn show(&self) {
        const QUIET: Duration = Duration::from_secs(1);
        if self.bar.is_hidden() && self.bar.elapsed() > QUIET {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        self.bar.set_position(self.progress.octets_read());
    }
}

impl Drop for ProgressBar<'_> {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
