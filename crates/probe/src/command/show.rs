//! `xdprobe show`: what a running probe sees and has done, as tables for people or as JSON.

mod flows;
mod top;

use super::files::quietly;
use super::table::{table, text_of, write_to_stdout};
use super::to::To;
use crate::control::{Client, FlowsQuery, Queues, TopQuery};
use clap::{Args, Subcommand};
use comfy_table::CellAlignment;
use serde_json::Value;

/// The command line of `xdprobe show`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  xdprobe show flows --port 53 --limit 20
  xdprobe show flows --wide --prefix 10.0.0.0/8 --least-octets 1000000
  xdprobe show top --by packets --over port -n 5
  xdprobe show ledger --control /run/xdprobe/tap0.sock
  xdprobe show queues --json | jq .")]
pub struct Arguments {
    #[command(subcommand)]
    what: What,

    #[command(flatten)]
    to: To,

    /// Print JSON: lines for flows, else one object
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The resident flows, one a line
    Flows(Flows),
    /// The resident flows added up by source, pair, port or protocol, largest first
    Top(TopQuery),
    /// Where every packet is
    Ledger,
    /// Each queue: packets, losses, flow cache
    Queues,
    /// Each collector: state, records, losses
    Collectors,
    /// Each key of the configuration: value, and where it is from
    Config,
}

/// How flows are listed.
#[derive(Args, Debug)]
struct Flows {
    #[command(flatten)]
    query: FlowsQuery,

    /// Show octets, age, idle time, time left and TCP flags as well
    #[arg(long)]
    wide: bool,
}

/// Asks the probe, and prints what it says.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    quietly(show(arguments))
}

fn show(arguments: &Arguments) -> anyhow::Result<()> {
    let client = arguments.to.client()?;
    let json = arguments.json;
    match &arguments.what {
        What::Flows(Flows { query, .. }) if json => flows::print_json(&client, query),
        What::Flows(Flows { query, wide }) => flows::print(&client, query, *wide),
        What::Top(query) => top::print(&client, query, json),
        What::Ledger if json => print_json(&client, "/ledger"),
        What::Ledger => {
            let mut text = Vec::new();
            client.lines("/ledger.txt", |line| {
                text.extend_from_slice(line);
                text.push(b'\n');
                Ok(true)
            })?;
            write_to_stdout(&text)
        }
        What::Queues if json => print_json(&client, "/queues"),
        What::Queues => write_to_stdout(queues(&client.get("/queues")?).as_bytes()),
        What::Collectors if json => print_json(&client, "/collectors"),
        What::Collectors => {
            let answer: Value = client.get("/collectors")?;
            write_to_stdout(collectors(&answer).as_bytes())
        }
        What::Config if json => print_json(&client, "/config"),
        What::Config => write_to_stdout(config(&client.get("/config")?).as_bytes()),
    }
}

fn print_json(client: &Client, path: &str) -> anyhow::Result<()> {
    let answer: Value = client.get(path)?;
    write_to_stdout(format!("{answer}\n").as_bytes())
}

fn queues(answer: &Queues) -> String {
    let mut table = table(&[
        "Queue",
        "State",
        "Received",
        "Octets",
        "Filtered",
        "Dropped",
        "Undecoded",
        "Flows",
        "Full %",
        "Created",
        "Evicted",
        "Busy %",
    ]);
    let percent = |part: u64, of: u64| match of {
        0 => "-".to_owned(),
        // Counts are far below 2^53.
        #[expect(clippy::cast_precision_loss, reason = "a percentage has three digits")]
        of => format!("{:.1}", part as f64 * 100.0 / of as f64),
    };
    for queue in &answer.queues {
        let turns = queue.idle_turns + queue.busy_turns;
        table.add_row([
            queue.label(),
            queue.state.clone(),
            queue.received_packets.to_string(),
            queue.received_octets.to_string(),
            (queue.filtered + queue.sampled_out).to_string(),
            queue.dropped.values().sum::<u64>().to_string(),
            queue.undecoded.to_string(),
            queue.resident_flows.to_string(),
            percent(queue.resident_flows, queue.flows_max),
            queue.flows_created.to_string(),
            queue.flows_evicted.to_string(),
            percent(queue.busy_turns, turns),
        ]);
    }
    let mut text = text_of(&table);
    let outside = answer.interfaces.iter().flat_map(|(name, dropped)| {
        dropped
            .iter()
            .map(move |(place, packets)| format!("{name}: {packets} packets dropped: {place}\n"))
    });
    text.extend(outside);
    text
}

fn config(answer: &Value) -> String {
    let mut table = table(&["Key", "Value", "From"]);
    for column in table.column_iter_mut() {
        column.set_cell_alignment(CellAlignment::Left);
    }
    for setting in answer["settings"].as_array().into_iter().flatten() {
        let text = |name: &str| match &setting[name] {
            Value::String(text) => text.clone(),
            Value::Null => "-".to_owned(),
            other => other.to_string(),
        };
        let from = match &setting["from"] {
            Value::String(from) if from == "file" => format!("{}:{}", text("path"), text("line")),
            _ => text("from").replace('_', " "),
        };
        table.add_row([text("key"), text("value"), from]);
    }
    text_of(&table)
}

fn collectors(answer: &Value) -> String {
    let mut table = table(&[
        "Collector",
        "State",
        "Records",
        "Packets",
        "Datagrams",
        "Lost",
        "Waiting",
        "Refusals",
    ]);
    for collector in answer["collectors"].as_array().into_iter().flatten() {
        let text = |name: &str| match &collector[name] {
            Value::String(text) => text.clone(),
            Value::Null => "-".to_owned(),
            other => other.to_string(),
        };
        let lost = collector["lost"].as_object().into_iter().flatten();
        let lost: u64 = lost.filter_map(|(_, records)| records.as_u64()).sum();
        table.add_row([
            text("collector"),
            text("state"),
            text("records"),
            text("packets"),
            text("datagrams"),
            lost.to_string(),
            text("waiting"),
            text("refusals"),
        ]);
    }
    text_of(&table)
}
