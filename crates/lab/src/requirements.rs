//! What a test needs that not every machine has. A test that lacks it says so and passes, but not
//! where `CI` is `true`: a test that is skipped there proves nothing to anybody.

use std::io::{self, Write};
use std::path::PathBuf;

use crate::namespace::Namespace;

/// Whether network namespaces can be made here and `programs` are installed. Prints `SKIPPED: why`
/// on stderr if not.
///
/// # Panics
///
/// When something is missing and the environment variable `CI` is `true`.
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

/// Prints `SKIPPED: why` on stderr, past the test harness, which shows only what failing tests
/// print.
///
/// # Panics
///
/// When the environment variable `CI` is `true`.
pub fn skip(why: &str) {
    assert!(
        std::env::var("CI").as_deref() != Ok("true"),
        "SKIPPED: {why}; in CI this is a failure"
    );
    let test = std::thread::current().name().unwrap_or("test").to_owned();
    let _ = writeln!(io::stderr(), "SKIPPED: {test}: {why}");
}

/// Where a program is that a shell would start.
#[must_use]
pub fn which(program: &str) -> Option<PathBuf> {
    let folders = std::env::var_os("PATH")?;
    std::env::split_paths(&folders)
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}

fn no_namespaces() -> Option<String> {
    Namespace::new()
        .err()
        .map(|error| format!("no network namespace can be made: {error:#}"))
}
