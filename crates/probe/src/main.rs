//! `xdprobe`: a NetFlow probe for line-rate taps, its collector and its printer, one program.
//!
//! Each subcommand is one module below [`command`]: what the user wrote (clap), then what is valid, then the work.
#![forbid(unsafe_code)]

mod command;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// A NetFlow probe for line-rate taps: packets on an interface become NetFlow v5 records, and every packet is accounted for.
#[derive(Debug, Parser)]
#[command(name = "xdprobe", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print flows from flow-tools files, from standard input or as they arrive on a UDP port
    Print(command::print::Arguments),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Print(arguments) => command::print::run(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xdprobe: {error:#}");
            ExitCode::from(if error.is::<command::UsageError>() { 2 } else { 1 })
        }
    }
}
