//! Text of others on a terminal: names of files, and what is written in them. It must not control
//! the terminal, or add lines.

/// The text with its control characters escaped, as `\u{1b}`.
#[must_use]
pub fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() || CHANGES_DIRECTION.contains(&character) {
            printable.extend(character.escape_default());
        } else {
            printable.push(character);
        }
    }
    printable
}

/// Characters that reorder the text behind them on a terminal (Unicode, bidirectional formatting).
const CHANGES_DIRECTION: [char; 12] = [
    '\u{61c}', '\u{200e}', '\u{200f}', '\u{202a}', '\u{202b}', '\u{202c}', '\u{202d}', '\u{202e}',
    '\u{2066}', '\u{2067}', '\u{2068}', '\u{2069}',
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_controls_a_terminal_or_reorders_text_is_escaped_and_nothing_else() {
        assert_eq!(
            printable("flöws-2026 \u{1f600}.ft"),
            "flöws-2026 \u{1f600}.ft"
        );
        assert_eq!(
            printable("a\u{1b}[2J\n\r\u{7f}\u{9b}2J\u{202e}b"),
            r"a\u{1b}[2J\n\r\u{7f}\u{9b}2J\u{202e}b"
        );
    }
}
