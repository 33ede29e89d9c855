//! The subcommands, one module each.

pub mod cat;
pub mod collect;
mod files;
pub mod print;
pub mod run;

/// A command line that parses but cannot be meant: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);
