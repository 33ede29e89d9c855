//! `xdprobe top`: a running probe on the full screen.
//!
//! | File | Contents |
//! |---|---|
//! | `sample` | what the probe has counted at one moment |
//! | `history` | samples of the last 40 s, and rates |
//! | `view` | what a person chose to see, and what the keys do |
//! | `grid` | tables that fit into a width |
//! | `draw` | the pages |
//! | `watch` | threads that wait for the probe, keys and signals |
//! | `screen` | the terminal |

mod draw;
mod grid;
mod history;
mod sample;
mod screen;
mod view;
mod watch;

use super::files::quietly;
use super::table::write_to_stdout;
use super::to::To;
use super::usage::UsageError;
use crate::control::{Client, TopQuery};
use clap::Args;
use draw::Known;
use grid::Look;
use history::History;
use sample::Sample;
use std::env;
use std::io::{IsTerminal, stdin, stdout};
use std::thread;
use std::time::Duration;
use view::{Page, View};
use watch::{Watch, ask_for_top};

/// The command line of `xdprobe top`.
#[derive(Args, Debug)]
#[command(after_help = "Keys:
  1 to 5, Tab      overview, losses, queues, collectors, heaviest
  s, o             sort the heaviest by octets, packets or flows; choose what is added up
  f                filter the heaviest, as in: port=53 prefix=10.0.0.0/8
  space            freeze the screen, or go on
  arrows, PageUp   scroll
  q, Ctrl-C        quit

Examples:
  xdprobe top
  xdprobe top --interval 5s --over pair --port 443
  xdprobe top --once --page losses

Rates are averages over the last 2, 10 and 40 s. A ! marks a loss that moved within 10 s. NO_COLOR
in the environment leaves out colours.")]
pub struct Arguments {
    #[command(flatten)]
    to: To,

    /// Ask the probe this often: 100ms to 1min
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_interval)]
    interval: Duration,

    /// Begin with this page
    #[arg(long, value_enum, default_value_t, value_name = "PAGE")]
    page: Page,

    /// Print one page as text, with rates over one interval; COLUMNS is its width (else 80)
    #[arg(long)]
    once: bool,

    #[command(flatten)]
    query: TopQuery,
}

/// Width of text where the environment does not say it.
const WIDTH: usize = 80;

/// Watches the probe until a key, a signal, or the end of the probe.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments {
        to,
        interval,
        page,
        once,
        query,
    } = arguments;
    let has_terminal = stdin().is_terminal() && stdout().is_terminal();
    if !once && !has_terminal {
        let said = "top needs a terminal as standard input and output: --once prints one page as \
                    text";
        return Err(UsageError(said.to_owned()).into());
    }
    let client = to.client()?;
    let known = Known {
        socket: client.path().display().to_string(),
        history: History::new(Sample::take(&client)?),
        top: None,
        is_silent: false,
    };
    let view = View {
        page,
        query,
        ..View::default()
    };
    if once {
        return quietly(print_once(&client, known, &view, interval));
    }
    let has_colour = env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let watch = Watch::start(client.path(), interval)?;
    screen::show(known, view, Look { has_colour }, &watch, interval)
}

fn print_once(
    client: &Client,
    mut known: Known,
    view: &View,
    interval: Duration,
) -> anyhow::Result<()> {
    thread::sleep(interval);
    known.history.add(Sample::take(client)?);
    if view.page.has_heaviest() {
        known.top = Some(ask_for_top(client, &view.query)?);
    }
    let columns = env::var("COLUMNS").ok();
    let columns = columns.and_then(|columns| columns.parse().ok());
    let width = columns.filter(|width| *width > 0).unwrap_or(WIDTH);
    let look = Look { has_colour: false };
    let mut text = String::new();
    for line in draw::lines(&known, view, look, width, None) {
        let line: String = line.to_string().chars().take(width).collect();
        text += line.trim_end();
        text.push('\n');
    }
    write_to_stdout(text.as_bytes())
}

fn parse_interval(text: &str) -> Result<Duration, String> {
    const RANGE: std::ops::RangeInclusive<Duration> =
        Duration::from_millis(100)..=Duration::from_secs(60);
    let interval = humantime::parse_duration(text).ok();
    interval
        .filter(|interval| RANGE.contains(interval))
        .ok_or_else(|| {
            format!(
                "'{text}' is not a time from 100ms to 1min: expected a number and a unit, as in \
                 500ms or 2s"
            )
        })
}
