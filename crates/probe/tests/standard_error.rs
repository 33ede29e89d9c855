//! Standard error that is closed, full, or not read: nothing dies of it or waits for it, and no
//! exit code changes.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod harness;

use harness::{pause, xdprobe};
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::io::Write;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use xdprobe_lab::frames::{ByteOrder, Ethernet, PcapWriter, StampResolution, udp};
use xdprobe_lab::requirements::skip;

/// Standard errors that take nothing: a pipe that was closed, one that is full and not read, and a
/// device that is full.
fn broken(folder: &TempDir) -> Vec<Stdio> {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut broken = vec![Stdio::from(writer)];
    let (unread, mut writer) = std::io::pipe().unwrap();
    // Open until the test ends.
    std::mem::forget(unread);
    let octets = fcntl(&writer, FcntlArg::F_GETPIPE_SZ).unwrap();
    writer
        .write_all(&vec![0; octets.try_into().unwrap()])
        .unwrap();
    broken.push(Stdio::from(writer));
    let full = folder.path().join("full");
    let is_there = full.exists()
        || mknod(
            &full,
            SFlag::S_IFCHR,
            Mode::from_bits_retain(0o666),
            makedev(1, 7),
        )
        .is_ok();
    match is_there.then(|| File::options().write(true).open(&full)) {
        Some(Ok(full)) => broken.push(full.into()),
        _ => skip("no device can be made here that is full (mknod)"),
    }
    broken
}

/// Runs a command with each of them, and returns its exit codes.
fn run(folder: &TempDir, command: impl Fn() -> Command) -> Vec<Option<i32>> {
    let run = |stderr| {
        let output = command()
            .stdin(Stdio::null())
            .stderr(stderr)
            .output()
            .unwrap();
        output.status.code()
    };
    broken(folder).into_iter().map(run).collect()
}

fn capture(folder: &TempDir) -> String {
    let mut file = PcapWriter::new(Vec::new(), ByteOrder::Little, StampResolution::Micro).unwrap();
    let (from, to) = (
        SocketAddr::from(([10, 0, 0, 1], 7)),
        SocketAddr::from(([10, 0, 0, 2], 9)),
    );
    let frame = Ethernet::new([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]).carry(&udp(from, to, &[]));
    file.frame(Duration::from_secs(1_700_000_000), &frame)
        .unwrap();
    let path = folder.path().join("one.pcap");
    fs::write(&path, file.finish().unwrap()).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn errors_and_warnings_that_cannot_be_written_change_no_exit_code() {
    let folder = TempDir::new().unwrap();
    let file = capture(&folder);
    for (arguments, expected) in [
        (&["print", "/nonexistent"][..], 1),
        (&["print", "-f", "9"], 2),
        (&["run", "-r", "/nonexistent", "127.0.0.1:9"], 1),
        (&["run", "-r", &file, "--queues", "0", "127.0.0.1:9"], 2),
        (&["no-such-command"], 2),
        (
            &["-v", "run", "-r", &file, "-f", "tcp port 1", "127.0.0.1:9"],
            0,
        ),
    ] {
        for code in run(&folder, || xdprobe(arguments)) {
            assert_eq!(code, Some(expected), "{arguments:?}");
        }
    }
}

#[test]
fn a_ledger_for_standard_error_that_cannot_be_written_changes_no_exit_code() {
    let folder = TempDir::new().unwrap();
    let file = capture(&folder);
    let runs = || {
        let mut command = xdprobe(&["run", "-r", &file, "file:-"]);
        command.stdout(Stdio::null());
        command
    };
    for stderr in broken(&folder) {
        assert_eq!(runs().stderr(stderr).status().unwrap().code(), Some(0));
    }
}

/// Waits until something holds.
fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..1_000 {
        if holds() {
            return;
        }
        pause(10);
    }
    panic!("it never came to this: {what}");
}

/// The UDP port that a process listens on, by the kernel's table.
fn port_of(child: &Child) -> Option<u16> {
    let process = Path::new("/proc").join(child.id().to_string());
    let links = fs::read_dir(process.join("fd")).ok()?.flatten();
    let inodes: Vec<_> = links
        .filter_map(|link| fs::read_link(link.path()).ok())
        .filter_map(|to| {
            Some(
                to.to_str()?
                    .strip_prefix("socket:[")?
                    .trim_end_matches(']')
                    .to_owned(),
            )
        })
        .collect();
    let table = fs::read_to_string(process.join("net/udp")).ok()?;
    let line = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let ours = line
        .filter(|fields| {
            fields
                .get(9)
                .is_some_and(|inode| inodes.iter().any(|one| one == inode))
        })
        .find_map(|fields| fields[1].split_once(':').map(|(_, port)| port.to_owned()))?;
    u16::from_str_radix(&ours, 16).ok()
}

#[test]
fn print_goes_on_after_a_bad_datagram_and_collect_after_sigusr1() {
    let folder = TempDir::new().unwrap();
    for stderr in broken(&folder) {
        let mut printing = xdprobe(&["print", "--listen", "127.0.0.1:0"]);
        let mut printing = printing
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .unwrap();
        wait_for("print listens", || port_of(&printing).is_some());
        let port = port_of(&printing).unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.send_to(b"bad", ("127.0.0.1", port)).unwrap();
        socket.send_to(&[0, 9, 0, 0], ("127.0.0.1", port)).unwrap();
        pause(300);
        assert!(printing.try_wait().unwrap().is_none());
        kill(
            Pid::from_raw(printing.id().try_into().unwrap()),
            Signal::SIGINT,
        )
        .unwrap();
        assert_eq!(printing.wait().unwrap().code(), Some(0));
    }
    for stderr in broken(&folder) {
        let directory = TempDir::new().unwrap();
        let place = directory.path().to_str().unwrap();
        let mut collecting = xdprobe(&["collect", "-w", place, "127.0.0.1/0/0"]);
        let mut collecting = collecting
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .unwrap();
        wait_for("collect listens", || port_of(&collecting).is_some());
        pause(200);
        let id = Pid::from_raw(collecting.id().try_into().unwrap());
        kill(id, Signal::SIGUSR1).unwrap();
        pause(700);
        assert!(collecting.try_wait().unwrap().is_none());
        kill(id, Signal::SIGTERM).unwrap();
        assert_eq!(collecting.wait().unwrap().code(), Some(0));
    }
}
