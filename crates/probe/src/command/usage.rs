//! What is wrong with a command line that parses.

/// A command line that parses but makes no sense: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);
