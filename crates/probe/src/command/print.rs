//! `xdprobe print`: prints records from files, standard input or a UDP port in flow-print's
//! formats.

use super::files::{
    Failures, InputProgress, is_broken_pipe, named_inputs, quietly, refuse_stdout_among,
    report_left_out, still_being_written, without_outputs,
};
use super::usage::UsageError;
use crate::logging::{LogLevel, report};
use anyhow::Context;
use clap::Args;
use signal_hook::consts::{SIGINT, SIGTERM};
use std::io::{self, StdoutLock, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use xdprobe_collect::collector::unix_s;
use xdprobe_collect::datagram::{self, Refusal};
use xdprobe_collect::input::{Input, Inputs};
use xdprobe_collect::names::Names;
use xdprobe_collect::output::FileId;
use xdprobe_collect::print::{MissingField, PrintFormat, Printer, header_text};
use xdprobe_collect::receive::{Receiver, SOCKET_BUFFER_OCTETS};
use xdprobe_collect::throttle::{REPORT_S, Throttle};
use xdprobe_collect::{DatagramError, FlowFileReader, LocalZone, Version};

/// How often the listener checks whether to stop. A signal ends its wait.
const WAIT: Duration = Duration::from_millis(250);
/// Records between two updates of the progress bar.
const PROGRESS_RECORDS: u64 = 1 << 16;

/// The command line.
#[derive(Args, Debug)]
pub struct Arguments {
    /// Files, directories, `-` for standard input [default: standard input]
    paths: Vec<PathBuf>,
    /// Read files in directories too that are still being written (names that begin with tmp)
    #[arg(short, conflicts_with = "listen")]
    all: bool,
    /// flow-print's format, 0 to 7 [default: 3; 7 for version 7]
    #[arg(short, value_name = "N", conflicts_with_all = ["json", "csv"])]
    format: Option<usize>,
    /// One JSON object a line
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// Comma-separated values of every field, as in `flow-export -f2`
    #[arg(long)]
    csv: bool,
    /// Wide columns (formats 3 and 4)
    #[arg(short)]
    wide: bool,
    /// Names of protocols and ports instead of numbers, from /etc/protocols and /etc/services
    /// (formats 3, 4 and 7)
    #[arg(short, conflicts_with_all = ["json", "csv"])]
    names: bool,
    /// Print each file's header too
    #[arg(short = 'p')]
    header: bool,
    /// First character of a header's lines
    #[arg(short, default_value_t = '#', value_name = "CHARACTER")]
    comment: char,
    /// Write each line immediately
    #[arg(short = 'l')]
    unbuffered: bool,
    /// Print records as they arrive on a UDP port, until SIGINT or SIGTERM
    #[arg(
        long,
        value_name = "[ADDRESS:]PORT",
        value_parser = listen_address,
        conflicts_with = "paths",
    )]
    listen: Option<SocketAddr>,
    /// Accepted for compatibility with flow-print; has no effect
    #[arg(short, value_name = "LEVEL", hide = true)]
    debug: Option<u32>,
}

/// Prints the inputs, or what arrives on a port.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let format = chosen_format(arguments)?;
    let mut output = Output {
        arguments,
        format,
        names: chosen_names(arguments),
        printer: None,
    };
    quietly(match arguments.listen {
        Some(address) => listen(address, &mut output),
        None => print_inputs(arguments, &mut output),
    })
}

/// The output. Its printer is made when the first version is known: the default format and the
/// columns depend on it.
struct Output<'a> {
    arguments: &'a Arguments,
    format: Option<PrintFormat>,
    names: Option<Names>,
    printer: Option<Printer<StdoutLock<'static>>>,
}

impl Output<'_> {
    /// The printer, ready for records of `version`. Without a format on the command line, the
    /// default of the first version is used as long as it can print each version.
    fn printer(
        &mut self,
        version: Version,
    ) -> Result<&mut Printer<StdoutLock<'static>>, MissingField> {
        if let Some(printer) = &mut self.printer {
            match (printer.take_version(version), self.format) {
                (Err(_), None) => {
                    printer.take_format(PrintFormat::default_of(version), version)?;
                }
                (taken, _) => taken?,
            }
        }
        let printer = match self.printer.take() {
            Some(printer) => printer,
            None => self.new_printer(version)?,
        };
        Ok(self.printer.insert(printer))
    }

    fn new_printer(
        &mut self,
        version: Version,
    ) -> Result<Printer<StdoutLock<'static>>, MissingField> {
        let format = self
            .format
            .unwrap_or_else(|| PrintFormat::default_of(version));
        let (wide, zone) = (self.arguments.wide, LocalZone::system());
        let mut printer = Printer::new(format, wide, version, zone, io::stdout().lock())?;
        if let Some(names) = self.names.take() {
            printer.set_names(names);
        }
        Ok(printer)
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        self.printer.as_mut().map_or(Ok(()), |printer| {
            printer.flush().context("cannot write to standard output")
        })
    }
}

/// Prints every input. An input that cannot be read to its end is reported, and the next is
/// printed.
fn print_inputs(arguments: &Arguments, output: &mut Output) -> anyhow::Result<()> {
    refuse_stdout_among(&named_inputs(&arguments.paths))?;
    let inputs = Inputs::find(&arguments.paths, arguments.all)?;
    report_left_out(&inputs);
    if inputs.unfinished > 0 {
        report(LogLevel::Warn, still_being_written(inputs.unfinished));
    } else if inputs.list.is_empty() {
        report(LogLevel::Warn, "the directories hold no file to print");
    }
    let outputs: Vec<_> = FileId::of_stdout().into_iter().collect();
    let inputs = without_outputs(inputs.list, &outputs);
    let progress = InputProgress::to_stdout(inputs.iter().map(Input::octets).sum());
    let mut failures = Failures::default();
    for input in &inputs {
        match print_input(input, output, &progress) {
            Err(error) if is_broken_pipe(&error) => return Err(error),
            done => failures.note(done.with_context(|| input.to_string())),
        }
        progress.finish_part(input.octets());
    }
    output.flush()?;
    if let Some(left_out) = output
        .printer
        .as_ref()
        .map(Printer::left_out)
        .filter(|left_out| *left_out > 0)
    {
        report(
            LogLevel::Warn,
            format_args!("{left_out} records of 0 packets left out"),
        );
    }
    failures.last()
}

fn print_input(input: &Input, output: &mut Output, progress: &InputProgress) -> anyhow::Result<()> {
    let mut reader = FlowFileReader::new(input.open()?)?;
    let unbuffered = output.arguments.unbuffered;
    if output.arguments.header {
        let comment = output.arguments.comment;
        output.flush()?;
        io::stdout()
            .write_all(header_text(reader.header(), comment, &LocalZone::system()).as_bytes())?;
    }
    let printer = output.printer(reader.header().version)?;
    while let Some(record) = reader.next() {
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                // Records before the damage are printed before the error.
                printer.flush()?;
                return Err(error.into());
            }
        };
        printer
            .print(&record)
            .context("cannot write to standard output")?;
        if unbuffered {
            printer.flush()?;
        }
        if reader.records() % PROGRESS_RECORDS == 0 {
            progress.at(reader.octets());
        }
    }
    if reader.is_unfinished() {
        report(
            LogLevel::Warn,
            format_args!(
                "{input}: not closed properly: {} records up to its end",
                reader.records()
            ),
        );
    }
    Ok(())
}

/// Prints records as they arrive, until a signal.
fn listen(address: SocketAddr, output: &mut Output) -> anyhow::Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    let mut receiver = Receiver::bind(address, SOCKET_BUFFER_OCTETS)
        .with_context(|| format!("cannot listen on UDP {address}"))?;
    report(
        LogLevel::Info,
        format_args!("listening on UDP {}", receiver.local_addr()?),
    );
    let mut records = Vec::new();
    let (mut printed, mut refusals) = (0_u64, Refusals::default());
    while !stop.load(Ordering::Relaxed) {
        let arrived = receiver.wait(WAIT)?;
        refusals.report_if_due();
        if !arrived {
            continue;
        }
        receiver.receive()?;
        for (sender, datagram) in receiver.burst() {
            let exporter = sender.ip();
            records.clear();
            match datagram::decode(datagram, exporter, &mut records) {
                Ok(summary) => match output.printer(summary.version) {
                    Ok(printer) => {
                        for record in &records {
                            printer
                                .print(record)
                                .context("cannot write to standard output")?;
                        }
                        printed += records.len() as u64;
                    }
                    Err(missing) => refusals.note_format(exporter, &missing),
                },
                Err(error) => refusals.note_malformed(exporter, &error),
            }
        }
        output.flush()?;
    }
    report(
        LogLevel::Info,
        format_args!(
            "{printed} records printed, {} datagrams refused",
            refusals.count
        ),
    );
    Ok(())
}

/// Datagrams that were not printed, by reason: those of [`Refusal`], and a version that lacks
/// fields of the format.
#[derive(Debug, Default)]
struct Refusals {
    count: u64,
    malformed: [Throttle; Refusal::ALL.len()],
    format: Throttle,
}

impl Refusals {
    fn note_malformed(&mut self, exporter: IpAddr, error: &DatagramError) {
        self.count += 1;
        if self.malformed[Refusal::from(*error) as usize].note(unix_s()) {
            report(LogLevel::Warn, format_args!("from {exporter}: {error}"));
        }
    }

    fn note_format(&mut self, exporter: IpAddr, missing: &MissingField) {
        self.count += 1;
        if self.format.note(unix_s()) {
            report(LogLevel::Warn, format_args!("from {exporter}: {missing}"));
        }
    }

    fn report_if_due(&mut self) {
        let now = unix_s();
        let names = Refusal::ALL.into_iter().map(Refusal::name);
        let malformed = names.zip(&mut self.malformed);
        for (reason, throttle) in malformed.chain([("format", &mut self.format)]) {
            if let Some(more) = throttle.due(now) {
                report(
                    LogLevel::Warn,
                    format_args!(
                        "{more} more datagrams refused in the last {REPORT_S} s, reason {reason}"
                    ),
                );
            }
        }
    }
}

/// The format of the command line, if it has one.
fn chosen_format(arguments: &Arguments) -> Result<Option<PrintFormat>, UsageError> {
    match arguments.format {
        _ if arguments.json => Ok(Some(PrintFormat::Json)),
        _ if arguments.csv => Ok(Some(PrintFormat::Csv)),
        None => Ok(None),
        Some(number) => PrintFormat::from_number(number)
            .map(Some)
            .ok_or_else(|| UsageError(format!("format {number} is not supported: choose 0 to 7"))),
    }
}

/// The names of -n. Without them, numbers are printed, and a line says why.
fn chosen_names(arguments: &Arguments) -> Option<Names> {
    if !arguments.names {
        return None;
    }
    Names::system()
        .inspect_err(|error| {
            report(
                LogLevel::Warn,
                format_args!(
                    "numbers instead of names: {error}; on Debian, install the package netbase"
                ),
            );
        })
        .ok()
}

/// `PORT`, `ADDRESS:PORT` or `[V6]:PORT`.
fn listen_address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(port) = text.parse() {
        return Ok((IpAddr::V4(Ipv4Addr::UNSPECIFIED), port).into());
    }
    text.parse()
        .map_err(|_| "expected PORT, ADDRESS:PORT or [V6ADDRESS]:PORT".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listens_on_all_addresses_when_only_a_port_is_given() {
        assert_eq!(listen_address("2055"), Ok(([0, 0, 0, 0], 2055).into()));
        assert_eq!(
            listen_address("127.0.0.1:2055"),
            Ok(([127, 0, 0, 1], 2055).into())
        );
        assert_eq!(
            listen_address("[::1]:2055").unwrap().to_string(),
            "[::1]:2055"
        );
        assert!(listen_address("localhost").is_err());
        assert!(listen_address("70000").is_err());
    }
}
