//! Lines for people on standard error.

use std::fmt::Display;
use std::io::{Write, stderr};

/// Writes `xdprobe: `, the line and its end. A line that cannot be written is left out: that
/// standard error is closed or full ends nothing, and changes no exit code.
pub fn say(line: impl Display) {
    let _ = stderr().write_all(format!("xdprobe: {line}\n").as_bytes());
}
