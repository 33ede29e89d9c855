//! `xdprobe top` on a real terminal, over a probe at work.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod harness;

use harness::{Probe, TOOLS, pause, wire};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use tempfile::TempDir;
use xdprobe_lab::namespace::{Namespace, VethOptions};
use xdprobe_lab::requirements::are_met;
use xdprobe_lab::send::{Options, Sender};
use xdprobe_lab::terminal::{self, Left, Terminal};

/// A collector that refuses: every record to it is lost.
const NOWHERE: &str = "127.0.0.1:9";

/// A probe under traffic, which expires flows all the time.
struct Watched {
    wire: Namespace,
    folder: TempDir,
    probe: Probe,
    sender: Sender,
}

impl Watched {
    /// None if this machine has not what is needed.
    fn start(collectors: &[&str]) -> Option<Self> {
        if !are_met(&[&TOOLS[..], &terminal::TOOLS].concat()) {
            return None;
        }
        let wire = wire(VethOptions {
            queues: 2,
            mtu: 1500,
        });
        let folder = TempDir::new().unwrap();
        let socket = folder.path().join("control.sock");
        let line = ["-i", "tap0", "--control", socket.to_str().unwrap()];
        let timeouts = ["--active-timeout", "2s", "--idle-timeout", "1s"];
        let probe = Probe::start(&wire, &[&line[..], &timeouts, collectors].concat());
        let load = Options {
            packets: 100_000_000,
            flows: 500,
            rate: Some(2_000),
            ..Options::on("tx0")
        };
        let sender = wire.run(|| Sender::start(&load).unwrap()).unwrap();
        Some(Self {
            wire,
            folder,
            probe,
            sender,
        })
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("control.sock")
    }

    /// Watches it in a terminal. `environment` comes before the program, `arguments` behind it.
    fn watch(&self, size: (u16, u16), environment: &str, arguments: &str) -> Terminal {
        let program = format!(
            "{environment} {} top --interval 200ms --control {} {arguments}",
            env!("CARGO_BIN_EXE_xdprobe"),
            self.socket().display()
        );
        Terminal::start(|tmux| self.wire.command(tmux), size, &program).unwrap()
    }

    fn once(&self, arguments: &[&str], columns: Option<&str>) -> Output {
        let mut command = self.wire.command(env!("CARGO_BIN_EXE_xdprobe"));
        command.args(["top", "--once", "--control"]);
        command.arg(self.socket()).args(arguments);
        command.env_remove("COLUMNS");
        if let Some(columns) = columns {
            command.env("COLUMNS", columns);
        }
        command.stdin(Stdio::null()).output().unwrap()
    }

    /// Ends sender and probe.
    fn stop(self) {
        self.sender.stop();
        self.sender.wait().unwrap();
        self.probe.stop();
    }
}

/// Whether the rates over 2 s of packets and bits are above zero.
fn has_rates(screen: &str) -> bool {
    ["Packets", "Bits"].iter().all(|name| {
        let line = screen
            .lines()
            .find_map(|line| line.trim().strip_prefix(name));
        let rate = line.and_then(|rates| rates.split_whitespace().next());
        rate.is_some_and(|rate| !["0", "-"].contains(&rate))
    })
}

fn last_line(screen: &str) -> &str {
    screen.lines().last().unwrap_or_default()
}

fn assert_quit(left: &Left) {
    assert_eq!((left.code, left.is_restored), (0, true), "{}", left.screen);
}

#[test]
fn every_page_is_seen_at_three_sizes_and_q_leaves_the_terminal_as_it_was() {
    let Some(watched) = Watched::start(&[]) else {
        return;
    };
    for size in [(80, 24), (120, 40), (60, 15)] {
        let terminal = watched.watch(size, "", "");
        let screen = terminal.wait_for(has_rates).unwrap();
        let lines: Vec<_> = screen.lines().collect();
        assert_eq!(lines.len(), usize::from(size.1), "{screen}");
        assert!(
            lines[0].starts_with("xdprobe top  1/5 overview  up "),
            "{screen}"
        );
        for expected in ["Caches: ", "Collector ", "Heaviest by octets over source"] {
            assert!(screen.contains(expected), "{screen}");
        }
        for key in ["q quit", "1-5 page", "s sort", "f filter", "space freeze"] {
            assert!(last_line(&screen).contains(key), "{screen}");
        }
        for (key, title, expected) in [
            ("2", "2/5 losses", "ring_full"),
            ("3", "3/5 queues", "tap0/1"),
            ("4", "4/5 collectors", "127.0.0.1:"),
            ("5", "5/5 heaviest", "  all "),
            ("Tab", "1/5 overview", "Packets"),
        ] {
            terminal.press(key).unwrap();
            let is_there = |screen: &str| screen.contains(title) && screen.contains(expected);
            let screen = terminal.wait_for(is_there).unwrap();
            assert!(last_line(&screen).contains("q quit"), "{screen}");
        }
        terminal.press("q").unwrap();
        assert_quit(&terminal.wait().unwrap());
    }
    watched.stop();
}

#[test]
fn keys_sort_add_up_filter_and_freeze_and_the_screen_takes_any_size() {
    let Some(watched) = Watched::start(&[]) else {
        return;
    };
    let terminal = watched.watch((80, 24), "", "");
    terminal.wait_for(has_rates).unwrap();
    let shows = |expected: &'static str| {
        let screen = terminal.wait_for(|screen| screen.contains(expected));
        screen.unwrap()
    };
    terminal.press("s").unwrap();
    shows("Heaviest by packets over source");
    terminal.press("o").unwrap();
    shows("Heaviest by packets over destination");
    // A filter with a mistake is not applied; mended it is.
    terminal.type_text("fport=http").unwrap();
    terminal.press("Enter").unwrap();
    shows("! invalid value 'http' for 'port <N>'");
    (0..9).for_each(|_| terminal.press("BSpace").unwrap());
    terminal.type_text("protocol=tcp").unwrap();
    terminal.press("Enter").unwrap();
    shows("over destination; only protocol=6");
    terminal
        .wait_for(|screen| screen.contains("  all 0 "))
        .unwrap();
    terminal.type_text("f").unwrap();
    shows("filter: protocol=6");
    (0..10).for_each(|_| terminal.press("BSpace").unwrap());
    terminal.press("Enter").unwrap();
    terminal
        .wait_for(|screen| !screen.contains("only") && !screen.contains("  all 0 "))
        .unwrap();
    // An interface that does not exist is known to the probe alone.
    terminal.type_text("finterface=ngeth77").unwrap();
    terminal.press("Enter").unwrap();
    shows("! interface 'ngeth77' does not exist");
    terminal.type_text("f").unwrap();
    (0..17).for_each(|_| terminal.press("BSpace").unwrap());
    terminal.press("Enter").unwrap();
    shows("  all ");
    terminal.press("Space").unwrap();
    let frozen = shows("FROZEN");
    pause(1_000);
    assert_eq!(terminal.screen().unwrap(), frozen);
    terminal.press("Space").unwrap();
    terminal
        .wait_for(|screen| !screen.contains("FROZEN") && has_rates(screen))
        .unwrap();
    for size in [(20, 3), (200, 60), (1, 1), (80, 24)] {
        terminal.resize(size).unwrap();
        pause(300);
    }
    terminal.wait_for(has_rates).unwrap();
    terminal.press("C-c").unwrap();
    assert_quit(&terminal.wait().unwrap());
    watched.stop();
}

#[test]
fn a_signal_leaves_the_terminal_as_it_was() {
    let Some(watched) = Watched::start(&[]) else {
        return;
    };
    for signal in [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGHUP,
    ] {
        let terminal = watched.watch((80, 24), "", "");
        terminal.wait_for(has_rates).unwrap();
        kill(Pid::from_raw(terminal.id().unwrap()), signal).unwrap();
        let left = terminal.wait().unwrap();
        assert_eq!(
            (left.code, left.is_restored),
            (128 + signal as i32, true),
            "{signal}: {}",
            left.screen
        );
    }
    watched.stop();
}

#[test]
fn it_ends_with_its_terminal() {
    let Some(watched) = Watched::start(&[]) else {
        return;
    };
    let terminal = watched.watch((80, 24), "", "");
    terminal.wait_for(has_rates).unwrap();
    assert_eq!(terminal.hang_up().unwrap(), 128 + Signal::SIGHUP as i32);
    watched.stop();
}

#[test]
fn a_probe_that_ends_or_stops_answering_is_said() {
    let Some(watched) = Watched::start(&[]) else {
        return;
    };
    let terminal = watched.watch((80, 24), "", "");
    terminal.wait_for(has_rates).unwrap();
    watched.probe.signal("STOP");
    terminal
        .wait_for(|screen| screen.contains("NO ANSWER"))
        .unwrap();
    // Keys work all the same.
    terminal.press("3").unwrap();
    terminal
        .wait_for(|screen| screen.contains("3/5 queues"))
        .unwrap();
    watched.probe.signal("CONT");
    terminal
        .wait_for(|screen| !screen.contains("NO ANSWER"))
        .unwrap();
    let socket = watched.socket();
    let Watched { probe, sender, .. } = watched;
    sender.stop();
    sender.wait().unwrap();
    probe.stop();
    let left = terminal.wait().unwrap();
    assert_eq!((left.code, left.is_restored), (1, true), "{}", left.screen);
    let said = left.screen.replace('\n', "");
    let expected = format!("{}: the probe has ended", socket.display());
    assert!(said.contains(&expected), "{}", left.screen);
}

#[test]
fn losses_are_red_with_a_sign_and_without_colour_the_sign_stays() {
    let Some(watched) = Watched::start(&[NOWHERE]) else {
        return;
    };
    for (environment, has_red) in [("", true), ("NO_COLOR=1", false)] {
        let terminal = watched.watch((80, 24), environment, "--page collectors");
        let is_lost = |screen: &str| {
            let mut lines = screen.lines();
            lines.any(|line| line.starts_with("! 127.0.0.1:9 "))
        };
        terminal.wait_for(is_lost).unwrap();
        let styled = terminal.screen_with_styles().unwrap();
        assert_eq!(styled.contains("\x1b[38;5;1m"), has_red, "{styled:?}");
        terminal.press("q").unwrap();
        assert_quit(&terminal.wait().unwrap());
    }
    watched.stop();
}

#[test]
fn once_prints_a_page_as_text_as_wide_as_the_environment_says() {
    let Some(watched) = Watched::start(&[]) else {
        return;
    };
    for (columns, width) in [
        (None, 80),
        (Some("120"), 120),
        (Some("40"), 40),
        (Some("x"), 80),
    ] {
        let output = watched.once(&["--interval", "500ms"], columns);
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{said}"
        );
        assert!(has_rates(&said) && said.contains("  all "), "{said}");
        assert!(!said.contains('\x1b') && !said.contains("q quit"), "{said}");
        assert!(
            said.lines().all(|line| line.chars().count() <= width),
            "{said}"
        );
    }
    let output = watched.once(&["--page", "queues"], None);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("tap0/0") && said.contains("tap0/1"), "{said}");
    let output = watched.once(&["--interface", "ngeth77"], None);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        said.contains("! interface 'ngeth77' does not exist"),
        "{said}"
    );
    watched.stop();
}

#[test]
fn without_a_terminal_or_a_probe_the_screen_is_not_begun() {
    for (arguments, code, expected) in [
        (
            &["top"][..],
            2,
            "top needs a terminal as standard input and output: --once",
        ),
        (
            &["top", "--once", "--control", "/nonexistent/x.sock"],
            1,
            "no probe is running there",
        ),
        (
            &["top", "--interval", "1ms"],
            2,
            "'1ms' is not a time from 100ms to 1min",
        ),
    ] {
        let output = harness::xdprobe(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(
            said.contains(expected) && output.stdout.is_empty(),
            "{said}"
        );
    }
}
