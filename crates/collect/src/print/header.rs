//! Prints the header of a file in the format of `flow-print -p`.

use crate::header::{
    FLAG_COMPRESS, FLAG_DONE, FLAG_PRELOADED, FLAG_STREAMING, FileHeader, STREAM_VERSION,
};
use crate::printable::printable;
use crate::record::ByteOrder;
use crate::zone::LocalZone;
use jiff::Timestamp;
use std::fmt::Display;

/// The header as lines of text, each beginning with `comment`; times are local.
///
/// Source: flow-tools 0.68, `lib/ftio.c`, `ftio_header_print`.
#[must_use]
pub fn header_text(header: &FileHeader, comment: char, zone: &LocalZone) -> String {
    let mut lines = Lines {
        comment,
        text: format!("{comment}\n"),
    };
    let streaming = header.has(FLAG_STREAMING);
    let counts_known = !streaming || header.has(FLAG_PRELOADED);
    let closed = header.has(FLAG_DONE | FLAG_PRELOADED);
    lines.line(
        "mode:",
        Some(if streaming { "streaming" } else { "normal" }),
    );
    lines.line(
        "capture hostname:",
        header
            .hostname
            .as_deref()
            .filter(|_| !streaming)
            .map(printable),
    );
    let (start, end) = (
        header.capture_start_s,
        header.capture_end_s.filter(|_| closed),
    );
    if counts_known {
        lines.line("capture start:", start.map(|start| calendar(start, zone)));
        lines.line("capture end:", end.map(|end| calendar(end, zone)));
        let period = start
            .zip(end)
            .map(|(start, end)| format!("{} seconds", end.wrapping_sub(start)));
        lines.line("capture period:", period);
    }
    lines.line(
        "compress:",
        Some(if header.has(FLAG_COMPRESS) {
            "on"
        } else {
            "off"
        }),
    );
    lines.line(
        "byte order:",
        Some(if header.order == ByteOrder::Little {
            "little"
        } else {
            "big"
        }),
    );
    lines.line("stream version:", Some(STREAM_VERSION));
    lines.line("export version:", Some(header.version.number()));
    if counts_known {
        lines.line("lost flows:", header.lost);
        lines.line("misordered flows:", header.misordered);
        lines.line("corrupt packets:", header.corrupt);
        lines.line("sequencer resets:", header.resets);
    }
    lines.line("comments:", header.comment.as_deref().map(printable));
    if counts_known && closed {
        lines.line("capture flows:", header.flows);
    } else if counts_known {
        lines
            .text
            .push_str(&format!("{comment} note, incomplete flow file\n"));
    }
    lines.text.push_str(&format!("{comment}\n"));
    lines.text
}

struct Lines {
    comment: char,
    text: String,
}

impl Lines {
    fn line(&mut self, name: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.text
                .push_str(&format!("{} {name:<21} {value}\n", self.comment));
        }
    }
}

/// A time in the format of ctime(3).
fn calendar(unix_s: u32, zone: &LocalZone) -> String {
    let at = Timestamp::from_second(i64::from(unix_s))
        .expect("32 bits of seconds are within the calendar");
    at.to_zoned(zone.zone().clone())
        .strftime("%a %b %e %H:%M:%S %Y")
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::tz::TimeZone;
    use xdprobe_netflow::Version;

    #[test]
    fn prints_what_flow_print_prints() {
        let header = FileHeader {
            flags: FLAG_DONE,
            capture_start_s: Some(1_795_352_088),
            capture_end_s: Some(1_795_352_100),
            flows: Some(272),
            lost: Some(0),
            hostname: Some("vm".into()),
            ..FileHeader::new(Version::V5, ByteOrder::Little)
        };
        let zone = LocalZone::new(TimeZone::UTC);
        assert_eq!(
            header_text(&header, '#', &zone),
            "#\n\
             # mode:                 normal\n\
             # capture hostname:     vm\n\
             # capture start:        Sun Nov 22 12:54:48 2026\n\
             # capture end:          Sun Nov 22 12:55:00 2026\n\
             # capture period:       12 seconds\n\
             # compress:             off\n\
             # byte order:           little\n\
             # stream version:       3\n\
             # export version:       5\n\
             # lost flows:           0\n\
             # capture flows:        272\n\
             #\n"
        );
        let unfinished = FileHeader {
            flags: FLAG_COMPRESS,
            ..header.clone()
        };
        let text = header_text(&unfinished, ';', &zone);
        assert!(text.contains("; compress:             on\n"), "{text}");
        assert!(
            text.ends_with("; note, incomplete flow file\n;\n"),
            "{text}"
        );
        let streaming = FileHeader {
            flags: FLAG_STREAMING,
            ..header.clone()
        };
        assert!(!header_text(&streaming, '#', &zone).contains("flows"));
    }

    #[test]
    fn control_characters_of_hostname_and_comment_are_escaped() {
        let header = FileHeader {
            hostname: Some("\x1b]0;owned\x07vm".into()),
            comment: Some("f\u{fc}r\n# capture flows: 0\u{9b}31m \u{202e}\x7f".into()),
            ..FileHeader::new(Version::V5, ByteOrder::Little)
        };
        let text = header_text(&header, '#', &LocalZone::new(TimeZone::UTC));
        assert!(
            text.contains("# capture hostname:     \\u{1b}]0;owned\\u{7}vm\n"),
            "{text}"
        );
        assert!(
            text.contains(
                "comments:             f\u{fc}r\\n# capture flows: 0\\u{9b}31m \\u{202e}\\u{7f}\n"
            ),
            "{text}"
        );
    }
}
