//! `xdprobe run -i` with AF_XDP while something behind its back keeps it from seeing frames: its
//! program is detached, its sockets are taken away, the interface is moved, channels are added.
//! Each is reported, each frame is in a count, and what can be mended is mended.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod harness;

use harness::scrape::{Page, get};
use harness::{Probe, TOOLS, assert_balanced, count, pause, send, traffic, wire};
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use xdprobe_lab::intrude::{attach_another, detach, replace, take_socket};
use xdprobe_lab::namespace::{Namespace, VethOptions};
use xdprobe_lab::requirements::are_met;
use xdprobe_lab::send::{Options, Report, Sender};

const LINE: [&str; 8] = [
    "-i",
    "tap0",
    "--flows-per-queue",
    "10000",
    "--ring",
    "32768",
    "--metrics",
    "127.0.0.1:0",
];
/// Longer than the interval of the watch: it has looked since, while nothing came.
const QUIET_MS: u64 = 2_500;

/// The id of the XDP program on an interface.
fn program_on(namespace: &Namespace, interface: &str) -> u32 {
    let link = namespace
        .ip(&["-details", "link", "show", "dev", interface])
        .unwrap();
    let id = link
        .split_once("prog/xdp id ")
        .and_then(|(_, rest)| rest.split(' ').next());
    id.unwrap_or_else(|| panic!("no program on {interface}: {link}"))
        .trim()
        .parse()
        .unwrap()
}

/// Waits until the probe says that it is not ready, for this reason.
fn await_reason(wire: &Namespace, probe: &Probe, reason: &str) {
    for _ in 0..600 {
        let (status, body) = get(wire, probe.metrics(), "/readyz");
        if status == 503 && body.contains(reason) {
            return;
        }
        pause(100);
    }
    panic!("no such reason: {reason}; {}", probe.said());
}

fn await_ready(wire: &Namespace, probe: &Probe) {
    for _ in 0..600 {
        if get(wire, probe.metrics(), "/readyz").0 == 200 {
            return;
        }
        pause(100);
    }
    panic!("not ready: {}", get(wire, probe.metrics(), "/readyz").1);
}

/// Traffic that lasts while something else happens.
fn keep_sending(wire: &Namespace, options: &Options) -> Sender {
    wire.run(|| Sender::start(options).unwrap()).unwrap()
}

/// Whatever came is received, or in the count that says why it was not.
fn assert_accounted(ledger: &Value, sent: &Report, reasons: &[&str]) -> u64 {
    assert_balanced(ledger);
    let lost: u64 = reasons
        .iter()
        .map(|reason| count(ledger, &format!("dropped.{reason}")))
        .sum();
    let offered = count(ledger, "offered.packets");
    assert_eq!(
        count(ledger, "received.packets") + lost,
        offered,
        "{ledger:#}"
    );
    // The link and the program are not read at the same moment, while frames come: the count of
    // unread frames is a lower bound.
    assert!(
        offered <= sent.packets && offered >= sent.packets - sent.packets / 20,
        "of {} sent: {ledger:#}",
        sent.packets
    );
    lost
}

#[test]
fn a_program_that_is_detached_under_traffic_is_attached_again_and_what_passed_is_counted() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(VethOptions::default());
    let probe = Probe::start(&wire, &LINE);
    let sender = keep_sending(
        &wire,
        &Options {
            rate: Some(20_000),
            ..traffic(80_000)
        },
    );
    pause(500);
    detach(program_on(&wire, "tap0")).unwrap();
    await_reason(
        &wire,
        &probe,
        "tap0: another process detached the XDP program; it is attached",
    );
    let sent = sender.wait().unwrap();
    await_ready(&wire, &probe);
    let page = Page::of(&wire, &probe);
    let reason = ["interface=\"tap0\"", "reason=\"program\""];
    assert_eq!(page.sum_of("xdprobe_interface_blind", &reason), 0);
    assert_eq!(
        page.sum_of("xdprobe_interface_blind_begun_total", &reason),
        1
    );
    // Lines come once a second, by a thread of their own.
    let all_clear = "tap0: as it was again (program)";
    for _ in 0..600 {
        if probe.said().contains(all_clear) {
            break;
        }
        pause(100);
    }
    let said = probe.said();
    for line in ["WARN tap0: another process detached", all_clear] {
        assert_eq!(said.matches(line).count(), 1, "{line}: {said}");
    }
    let ledger = probe.stop();
    assert!(assert_accounted(&ledger, &sent, &["no_program"]) > 0);
}

#[test]
fn the_watch_goes_on_while_no_log_line_can_be_written() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(VethOptions::default());
    let (reader, writer) = std::io::pipe().unwrap();
    let mut filler = writer.try_clone().unwrap();
    let mut probe = wire
        .command(env!("CARGO_BIN_EXE_xdprobe"))
        .arg("run")
        .args(&LINE[..6])
        .arg("127.0.0.1:9")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(writer)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(reader).lines();
    assert!(lines.any(|line| line.unwrap().contains("capturing on")));
    // From here on nothing reads: the pipe is filled until nothing more fits.
    let fill = std::thread::Builder::new().spawn(move || filler.write_all(&[b' '; 1 << 20]));
    pause(200);
    for _ in 0..3 {
        detach(program_on(&wire, "tap0")).unwrap();
        let is_attached = || {
            wire.ip(&["-details", "link", "show", "dev", "tap0"])
                .unwrap()
        };
        for _ in 0..600 {
            if is_attached().contains("prog/xdp id") {
                break;
            }
            pause(100);
        }
        program_on(&wire, "tap0");
    }
    probe.kill().unwrap();
    probe.wait().unwrap();
    drop(lines);
    assert!(
        fill.unwrap().join().unwrap().is_err(),
        "the pipe was never full"
    );
}

#[test]
fn a_program_that_is_replaced_in_its_link_is_attached_again() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(VethOptions::default());
    let probe = Probe::start(&wire, &LINE);
    replace(program_on(&wire, "tap0")).unwrap();
    await_reason(
        &wire,
        &probe,
        "tap0: another process replaced the XDP program; it is attached",
    );
    let sent = send(&wire, &traffic(1_000));
    await_ready(&wire, &probe);
    let ledger = probe.stop();
    assert_balanced(&ledger);
    assert_eq!(count(&ledger, "received.packets"), sent.packets);
}

#[test]
fn while_another_program_has_its_place_every_frame_that_passes_is_counted() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(VethOptions::default());
    let probe = Probe::start(&wire, &LINE);
    send(&wire, &traffic(1_000));
    pause(QUIET_MS);
    let own = program_on(&wire, "tap0");
    let another = wire.run(|| {
        detach(own).unwrap();
        // Where the watch was faster, it is detached once more.
        attach_another("tap0").or_else(|_| {
            detach(own).unwrap();
            attach_another("tap0")
        })
    });
    let another = another.unwrap().unwrap();
    await_reason(&wire, &probe, "it cannot be attached again (");
    let page = Page::await_on(&wire, &probe, |page| {
        page.sum("xdprobe_receiver_running") == 0
    });
    assert_eq!(
        page.sum_of("xdprobe_interface_blind", &["reason=\"program\""]),
        1
    );
    send(&wire, &traffic(1_000));
    pause(QUIET_MS);
    drop(another);
    Page::await_on(&wire, &probe, |page| {
        page.sum("xdprobe_receiver_running") == 1
    });
    send(&wire, &traffic(1_000));
    await_ready(&wire, &probe);
    let ledger = probe.stop();
    assert_balanced(&ledger);
    assert_eq!(count(&ledger, "offered.packets"), 3_000);
    assert_eq!(count(&ledger, "dropped.no_program"), 1_000);
    assert_eq!(count(&ledger, "received.packets"), 2_000);
}

#[test]
fn a_socket_that_is_taken_out_of_the_map_is_put_back_and_what_passed_is_counted() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(VethOptions::default());
    let probe = Probe::start(&wire, &LINE);
    let sender = keep_sending(
        &wire,
        &Options {
            rate: Some(20_000),
            ..traffic(60_000)
        },
    );
    pause(500);
    take_socket(program_on(&wire, "tap0"), 0).unwrap();
    await_reason(
        &wire,
        &probe,
        "tap0: another process took sockets out of the XDP program's map",
    );
    let sent = sender.wait().unwrap();
    await_ready(&wire, &probe);
    let ledger = probe.stop();
    assert!(assert_accounted(&ledger, &sent, &["no_socket"]) > 0);
    assert_eq!(count(&ledger, "offered.packets"), sent.packets);
}

#[test]
fn an_interface_that_is_moved_away_under_traffic_ends_the_probe_with_every_frame_in_a_count() {
    if !are_met(&TOOLS) {
        return;
    }
    // A look may come before the first frame after the move.
    let unbound = (0..4)
        .map(|_| unbound_after_a_move())
        .find(|&unbound| unbound > 0);
    assert!(unbound.is_some(), "no frame was unbound");
}

/// Moves an interface away under traffic. Returns how many frames were unbound, once all are in a
/// count.
fn unbound_after_a_move() -> u64 {
    let (wire, elsewhere) = (wire(VethOptions::default()), Namespace::new().unwrap());
    let probe = Probe::start(&wire, &LINE);
    let sender = keep_sending(
        &wire,
        &Options {
            rate: Some(20_000),
            packets: 1_000_000,
            ..traffic(0)
        },
    );
    pause(1_500);
    wire.hand_over("tap0", &elsewhere).unwrap();
    // Without an end of the traffic.
    let (ledger, said) = probe.wait_and_hear(1);
    let reason = "WARN tap0: it was removed, or moved to another network namespace";
    assert!(said.contains(reason), "{said}");
    sender.stop();
    sender.wait().unwrap();
    assert_balanced(&ledger);
    let (offered, unbound) = (
        count(&ledger, "offered.packets"),
        count(&ledger, "dropped.unbound"),
    );
    assert_eq!(
        count(&ledger, "received.packets") + unbound,
        offered,
        "{ledger:#}"
    );
    unbound
}

#[test]
fn an_interface_that_libpcap_captures_ends_the_probe_when_it_is_removed_or_moved_away() {
    if !are_met(&TOOLS) {
        return;
    }
    for is_removed in [true, false] {
        let (wire, elsewhere) = (wire(VethOptions::default()), Namespace::new().unwrap());
        let probe = Probe::start(&wire, &["-i", "tap0", "--capture", "pcap"]);
        let sent = send(&wire, &traffic(1_000));
        pause(500);
        if is_removed {
            wire.ip(&["link", "delete", "tap0"]).unwrap();
        } else {
            wire.hand_over("tap0", &elsewhere).unwrap();
        }
        let (ledger, said) = probe.wait_and_hear(1);
        assert!(said.contains("interface 'tap0' disappeared"), "{said}");
        assert_balanced(&ledger);
        assert_eq!(count(&ledger, "exported.packets"), sent.packets);
    }
}

/// A wire whose end has so many channels in use, and room for four.
fn wire_of(channels: &str) -> Namespace {
    let wire = wire(VethOptions {
        queues: 4,
        ..VethOptions::default()
    });
    // veth takes no program while the other end has more channels to send.
    wire.output("ethtool", &["-L", "tx0", "tx", "1"]).unwrap();
    set_channels(&wire, channels);
    wire
}

fn set_channels(wire: &Namespace, channels: &str) {
    wire.output("ethtool", &["-L", "tap0", "rx", channels])
        .unwrap();
}

/// Traffic of the sender's core, which is the channel that veth gives it to.
fn on_channel(cpu: usize, packets: u64) -> Options {
    Options {
        cpu: Some(cpu),
        ..traffic(packets)
    }
}

#[test]
fn channels_that_are_added_are_read_by_the_workers_that_there_are() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire_of("1");
    let probe = Probe::start(&wire, &[&LINE[..], &["-f", "udp"]].concat());
    let sender = keep_sending(
        &wire,
        &Options {
            rate: Some(20_000),
            ..on_channel(1, 60_000)
        },
    );
    pause(1_000);
    // From here on core 1 sends to channel 1, where veth does not run the program.
    set_channels(&wire, "2");
    await_reason(
        &wire,
        &probe,
        "tap0: it has 2 channels, at the start 1; those that are new",
    );
    let during = sender.wait().unwrap();
    await_ready(&wire, &probe);
    let after = [0, 1].map(|cpu| send(&wire, &on_channel(cpu, 5_000)).packets);
    let page = Page::of(&wire, &probe);
    page.sum_of("xdprobe_zero_copy", &["queue=\"1\""]);
    let ledger = probe.stop();
    let mut sent = during;
    sent.packets += after.iter().sum::<u64>();
    let unread = assert_accounted(&ledger, &sent, &["no_program", "no_socket"]);
    assert!(unread > 0 && unread < 45_000, "{ledger:#}");
    assert_eq!(
        count(&ledger, "exported.packets"),
        count(&ledger, "received.packets")
    );
}

#[test]
fn channels_that_are_added_beside_chosen_queues_are_a_reason_not_to_be_ready() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire_of("2");
    let probe = Probe::start(&wire, &[&LINE[..], &["--queues", "0"]].concat());
    pause(QUIET_MS);
    assert_eq!(get(&wire, probe.metrics(), "/readyz").0, 200);
    set_channels(&wire, "3");
    await_reason(
        &wire,
        &probe,
        "tap0: it has 3 channels, at the start 2, and not all",
    );
    pause(QUIET_MS);
    let page = Page::of(&wire, &probe);
    assert_eq!(
        page.sum_of("xdprobe_interface_blind", &["reason=\"channels\""]),
        1
    );
    set_channels(&wire, "2");
    await_ready(&wire, &probe);
    let sent = send(&wire, &on_channel(1, 1_000));
    let ledger = probe.stop();
    assert_balanced(&ledger);
    assert_eq!(count(&ledger, "dropped.no_socket"), sent.packets);
}

#[test]
fn what_another_interface_drops_that_took_the_old_name_is_not_counted() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(VethOptions::default());
    let probe = Probe::start(&wire, &LINE);
    for step in [
        &["tap0", "down"][..],
        &["tap0", "name", "tap1"],
        &["tap1", "up"],
    ] {
        wire.ip(&[&["link", "set", "dev"], step].concat()).unwrap();
    }
    wire.veth("tx1", "tap0", VethOptions::default()).unwrap();
    // The other interface drops what the ring of a hanging probe refuses.
    let small = [
        "-i",
        "tap0",
        "--flows-per-queue",
        "1000",
        "--ring",
        "64",
        "127.0.0.1:9",
    ];
    let hanging = Probe::start_alone(&wire, &small);
    hanging.signal("STOP");
    let others = Options {
        packets: 1_000,
        ..Options::on("tx1")
    };
    send(&wire, &others);
    pause(QUIET_MS);
    let sent = send(&wire, &traffic(1_000));
    pause(QUIET_MS);
    let page = Page::of(&wire, &probe);
    assert_eq!(page.sum("xdprobe_driver_drops_total"), 0, "{}", page.text());
    let ledger = probe.stop();
    assert_balanced(&ledger);
    assert_eq!(count(&ledger, "offered.packets"), sent.packets);
    assert_eq!(count(&ledger, "received.packets"), sent.packets);
    let others = wire.output("ethtool", &["-S", "tap0"]).unwrap();
    assert!(!others.contains("rx_queue_0_drops: 0"), "{others}");
    hanging.signal("CONT");
}
