//! `xdprobe reload` and SIGHUP: what changes in a running probe, and what does not.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod harness;

use harness::scrape::Page;
use harness::{Probe, TOOLS, assert_balanced, count, pause, wire, xdprobe};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use std::process::Output;
use tempfile::TempDir;
use xdprobe_lab::namespace::{Namespace, VethOptions};
use xdprobe_lab::requirements::are_met;
use xdprobe_lab::send::{Options, Sender};

/// A configuration file and the probe that it is of.
struct Configured {
    folder: TempDir,
    probe: Option<Probe>,
}

const BASE: &str = "\
interface = [\"tap0\"]
collectors = [\"127.0.0.1:9\"]
metrics = \"0\"
flows-per-queue = 100000
";

impl Configured {
    fn start(wire: &Namespace, keys: &str) -> Self {
        let mut this = Self {
            folder: TempDir::new().unwrap(),
            probe: None,
        };
        this.write(keys);
        let (file, socket) = (this.path("xdprobe.toml"), this.path("control.sock"));
        let line = [
            "-c",
            file.to_str().unwrap(),
            "--control",
            socket.to_str().unwrap(),
        ];
        this.probe = Some(Probe::start_alone(wire, &line));
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes the keys below those that do not change.
    fn write(&self, keys: &str) {
        fs::write(self.path("xdprobe.toml"), format!("{BASE}{keys}")).unwrap();
    }

    fn ask(&self, arguments: &[&str]) -> Output {
        let mut command = xdprobe(arguments);
        command.arg("--control").arg(self.path("control.sock"));
        command.output().unwrap()
    }

    /// What a command printed, which succeeded.
    fn said(&self, arguments: &[&str]) -> String {
        let output = self.ask(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn value(&self, key: &str) -> Value {
        let shown = self.said(&["show", "config", "--json"]);
        let shown: Value = serde_json::from_str(&shown).unwrap();
        let settings = shown["settings"].as_array().unwrap().iter();
        let mut setting = settings.filter(|setting| setting["key"] == key);
        setting.next().unwrap()["value"].clone()
    }

    fn probe(&self) -> &Probe {
        self.probe.as_ref().unwrap()
    }

    fn stop(mut self) -> Value {
        self.probe.take().unwrap().stop()
    }
}

#[test]
fn a_reload_prints_what_differs_and_applies_it_and_a_dry_run_only_prints() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(VethOptions::default());
    let probe = Configured::start(&wire, "idle-timeout = \"15s\"\n");
    assert_eq!(probe.said(&["reload"]), "the configuration is as it was\n");
    probe.write("idle-timeout = \"5s\"\nfilter = \"udp\"\nlog-level = \"warn\"\n");
    let changes = probe.said(&["reload", "--dry-run"]);
    let lines: Vec<_> = changes.lines().collect();
    assert_eq!(lines.len(), 3, "{changes}");
    assert!(
        changes.contains("idle-timeout: \"15s\" -> \"5s\""),
        "{changes}"
    );
    assert_eq!(probe.value("idle-timeout"), "15s");
    assert_eq!(probe.said(&["reload"]), changes);
    assert_eq!(
        (probe.value("idle-timeout"), probe.value("filter")),
        ("5s".into(), "udp".into())
    );
    let table = probe.said(&["show", "config"]);
    let row = table
        .lines()
        .find(|line| line.starts_with("filter"))
        .unwrap();
    assert!(row.contains("xdprobe.toml:6"), "{row}");
    let page = Page::of(&wire, probe.probe());
    let reloads = |result| page.sum_of("xdprobe_reloads_total", &[result]);
    assert_eq!(
        (reloads("result=\"applied\""), reloads("result=\"failed\"")),
        (2, 0)
    );
    assert_balanced(&probe.stop());
}

#[test]
fn a_reload_that_is_wrong_in_one_place_changes_nothing_and_says_where() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(VethOptions::default());
    let probe = Configured::start(&wire, "idle-timeout = \"15s\"\n");
    for (keys, expected) in [
        (
            "ring = 1024\nidle-timeout = \"5s\"\n",
            "ring changes only with a restart",
        ),
        (
            "idle-timeout = \"5m\"\n",
            "idle timeout of 300 s is above the active timeout",
        ),
        ("idle-timout = \"5s\"\n", "idle-timeout"),
        (
            "filter = \"udprot\"\nidle-timeout = \"5s\"\n",
            "filter 'udprot'",
        ),
        ("idle-timeout = true\n", "xdprobe.toml:5:"),
        (
            "rules = \"/nonexistent/rules.toml\"\nidle-timeout = \"5s\"\n",
            "/nonexistent/rules.toml",
        ),
    ] {
        probe.write(keys);
        let output = probe.ask(&["reload"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{keys}: {output:?}");
        assert!(said.contains(expected), "{keys}: {said}");
        assert_eq!(probe.value("idle-timeout"), "15s", "{keys}");
    }
    let file = probe.path("xdprobe.toml");
    fs::remove_file(&file).unwrap();
    mkfifo(&file, Mode::S_IRWXU).unwrap();
    let output = probe.ask(&["reload"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("it is a FIFO, expected a regular file"),
        "{said}"
    );
    fs::remove_file(&file).unwrap();
    // SIGHUP does the same, and the probe goes on.
    probe.probe().signal("HUP");
    let page = Page::await_on(&wire, probe.probe(), |page| {
        page.sum_of("xdprobe_reloads_total", &["result=\"failed\""]) == 8
    });
    assert_eq!(
        page.sum_of("xdprobe_reloads_total", &["result=\"applied\""]),
        0
    );
    assert_balanced(&probe.stop());
}

/// Open file descriptors, and resident memory in kB.
fn size(probe: &Probe) -> (usize, u64) {
    let folder = PathBuf::from(format!("/proc/{}", probe.id()));
    let status = fs::read_to_string(folder.join("status")).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let resident = resident.unwrap().trim().trim_end_matches(" kB").parse();
    (
        fs::read_dir(folder.join("fd")).unwrap().count(),
        resident.unwrap(),
    )
}

#[test]
fn many_reloads_under_traffic_lose_no_packet_and_leave_nothing_behind() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(VethOptions::default());
    let configurations = [
        "ring = 16384\nidle-timeout = \"15s\"\ncollectors = [\"127.0.0.1:9\"]\n",
        "ring = 16384\nidle-timeout = \"5s\"\nfilter = \"ip\"\nrecords-per-second = 100000\n\
         collectors = [\"127.0.0.1:9\", \"127.0.0.2:9\"]\n",
    ];
    let keys = |number: usize| configurations[number % 2];
    let base = BASE.replace("collectors = [\"127.0.0.1:9\"]\n", "");
    let mut probe = Configured {
        folder: TempDir::new().unwrap(),
        probe: None,
    };
    let write = |probe: &Configured, number: usize| {
        fs::write(probe.path("xdprobe.toml"), base.clone() + keys(number)).unwrap();
    };
    write(&probe, 0);
    let (file, socket) = (probe.path("xdprobe.toml"), probe.path("control.sock"));
    let line = [
        "-c",
        file.to_str().unwrap(),
        "--control",
        socket.to_str().unwrap(),
    ];
    probe.probe = Some(Probe::start_alone(&wire, &line));
    let load = Options {
        packets: 20_000_000,
        flows: 1_000,
        rate: Some(50_000),
        ..Options::on("tx0")
    };
    let sender = wire.run(|| Sender::start(&load).unwrap()).unwrap();
    let mut before = (0, 0);
    for number in 1..=60 {
        write(&probe, number);
        probe.said(&["reload"]);
        if number == 20 {
            before = size(probe.probe());
        }
    }
    let after = size(probe.probe());
    sender.stop();
    let sent = sender.wait().unwrap();
    // A connection may not have been closed yet.
    assert!(
        after.0 <= before.0 + 2,
        "{before:?} {after:?} file descriptors"
    );
    assert!(after.1 < before.1 + 20_000, "{before:?} {after:?} kB");
    pause(500);
    let ledger = probe.stop();
    assert_balanced(&ledger);
    assert_eq!(
        count(&ledger, "observed.packets"),
        sent.packets,
        "{ledger:#}"
    );
}
