//! The header of a flow-tools file: eight fixed octets, then a list of type-length-value fields up
//! to the first record.
//!
//! Everything after the third octet follows the byte order that the third octet names. Fields stand
//! in no fixed order, have no padding between them, and a reader skips the types that it does not
//! know. Source: flow-tools 0.68, `lib/ftio.c`.

use crate::record::ByteOrder;
use std::io::Read;
use xdprobe_netflow::Version;

/// The two octets that open every file.
pub const MAGIC: [u8; 2] = [0xcf, 0x10];
/// The stream version that is read and written; version 1 went out of use in 2000.
pub const STREAM_VERSION: u8 = 3;
/// Length of the fixed part in octets.
pub const FIXED_OCTETS: usize = 8;
/// The longest header in octets that flow-tools reads or writes.
pub const HEADER_OCTETS_MAX: usize = 16 * 1024;

/// Flag: the file was closed properly.
pub const FLAG_DONE: u32 = 0x1;
/// Flag: the records are one zlib stream.
pub const FLAG_COMPRESS: u32 = 0x2;
/// Flag: the file was written to a pipe, so its counts are not known.
pub const FLAG_STREAMING: u32 = 0x8;
/// Flag: a stream whose counts were gathered beforehand.
pub const FLAG_PRELOADED: u32 = 0x20;

/// What a file says about itself. Absent fields are `None`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FileHeader {
    /// Byte order of the rest of the file.
    pub order: ByteOrder,
    /// Version of its records.
    pub version: Version,
    /// `FLAG_` bits.
    pub flags: u32,
    /// When the capture began, UTC seconds.
    pub capture_start_s: Option<u32>,
    /// When the capture ended, UTC seconds.
    pub capture_end_s: Option<u32>,
    /// Records in the file, modulo 2^32.
    pub flows: Option<u32>,
    /// Records that sequence numbers say were lost.
    pub lost: Option<u32>,
    /// Records that came out of order; flow-tools knows the field and never writes it.
    pub misordered: Option<u32>,
    /// Datagrams that were malformed or refused.
    pub corrupt: Option<u32>,
    /// Jumps of the sequence that were too long for a loss.
    pub resets: Option<u32>,
    /// Name of the host that captured.
    pub hostname: Option<String>,
    /// What the operator wanted to be said.
    pub comment: Option<String>,
}

impl FileHeader {
    /// A header without fields.
    #[must_use]
    pub fn new(version: Version, order: ByteOrder) -> Self {
        Self {
            order,
            version,
            flags: 0,
            capture_start_s: None,
            capture_end_s: None,
            flows: None,
            lost: None,
            misordered: None,
            corrupt: None,
            resets: None,
            hostname: None,
            comment: None,
        }
    }

    /// Whether any of the flags is set.
    #[must_use]
    pub fn has(&self, flags: u32) -> bool {
        self.flags & flags != 0
    }

    /// The records that the file promises: known once it was closed properly.
    #[must_use]
    pub fn flows_promised(&self) -> Option<u32> {
        self.flows
            .filter(|_| self.has(FLAG_DONE) && !self.has(FLAG_STREAMING))
    }

    /// Reads a header from `source`, up to the first record, and returns it with its length in
    /// octets.
    ///
    /// # Errors
    ///
    /// [`HeaderError`]: the octets are no header, or one of a kind that is not read.
    pub fn read(source: &mut impl Read) -> Result<(Self, usize), HeaderError> {
        let mut fixed = [0; FIXED_OCTETS];
        let found = read_up_to(source, &mut fixed)?;
        if found < 2 || fixed[..2] != MAGIC {
            return Err(HeaderError::Magic {
                found: fixed,
                octets: found,
            });
        }
        if found < FIXED_OCTETS {
            return Err(HeaderError::Short {
                found,
                wanted: FIXED_OCTETS,
            });
        }
        let order = match fixed[2] {
            1 => ByteOrder::Little,
            2 => ByteOrder::Big,
            other => return Err(HeaderError::Order(other)),
        };
        if fixed[3] != STREAM_VERSION {
            return Err(HeaderError::Stream(fixed[3]));
        }
        let wanted = u32_in(order, &fixed, 4)
            .and_then(|octets| usize::try_from(octets).ok())
            .unwrap_or(usize::MAX);
        if !(FIXED_OCTETS..=HEADER_OCTETS_MAX).contains(&wanted) {
            return Err(HeaderError::Length(wanted));
        }
        let mut fields = vec![0; wanted - FIXED_OCTETS];
        let found = read_up_to(source, &mut fields)?;
        if found < fields.len() {
            return Err(HeaderError::Short {
                found: FIXED_OCTETS + found,
                wanted,
            });
        }
        Ok((Self::from_fields(order, &fields)?, wanted))
    }

    /// The header in octets, its length a multiple of four.
    ///
    /// Fields stand in the order of their types, as flow-tools writes them, so that a header is
    /// rewritten in place when only its numbers change. A comment or host name is cut where the
    /// header would grow too long.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut octets = Vec::with_capacity(128);
        octets.extend_from_slice(&MAGIC);
        octets.push(if self.order == ByteOrder::Little {
            1
        } else {
            2
        });
        octets.push(STREAM_VERSION);
        octets.extend_from_slice(&[0; 4]);
        let mut writer = FieldWriter {
            order: self.order,
            octets,
        };
        writer.number16(Field::ExportVersion, self.version.number());
        writer.number32(Field::CaptureStart, self.capture_start_s);
        writer.number32(Field::CaptureEnd, self.capture_end_s);
        writer.number32(Field::Flags, Some(self.flags));
        writer.number32(Field::Flows, self.flows);
        writer.number32(Field::Lost, self.lost);
        writer.number32(Field::Misordered, self.misordered);
        writer.number32(Field::Corrupt, self.corrupt);
        writer.number32(Field::Resets, self.resets);
        writer.text(Field::Hostname, self.hostname.as_deref());
        writer.text(Field::Comment, self.comment.as_deref());
        writer.finish()
    }

    fn from_fields(order: ByteOrder, fields: &[u8]) -> Result<Self, HeaderError> {
        let mut header = Self::new(Version::V5, order);
        let mut version = None;
        let mut at = 0;
        // Up to three octets of padding are too short for a field.
        while let (Some(kind), Some(length)) =
            (u16_in(order, fields, at), u16_in(order, fields, at + 2))
        {
            let offset = FIXED_OCTETS + at;
            let length = usize::from(length);
            let value = fields
                .get(at + 4..at + 4 + length)
                .ok_or(HeaderError::Field {
                    kind,
                    length,
                    offset,
                })?;
            let number = u32_in(order, value, 0);
            match Field::from_kind(kind) {
                Some(Field::ExportVersion) => version = u16_in(order, value, 0),
                Some(Field::CaptureStart) => header.capture_start_s = number,
                Some(Field::CaptureEnd) => header.capture_end_s = number,
                Some(Field::Flags) => header.flags = number.unwrap_or(0),
                Some(Field::Flows) => header.flows = number,
                Some(Field::Lost) => header.lost = number,
                Some(Field::Misordered) => header.misordered = number,
                Some(Field::Corrupt) => header.corrupt = number,
                Some(Field::Resets) => header.resets = number,
                Some(Field::Hostname) => header.hostname = Some(text_of(value)),
                Some(Field::Comment) => header.comment = Some(text_of(value)),
                None => {}
            }
            at += 4 + length;
        }
        let version = version.ok_or(HeaderError::NoVersion)?;
        header.version = Version::from_number(version).ok_or(HeaderError::Version(version))?;
        Ok(header)
    }
}

/// Why octets are not a header that is read here.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// Other octets at the start.
    #[error("not a flow-tools file: it starts with {}, wanted cf 10", hex(&found[..*octets]))]
    Magic {
        /// The first octets of the file.
        found: [u8; FIXED_OCTETS],
        /// How many of them there are.
        octets: usize,
    },
    /// The file ends before the header does.
    #[error("the file ends at offset {found}, inside its header of {wanted} octets")]
    Short {
        /// Octets in the file.
        found: usize,
        /// Octets that the header takes.
        wanted: usize,
    },
    /// No such byte order.
    #[error("byte order {0} at offset 2, wanted 1 (little-endian) or 2 (big-endian)")]
    Order(u8),
    /// Another stream version.
    #[error("stream version {0} at offset 3, wanted {STREAM_VERSION}")]
    Stream(u8),
    /// A length that no header has.
    #[error("header length {0} at offset 4, wanted {FIXED_OCTETS} to {HEADER_OCTETS_MAX}")]
    Length(usize),
    /// A field reaches beyond the header.
    #[error(
        "field type {kind:#x} at offset {offset} has {length} octets, more than the header holds"
    )]
    Field {
        /// Its type.
        kind: u16,
        /// Its length as it says.
        length: usize,
        /// Where it starts.
        offset: usize,
    },
    /// The field is missing that names the version of the records.
    #[error("the header does not name the export version of its records")]
    NoVersion,
    /// Records of a version that is not read.
    #[error("records of export version {0}, wanted 1, 5 or 7")]
    Version(u16),
    /// The source failed.
    #[error("cannot read the header: {0}")]
    Io(#[from] std::io::Error),
}

/// The types of fields that are read and written here.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u16)]
enum Field {
    ExportVersion = 0x2,
    CaptureStart = 0x6,
    CaptureEnd = 0x7,
    Flags = 0x8,
    Flows = 0xa,
    Lost = 0xb,
    Misordered = 0xc,
    Corrupt = 0xd,
    Resets = 0xe,
    Hostname = 0xf,
    Comment = 0x10,
}

impl Field {
    const ALL: [Self; 11] = [
        Self::ExportVersion,
        Self::CaptureStart,
        Self::CaptureEnd,
        Self::Flags,
        Self::Flows,
        Self::Lost,
        Self::Misordered,
        Self::Corrupt,
        Self::Resets,
        Self::Hostname,
        Self::Comment,
    ];

    fn from_kind(kind: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|field| *field as u16 == kind)
    }
}

/// Appends fields in one byte order.
struct FieldWriter {
    order: ByteOrder,
    octets: Vec<u8>,
}

impl FieldWriter {
    fn number16(&mut self, field: Field, number: u16) {
        self.head(field, 2);
        self.push16(number);
    }

    fn number32(&mut self, field: Field, number: Option<u32>) {
        let Some(number) = number else { return };
        self.head(field, 4);
        self.push32(number);
    }

    /// A string with the NUL that ends it, cut so that the header keeps within its limit.
    fn text(&mut self, field: Field, text: Option<&str>) {
        const OVERHEAD: usize = 4 + 1 + 3;
        let Some(text) = text else { return };
        let room = HEADER_OCTETS_MAX.saturating_sub(self.octets.len() + OVERHEAD);
        let text = &text.as_bytes()[..text.len().min(room)];
        let Ok(length) = u16::try_from(text.len() + 1) else {
            return;
        };
        self.head(field, length);
        self.octets.extend_from_slice(text);
        self.octets.push(0);
    }

    fn head(&mut self, field: Field, length: u16) {
        self.push16(field as u16);
        self.push16(length);
    }

    fn push16(&mut self, number: u16) {
        let octets = if self.order == ByteOrder::Little {
            number.to_le_bytes()
        } else {
            number.to_be_bytes()
        };
        self.octets.extend_from_slice(&octets);
    }

    fn push32(&mut self, number: u32) {
        self.octets.extend_from_slice(&octets32(self.order, number));
    }

    /// Pads to four octets and writes the length into the fixed part.
    fn finish(mut self) -> Vec<u8> {
        self.octets.resize(self.octets.len().next_multiple_of(4), 0);
        let length = u32::try_from(self.octets.len()).unwrap_or(u32::MAX);
        self.octets[4..FIXED_OCTETS].copy_from_slice(&octets32(self.order, length));
        self.octets
    }
}

fn octets32(order: ByteOrder, number: u32) -> [u8; 4] {
    if order == ByteOrder::Little {
        number.to_le_bytes()
    } else {
        number.to_be_bytes()
    }
}

fn u16_in(order: ByteOrder, octets: &[u8], at: usize) -> Option<u16> {
    let octets = *octets.get(at..)?.first_chunk()?;
    Some(if order == ByteOrder::Little {
        u16::from_le_bytes(octets)
    } else {
        u16::from_be_bytes(octets)
    })
}

fn u32_in(order: ByteOrder, octets: &[u8], at: usize) -> Option<u32> {
    let octets = *octets.get(at..)?.first_chunk()?;
    Some(if order == ByteOrder::Little {
        u32::from_le_bytes(octets)
    } else {
        u32::from_be_bytes(octets)
    })
}

/// The string up to its NUL.
fn text_of(value: &[u8]) -> String {
    let end = value
        .iter()
        .position(|octet| *octet == 0)
        .unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

/// Fills `buffer` as far as `source` goes and returns how far that is.
pub(crate) fn read_up_to(source: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(octets) => filled += octets,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn hex(octets: &[u8]) -> String {
    if octets.is_empty() {
        return "nothing".into();
    }
    octets
        .iter()
        .map(|octet| format!("{octet:02x}"))
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The header of a file that flow-capture wrote: version 5, little-endian, 272 flows, from a
    /// host named "vm".
    #[rustfmt::skip]
    const REAL: [u8; 80] = [
        0xcf, 0x10, 0x01, 0x03, 0x50, 0x00, 0x00, 0x00, 0x02, 0x00, 0x02, 0x00, 0x05, 0x00, 0x06, 0x00,
        0x04, 0x00, 0x18, 0xe6, 0x02, 0x6b, 0x07, 0x00, 0x04, 0x00, 0x18, 0xe6, 0x02, 0x6b, 0x08, 0x00,
        0x04, 0x00, 0x01, 0x00, 0x00, 0x00, 0x0a, 0x00, 0x04, 0x00, 0x10, 0x01, 0x00, 0x00, 0x0b, 0x00,
        0x04, 0x00, 0x00, 0x00, 0x00, 0x00, 0x0d, 0x00, 0x04, 0x00, 0x00, 0x00, 0x00, 0x00, 0x0e, 0x00,
        0x04, 0x00, 0x00, 0x00, 0x00, 0x00, 0x0f, 0x00, 0x03, 0x00, 0x76, 0x6d, 0x00, 0x00, 0x00, 0x00,
    ];

    fn real() -> FileHeader {
        FileHeader {
            flags: FLAG_DONE,
            capture_start_s: Some(1_795_352_088),
            capture_end_s: Some(1_795_352_088),
            flows: Some(272),
            lost: Some(0),
            corrupt: Some(0),
            resets: Some(0),
            hostname: Some("vm".into()),
            ..FileHeader::new(Version::V5, ByteOrder::Little)
        }
    }

    fn refusal(octets: &[u8]) -> String {
        FileHeader::read(&mut &octets[..]).unwrap_err().to_string()
    }

    #[test]
    fn reads_and_writes_the_header_of_the_real_flow_capture() {
        assert_eq!(FileHeader::read(&mut &REAL[..]).unwrap(), (real(), 80));
        assert_eq!(real().encode(), REAL);
    }

    #[test]
    fn says_what_is_wrong_and_where() {
        assert_eq!(
            refusal(b""),
            "not a flow-tools file: it starts with nothing, wanted cf 10"
        );
        assert_eq!(
            refusal(b"\x7fELF"),
            "not a flow-tools file: it starts with 7f 45 4c 46, wanted cf 10"
        );
        assert_eq!(
            refusal(&REAL[..7]),
            "the file ends at offset 7, inside its header of 8 octets"
        );
        assert_eq!(
            refusal(&REAL[..79]),
            "the file ends at offset 79, inside its header of 80 octets"
        );
        let with = |at: usize, octet| {
            let mut octets = REAL;
            octets[at] = octet;
            refusal(&octets)
        };
        assert_eq!(
            with(2, 3),
            "byte order 3 at offset 2, wanted 1 (little-endian) or 2 (big-endian)"
        );
        assert_eq!(with(3, 1), "stream version 1 at offset 3, wanted 3");
        assert_eq!(with(4, 7), "header length 7 at offset 4, wanted 8 to 16384");
        assert_eq!(
            with(5, 0x40),
            "header length 16464 at offset 4, wanted 8 to 16384"
        );
        assert_eq!(with(12, 8), "records of export version 8, wanted 1, 5 or 7");
        assert_eq!(
            with(8, 0),
            "the header does not name the export version of its records"
        );
        assert_eq!(
            with(73, 0xff),
            "field type 0xf at offset 70 has 65283 octets, more than the header holds"
        );
    }

    #[test]
    fn a_long_comment_keeps_the_header_within_its_limit() {
        let header = FileHeader {
            comment: Some("x".repeat(20_000)),
            ..real()
        };
        assert!(header.encode().len() <= HEADER_OCTETS_MAX);
        assert!(FileHeader::read(&mut &header.encode()[..]).is_ok());
    }

    proptest! {
        #[test]
        fn reading_undoes_encoding(flows: Option<u32>, lost: Option<u32>, start: Option<u32>, flags: u32, little: bool,
                                   comment in proptest::option::of("[a-z ]{0,40}")) {
            let order = if little { ByteOrder::Little } else { ByteOrder::Big };
            let new = FileHeader::new(Version::V7, order);
            let header = FileHeader { flows, lost, capture_start_s: start, flags, comment, ..new };
            let octets = header.encode();
            prop_assert_eq!(octets.len() % 4, 0);
            prop_assert_eq!(FileHeader::read(&mut &octets[..]).unwrap(), (header, octets.len()));
        }

        #[test]
        fn no_octets_panic(mut octets in proptest::collection::vec(any::<u8>(), 0..300)) {
            for (octet, fixed) in octets.iter_mut().zip([0xcf, 0x10, 1, 3, 200, 0, 0, 0]) {
                *octet = fixed;
            }
            let _ = FileHeader::read(&mut &octets[..]);
        }
    }
}
