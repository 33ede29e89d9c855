//! The end of a run: what is read, how long it takes, and what is said of what is given up.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod harness;

use harness::scrape::Page;
use harness::{
    Probe, TOOLS, assert_balanced, count, ledger_of, pause, send, traffic, wire, xdprobe,
};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use xdprobe_lab::frames::{ByteOrder, Ethernet, PcapWriter, StampResolution, udp};
use xdprobe_lab::namespace::VethOptions;
use xdprobe_lab::requirements::are_met;
use xdprobe_lab::send::Options;

/// A filter that takes long for each packet that it does not match.
fn slow_filter() -> String {
    let hosts: Vec<_> = (1..=250)
        .map(|nth| format!("host 203.0.113.{nth}"))
        .collect();
    format!("not ({})", hosts.join(" or "))
}

#[test]
fn a_ring_is_read_to_its_end_however_little_of_a_core_there_is_for_that() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(VethOptions::default());
    let filter = slow_filter();
    let options = [
        "-i",
        "tap0",
        "--ring",
        "65536",
        "--flows-per-queue",
        "1000",
        "-f",
        &filter,
    ];
    let mut probe = Probe::start(&wire, &options);
    // What arrives while it is stopped is in its ring when it ends.
    probe.signal("STOP");
    let flood = Options {
        rate: None,
        ..traffic(60_000)
    };
    let sent = send(&wire, &flood).packets;
    probe.signal("INT");
    let mut turns = 0;
    while probe.is_running() {
        probe.signal("CONT");
        pause(5);
        turns += 1;
        if turns < 40 {
            probe.signal("STOP");
            pause(250);
        }
    }
    let ledger = probe.wait(0);
    assert_balanced(&ledger);
    assert_eq!(count(&ledger, "offered.packets"), sent);
    let refused = count(&ledger, "dropped.ring_full") + count(&ledger, "dropped.driver");
    assert_eq!(count(&ledger, "received.packets") + refused, sent);
    assert_eq!(count(&ledger, "dropped.stop"), 0);
}

#[test]
fn what_a_ring_still_holds_when_the_time_is_over_is_a_named_loss() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(VethOptions::default());
    let filter = slow_filter();
    let options = [
        "-i",
        "tap0",
        "--ring",
        "65536",
        "--flows-per-queue",
        "1000",
        "-f",
        &filter,
    ];
    let probe = Probe::start(&wire, &[&options[..], &["--stop-timeout", "1ms"]].concat());
    probe.signal("STOP");
    let sent = send(
        &wire,
        &Options {
            rate: None,
            ..traffic(60_000)
        },
    )
    .packets;
    probe.signal("INT");
    probe.signal("CONT");
    let said = probe.said_at_the_end(1);
    let ledger = said.ledger;
    assert_balanced(&ledger);
    assert_eq!(count(&ledger, "offered.packets"), sent);
    let stop = count(&ledger, "dropped.stop");
    assert!(stop > 0, "{ledger:#}");
    assert!(
        said.last_line.contains(&format!("({stop} stop")),
        "{}",
        said.last_line
    );
}

/// Flows that a pace of ten records a second lets out one datagram in three seconds.
const PACED: [&str; 8] = [
    "-i",
    "tap0",
    "--flows-per-queue",
    "10000",
    "--records-per-second",
    "10",
    "--metrics",
    "0",
];

#[test]
fn a_paced_end_says_how_long_it_takes_and_what_waits_after_the_time_is_a_named_loss() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(VethOptions::default());
    let probe = Probe::start(&wire, &[&PACED[..], &["--stop-timeout", "2s"]].concat());
    send(
        &wire,
        &Options {
            flows: 1_000,
            ..traffic(1_000)
        },
    );
    Page::await_on(&wire, &probe, |page| {
        page.sum("xdprobe_cache_flows") == 1_000
    });
    probe.signal("TERM");
    let said = probe.said_at_the_end(1);
    let line = "ending: 1000 records take about 100 s at the collectors' pace; what is not \
                exported in 2 s is lost";
    assert!(said.all.contains(line), "{}", said.all);
    assert_balanced(&said.ledger);
    let stop = count(&said.ledger, "lost.reasons.stop");
    assert_eq!(stop + count(&said.ledger, "exported.records"), 1_000);
    let expected = format!("before everything was exported: lost {stop} records ({stop} stop)");
    assert!(said.last_line.contains(&expected), "{}", said.last_line);
}

#[test]
fn a_second_signal_ends_a_paced_end_with_its_ledger() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(VethOptions::default());
    let probe = Probe::start(&wire, &PACED);
    send(
        &wire,
        &Options {
            flows: 1_000,
            ..traffic(1_000)
        },
    );
    Page::await_on(&wire, &probe, |page| {
        page.sum("xdprobe_cache_flows") == 1_000
    });
    probe.signal("TERM");
    while !probe.said().contains("records to export") {
        pause(20);
    }
    let (status, reasons) = harness::scrape::get(&wire, probe.metrics(), "/readyz");
    assert_eq!(status, 503, "{reasons}");
    probe.signal("TERM");
    let said = probe.said_at_the_end(128 + 15);
    assert_balanced(&said.ledger);
    let stop = count(&said.ledger, "lost.reasons.stop");
    assert_eq!(stop + count(&said.ledger, "exported.records"), 1_000);
    assert!(
        said.last_line.contains("second signal: lost"),
        "{}",
        said.last_line
    );
}

/// A capture of so many packets, each a flow of its own.
fn capture(packets: u32) -> Vec<u8> {
    let mut file = PcapWriter::new(Vec::new(), ByteOrder::Little, StampResolution::Micro).unwrap();
    let ethernet = Ethernet::new([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    for number in 0..packets {
        let from = SocketAddr::from((Ipv4Addr::from_bits(0x0a00_0000 + number), 7));
        let packet = udp(from, SocketAddr::from(([192, 0, 2, 1], 9)), &[0; 20]);
        file.frame(Duration::from_secs(1_700_000_000), &ethernet.carry(&packet))
            .unwrap();
    }
    file.finish().unwrap()
}

/// Sends a signal to a run over a capture file once it has said something, waits for its end, and
/// returns its exit code, its ledger and its last line.
fn stop(mut child: Child, signal: Signal) -> (Option<i32>, serde_json::Value, String) {
    kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
    let status = child.wait().unwrap();
    let (mut stdout, mut stderr) = (Vec::new(), String::new());
    child.stdout.unwrap().read_to_end(&mut stdout).unwrap();
    child.stderr.unwrap().read_to_string(&mut stderr).unwrap();
    let last_line = stderr.lines().last().unwrap_or_default().to_owned();
    (status.code(), ledger_of(&stdout), last_line)
}

#[test]
fn a_pipe_that_is_left_says_that_it_was_read_in_part() {
    let mut command = xdprobe(&["run", "--report", "json", "-r", "-", "127.0.0.1:9"]);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    pipe.write_all(&capture(1_000)).unwrap();
    pause(500);
    let (code, ledger, last_line) = stop(child, Signal::SIGINT);
    assert_eq!(code, Some(1), "{last_line}");
    assert_balanced(&ledger);
    assert!(
        last_line.contains("- was read in part, up to octet "),
        "{last_line}"
    );
}

#[test]
fn a_file_that_is_left_says_that_it_was_read_in_part_and_what_was_lost() {
    let folder = TempDir::new().unwrap();
    let (path, octets) = (folder.path().join("flows.pcap"), capture(400_000));
    fs::write(&path, &octets).unwrap();
    let mut command = xdprobe(&["run", "--report", "json", "--stop-timeout", "1s"]);
    command.args(["--records-per-second", "10", "--paced-records", "1000"]);
    command
        .args(["--flows-per-queue", "1000", "127.0.0.1:9", "-r"])
        .arg(&path);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    pause(1_000);
    let (code, ledger, last_line) = stop(child, Signal::SIGTERM);
    assert_eq!(code, Some(1), "{last_line}");
    assert_balanced(&ledger);
    assert!(count(&ledger, "lost.reasons.stop") > 0, "{ledger:#}");
    let total = format!(" of {}, since the run was stopped: lost ", octets.len());
    assert!(last_line.contains(&total), "{last_line}");
}

#[test]
fn a_file_that_was_read_to_its_end_is_not_said_to_be_read_in_part() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("flows.pcap");
    fs::write(&path, capture(1_000)).unwrap();
    let mut command = xdprobe(&["run", "--report", "json", "--stop-timeout", "1s"]);
    command
        .args(["--records-per-second", "10", "127.0.0.1:9", "-r"])
        .arg(&path);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    pause(1_000);
    let (code, ledger, last_line) = stop(child, Signal::SIGTERM);
    assert_eq!((code, count(&ledger, "received.packets")), (Some(1), 1_000));
    assert_balanced(&ledger);
    assert!(
        last_line.contains("stopped before everything was exported"),
        "{last_line}"
    );
}

#[test]
fn a_second_signal_ends_a_start_that_hangs() {
    let folder = TempDir::new().unwrap();
    let fifo = folder.path().join("fifo");
    mkfifo(&fifo, Mode::S_IRWXU).unwrap();
    let mut command = xdprobe(&["run", "127.0.0.1:9", "-r"]);
    command
        .arg(&fifo)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    // It waits for a writer.
    pause(500);
    let id = Pid::from_raw(child.id().try_into().unwrap());
    kill(id, Signal::SIGINT).unwrap();
    pause(200);
    let (code, _, last_line) = stop(child, Signal::SIGINT);
    assert_eq!(code, Some(130), "{last_line}");
    assert!(
        last_line.ends_with("ended at once by a second signal: it had not begun to receive"),
        "{last_line}"
    );
}
