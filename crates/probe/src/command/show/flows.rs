//! `xdprobe show flows`: the layout of `flowctl show`, to the column.

use crate::command::table::write_to_stdout;
use crate::control::{Client, FlowLine, FlowsQuery, to_parameters};
use anyhow::Context;

/// The header of `flowctl show` (flowctl(8) of FreeBSD).
const HEADER: &str =
    "SrcIf         SrcIPaddress    DstIf         DstIPaddress    Pr SrcP DstP  Pkts";
/// What `--wide` adds.
const WIDE: &str = "      Octets     Age    Idle    Left Flags ToS";
/// Octets that are written at a time.
const CHUNK_OCTETS: usize = 1 << 16;

/// Prints the flows as JSON lines.
pub fn print_json(client: &Client, query: &FlowsQuery) -> anyhow::Result<()> {
    copy(client, query, |line, text| {
        text.extend_from_slice(line);
        Ok(())
    })
}

/// Prints the flows as a table.
pub fn print(client: &Client, query: &FlowsQuery, is_wide: bool) -> anyhow::Result<()> {
    let wide = if is_wide { WIDE } else { "" };
    write_to_stdout(format!("{HEADER}{wide}\n").as_bytes())?;
    copy(client, query, |line, text| {
        let flow: FlowLine = serde_json::from_slice(line)
            .context("a flow that is not understood; are both of the same version?")?;
        text.extend_from_slice(row(&flow).as_bytes());
        if is_wide {
            text.extend_from_slice(more(&flow).as_bytes());
        }
        Ok(())
    })
}

/// Writes a line of text for each line of the answer.
fn copy(
    client: &Client,
    query: &FlowsQuery,
    mut write: impl FnMut(&[u8], &mut Vec<u8>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut text = Vec::with_capacity(CHUNK_OCTETS + 1_024);
    client.lines(&format!("/flows?{}", to_parameters(query)), |line| {
        write(line, &mut text)?;
        text.push(b'\n');
        if text.len() >= CHUNK_OCTETS {
            write_to_stdout(&text)?;
            text.clear();
        }
        Ok(true)
    })?;
    write_to_stdout(&text)
}

/// A flow as `flowctl show` has it: the protocol in decimal, ports in hexadecimal.
fn row(flow: &FlowLine) -> String {
    let interface = |name: &Option<String>, index: u16| match (name, index) {
        (Some(name), _) => name.clone(),
        (None, 0) => "-".to_owned(),
        (None, index) => index.to_string(),
    };
    format!(
        "{:<13} {:<15} {:<13} {:<15} {:>2} {:04x} {:04x} {:>6}",
        interface(&flow.input_name, flow.input),
        flow.source.to_string(),
        interface(&flow.output_name, flow.output),
        flow.destination.to_string(),
        flow.protocol,
        flow.source_port,
        flow.destination_port,
        flow.packets
    )
}

/// The columns that `--wide` adds; times in seconds.
fn more(flow: &FlowLine) -> String {
    let seconds = |ms: u64| format!("{}.{}", ms / 1_000, ms % 1_000 / 100);
    format!(
        " {:>11} {:>7} {:>7} {:>7}    {:02x}  {:02x}",
        flow.octets,
        seconds(flow.age_ms),
        seconds(flow.idle_ms),
        seconds(flow.left_ms),
        flow.tcp_flags,
        flow.tos
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;

    fn flow() -> FlowLine {
        FlowLine {
            source: [192, 168, 1, 2].into(),
            destination: [192, 168, 1, 1].into(),
            source_port: 1016,
            destination_port: 111,
            protocol: 6,
            tos: 0,
            tcp_flags: 0x1b,
            packets: 5,
            octets: 300,
            first: Timestamp::UNIX_EPOCH,
            last: Timestamp::UNIX_EPOCH,
            age_ms: 12_345,
            idle_ms: 40,
            left_ms: 960,
            input: 1,
            input_name: Some("em0".to_owned()),
            output: 1,
            output_name: Some("em0".to_owned()),
        }
    }

    #[test]
    fn a_flow_is_printed_as_flowctl_did() {
        assert_eq!(
            row(&flow()),
            "em0           192.168.1.2     em0           192.168.1.1      6 03f8 006f      5"
        );
        assert_eq!(row(&flow()).len(), HEADER.len() + 1);
        let unknown = FlowLine {
            output: 0,
            output_name: None,
            ..flow()
        };
        assert!(row(&unknown).contains(" -             192.168.1.1 "));
    }

    #[test]
    fn wide_columns_stand_below_their_names() {
        let line = row(&flow()) + &more(&flow());
        let header = format!("{HEADER}{WIDE}");
        assert!(
            line.ends_with("        300    12.3     0.0     0.9    1b  00"),
            "{line}"
        );
        assert_eq!(line.len(), header.len() + 1);
    }
}
