//! A capture file has the counts that are printed for it.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod seen;

use std::process::Command;

use seen::{Seen, count, read};
use tempfile::NamedTempFile;

#[test]
fn its_counts_are_those_of_an_independent_reader() {
    for kind in ["realistic", "worst"] {
        let file = NamedTempFile::new().unwrap();
        let written = Command::new(env!("CARGO_BIN_EXE_xdprobe-lab"))
            .args([
                "capture",
                "--kind",
                kind,
                "--packets",
                "30000",
                "--flows",
                "4001",
                "--seed",
                "7",
            ])
            .arg(file.path())
            .output()
            .unwrap();
        assert!(written.status.success(), "{written:?}");
        let printed: serde_json::Value = serde_json::from_slice(&written.stdout).unwrap();
        let frames = read(file.path());
        let seen = count(&frames);
        let expected = Seen {
            packets: 30_000,
            ipv4_packets: 30_000,
            flows: 4_001,
            frame_octets: seen.frame_octets,
            octets: printed["octets"].as_u64().unwrap(),
            ..Seen::default()
        };
        assert_eq!(seen, expected, "{printed}");
        assert_eq!(
            (&printed["packets"], &printed["flows"]),
            (&30_000.into(), &4_001.into())
        );
        assert_eq!(
            printed["file_octets"],
            std::fs::metadata(file.path()).unwrap().len()
        );
    }
}
