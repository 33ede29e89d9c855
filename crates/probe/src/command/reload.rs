//! `xdprobe reload`: a running probe reads its configuration again.

use super::files::quietly;
use super::table::write_to_stdout;
use super::to::To;
use crate::control::{ReloadQuery, Reloaded, to_parameters};
use clap::Args;

/// The command line of `xdprobe reload`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  xdprobe reload --dry-run       what would change
  xdprobe reload                 all of it, or nothing if something is wrong")]
pub struct Arguments {
    #[command(flatten)]
    to: To,

    #[command(flatten)]
    query: ReloadQuery,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Asks the probe, and prints what changed.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let path = format!("/reload?{}", to_parameters(&arguments.query));
    let reloaded: Reloaded = arguments.to.client()?.post(&path)?;
    let said = if arguments.json {
        serde_json::to_string(&reloaded)? + "\n"
    } else if reloaded.text.is_empty() {
        "the configuration is as it was\n".to_owned()
    } else {
        reloaded
            .text
            .iter()
            .map(|line| format!("{line}\n"))
            .collect()
    };
    quietly(write_to_stdout(said.as_bytes()))
}
