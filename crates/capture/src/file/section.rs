//! The records and blocks of a capture file: how the following ones are read, and the frames that
//! they contain.

use super::header::{
    ByteOrder, Head, PcapHeader, Variant, check_section_version, is_section_header, section_order,
};
use crate::frame::{CaptureTime, Frame};
use pcap_parser::nom::{Err as Unparsed, IResult, Needed, Offset};
use pcap_parser::{
    Block, InterfaceDescriptionBlock, LegacyPcapBlock, PcapError, UnknownBlock, parse_block_be,
    parse_block_le, parse_pcap_frame, parse_pcap_frame_be, parse_pcap_frame_modified,
};

/// What the file has declared so far: its pcap header, or the interfaces of the current pcapng
/// section.
pub(super) struct Section {
    format: Format,
    interfaces: Vec<FileInterface>,
    snap_octets_max: u32,
    /// When the last frame was captured, in ns since 1970.
    last_ns: u64,
}

/// The file's format.
#[derive(Clone, Copy)]
enum Format {
    Pcap(Records),
    Pcapng(ByteOrder),
}

/// The records of a pcap file.
#[derive(Clone, Copy)]
struct Records {
    order: ByteOrder,
    parse: ParseRecord,
    /// Length of a record's header.
    header_octets: usize,
}

type ParseRecord = fn(&[u8]) -> IResult<&[u8], LegacyPcapBlock<'_>, PcapError<&[u8]>>;

/// The longest record that libpcap accepts in a file with a smaller snap length of its own.
const SNAP_OCTETS_MAX: u32 = 256 << 10;
/// The longest record or block of a sound file: libpcap's MAXIMUM_SNAPLEN is 256 KiB for most link
/// types and 128 MiB for a few.
pub(super) const BLOCK_OCTETS_MAX: usize = 128 << 20;

impl Section {
    /// The section that a file's head declares, and how many octets of the head that took.
    pub fn begin(head: &Head) -> (Self, usize) {
        match head {
            Head::Pcap(header) => (Self::of_pcap(header), PcapHeader::OCTETS),
            // The section header is read again, as the first block of the file.
            Head::Pcapng(order) => (Self::of_pcapng(*order), 0),
        }
    }

    fn of_pcap(header: &PcapHeader) -> Self {
        let PcapHeader {
            order,
            variant,
            snap_octets,
            link,
        } = *header;
        Self {
            format: Format::Pcap(Records::of(variant, order)),
            interfaces: vec![FileInterface {
                link: link_number(link),
                snap_octets,
                units: TimeUnits {
                    per_second: match variant {
                        Variant::Nanoseconds => 1_000_000_000,
                        Variant::Microseconds | Variant::Modified => 1_000_000,
                    },
                    offset_s: 0,
                },
            }],
            snap_octets_max: snap_octets.max(SNAP_OCTETS_MAX),
            last_ns: 0,
        }
    }

    fn of_pcapng(order: ByteOrder) -> Self {
        Self {
            format: Format::Pcapng(order),
            interfaces: Vec::new(),
            snap_octets_max: 0,
            last_ns: 0,
        }
    }

    /// What is missing at the end of a file whose last octets, `file`, are a part of a record or
    /// block.
    pub fn describe_cut(&self, file: &[u8]) -> String {
        let (unit, header_octets, length) = match self.format {
            Format::Pcap(records) => {
                let captured = records.captured_octets(file);
                let octets =
                    captured.map(|octets| records.header_octets as u64 + u64::from(octets));
                ("record", records.header_octets, octets)
            }
            Format::Pcapng(order) => {
                let length = block_octets(file, order).ok().flatten();
                (
                    "block",
                    BLOCK_OCTETS_MIN,
                    length.map(|octets| octets as u64),
                )
            }
        };
        let there = file.len();
        match length {
            Some(octets) => {
                format!("the file ends inside a {unit}: {there} of its {octets} octets are there")
            }
            None => format!(
                "the file ends inside a {unit} header: {there} of its {header_octets} octets are \
                 there"
            ),
        }
    }

    /// The length of the record or block at the start of `file`, `None` if it is incomplete. Shows
    /// its frame to `each`, if it has one.
    ///
    /// # Errors
    ///
    /// What is wrong with the record or block.
    #[inline]
    pub fn next<'a>(
        &mut self,
        file: &'a [u8],
        each: &mut impl FnMut(Frame<'a>),
    ) -> Result<Option<usize>, String> {
        // The record is used by reference: a copy of fields that were just written one by one would
        // stall until all of them are stored.
        match self.format {
            Format::Pcap(records) => match (records.parse)(file) {
                Ok((rest, ref record)) => {
                    self.show_record(record, each)?;
                    Ok(Some(file.offset(rest)))
                }
                Err(Unparsed::Incomplete(_)) => match records.captured_octets(file) {
                    Some(octets) if octets > self.snap_octets_max => Err(self.oversized(octets)),
                    _ => Ok(None),
                },
                Err(_) => Err("not a record".to_owned()),
            },
            Format::Pcapng(order) => {
                let Some(octets) = block_octets(file, order)? else {
                    return Ok(None);
                };
                let Some(block) = file.get(..octets) else {
                    return Ok(None);
                };
                match parse_block(block, order) {
                    Ok((_, ref parsed)) => self.show_block(parsed, order, each)?,
                    Err(_) => return Err(describe_contradiction(block, order)),
                }
                Ok(Some(octets))
            }
        }
    }

    fn oversized(&self, octets: u32) -> String {
        format!(
            "a record of {octets} octets; at most {} are allowed",
            self.snap_octets_max
        )
    }

    #[inline]
    fn show_record<'a>(
        &self,
        record: &LegacyPcapBlock<'a>,
        each: &mut impl FnMut(Frame<'a>),
    ) -> Result<(), String> {
        if record.caplen > self.snap_octets_max {
            return Err(self.oversized(record.caplen));
        }
        let interface = self.interface(0)?;
        let captured_ns = interface.units.of_record(record.ts_sec, record.ts_usec);
        each(interface.frame(record.data, record.origlen, captured_ns));
        Ok(())
    }

    fn show_block<'a>(
        &mut self,
        block: &Block<'a>,
        order: ByteOrder,
        each: &mut impl FnMut(Frame<'a>),
    ) -> Result<(), String> {
        let (interface, units, octets, wire_octets) = match block {
            Block::SectionHeader(header) => {
                check_section_version(header.major_version, header.minor_version)?;
                let order = if header.big_endian() {
                    ByteOrder::Big
                } else {
                    ByteOrder::Little
                };
                *self = Self {
                    last_ns: self.last_ns,
                    ..Self::of_pcapng(order)
                };
                return Ok(());
            }
            Block::InterfaceDescription(description) => {
                self.interfaces
                    .push(FileInterface::described_by(description)?);
                return Ok(());
            }
            Block::EnhancedPacket(packet) => {
                let units = u64::from(packet.ts_high) << 32 | u64::from(packet.ts_low);
                (
                    packet.if_id,
                    Some(units),
                    &packet.data[..packet.data.len().min(packet.caplen as usize)],
                    packet.origlen,
                )
            }
            Block::SimplePacket(packet) => (0, None, packet.data, packet.origlen),
            Block::Unknown(block) => match ObsoletePacket::in_block(block, order)? {
                Some(packet) => (
                    packet.interface,
                    Some(packet.units),
                    packet.octets,
                    packet.wire_octets,
                ),
                None => return Ok(()),
            },
            _ => return Ok(()),
        };
        let interface = self.interface(interface)?;
        let captured_ns = units.map_or(self.last_ns, |units| interface.units.of_count(units));
        self.last_ns = captured_ns;
        // A simple packet has no captured length: it has its length on the wire, or is cut at the
        // interface's snap length.
        let captured = match interface.snap_octets {
            0 => wire_octets,
            snap_octets => wire_octets.min(snap_octets),
        };
        let simple = matches!(block, Block::SimplePacket(_));
        let kept = if simple {
            captured as usize
        } else {
            octets.len()
        };
        each(interface.frame(&octets[..octets.len().min(kept)], wire_octets, captured_ns));
        Ok(())
    }

    fn interface(&self, id: u32) -> Result<FileInterface, String> {
        let found = usize::try_from(id)
            .ok()
            .and_then(|id| self.interfaces.get(id))
            .copied();
        found.ok_or_else(|| {
            format!(
                "a packet of interface {id}, but only {} interfaces are described",
                self.interfaces.len()
            )
        })
    }
}

impl Records {
    fn of(variant: Variant, order: ByteOrder) -> Self {
        let is_modified = variant == Variant::Modified;
        Self {
            order,
            parse: match (is_modified, order) {
                (true, ByteOrder::Little) => parse_pcap_frame_modified,
                (true, ByteOrder::Big) => parse_pcap_frame_modified_be,
                (false, ByteOrder::Little) => parse_pcap_frame,
                (false, ByteOrder::Big) => parse_pcap_frame_be,
            },
            header_octets: if is_modified {
                MODIFIED_RECORD_HEADER_OCTETS
            } else {
                RECORD_HEADER_OCTETS
            },
        }
    }

    /// The captured length of the record at the start of `file`; `None` if its header is
    /// incomplete.
    fn captured_octets(self, file: &[u8]) -> Option<u32> {
        (file.len() >= self.header_octets).then(|| self.order.word(file, 8))
    }
}

/// Seconds, fraction, captured and wire length.
const RECORD_HEADER_OCTETS: usize = 16;
/// The same, then an interface index, a protocol and a packet type.
const MODIFIED_RECORD_HEADER_OCTETS: usize = 24;

/// The parser's `parse_pcap_frame_modified` for the other byte order, which it lacks.
fn parse_pcap_frame_modified_be(
    file: &[u8],
) -> IResult<&[u8], LegacyPcapBlock<'_>, PcapError<&[u8]>> {
    let incomplete = || Unparsed::Incomplete(Needed::Unknown);
    let (header, octets) = file
        .split_at_checked(MODIFIED_RECORD_HEADER_OCTETS)
        .ok_or_else(incomplete)?;
    let word = |at| ByteOrder::Big.word(header, at);
    let caplen = word(8);
    let captured = usize::try_from(caplen).unwrap_or(usize::MAX);
    let (data, rest) = octets.split_at_checked(captured).ok_or_else(incomplete)?;
    let record = LegacyPcapBlock {
        ts_sec: word(0),
        ts_usec: word(4),
        caplen,
        origlen: word(12),
        data,
    };
    Ok((rest, record))
}

/// Type, length, and length once more; also what has to be there to know the length of a block: its
/// type, its length, and for a section header the byte-order magic.
const BLOCK_OCTETS_MIN: usize = 12;

/// The length of the block at the start of `file`, `None` if too little of it is there to know.
///
/// # Errors
///
/// What is wrong with the length.
fn block_octets(file: &[u8], order: ByteOrder) -> Result<Option<usize>, String> {
    if file.len() < BLOCK_OCTETS_MIN {
        return Ok(None);
    }
    let order = order_of_block(file, order)?;
    let octets = usize::try_from(order.word(file, 4)).unwrap_or(usize::MAX);
    if (BLOCK_OCTETS_MIN..=BLOCK_OCTETS_MAX).contains(&octets) {
        Ok(Some(octets))
    } else {
        Err(format!(
            "a block of {octets} octets; {BLOCK_OCTETS_MIN} to {BLOCK_OCTETS_MAX} are allowed"
        ))
    }
}

/// The byte order of a block of at least 12 octets: that of the section which it begins, or is in.
fn order_of_block(block: &[u8], order: ByteOrder) -> Result<ByteOrder, String> {
    if is_section_header(block) {
        section_order(block)
    } else {
        Ok(order)
    }
}

fn parse_block(block: &[u8], order: ByteOrder) -> IResult<&[u8], Block<'_>, PcapError<&[u8]>> {
    match order {
        ByteOrder::Little => parse_block_le(block),
        ByteOrder::Big => parse_block_be(block),
    }
}

/// Which fields of a whole block contradict each other, so that the parser refused it.
fn describe_contradiction(block: &[u8], order: ByteOrder) -> String {
    const INTERFACE_DESCRIPTION: u32 = 1;
    const INTERFACE_DESCRIPTION_OCTETS_MIN: usize = 20;
    const ENHANCED_PACKET: u32 = 6;
    const ENHANCED_PACKET_OCTETS_MIN: usize = 32;
    let order = order_of_block(block, order).unwrap_or(order);
    let octets = block.len();
    let block_type = order.word(block, 0);
    let repeated = order.word(block, octets - 4);
    match block_type {
        INTERFACE_DESCRIPTION if octets < INTERFACE_DESCRIPTION_OCTETS_MIN => format!(
            "an interface description of {octets} octets; at least \
             {INTERFACE_DESCRIPTION_OCTETS_MIN} are needed"
        ),
        ENHANCED_PACKET if octets < ENHANCED_PACKET_OCTETS_MIN => format!(
            "a packet block of {octets} octets; at least {ENHANCED_PACKET_OCTETS_MIN} are needed"
        ),
        ENHANCED_PACKET
            if u64::from(order.word(block, 20)).next_multiple_of(4)
                > (octets - ENHANCED_PACKET_OCTETS_MIN) as u64 =>
        {
            packet_beyond_block(order.word(block, 20), octets)
        }
        _ if usize::try_from(repeated).is_ok_and(|repeated| repeated != octets) => format!(
            "a block of {octets} octets that ends with a length of {repeated}; both must be equal"
        ),
        _ => {
            format!("a block of type {block_type:#x} whose contents do not fit its {octets} octets")
        }
    }
}

fn packet_beyond_block(packet_octets: u32, block_octets: usize) -> String {
    format!("a packet of {packet_octets} octets in a block of {block_octets}")
}

/// An interface description of the file.
#[derive(Clone, Copy)]
struct FileInterface {
    link: u16,
    snap_octets: u32,
    units: TimeUnits,
}

impl FileInterface {
    fn described_by(description: &InterfaceDescriptionBlock<'_>) -> Result<Self, String> {
        let per_second = units_per_second(description.if_tsresol).ok_or_else(|| {
            format!(
                "a time resolution of {:#04x}, which exceeds 64 bits",
                description.if_tsresol
            )
        })?;
        Ok(Self {
            link: link_number(description.linktype.0.cast_unsigned()),
            snap_octets: description.snaplen,
            units: TimeUnits {
                per_second,
                offset_s: description.if_tsoffset,
            },
        })
    }

    fn frame(self, octets: &[u8], wire_octets: u32, captured_ns: u64) -> Frame<'_> {
        // Some writers store a wire length below the captured length; every captured octet was on
        // the wire.
        let captured_octets =
            u32::try_from(octets.len()).expect("a record's length field has 32 bits");
        let wire_octets = wire_octets.max(captured_octets);
        Frame {
            octets,
            wire_octets,
            link: self.link,
            captured: CaptureTime::Wall(captured_ns),
        }
    }
}

/// The unit and offset of a file's times.
#[derive(Clone, Copy)]
struct TimeUnits {
    per_second: u64,
    offset_s: i64,
}

const NS_PER_S: u64 = 1_000_000_000;

impl TimeUnits {
    /// A pcap record's seconds and fraction, in ns since 1970. Fractions above a second occur; they
    /// carry.
    fn of_record(self, s: u32, fraction: u32) -> u64 {
        u64::from(s) * NS_PER_S + u64::from(fraction) * (NS_PER_S / self.per_second)
    }

    /// A pcapng time, in ns since 1970.
    fn of_count(self, units: u64) -> u64 {
        let ns = u128::from(units) * u128::from(NS_PER_S) / u128::from(self.per_second);
        let offset_ns = i128::from(self.offset_s) * i128::from(NS_PER_S);
        let moved_ns = i128::try_from(ns)
            .unwrap_or(i128::MAX)
            .saturating_add(offset_ns);
        u64::try_from(moved_ns.max(0)).unwrap_or(u64::MAX)
    }
}

/// pcapng's if_tsresol: a negative power of 10, or of 2 where the top bit is set.
fn units_per_second(resolution: u8) -> Option<u64> {
    let exponent = u32::from(resolution & 0x7f);
    if resolution & 0x80 == 0 {
        10u64.checked_pow(exponent)
    } else {
        1u64.checked_shl(exponent)
    }
}

/// The LINKTYPE number: the low half of the field. The high half may give the length of the frame
/// check sequence.
fn link_number(field: u32) -> u16 {
    let [.., high, low] = field.to_be_bytes();
    u16::from_be_bytes([high, low])
}

/// The packet block of early pcapng (type 2), which the parser does not support.
struct ObsoletePacket<'a> {
    interface: u32,
    units: u64,
    octets: &'a [u8],
    wire_octets: u32,
}

impl<'a> ObsoletePacket<'a> {
    const BLOCK_TYPE: u32 = 2;

    fn in_block(block: &UnknownBlock<'a>, order: ByteOrder) -> Result<Option<Self>, String> {
        let block_type = match order {
            ByteOrder::Little => block.block_type,
            ByteOrder::Big => block.block_type.swap_bytes(),
        };
        if block.block_type != Self::BLOCK_TYPE && block_type != Self::BLOCK_TYPE {
            return Ok(None);
        }
        let block_octets = BLOCK_OCTETS_MIN + block.data.len();
        let Some((fields, octets)) = block.data.split_first_chunk::<20>() else {
            return Err(format!(
                "a packet block of {block_octets} octets; at least 32 are needed"
            ));
        };
        let captured = order.word(fields, 12);
        let packet = usize::try_from(captured).ok();
        let Some(octets) = packet.and_then(|captured| octets.get(..captured)) else {
            return Err(packet_beyond_block(captured, block_octets));
        };
        Ok(Some(Self {
            interface: u32::from(order.half(fields, 0)),
            units: u64::from(order.word(fields, 4)) << 32 | u64::from(order.word(fields, 8)),
            octets,
            wire_octets: order.word(fields, 16),
        }))
    }
}
