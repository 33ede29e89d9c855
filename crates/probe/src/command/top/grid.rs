//! Tables that fit into a width, and numbers of few digits.

use ratatui::style::{Color, Style};
use ratatui::text::Line;

/// A column: its name, its width in characters, and the least width of the screen at which it is
/// shown. The first column is as wide as it has to be, if there is room.
#[derive(Clone, Copy, Debug)]
pub struct Column(pub &'static str, pub usize, pub usize);

/// A row.
#[derive(Clone, Debug)]
pub struct Row {
    /// A text for each column.
    pub cells: Vec<String>,
    /// Whether it is about a loss that moves, or something that does not work.
    pub is_alarming: bool,
}

/// How things are marked.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// Whether there are colours. What they say is always said by signs too.
    pub has_colour: bool,
}

/// Characters of the sign before each row.
const SIGN: usize = 2;
/// The least width of the first column.
const FIRST_MIN: usize = 6;

impl Look {
    /// A line that is a heading.
    pub fn heading(self, text: String) -> Line<'static> {
        Line::styled(text, Style::new().bold())
    }

    /// A line, with a sign where it is alarming.
    pub fn line(self, text: &str, is_alarming: bool) -> Line<'static> {
        if !is_alarming {
            return Line::raw(format!("  {text}"));
        }
        let style = Style::new().bold();
        let style = if self.has_colour {
            style.fg(Color::Red)
        } else {
            style
        };
        Line::styled(format!("! {text}"), style)
    }
}

/// The lines of a table: its head, and its rows.
pub fn grid(look: Look, columns: &[Column], rows: &[Row], width: usize) -> Vec<Line<'static>> {
    let shown: Vec<_> = (1..columns.len())
        .filter(|nth| columns[*nth].2 <= width)
        .collect();
    let others: usize = shown.iter().map(|nth| columns[*nth].1 + 1).sum();
    let names = rows.iter().map(|row| row.cells[0].chars().count());
    let longest = names.chain([columns[0].1]).max().unwrap_or(0);
    let room = width.saturating_sub(SIGN + others);
    let first = longest.min(room).max(FIRST_MIN);
    let text = |cell: &dyn Fn(usize) -> String| {
        let mut text = format!("{:<first$.first$}", cell(0));
        for nth in &shown {
            let width = columns[*nth].1;
            text += &format!(" {:>width$}", cell(*nth));
        }
        text
    };
    let head = text(&|nth| columns[nth].0.to_owned());
    let mut lines = vec![look.heading(format!("  {head}"))];
    lines.extend(rows.iter().map(|row| {
        let text = text(&|nth| row.cells[nth].clone());
        look.line(&text, row.is_alarming)
    }));
    lines
}

/// Three digits and a power of 1 000: `0.4`, `12`, `1.23k`, `45.6M`; `-` for none.
pub fn short(value: Option<f64>) -> String {
    let Some(mut value) = value else {
        return "-".to_owned();
    };
    // What rounds to 1 000 has the next letter.
    const ROUNDED: f64 = 999.5;
    if value < ROUNDED {
        let decimals = usize::from(value < 9.95 && value > 0.0 && value.fract() != 0.0);
        return format!("{value:.decimals$}");
    }
    let mut letter = ' ';
    for next in ['k', 'M', 'G', 'T', 'P', 'E'] {
        if value < ROUNDED {
            break;
        }
        value /= 1_000.0;
        letter = next;
    }
    let decimals = match value {
        ..9.995 => 2,
        ..99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$}{letter}")
}

/// The same, of a count.
pub fn short_count(count: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "three digits are printed")]
    short(Some(count as f64))
}

/// A share in percent; `-` of nothing.
pub fn percent(part: u64, of: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "three digits are printed")]
    match of {
        0 => "-".to_owned(),
        of => format!("{:.1}", part as f64 * 100.0 / of as f64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        for (value, expected) in [
            (0.0, "0"),
            (0.04, "0.0"),
            (0.4, "0.4"),
            (7.0, "7"),
            (9.96, "10"),
            (12.3, "12"),
            (999.4, "999"),
            (999.6, "1.00k"),
            (1_234.0, "1.23k"),
            (9_996.0, "10.0k"),
            (45_678.0, "45.7k"),
            (99_960.0, "100k"),
            (999_600.0, "1.00M"),
            (9.87e9, "9.87G"),
            (1.8e19, "18.0E"),
        ] {
            assert_eq!(short(Some(value)), expected, "{value}");
        }
        assert_eq!(short(None), "-");
        assert_eq!(short_count(u64::MAX), "18.4E");
    }

    const COLUMNS: [Column; 3] = [
        Column("Name", 4, 0),
        Column("One", 5, 0),
        Column("Two", 5, 30),
    ];

    fn texts(width: usize, name: &str) -> Vec<String> {
        let row = |is_alarming| Row {
            cells: vec![name.to_owned(), "1".to_owned(), "2".to_owned()],
            is_alarming,
        };
        let look = Look { has_colour: false };
        let lines = grid(look, &COLUMNS, &[row(false), row(true)], width);
        lines.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_table_leaves_out_columns_and_cuts_names_where_the_screen_is_narrow() {
        assert_eq!(
            texts(40, "tap0/12"),
            [
                "  Name      One   Two",
                "  tap0/12     1     2",
                "! tap0/12     1     2"
            ]
        );
        assert_eq!(
            texts(16, "192.0.2.255"),
            ["  Name       One", "  192.0.2.     1", "! 192.0.2.     1"]
        );
        assert_eq!(texts(0, "192.0.2.255").len(), 3);
    }
}
