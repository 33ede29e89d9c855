//! Logs on standard error, one line an event: text for people, or JSON for programs. All lines go
//! through [`say`].
//!
//! Events of xdprobe's own crates are logged, not those of libraries. The level can change while
//! the program runs. An event has a time stamp, except in the journal, which stamps each line
//! itself, and as text on a terminal.

use crate::say;
use clap::{Args, ValueEnum};
use std::backtrace::{Backtrace, BacktraceStatus};
use std::env;
use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io::{self, IsTerminal, stderr};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::panic;
use std::sync::OnceLock;
use std::thread;
use tracing::field::Field;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::{Writer, debug_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::Registry;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt as layers};
use xdprobe_collect::printable;

/// Options about logs, which every command has.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Logs")]
pub struct LogOptions {
    /// Log more on standard error, as --log-level debug
    #[arg(short, long, global = true)]
    verbose: bool,

    /// Log only warnings and errors on standard error, as --log-level warn
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,

    /// What is logged on standard error: this level and those above it
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "LEVEL",
        conflicts_with_all = ["verbose", "quiet"]
    )]
    log_level: LogLevel,

    /// How a log line is written
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORMAT"
    )]
    log_format: LogFormat,
}

/// Options without a value of their own: each sets another option to a value.
pub const SHORTHANDS: [(&str, &str, &str); 2] = [
    ("verbose", "log-level", "debug"),
    ("quiet", "log-level", "warn"),
];

/// How serious an event is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum LogLevel {
    /// What ended the run, or a part of it
    Error,
    /// What is lost, refused or without effect
    Warn,
    /// What began, changed and ended
    #[default]
    Info,
    /// What helps to find a fault
    Debug,
}

/// Forms of a log line.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum LogFormat {
    /// Text for people
    #[default]
    Text,
    /// One JSON object
    Json,
}

impl LogOptions {
    /// What is logged.
    pub fn level(&self) -> LogLevel {
        match (self.verbose, self.quiet) {
            (true, _) => LogLevel::Debug,
            (_, true) => LogLevel::Warn,
            _ => self.log_level,
        }
    }
}

/// The log of this process, once it has been started.
static LOG: OnceLock<Log> = OnceLock::new();

struct Log {
    format: LogFormat,
    filter: reload::Handle<Targets, Registry>,
}

/// Logs on standard error from here on, panics too. Only the first call in a process has an effect.
pub fn start(options: &LogOptions) {
    if open(options) {
        log_panics(options.log_format);
    }
}

/// Opens the log, unless it is open.
fn open(options: &LogOptions) -> bool {
    let (filter, handle) = reload::Layer::new(targets(options.level()));
    let layer = layer(options.log_format, has_time(options.log_format));
    let log = Log {
        format: options.log_format,
        filter: handle,
    };
    let log_to = tracing_subscriber::registry().with(layer.with_filter(filter));
    LOG.set(log).is_ok() && log_to.try_init().is_ok()
}

/// Makes a panic an event on one line. As text, `RUST_BACKTRACE` adds the many lines that it asks
/// for.
fn log_panics(format: LogFormat) {
    panic::set_hook(Box::new(move |panicked| {
        let thread = thread::current();
        let name = thread.name().unwrap_or("unnamed");
        let panicked = panicked.to_string().replace('\n', " ");
        tracing::error!("thread '{name}' {panicked}; please report this");
        let backtrace = Backtrace::capture();
        if format == LogFormat::Text && backtrace.status() == BacktraceStatus::Captured {
            say::put(format!("{backtrace}\n").into_bytes());
        }
    }));
}

/// Changes what is logged, from the next event on.
pub fn set_level(level: LogLevel) {
    if let Some(log) = LOG.get() {
        // Fails only where the log is gone, which lives as long as the process.
        let _ = log.filter.reload(targets(level));
    }
}

/// Writes a line for people: `xdprobe: LINE`, or where logs are JSON an event of this level, so
/// that every line is.
pub fn report(level: LogLevel, line: impl fmt::Display) {
    if LOG.get().is_none_or(|log| log.format == LogFormat::Text) {
        let line = line.to_string();
        say::put(format!("xdprobe: {}\n", printable(&line)).into_bytes());
        return;
    }
    match level {
        LogLevel::Error => tracing::error!("{line}"),
        LogLevel::Warn => tracing::warn!("{line}"),
        LogLevel::Info => tracing::info!("{line}"),
        LogLevel::Debug => tracing::debug!("{line}"),
    }
}

/// Reports how many lines [`say`] left out.
pub fn report_left_out(count: u64) {
    let lines = if count == 1 { "line is" } else { "lines are" };
    report(
        LogLevel::Warn,
        format_args!("{count} {lines} left out here"),
    );
}

/// Events of this program's own crates.
fn targets(level: LogLevel) -> Targets {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
    };
    Targets::new().with_target("xdprobe", level)
}

fn layer(format: LogFormat, has_time: bool) -> Box<dyn Layer<Registry> + Send + Sync> {
    // An error in writing has no place to be reported.
    let lines = layers::layer()
        .with_writer(|| say::Log)
        .with_target(false)
        .log_internal_errors(false);
    match (format, has_time) {
        (LogFormat::Json, true) => lines.json().flatten_event(true).boxed(),
        (LogFormat::Json, false) => lines.json().flatten_event(true).without_time().boxed(),
        (LogFormat::Text, has_time) => {
            let is_plain = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
            let lines = lines
                .with_ansi(stderr().is_terminal() && !is_plain)
                .fmt_fields(debug_fn(write_field).delimited(" "));
            if has_time {
                lines.boxed()
            } else {
                lines.without_time().boxed()
            }
        }
    }
}

/// Whether events have a time stamp.
fn has_time(format: LogFormat) -> bool {
    let is_terminal = format == LogFormat::Text && stderr().is_terminal();
    !is_terminal && !is_journal(stderr(), env::var_os("JOURNAL_STREAM").as_deref())
}

/// Whether `stream` is connected to the journal: `JOURNAL_STREAM` has its device and inode
/// (systemd.exec(5)). The variable alone says nothing, since a child process inherits it.
fn is_journal(stream: impl AsFd, journal_stream: Option<&OsStr>) -> bool {
    let id = |stream: &File| -> io::Result<String> {
        let metadata = stream.metadata()?;
        Ok(format!("{}:{}", metadata.dev(), metadata.ino()))
    };
    let stream = stream.as_fd().try_clone_to_owned().map(File::from);
    let id = stream.and_then(|stream| id(&stream));
    journal_stream.is_some_and(|journal| id.is_ok_and(|id| *journal == *id))
}

fn write_field(writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    let value = format!("{value:?}");
    match field.name() {
        "message" => write!(writer, "{}", printable(&value)),
        name => write!(writer, "{name}={}", printable(&value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;
    use tempfile::tempfile;

    #[test]
    fn the_journal_is_known_by_device_and_inode() {
        let (stream, other) = (tempfile().unwrap(), tempfile().unwrap());
        let id = |file: &File| {
            let metadata = file.metadata().unwrap();
            OsString::from(format!("{}:{}", metadata.dev(), metadata.ino()))
        };
        assert!(is_journal(&stream, Some(&id(&stream))));
        assert!(!is_journal(&stream, Some(&id(&other))));
        for not_one in ["", "1", "1:", ":", "a:b"] {
            assert!(!is_journal(&stream, Some(OsStr::new(not_one))), "{not_one}");
        }
        assert!(!is_journal(&stream, None));
    }

    #[test]
    fn the_level_changes_while_events_arrive() {
        let options = LogOptions {
            verbose: false,
            quiet: true,
            log_level: LogLevel::Debug,
            log_format: LogFormat::Text,
        };
        assert!(open(&options) && !open(&options));
        let is_logged = || {
            [
                tracing::enabled!(target: "xdprobe_flow", tracing::Level::ERROR),
                tracing::enabled!(target: "xdprobe_flow", tracing::Level::WARN),
                tracing::enabled!(target: "xdprobe_flow", tracing::Level::INFO),
                tracing::enabled!(target: "hyper", tracing::Level::ERROR),
            ]
        };
        assert_eq!(is_logged(), [true, true, false, false]);
        set_level(LogLevel::Debug);
        assert_eq!(is_logged(), [true, true, true, false]);
        set_level(LogLevel::Error);
        assert_eq!(is_logged(), [true, false, false, false]);
    }
}
