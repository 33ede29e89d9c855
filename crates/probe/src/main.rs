//! `xdprobe`: a NetFlow probe for line-rate taps, its collector and its printer, one program.
//!
//! Each subcommand is one module below [`command`]: the command line (clap), then what it means
//! once it is valid, then the work.
#![forbid(unsafe_code)]

mod command;
mod config;
mod control;
mod http;
mod logging;
mod metrics;
mod progress;
mod say;

use clap::{Parser, Subcommand};
use command::run::SecondSignal;
use command::usage::UsageError;
use config::{Effective, Faults};
use control::Refusal;
use logging::{LogLevel, report};
use signal_hook::consts::SIGXFSZ;
use std::io::{IsTerminal, stderr};
use std::process::ExitCode;
use std::sync::Arc;
use xdprobe_pipeline::memory;

/// A NetFlow probe for line-rate taps: packets on an interface become NetFlow records, and every
/// packet is accounted for
#[derive(Debug, Parser)]
#[command(name = "xdprobe", version)]
struct Arguments {
    #[command(flatten)]
    log: logging::LogOptions,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the probe: on interfaces, or over a capture file
    Run(Box<config::Line<command::run::Arguments>>),
    /// Check or print the configuration of the probe
    Config(command::config::Arguments),
    /// Look into a running probe: flows, sums, ledger, queues, collectors
    Show(command::show::Arguments),
    /// Watch a running probe on the full screen: rates, losses, caches, collectors, heaviest flows
    Top(command::top::Arguments),
    /// Export resident flows of a running probe now
    Expire(command::expire::Arguments),
    /// Have a running probe read its configuration again
    Reload(command::reload::Arguments),
    /// Stop a running probe, which exports what it has
    Stop(command::stop::Arguments),
    /// Join flow-tools files into one, on standard output or in a file
    Cat(command::cat::Arguments),
    /// Receive NetFlow datagrams and store their records in flow-tools files
    Collect(command::collect::Arguments),
    /// Print flows from flow-tools files, from standard input or as they arrive on a UDP port
    Print(command::print::Arguments),
}

/// What any command takes at least: buffers and the stacks of some threads.
const COMMAND_OCTETS: u64 = 12 << 20;

fn main() -> ExitCode {
    survive_file_size_limit();
    say::start(logging::report_left_out);
    let has_room = memory::require(COMMAND_OCTETS).map_err(anyhow::Error::from);
    if let Err(error) = has_room {
        let code = fail(&error);
        say::flush();
        return ExitCode::from(code);
    }
    let code = match Arguments::try_parse() {
        Ok(arguments) => execute(arguments).map_or_else(|error| fail(&error), |()| 0),
        Err(error) if error.use_stderr() => refuse(&error),
        // Help, on standard output.
        Err(error) => error.exit(),
    };
    say::flush();
    ExitCode::from(code)
}

/// Reports why the command failed, and returns its exit code.
fn fail(error: &anyhow::Error) -> u8 {
    let text = format!("{error:#}");
    let is_usage = error.is::<UsageError>() || error.is::<Faults>();
    if is_usage || error.is::<Refusal>() {
        // There may be several, one in each line.
        text.lines().for_each(|line| report(LogLevel::Error, line));
        return if is_usage { 2 } else { 1 };
    }
    report(LogLevel::Error, text);
    error
        .downcast_ref()
        .map_or(1, |second: &SecondSignal| second.exit_code())
}

/// Reports what is wrong with the command line, in clap's words, and returns the exit code.
fn refuse(error: &clap::Error) -> u8 {
    let text = error.render();
    let text = if stderr().is_terminal() {
        text.ansi().to_string()
    } else {
        text.to_string()
    };
    say::put(text.into_bytes());
    2
}

fn execute(arguments: Arguments) -> anyhow::Result<()> {
    if let Command::Run(line) = arguments.command {
        // The file may say how to log; where it is wrong, only the command line does.
        let effective = Effective::load(*line).inspect_err(|_| logging::start(&arguments.log))?;
        logging::start(&effective.arguments().log);
        return command::run::run(effective);
    }
    logging::start(&arguments.log);
    match arguments.command {
        Command::Run(_) => unreachable!("handled above"),
        Command::Config(arguments) => command::config::run(&arguments),
        Command::Show(arguments) => command::show::run(&arguments),
        Command::Top(arguments) => command::top::run(arguments),
        Command::Expire(arguments) => command::expire::run(&arguments),
        Command::Reload(arguments) => command::reload::run(&arguments),
        Command::Stop(arguments) => command::stop::run(&arguments),
        Command::Cat(arguments) => command::cat::run(&arguments),
        Command::Collect(arguments) => command::collect::run(&arguments),
        Command::Print(arguments) => command::print::run(&arguments),
    }
}

/// Makes a write beyond the limit of file sizes (`ulimit -f`) an error, as on a full disk: by
/// default SIGXFSZ ends the process.
fn survive_file_size_limit() {
    // Caught, not ignored, so that programs which this one starts have the default. If it cannot be
    // caught, the default stays.
    let _ = signal_hook::flag::register(SIGXFSZ, Arc::default());
}
