//! `xdprobe run -i` where something is in the way of a start: an interface that is named twice or
//! renamed, that the host needs, or a system that forbids what the probe needs.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod harness;

use harness::{Probe, TOOLS, assert_balanced, count, pause, send, traffic, wire, xdprobe};
use nix::libc;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use xdprobe_lab::confine::{Denial, deny, without_network};
use xdprobe_lab::namespace::VethOptions;
use xdprobe_lab::requirements::are_met;

const NOWHERE: &str = "127.0.0.1:9";
const SMALL: [&str; 4] = ["--flows-per-queue", "10000", "--ring", "1024"];

#[test]
fn an_interface_that_is_named_twice_is_refused_also_by_its_alternative_name() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(VethOptions::default());
    let add = [
        "link",
        "property",
        "add",
        "dev",
        "tap0",
        "altname",
        "mirror-port-one",
    ];
    wire.ip(&add).unwrap();
    for kind in ["pcap", "af-xdp"] {
        for second in ["tap0", "mirror-port-one"] {
            let mut command = wire.command(env!("CARGO_BIN_EXE_xdprobe"));
            command.args([
                "run",
                "-i",
                "tap0",
                "-i",
                second,
                "--capture",
                kind,
                NOWHERE,
            ]);
            let refused = command.output().unwrap();
            let said = String::from_utf8_lossy(&refused.stderr);
            assert!(said.contains("'tap0' is captured twice"), "{said}");
            assert_eq!(refused.status.code(), Some(2), "{said}");
        }
    }
    // By its alternative name alone it is the same interface.
    let probe = Probe::start(&wire, &[&["-i", "mirror-port-one"], &SMALL[..]].concat());
    assert!(probe.said().contains("tap0/0: copy (native)"));
    let sent = send(&wire, &traffic(1_000));
    let ledger = probe.stop();
    assert_eq!(count(&ledger, "exported.packets"), sent.packets);
}

/// A memory control group of the test's own, of either version.
struct MemoryGroup(std::path::PathBuf);

impl MemoryGroup {
    fn new(limit_octets: u64) -> Option<Self> {
        let places = [
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            ("/sys/fs/cgroup", "memory.max"),
        ];
        let made = places.into_iter().find_map(|(top, limit)| {
            let group = Path::new(top).join(format!("xdprobe-test-{}", std::process::id()));
            fs::create_dir(&group).ok()?;
            let group = Self(group);
            let is_set = fs::write(group.0.join(limit), limit_octets.to_string()).is_ok();
            is_set.then_some(group)
        });
        if made.is_none() {
            xdprobe_lab::requirements::skip("no memory control group can be made here");
        }
        made
    }

    /// The probe in this group, stopped after a second.
    fn run(&self, options: &str) -> Output {
        let script = format!(
            "echo $$ > {}/cgroup.procs && exec timeout -s INT 1 {} run -i lo {NOWHERE} {options}",
            self.0.display(),
            env!("CARGO_BIN_EXE_xdprobe")
        );
        Command::new("sh").args(["-c", &script]).output().unwrap()
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // The kernel counts a process in it for a moment after its end.
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            pause(20);
        }
    }
}

#[test]
fn a_probe_that_its_memory_control_group_would_kill_is_refused_or_shrinks_on_request() {
    if !are_met(&[]) {
        return;
    }
    let Some(group) = MemoryGroup::new(64 << 20) else {
        return;
    };
    let refused = group.run("");
    let said = String::from_utf8_lossy(&refused.stderr);
    for part in [
        "not enough memory: the probe takes ",
        &format!("control group {} has ", group.0.display()),
        "left of its limit of 64 MiB",
        "--shrink-to-fit",
    ] {
        assert!(said.contains(part), "{part} in {said}");
    }
    assert_eq!(refused.status.code(), Some(1), "{said}");
    let shrunk = group.run("--shrink-to-fit");
    let said = String::from_utf8_lossy(&shrunk.stderr);
    assert!(said.contains("goes on with --flows-per-queue"), "{said}");
    assert!(said.contains("memory: takes "), "{said}");
    assert!(said.contains("capturing on 1 queue"), "{said}");
}

#[test]
fn a_limit_of_the_address_space_is_named_and_aborts_nothing() {
    for (option, kib) in [
        ("-v", 20_480),
        ("-v", 60_000),
        ("-v", 300_000),
        ("-d", 60_000),
    ] {
        let script = format!(
            "ulimit {option} {kib} && exec {} run -q -r /dev/null file:-",
            env!("CARGO_BIN_EXE_xdprobe")
        );
        let refused = Command::new("sh").args(["-c", &script]).output().unwrap();
        let said = String::from_utf8_lossy(&refused.stderr);
        let limit = format!("the limit of the process (ulimit {option}) has ");
        assert!(said.contains(&limit), "{option} {kib}: {said}");
        assert_eq!(refused.status.code(), Some(1), "{option} {kib}: {said}");
    }
}

#[test]
fn no_command_aborts_whatever_the_limit_of_the_address_space() {
    let folder = tempfile::tempdir().unwrap();
    let commands = [
        "print -",
        "cat -",
        "run -q -r /dev/null 127.0.0.1:9",
        "collect -w . 127.0.0.1/127.0.0.1/0",
    ];
    for command in commands {
        // Below the first limit that it names, loader and runtime do not get as far as the program.
        let mut has_begun = false;
        for kib in (14_000..40_000).step_by(500) {
            let script = format!(
                "ulimit -v {kib} && exec timeout -s INT 0.3 {} {command} < /dev/null",
                env!("CARGO_BIN_EXE_xdprobe")
            );
            let mut shell = Command::new("sh");
            let shell = shell.args(["-c", &script]).current_dir(folder.path());
            let output = shell.output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            has_begun |= said.contains("not enough memory");
            let aborts = said.contains("memory allocation of") || said.contains("panicked");
            assert!(!(has_begun && aborts), "{command} with {kib} KiB: {said}");
        }
        assert!(has_begun, "{command}");
    }
}

#[test]
fn a_renamed_interface_is_captured_further() {
    if !are_met(&TOOLS) {
        return;
    }
    for kind in ["pcap", "af-xdp"] {
        let wire = wire(VethOptions::default());
        let how = ["-i", "tap0", "--capture", kind];
        let probe = Probe::start(&wire, &[&how[..], &SMALL].concat());
        let mut packets = send(&wire, &traffic(1_000)).packets;
        pause(200);
        // As udev does it, and as Linux 6.2 and newer allow it.
        for steps in [
            &[
                &["tap0", "down"][..],
                &["tap0", "name", "tap1"],
                &["tap1", "up"],
            ][..],
            &[&["tap1", "name", "tap2"]],
        ] {
            for step in steps {
                wire.ip(&[&["link", "set", "dev"], *step].concat()).unwrap();
            }
            pause(1_500);
            packets += send(&wire, &traffic(1_000)).packets;
            pause(200);
        }
        let ledger = probe.stop();
        assert_balanced(&ledger);
        assert_eq!(
            count(&ledger, "exported.packets"),
            packets,
            "{kind}: {ledger:#}"
        );
        assert_eq!(count(&ledger, "dropped.interface"), 0, "{kind}: {ledger:#}");
    }
}

#[test]
fn consuming_the_hosts_interface_warns_of_each_address_route_and_connection_that_goes_dark() {
    if !are_met(&TOOLS) {
        return;
    }
    let wire = wire(VethOptions::default());
    wire.address("tap0", "10.7.0.1/24").unwrap();
    // A bridge that uses it.
    wire.ip(&["link", "add", "br0", "type", "bridge"]).unwrap();
    wire.ip(&["link", "set", "tap0", "master", "br0"]).unwrap();
    wire.ip(&["link", "set", "br0", "up"]).unwrap();
    wire.address("br0", "10.1.0.1/24").unwrap();
    wire.ip(&["route", "add", "default", "via", "10.1.0.254"])
        .unwrap();
    let connect = || {
        let listener = TcpListener::bind("10.1.0.1:22").unwrap();
        let client = TcpStream::connect("10.1.0.1:22").unwrap();
        (listener.accept().unwrap(), client)
    };
    let _ssh = wire.run(connect).unwrap();
    let probe = Probe::start(&wire, &[&["-i", "tap0", "--consume"], &SMALL[..]].concat());
    let said = probe.said();
    let warning = said.lines().find(|line| line.contains("--consume takes"));
    let warning = warning.unwrap_or_else(|| panic!("no warning: {said}"));
    for dark in [
        "WARN",
        "10.1.0.1, ",
        "10.7.0.1, ",
        "the default route via 10.1.0.254",
        "the ssh connection from 10.1.0.1",
    ] {
        assert!(warning.contains(dark), "{dark}: {warning}");
    }
    probe.stop();
    // A tap goes without a word.
    wire.ip(&["link", "del", "br0"]).unwrap();
    wire.ip(&["address", "flush", "dev", "tap0"]).unwrap();
    let probe = Probe::start(&wire, &[&["-i", "tap0", "--consume"], &SMALL[..]].concat());
    assert!(!probe.said().contains("WARN"), "{}", probe.said());
    probe.stop();
}

/// Runs a probe on a loopback interface of its own, from which these calls are withheld.
fn confined(arguments: &[&str], denials: &[Denial]) -> Output {
    let mut command: Command = xdprobe(&["run", "-i", "lo"]);
    command.args(SMALL).args(arguments).arg(NOWHERE);
    without_network(&mut command);
    deny(&mut command, denials);
    command.output().unwrap()
}

fn no_socket(family: libc::c_int) -> Denial {
    Denial {
        call: libc::SYS_socket,
        first_argument: u32::try_from(family).ok(),
        errno: libc::EAFNOSUPPORT,
    }
}

#[test]
fn where_the_hosts_addresses_cannot_be_read_the_probe_takes_no_frames_of_the_host() {
    let denied = confined(&["--capture", "af-xdp"], &[no_socket(libc::AF_NETLINK)]);
    let said = String::from_utf8_lossy(&denied.stderr);
    assert!(
        said.contains("the host's addresses cannot be read (EAFNOSUPPORT"),
        "{said}"
    );
    assert_eq!(denied.status.code(), Some(2), "{said}");
    // By libpcap, which has no socket here either.
    let denials = [no_socket(libc::AF_NETLINK), no_socket(libc::AF_PACKET)];
    let denied = confined(&[], &denials);
    let said = String::from_utf8_lossy(&denied.stderr);
    assert!(
        said.contains("so xdprobe captures passively with libpcap")
            && said.contains("'lo' with libpcap:"),
        "{said}"
    );
    assert_eq!(denied.status.code(), Some(1), "{said}");
}

#[test]
fn what_the_system_forbids_is_named_and_not_the_driver_or_the_cores() {
    if !are_met(&TOOLS) {
        return;
    }
    const BPF_LINK_CREATE: u32 = 28;
    let call = |call, first_argument| Denial {
        call,
        first_argument,
        errno: libc::EPERM,
    };
    let xdp = ["--consume", "--capture", "af-xdp"];
    let bound = [&xdp[..], &["--cores", "0"]].concat();
    for (arguments, denial, expected) in [
        (
            &xdp[..],
            call(libc::SYS_bpf, None),
            "loading BPF maps is not permitted; a seccomp filter",
        ),
        (
            &xdp,
            call(libc::SYS_bpf, Some(BPF_LINK_CREATE)),
            "attaching the XDP program is not permitted; a seccomp filter",
        ),
        (
            &xdp,
            no_socket(libc::AF_XDP),
            "an AF_XDP socket is not available: this kind of socket is missing; a seccomp filter",
        ),
        (
            &bound,
            call(libc::SYS_sched_setaffinity, None),
            "sched_setaffinity is forbidden",
        ),
    ] {
        let denied = confined(arguments, &[denial]);
        let said = String::from_utf8_lossy(&denied.stderr);
        assert!(said.contains(expected), "{said}");
        assert!(
            !said.contains("driver") && !said.contains("expected one of"),
            "{said}"
        );
        assert_eq!(denied.status.code(), Some(1), "{said}");
    }
    // Without a limit for locked memory there is no UMEM, unless the process may lock any amount.
    let limited = [
        "prlimit",
        "--memlock=65536",
        "setpriv",
        "--bounding-set=-ipc_lock",
    ];
    if are_met(&["prlimit", "setpriv"]) {
        let mut command = Command::new(limited[0]);
        command
            .args(&limited[1..])
            .arg(env!("CARGO_BIN_EXE_xdprobe"));
        command
            .args(["run", "-i", "lo"])
            .args(SMALL)
            .args(xdp)
            .arg(NOWHERE);
        without_network(&mut command);
        let denied = command.output().unwrap();
        let said = String::from_utf8_lossy(&denied.stderr);
        assert!(said.contains("raise the memlock limit"), "{said}");
    }
}
