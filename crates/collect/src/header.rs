//! The header of a flow-tools file: eight fixed octets, then a list of type-length-value fields up
//! to the first record.
//!
//! The third octet names the byte order of everything after it. Fields may come in any order and
//! have no padding between them; a reader skips the types that it does not know. Source: flow-tools
//! 0.68, `lib/ftio.c`.

use crate::record::ByteOrder;
use std::io::Read;
use std::marker::PhantomData;
use std::mem::offset_of;
use xdprobe_netflow::Version;
use zerocopy::byteorder::{BigEndian, LittleEndian, U16, U32};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The two octets that open every file.
pub const MAGIC: [u8; 2] = [0xcf, 0x10];
/// The stream version that is read and written; version 1 went out of use in 2000.
pub const STREAM_VERSION: u8 = 3;
/// Length of the fixed part in octets.
pub const FIXED_OCTETS: usize = size_of::<Fixed>();
/// The longest header in octets that flow-tools reads or writes.
pub const HEADER_OCTETS_MAX: usize = 16 * 1024;
/// A header's length is a multiple of this.
const ALIGNMENT: usize = 4;
const _: () = assert!(FIXED_OCTETS.is_multiple_of(ALIGNMENT));

/// Flag: the file was closed properly.
pub const FLAG_DONE: u32 = 0x1;
/// Flag: the records are one zlib stream.
pub const FLAG_COMPRESS: u32 = 0x2;
/// Flag: the records were written to a pipe, so that the counts were not known.
pub const FLAG_STREAMING: u32 = 0x8;
/// Flag: a stream with counts, which were added up from the input files' headers first.
pub const FLAG_PRELOADED: u32 = 0x20;

/// The header of a file. Fields that it lacks are `None`.
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
    /// Records that are missing by the exporters' sequence numbers.
    pub lost: Option<u32>,
    /// Records that came out of order. flow-tools reads the field and never writes it.
    pub misordered: Option<u32>,
    /// Datagrams that were malformed or refused.
    pub corrupt: Option<u32>,
    /// Jumps of sequence numbers that are not a loss.
    pub resets: Option<u32>,
    /// Name of the capturing host.
    pub hostname: Option<String>,
    /// The operator's comment.
    pub comment: Option<String>,
}

impl FileHeader {
    /// A header with the version and no other field.
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

    /// Records that the file must have; `None` if it was not closed properly.
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
    /// [`HeaderError`] if the octets are not a header, or if its records cannot be read here.
    pub fn read(source: &mut impl Read) -> Result<(Self, usize), HeaderError> {
        let mut fixed = Fixed::new_zeroed();
        let found = read_up_to(source, fixed.as_mut_bytes())?;
        if found < MAGIC.len() || fixed.magic != MAGIC {
            let mut start = [0; FIXED_OCTETS];
            start.copy_from_slice(fixed.as_bytes());
            return Err(HeaderError::Magic {
                found: start,
                octets: found,
            });
        }
        if found < FIXED_OCTETS {
            return Err(HeaderError::Short {
                found,
                expected: FIXED_OCTETS,
            });
        }
        let order = order_of(fixed.order).ok_or(HeaderError::Order(fixed.order))?;
        if fixed.stream_version != STREAM_VERSION {
            return Err(HeaderError::Stream(fixed.stream_version));
        }
        let octets = match order {
            ByteOrder::Little => u32::from_le_bytes(fixed.header_octets),
            ByteOrder::Big => u32::from_be_bytes(fixed.header_octets),
        };
        let octets = usize::try_from(octets).expect("usize has at least 32 bits");
        if !(FIXED_OCTETS..=HEADER_OCTETS_MAX).contains(&octets) {
            return Err(HeaderError::Length(octets));
        }
        let mut fields = vec![0; octets - FIXED_OCTETS];
        let found = read_up_to(source, &mut fields)?;
        if found < fields.len() {
            return Err(HeaderError::Short {
                found: FIXED_OCTETS + found,
                expected: octets,
            });
        }
        let header = match order {
            ByteOrder::Little => Self::from_fields::<LittleEndian>(order, &fields),
            ByteOrder::Big => Self::from_fields::<BigEndian>(order, &fields),
        };
        Ok((header?, octets))
    }

    /// The header in octets, its length a multiple of four.
    ///
    /// Fields are in the order of their types, as flow-tools writes them. A header can be rewritten
    /// in place as long as only its numbers change. A comment or host name that would make the
    /// header longer than [`HEADER_OCTETS_MAX`] is cut.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self.order {
            ByteOrder::Little => self.encode_in::<LittleEndian>(),
            ByteOrder::Big => self.encode_in::<BigEndian>(),
        }
    }

    fn encode_in<O: zerocopy::ByteOrder>(&self) -> Vec<u8> {
        let mut fields = FieldWriter::<O>::new();
        fields.number16(Field::ExportVersion, self.version.number());
        fields.number32(Field::CaptureStart, self.capture_start_s);
        fields.number32(Field::CaptureEnd, self.capture_end_s);
        fields.number32(Field::Flags, Some(self.flags));
        fields.number32(Field::Flows, self.flows);
        fields.number32(Field::Lost, self.lost);
        fields.number32(Field::Misordered, self.misordered);
        fields.number32(Field::Corrupt, self.corrupt);
        fields.number32(Field::Resets, self.resets);
        fields.text(Field::Hostname, self.hostname.as_deref());
        fields.text(Field::Comment, self.comment.as_deref());
        let fields = fields.padded();
        let octets = u32::try_from(FIXED_OCTETS + fields.len())
            .expect("a header is not longer than HEADER_OCTETS_MAX");
        let fixed = Fixed {
            magic: MAGIC,
            order: number_of(self.order),
            stream_version: STREAM_VERSION,
            header_octets: U32::<O>::new(octets).to_bytes(),
        };
        [fixed.as_bytes(), &fields].concat()
    }

    fn from_fields<O: zerocopy::ByteOrder>(
        order: ByteOrder,
        fields: &[u8],
    ) -> Result<Self, HeaderError> {
        let mut header = Self::new(Version::V5, order);
        let mut version = None;
        let mut rest = fields;
        // The header may end in up to three octets of padding, too short for a field.
        while let Ok((head, behind)) = FieldHead::<O>::ref_from_prefix(rest) {
            let (kind, octets) = (head.kind.get(), usize::from(head.octets.get()));
            let (value, next) = behind.split_at_checked(octets).ok_or(HeaderError::Field {
                kind,
                octets,
                offset: FIXED_OCTETS + fields.len() - rest.len(),
            })?;
            rest = next;
            let number = U32::<O>::read_from_prefix(value).ok();
            let number = number.map(|(number, _)| number.get());
            match Field::from_kind(kind) {
                Some(Field::ExportVersion) => version = U16::<O>::read_from_prefix(value).ok(),
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
        }
        let (version, _) = version.ok_or(HeaderError::NoVersion)?;
        header.version =
            Version::from_number(version.get()).ok_or(HeaderError::Version(version.get()))?;
        Ok(header)
    }
}

/// Why octets are not a header that is read here.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// Other octets at the start.
    #[error("not a flow-tools file: it starts with {}, expected cf 10", hex(&found[..*octets]))]
    Magic {
        /// The first octets of the file.
        found: [u8; FIXED_OCTETS],
        /// Length of the file, if it is shorter than they are.
        octets: usize,
    },
    /// The file ends before the header does.
    #[error("the file ends at offset {found}, inside its header of {expected} octets")]
    Short {
        /// Octets in the file.
        found: usize,
        /// Octets that the header takes.
        expected: usize,
    },
    /// No such byte order.
    #[error(
        "byte order {0} at offset {at}, expected 1 (little-endian) or 2 (big-endian)",
        at = offset_of!(Fixed, order)
    )]
    Order(u8),
    /// Another stream version.
    #[error(
        "stream version {0} at offset {at}, expected {STREAM_VERSION}",
        at = offset_of!(Fixed, stream_version)
    )]
    Stream(u8),
    /// Shorter than its fixed part, or longer than flow-tools reads.
    #[error(
        "header length {0} at offset {at}, expected {FIXED_OCTETS} to {HEADER_OCTETS_MAX}",
        at = offset_of!(Fixed, header_octets)
    )]
    Length(usize),
    /// A field is longer than the rest of the header.
    #[error(
        "field type {kind:#x} at offset {offset} has {octets} octets, more than the header holds"
    )]
    Field {
        /// The field's type.
        kind: u16,
        /// Length of its value in octets, as the field has it.
        octets: usize,
        /// Offset of the field in the file.
        offset: usize,
    },
    /// The field with the version of the records is missing.
    #[error("the header does not name the export version of its records")]
    NoVersion,
    /// Records of another version.
    #[error("records of export version {0}, expected 1, 5 or 7")]
    Version(u16),
    /// The source failed.
    #[error("cannot read the header: {0}")]
    Io(#[from] std::io::Error),
}

/// The fixed octets at the start of a file.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Fixed {
    magic: [u8; 2],
    /// Number of the byte order: see [`number_of`].
    order: u8,
    stream_version: u8,
    /// Length of the header, and so the offset of the first record, in that byte order.
    header_octets: [u8; 4],
}

/// What precedes the value of a field.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct FieldHead<O> {
    kind: U16<O>,
    /// Length of the value.
    octets: U16<O>,
}

/// The fields that are read and written here, by their types.
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
struct FieldWriter<O> {
    octets: Vec<u8>,
    order: PhantomData<O>,
}

impl<O: zerocopy::ByteOrder> FieldWriter<O> {
    fn new() -> Self {
        Self {
            octets: Vec::with_capacity(128),
            order: PhantomData,
        }
    }

    fn number16(&mut self, field: Field, number: u16) {
        self.field(field, &[U16::<O>::new(number).as_bytes()]);
    }

    fn number32(&mut self, field: Field, number: Option<u32>) {
        if let Some(number) = number {
            self.field(field, &[U32::<O>::new(number).as_bytes()]);
        }
    }

    /// A string and the NUL that ends it, cut where the header would exceed its limit.
    fn text(&mut self, field: Field, text: Option<&str>) {
        const PADDING_MAX: usize = ALIGNMENT - 1;
        const OVERHEAD: usize = FIXED_OCTETS + size_of::<FieldHead<BigEndian>>() + 1 + PADDING_MAX;
        let room = HEADER_OCTETS_MAX.checked_sub(self.octets.len() + OVERHEAD);
        if let (Some(text), Some(room)) = (text, room) {
            self.field(field, &[&text.as_bytes()[..text.len().min(room)], &[0]]);
        }
    }

    fn field(&mut self, field: Field, value: &[&[u8]]) {
        let octets: usize = value.iter().map(|part| part.len()).sum();
        let head = FieldHead::<O> {
            kind: (field as u16).into(),
            octets: u16::try_from(octets)
                .expect("a value is shorter than HEADER_OCTETS_MAX")
                .into(),
        };
        self.octets.extend_from_slice(head.as_bytes());
        value
            .iter()
            .for_each(|part| self.octets.extend_from_slice(part));
    }

    /// The fields, with padding up to the first record.
    fn padded(mut self) -> Vec<u8> {
        let octets = self.octets.len().next_multiple_of(ALIGNMENT);
        self.octets.resize(octets, 0);
        self.octets
    }
}

/// The number of a byte order in a header.
fn number_of(order: ByteOrder) -> u8 {
    match order {
        ByteOrder::Little => 1,
        ByteOrder::Big => 2,
    }
}

fn order_of(number: u8) -> Option<ByteOrder> {
    [ByteOrder::Little, ByteOrder::Big]
        .into_iter()
        .find(|order| number_of(*order) == number)
}

/// The string up to its NUL.
fn text_of(value: &[u8]) -> String {
    let end = value
        .iter()
        .position(|octet| *octet == 0)
        .unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

/// Fills `buffer` from `source`, up to its end if that comes first, and returns the octets read.
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
        0xcf, 0x10, 0x01, 0x03, 0x50, 0x00, 0x00, 0x00, 0x02, 0x00, 0x02, 0x00,
        0x05, 0x00, 0x06, 0x00, 0x04, 0x00, 0x18, 0xe6, 0x02, 0x6b, 0x07, 0x00,
        0x04, 0x00, 0x18, 0xe6, 0x02, 0x6b, 0x08, 0x00, 0x04, 0x00, 0x01, 0x00,
        0x00, 0x00, 0x0a, 0x00, 0x04, 0x00, 0x10, 0x01, 0x00, 0x00, 0x0b, 0x00,
        0x04, 0x00, 0x00, 0x00, 0x00, 0x00, 0x0d, 0x00, 0x04, 0x00, 0x00, 0x00,
        0x00, 0x00, 0x0e, 0x00, 0x04, 0x00, 0x00, 0x00, 0x00, 0x00, 0x0f, 0x00,
        0x03, 0x00, 0x76, 0x6d, 0x00, 0x00, 0x00, 0x00,
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
            "not a flow-tools file: it starts with nothing, expected cf 10"
        );
        assert_eq!(
            refusal(b"\x7fELF"),
            "not a flow-tools file: it starts with 7f 45 4c 46, expected cf 10"
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
            "byte order 3 at offset 2, expected 1 (little-endian) or 2 (big-endian)"
        );
        assert_eq!(with(3, 1), "stream version 1 at offset 3, expected 3");
        assert_eq!(
            with(4, 7),
            "header length 7 at offset 4, expected 8 to 16384"
        );
        assert_eq!(
            with(5, 0x40),
            "header length 16464 at offset 4, expected 8 to 16384"
        );
        assert_eq!(
            with(12, 8),
            "records of export version 8, expected 1, 5 or 7"
        );
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
        fn reading_undoes_encoding(
            flows: Option<u32>,
            lost: Option<u32>,
            start: Option<u32>,
            flags: u32,
            little: bool,
            comment in proptest::option::of("[a-z ]{0,40}"),
        ) {
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
