//! `xdprobe stop`: a running probe exports what it has, and ends.

use super::to::To;
use clap::Args;
use serde_json::Value;

/// The command line of `xdprobe stop`.
#[derive(Args, Debug)]
pub struct Arguments {
    #[command(flatten)]
    to: To,

    /// Return at once, not when the probe has ended
    #[arg(long)]
    no_wait: bool,
}

/// Asks the probe to stop, and waits for its end.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let client = arguments.to.client()?;
    let _: Value = client.post("/stop")?;
    if !arguments.no_wait {
        client.wait_for_end();
    }
    Ok(())
}
