//! The program against flow-tools' own files and outputs, and against files that these tests make.
//!
//! The samples are files that the real flow-capture wrote (`NAME.ft`) and what the real flow-print and flow-export printed for
//! them (`NAME.f3.txt`, `NAME.default.txt`, `NAME.csv`). They are not part of the project: `XDPROBE_FLOWTOOLS` names
//! their folder.
#![expect(clippy::unwrap_used, reason = "a test that finds something else than it needs shall panic")]

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use xdprobe_export::v5;

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
        let place = if std::env::var_os("CI").is_some() { "IN CI: " } else { "" };
        eprintln!(
            "SKIPPED, {place}nothing was compared with the real flow-tools: XDPROBE_FLOWTOOLS names no folder of samples"
        );
    }
    folder
}

fn sample_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|extension| extension == "ft")).collect();
    assert!(!files.is_empty(), "no .ft file in {}", folder.display());
    files
}

/// Everything that the real tools printed for `file`, with the options that make `xdprobe print` print the same.
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
        for (options, wanted) in printed_by_the_real_tools(&file) {
            for stdin in [false, true] {
                let mut command = xdprobe();
                command.arg("print").args(&options);
                if stdin {
                    command.stdin(File::open(&file).unwrap());
                } else {
                    command.arg(&file);
                }
                let output = command.output().unwrap();
                let wanted_text = fs::read(&wanted).unwrap();
                assert!(output.stdout == wanted_text, "{options:?} differs from {}", wanted.display());
                // flow-print printed nothing where the version has not the format's fields.
                assert_eq!(
                    output.status.code(),
                    Some(if wanted_text.is_empty() { 1 } else { 0 }),
                    "{options:?} {file:?}"
                );
                compared += 1;
            }
        }
    }
    eprintln!("{compared} outputs are those of the real tools");
}

#[test]
fn formats_that_do_not_exist_are_a_wrong_command_line() {
    let output = run(&["print", "-f", "8", "/dev/null"]);
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(error, "xdprobe: no such format, 8: wanted 0 to 7 for records of versions 1, 5 and 7\n");
}

#[test]
fn what_is_no_flow_file_is_named_on_one_line() {
    let output = run(&["print", "/dev/null", "/etc/passwd"]);
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    let lines: Vec<&str> = error.lines().collect();
    assert_eq!(lines.len(), 2, "{error}");
    assert_eq!(lines[0], "xdprobe: /dev/null: not a flow-tools file: it starts with nothing, wanted cf 10");
    assert!(lines[1].starts_with("xdprobe: /etc/passwd: not a flow-tools file: it starts with "), "{error}");
}

#[test]
fn print_ends_quietly_when_nobody_reads() {
    let Some(folder) = samples() else { return };
    let files = vec![sample_files(&folder).remove(0); 2000];
    let mut child =
        xdprobe().arg("print").arg("-f3").args(files).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap()), (Some(0), String::new()));
}

#[test]
fn print_shows_records_as_they_arrive() {
    let mut child = xdprobe()
        .args(["print", "--listen", "127.0.0.1:0"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut errors = BufReader::new(child.stderr.take().unwrap()).lines();
    let told = errors.next().unwrap().unwrap();
    let address = told.strip_prefix("xdprobe: listening on UDP ").unwrap().to_owned();
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    sender.send_to(b"no datagram", &address).unwrap();
    sender.send_to(&v5_datagram(0, 1), &address).unwrap();

    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().starts_with("srcIP "));
    assert!(
        lines.next().unwrap().unwrap().starts_with("10.0.0.0         192.0.2.1        17    1024     53       64   ")
    );
    signal(&child, Signal::SIGINT);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let errors: Vec<String> = errors.map(Result::unwrap).collect();
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert!(errors[0].starts_with("xdprobe: from 127.0.0.1: datagram of 11 octets is shorter"), "{errors:?}");
    assert_eq!(errors[1], "xdprobe: 1 records printed, 1 datagrams refused");
}

/// A version 5 datagram whose sequence is `sequence`, of `count` flows whose source addresses count on from the sequence.
fn v5_datagram(sequence: u32, count: u32) -> Vec<u8> {
    let header = v5::Header { flow_sequence: sequence.into(), unix_s: 1_000_000_000.into(), ..v5::Header::default() };
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
