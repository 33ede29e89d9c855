//! `xdprobe print`.

use clap::Args;

/// What the user wrote.
#[derive(Args, Debug)]
pub struct Arguments {}

/// Prints.
pub fn run(_arguments: &Arguments) -> anyhow::Result<()> {
    Ok(())
}
