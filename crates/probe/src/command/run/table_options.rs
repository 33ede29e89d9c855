//! Options about tables: interfaces and routes in the records.

use clap::Args;
use std::path::PathBuf;
use xdprobe_pipeline::TableFiles;

/// Options about tables.
#[derive(Args, Debug)]
#[command(next_help_heading = "Interfaces and routes")]
pub struct TableArguments {
    /// Set input and output interface by the rules in this TOML file; SIGHUP reads it again
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,

    /// Set AS, mask and next hop by the prefixes in this CSV file (prefix,as,nexthop); SIGHUP reads
    /// it again
    #[arg(long, value_name = "FILE")]
    prefixes: Option<PathBuf>,
}

impl TableArguments {
    /// The files that tables are read from.
    pub fn files(&self) -> TableFiles {
        TableFiles {
            rules: self.rules.clone(),
            prefixes: self.prefixes.clone(),
        }
    }
}
