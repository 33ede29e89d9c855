//! `xdprobe expire`: resident flows are exported now.

use super::files::quietly;
use super::table::write_to_stdout;
use super::to::To;
use crate::control::{Expired, FlowQuery, to_parameters};
use clap::Args;

/// The command line of `xdprobe expire`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  xdprobe expire                           every resident flow
  xdprobe expire --prefix 192.0.2.0/24     those from or to this network")]
pub struct Arguments {
    #[command(flatten)]
    to: To,

    #[command(flatten)]
    flows: FlowQuery,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Asks the probe, and prints how many flows it expired.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let path = format!("/expire?{}", to_parameters(&arguments.flows));
    let Expired { expired } = arguments.to.client()?.post(&path)?;
    let said = match (arguments.json, expired) {
        (true, _) => serde_json::to_string(&Expired { expired })?,
        (false, 1) => "1 flow expired".to_owned(),
        (false, _) => format!("{expired} flows expired"),
    };
    quietly(write_to_stdout(format!("{said}\n").as_bytes()))
}
