//! Prints records: flow-print's formats exactly, JSON lines, and the comma-separated values of
//! `flow-export -f2`.
//!
//! A [`Printer`] writes a format's heading once and then one or two lines for each record. Source
//! of the formats: flow-tools 0.68, `src/flow-print.c`; the functions here have the same names.

mod csv;
mod header;
mod json;
mod line;

use crate::names::Names;
use crate::record::StoredRecord;
use crate::zone::LocalZone;
pub use header::header_text;
use line::Line;
use std::io::{self, Write};
use xdprobe_netflow::Version;

/// Octets of text that are gathered before they are written to the output.
const BUFFER_OCTETS: usize = 64 * 1024;
/// IP protocol number of TCP.
const TCP: u8 = 6;

/// How records are printed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PrintFormat {
    /// `-f0`: one line, interfaces, protocol and ports in hexadecimal.
    Hexadecimal,
    /// `-f1`: two lines, with times.
    TwoLines,
    /// `-f2`: as `-f1`, but scans only: TCP, no flag but SYN, two packets of 40 octets.
    SynOnly,
    /// `-f3`: one line, decimal. The default of versions 1 and 5.
    OneLine,
    /// `-f4`: prefixes and AS numbers.
    Prefixes,
    /// `-f5`: one line with times.
    Times,
    /// `-f6`: as in the accounting of a router.
    Accounting,
    /// `-f7`: with the address of the router that a switch short-cuts. The default of version 7.
    Switched,
    /// One JSON object a line.
    Json,
    /// Comma-separated values of every field, as `flow-export -f2` prints them.
    Csv,
}

impl PrintFormat {
    /// Every format that has a number, in the order of the numbers.
    const NUMBERED: [Self; 8] = [
        Self::Hexadecimal,
        Self::TwoLines,
        Self::SynOnly,
        Self::OneLine,
        Self::Prefixes,
        Self::Times,
        Self::Accounting,
        Self::Switched,
    ];

    /// flow-print's format of this number, 0 to 7.
    #[must_use]
    pub fn from_number(number: usize) -> Option<Self> {
        Self::NUMBERED.get(number).copied()
    }

    /// flow-print's default format for records of a version.
    #[must_use]
    pub fn default_of(version: Version) -> Self {
        if version == Version::V7 {
            Self::Switched
        } else {
            Self::OneLine
        }
    }

    /// Checks that the version has every field that the format prints.
    ///
    /// # Errors
    ///
    /// [`MissingField`], whose text begins with that of flow-print.
    pub fn check(self, version: Version) -> Result<(), MissingField> {
        let carried = match self {
            Self::Prefixes => version != Version::V1,
            Self::Switched => version == Version::V7,
            _ => true,
        };
        if carried {
            Ok(())
        } else {
            Err(MissingField {
                format: self,
                version: version.number(),
            })
        }
    }

    fn heading(self, wide: bool, version: Version) -> String {
        let heading = match (self, wide) {
            (Self::Hexadecimal, _) => {
                "Sif  SrcIPaddress     Dif  DstIPaddress      Pr SrcP DstP  Pkts       Octets\n"
            }
            (Self::TwoLines, _) => concat!(
                "Sif  SrcIPaddress     DIf  DstIPaddress      Pr SrcP DstP  Pkts  Octets\n",
                " StartTime          EndTime             Active   B/Pk Ts Fl\n\n"
            ),
            (Self::SynOnly, _) => concat!(
                "Sif SrcIPaddress     DIf DstIPaddress    Pr SrcP DstP Pkts       Octets\n",
                " StartTime          EndTime             Active   B/Pk Ts Fl\n\n"
            ),
            (Self::OneLine, false) => {
                "srcIP            dstIP            prot  srcPort  dstPort  octets      packets\n"
            }
            (Self::OneLine, true) => {
                "srcIP            dstIP            prot   srcPort           dstPort           \
                 octets      packets\n"
            }
            (Self::Prefixes, false) => {
                "srcIP              dstIP              prot  srcAS  dstAS  octets      packets\n"
            }
            (Self::Prefixes, true) => concat!(
                "Sif  Dif  srcIP               dstIP               prot   srcAS             \
                 dstAS             ",
                "octets      packets\n"
            ),
            (Self::Times, _) => concat!(
                "Start             End               Sif   SrcIPaddress    SrcP  DIf   \
                 DstIPaddress    DstP    ",
                "P Fl Pkts       Octets\n\n"
            ),
            (Self::Accounting, _) => {
                "   Source           Destination              Packets               Bytes\n"
            }
            (Self::Switched, _) => concat!(
                "srcIP               dstIP               router_sc        prot   srcPort         \
                 dstPort         ",
                "octets      packets\n"
            ),
            (Self::Json, _) => "",
            (Self::Csv, _) => return csv::heading(version),
        };
        heading.into()
    }
}

/// A format needs fields that records of the version lack.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "Flow record missing required field for format. (version {version} has not all fields of \
     {format:?}: use -f3, which prints any version)"
)]
pub struct MissingField {
    /// The format.
    format: PrintFormat,
    /// Version of the records.
    version: u16,
}

/// Prints records to `W` in one format.
///
/// Times in flow-print's formats are local. They are computed as in flow-print: `unix + (stamp -
/// SysUptime)` without a wrap of the uptime, so that a stamp from before the exporter's boot
/// becomes a time up to 49.7 days in the future, and without care for a first packet after the
/// last, whose difference is up to 49.7 days. JSON has the times of [`StoredRecord::unix_ms_of`]
/// and the duration of [`StoredRecord::duration_ms`]. The values of `--csv` are those of the
/// record.
#[derive(Debug)]
pub struct Printer<W> {
    format: PrintFormat,
    wide: bool,
    version: Version,
    zone: LocalZone,
    names: Option<Names>,
    line: Line,
    left_out: u64,
    output: W,
}

impl<W: Write> Printer<W> {
    /// A printer for records of `version`. The heading is written with the first flush.
    ///
    /// # Errors
    ///
    /// [`MissingField`] if the version lacks fields that the format prints.
    pub fn new(
        format: PrintFormat,
        wide: bool,
        version: Version,
        zone: LocalZone,
        output: W,
    ) -> Result<Self, MissingField> {
        format.check(version)?;
        let mut line = Line::with_capacity(BUFFER_OCTETS + 1024);
        line.text(&format.heading(wide, version));
        Ok(Self {
            format,
            wide,
            version,
            zone,
            names: None,
            line,
            left_out: 0,
            output,
        })
    }

    /// The format.
    #[must_use]
    pub fn format(&self) -> PrintFormat {
        self.format
    }

    /// Prints records of `version` from now on. Where their columns differ, in the values of every
    /// field, another heading comes first.
    ///
    /// # Errors
    ///
    /// [`MissingField`] if the version lacks fields that the format prints; nothing changes then.
    pub fn take_version(&mut self, version: Version) -> Result<(), MissingField> {
        self.format.check(version)?;
        if version != self.version && self.format == PrintFormat::Csv {
            self.line.text(&csv::heading(version));
        }
        self.version = version;
        Ok(())
    }

    /// Goes over to another format, whose heading comes first.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new); nothing changes then.
    pub fn take_format(
        &mut self,
        format: PrintFormat,
        version: Version,
    ) -> Result<(), MissingField> {
        format.check(version)?;
        (self.format, self.version) = (format, version);
        self.line.text(&format.heading(self.wide, version));
        Ok(())
    }

    /// Prints names instead of numbers from now on, where flow-print `-n` does: protocols in
    /// formats 3, 4 and 7, ports in formats 3 and 7.
    pub fn set_names(&mut self, names: Names) {
        self.names = Some(names);
    }

    /// Records without packets that were left out, as in flow-print: formats with octets per packet
    /// cannot print them.
    #[must_use]
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Prints one record.
    ///
    /// # Errors
    ///
    /// If the output cannot be written. Text is gathered first, so that the error may come later.
    #[inline]
    pub fn print(&mut self, record: &StoredRecord) -> io::Result<()> {
        match self.format {
            PrintFormat::Hexadecimal => self.format0(record),
            PrintFormat::TwoLines => self.format1(record),
            PrintFormat::SynOnly => self.format2(record),
            PrintFormat::OneLine => self.format3(record),
            PrintFormat::Prefixes => self.format4(record),
            PrintFormat::Times => self.format5(record),
            PrintFormat::Accounting => self.format6(record),
            PrintFormat::Switched => self.format7(record),
            PrintFormat::Json => json::write(&mut self.line, self.version, record),
            PrintFormat::Csv => csv::write(&mut self.line, self.version, record),
        }
        if self.line.len() < BUFFER_OCTETS {
            Ok(())
        } else {
            self.write_out()
        }
    }

    /// Writes the text that was gathered, including the heading.
    ///
    /// # Errors
    ///
    /// If the output cannot be written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.write_out()?;
        self.output.flush()
    }

    #[cold]
    fn write_out(&mut self) -> io::Result<()> {
        let done = self.output.write_all(self.line.as_bytes());
        self.line.clear();
        done
    }

    fn format0(&mut self, record: &StoredRecord) {
        let line = &mut self.line;
        line.hex4(record.input);
        line.text(" ");
        line.address15(record.source);
        line.text("  ");
        line.hex4(record.output);
        line.text(" ");
        line.address15(record.destination);
        line.text("   ");
        line.hex2(record.protocol);
        line.text(" ");
        line.hex_left4(record.source_port);
        line.text(" ");
        line.hex_left4(record.destination_port);
        line.text("  ");
        line.left(record.packets, 10);
        line.text(" ");
        line.left(record.octets, 10);
        line.text("\n");
    }

    fn format1(&mut self, record: &StoredRecord) {
        if record.packets == 0 {
            self.left_out += 1;
            return;
        }
        self.format0(record);
        self.second_line(record);
    }

    fn format2(&mut self, record: &StoredRecord) {
        const SYN: u8 = 2;
        if record.packets == 0 {
            self.left_out += 1;
        } else if (
            record.protocol,
            record.tcp_flags,
            record.packets,
            record.octets,
        ) == (TCP, SYN, 2, 80)
        {
            let line = &mut self.line;
            line.hex2_or_more(record.input);
            line.text("  ");
            line.address15(record.source);
            line.text("  ");
            line.hex2_or_more(record.output);
            line.text("  ");
            line.address15(record.destination);
            line.text(" ");
            line.hex2(record.protocol);
            line.text(" ");
            line.hex_left4(record.source_port);
            line.text(" ");
            line.hex_left4(record.destination_port);
            line.text(" ");
            line.left(record.packets, 10);
            line.text(" ");
            line.left(record.octets, 10);
            line.text("\n");
            self.second_line(record);
        }
    }

    /// Times, octets per packet, type of service and flags, and an empty line. `packets` is not 0.
    fn second_line(&mut self, record: &StoredRecord) {
        let active_ms = record.last_ms.wrapping_sub(record.first_ms);
        self.line.text(" ");
        self.time(record, record.first_ms);
        self.line.text("  ");
        self.time(record, record.last_ms);
        self.line.text("  ");
        let line = &mut self.line;
        line.right(active_ms / 1000, 5);
        line.text(".");
        line.zeros(active_ms % 1000, 3);
        line.text(" ");
        line.left(record.octets / record.packets, 3);
        line.text(" ");
        line.hex2(record.tos);
        line.text(" ");
        line.hex2(record.tcp_flags);
        line.text("\n\n");
    }

    fn format3(&mut self, record: &StoredRecord) {
        let (protocol, port) = if self.wide { (7, 18) } else { (6, 9) };
        let line = &mut self.line;
        line.address15(record.source);
        line.text("  ");
        line.address15(record.destination);
        line.text("  ");
        let names = self.names.as_ref();
        write_protocol(line, names, record, protocol);
        write_port(line, names, record, record.source_port, port);
        write_port(line, names, record, record.destination_port, port);
        line.left(record.octets, 10);
        line.text("  ");
        line.left(record.packets, 10);
        line.text("\n");
    }

    fn format4(&mut self, record: &StoredRecord) {
        let line = &mut self.line;
        let (gap, protocol, number) = if self.wide {
            ("  ", 7, 18)
        } else {
            (" ", 6, 7)
        };
        if self.wide {
            line.hex4(record.input);
            line.text(" ");
            line.hex4(record.output);
            line.text(" ");
        }
        line.prefix18(record.source, record.source_mask);
        line.text(gap);
        line.prefix18(record.destination, record.destination_mask);
        line.text(gap);
        write_protocol(line, self.names.as_ref(), record, protocol);
        line.left(record.source_as, number);
        line.left(record.destination_as, number);
        line.left(record.octets, 10);
        line.text("  ");
        line.left(record.packets, 10);
        line.text("\n");
    }

    fn format5(&mut self, record: &StoredRecord) {
        const FIN_SYN_RST: u8 = 0x7;
        self.time(record, record.first_ms);
        self.line.text(" ");
        self.time(record, record.last_ms);
        let line = &mut self.line;
        line.text(" ");
        line.left(record.input, 5);
        line.text(" ");
        line.address15(record.source);
        line.text(" ");
        line.left(record.source_port, 5);
        line.text(" ");
        line.left(record.output, 5);
        line.text(" ");
        line.address15(record.destination);
        line.text(" ");
        line.left(record.destination_port, 5);
        line.text(" ");
        line.left(record.protocol, 3);
        line.text(" ");
        line.left(record.tcp_flags & FIN_SYN_RST, 2);
        line.text(" ");
        line.left(record.packets, 10);
        line.text(" ");
        line.left(record.octets, 10);
        line.text("\n");
    }

    fn format6(&mut self, record: &StoredRecord) {
        let line = &mut self.line;
        line.text(" ");
        line.address15(record.source);
        line.text("  ");
        line.address15(record.destination);
        line.text("  ");
        line.right(record.packets, 17);
        line.text("  ");
        line.right(record.octets, 18);
        line.text("\n");
    }

    fn format7(&mut self, record: &StoredRecord) {
        let line = &mut self.line;
        line.prefix18(record.source, record.source_mask);
        line.text("  ");
        line.prefix18(record.destination, record.destination_mask);
        line.text("  ");
        line.address15(record.router);
        line.text("  ");
        let names = self.names.as_ref();
        write_protocol(line, names, record, 7);
        write_port(line, names, record, record.source_port, 16);
        write_port(line, names, record, record.destination_port, 16);
        line.left(record.octets, 10);
        line.text("  ");
        line.left(record.packets, 10);
        line.text("\n");
    }

    /// `MMDD.HH:MM:SS.mmm` of an uptime stamp.
    #[inline]
    fn time(&mut self, record: &StoredRecord, stamp_ms: u32) {
        let (unix_s, ms) = flow_tools_time(record, stamp_ms);
        let local = self.zone.local(unix_s);
        let line = &mut self.line;
        line.zeros(local.month, 2);
        line.two(local.day, b'.');
        line.two(local.hour, b':');
        line.two(local.minute, b':');
        line.two(local.second, b'.');
        line.zeros(ms, 3);
    }
}

/// The protocol in a column of `width`, two of them blank. flow-print cuts names after four octets.
///
/// Source: flow-tools 0.68, `lib/fmt.c`, `fmt_uint16s`.
#[inline]
fn write_protocol(line: &mut Line, names: Option<&Names>, record: &StoredRecord, width: usize) {
    const NAME_OCTETS_MAX: usize = 4;
    match names.and_then(|names| names.protocol(record.protocol)) {
        Some(name) => line.left_text(name, NAME_OCTETS_MAX, width),
        None => line.left(record.protocol, width),
    }
}

/// A port in a column of `width`, two of them blank. flow-print cuts names after 15 octets.
#[inline]
fn write_port(
    line: &mut Line,
    names: Option<&Names>,
    record: &StoredRecord,
    port: u16,
    width: usize,
) {
    const NAME_OCTETS_MAX: usize = 15;
    match names.and_then(|names| names.port(record.protocol, port)) {
        Some(name) => line.left_text(name, NAME_OCTETS_MAX.min(width - 2), width),
        None => line.left(port, width),
    }
}

/// Seconds since 1970 and milliseconds of an uptime stamp in flow-print's arithmetic: 32-bit
/// seconds, and no wrap of the uptime.
///
/// Milliseconds are below 1000 unless the datagram's nanoseconds were above 999 999 999. Source:
/// flow-tools 0.68, `lib/ftio.c`, `ftltime`.
#[inline]
fn flow_tools_time(record: &StoredRecord, stamp_ms: u32) -> (u32, u32) {
    let (boot_s, boot_ms) = (record.sys_uptime_ms / 1000, record.sys_uptime_ms % 1000);
    let mut unix_s = record.unix_s.wrapping_sub(boot_s);
    let mut ms = record.unix_ns / 1_000_000;
    if boot_ms > ms {
        unix_s = unix_s.wrapping_sub(1);
        ms += 1000;
    }
    ms = ms - boot_ms + stamp_ms % 1000;
    unix_s = unix_s.wrapping_add(stamp_ms / 1000);
    if ms >= 1000 {
        ms -= 1000;
        unix_s = unix_s.wrapping_add(1);
    }
    (unix_s, ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::tz::TimeZone;

    fn record() -> StoredRecord {
        StoredRecord {
            unix_s: 1_795_352_088,
            unix_ns: 239_396_000,
            sys_uptime_ms: 2,
            exporter: [127, 0, 0, 1].into(),
            source: [192, 168, 5, 16].into(),
            destination: [68, 233, 253, 133].into(),
            packets: 2,
            octets: 98,
            first_ms: 1_169_801_678,
            last_ms: 1_169_824_574,
            source_port: 53605,
            destination_port: 80,
            protocol: 6,
            tcp_flags: 21,
            ..StoredRecord::default()
        }
    }

    fn printed_by(
        format: PrintFormat,
        wide: bool,
        version: Version,
        record: &StoredRecord,
    ) -> String {
        let mut text = Vec::new();
        let mut printer = Printer::new(
            format,
            wide,
            version,
            LocalZone::new(TimeZone::UTC),
            &mut text,
        )
        .unwrap();
        printer.print(record).unwrap();
        printer.flush().unwrap();
        String::from_utf8(text).unwrap()
    }

    fn printed(format: PrintFormat) -> String {
        printed_by(format, false, Version::V5, &record())
    }

    /// Lines of the real flow-print, for the record above.
    #[test]
    fn prints_as_flow_print() {
        assert_eq!(
            printed(PrintFormat::Hexadecimal),
            "Sif  SrcIPaddress     Dif  DstIPaddress      Pr SrcP DstP  Pkts       Octets\n\
             0000 192.168.5.16     0000 68.233.253.133    06 d165 50    2          98        \n"
        );
        assert_eq!(
            printed(PrintFormat::TwoLines),
            "Sif  SrcIPaddress     DIf  DstIPaddress      Pr SrcP DstP  Pkts  Octets\n \
             StartTime          EndTime             Active   B/Pk Ts Fl\n\n\
             0000 192.168.5.16     0000 68.233.253.133    06 d165 50    2          98        \n \
             1206.01:51:29.915  1206.01:51:52.811     22.896 49  00 15\n\n"
        );
        assert_eq!(
            printed(PrintFormat::OneLine),
            "srcIP            dstIP            prot  srcPort  dstPort  octets      packets\n\
             192.168.5.16     68.233.253.133   6     53605    80       98          2         \n"
        );
        assert_eq!(
            printed_by(PrintFormat::OneLine, true, Version::V5, &record()),
            "srcIP            dstIP            prot   srcPort           dstPort           \
             octets      packets\n\
             192.168.5.16     68.233.253.133   6      53605             80                \
             98          2         \n"
        );
        assert_eq!(
            printed(PrintFormat::Prefixes),
            "srcIP              dstIP              prot  srcAS  dstAS  octets      packets\n\
             192.168.5.16/0     68.233.253.133/0   6     0      0      98          2         \n"
        );
        assert_eq!(
            printed(PrintFormat::Times),
            "Start             End               Sif   SrcIPaddress    SrcP  DIf   \
             DstIPaddress    DstP    P Fl \
             Pkts       Octets\n\n1206.01:51:29.915 1206.01:51:52.811 0     192.168.5.16    53605 \
             0     \
             68.233.253.133  80    6   5  2          98        \n"
        );
        assert_eq!(
            printed(PrintFormat::Accounting),
            "   Source           Destination              Packets               Bytes\n \
             192.168.5.16     68.233.253.133                   2                  98\n"
        );
        assert_eq!(
            printed_by(PrintFormat::Switched, false, Version::V7, &record()),
            "srcIP               dstIP               router_sc        prot   srcPort         \
             dstPort         octets      \
             packets\n192.168.5.16/0      68.233.253.133/0    0.0.0.0          6      \
             53605           80              \
             98          2         \n"
        );
    }

    #[test]
    fn names_replace_numbers_and_are_cut_to_their_columns() {
        let names = Names::parse(
            "tcp 6\nospfigp 89\n",
            "http 80/tcp\nmicrosoft-ds 445/tcp\nlongest-of-all-names 444/tcp\n",
        );
        let named = |format, wide, version, record: &StoredRecord| {
            let mut text = Vec::new();
            let zone = LocalZone::new(TimeZone::UTC);
            let mut printer = Printer::new(format, wide, version, zone, &mut text).unwrap();
            printer.set_names(names.clone());
            printer.print(record).unwrap();
            printer.flush().unwrap();
            let text = String::from_utf8(text).unwrap();
            text.lines().last().unwrap().to_owned()
        };
        let tcp = StoredRecord {
            source_port: 445,
            ..record()
        };
        assert_eq!(
            named(PrintFormat::OneLine, false, Version::V5, &tcp),
            "192.168.5.16     68.233.253.133   tcp   microso  http     98          2         "
        );
        let long = StoredRecord {
            source_port: 444,
            ..tcp
        };
        assert_eq!(
            named(PrintFormat::OneLine, true, Version::V5, &long),
            "192.168.5.16     68.233.253.133   tcp    longest-of-all-   http              98          2         "
        );
        let other = StoredRecord {
            protocol: 89,
            ..tcp
        };
        assert_eq!(
            named(PrintFormat::Prefixes, false, Version::V5, &other),
            "192.168.5.16/0     68.233.253.133/0   ospf  0      0      98          2         "
        );
        assert_eq!(
            named(PrintFormat::Switched, false, Version::V7, &other),
            "192.168.5.16/0      68.233.253.133/0    0.0.0.0          ospf   445             \
             80              98          2         "
        );
        assert_eq!(
            named(PrintFormat::Hexadecimal, false, Version::V5, &tcp),
            "0000 192.168.5.16     0000 68.233.253.133    06 1bd  50    2          98        "
        );
    }

    #[test]
    fn format_2_prints_scans_only() {
        let heading = PrintFormat::SynOnly.heading(false, Version::V5);
        assert_eq!(printed(PrintFormat::SynOnly), heading);
        let scan = StoredRecord {
            tcp_flags: 2,
            octets: 80,
            input: 0x1ff,
            ..record()
        };
        assert_eq!(
            printed_by(PrintFormat::SynOnly, false, Version::V5, &scan),
            heading
                + "1ff  192.168.5.16     00  68.233.253.133  06 d165 50   2          80        \n \
                   1206.01:51:29.915  1206.01:51:52.811     22.896 40  00 02\n\n"
        );
    }

    #[test]
    fn formats_with_octets_per_packet_leave_out_records_of_no_packets() {
        let empty = StoredRecord {
            packets: 0,
            ..record()
        };
        for format in [PrintFormat::TwoLines, PrintFormat::SynOnly] {
            let heading = format.heading(false, Version::V5);
            assert_eq!(printed_by(format, false, Version::V5, &empty), heading);
        }
    }

    #[test]
    fn prints_json_with_the_times_nearest_to_the_datagrams_own() {
        // The stamps of this exporter are 13.5 days above its SysUptime.
        assert_eq!(
            printed(PrintFormat::Json),
            "{\"start\":\"2026-12-06T01:51:29.915Z\",\"end\":\"2026-12-06T01:51:52.811Z\",\
             \"duration_ms\":22896,\
             \"exporter\":\"127.0.0.1\",\"source\":\"192.168.5.16\",\
             \"destination\":\"68.233.253.133\",\
             \"next_hop\":\"0.0.0.0\",\"input\":0,\"output\":0,\"protocol\":6,\
             \"source_port\":53605,\
             \"destination_port\":80,\"packets\":2,\"octets\":98,\"tos\":0,\"tcp_flags\":21,\
             \"source_mask\":0,\
             \"destination_mask\":0,\"source_as\":0,\"destination_as\":0,\"engine_type\":0,\
             \"engine_id\":0}\n"
        );
        let v1 = printed_by(PrintFormat::Json, false, Version::V1, &record());
        assert!(v1.ends_with("\"tcp_flags\":21}\n"), "{v1}");
        let v7 = printed_by(PrintFormat::Json, false, Version::V7, &record());
        assert!(
            v7.ends_with("\"engine_id\":0,\"router\":\"0.0.0.0\"}\n"),
            "{v7}"
        );
    }

    #[test]
    fn prints_values_as_flow_export() {
        assert_eq!(
            printed(PrintFormat::Csv),
            "#:unix_secs,unix_nsecs,sysuptime,exaddr,dpkts,doctets,first,last,engine_type,\
             engine_id,srcaddr,dstaddr,\
             nexthop,input,output,srcport,dstport,prot,tos,tcp_flags,src_mask,dst_mask,src_as,\
             dst_as\n\
             1795352088,239396000,2,127.0.0.1,2,98,1169801678,1169824574,0,0,192.168.5.16,\
             68.233.253.133,0.0.0.0,0,0,\
             53605,80,6,0,21,0,0,0,0\n"
        );
    }

    #[test]
    fn refuses_formats_whose_fields_a_version_has_not() {
        let refused = PrintFormat::Prefixes
            .check(Version::V1)
            .unwrap_err()
            .to_string();
        assert!(
            refused.starts_with("Flow record missing required field for format."),
            "{refused}"
        );
        assert!(PrintFormat::Switched.check(Version::V5).is_err());
        assert!(PrintFormat::Switched.check(Version::V7).is_ok());
    }

    #[test]
    fn records_of_each_version_have_the_fields_of_their_version() {
        let printed = |format| {
            let mut text = Vec::new();
            let zone = LocalZone::new(TimeZone::UTC);
            let mut printer = Printer::new(format, false, Version::V1, zone, &mut text).unwrap();
            let record = StoredRecord {
                source_as: 64_500,
                ..record()
            };
            for version in [Version::V1, Version::V5, Version::V5, Version::V7] {
                printer.take_version(version).unwrap();
                printer.print(&record).unwrap();
            }
            printer.flush().unwrap();
            String::from_utf8(text).unwrap()
        };
        let json = printed(PrintFormat::Json);
        let with_as: Vec<bool> = json
            .lines()
            .map(|line| line.contains("\"source_as\":64500"))
            .collect();
        assert_eq!(with_as, [false, true, true, true]);
        assert_eq!(json.matches("\"router\"").count(), 1);

        let csv = printed(PrintFormat::Csv);
        let columns: Vec<usize> = csv.lines().map(|line| line.split(',').count()).collect();
        assert_eq!(columns, [18, 18, 24, 24, 24, 25, 25]);
        assert_eq!(csv.lines().filter(|line| line.starts_with("#:")).count(), 3);

        let lines = printed(PrintFormat::OneLine);
        assert_eq!(lines.lines().count(), 5);
    }

    #[test]
    fn a_version_without_the_fields_of_the_format_changes_nothing() {
        let mut text = Vec::new();
        let zone = LocalZone::new(TimeZone::UTC);
        let format = PrintFormat::Prefixes;
        let mut printer = Printer::new(format, false, Version::V5, zone, &mut text).unwrap();
        assert!(printer.take_version(Version::V1).is_err());
        assert!(
            printer
                .take_format(PrintFormat::Switched, Version::V1)
                .is_err()
        );
        printer.print(&record()).unwrap();
        printer
            .take_format(PrintFormat::OneLine, Version::V1)
            .unwrap();
        printer.print(&record()).unwrap();
        printer.flush().unwrap();
        let text = String::from_utf8(text).unwrap();
        let starts: Vec<&str> = text.lines().map(|line| &line[..20]).collect();
        assert_eq!(
            starts,
            [
                "srcIP              d",
                "192.168.5.16/0     6",
                "srcIP            dst",
                "192.168.5.16     68."
            ]
        );
    }

    #[test]
    fn times_borrow_and_carry_across_the_second() {
        let at = |sys_uptime_ms, unix_ns, stamp| {
            flow_tools_time(
                &StoredRecord {
                    unix_s: 1000,
                    unix_ns,
                    sys_uptime_ms,
                    ..record()
                },
                stamp,
            )
        };
        assert_eq!(at(1_500, 200_000_000, 1_500), (1000, 200));
        assert_eq!(at(1_500, 200_000_000, 0), (998, 700));
        assert_eq!(at(0, 999_000_000, 1), (1001, 0));
    }
}
