//! Tables on standard output.

use comfy_table::{CellAlignment, Table, presets};
use std::io::{Write, stdout};

/// A table without lines: names of columns, and all but the first to the right.
pub fn table(columns: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(columns);
    for (nth, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if nth > 0 {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// The table's lines, without the blanks at their ends.
pub fn text_of(table: &Table) -> String {
    let text = table.to_string();
    let lines = text.lines().map(|line| format!("{}\n", line.trim_end()));
    lines.collect()
}

/// Writes on standard output, at once.
pub fn write_to_stdout(octets: &[u8]) -> anyhow::Result<()> {
    let mut out = stdout().lock();
    out.write_all(octets).and_then(|()| out.flush())?;
    Ok(())
}
