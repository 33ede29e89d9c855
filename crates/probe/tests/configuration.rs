//! The program with a configuration file, and its logs.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod harness;

use harness::{count, ledger_of, xdprobe};
use serde_json::Value;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use xdprobe_lab::frames::{ByteOrder, Ethernet, PcapWriter, StampResolution, udp};

/// A folder with a capture file of three packets, one of a port that the others do not have.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(TempDir::new().unwrap());
        let mut file =
            PcapWriter::new(Vec::new(), ByteOrder::Little, StampResolution::Micro).unwrap();
        for port in [53, 53, 9] {
            let from = SocketAddr::from(([192, 0, 2, 1], 1000));
            let to = SocketAddr::from(([192, 0, 2, 2], port));
            let ethernet = Ethernet::new([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
            let frame = ethernet.carry(&udp(from, to, &[]));
            file.frame(Duration::from_secs(1_700_000_000), &frame)
                .unwrap();
        }
        fs::write(folder.path("capture.pcap"), file.finish().unwrap()).unwrap();
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs xdprobe in the folder, with a configuration file of this text.
    fn run(&self, text: &str, arguments: &[&str]) -> Output {
        fs::write(self.path("probe.toml"), text).unwrap();
        let mut command = xdprobe(arguments);
        command.current_dir(self.0.path()).stdin(Stdio::null());
        command.env_remove("RUST_BACKTRACE").output().unwrap()
    }
}

fn text(octets: &[u8]) -> &str {
    std::str::from_utf8(octets).unwrap()
}

const FILE: &str = "read = \"capture.pcap\"\nreport = \"json\"\nfilter = \"port 53\"\n\
                    collectors = [\"file:flows.ft\"]\noverwrite = true\n";

#[test]
fn a_run_needs_nothing_but_its_file_and_the_command_line_wins() {
    let folder = Folder::new();
    let output = folder.run(FILE, &["run", "-c", "probe.toml"]);
    let said = text(&output.stderr);
    assert!(output.status.success(), "{said}");
    let ledger = ledger_of(&output.stdout);
    assert_eq!(count(&ledger, "exported.packets"), 2, "{ledger:#}");
    let output = folder.run(FILE, &["run", "-c", "probe.toml", "-f", "port 9"]);
    let ledger = ledger_of(&output.stdout);
    assert_eq!(count(&ledger, "exported.packets"), 1, "{ledger:#}");
    // A flag of the file is switched off: the file of the runs before stays.
    let output = folder.run(FILE, &["run", "-c", "probe.toml", "--overwrite=false"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("--overwrite"));
}

#[test]
fn a_file_is_checked_in_full_before_anything_starts() {
    let folder = Folder::new();
    let output = folder.run(FILE, &["config", "check", "probe.toml"]);
    assert_eq!(
        (output.status.code(), text(&output.stdout)),
        (Some(0), "probe.toml: 5 keys, all valid\n")
    );
    let wrong = "idle-timout = 1\nactive-timeout = \"soon\"\n";
    let expected = "xdprobe: probe.toml:1:1: unknown key 'idle-timout': expected a long option of \
                    xdprobe run; the nearest is 'idle-timeout'\nxdprobe: probe.toml:2:18: invalid \
                    value 'soon' for '--active-timeout <TIME>': 'soon' is not a time from 1ms to \
                    24h: expected a number and a unit, as in 15s, 500ms or 2min\n";
    let contradiction =
        "\nidle-timeout = \"2m\"\nsource = [\"::1\", \"::2\"]\nfilter = \"udprot\"\n";
    for arguments in [
        ["config", "check", "probe.toml"],
        ["run", "-c", "probe.toml"],
    ] {
        let output = folder.run(wrong, &arguments);
        assert_eq!(
            (output.status.code(), text(&output.stderr)),
            (Some(2), expected)
        );
        assert!(output.stdout.is_empty());
    }
    let output = folder.run(contradiction, &["config", "check", "probe.toml"]);
    let said = text(&output.stderr);
    for (line, place) in said.lines().zip(["2:1: ", "3:1: ", "4:1: "]) {
        assert!(
            line.starts_with(&format!("xdprobe: probe.toml:{place}")),
            "{said}"
        );
    }
    assert_eq!(
        (output.status.code(), said.lines().count()),
        (Some(2), 3),
        "{said}"
    );
}

#[test]
fn what_is_in_force_is_shown_with_its_origin() {
    let folder = Folder::new();
    let show = ["config", "show", "-c", "probe.toml", "--linger", "2s"];
    let shown = folder.run(FILE, &show);
    let shown = text(&shown.stdout);
    let row = |key: &str| {
        let mut rows = shown
            .lines()
            .map(|row| row.split_whitespace().collect::<Vec<_>>());
        rows.find(|row| row[0] == key).unwrap().join(" ")
    };
    assert_eq!(row("read"), "read \"capture.pcap\" probe.toml:1");
    assert_eq!(row("linger"), "linger \"2s\" command line");
    assert_eq!(row("idle-timeout"), "idle-timeout \"15s\" default");
    let json = folder.run(FILE, &[&show[..], &["--json"]].concat());
    let json: Vec<Value> = text(&json.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(json.len() + 1, shown.lines().count());
    // As TOML it is the file of a run that does the same.
    let toml = folder.run(FILE, &[&show[..], &["--toml"]].concat());
    let toml = text(&toml.stdout).to_owned();
    let output = folder.run(&toml, &["run", "-c", "probe.toml"]);
    let ledger = ledger_of(&output.stdout);
    assert_eq!(count(&ledger, "exported.packets"), 2, "{ledger:#}");
}

#[test]
fn logs_are_json_from_the_first_line_to_the_last() {
    let folder = Folder::new();
    // The filter lets nothing through, which is a warning; the second run is refused.
    let log = "log-format = \"json\"\n";
    let silent = format!("{log}{}", FILE.replace("port 53", "port 54"));
    let no_file = format!("{log}{}", FILE.replace("capture", "other"));
    for (file, level, code) in [(silent, "WARN", 0), (no_file, "ERROR", 1)] {
        let output = folder.run(&file, &["run", "-c", "probe.toml"]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{said}");
        let events: Vec<Value> = said
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let last = events.last().unwrap();
        assert_eq!(last["level"], level, "{said}");
        assert!(last["message"].is_string(), "{said}");
        let time = last["timestamp"].as_str().unwrap();
        assert!(time.parse::<jiff::Timestamp>().is_ok(), "{time}");
    }
    // Before the file is known, the command line sets the format, also before the command.
    for arguments in [
        ["run", "--log-format", "json", "-c", "probe.toml"],
        ["--log-format", "json", "run", "-c", "probe.toml"],
    ] {
        let output = folder.run("rng = 1\nring = 1\n", &arguments);
        let said = text(&output.stderr);
        let is_json = |line: &str| serde_json::from_str::<Value>(line).is_ok();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(
            said.lines().count() == 2 && said.lines().all(is_json),
            "{said}"
        );
    }
}

#[test]
fn what_print_reports_is_an_event_of_its_level_where_logs_are_json() {
    let folder = Folder::new();
    fs::create_dir(folder.path("empty")).unwrap();
    for (input, level, code) in [("empty", "WARN", 0), ("none", "ERROR", 1)] {
        let output = folder.run("", &["--log-format", "json", "print", input]);
        assert_eq!(output.status.code(), Some(code));
        let event: Value = serde_json::from_slice(&output.stderr).unwrap();
        assert_eq!(event["level"], level, "{event}");
    }
}

#[test]
fn lines_have_no_time_where_standard_error_is_the_journal() {
    let folder = Folder::new();
    let journal = File::create(folder.path("journal")).unwrap();
    let metadata = journal.metadata().unwrap();
    let stream = format!("{}:{}", metadata.dev(), metadata.ino());
    for (stream, has_time) in [(stream.as_str(), false), ("1:1", true)] {
        for format in ["text", "json"] {
            let mut command = xdprobe(&["run", "-r", "capture.pcap", "-f", "port 54"]);
            command.args(["--log-format", format, "127.0.0.1:9"]);
            command.current_dir(folder.0.path()).stdin(Stdio::null());
            command.env("JOURNAL_STREAM", stream);
            journal.set_len(0).unwrap();
            let stderr = File::options().append(true).open(folder.path("journal"));
            command.stderr(stderr.unwrap()).stdout(Stdio::null());
            assert!(command.status().unwrap().success());
            let said = fs::read_to_string(folder.path("journal")).unwrap();
            // JSON names the time; in text it comes first.
            let time = if format == "json" {
                said.contains("\"timestamp\"")
            } else {
                said.starts_with("20")
            };
            assert_eq!(time, has_time, "{said}");
            assert!(said.contains("WARN"), "{said}");
        }
    }
}

#[test]
fn the_level_decides_what_is_logged() {
    let folder = Folder::new();
    let lines = |arguments: &[&str]| {
        let run = ["run", "-r", "capture.pcap", "-f", "port 54", "127.0.0.1:9"];
        let output = folder.run("log-level = \"error\"\n", &[&run, arguments].concat());
        assert!(output.status.success());
        text(&output.stderr).lines().count()
    };
    assert_eq!(lines(&["--log-level", "warn"]), 1);
    assert_eq!(lines(&["-q"]), 1);
    assert_eq!(lines(&["--log-level", "error"]), 0);
    assert_eq!(lines(&["-c", "probe.toml"]), 0);
    assert_eq!(lines(&["-c", "probe.toml", "-q"]), 1);
    assert!(lines(&["-v"]) > lines(&["-q"]));
    let before = folder.run(
        "log-level = \"error\"\n",
        &[
            "-q",
            "run",
            "-c",
            "probe.toml",
            "-r",
            "capture.pcap",
            "-f",
            "port 54",
            "127.0.0.1:9",
        ],
    );
    assert_eq!(text(&before.stderr).lines().count(), 1);
}

#[test]
fn an_event_is_one_line_whatever_names_it_has() {
    let folder = Folder::new();
    let name = "two\nlines\u{1b}[31m.csv";
    fs::write(folder.path(name), "prefix,as,nexthop\n10.0.0.0/8,1,\n").unwrap();
    for format in ["text", "json"] {
        let prefixes = ["--prefixes", name, "--log-format", format];
        let to_file = ["file:flows.ft", "--overwrite"];
        let run = ["run", "-r", "capture.pcap"];
        let output = folder.run("", &[&run[..], &prefixes, &to_file].concat());
        let said = text(&output.stderr);
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(!said.contains('\u{1b}') && said.contains("lines"), "{said}");
    }
    let output = folder.run("", &["run", "-c", name]);
    let said = text(&output.stderr);
    assert!(
        said.contains("two\\nlines") && said.contains(":1:7: "),
        "{said}"
    );
    assert!(!said.contains('\u{1b}'), "{said}");
    let missing = folder.run("", &["run", "-r", "a\nb", "127.0.0.1:9"]);
    assert_eq!(text(&missing.stderr).lines().count(), 1);
}
