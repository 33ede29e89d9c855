//! What a test needs of the machine. A test that lacks something prints that it is skipped, and
//! passes. If `CI` is `true` it fails.

use std::io::{self, Write};
use std::path::PathBuf;

use crate::namespace::Namespace;

/// Whether network namespaces can be made and `programs` are installed. If not, prints `SKIPPED:
/// why` on standard error.
///
/// # Panics
///
/// If something is missing and the environment variable `CI` is `true`.
#[must_use]
pub fn are_met(programs: &[&str]) -> bool {
    let missing = programs.iter().find(|program| which(program).is_none());
    let why = missing
        .map(|program| format!("{program} is not installed, or not on the PATH"))
        .or_else(no_namespaces);
    why.is_none_or(|why| {
        skip(&why);
        false
    })
}

/// Prints `SKIPPED: why` on standard error itself: the test harness shows only the output of
/// failing tests.
///
/// # Panics
///
/// If the environment variable `CI` is `true`.
pub fn skip(why: &str) {
    assert!(
        std::env::var("CI").as_deref() != Ok("true"),
        "SKIPPED: {why}; in CI this is a failure"
    );
    let test = std::thread::current().name().unwrap_or("test").to_owned();
    let _ = writeln!(io::stderr(), "SKIPPED: {test}: {why}");
}

/// The path of a program that a shell would start; `None` if there is none on the PATH.
#[must_use]
pub fn which(program: &str) -> Option<PathBuf> {
    let directories = std::env::var_os("PATH")?;
    std::env::split_paths(&directories)
        .map(|directory| directory.join(program))
        .find(|path| path.is_file())
}

fn no_namespaces() -> Option<String> {
    Namespace::new()
        .err()
        .map(|error| format!("cannot make a network namespace: {error:#}"))
}
