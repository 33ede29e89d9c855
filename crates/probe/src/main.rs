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

use clap::{Parser, Subcommand};
use command::usage::UsageError;
use config::{Effective, Faults};
use signal_hook::consts::SIGXFSZ;
use std::process::ExitCode;
use std::sync::Arc;

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

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    survive_file_size_limit();
    match execute(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let text = format!("{error:#}");
            if error.is::<UsageError>() || error.is::<Faults>() {
                // There may be several, one in each line.
                text.lines().for_each(logging::report);
                ExitCode::from(2)
            } else {
                logging::report(&text);
                ExitCode::from(1)
            }
        }
    }
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
