//! What `cat` and `print` have in common: they continue after a bad file, never read their output,
//! end quietly when its reader has ended, and show a progress bar.

use super::usage::UsageError;
use crate::logging::{LogLevel, report};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::cell::Cell;
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::time::Duration;
use xdprobe_collect::input::{Input, Inputs};
use xdprobe_collect::output::{FileId, OutputError};

/// Time after which progress is shown.
const PROGRESS_AFTER: Duration = Duration::from_secs(1);

/// Errors of single files. All are printed; the last becomes the error of the command.
#[derive(Debug, Default)]
pub struct Failures(Option<anyhow::Error>);

impl Failures {
    /// Keeps a failure, and prints the one before it.
    pub fn note(&mut self, done: anyhow::Result<()>) {
        if let Err(error) = done
            && let Some(before) = self.0.replace(error)
        {
            report(LogLevel::Error, format_args!("{before:#}"));
        }
    }

    /// The last failure.
    pub fn last(self) -> anyhow::Result<()> {
        self.0.map_or(Ok(()), Err)
    }
}

/// Says what was left out of the inputs, one line for each reason.
pub fn report_left_out(inputs: &Inputs) {
    if inputs.repeated > 0 {
        report(
            LogLevel::Warn,
            format_args!(
                "{} file names left out: each file is read once, at the first of its names",
                inputs.repeated
            ),
        );
    }
    if inputs.links > 0 {
        report(
            LogLevel::Warn,
            format_args!(
                "{} symbolic links in directories left out: name the files or directories \
                 behind them to read these too",
                inputs.links
            ),
        );
    }
}

/// Leaves out inputs that are an `output`, a line each: what is written would be read again. They
/// were found in a directory; one that is named on the command line is refused before.
pub fn without_outputs(inputs: Vec<Input>, output: &[FileId]) -> Vec<Input> {
    let is_other = |input: &Input| {
        let Input::File(path) = input else {
            return true;
        };
        let is_output = FileId::of_input(path).is_some_and(|id| output.contains(&id));
        if is_output {
            report(
                LogLevel::Warn,
                format_args!("{input}: left out, since it is the output"),
            );
        }
        !is_output
    };
    inputs.into_iter().filter(is_other).collect()
}

/// Device and inode of each input that is named on a command line; standard input where there is
/// none.
pub fn named_inputs(paths: &[PathBuf]) -> Vec<FileId> {
    let stdin = PathBuf::from("-");
    let paths = match paths {
        [] => std::slice::from_ref(&stdin),
        paths => paths,
    };
    paths
        .iter()
        .filter_map(|path| FileId::of_input(path))
        .collect()
}

/// Refuses to print on standard output where that is one of the inputs.
pub fn refuse_stdout_among(inputs: &[FileId]) -> Result<(), UsageError> {
    match FileId::of_stdout() {
        Some(output) if inputs.contains(&output) => {
            let error = OutputError::Input("standard output".into());
            Err(UsageError(error.to_string()))
        }
        _ => Ok(()),
    }
}

/// Why files were left out whose names begin with tmp, and what reads them.
pub fn still_being_written(files: usize) -> String {
    let subject = match files {
        1 => "1 file is".to_owned(),
        _ => format!("{files} files are"),
    };
    format!("{subject} still being written and left out; -a reads them too")
}

/// Turns the error of a closed pipe into success, as `| head` expects.
pub fn quietly(done: anyhow::Result<()>) -> anyhow::Result<()> {
    done.or_else(|error| {
        if is_broken_pipe(&error) {
            Ok(())
        } else {
            Err(error)
        }
    })
}

/// Whether the error is that of writing to a pipe whose reader has ended.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let broken = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
    error
        .chain()
        .any(|cause| cause.downcast_ref().is_some_and(broken))
}

/// A progress bar on standard error, over octets of input. It is shown if standard error is a
/// terminal and the work takes more than a second.
#[derive(Debug)]
pub struct InputProgress {
    bar: ProgressBar,
    done: Cell<u64>,
    shown: Cell<bool>,
    enabled: bool,
}

impl InputProgress {
    /// A bar for `octets` of input whose result goes to standard output; none if that is a
    /// terminal.
    pub fn to_stdout(octets: u64) -> Self {
        Self::new(octets, !io::stdout().is_terminal())
    }

    /// A bar for `octets` of input, if `enabled`.
    pub fn new(octets: u64, enabled: bool) -> Self {
        let bar = ProgressBar::with_draw_target(Some(octets), ProgressDrawTarget::hidden());
        let style = "{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
        bar.set_style(ProgressStyle::with_template(style).expect("the template is valid"));
        let enabled = enabled && octets > 0 && io::stderr().is_terminal();
        Self {
            bar,
            done: Cell::new(0),
            shown: Cell::new(false),
            enabled,
        }
    }

    /// Shows that the current input has been read up to `octets`.
    pub fn at(&self, octets: u64) {
        if !self.shown.get() && self.enabled && self.bar.elapsed() > PROGRESS_AFTER {
            self.shown.set(true);
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        self.bar.set_position(self.done.get() + octets);
    }

    /// Adds the `octets` of an input that has been read or abandoned.
    pub fn finish_part(&self, octets: u64) {
        self.done.set(self.done.get() + octets);
    }
}

impl Drop for InputProgress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
