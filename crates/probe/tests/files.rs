//! What is written to files: nothing is destroyed, a start that fails leaves nothing, and what is
//! not in a file is counted as lost.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod harness;

use harness::{Probe, assert_balanced, count, ledger_of, xdprobe};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::mkfifo;
use serde_json::Value;
use std::fs::{self, File};
use std::io::Write;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use xdprobe_collect::{FlowFileReader, FlowFileWriter, StoredRecord, WriterOptions};
use xdprobe_lab::frames::{ByteOrder, Ethernet, PcapWriter, StampResolution, udp};
use xdprobe_lab::namespace::VethOptions;
use xdprobe_lab::requirements::{are_met, skip};
use xdprobe_lab::test_collector::{Keep, TestCollector};

/// Where nothing listens, and nothing is expected to.
const NOWHERE: &str = "127.0.0.1:9";

/// A folder of a test's own, with a capture in it.
struct Scratch(TempDir);

impl Scratch {
    /// The capture has so many packets, each a flow of its own.
    fn new(packets: u32) -> Self {
        let scratch = Self(TempDir::new().unwrap());
        let mut capture = begin_capture();
        (0..packets).for_each(|number| put(&mut capture, 0, number));
        fs::write(scratch.at("capture.pcap"), capture.finish().unwrap()).unwrap();
        scratch
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.at(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.at(name)).unwrap()
    }

    /// Runs a command line in the folder.
    fn run(&self, arguments: &str) -> Output {
        let arguments: Vec<_> = arguments.split_whitespace().collect();
        let mut command = xdprobe(&arguments);
        command.current_dir(self.0.path()).stdin(Stdio::null());
        command.output().unwrap()
    }

    /// Runs it, and asserts that it is refused for this reason and has left nothing behind.
    fn refused(&self, arguments: &str, expected: &str) {
        let before = self.names();
        let output = self.run(arguments);
        let said = text(&output.stderr);
        assert_ne!(output.status.code(), Some(0), "{arguments}: {said}");
        assert!(said.contains(expected), "{arguments}: {said}");
        assert_eq!(self.names(), before, "{arguments}: {said}");
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.0.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// A shell script in the folder; `xdprobe` is the program.
    fn shell(&self, script: &str) -> Command {
        let mut command = Command::new("sh");
        command.arg("-ec").arg(script);
        command.current_dir(self.0.path());
        let program = Path::new(env!("CARGO_BIN_EXE_xdprobe")).parent().unwrap();
        let path = std::env::var("PATH").unwrap();
        command.env("PATH", format!("{}:{path}", program.display()));
        command
    }

    /// A script in a mount namespace of its own, with a disk of 512 KiB at `disk`.
    fn on_a_small_disk(&self, script: &str) -> Command {
        fs::create_dir_all(self.at("disk")).unwrap();
        let script = format!("mount -t tmpfs -o size=512k none disk\n{script}");
        let mut command = self.shell(&script);
        let mut in_namespace = Command::new("unshare");
        in_namespace.arg("-m").arg(command.get_program());
        in_namespace.args(command.get_args());
        in_namespace.current_dir(self.0.path());
        for (name, value) in command.get_envs() {
            in_namespace.env(name, value.unwrap());
        }
        command = in_namespace;
        command
    }
}

fn text(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).into_owned()
}

fn begin_capture() -> PcapWriter<Vec<u8>> {
    PcapWriter::new(Vec::new(), ByteOrder::Little, StampResolution::Micro).unwrap()
}

/// A packet of a flow of its own, so many seconds after the epoch of the tests.
fn put(capture: &mut PcapWriter<Vec<u8>>, at_s: u64, number: u32) {
    let [_, a, b, c] = number.to_be_bytes();
    let source = SocketAddr::from(([10, a, b, c], 1024));
    let packet = udp(source, SocketAddr::from(([192, 0, 2, 1], 53)), &[0; 32]);
    let ethernet = Ethernet::new([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let time = Duration::from_secs(1_700_000_000 + at_s);
    capture.frame(time, &ethernet.carry(&packet)).unwrap();
}

/// The numbers of the records in a file, in their order; the file must be sound.
fn numbers_in(path: &Path) -> Vec<u32> {
    let reader = FlowFileReader::open(path).unwrap();
    let mut numbers: Vec<_> = reader
        .map(|record| u32::from(record.unwrap().source) & 0x00ff_ffff)
        .collect();
    numbers.sort_unstable();
    numbers
}

fn lost_to_write(ledger: &Value, nth: usize) -> u64 {
    ledger["collectors"][nth]["lost"]["write"].as_u64().unwrap()
}

#[test]
fn a_device_a_fifo_and_a_link_stay_what_they_are() {
    let scratch = Scratch::new(300);
    let rights = Mode::from_bits_truncate(0o666);
    // Character device 1:3 is the null device, 1:7 the one that is always full.
    if mknod(&scratch.at("null"), SFlag::S_IFCHR, rights, makedev(1, 3)).is_err() {
        return skip("cannot make a device");
    }
    let output = scratch.run("run --report json -r capture.pcap file:null");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(count(&ledger_of(&output.stdout), "exported.records"), 300);
    let null = fs::symlink_metadata(scratch.at("null")).unwrap();
    assert!(null.file_type().is_char_device());

    mknod(&scratch.at("full"), SFlag::S_IFCHR, rights, makedev(1, 7)).unwrap();
    let output = scratch.run("run -r capture.pcap file:full");
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));

    mkfifo(&scratch.at("fifo"), rights).unwrap();
    let script = "cat fifo > read & xdprobe run -q -r capture.pcap file:fifo; wait";
    assert!(scratch.shell(script).status().unwrap().success());
    assert_eq!(numbers_in(&scratch.at("read")).len(), 300);
    let fifo = fs::symlink_metadata(scratch.at("fifo")).unwrap();
    assert!(fifo.file_type().is_fifo());

    fs::create_dir(scratch.at("there")).unwrap();
    symlink("there/flows.ft", scratch.at("link")).unwrap();
    for option in ["", "--overwrite"] {
        let output = scratch.run(&format!("run -q {option} -r capture.pcap file:link"));
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        assert_eq!(numbers_in(&scratch.at("there/flows.ft")).len(), 300);
        assert!(scratch.at("link").is_symlink());
        assert_eq!(fs::read_dir(scratch.at("there")).unwrap().count(), 1);
    }
}

#[test]
fn the_input_a_directory_and_a_finished_file_are_refused_before_anything_is_created() {
    let scratch = Scratch::new(3);
    let capture = fs::read(scratch.at("capture.pcap")).unwrap();
    fs::create_dir(scratch.at("folder")).unwrap();
    fs::hard_link(scratch.at("capture.pcap"), scratch.at("hard")).unwrap();
    symlink("capture.pcap", scratch.at("link")).unwrap();
    scratch.write("precious", "precious");
    scratch.write("rules.toml", "[[rule]]\ninput = 7\n");
    for name in ["capture.pcap", "hard", "link"] {
        for option in ["", "--overwrite"] {
            let line = format!("run {option} -r capture.pcap file:new.ft file:{name}");
            scratch.refused(&line, "is the input: write to another file");
        }
    }
    scratch.refused(
        "run --overwrite --rules rules.toml -r capture.pcap file:rules.toml",
        "is the input",
    );
    scratch.refused("run -r capture.pcap file:folder", "folder is a directory");
    scratch.refused(
        "run -r capture.pcap file:new.ft file:folder",
        "folder is a directory",
    );
    scratch.refused("run -r capture.pcap file:precious", "--overwrite");
    scratch.refused("run -r capture.pcap file:missing/x", "No such file");
    scratch.refused(
        "run -r capture.pcap file:new.ft file:./new.ft",
        "file:new.ft and file:./new.ft are the same",
    );
    let stdin = "xdprobe run -r - file:capture.pcap --overwrite < capture.pcap";
    let output = scratch.shell(stdin).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    let appended = "xdprobe run -r capture.pcap file:- >> capture.pcap";
    let output = scratch.shell(appended).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    assert_eq!(fs::read(scratch.at("capture.pcap")).unwrap(), capture);
    assert_eq!(scratch.read("precious"), "precious");

    let output = scratch.run("run -q --overwrite -r capture.pcap file:precious");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(numbers_in(&scratch.at("precious")), [0, 1, 2]);
}

#[test]
fn standard_output_gets_the_records_and_the_ledger_goes_to_standard_error() {
    let scratch = Scratch::new(2000);
    for path in ["-", "/dev/stdout", "/proc/self/fd/1"] {
        for redirected in ["> flows.ft", "| cat > flows.ft"] {
            let line = format!("xdprobe run -q -r capture.pcap file:{path} {redirected}");
            let output = scratch.shell(&line).output().unwrap();
            assert_eq!(numbers_in(&scratch.at("flows.ft")).len(), 2000, "{line}");
            let said = text(&output.stderr);
            assert!(said.contains("ledger balanced, nothing lost"), "{said}");
        }
    }
    // Any other descriptor is written into as well.
    let line = "xdprobe run -q -r capture.pcap file:/dev/fd/7 7> seven.ft";
    assert!(scratch.shell(line).status().unwrap().success());
    assert_eq!(numbers_in(&scratch.at("seven.ft")).len(), 2000);
    assert_eq!(scratch.names(), ["capture.pcap", "flows.ft", "seven.ft"]);
}

#[test]
fn a_start_that_fails_leaves_no_file() {
    let scratch = Scratch::new(3);
    scratch.write("damaged.pcap", "no capture");
    scratch.write("rules.toml", "[[rule]]\nnonsense = 7\n");
    for (line, expected) in [
        ("-r missing.pcap file:x.ft", "missing.pcap"),
        ("-r damaged.pcap file:x.ft", "damaged.pcap"),
        (
            "-r capture.pcap file:x.ft nosuch.invalid:9",
            "nosuch.invalid",
        ),
        ("-r capture.pcap --mtu 99 file:x.ft 127.0.0.1:9", "carries"),
        ("-i nosuch0 file:x.ft", "nosuch0"),
        ("-r capture.pcap --rules rules.toml file:x.ft", "rules.toml"),
        ("-r capture.pcap file:x.ft file:missing/y.ft", "missing"),
        (
            "-i lo --metrics unix:damaged.pcap file:x.ft",
            "not a socket",
        ),
    ] {
        scratch.refused(&format!("run {line}"), expected);
    }
    if are_met(&[]) {
        // A worker that has its interface, and not its core.
        scratch.refused("run -i lo --cores 900 file:x.ft", "core 900");
    }
    let line = "collect -V 5 -N 0 -w . -p missing/pid 127.0.0.1/0/0";
    scratch.refused(line, "missing/pid");
}

#[test]
fn what_a_crash_left_is_completed_before_another_file_is_written() {
    let scratch = Scratch::new(3);
    let leave = |count: u32| {
        let options = WriterOptions::plain_v5(0);
        let mut writer = FlowFileWriter::create(scratch.at("x.ft"), &options).unwrap();
        for number in 0..count {
            let record = StoredRecord {
                source: (0x0a00_0000 + 1000 + number).into(),
                ..StoredRecord::default()
            };
            writer.push(&record).unwrap();
        }
        writer.write_out().unwrap();
    };
    leave(2000);
    let output = scratch.run("run -r capture.pcap file:x.ft");
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(
        said.contains("recovered x.ft.1 with 2000 records"),
        "{said}"
    );
    assert_eq!(scratch.names(), ["capture.pcap", "x.ft", "x.ft.1"]);
    assert_eq!(numbers_in(&scratch.at("x.ft")), [0, 1, 2]);
    let recovered = numbers_in(&scratch.at("x.ft.1"));
    assert_eq!(recovered, (1000..3000).collect::<Vec<_>>());
    // Also where the finished one may be replaced.
    leave(5);
    let output = scratch.run("run --overwrite -r capture.pcap file:x.ft");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(numbers_in(&scratch.at("x.ft.2")).len(), 5);

    // What is not such a leftover stays, and stops the start.
    fs::remove_file(scratch.at("x.ft")).unwrap();
    scratch.write("tmp-x.ft", "precious");
    scratch.refused("run -r capture.pcap file:x.ft", "tmp-x.ft");
    assert_eq!(scratch.read("tmp-x.ft"), "precious");
    fs::rename(scratch.at("tmp-x.ft"), scratch.at("victim")).unwrap();
    symlink("victim", scratch.at("tmp-x.ft")).unwrap();
    scratch.refused("run -r capture.pcap file:x.ft", "is a symbolic link");
    assert_eq!(scratch.read("victim"), "precious");
}

#[test]
fn what_a_live_probe_wrote_before_it_was_killed_is_not_lost() {
    if !are_met(&harness::TOOLS) {
        return;
    }
    let scratch = Scratch::new(3);
    let path = scratch.at("x.ft");
    let wire = harness::wire(VethOptions::default());
    let to = format!("file:{}", path.display());
    let line = ["-i", "tap0", "--idle-timeout", "1s", &to];
    let probe = Probe::start_alone(&wire, &line);
    let sent = harness::send(&wire, &harness::traffic(3000));
    // Idle timeout, expiry and flush delay.
    harness::pause(3500);
    probe.kill();
    let output = scratch.run("run -r capture.pcap file:x.ft");
    let said = text(&output.stderr);
    assert!(said.contains("recovered x.ft.1"), "{said}");
    let reader = FlowFileReader::open(scratch.at("x.ft.1")).unwrap();
    let packets: u64 = reader
        .map(|record| u64::from(record.unwrap().packets))
        .sum();
    assert_eq!(packets, sent.packets);
}

#[test]
fn of_a_disk_that_is_full_for_a_moment_the_file_has_every_record_that_counts_as_exported() {
    if !are_met(&["unshare", "mount"]) {
        return;
    }
    let scratch = Scratch::new(1);
    let mut capture = begin_capture();
    (0..4000).for_each(|number| put(&mut capture, 0, number));
    // These let the first fall due: more than the clock of a capture file looks ahead.
    (4000..4040).for_each(|number| put(&mut capture, u64::from(number) - 3900, number));
    let half = usize::try_from(capture.octets()).unwrap();
    (4040..6000).for_each(|number| put(&mut capture, 200, number));
    let octets = capture.finish().unwrap();
    fs::write(scratch.at("first"), &octets[..half]).unwrap();
    fs::write(scratch.at("second"), &octets[half..]).unwrap();
    let script = "head -c 440k /dev/zero > disk/fill
        (cat first; sleep 1; rm disk/fill; cat second) |
            xdprobe run --report json -r - file:disk/x.ft > ledger || echo $? > code
        cp disk/* .";
    let output = scratch.on_a_small_disk(script).output().unwrap();
    let said = text(&output.stderr);
    let ledger = ledger_of(scratch.read("ledger").as_bytes());
    assert_balanced(&ledger);
    let exported = count(&ledger, "exported.records");
    let lost = lost_to_write(&ledger, 0);
    assert_eq!(exported + lost, 6000, "{ledger:#}");
    assert!((100..4000).contains(&lost), "{ledger:#}");
    let numbers = numbers_in(&scratch.at("x.ft"));
    assert_eq!(numbers.len() as u64, exported);
    assert_eq!(numbers.last(), Some(&5999));
    let reader = FlowFileReader::open(scratch.at("x.ft")).unwrap();
    assert_eq!(reader.header().lost.map(u64::from), Some(lost));
    for expected in [
        "WARN file:disk/x.ft cannot be written: No space left on device",
        "INFO file:disk/x.ft: records are written again",
        "records could not be written: No space left on device",
    ] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    assert_eq!(scratch.read("code").trim(), "1");
    assert_eq!(ledger["collectors"][0]["send_errors"]["no_space"], lost);
}

#[test]
fn what_does_not_fit_on_a_disk_that_stays_full_is_lost_and_another_collector_gets_it_all() {
    if !are_met(&["unshare", "mount"]) {
        return;
    }
    let scratch = Scratch::new(20_000);
    let collector = TestCollector::start(Keep::Counts).unwrap();
    let script = format!(
        "xdprobe run --report json -r capture.pcap file:disk/x.ft {} > ledger || true
        cp disk/x.ft .",
        collector.address()
    );
    let output = scratch.on_a_small_disk(&script).output().unwrap();
    let ledger = ledger_of(scratch.read("ledger").as_bytes());
    let said = text(&output.stderr);
    assert_balanced(&ledger);
    let lost = lost_to_write(&ledger, 0);
    let sent = ledger["collectors"][0]["records"].as_u64().unwrap();
    assert_eq!(sent + lost, 20_000, "{ledger:#}");
    assert_eq!(numbers_in(&scratch.at("x.ft")).len() as u64, sent);
    assert_eq!(ledger["collectors"][0]["state"], "refusing");
    assert!(said.contains("No space left on device"), "{said}");
    let received = collector.stop().unwrap();
    assert_eq!(received.records, 20_000);
    assert_eq!(count(&ledger, "exported.records"), 20_000);

    // With failover, the next collector gets what the file does not take.
    let collector = TestCollector::start(Keep::Counts).unwrap();
    let script = format!(
        "xdprobe run --distribute failover --report json -r capture.pcap file:disk/x.ft {} > ledger
        cp disk/x.ft .",
        collector.address()
    );
    fs::remove_file(scratch.at("x.ft")).unwrap();
    let output = scratch.on_a_small_disk(&script).output().unwrap();
    let ledger = ledger_of(scratch.read("ledger").as_bytes());
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_balanced(&ledger);
    assert_eq!(count(&ledger, "exported.records"), 20_000);
    let in_file = numbers_in(&scratch.at("x.ft")).len() as u64;
    let received = collector.stop().unwrap();
    assert!(in_file > 0);
    assert_eq!(in_file + received.records, 20_000);
}

#[test]
fn a_limit_of_file_sizes_is_an_error_as_a_full_disk_is() {
    let scratch = Scratch::new(5000);
    // Units of 512 octets: it ends within a record.
    let script = "ulimit -f 201; xdprobe run --report json -r capture.pcap file:x.ft > ledger";
    let output = scratch.shell(script).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let ledger = ledger_of(scratch.read("ledger").as_bytes());
    assert_balanced(&ledger);
    let lost = lost_to_write(&ledger, 0);
    let numbers = numbers_in(&scratch.at("x.ft"));
    assert!(lost > 0 && !numbers.is_empty());
    assert_eq!(numbers.len() as u64 + lost, 5000);

    let script = "ulimit -f 20; xdprobe cat -o y.ft x.ft";
    let output = scratch.shell(script).output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot write the output"), "{said}");
    assert!(!scratch.at("y.ft").exists() && !scratch.at("tmp-y.ft").exists());
}

#[test]
fn a_folder_that_is_removed_is_reported_and_its_records_are_lost() {
    let scratch = Scratch::new(1);
    fs::create_dir(scratch.at("folder")).unwrap();
    let mut capture = begin_capture();
    (0..10).for_each(|number| put(&mut capture, 0, number));
    let half = usize::try_from(capture.octets()).unwrap();
    (10..30).for_each(|number| put(&mut capture, 100 + u64::from(number), number));
    let octets = capture.finish().unwrap();
    let mut command = xdprobe(&["run", "--report", "json", "-r", "-", "file:folder/x.ft"]);
    command.current_dir(scratch.0.path()).stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&octets[..half]).unwrap();
    while !scratch.at("folder/tmp-x.ft").exists() {
        harness::pause(10);
    }
    fs::remove_dir_all(scratch.at("folder")).unwrap();
    stdin.write_all(&octets[half..]).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("folder/tmp-x.ft has been removed"), "{said}");
    let ledger = ledger_of(&output.stdout);
    assert_balanced(&ledger);
    assert_eq!(lost_to_write(&ledger, 0), 30);
}

#[test]
fn cat_never_reads_or_destroys_its_output() {
    let scratch = Scratch::new(1000);
    fs::create_dir(scratch.at("flows")).unwrap();
    let line = "run -q -r capture.pcap file:flows/a.ft";
    assert!(scratch.run(line).status.success());
    let a = fs::read(scratch.at("flows/a.ft")).unwrap();

    let script = "timeout 20 xdprobe cat flows > flows/x";
    let output = scratch.shell(script).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(numbers_in(&scratch.at("flows/x")).len(), 1000);
    // The output of the time before is not an input.
    for _ in 0..2 {
        let output = scratch.run("cat flows/a.ft flows -o flows/x");
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{said}");
        assert!(
            said.contains("flows/x: left out, since it is the output"),
            "{said}"
        );
    }
    for script in [
        "xdprobe cat flows/a.ft >> flows/a.ft",
        "xdprobe cat flows/a.ft -o flows/a.ft",
        "xdprobe cat < flows/a.ft --overwrite -o flows/a.ft",
    ] {
        let output = scratch.shell(script).output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{script}: {said}");
        assert!(said.contains("is the input"), "{script}: {said}");
    }
    assert_eq!(fs::read(scratch.at("flows/a.ft")).unwrap(), a);
    scratch.write("precious", "precious");
    scratch.refused("cat flows/a.ft -o precious", "not a flow-tools file");
    scratch.refused("cat flows/a.ft -o flows", "flows is a directory");
    assert_eq!(scratch.read("precious"), "precious");
    let output = scratch.run("cat flows/a.ft --overwrite -o precious");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}

#[test]
fn a_pid_file_is_not_written_through_a_link() {
    let scratch = Scratch::new(1);
    // Free once more when the socket is dropped.
    let address = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr();
    let port = address.unwrap().port();
    let name = format!("pid.{port}");
    scratch.write("victim", "precious");
    symlink("victim", scratch.at(&name)).unwrap();
    let line = format!("collect -V 5 -N 0 -w . -p pid 127.0.0.1/0/{port}");
    scratch.refused(&line, "it is a symbolic link: remove it");
    assert_eq!(scratch.read("victim"), "precious");
    fs::remove_file(scratch.at(&name)).unwrap();
    scratch.write(&name, "precious");
    scratch.refused(&line, "it is not a pid file: remove it");
    // What an earlier collector left is replaced, and not written to under its other names.
    scratch.write(&name, "4711\n");
    fs::hard_link(scratch.at(&name), scratch.at("hard")).unwrap();
    let inode = fs::metadata(scratch.at(&name)).unwrap().ino();
    let mut command = xdprobe(&line.split_whitespace().collect::<Vec<_>>());
    command.current_dir(scratch.0.path());
    let stderr = File::create(scratch.at("stderr")).unwrap();
    let mut child = command.stderr(stderr).spawn().unwrap();
    while !scratch.read("stderr").contains("listening") {
        harness::pause(10);
    }
    assert_ne!(fs::metadata(scratch.at(&name)).unwrap().ino(), inode);
    assert_eq!(scratch.read(&name), format!("{}\n", child.id()));
    let id = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(!scratch.at(&name).exists());
    assert_eq!(scratch.read("hard"), "4711\n");
}

#[test]
fn a_socket_of_metrics_is_removed_only_if_it_is_still_the_same() {
    let scratch = Scratch::new(1);
    for (replaced, expected) in [(false, false), (true, true)] {
        let mut command = xdprobe(&["run", "-r", "-", "--metrics", "unix:socket", NOWHERE]);
        command.current_dir(scratch.0.path()).stdin(Stdio::piped());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        while !scratch.at("socket").exists() {
            harness::pause(10);
        }
        if replaced {
            fs::rename(scratch.at("socket"), scratch.at("moved")).unwrap();
            scratch.write("socket", "precious");
        }
        let capture = fs::read(scratch.at("capture.pcap")).unwrap();
        child.stdin.take().unwrap().write_all(&capture).unwrap();
        assert!(child.wait().unwrap().success());
        assert_eq!(scratch.at("socket").exists(), expected);
    }
}
