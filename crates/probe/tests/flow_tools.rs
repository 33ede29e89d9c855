//! The program against flow-tools' own files and outputs, and against files that these tests make.
//!
//! The samples are files that the real flow-capture wrote (`NAME.ft`) and what the real flow-print
//! and flow-export printed for them (`NAME.f3.txt`, `NAME.default.txt`, `NAME.csv`). They are not
//! part of the project: `XDPROBE_FLOWTOOLS` names their folder.
#![expect(
    clippy::unwrap_used,
    reason = "a test that finds something else than it needs shall panic"
)]

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::Duration;
use xdprobe_collect::{FlowFileWriter, StoredRecord, WriterOptions};
use xdprobe_pipeline::export::netflow::{v1, v5, v7};

fn xdprobe() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xdprobe"));
    command.env("TZ", "UTC");
    command
}

fn run(arguments: &[&str]) -> Output {
    xdprobe().args(arguments).output().unwrap()
}

/// The folder of the samples; says so loudly where there is none.
fn samples() -> Option<PathBuf> {
    let folder = std::env::var_os("XDPROBE_FLOWTOOLS").map(PathBuf::from);
    if folder.is_none() {
        let place = if std::env::var_os("CI").is_some() {
            "IN CI: "
        } else {
            ""
        };
        // Past the test harness, which keeps what a test prints to itself.
        let advice = "nothing was compared with the real flow-tools: XDPROBE_FLOWTOOLS names no folder of samples";
        std::io::stderr()
            .write_all(format!("\nSKIPPED, {place}{advice}\n").as_bytes())
            .unwrap();
    }
    folder
}

fn sample_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let files: Vec<PathBuf> = entries
        .filter(|path| path.extension().is_some_and(|extension| extension == "ft"))
        .collect();
    assert!(!files.is_empty(), "no .ft file in {}", folder.display());
    files
}

/// Everything that the real tools printed for `file`, with the options that make `xdprobe print`
/// print the same.
fn printed_by_the_real_tools(file: &Path) -> Vec<(Vec<&'static str>, PathBuf)> {
    let outputs = [
        (vec!["-f0"], "f0.txt"),
        (vec!["-f1"], "f1.txt"),
        (vec!["-f2"], "f2.txt"),
        (vec!["-f3"], "f3.txt"),
        (vec!["-w", "-f3"], "f3-wide.txt"),
        (vec!["-f4"], "f4.txt"),
        (vec!["-f5"], "f5.txt"),
        (vec!["-f6"], "f6.txt"),
        (vec![], "default.txt"),
        (vec!["--csv"], "csv"),
    ];
    outputs
        .into_iter()
        .map(|(options, end)| (options, file.with_extension(end)))
        .filter(|(_, path)| path.exists())
        .collect()
}

#[test]
fn prints_the_samples_as_the_real_flow_print_did() {
    let Some(folder) = samples() else { return };
    let mut compared = 0;
    for file in sample_files(&folder) {
        for (options, expected) in printed_by_the_real_tools(&file) {
            for stdin in [false, true] {
                let mut command = xdprobe();
                command.arg("print").args(&options);
                if stdin {
                    command.stdin(File::open(&file).unwrap());
                } else {
                    command.arg(&file);
                }
                let output = command.output().unwrap();
                let expected_text = fs::read(&expected).unwrap();
                assert!(
                    output.stdout == expected_text,
                    "{options:?} differs from {}",
                    expected.display()
                );
                // flow-print printed nothing where the version has not the format's fields.
                assert_eq!(
                    output.status.code(),
                    Some(if expected_text.is_empty() { 1 } else { 0 }),
                    "{options:?} {file:?}"
                );
                compared += 1;
            }
        }
    }
    eprintln!("{compared} outputs are those of the real tools");
}

/// Records of the samples, written again, are the same octets.
#[test]
fn writes_the_records_of_the_samples_as_the_real_flow_capture_did() {
    let Some(folder) = samples() else { return };
    let directory = tempfile::tempdir().unwrap();
    let again = directory.path().join("again.ft");
    for file in sample_files(&folder) {
        let sample = fs::read(&file).unwrap();
        let (order, start) = match sample[2] {
            1 => (
                "little",
                u32::from_le_bytes(sample[4..8].try_into().unwrap()),
            ),
            _ => ("big", u32::from_be_bytes(sample[4..8].try_into().unwrap())),
        };
        let cat = xdprobe()
            .args(["cat", "-b", order, "-o"])
            .arg(&again)
            .arg(&file)
            .output()
            .unwrap();
        assert_eq!(
            cat.status.code(),
            Some(0),
            "{}",
            String::from_utf8_lossy(&cat.stderr)
        );
        let is_plain = sample.len() > 10_000;
        if is_plain {
            let records = &sample[start as usize..];
            let written = fs::read(&again).unwrap();
            assert!(written.ends_with(records), "{}", file.display());
        }
        let csv = xdprobe()
            .args(["print", "--csv"])
            .arg(&again)
            .output()
            .unwrap();
        assert!(
            csv.stdout == fs::read(file.with_extension("csv")).unwrap(),
            "{}",
            file.display()
        );
    }
}

#[test]
fn formats_that_do_not_exist_are_a_wrong_command_line() {
    let output = run(&["print", "-f", "8", "/dev/null"]);
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(error, "xdprobe: format 8 is not supported: choose 0 to 7\n");
}

#[test]
fn what_is_no_flow_file_is_named_on_one_line() {
    let output = run(&["print", "/dev/null", "/etc/passwd"]);
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    let lines: Vec<&str> = error.lines().collect();
    assert_eq!(lines.len(), 2, "{error}");
    assert_eq!(
        lines[0],
        "xdprobe: /dev/null: not a flow-tools file: it starts with nothing, expected cf 10"
    );
    assert!(
        lines[1].starts_with("xdprobe: /etc/passwd: not a flow-tools file: it starts with "),
        "{error}"
    );
}

#[test]
fn print_and_cat_end_quietly_when_nobody_reads() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("long.ft");
    let mut writer = FlowFileWriter::create(&path, &WriterOptions::plain_v5(0)).unwrap();
    (0..50_000).for_each(|_| writer.push(&StoredRecord::default()).unwrap());
    writer.finish(0).unwrap();
    for arguments in [&["print"][..], &["print", "--json"], &["cat"]] {
        let mut command = xdprobe();
        command
            .args(arguments)
            .arg(&path)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(
            (
                output.status.code(),
                String::from_utf8(output.stderr).unwrap()
            ),
            (Some(0), String::new())
        );
    }
}

/// `xdprobe print --listen` with `options`, the lines of its errors, and its address.
fn listen(options: &[&str]) -> (Child, impl Iterator<Item = String> + use<>, String) {
    let mut child = xdprobe()
        .args(["print", "--listen", "127.0.0.1:0"])
        .args(options)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut errors = BufReader::new(child.stderr.take().unwrap())
        .lines()
        .map(Result::unwrap);
    let told = errors.next().unwrap();
    let address = told.strip_prefix("xdprobe: listening on UDP ").unwrap();
    (child, errors, address.to_owned())
}

#[test]
fn a_datagram_whose_version_the_format_cannot_print_is_refused_and_the_next_one_printed() {
    for (format, odd, good) in [
        ("-f4", v1_datagram(), v5_datagram(0, 1)),
        ("-f7", v5_datagram(0, 1), v7_datagram()),
    ] {
        let (mut child, errors, address) = listen(&[format]);
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        for datagram in [&odd, &good, &odd, &odd, &good] {
            sender.send_to(datagram, &address).unwrap();
        }
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(lines.take(3).filter(Result::is_ok).count(), 3);
        signal(&child, Signal::SIGINT);
        assert_eq!(child.wait().unwrap().code(), Some(0));
        let errors: Vec<String> = errors.collect();
        assert_eq!(errors.len(), 2, "{errors:?}");
        assert!(
            errors[0].starts_with("xdprobe: from 127.0.0.1: Flow record missing required field"),
            "{errors:?}"
        );
        assert_eq!(errors[1], "xdprobe: 2 records printed, 3 datagrams refused");
    }
}

#[test]
fn without_a_format_records_of_every_version_are_printed_as_they_arrive() {
    let (mut child, errors, address) = listen(&[]);
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    for datagram in [
        v7_datagram(),
        v5_datagram(0, 1),
        v1_datagram(),
        v7_datagram(),
    ] {
        sender.send_to(&datagram, &address).unwrap();
    }
    // Two headings: that of version 7, and that of the first version which has not its fields.
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let lines: Vec<String> = lines.take(6).map(Result::unwrap).collect();
    let headings: Vec<bool> = lines.iter().map(|line| line.starts_with("srcIP")).collect();
    assert_eq!(
        headings,
        [true, false, true, false, false, false],
        "{lines:?}"
    );
    signal(&child, Signal::SIGINT);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let last = errors.last().unwrap();
    assert_eq!(last, "xdprobe: 4 records printed, 0 datagrams refused");
}

#[test]
fn print_shows_records_as_they_arrive() {
    let (mut child, errors, address) = listen(&[]);
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    sender.send_to(b"no datagram", &address).unwrap();
    sender.send_to(&v5_datagram(0, 1), &address).unwrap();

    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().starts_with("srcIP "));
    assert!(
        lines
            .next()
            .unwrap()
            .unwrap()
            .starts_with("10.0.0.0         192.0.2.1        17    1024     53       64   ")
    );
    signal(&child, Signal::SIGINT);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let errors: Vec<String> = errors.collect();
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert!(
        errors[0].starts_with("xdprobe: from 127.0.0.1: datagram of 11 octets is shorter"),
        "{errors:?}"
    );
    assert_eq!(errors[1], "xdprobe: 1 records printed, 1 datagrams refused");
}

/// A version 1 datagram of one flow.
fn v1_datagram() -> Vec<u8> {
    let mut octets = vec![0; v1::DATAGRAM_OCTETS_MAX];
    let records = [v1::Record::default()];
    let length = v1::encode(&v1::Header::default(), &records, &mut octets).unwrap();
    octets.truncate(length);
    octets
}

/// A version 7 datagram of one flow.
fn v7_datagram() -> Vec<u8> {
    let mut octets = vec![0; v7::DATAGRAM_OCTETS_MAX];
    let records = [v7::Record::default()];
    let length = v7::encode(&v7::Header::default(), &records, &mut octets).unwrap();
    octets.truncate(length);
    octets
}

/// A version 5 datagram whose sequence is `sequence`, of `count` flows whose source addresses count
/// on from the sequence.
fn v5_datagram(sequence: u32, count: u32) -> Vec<u8> {
    let header = v5::Header {
        flow_sequence: sequence.into(),
        unix_s: 1_000_000_000.into(),
        ..v5::Header::default()
    };
    let flow = |number: u32| v5::Record {
        source: (0x0a00_0000 + number).to_be_bytes(),
        destination: [192, 0, 2, 1],
        source_port: 1024.into(),
        destination_port: 53.into(),
        protocol: 17,
        packets: 1.into(),
        octets: 64.into(),
        ..v5::Record::default()
    };
    let flows: Vec<v5::Record> = (sequence..sequence + count).map(flow).collect();
    let mut datagram = vec![0; v5::DATAGRAM_OCTETS_MAX];
    let octets = v5::encode(&header, &flows, &mut datagram).unwrap();
    datagram.truncate(octets);
    datagram
}

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
}

/// A collector on loopback that is killed if a test leaves it.
struct Collector {
    child: Child,
    address: String,
    directory: PathBuf,
}

impl Collector {
    fn start(directory: &Path, options: &[&str]) -> Self {
        // The port is free now, and nobody else asks for it in the moment until the collector has
        // it.
        let port = UdpSocket::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let mut child = xdprobe()
            .arg("collect")
            .args(options)
            .arg("-w")
            .arg(directory)
            .arg(format!("127.0.0.1/0/{port}"))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut errors = BufReader::new(child.stderr.take().unwrap());
        loop {
            let mut line = String::new();
            assert!(
                errors.read_line(&mut line).unwrap() > 0,
                "the collector ended before it listened"
            );
            if line.contains("listening on UDP") {
                break;
            }
        }
        child.stderr = Some(errors.into_inner());
        Self {
            child,
            address: format!("127.0.0.1:{port}"),
            directory: directory.to_owned(),
        }
    }

    fn send(&self, octets: &[u8]) {
        UdpSocket::bind("127.0.0.1:0")
            .unwrap()
            .send_to(octets, &self.address)
            .unwrap();
    }

    /// Ends it as an operator does, and returns the line with the totals.
    fn stop(mut self) -> String {
        signal(&self.child, Signal::SIGTERM);
        let mut errors = String::new();
        self.child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut errors)
            .unwrap();
        assert_eq!(self.child.wait().unwrap().code(), Some(0), "{errors}");
        errors
            .lines()
            .rfind(|line| line.contains("totals: "))
            .unwrap_or_else(|| panic!("no totals: {errors}"))
            .to_owned()
    }

    /// Asks for the totals until they say `expected`.
    fn wait_for_totals(&mut self, expected: &str) {
        let mut errors = BufReader::new(self.child.stderr.take().unwrap());
        for _ in 0..200 {
            signal(&self.child, Signal::SIGUSR1);
            let mut line = String::new();
            errors.read_line(&mut line).unwrap();
            if line.contains(expected) {
                self.child.stderr = Some(errors.into_inner());
                return;
            }
            sleep(Duration::from_millis(50));
        }
        panic!("the totals never said {expected}");
    }

    /// Ends it as a power cut does.
    fn kill(mut self) {
        signal(&self.child, Signal::SIGKILL);
        self.child.wait().unwrap();
    }

    fn wait_for_files(&self, count: usize) {
        for _ in 0..200 {
            if files_below(&self.directory).len() >= count {
                return;
            }
            sleep(Duration::from_millis(50));
        }
        panic!(
            "{count} files were expected, found {:?}",
            files_below(&self.directory)
        );
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        let _ = self.child.kill();
    }
}

fn files_below(directory: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        if entry.path().is_dir() {
            names.extend(files_below(&entry.path()));
        } else {
            names.push(entry.file_name().into_string().unwrap());
        }
    }
    names.sort();
    names
}

/// The source addresses of all records in and below `directory`, as the numbers that `v5_datagram`
/// made them from.
fn numbers_stored(directory: &Path) -> Vec<u32> {
    let output = xdprobe()
        .args(["print", "--json"])
        .arg(directory)
        .output()
        .unwrap();
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    let record = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
    let source = |line| {
        record(line)["source"]
            .as_str()
            .unwrap()
            .parse::<std::net::Ipv4Addr>()
            .unwrap()
    };
    text.lines()
        .map(|line| u32::from(source(line)) - 0x0a00_0000)
        .collect()
}

#[test]
fn collects_cats_and_prints() {
    let directory = tempfile::tempdir().unwrap();
    let pid_file = directory.path().join("pid");
    let store = directory.path().join("store");
    fs::create_dir(&store).unwrap();
    let mut collector = Collector::start(
        &store,
        &[
            "-D",
            "-N",
            "1",
            "-p",
            pid_file.to_str().unwrap(),
            "-C",
            "a comment",
        ],
    );
    let port = collector.address.rsplit(':').next().unwrap();
    let pid_file = directory.path().join(format!("pid.{port}"));
    assert_eq!(
        fs::read_to_string(&pid_file).unwrap(),
        format!("{}\n", collector.child.id())
    );

    collector.send(&v5_datagram(0, 30));
    collector.send(b"\0\x05\0\x01");
    collector.wait_for_files(1);
    collector
        .wait_for_totals("totals: received_datagrams=1 received_records=30 stored_records=30 failed_records=0 files=0");
    signal(&collector.child, Signal::SIGHUP);
    collector.wait_for_files(2);
    collector.send(&v5_datagram(40, 2));
    let totals = collector.stop();
    assert!(
        totals.contains(
            "received_records=32 stored_records=32 failed_records=0 files=2 lost_records=10"
        ),
        "{totals}"
    );
    assert!(totals.contains("refused_short=1"), "{totals}");
    assert!(!pid_file.exists());

    let files = files_below(&store);
    assert!(
        files
            .iter()
            .all(|name| name.starts_with("ft-v05.") && name.ends_with("+0000")),
        "{files:?}"
    );
    assert_eq!(
        numbers_stored(&store),
        (0..30).chain(40..42).collect::<Vec<_>>()
    );

    let joined = directory.path().join("joined");
    let cat = xdprobe()
        .arg("cat")
        .arg(&store)
        .args(["-z", "9", "-b", "big", "-o"])
        .arg(&joined)
        .output()
        .unwrap();
    assert_eq!((cat.status.code(), cat.stderr), (Some(0), vec![]));
    let printed = xdprobe()
        .args(["print", "-p", "-f6"])
        .arg(&joined)
        .output()
        .unwrap();
    let text = String::from_utf8(printed.stdout).unwrap();
    for line in [
        "# compress:             on",
        "# byte order:           big",
        "# lost flows:           10",
        "# capture flows:        32",
    ] {
        assert!(
            text.contains(&format!("{line}\n")),
            "{line} is not in {text}"
        );
    }
    let mut cat = xdprobe()
        .arg("cat")
        .arg(&store)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let from_pipe = xdprobe()
        .arg("print")
        .stdin(cat.stdout.take().unwrap())
        .output()
        .unwrap();
    assert_eq!(cat.wait().unwrap().code(), Some(0));
    assert_eq!(
        String::from_utf8(from_pipe.stdout).unwrap().lines().count(),
        33
    );
}

#[test]
fn what_a_killed_collector_synced_is_there_and_the_next_start_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let mut sent = 0;
    for round in 0..kill_rounds() {
        let level = if round % 2 == 0 { "0" } else { "6" };
        let collector = Collector::start(directory.path(), &["-N", "0", "-z", level]);
        let first = sent;
        send_bursts(&collector, &mut sent, 20);
        // What is older than the sync of each second and the writer's quarter of a second must
        // survive.
        let safe = sent;
        send_bursts(&collector, &mut sent, 150 + round * 7 % 50);
        collector.kill();

        let unfinished = xdprobe()
            .args(["print", "-f6"])
            .arg(directory.path())
            .output()
            .unwrap();
        assert_eq!(
            unfinished.status.code(),
            Some(0),
            "{}",
            String::from_utf8_lossy(&unfinished.stderr)
        );
        Collector::start(directory.path(), &["-N", "0"]).stop();
        let mut stored = numbers_stored(directory.path());
        stored.sort_unstable();
        let twice = stored.windows(2).filter(|pair| pair[0] == pair[1]).count();
        let gone = (first..safe)
            .filter(|number| stored.binary_search(number).is_err())
            .count();
        assert_eq!(
            (twice, gone),
            (0, 0),
            "records that are there twice, and synced ones that are gone, in round {round}"
        );
        assert!(
            files_below(directory.path())
                .iter()
                .all(|name| name.starts_with("ft-v05."))
        );
        // The rounds before this one have been looked at.
        for name in files_below(directory.path()) {
            fs::remove_file(directory.path().join(name)).unwrap();
        }
    }
}

/// More than the usual few on demand.
fn kill_rounds() -> u32 {
    std::env::var("XDPROBE_KILL_ROUNDS")
        .ok()
        .and_then(|rounds| rounds.parse().ok())
        .unwrap_or(2)
}

/// Sends a burst of 150 records every 10 ms.
fn send_bursts(collector: &Collector, sent: &mut u32, bursts: u32) {
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    for _ in 0..bursts {
        for _ in 0..5 {
            sender
                .send_to(&v5_datagram(*sent, 30), &collector.address)
                .unwrap();
            *sent += 30;
        }
        sleep(Duration::from_millis(10));
    }
}

#[test]
fn wrong_command_lines_of_the_collector_are_reported() {
    let wrong = |arguments: &[&str]| {
        let output = xdprobe().arg("collect").args(arguments).output().unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let (code, error) = wrong(&["-w", "/tmp", "4444"]);
    assert_eq!(code, Some(2));
    assert!(error.contains("expected LOCAL/REMOTE/PORT"), "{error}");
    assert_eq!(wrong(&["-w", "/tmp", "-n", "1440", "0/0/4444"]).0, Some(2));
    let (code, error) = wrong(&["-w", "/no/such", "127.0.0.1/0/4444"]);
    assert_eq!(
        (code, &*error),
        (
            Some(1),
            "xdprobe: /no/such is not a directory: create it, or choose another with -w\n"
        )
    );
}

#[test]
fn what_comes_before_damage_is_printed() {
    let directory = tempfile::tempdir().unwrap();
    let collector = Collector::start(directory.path(), &["-N", "0", "-z", "0"]);
    collector.send(&v5_datagram(0, 30));
    collector.wait_for_files(1);
    collector.stop();
    let file = directory
        .path()
        .join(files_below(directory.path()).remove(0));
    let octets = fs::read(&file).unwrap();
    let start = octets.len() - 30 * 64;
    let cut = directory.path().join("cut");
    fs::write(&cut, &octets[..start + 10 * 64 + 5]).unwrap();
    let output = xdprobe().args(["print", "-f6"]).arg(&cut).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8(output.stdout).unwrap().lines().count(),
        11
    );
    let error = format!(
        "xdprobe: {}: the file ends at offset {}, inside record 11 (5 of 64 octets), after 10 whole records\n",
        cut.display(),
        start + 10 * 64 + 5
    );
    assert_eq!(String::from_utf8(output.stderr).unwrap(), error);
}

/// Writes a flow file of `count` records.
fn write_flows(path: &Path, count: u32) {
    let mut writer = FlowFileWriter::create(path, &WriterOptions::plain_v5(0)).unwrap();
    for number in 0..count {
        let record = StoredRecord {
            source: number.into(),
            packets: 1,
            ..StoredRecord::default()
        };
        writer.push(&record).unwrap();
    }
    writer.finish(1).unwrap();
}

#[test]
fn a_link_back_to_the_folder_counts_no_record_twice() {
    let directory = tempfile::tempdir().unwrap();
    let flows = directory.path().join("flows");
    fs::create_dir(&flows).unwrap();
    write_flows(&flows.join("ft-a"), 2);
    write_flows(&directory.path().join("elsewhere"), 1);
    std::os::unix::fs::symlink(&flows, flows.join("back")).unwrap();
    std::os::unix::fs::symlink("ft-a", flows.join("latest")).unwrap();
    std::os::unix::fs::symlink("../elsewhere", flows.join("out")).unwrap();
    let name = flows.to_str().unwrap();
    let print = run(&["print", "--json", name, name]);
    assert_eq!(
        print.stdout.iter().filter(|octet| **octet == b'\n').count(),
        2
    );
    let cat = run(&["cat", name]);
    assert_eq!(cat.stdout.len(), 24 + 2 * 64);
    for stderr in [print.stderr, cat.stderr] {
        let text = String::from_utf8(stderr).unwrap();
        assert!(
            text.contains("1 symbolic links in directories left out"),
            "{text}"
        );
    }
}

#[test]
fn print_says_how_many_files_are_still_being_written_and_reads_them_with_a() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().to_str().unwrap();
    // At the default compression level, as an operator starts it.
    let mut collector = Collector::start(directory.path(), &[]);
    collector.send(&v5_datagram(0, 30));
    collector
        .wait_for_totals("totals: received_datagrams=1 received_records=30 stored_records=30 failed_records=0 files=0");
    let lines = |output: &Output| String::from_utf8_lossy(&output.stdout).lines().count();
    let stderr = |output: &Output| String::from_utf8(output.stderr.clone()).unwrap();

    let print = run(&["print", store]);
    assert_eq!((print.status.code(), lines(&print)), (Some(0), 0));
    assert_eq!(
        stderr(&print),
        "xdprobe: 1 file is still being written and left out; -a reads them too\n"
    );
    let cat = run(&["cat", store]);
    assert_eq!(cat.status.code(), Some(1));
    assert!(
        stderr(&cat).contains("1 file is still being written"),
        "{}",
        stderr(&cat)
    );

    // Records are on the disk within 1.25 s.
    let mut printed = 0;
    for _ in 0..100 {
        let print = run(&["print", "-a", store]);
        assert_eq!(print.status.code(), Some(0), "{}", stderr(&print));
        printed = lines(&print);
        if printed == 31 {
            break;
        }
        sleep(Duration::from_millis(100));
    }
    assert_eq!(printed, 31);
    collector.stop();

    let empty = tempfile::tempdir().unwrap();
    let print = run(&["print", empty.path().to_str().unwrap()]);
    assert_eq!(
        stderr(&print),
        "xdprobe: the directories hold no file to print\n"
    );
}

#[test]
fn print_takes_the_options_of_flow_print() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ft-a");
    write_flows(&path, 1);
    let file = path.to_str().unwrap();
    for options in [
        &["-n"][..],
        &["-d", "1"],
        &["-n", "-w", "-p", "-l", "-d", "0"],
    ] {
        let print = run(&[&["print"], options, &[file]].concat());
        assert_eq!(print.status.code(), Some(0), "{print:?}");
    }
}

#[test]
fn cat_selects_files_by_times_relative_to_now() {
    let directory = tempfile::tempdir().unwrap();
    // A capture that began and ended in 1970.
    let path = directory.path().join("ft-a");
    write_flows(&path, 1);
    let file = path.to_str().unwrap();
    let until = run(&["cat", "-t", "1 hour ago", file]);
    assert_eq!(until.status.code(), Some(0), "{until:?}");
    let since = run(&["cat", "-T", "-1 hour", file]);
    assert_eq!(since.status.code(), Some(1), "{since:?}");
    let bad = run(&["cat", "-t", "soon", file]);
    assert_eq!(bad.status.code(), Some(2));
    assert!(
        String::from_utf8(bad.stderr)
            .unwrap()
            .contains("yesterday, 1 hour ago")
    );
}

#[test]
fn json_has_right_times_for_stamps_after_the_uptime_and_in_the_wrong_order() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ft-a");
    let mut writer = FlowFileWriter::create(&path, &WriterOptions::plain_v5(0)).unwrap();
    for (first_ms, last_ms) in [(99_000, 100_005), (100_000, 99_942)] {
        let record = StoredRecord {
            unix_s: 1_700_000_000,
            sys_uptime_ms: 100_000,
            first_ms,
            last_ms,
            packets: 1,
            ..StoredRecord::default()
        };
        writer.push(&record).unwrap();
    }
    writer.finish(1).unwrap();
    let print = run(&["print", "--json", path.to_str().unwrap()]);
    let text = String::from_utf8(print.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(
        lines[0].starts_with(
            "{\"start\":\"2023-11-14T22:13:19.000Z\",\"end\":\"2023-11-14T22:13:20.005Z\",\
             \"duration_ms\":1005,"
        ),
        "{text}"
    );
    assert!(
        lines[1].starts_with(
            "{\"start\":\"2023-11-14T22:13:20.000Z\",\"end\":\"2023-11-14T22:13:19.942Z\",\
             \"duration_ms\":0,"
        ),
        "{text}"
    );
}

#[test]
fn version_1_first_takes_nothing_from_version_5() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().to_str().unwrap();
    let collector = Collector::start(directory.path(), &["-N", "0"]);
    collector.send(&v1_datagram());
    collector.send(&v5_datagram(0, 30));
    collector.send(&v1_datagram());
    let totals = collector.stop();
    assert!(
        totals.contains("received_records=32 stored_records=32 failed_records=0 files=2"),
        "{totals}"
    );
    let print = run(&["print", "--json", store]);
    let text = String::from_utf8(print.stdout).unwrap();
    assert_eq!(text.matches("\"source_as\"").count(), 30, "{text}");
    let cat = run(&["cat", store]);
    assert_eq!(cat.status.code(), Some(1));
    let advice = String::from_utf8(cat.stderr).unwrap();
    assert!(advice.contains("with -V 1 or -V 5"), "{advice}");
    let cat = run(&["cat", "-V", "5", store]);
    assert_eq!(
        (cat.status.code(), cat.stdout.len()),
        (Some(0), 24 + 30 * 64)
    );
}
