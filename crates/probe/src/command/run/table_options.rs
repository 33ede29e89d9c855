//! Options about what records say beside what was metered.

use crate::command::UsageError;
use crate::tables::{TableFiles, Tables};
use clap::Args;
use std::path::PathBuf;

/// What the user wrote.
#[derive(Args, Debug)]
#[command(next_help_heading = "Interfaces and routes")]
pub struct TableArguments {
    /// Tell input and output interface by the rules of this TOML file; SIGHUP reads it again
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,

    /// Tell AS, mask and next hop by the prefixes of this CSV file (prefix,as,nexthop); SIGHUP
    /// reads it again
    #[arg(long, value_name = "FILE")]
    prefixes: Option<PathBuf>,
}

impl TableArguments {
    /// Reads the files.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong with one of them, with its name and line.
    pub fn plan(&self) -> Result<Tables, UsageError> {
        let files = TableFiles {
            rules: self.rules.clone(),
            prefixes: self.prefixes.clone(),
        };
        Tables::read(files).map_err(|error| UsageError(format!("{error:#}")))
    }
}
