//! The lab's own program: traffic from a shell.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use signal_hook::consts::{SIGINT, SIGTERM};
use xdprobe_lab::send::{Options, Report, Sender};

/// Traffic whose truth is known, for tests and benches of xdprobe.
#[derive(Parser)]
#[command(name = "xdprobe-lab", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Send packets of a pattern and print as JSON what was sent
    #[command(long_about = "Send packets of a pattern and print as JSON what was handed to the interface's driver, \
                            exactly. A frame that the driver refuses, since the far end's ring is full, is among them: \
                            `driver` tells how many were, where the driver counts them.\n\n\
                            All packets are written by an XDP program into live frames of BPF_PROG_TEST_RUN: needs Linux \
                            5.18 and root, and one core at any rate.")]
    Send(Options),
}

fn main() -> ExitCode {
    let Arguments { command: Command::Send(options) } = Arguments::parse();
    match send(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xdprobe-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn send(options: &Options) -> Result<()> {
    let sender = Sender::start(options)?;
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, sender.stop_flag())?;
    }
    let report = sender.wait()?;
    warn_of_a_deaf_end(&report);
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

fn warn_of_a_deaf_end(report: &Report) {
    let (interface, packets) = (&report.interface, report.packets);
    match report.driver {
        None => eprintln!(
            "xdprobe-lab: the driver of {interface} does not count XDP frames, so whether it took any of {packets} is unknown"
        ),
        Some(driver) if driver.accepted == 0 && driver.refused == 0 => eprintln!(
            "xdprobe-lab: the driver of {interface} took none of {packets} frames, wanted a far end that is up and has GRO \
             or an XDP program: `ethtool -K PEER gro on`, then take {interface} down and up again"
        ),
        Some(_) => {}
    }
}
