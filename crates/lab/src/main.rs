//! The lab's program: traffic and a test collector for the command line.

use std::fmt::Display;
use std::fs::File;
use std::io::{BufWriter, Write, stderr, stdout};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use serde::Serialize;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use xdprobe_lab::capture_file::{Kind, Recipe};
use xdprobe_lab::plain;
use xdprobe_lab::send::{Options, Report, Sender};
use xdprobe_lab::test_collector::{Keep, TestCollector};

/// Traffic with exact counts, for tests and benchmarks of xdprobe.
#[derive(Parser)]
#[command(name = "xdprobe-lab", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Send packets of a pattern and print the counts as JSON
    #[command(
        long_about = "Send packets of a pattern and print as JSON the exact counts of what was \
            handed to \
                      the interface's driver. Frames that the driver refuses because the peer's \
                      ring \
                      is full are included; `driver` has their number if the driver counts \
                      them.\n\n\
                      An XDP program writes all packets into live frames of BPF_PROG_TEST_RUN. \
                      This \
                      needs Linux 5.18 and root, and keeps one core busy at any rate."
    )]
    Send(Options),
    /// Send packets through a packet socket, on any driver, and print the counts as JSON
    SendPlain(plain::PlainOptions),
    /// Write a large capture file from a seed and print the counts as JSON
    Capture(Capture),
    /// Collect NetFlow v1, v5 and v7 until SIGINT or SIGTERM and print the counts of records and
    /// errors as JSON
    Collect(Collect),
}

#[derive(Args)]
struct Capture {
    /// Kind of traffic
    #[arg(short, long, value_enum)]
    kind: Kind,
    /// Packets [default: that of the kind]
    #[arg(short = 'n', long, value_name = "N")]
    packets: Option<u32>,
    /// Flows [default: that of the kind]
    #[arg(short, long, value_name = "N")]
    flows: Option<u32>,
    /// Seed: the same seed gives the same octets
    #[arg(short, long, default_value_t = 1)]
    seed: u64,
    /// File to write
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

#[derive(Args)]
struct Collect {
    /// UDP port to listen on
    #[arg(short, long, default_value_t = 2055)]
    port: u16,
    /// Address to listen on
    #[arg(short, long, default_value = "127.0.0.1")]
    address: IpAddr,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Send(options) => send(&options),
        Command::SendPlain(options) => send_plain(&options),
        Command::Capture(options) => capture(&options),
        Command::Collect(options) => collect(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(format_args!("{error:#}"));
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
    warn_if_not_received(&report);
    print(&report)
}

fn send_plain(options: &plain::PlainOptions) -> Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, stop.clone())?;
    }
    print(&plain::send(options, &stop)?)
}

fn capture(options: &Capture) -> Result<()> {
    let Capture {
        kind,
        packets,
        flows,
        seed,
        file,
    } = options;
    let default = Recipe::of(*kind, *seed);
    let recipe = Recipe {
        packets: packets.unwrap_or(default.packets),
        flows: flows.unwrap_or(default.flows),
        ..default
    };
    let written = || recipe.write(BufWriter::with_capacity(WRITE_OCTETS, File::create(file)?));
    let counts = written().with_context(|| format!("writing {}", file.display()))?;
    print(&counts)
}

/// Octets of a capture file in one write.
const WRITE_OCTETS: usize = 1 << 20;

fn collect(options: &Collect) -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let collector =
        TestCollector::bind(SocketAddr::new(options.address, options.port), Keep::Counts)?;
    say(format_args!("collecting on {}", collector.address()));
    signals.forever().next();
    let received = collector.stop()?;
    print(&serde_json::json!({
        "datagrams": received.datagrams,
        "records": received.records,
        "packets": received.packets,
        "octets": received.octets,
        "gaps": received.gaps.len(),
        "violations": received.violations.len(),
        "undecoded": received.undecoded.len(),
        "dropped_by_socket": received.dropped_by_socket,
    }))
}

fn warn_if_not_received(report: &Report) {
    let (interface, packets) = (&report.interface, report.packets);
    match report.driver {
        None => say(format_args!(
            "the driver of {interface} does not count XDP frames: unknown whether it \
             accepted any of {packets}"
        )),
        Some(driver) if driver.accepted == 0 && driver.refused == 0 => say(format_args!(
            "the driver of {interface} accepted none of {packets} frames, expected a \
             peer \
             that is up and has GRO or an XDP program: run `ethtool -K PEER gro on`, then set \
             {interface} down and up again"
        )),
        Some(_) => {}
    }
}

/// Prints a result as a line of JSON.
fn print(result: &impl Serialize) -> Result<()> {
    Ok(writeln!(stdout(), "{}", serde_json::to_string(result)?)?)
}

/// Writes a line on standard error. Nothing depends on it.
fn say(line: impl Display) {
    let _ = stderr().write_all(format!("xdprobe-lab: {line}\n").as_bytes());
}
