//! The head of a capture file: which format it has, in which version and byte order, or why it
//! cannot be read.

use crate::error::CaptureError;
use std::io::{self, Read};

/// What the head of a capture file declares.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Head {
    /// A pcap file, with all that its header says.
    Pcap(PcapHeader),
    /// A pcapng file, whose first section has this byte order.
    Pcapng(ByteOrder),
}

/// The header of a pcap file (draft-ietf-opsawg-pcap, section 4).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct PcapHeader {
    pub order: ByteOrder,
    pub variant: Variant,
    pub snap_octets: u32,
    /// The LINKTYPE number in the low half; the high half may give the length of the frame check
    /// sequence.
    pub link: u32,
}

/// The kinds of pcap files, by their magic number.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Variant {
    /// 0xa1b2c3d4.
    Microseconds,
    /// 0xa1b23c4d.
    Nanoseconds,
    /// 0xa1b2cd34: of a patched libpcap, with eight more octets in the header of each record.
    Modified,
}

/// The byte order of a file or section.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum ByteOrder {
    Little,
    Big,
}

/// What a file begins with that is a pcapng section header.
const SECTION_HEADER: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];
const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;
/// Octets of a section header without options (draft-ietf-opsawg-pcapng, section 4.1).
const SECTION_HEADER_OCTETS_MIN: usize = 28;
/// The longest section header that is read.
const SECTION_HEADER_OCTETS_MAX: usize = 1 << 20;

impl Head {
    /// Reads the start of a file called `name` in one piece: a pcap header, or a whole pcapng
    /// section header. A pipe may deliver it in any number of pieces.
    ///
    /// # Errors
    ///
    /// [`CaptureError::Read`], [`CaptureError::NotACapture`] or [`CaptureError::Header`].
    pub fn read(name: &str, reader: &mut impl Read) -> Result<(Self, Vec<u8>), CaptureError> {
        let octets = read_head(reader).map_err(|error| CaptureError::Read {
            name: name.to_owned(),
            error,
        })?;
        let header = |what| CaptureError::Header {
            name: name.to_owned(),
            what,
        };
        let head = if octets.starts_with(&SECTION_HEADER) {
            Self::Pcapng(check_section_header(&octets).map_err(header)?)
        } else if let Some((order, variant)) = pcap_magic(&octets) {
            Self::Pcap(PcapHeader::parse(&octets, order, variant).map_err(header)?)
        } else {
            return Err(CaptureError::NotACapture {
                name: name.to_owned(),
                found: describe(&octets),
            });
        };
        Ok((head, octets))
    }
}

impl PcapHeader {
    /// Its length.
    pub const OCTETS: usize = 24;
    /// Versions 2.0 to 2.4 differ in no field that matters here.
    const VERSION: u16 = 2;

    fn parse(octets: &[u8], order: ByteOrder, variant: Variant) -> Result<Self, String> {
        let Some(header) = octets.first_chunk::<{ Self::OCTETS }>() else {
            return Err(format!(
                "the file is cut inside its header: {} of the {} octets of a pcap header are there",
                octets.len(),
                Self::OCTETS
            ));
        };
        let (major, minor) = (order.half(header, 4), order.half(header, 6));
        if major != Self::VERSION {
            let version = Self::VERSION;
            return Err(format!(
                "pcap version {major}.{minor} is not supported: expected version {version}"
            ));
        }
        Ok(Self {
            order,
            variant,
            snap_octets: order.word(header, 16),
            link: order.word(header, 20),
        })
    }
}

impl ByteOrder {
    /// The 16-bit integer at an offset.
    pub fn half(self, octets: &[u8], at: usize) -> u16 {
        let half = [octets[at], octets[at + 1]];
        match self {
            Self::Little => u16::from_le_bytes(half),
            Self::Big => u16::from_be_bytes(half),
        }
    }

    /// The 32-bit integer at an offset.
    pub fn word(self, octets: &[u8], at: usize) -> u32 {
        let word = [octets[at], octets[at + 1], octets[at + 2], octets[at + 3]];
        match self {
            Self::Little => u32::from_le_bytes(word),
            Self::Big => u32::from_be_bytes(word),
        }
    }
}

/// Whether the octets begin with the type of a section header, which is the same in both orders.
pub(super) fn is_section_header(octets: &[u8]) -> bool {
    octets.starts_with(&SECTION_HEADER)
}

/// The byte order that a section header of at least 12 octets declares.
///
/// # Errors
///
/// What is there instead of the byte-order magic.
pub(super) fn section_order(octets: &[u8]) -> Result<ByteOrder, String> {
    match ByteOrder::Big.word(octets, 8) {
        BYTE_ORDER_MAGIC => Ok(ByteOrder::Big),
        swapped if swapped.swap_bytes() == BYTE_ORDER_MAGIC => Ok(ByteOrder::Little),
        other => Err(format!(
            "a pcapng section header with {other:08x} in place of the byte-order magic: expected \
             1a2b3c4d or 4d3c2b1a"
        )),
    }
}

/// Checks the version of a section header.
///
/// # Errors
///
/// The version, if it is not supported.
pub(super) fn check_section_version(major: u16, minor: u16) -> Result<(), String> {
    const VERSION: u16 = 1;
    if major == VERSION {
        Ok(())
    } else {
        Err(format!(
            "pcapng version {major}.{minor} is not supported: expected version {VERSION}"
        ))
    }
}

/// Checks the first section header of a file, and returns its byte order.
fn check_section_header(octets: &[u8]) -> Result<ByteOrder, String> {
    let there = octets.len();
    let cut = |octets: usize| {
        format!(
            "the file is cut inside its header: {there} of the {octets} octets of a pcapng section \
             header are there"
        )
    };
    if there < 12 {
        return Err(cut(SECTION_HEADER_OCTETS_MIN));
    }
    let order = section_order(octets)?;
    let length = usize::try_from(order.word(octets, 4)).unwrap_or(usize::MAX);
    if !(SECTION_HEADER_OCTETS_MIN..=SECTION_HEADER_OCTETS_MAX).contains(&length) {
        return Err(format!(
            "a pcapng section header of {length} octets: expected {SECTION_HEADER_OCTETS_MIN} to \
             {SECTION_HEADER_OCTETS_MAX}"
        ));
    }
    if there >= 16 {
        check_section_version(order.half(octets, 12), order.half(octets, 14))?;
    }
    if there < length {
        return Err(cut(length));
    }
    Ok(order)
}

fn pcap_magic(octets: &[u8]) -> Option<(ByteOrder, Variant)> {
    let magic = *octets.first_chunk::<4>()?;
    let variant = |magic| match magic {
        0xa1b2_c3d4_u32 => Some(Variant::Microseconds),
        0xa1b2_3c4d => Some(Variant::Nanoseconds),
        0xa1b2_cd34 => Some(Variant::Modified),
        _ => None,
    };
    let little = variant(u32::from_le_bytes(magic)).map(|variant| (ByteOrder::Little, variant));
    little.or_else(|| variant(u32::from_be_bytes(magic)).map(|variant| (ByteOrder::Big, variant)))
}

fn read_head(reader: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    reader
        .by_ref()
        .take(PcapHeader::OCTETS as u64)
        .read_to_end(&mut head)?;
    if is_section_header(&head)
        && head.len() >= 12
        && let Ok(order) = section_order(&head)
    {
        let length = usize::try_from(order.word(&head, 4)).unwrap_or(usize::MAX);
        let rest = length
            .min(SECTION_HEADER_OCTETS_MAX)
            .saturating_sub(head.len());
        reader.by_ref().take(rest as u64).read_to_end(&mut head)?;
    }
    Ok(head)
}

/// What the head of a file that is not a capture file contains, for the error.
fn describe(head: &[u8]) -> String {
    let packed = |format: &str, program: &str| {
        format!("{format} data; decompress it first: `{program} FILE | xdprobe run -r - ...`")
    };
    match head {
        [] => "nothing (it is empty)".to_owned(),
        [0x1f, 0x8b, ..] => packed("gzip", "zcat"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => packed("zstd", "zstdcat"),
        [0xfd, b'7', b'z', b'X', ..] => packed("xz", "xzcat"),
        // The frame format, and that of the first versions.
        [0x04, 0x22, 0x4d, 0x18, ..] | [0x02, 0x21, 0x4c, 0x18, ..] => packed("lz4", "lz4cat"),
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => packed("bzip2", "bzcat"),
        _ => head
            .iter()
            .take(4)
            .map(|octet| format!("{octet:02x}"))
            .collect::<Vec<_>>()
            .join(" "),
    }
}
