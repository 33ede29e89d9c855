//! `xdprobe run -i` with AF_XDP on a veth pair: native mode with copying, in a namespace of each
//! test's own.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod harness;

use harness::{Probe, TOOLS, assert_balanced, count, pause, send, traffic, wire};
use nix::net::if_::if_nametoindex;
use std::net::SocketAddr;
use xdprobe_lab::namespace::VethOptions;
use xdprobe_lab::requirements::{are_met, skip};
use xdprobe_lab::send::{Options, Pattern, Report, Sender, Sizes};
use xdprobe_lab::test_collector::{Keep, TestCollector};
use xdprobe_pipeline::capture::interface::{Deferral, Napis};

const TWO_QUEUES: VethOptions = VethOptions {
    queues: 2,
    mtu: 1500,
};
const NOWHERE: &str = "127.0.0.1:9";
/// Small, but for the ring: it holds what a test sends at once, so that nothing is lost where the
/// worker's core is taken away.
const SMALL: [&str; 4] = ["--flows-per-queue", "10000", "--ring", "32768"];

fn line<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    [&["-i", "tap0"], &SMALL[..], arguments].concat()
}

/// Everything that was sent is in the ledger, and nothing was lost on the way.
fn assert_all_exported(ledger: &serde_json::Value, sent: &[Report]) {
    assert_balanced(ledger);
    let packets: u64 = sent.iter().map(|sent| sent.packets).sum();
    let ipv4_packets: u64 = sent.iter().map(|sent| sent.ipv4_packets).sum();
    let octets: u64 = sent.iter().map(|sent| sent.octets).sum();
    assert_eq!(count(ledger, "offered.packets"), packets);
    assert_eq!(count(ledger, "received.packets"), packets, "{ledger:#}");
    assert_eq!(
        (
            count(ledger, "exported.packets"),
            count(ledger, "exported.octets")
        ),
        (ipv4_packets, octets)
    );
}

#[test]
fn two_queues_are_metered_and_the_collector_gets_every_packet() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(TWO_QUEUES);
    let collector = wire
        .run(|| TestCollector::bind(SocketAddr::from(([127, 0, 0, 1], 0)), Keep::Records).unwrap())
        .unwrap();
    let probe = Probe::start(
        &wire,
        &line(&["--engine", "1:7", &collector.address().to_string()]),
    );
    assert!(
        probe.said().contains("tap0/0: copy (native)")
            && probe.said().contains("tap0/1: copy (native)")
    );
    let on = |cpu, flows| {
        send(
            &wire,
            &Options {
                cpu: Some(cpu),
                flows,
                ..traffic(30_000)
            },
        )
    };
    let sent = [on(0, 1), on(1, 1_000), on(0, 9_000)];
    let ledger = probe.stop();
    assert_all_exported(&ledger, &sent);
    let received = collector.stop().unwrap();
    assert_eq!(received.packets, 90_000);
    assert_eq!(received.octets, count(&ledger, "exported.octets"));
    received.assert_sound();
    let index: u16 = wire
        .output("cat", &["/sys/class/net/tap0/ifindex"])
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    assert!(
        received
            .list
            .iter()
            .all(|record| record.input.get() == index)
    );
}

#[test]
fn every_pattern_of_traffic_is_accounted() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(VethOptions::default());
    let probe = Probe::start(&wire, &line(&[]));
    let sent = [
        Options {
            pattern: Pattern::Zipf,
            sizes: Sizes::Imix,
            ..traffic(20_000)
        },
        Options {
            pattern: Pattern::Syn,
            ..traffic(20_000)
        },
        Options {
            pattern: Pattern::Churn,
            ..traffic(20_000)
        },
        Options {
            vlan: vec![100, 7],
            ..traffic(20_000)
        },
        Options {
            mpls: vec![16, 17],
            ..traffic(20_000)
        },
        Options {
            ipv6_share: 30,
            fragments: 20,
            length: 200,
            ..traffic(20_000)
        },
    ]
    .map(|options| send(&wire, &options));
    let ledger = probe.stop();
    assert_all_exported(&ledger, &sent);
    assert_eq!(count(&ledger, "undecoded.ipv6"), sent[5].ipv6_packets);
}

#[test]
fn flat_out_every_packet_is_received_or_counted_where_it_was_lost() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(TWO_QUEUES);
    let probe = Probe::start(&wire, &["-i", "tap0"]);
    let flat_out = |flows, cpu| {
        send(
            &wire,
            &Options {
                packets: 5_000_000,
                flows,
                cpu: Some(cpu),
                ..Options::on("tx0")
            },
        )
    };
    let sent: u64 = [flat_out(1, 0), flat_out(1_000, 1), flat_out(200_000, 1)]
        .iter()
        .map(|sent| sent.packets)
        .sum();
    let ledger = probe.stop();
    assert_balanced(&ledger);
    assert_eq!(count(&ledger, "offered.packets"), sent, "{ledger:#}");
}

#[test]
fn a_second_probe_on_the_interface_is_refused() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(VethOptions::default());
    let probe = Probe::start(&wire, &line(&[]));
    let second = wire
        .command(env!("CARGO_BIN_EXE_xdprobe"))
        .args(["run", "-i", "tap0", NOWHERE])
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(
        said.contains("another XDP program is attached to it already"),
        "{said}"
    );
    let sent = send(&wire, &traffic(1_000));
    assert_all_exported(&probe.stop(), &[sent]);
}

#[test]
fn a_crash_leaves_nothing_behind_and_the_next_probe_starts_at_once() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(TWO_QUEUES);
    let probe = Probe::start(&wire, &line(&[]));
    assert!(
        wire.ip(&["-d", "link", "show", "tap0"])
            .unwrap()
            .contains("promiscuity 1")
    );
    send(&wire, &traffic(10_000));
    probe.kill();
    let probe = Probe::start(&wire, &line(&[]));
    let sent = send(&wire, &traffic(10_000));
    assert_all_exported(&probe.stop(), &[sent]);
    let link = wire.ip(&["-d", "link", "show", "tap0"]).unwrap();
    assert!(
        !link.contains("xdp") && link.contains("promiscuity 0"),
        "{link}"
    );
}

#[test]
fn flows_outlive_a_link_that_goes_down_and_up() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(VethOptions::default());
    let probe = Probe::start(&wire, &line(&[]));
    let flow = Options {
        flows: 1,
        ..traffic(1_000)
    };
    let before = send(&wire, &flow);
    pause(100);
    wire.ip(&["link", "set", "tap0", "down"]).unwrap();
    while !probe.said().contains("link is down") {
        pause(10);
    }
    wire.ip(&["link", "set", "tap0", "up"]).unwrap();
    while !probe.said().contains("link is up") {
        pause(10);
    }
    let after = send(&wire, &flow);
    let ledger = probe.stop();
    assert_all_exported(&ledger, &[before, after]);
    assert_eq!(count(&ledger, "exported.records"), 1);
}

#[test]
fn what_a_reader_that_hangs_loses_is_counted_once() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(VethOptions::default());
    let probe = Probe::start(
        &wire,
        &["-i", "tap0", "--flows-per-queue", "10000", "--ring", "1024"],
    );
    probe.signal("STOP");
    let sent = send(&wire, &traffic(20_000));
    probe.signal("CONT");
    let ledger = probe.stop();
    assert_balanced(&ledger);
    assert_eq!(count(&ledger, "offered.packets"), sent.packets);
    assert_eq!(count(&ledger, "dropped.ring_full"), sent.packets - 1024);
    assert_eq!(
        count(&ledger, "dropped.driver"),
        0,
        "veth counts failed redirects too"
    );
}

#[test]
fn what_the_driver_drops_is_counted_as_its_own() {
    if !are_met(&["ip", "ethtool", "chrt", "taskset", "pgrep"]) {
        return;
    }
    let wire = wire(VethOptions::default());
    let probe = Probe::start(&wire, &line(&[]));
    // The thread that takes frames off veth's ring gets what a loop on its core leaves over:
    // nothing.
    let starve =
        "echo 1 > /sys/class/net/tap0/threaded && sleep 0.2 && for id in $(pgrep napi/tap0); do
        taskset -pc 0 $id && chrt -i -p 0 $id; done";
    wire.output("sh", &["-c", starve]).unwrap();
    let hog = ["-c", "0", "sh", "-c", "while :; do :; done"];
    let mut hog = wire.command("taskset").args(hog).spawn().unwrap();
    let sent = send(
        &wire,
        &Options {
            packets: 1_000_000,
            cpu: Some(1),
            ..Options::on("tx0")
        },
    );
    hog.kill().unwrap();
    hog.wait().unwrap();
    pause(500);
    let ledger = probe.stop();
    assert_balanced(&ledger);
    let refused = sent.driver.unwrap().refused;
    assert!(refused > 0, "the ring was never full");
    assert_eq!(
        (
            count(&ledger, "offered.packets"),
            count(&ledger, "dropped.driver")
        ),
        (sent.packets, refused)
    );
}

#[test]
fn a_pause_of_ten_milliseconds_loses_nothing() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(VethOptions::default());
    let probe = Probe::start(&wire, &["-i", "tap0", "--flows-per-queue", "10000"]);
    let sent = std::thread::scope(|scope| {
        let sending = std::thread::Builder::new()
            .spawn_scoped(scope, || {
                send(
                    &wire,
                    &Options {
                        rate: Some(300_000),
                        ..traffic(300_000)
                    },
                )
            })
            .unwrap();
        while !sending.is_finished() {
            probe.signal("STOP");
            pause(10);
            probe.signal("CONT");
            pause(40);
        }
        sending.join().unwrap()
    });
    assert_all_exported(&probe.stop(), &[sent]);
}

#[test]
fn a_stop_under_traffic_leaves_no_frame_uncounted() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(TWO_QUEUES);
    let probe = Probe::start(&wire, &line(&[]));
    let sender = wire
        .run(|| Sender::start(&traffic(u64::MAX)).unwrap())
        .unwrap();
    let ledger = probe.stop();
    sender.stop();
    assert!(sender.wait().unwrap().stopped);
    assert_balanced(&ledger);
}

#[test]
fn a_start_and_a_stop_under_traffic_lose_nothing_and_count_no_drop() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(TWO_QUEUES);
    let sender = wire
        .run(|| Sender::start(&traffic(u64::MAX)).unwrap())
        .unwrap();
    // With caches of the default size, which take a while to allocate.
    let ledgers = [(); 3].map(|()| Probe::start(&wire, &["-i", "tap0"]).stop());
    sender.stop();
    let sent = sender.wait().unwrap();
    let mut received = 0;
    for ledger in &ledgers {
        assert_balanced(ledger);
        received += count(ledger, "received.packets");
        assert_eq!(
            count(ledger, "offered.packets"),
            count(ledger, "received.packets")
        );
        let dropped = ledger["dropped"].as_object().unwrap();
        assert!(dropped.values().all(|packets| *packets == 0), "{dropped:?}");
    }
    // Each frame was received or passed to the host, whose stack drops what is for other hosts.
    let link = wire
        .ip(&["-s", "-s", "-j", "link", "show", "tap0"])
        .unwrap();
    let link: serde_json::Value = serde_json::from_str(&link).unwrap();
    let passed = count(&link[0], "stats64.rx.otherhost");
    assert_eq!(received + passed, sent.packets, "{link:#}");
}

#[test]
fn frames_on_a_queue_without_a_socket_pass_to_the_host_and_are_counted() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(TWO_QUEUES);
    let probe = Probe::start(&wire, &line(&["--queues", "1"]));
    let on = |cpu| {
        send(
            &wire,
            &Options {
                cpu: Some(cpu),
                ..traffic(5_000)
            },
        )
    };
    let (other, tapped) = (on(0), on(1));
    let ledger = probe.stop();
    assert_balanced(&ledger);
    assert_eq!(count(&ledger, "dropped.no_socket"), other.packets);
    assert_eq!(count(&ledger, "exported.packets"), tapped.packets);
}

#[test]
fn the_filter_decides_what_is_metered() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(VethOptions::default());
    let probe = Probe::start(&wire, &line(&["-f", "tcp"]));
    let (filtered, expected) = (
        send(&wire, &traffic(5_000)),
        send(
            &wire,
            &Options {
                pattern: Pattern::Syn,
                ..traffic(3_000)
            },
        ),
    );
    let ledger = probe.stop();
    assert_balanced(&ledger);
    assert_eq!(count(&ledger, "filtered.packets"), filtered.packets);
    assert_eq!(count(&ledger, "exported.packets"), expected.packets);
}

#[test]
fn of_n_frames_one_is_metered_and_the_others_are_counted_in_xdp() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(TWO_QUEUES);
    let collector = wire
        .run(|| TestCollector::start(Keep::Counts).unwrap())
        .unwrap();
    let by_count = [
        "--sampling",
        "1:10",
        "--sampling-mode",
        "deterministic",
        "--sampled-upstream",
        "1:5",
    ];
    let probe = Probe::start(
        &wire,
        &line(
            &[
                &by_count[..],
                &["--queues", "1", &collector.address().to_string()],
            ]
            .concat(),
        ),
    );
    let on = |cpu| {
        send(
            &wire,
            &Options {
                cpu: Some(cpu),
                flows: 7,
                ..traffic(10_005)
            },
        )
    };
    // What comes on a queue without a socket passes to the host, every frame of it.
    let (other, tapped) = (on(0), on(1));
    let ledger = probe.stop();
    assert_balanced(&ledger);
    assert_eq!(
        count(&ledger, "offered.packets"),
        other.packets + tapped.packets,
        "{ledger:#}"
    );
    assert_eq!(count(&ledger, "dropped.no_socket"), other.packets);
    assert_eq!(
        (
            count(&ledger, "sampled_out.packets"),
            count(&ledger, "received.packets")
        ),
        (9_004, 1_001)
    );
    assert_eq!(collector.stop().unwrap().sampling, Some(1 << 14 | 50));
}

#[test]
fn frames_are_sampled_by_chance_on_every_queue_and_mode() {
    if !are_met(&TOOLS) {
        return;
    }
    for mode in ["copy", "skb"] {
        let wire = wire(TWO_QUEUES);
        let collector = wire
            .run(|| TestCollector::start(Keep::Counts).unwrap())
            .unwrap();
        let arguments = [
            "--mode",
            mode,
            "--sampling",
            "1:100",
            "-f",
            "udp",
            &collector.address().to_string(),
        ];
        let probe = Probe::start(&wire, &line(&arguments));
        let on = |cpu| {
            send(
                &wire,
                &Options {
                    cpu: Some(cpu),
                    rate: Some(50_000),
                    ..traffic(50_000)
                },
            )
        };
        let sent = on(0).packets + on(1).packets;
        let ledger = probe.stop();
        assert_balanced(&ledger);
        assert_eq!(
            (count(&ledger, "offered.packets"), sent),
            (100_000, 100_000),
            "{mode}: {ledger:#}"
        );
        // Five standard deviations of a binomial distribution around 1000.
        let received = count(&ledger, "received.packets");
        assert!((843..1157).contains(&received), "{mode}: {received}");
        assert_eq!(count(&ledger, "sampled_out.packets"), sent - received);
        assert_eq!(collector.stop().unwrap().sampling, Some(2 << 14 | 100));
    }
}

#[test]
fn libpcap_is_sampled_by_the_worker() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(VethOptions::default());
    let arguments = [
        "--capture",
        "pcap",
        "--sampling",
        "1:10",
        "--sampling-mode",
        "deterministic",
    ];
    let probe = Probe::start(&wire, &line(&arguments));
    send(&wire, &traffic(5_000));
    let ledger = probe.stop();
    assert_balanced(&ledger);
    assert_eq!(
        (
            count(&ledger, "sampled_out.packets"),
            count(&ledger, "exported.packets")
        ),
        (4_500, 500)
    );
}

#[test]
fn skb_mode_works_behind_any_driver() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(VethOptions::default());
    let probe = Probe::start(&wire, &line(&["--mode", "skb"]));
    assert!(probe.said().contains("copy (skb)"), "{}", probe.said());
    let sent = send(
        &wire,
        &Options {
            rate: Some(20_000),
            ..traffic(10_000)
        },
    );
    assert_all_exported(&probe.stop(), &[sent]);
}

#[test]
fn zero_copy_is_refused_where_the_driver_has_none() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(VethOptions::default());
    let mut command = wire.command(env!("CARGO_BIN_EXE_xdprobe"));
    let refused = command
        .args(["run", "-i", "tap0", "--mode", "zero-copy", NOWHERE])
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        said.contains("the driver does not support zero-copy"),
        "{said}"
    );
    let link = wire.ip(&["-d", "link", "show", "tap0"]).unwrap();
    assert!(!link.contains("xdp"), "{link}");
}

#[test]
fn jumbo_frames_are_counted_right() {
    if !are_met(&["ip", "ethtool", "ping"]) {
        return;
    }
    let wire = wire(VethOptions {
        queues: 1,
        mtu: 9000,
    });
    wire.address("tx0", "10.1.0.1/24").unwrap();
    let neighbour = [
        "neigh",
        "add",
        "10.1.0.2",
        "lladdr",
        "02:00:00:00:00:02",
        "dev",
        "tx0",
    ];
    wire.ip(&neighbour).unwrap();
    let probe = Probe::start(&wire, &line(&[]));
    assert!(
        probe.said().contains("frames of several buffers"),
        "{}",
        probe.said()
    );
    // Nobody answers, so ping's exit code says nothing.
    let mut ping = wire.command("ping");
    ping.args([
        "-c", "20", "-i", "0.01", "-W", "0.1", "-M", "do", "-s", "8972", "10.1.0.2",
    ])
    .output()
    .unwrap();
    let ledger = probe.stop();
    assert_balanced(&ledger);
    assert_eq!(
        (
            count(&ledger, "exported.packets"),
            count(&ledger, "exported.octets")
        ),
        (20, 20 * 9000)
    );
}

#[test]
fn flows_expire_on_a_silent_link() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(VethOptions::default());
    let collector = wire
        .run(|| TestCollector::start(Keep::Counts).unwrap())
        .unwrap();
    let mut probe = Probe::start(
        &wire,
        &line(&["--idle-timeout", "1s", &collector.address().to_string()]),
    );
    send(
        &wire,
        &Options {
            flows: 50,
            ..traffic(1_000)
        },
    );
    while collector.records() < 50 {
        assert!(probe.is_running());
        pause(20);
    }
    let ledger = probe.stop();
    assert_balanced(&ledger);
    assert_eq!(
        (
            count(&ledger, "flows.expired.idle"),
            count(&ledger, "flows.expired.forced")
        ),
        (50, 0)
    );
}

#[test]
fn a_million_resident_flows_are_exported_at_the_stop() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(VethOptions::default());
    let probe = Probe::start(&wire, &["-i", "tap0", "--idle-timeout", "60s"]);
    let sent = send(
        &wire,
        &Options {
            flows: 1_000_000,
            rate: Some(400_000),
            ..traffic(1_000_000)
        },
    );
    let ledger = probe.stop();
    assert_all_exported(&ledger, std::slice::from_ref(&sent));
    assert!(count(&ledger, "exported.records") >= 999_990, "{ledger:#}");
}

#[test]
fn what_comes_while_the_reader_rests_is_timed_by_when_it_came() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(VethOptions::default());
    let collector = wire
        .run(|| TestCollector::bind(SocketAddr::from(([127, 0, 0, 1], 0)), Keep::Records).unwrap())
        .unwrap();
    let probe = Probe::start(&wire, &line(&[&collector.address().to_string()]));
    let sent = send(
        &wire,
        &Options {
            flows: 1_000,
            rate: Some(2_000),
            ..traffic(1_000)
        },
    );
    assert_all_exported(&probe.stop(), &[sent]);
    let received = collector.stop().unwrap();
    let mut first: Vec<_> = received
        .list
        .iter()
        .map(|record| record.first_ms.get())
        .collect();
    first.sort_unstable();
    first.dedup();
    // Two packets a millisecond; the ends of rests alone would give ten times or so.
    assert!(
        first.len() > 100,
        "{} different times: {first:?}",
        first.len()
    );
}

#[test]
fn the_bell_wakes_a_resting_reader_before_its_ring_is_full() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(VethOptions::default());
    let probe = Probe::start(
        &wire,
        &["-i", "tap0", "--flows-per-queue", "10000", "--ring", "512"],
    );
    // The ring is full after 5 ms, and rests would end after 50 ms.
    let sent = send(
        &wire,
        &Options {
            rate: Some(100_000),
            ..traffic(100_000)
        },
    );
    let ledger = probe.stop();
    assert_balanced(&ledger);
    assert_eq!(count(&ledger, "offered.packets"), sent.packets);
    // Not all: the core may be taken away for longer than that.
    assert!(
        count(&ledger, "received.packets") > sent.packets / 2,
        "{ledger:#}"
    );
}

#[test]
fn busy_polling_receives_as_well() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(VethOptions::default());
    let probe = Probe::start(&wire, &line(&["--busy-poll"]));
    let sent = send(&wire, &traffic(5_000));
    assert_all_exported(&probe.stop(), &[sent]);
    let restored = wire
        .output("cat", &["/sys/class/net/tap0/napi_defer_hard_irqs"])
        .unwrap();
    assert_eq!(restored.trim(), "0");
}

#[test]
fn what_busy_polling_sets_is_undone_at_the_end_and_after_a_kill_at_the_next_start() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(TWO_QUEUES);
    let index = wire.run(|| if_nametoindex("tap0").unwrap()).unwrap();
    let napis = || {
        wire.run(|| Napis::of(index).map(|napis| napis.list().unwrap()))
            .unwrap()
    };
    let deferrals = || {
        let napis = napis().expect("the interface is up");
        Vec::from_iter(napis.iter().map(|napi| napi.deferral))
    };
    let files = ["napi_defer_hard_irqs", "gro_flush_timeout"];
    let device = || {
        let paths = files.map(|file| format!("/sys/class/net/tap0/{file}"));
        wire.output("cat", &[&paths[0], &paths[1]]).unwrap()
    };
    let Some(first) = napis().and_then(|napis| napis.first().copied()) else {
        skip("the kernel has no settings for NAPI instances: Linux 6.13 or newer is needed");
        return;
    };
    // One instance has a setting of its own.
    let own = Deferral {
        polls: 5,
        timeout_ns: 12_345,
    };
    let set = || Napis::of(index).unwrap().set(first.id, own).unwrap();
    wire.run(set).unwrap();
    let before = (deferrals(), device());
    let start = |arguments: &[&str]| Probe::start(&wire, &line(arguments));
    let probe = start(&["--busy-poll"]);
    let busy = deferrals();
    assert!(busy.iter().all(|set| set.polls == 2), "{busy:?}");
    assert_eq!(device(), before.1);
    probe.stop();
    assert_eq!((deferrals(), device()), before);
    // A kill leaves it; the next start ends that, whether it polls or not.
    for arguments in [&[][..], &["--busy-poll"]] {
        start(&["--busy-poll"]).kill();
        assert_eq!(deferrals(), busy);
        start(arguments).stop();
        let undone = deferrals();
        assert!(
            undone.iter().all(|set| *set == Deferral::default()),
            "{undone:?}"
        );
        assert_eq!(device(), before.1);
    }
}

#[test]
fn an_interface_that_goes_away_ends_the_probe_with_what_was_seen_exported() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(VethOptions::default());
    let probe = Probe::start(&wire, &line(&[]));
    let sent = send(&wire, &traffic(1_000));
    pause(100);
    wire.ip(&["link", "delete", "tap0"]).unwrap();
    let ledger = probe.wait(1);
    assert_eq!(count(&ledger, "exported.packets"), sent.packets);
}

#[test]
fn the_hosts_own_interface_is_captured_passively() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(VethOptions::default());
    wire.address("tap0", "10.9.0.1/24").unwrap();
    let probe = Probe::start(&wire, &line(&[]));
    assert!(
        probe
            .said()
            .contains("the host has the address 10.9.0.1 on it, so xdprobe captures passively"),
        "{}",
        probe.said()
    );
    let sent = send(&wire, &traffic(5_000));
    assert_all_exported(&probe.stop(), &[sent]);
    let insisted = Probe::start(&wire, &line(&["--consume"]));
    assert!(insisted.said().contains("copy (native)"));
    insisted.stop();
}

#[test]
fn libpcap_sees_both_directions() {
    if !are_met(&["ip", "ethtool", "ping"]) {
        return;
    }
    let (wire, far) = (
        wire(VethOptions::default()),
        xdprobe_lab::namespace::Namespace::new().unwrap(),
    );
    wire.hand_over("tx0", &far).unwrap();
    far.address("tx0", "10.1.0.1/24").unwrap();
    wire.address("tap0", "10.1.0.2/24").unwrap();
    let probe = Probe::start(&wire, &line(&["--capture", "pcap", "-f", "icmp"]));
    far.output("ping", &["-c", "10", "-i", "0.01", "10.1.0.2"])
        .unwrap();
    let ledger = probe.stop();
    assert_balanced(&ledger);
    assert_eq!(
        (
            count(&ledger, "exported.packets"),
            count(&ledger, "exported.records")
        ),
        (20, 2)
    );
}

#[test]
fn without_the_capability_it_says_what_is_wanted() {
    if !are_met(&["ip", "ethtool", "setpriv"]) {
        return;
    }
    let wire = wire(VethOptions::default());
    let mut command = wire.command("setpriv");
    let bare = [
        "--bounding-set=-all",
        "--inh-caps=-all",
        env!("CARGO_BIN_EXE_xdprobe"),
        "run",
        "-i",
        "tap0",
        NOWHERE,
    ];
    let refused = command.args(bare).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(
        said.contains("run as root, or grant CAP_") && said.lines().count() == 1,
        "{said}"
    );
}
