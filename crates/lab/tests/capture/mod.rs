//! Captures with tcpdump.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::NamedTempFile;
use xdprobe_lab::namespace::Namespace;
use xdprobe_lab::send::Report;

use crate::seen::read;

/// Octets of a capture file's header, and of the header of each frame in it.
const FILE_HEADER_OCTETS: u64 = 24;
const FRAME_HEADER_OCTETS: u64 = 16;

/// A running tcpdump.
pub struct Capture {
    tcpdump: Child,
    errors: BufReader<std::process::ChildStderr>,
    file: NamedTempFile,
}

impl Capture {
    /// Starts tcpdump and waits until it listens.
    pub fn start(namespace: &Namespace, interface: &str) -> Self {
        let file = NamedTempFile::new().unwrap();
        let mut tcpdump = namespace
            .command("tcpdump")
            // In immediate mode each slot of the ring has the snapshot length: 32 768 frames fit.
            .args([
                "-i",
                interface,
                "-n",
                "-U",
                "-s",
                "2048",
                "-B",
                "65536",
                "--immediate-mode",
                "-w",
                "-",
            ])
            .stdout(Stdio::from(file.reopen().unwrap()))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut errors = BufReader::new(tcpdump.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("listening on") {
            line.clear();
            assert_ne!(
                errors.read_line(&mut line).unwrap(),
                0,
                "tcpdump ended before it listened"
            );
        }
        Self {
            tcpdump,
            errors,
            file,
        }
    }

    /// Waits until the frames of the report are captured, ends tcpdump, and returns all captured
    /// frames.
    pub fn frames(mut self, report: &Report) -> Vec<Vec<u8>> {
        self.wait_for(
            FILE_HEADER_OCTETS + report.packets * FRAME_HEADER_OCTETS + report.frame_octets,
        );
        kill(
            Pid::from_raw(i32::try_from(self.tcpdump.id()).unwrap()),
            Signal::SIGINT,
        )
        .unwrap();
        let mut errors = String::new();
        self.errors.read_to_string(&mut errors).unwrap();
        assert!(self.tcpdump.wait().unwrap().success(), "{errors}");
        assert!(errors.contains("\n0 packets dropped by kernel"), "{errors}");
        read(self.file.path())
    }

    /// Waits until the file has so many octets, or 10 s.
    fn wait_for(&self, octets: u64) {
        for _ in 0..1000 {
            if self.file.as_file().metadata().unwrap().len() >= octets {
                return;
            }
            sleep(Duration::from_millis(10));
        }
    }
}
