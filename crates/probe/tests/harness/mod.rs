//! The probe as a test runs it: the very binary, in a namespace of the test's own, its ledger as
//! JSON, and beside whatever collectors the test names one that holds every datagram against the
//! rules of the format, and the sum against the ledger.
#![allow(dead_code, reason = "each test file uses a part of the harness")]

pub mod prometheus;
pub mod scrape;

use serde_json::Value;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use xdprobe_lab::namespace::{Namespace, VethOptions};
use xdprobe_lab::send::{Options, Report, Sender};
use xdprobe_lab::test_collector::{Collected, Keep, TestCollector};

/// The programs that tests on interfaces need.
pub const TOOLS: [&str; 2] = ["ip", "ethtool"];

/// The probe's command line, outside any namespace.
pub fn xdprobe(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xdprobe"));
    command.args(arguments);
    command
}

/// Runs the probe over a file, with a collector behind it that checks what comes, and returns its
/// ledger and what else it said.
pub fn run_over(file: &Path, arguments: &[&str]) -> (Value, Output) {
    let (ledger, output, received) = run_and_collect(file, arguments);
    assert_received(&received, &ledger);
    (ledger, output)
}

/// The same, with what the collector got instead of its verdict.
pub fn run_and_collect(file: &Path, arguments: &[&str]) -> (Value, Output, Collected) {
    let collector = TestCollector::start(Keep::Counts).unwrap();
    let mut command = xdprobe(&["run", "--report", "json", "-r"]);
    command
        .arg(file)
        .args(arguments)
        .arg(collector.address().to_string());
    let output = command.stdin(Stdio::null()).output().unwrap();
    (ledger_of(&output.stdout), output, collector.stop().unwrap())
}

/// Asserts that no rule was broken, and that what came is what the ledger, where there is one, says
/// was exported.
pub fn assert_received(received: &Collected, ledger: &Value) {
    received.assert_sound();
    if !ledger.is_null() {
        let expected =
            ["records", "packets", "octets"].map(|name| count(ledger, &format!("exported.{name}")));
        assert_eq!(
            [received.records, received.packets, received.octets],
            expected,
            "{ledger:#}"
        );
    }
}

/// The ledger in what the probe printed.
pub fn ledger_of(stdout: &[u8]) -> Value {
    serde_json::from_slice(stdout).unwrap_or(Value::Null)
}

/// A count in a ledger, by its path: `count(&ledger, "exported.packets")`.
pub fn count(ledger: &Value, path: &str) -> u64 {
    let pointer = format!("/{}", path.replace('.', "/"));
    ledger
        .pointer(&pointer)
        .and_then(Value::as_u64)
        .unwrap_or_else(|| panic!("no {path} in {ledger}"))
}

/// Asserts that all identities hold.
pub fn assert_balanced(ledger: &Value) {
    assert_eq!(ledger["balanced"], Value::Bool(true), "{ledger:#}");
}

/// A wire: traffic sent into `tx0` is received on `tap0`, which the probe taps.
pub fn wire(options: VethOptions) -> Namespace {
    let namespace = Namespace::new().unwrap();
    namespace.veth("tx0", "tap0", options).unwrap();
    namespace
}

/// Sends into the wire and returns what was sent.
pub fn send(namespace: &Namespace, options: &Options) -> Report {
    namespace
        .run(|| Sender::start(options).unwrap().wait().unwrap())
        .unwrap()
}

/// Some traffic, at a rate that loses nothing anywhere.
pub fn traffic(packets: u64) -> Options {
    Options {
        packets,
        rate: Some(100_000),
        ..Options::on("tx0")
    }
}

/// A probe at work, and the collector behind it that checks what comes.
pub struct Probe {
    child: Child,
    folder: TempDir,
    /// None once what it received was checked.
    collector: Option<TestCollector>,
}

impl Probe {
    /// Starts a probe in a namespace, and returns once it receives.
    pub fn start(namespace: &Namespace, arguments: &[&str]) -> Self {
        let collector = namespace
            .run(|| TestCollector::start(Keep::Counts).unwrap())
            .unwrap();
        let address = collector.address().to_string();
        let mut probe = Self::start_alone(namespace, &[arguments, &[&address]].concat());
        probe.collector = Some(collector);
        probe
    }

    /// Starts a probe with no other collectors than those in its arguments: the test checks what
    /// they get.
    pub fn start_alone(namespace: &Namespace, arguments: &[&str]) -> Self {
        let folder = TempDir::new().unwrap();
        let file = |name: &str| File::create(folder.path().join(name)).unwrap();
        let mut command = namespace.command(env!("CARGO_BIN_EXE_xdprobe"));
        command.args(["run", "--report", "json"]).args(arguments);
        command
            .stdin(Stdio::null())
            .stdout(file("stdout"))
            .stderr(file("stderr"));
        let mut probe = Self {
            child: command.spawn().unwrap(),
            folder,
            collector: None,
        };
        while !probe.said().contains("capturing on") {
            let ended = probe.child.try_wait().unwrap();
            assert!(
                ended.is_none(),
                "the probe ended ({ended:?}): {}",
                probe.said()
            );
            pause(10);
        }
        probe
    }

    /// What it has said on standard error so far.
    pub fn said(&self) -> String {
        fs::read_to_string(self.folder.path().join("stderr")).unwrap()
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Where it serves metrics.
    pub fn metrics(&self) -> SocketAddr {
        let said = self.said();
        let address = said
            .split_once("metrics on http://")
            .and_then(|(_, rest)| rest.split_once('/'));
        address
            .unwrap_or_else(|| panic!("no metrics: {said}"))
            .0
            .parse()
            .unwrap()
    }

    /// Sends it a signal, by the name that kill knows.
    pub fn signal(&self, signal: &str) {
        let id = self.child.id().to_string();
        let killed = Command::new("kill")
            .args(["-s", signal, &id])
            .status()
            .unwrap();
        assert!(killed.success(), "kill -s {signal}");
    }

    /// Ends it as an operator does, once what was sent has come through, and returns its ledger.
    pub fn stop(self) -> Value {
        pause(200);
        self.signal("INT");
        self.wait(0)
    }

    /// Waits for its end and returns its ledger.
    pub fn wait(self, wanted_code: i32) -> Value {
        self.wait_and_hear(wanted_code).0
    }

    /// Waits for its end and returns its ledger, and what it said on standard error.
    pub fn wait_and_hear(mut self, wanted_code: i32) -> (Value, String) {
        let status = self.child.wait().unwrap();
        assert_eq!(status.code(), Some(wanted_code), "{}", self.said());
        let ledger = ledger_of(&fs::read(self.folder.path().join("stdout")).unwrap());
        self.assert_received(&ledger);
        (ledger, self.said())
    }

    /// Waits for its end, and returns its ledger with what it said on standard error.
    pub fn said_at_the_end(mut self, wanted_code: i32) -> Said {
        let status = self.child.wait().unwrap();
        let all = self.said();
        assert_eq!(status.code(), Some(wanted_code), "{all}");
        let ledger = ledger_of(&fs::read(self.folder.path().join("stdout")).unwrap());
        self.assert_received(&ledger);
        Said {
            ledger,
            last_line: all.lines().last().unwrap_or_default().to_owned(),
            all,
        }
    }

    /// Ends it as a crash does.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.assert_received(&Value::Null);
    }

    fn assert_received(&mut self, ledger: &Value) {
        if let Some(collector) = self.collector.take() {
            assert_received(&collector.stop().unwrap(), ledger);
        }
    }

    /// Whether it is still running.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

/// What a probe said at its end.
pub struct Said {
    /// Its ledger.
    pub ledger: Value,
    /// The last line on standard error, and all of them.
    pub last_line: String,
    pub all: String,
}

impl Drop for Probe {
    fn drop(&mut self) {
        // Both fail once it has ended, which is as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Lets time pass in which something else happens.
pub fn pause(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

/// The folder that an environment variable names, if it does; loud where it does not.
pub fn folder_named_by(variable: &str) -> Option<PathBuf> {
    let folder = std::env::var_os(variable).map(PathBuf::from);
    if folder.is_none() {
        xdprobe_lab::requirements::skip(&format!("{variable} names no folder"));
    }
    folder
}
