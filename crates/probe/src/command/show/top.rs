//! `xdprobe show top`: resident flows added up, largest first.

use crate::command::table::{table, text_of, write_to_stdout};
use crate::control::{By, Client, InterfaceNames, Sum, Top, TopQuery, to_parameters};
use serde_json::Value;

/// Prints the sums, as a table or as JSON.
pub fn print(client: &Client, query: &TopQuery, json: bool) -> anyhow::Result<()> {
    let path = format!("/top?{}", to_parameters(query));
    if json {
        let answer: Value = client.get(&path)?;
        return write_to_stdout(format!("{answer}\n").as_bytes());
    }
    write_to_stdout(text(&client.get(&path)?).as_bytes())
}

/// The table, and a line with the total.
pub fn text(top: &Top) -> String {
    let mut names = InterfaceNames::default();
    let mut table = table(&["What", "Flows", "Packets", "Octets", "Share"]);
    let count = |sum: &Sum| match top.by {
        By::Octets => sum.octets,
        By::Packets => sum.packets,
        By::Flows => sum.flows,
    };
    for row in &top.rows {
        #[expect(clippy::cast_precision_loss, reason = "a percentage has three digits")]
        let share = count(&row.sum) as f64 * 100.0 / count(&top.total).max(1) as f64;
        table.add_row([
            row.subject.text(&mut names),
            row.sum.flows.to_string(),
            row.sum.packets.to_string(),
            row.sum.octets.to_string(),
            format!("{share:.1} %"),
        ]);
    }
    let Sum {
        flows,
        packets,
        octets,
    } = top.total;
    format!(
        "{}{} of {} rows; in all {flows} flows, {packets} packets, {octets} octets\n",
        text_of(&table),
        top.rows.len(),
        top.row_count
    )
}
