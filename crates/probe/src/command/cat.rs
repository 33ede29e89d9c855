//! `xdprobe cat`: joins flow-tools files, as flow-cat does.

use super::files::{
    Failures, InputProgress, is_broken_pipe, named_inputs, quietly, report_left_out,
    still_being_written, without_outputs,
};
use super::usage::UsageError;
use crate::logging::{LogLevel, report};
use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use jiff::{Timestamp, Zoned};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use std::fs;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use xdprobe_collect::collector::unix_s;
use xdprobe_collect::header::{FLAG_PRELOADED, FileHeader};
use xdprobe_collect::input::{Input, Inputs};
use xdprobe_collect::output::{FileId, OutputError, Replace, Target};
use xdprobe_collect::{
    ByteOrder, FileLosses, FlowFileReader, FlowOutput, StoredRecord, Version, WriterOptions,
    system_zone,
};

/// Records between two updates of the progress bar and checks for signals.
const PROGRESS_RECORDS: u64 = 1 << 16;

/// The command line.
#[derive(Args, Debug)]
pub struct Arguments {
    /// Files, directories (all files below them), `-` for standard input [default: standard input]
    paths: Vec<PathBuf>,
    /// Read files in directories too that are still being written (names that begin with tmp)
    #[arg(short)]
    all: bool,
    /// Byte order of the output [default: this machine's]
    #[arg(short, value_name = "ORDER")]
    byte_order: Option<Order>,
    /// Comment for the output's header
    #[arg(short = 'C', value_name = "TEXT")]
    comment: Option<String>,
    /// Sort all inputs by start of capture
    #[arg(short)]
    global_sort: bool,
    /// Write to this file [default: standard output]; it has this name when it is complete. An
    /// existing flow-tools file is replaced
    #[arg(short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replace FILE even if it is not a flow-tools file
    #[arg(long, requires = "output")]
    overwrite: bool,
    /// Read all headers first, so that the header of a stream has their counts and times
    #[arg(short)]
    preload: bool,
    /// Only files whose capture started at or before this time; with -T: between both times
    #[arg(
        short = 't',
        value_name = "TIME",
        value_parser = time_s,
        allow_hyphen_values = true,
    )]
    start: Option<i64>,
    /// Only files whose capture ended at or after this time; with -t: started between both times
    #[arg(
        short = 'T',
        value_name = "TIME",
        value_parser = time_s,
        allow_hyphen_values = true,
    )]
    end: Option<i64>,
    /// Only inputs with records of this version: 1, 5 or 7
    #[arg(short = 'V', value_name = "VERSION")]
    version: Option<Version>,
    /// zlib level of the output, 0 to 9
    #[arg(
        short = 'z',
        value_name = "LEVEL",
        default_value_t = 0,
        value_parser = clap::value_parser!(u32).range(0..=9),
    )]
    level: u32,
    /// Accepted for compatibility with flow-cat; files are never mapped
    #[arg(short = 'm', hide = true)]
    no_mmap: bool,
    /// Accepted for compatibility with flow-cat; has no effect
    #[arg(short, value_name = "LEVEL", hide = true)]
    debug: Option<u32>,
}

/// A byte order, named as in flow-tools.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Order {
    /// Least significant octet first.
    Little,
    /// Most significant octet first.
    Big,
}

impl From<Order> for ByteOrder {
    fn from(order: Order) -> Self {
        match order {
            Order::Little => Self::Little,
            Order::Big => Self::Big,
        }
    }
}

/// Joins the inputs.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    if arguments.output.as_deref().is_none_or(is_dash) && io::stdout().is_terminal() {
        let advice = "standard output is a terminal, expected a file or a pipe: use -o FILE, \
                      redirect the output, or use `xdprobe print`";
        return Err(UsageError(advice.into()).into());
    }
    quietly(join(arguments))
}

fn join(arguments: &Arguments) -> anyhow::Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP, SIGQUIT] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    let target = target(arguments)?;
    let Chosen {
        inputs,
        known,
        unfinished,
    } = choose(arguments, &target.ids())?;
    let mut output = Output {
        arguments,
        known,
        target: Some(target),
        to: None,
    };
    let progress = InputProgress::new(inputs.iter().map(Input::octets).sum(), true);
    let mut failures = Failures::default();
    for input in &inputs {
        match copy(input, &mut output, &progress, &stop) {
            Err(error) if error.is::<WriteError>() || is_broken_pipe(&error) => {
                return output.give_up(error);
            }
            done => failures.note(done.with_context(|| input.to_string())),
        }
        progress.finish_part(input.octets());
        if stop.load(Ordering::Relaxed) {
            break;
        }
    }
    drop(progress);
    let begun = output.finish()?;
    failures.last()?;
    if begun {
        return Ok(());
    }
    let left_out = match unfinished {
        0 => String::new(),
        files => format!("; {}", still_being_written(files)),
    };
    bail!(
        "no flow file was read: expected at least one flow-tools file within the times of -t \
         and -T and of the version of -V{left_out}"
    )
}

/// Copies one input up to its end or its first damage.
fn copy(
    input: &Input,
    output: &mut Output,
    progress: &InputProgress,
    stop: &AtomicBool,
) -> anyhow::Result<()> {
    let mut reader = FlowFileReader::new(input.open()?)?;
    let version = reader.header().version;
    if !has_version(reader.header(), output.arguments) {
        return Ok(());
    }
    if *input == Input::Stdin {
        output.known.add(reader.header());
    }
    output.take_version(version)?;
    if reader.header().order == output.order() {
        // The octets stay the same, so that records need not be decoded.
        while let Some(block) = reader.next_block() {
            output.push_block(block?)?;
            progress.at(reader.octets());
            if stop.load(Ordering::Relaxed) {
                break;
            }
        }
    } else {
        while let Some(record) = reader.next() {
            output.push(&record?)?;
            if reader.records() % PROGRESS_RECORDS == 0 {
                progress.at(reader.octets());
                if stop.load(Ordering::Relaxed) {
                    break;
                }
            }
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

/// The output cannot be written, so that no other input is read.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the output: {0}")]
struct WriteError(#[from] io::Error);

/// The output. It begins with the first input, which determines the version.
struct Output<'a> {
    arguments: &'a Arguments,
    known: Known,
    /// None once it has begun.
    target: Option<Target>,
    to: Option<(Version, FlowOutput)>,
}

impl Output<'_> {
    /// Begins the output, or checks that its records have the same version.
    fn take_version(&mut self, version: Version) -> anyhow::Result<()> {
        match &self.to {
            None => {
                let target = self.target.take().expect("the output begins once");
                self.to = Some((version, self.begin(target, version)?));
            }
            Some((first, _)) if *first != version => bail!(
                "data version or sub version changed! Found records of version {found}, expected \
                 version {first} as in the inputs before: join one version, with -V {first} or -V \
                 {found}",
                found = version.number(),
                first = first.number()
            ),
            Some(_) => {}
        }
        Ok(())
    }

    fn begin(&self, target: Target, version: Version) -> Result<FlowOutput, WriteError> {
        let options = WriterOptions {
            version,
            order: self.order(),
            level: self.arguments.level,
            capture_start_s: self.known.start_s.unwrap_or(0),
            hostname: None,
            comment: self.arguments.comment.clone(),
        };
        let header = FileHeader {
            comment: options.comment.clone(),
            ..self.known.header(self.arguments, version)
        };
        Ok(FlowOutput::open(target, &options, Some(header))?)
    }

    /// Byte order of the output.
    fn order(&self) -> ByteOrder {
        self.arguments
            .byte_order
            .map_or(ByteOrder::NATIVE, ByteOrder::from)
    }

    fn push_block(&mut self, block: &[u8]) -> Result<(), WriteError> {
        match &mut self.to {
            Some((_, to)) => Ok(to.push_block(block)?),
            None => Ok(()),
        }
    }

    #[inline]
    fn push(&mut self, record: &StoredRecord) -> Result<(), WriteError> {
        match &mut self.to {
            Some((_, to)) => Ok(to.push(record)?),
            None => Ok(()),
        }
    }

    /// Completes the output, and returns whether there is one.
    fn finish(self) -> Result<bool, WriteError> {
        let Some((_, mut to)) = self.to else {
            return Ok(false);
        };
        to.set_capture_start(self.known.start_s.unwrap_or(0));
        to.note(self.known.losses);
        let temporary = to.temporary().map(Path::to_owned);
        let finished = to.finish(self.known.end_s.unwrap_or(0));
        finished.inspect_err(|_| {
            if let Some(temporary) = temporary {
                // That error is the one to report.
                let _ = fs::remove_file(temporary);
            }
        })?;
        Ok(true)
    }

    /// Removes an incomplete output.
    fn give_up(self, error: anyhow::Error) -> anyhow::Result<()> {
        if let Some((_, to)) = self.to {
            to.discard();
        }
        Err(error)
    }
}

/// Where the output goes. An input that is named on the command line is never written to.
fn target(arguments: &Arguments) -> anyhow::Result<Target> {
    let inputs = named_inputs(&arguments.paths);
    let replace = if arguments.overwrite {
        Replace::Anything
    } else {
        Replace::FlowFiles
    };
    let output = arguments.output.as_deref().unwrap_or(Path::new("-"));
    Target::check(output, replace, &inputs).map_err(|error| match error {
        error @ OutputError::System { .. } => error.into(),
        refused => UsageError(refused.to_string()).into(),
    })
}

fn is_dash(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Times and counts from the headers of all inputs.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    start_s: Option<u32>,
    end_s: Option<u32>,
    flows: u32,
    losses: FileLosses,
}

impl Known {
    fn add(&mut self, header: &FileHeader) {
        self.start_s = [self.start_s, header.capture_start_s]
            .into_iter()
            .flatten()
            .min();
        self.end_s = [self.end_s, header.capture_end_s]
            .into_iter()
            .flatten()
            .max();
        self.flows = self.flows.wrapping_add(header.flows.unwrap_or(0));
        let losses = FileLosses {
            lost: header.lost.unwrap_or(0),
            corrupt: header.corrupt.unwrap_or(0),
            resets: header.resets.unwrap_or(0),
        };
        self.losses.add(losses);
    }

    /// A stream's header. Empty unless headers are read first, as in flow-cat.
    fn header(&self, arguments: &Arguments, version: Version) -> FileHeader {
        let header = FileHeader::new(version, ByteOrder::NATIVE);
        if !(arguments.preload || arguments.start.is_some() || arguments.end.is_some()) {
            return header;
        }
        FileHeader {
            flags: FLAG_PRELOADED,
            capture_start_s: self.start_s,
            capture_end_s: self.end_s,
            flows: Some(self.flows),
            lost: Some(self.losses.lost),
            corrupt: Some(self.losses.corrupt),
            ..header
        }
    }
}

/// What is joined.
struct Chosen {
    inputs: Vec<Input>,
    /// What the headers of the inputs contain.
    known: Known,
    /// Files that were left out since they are still being written.
    unfinished: usize,
}

/// The inputs within the times of -t and -T in the right order, and what their headers contain.
///
/// An input whose header cannot be read is kept; its error is reported when it is copied. What is
/// in a directory and is the `output` is left out.
fn choose(arguments: &Arguments, output: &[FileId]) -> anyhow::Result<Chosen> {
    let mut known = Known::default();
    let mut chosen = Vec::new();
    let inputs = Inputs::find(&arguments.paths, arguments.all)?;
    report_left_out(&inputs);
    for input in without_outputs(inputs.list, output) {
        let header = header_of(&input);
        let is_chosen = |header: &FileHeader| {
            has_version(header, arguments) && in_window(header, arguments.start, arguments.end)
        };
        if !header.as_ref().is_none_or(is_chosen) {
            continue;
        }
        if let Some(header) = &header {
            known.add(header);
        }
        chosen.push((header.and_then(|header| header.capture_start_s), input));
    }
    if arguments.global_sort {
        chosen.sort_by_key(|(start_s, _)| *start_s);
    }
    Ok(Chosen {
        inputs: chosen.into_iter().map(|(_, input)| input).collect(),
        known,
        unfinished: inputs.unfinished,
    })
}

fn header_of(input: &Input) -> Option<FileHeader> {
    match input {
        Input::Stdin => None,
        Input::File(path) if is_special(path) => None,
        Input::File(path) => FlowFileReader::open(path)
            .ok()
            .map(|reader| reader.header().clone()),
    }
}

/// Whether the records are of the version of -V.
fn has_version(header: &FileHeader, arguments: &Arguments) -> bool {
    arguments
        .version
        .is_none_or(|version| version == header.version)
}

/// flow-cat's rule. Source: flow-tools 0.68, `src/flow-cat.c`.
fn in_window(header: &FileHeader, start: Option<i64>, end: Option<i64>) -> bool {
    let started = i64::from(header.capture_start_s.unwrap_or(0));
    let ended = i64::from(header.capture_end_s.unwrap_or(0));
    match (start, end) {
        (Some(from), Some(to)) => (from..=to).contains(&started),
        (Some(until), None) => started <= until,
        (None, Some(since)) => ended >= since,
        (None, None) => true,
    }
}

/// Whether the path exists and is not a regular file: a pipe, a device.
fn is_special(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| !metadata.is_file())
}

/// UTC seconds of a time in the forms of flow-cat: a date, a time of day, both, or relative to now.
/// Times without a zone are local.
fn time_s(text: &str) -> Result<i64, String> {
    let now = Timestamp::from_second(unix_s()).expect("the time is within the library's calendar");
    time_at(text, &now.to_zoned(system_zone()))
}

/// As [`time_s`], relative to `now`. flow-cat has a copy of `getdate.y`, whose forms GNU date and
/// the crate keep.
fn time_at(text: &str, now: &Zoned) -> Result<i64, String> {
    let time = Some(text)
        .filter(|text| !text.trim().is_empty())
        .and_then(|text| parse_datetime::parse_datetime_at_date(now.clone(), text).ok());
    time.map(|time| time.unix_epoch_second()).ok_or_else(|| {
        "expected a time, as 2026-11-22 12:54, 11/22/2026, yesterday, 1 hour ago or \
         2026-11-22T12:54:00Z"
            .into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::tz::TimeZone;

    #[test]
    fn windows_are_those_of_flow_cat() {
        let header = FileHeader {
            capture_start_s: Some(100),
            capture_end_s: Some(200),
            ..FileHeader::new(Version::V5, ByteOrder::NATIVE)
        };
        let inside = |start, end| in_window(&header, start, end);
        assert!(inside(None, None));
        assert!(inside(Some(100), None) && !inside(Some(99), None));
        assert!(inside(None, Some(200)) && !inside(None, Some(201)));
        assert!(
            inside(Some(100), Some(100))
                && !inside(Some(101), Some(300))
                && !inside(Some(1), Some(99))
        );
    }

    /// Half past midnight in Berlin, of a Sunday in winter.
    fn now() -> Zoned {
        let berlin = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        "2026-11-21T23:30:00Z"
            .parse::<Timestamp>()
            .unwrap()
            .to_zoned(berlin)
    }

    #[test]
    fn times_are_those_of_the_manual_page_of_flow_cat() {
        for (text, expected) in [
            ("1 month ago", "2026-10-21T22:30:00Z"),
            ("2 hours ago", "2026-11-21T21:30:00Z"),
            ("1 hour ago", "2026-11-21T22:30:00Z"),
            ("400000 seconds ago", "2026-11-17T08:23:20Z"),
            ("last year", "2025-11-21T23:30:00Z"),
            ("last Monday", "2026-11-15T23:00:00Z"),
            ("yesterday", "2026-11-20T23:30:00Z"),
            ("a fortnight ago", "2026-11-07T23:30:00Z"),
            ("3/31/92 10:00:07 PST", "1992-03-31T18:00:07Z"),
            ("January 23, 1987 10:05pm", "1987-01-23T21:05:00Z"),
            ("22:00 GMT", "2026-11-22T22:00:00Z"),
            ("now", "2026-11-21T23:30:00Z"),
            ("-1 day", "2026-11-20T23:30:00Z"),
            ("@0", "1970-01-01T00:00:00Z"),
            // A date alone is its local midnight; local times have the offset of their day.
            ("11/22/2026", "2026-11-21T23:00:00Z"),
            ("2026-07-01", "2026-06-30T22:00:00Z"),
            ("11/22/2026 12:54:00", "2026-11-22T11:54:00Z"),
            ("2026-11-22 12:54", "2026-11-22T11:54:00Z"),
            ("2026-11-22T12:54:00Z", "2026-11-22T12:54:00Z"),
        ] {
            let time = time_at(text, &now()).map(|second| Timestamp::from_second(second).unwrap());
            assert_eq!(time, Ok(expected.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused_with_examples() {
        for text in [
            "",
            " ",
            "noonish",
            "2026-13-01",
            "2026-11-22 25:00",
            "1795352088",
        ] {
            let error = time_at(text, &now()).unwrap_err();
            assert!(error.contains("1 hour ago"), "{text}: {error}");
        }
    }
}
