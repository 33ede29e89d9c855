//! What tcpdump sees at an interface.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::NamedTempFile;
use xdprobe_lab::namespace::Namespace;

use crate::seen::read;

/// A tcpdump at work.
pub struct Capture {
    tcpdump: Child,
    said: BufReader<std::process::ChildStderr>,
    file: NamedTempFile,
}

impl Capture {
    /// Starts tcpdump and waits until it listens.
    pub fn start(namespace: &Namespace, interface: &str) -> Self {
        let file = NamedTempFile::new().unwrap();
        let mut tcpdump = namespace
            .command("tcpdump")
            // In immediate mode the ring has slots of the snapshot length: room for 32 768 frames.
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
        let mut said = BufReader::new(tcpdump.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("listening on") {
            line.clear();
            assert_ne!(
                said.read_line(&mut line).unwrap(),
                0,
                "tcpdump ended before it listened"
            );
        }
        Self {
            tcpdump,
            said,
            file,
        }
    }

    /// Ends tcpdump and returns the frames that it saw.
    pub fn frames(mut self) -> Vec<Vec<u8>> {
        kill(
            Pid::from_raw(i32::try_from(self.tcpdump.id()).unwrap()),
            Signal::SIGINT,
        )
        .unwrap();
        let mut said = String::new();
        self.said.read_to_string(&mut said).unwrap();
        assert!(self.tcpdump.wait().unwrap().success(), "{said}");
        assert!(said.contains("\n0 packets dropped by kernel"), "{said}");
        read(self.file.path())
    }
}
