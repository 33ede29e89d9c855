//! `xdprobe config`: what a configuration file says, and what is in force with it.

use super::run;
use super::usage::UsageError;
use crate::config::{Effective, Line};
use anyhow::Context;
use clap::{Args, Subcommand};
use std::io::{ErrorKind, Write, stdout};
use std::path::{Path, PathBuf};

/// The command line of `xdprobe config`.
#[derive(Args, Debug)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check a configuration file, without looking at interfaces and collectors
    Check {
        /// The file
        file: PathBuf,
    },
    /// Print every key, the value that is in force, and where it is from
    Show(Box<Show>),
}

#[derive(Args, Debug)]
struct Show {
    /// As JSON lines
    #[arg(long)]
    json: bool,

    /// As a configuration file with every key; defaults are commented out
    #[arg(long, conflicts_with = "json")]
    toml: bool,

    #[command(flatten)]
    line: Line<run::Arguments>,
}

/// Checks or prints a configuration.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let text = match &arguments.command {
        Command::Check { file } => check(file)?,
        Command::Show(show) => show.text()?,
    };
    match stdout().write_all(text.as_bytes()) {
        // The reader closed its end, which is its choice.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("the configuration cannot be written"),
    }
}

fn check(file: &Path) -> anyhow::Result<String> {
    let effective = Effective::load(Line::<run::Arguments>::of_file(file.to_owned()))?;
    let arguments = effective.arguments();
    let filter = arguments.filter().err().map(|UsageError(text)| text);
    let faults: Vec<_> = arguments.faults().into_iter().chain(filter).collect();
    if !faults.is_empty() {
        return Err(UsageError(effective.located(&faults.join("\n"))).into());
    }
    let count = effective
        .settings()
        .iter()
        .filter(|setting| setting.is_of_file())
        .count();
    let keys = if count == 1 { "key" } else { "keys" };
    Ok(format!("{}: {count} {keys}, all valid\n", file.display()))
}

impl Show {
    fn text(&self) -> anyhow::Result<String> {
        let effective = Effective::load(self.line.clone())?;
        if self.toml {
            return Ok(effective.to_toml());
        }
        if self.json {
            let lines = effective.settings().iter().map(|setting| {
                let line = serde_json::to_string(setting);
                line.map(|line| line + "\n")
            });
            return Ok(lines.collect::<Result<_, _>>()?);
        }
        Ok(effective.to_table())
    }
}
