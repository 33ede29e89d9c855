//! `xdprobe`: a NetFlow probe for line-rate taps, its collector and its printer, one program.
//!
//! Each subcommand is one module below [`command`]: the command line (clap), then what it means
//! once it is valid, then the work.
#![forbid(unsafe_code)]

mod command;
mod metrics;
mod progress;
mod say;

use clap::{Parser, Subcommand};
use say::say;
use signal_hook::consts::SIGXFSZ;
use std::io::{IsTerminal, stderr};
use std::process::ExitCode;
use std::sync::Arc;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// A NetFlow probe for line-rate taps: packets on an interface become NetFlow records, and every
/// packet is accounted for
#[derive(Debug, Parser)]
#[command(name = "xdprobe", version)]
struct Arguments {
    /// Log more on standard error
    #[arg(short, long, global = true)]
    verbose: bool,

    /// Log only warnings and errors on standard error
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the probe: on interfaces, or over a capture file
    Run(Box<command::run::Arguments>),
    /// Join flow-tools files into one, on standard output or in a file
    Cat(command::cat::Arguments),
    /// Receive NetFlow datagrams and store their records in flow-tools files
    Collect(command::collect::Arguments),
    /// Print flows from flow-tools files, from standard input or as they arrive on a UDP port
    Print(command::print::Arguments),
}

fn main() -> ExitCode {
    survive_file_size_limit();
    say::start();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) if error.use_stderr() => return refuse(&error),
        // Help, on standard output.
        Err(error) => error.exit(),
    };
    let level = match (arguments.verbose, arguments.quiet) {
        (true, _) => LevelFilter::DEBUG,
        (_, true) => LevelFilter::WARN,
        _ => LevelFilter::INFO,
    };
    log_to_stderr(level);
    let done = match arguments.command {
        Command::Run(arguments) => command::run::run(*arguments),
        Command::Cat(arguments) => command::cat::run(&arguments),
        Command::Collect(arguments) => command::collect::run(&arguments),
        Command::Print(arguments) => command::print::run(&arguments),
    };
    let code = match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(format_args!("{error:#}"));
            ExitCode::from(exit_code(&error))
        }
    };
    say::flush();
    code
}

/// Says what is wrong with the command line.
fn refuse(error: &clap::Error) -> ExitCode {
    let text = error.render();
    let text = if stderr().is_terminal() {
        text.ansi().to_string()
    } else {
        text.to_string()
    };
    say::put(text.into_bytes());
    say::flush();
    ExitCode::from(2)
}

fn exit_code(error: &anyhow::Error) -> u8 {
    if let Some(second) = error.downcast_ref::<command::run::SecondSignal>() {
        second.exit_code()
    } else if error.is::<command::usage::UsageError>() {
        2
    } else {
        1
    }
}

/// Makes a write beyond the limit of file sizes (`ulimit -f`) an error, as on a full disk: by
/// default SIGXFSZ ends the process.
fn survive_file_size_limit() {
    // Caught, not ignored, so that programs which this one starts have the default. If it cannot be
    // caught, the default stays.
    let _ = signal_hook::flag::register(SIGXFSZ, Arc::default());
}

/// Logs the events of xdprobe's own crates, not those of libraries.
fn log_to_stderr(level: LevelFilter) {
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(|| say::Log)
        .with_ansi(stderr().is_terminal());
    let lines = lines.without_time().with_target(false);
    let ours = Targets::new().with_target("xdprobe", level);
    tracing_subscriber::registry()
        .with(lines.with_filter(ours))
        .init();
}
