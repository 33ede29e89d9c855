//! The records and blocks of a capture file: how the following ones are read, and the frames that
//! they contain.

use crate::source::{CaptureTime, Frame};
use pcap_parser::nom::{Err as Unparsed, IResult, Offset};
use pcap_parser::{
    Block, InterfaceDescriptionBlock, LegacyPcapBlock, PcapError, PcapHeader, UnknownBlock,
    parse_block_be, parse_block_le, parse_pcap_frame, parse_pcap_frame_be,
    parse_pcap_frame_modified, parse_pcap_header, parse_sectionheaderblock,
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
    Pcap(ParseRecord),
    Pcapng { big_endian: bool },
}

type ParseRecord = fn(&[u8]) -> IResult<&[u8], LegacyPcapBlock<'_>, PcapError<&[u8]>>;

/// The longest record that libpcap accepts in a file with a smaller snap length of its own.
const SNAP_OCTETS_MAX: u32 = 256 << 10;

impl Section {
    /// The section that a file's head declares, and how many octets of the head that took; `None`
    /// if it is not a capture file.
    pub fn begin(head: &[u8]) -> Option<(Self, usize)> {
        if parse_sectionheaderblock(head).is_ok() {
            // The byte order is read again, with this block as the first of the file.
            return Some((Self::of_pcapng(false), 0));
        }
        let (_, header) = parse_pcap_header(head).ok()?;
        Some((Self::of_pcap(&header), header.size()))
    }

    fn of_pcap(header: &PcapHeader) -> Self {
        let per_second = if header.is_nanosecond_precision() {
            1_000_000_000
        } else {
            1_000_000
        };
        Self {
            format: Format::Pcap(match (header.is_modified_format(), header.is_bigendian()) {
                (true, _) => parse_pcap_frame_modified,
                (false, true) => parse_pcap_frame_be,
                (false, false) => parse_pcap_frame,
            }),
            interfaces: vec![FileInterface {
                link: link_number(header.network.0),
                snap_octets: header.snaplen,
                units: TimeUnits {
                    per_second,
                    offset_s: 0,
                },
            }],
            snap_octets_max: header.snaplen.max(SNAP_OCTETS_MAX),
            last_ns: 0,
        }
    }

    fn of_pcapng(big_endian: bool) -> Self {
        Self {
            format: Format::Pcapng { big_endian },
            interfaces: Vec::new(),
            snap_octets_max: 0,
            last_ns: 0,
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
        let unparsed = match self.format {
            Format::Pcap(parse) => match parse(file) {
                Ok((rest, ref record)) => {
                    self.show_record(record, each)?;
                    return Ok(Some(file.offset(rest)));
                }
                Err(unparsed) => unparsed,
            },
            Format::Pcapng { big_endian } => match parse_block(file, big_endian) {
                Ok((rest, ref block)) => {
                    self.show_block(block, big_endian, each)?;
                    return Ok(Some(file.offset(rest)));
                }
                Err(unparsed) => unparsed,
            },
        };
        match unparsed {
            Unparsed::Incomplete(_) => Ok(None),
            _ => Err("not a record or block".to_owned()),
        }
    }

    #[inline]
    fn show_record<'a>(
        &self,
        record: &LegacyPcapBlock<'a>,
        each: &mut impl FnMut(Frame<'a>),
    ) -> Result<(), String> {
        if record.caplen > self.snap_octets_max {
            return Err(format!(
                "a record of {} octets; at most {} are allowed",
                record.caplen, self.snap_octets_max
            ));
        }
        let interface = self.interface(0)?;
        let captured_ns = interface.units.of_record(record.ts_sec, record.ts_usec);
        each(interface.frame(record.data, record.origlen, captured_ns));
        Ok(())
    }

    fn show_block<'a>(
        &mut self,
        block: &Block<'a>,
        big_endian: bool,
        each: &mut impl FnMut(Frame<'a>),
    ) -> Result<(), String> {
        let (interface, units, octets, wire_octets) = match block {
            Block::SectionHeader(header) => {
                *self = Self {
                    last_ns: self.last_ns,
                    ..Self::of_pcapng(header.big_endian())
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
            Block::Unknown(block) => match ObsoletePacket::in_block(block, big_endian) {
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

fn parse_block(file: &[u8], big_endian: bool) -> IResult<&[u8], Block<'_>, PcapError<&[u8]>> {
    if big_endian {
        parse_block_be(file)
    } else {
        parse_block_le(file)
    }
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
            link: link_number(description.linktype.0),
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
fn link_number(field: i32) -> u16 {
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

    fn in_block(block: &UnknownBlock<'a>, big_endian: bool) -> Option<Self> {
        let block_type = if big_endian {
            block.block_type.swap_bytes()
        } else {
            block.block_type
        };
        if block.block_type != Self::BLOCK_TYPE && block_type != Self::BLOCK_TYPE {
            return None;
        }
        let (fields, octets) = block.data.split_first_chunk::<20>()?;
        let half = |at: usize| [fields[at], fields[at + 1]];
        let word = |at: usize| [fields[at], fields[at + 1], fields[at + 2], fields[at + 3]];
        let half = |at| {
            if big_endian {
                u16::from_be_bytes(half(at))
            } else {
                u16::from_le_bytes(half(at))
            }
        };
        let word = |at| {
            if big_endian {
                u32::from_be_bytes(word(at))
            } else {
                u32::from_le_bytes(word(at))
            }
        };
        let captured = usize::try_from(word(12)).ok()?;
        Some(Self {
            interface: u32::from(half(0)),
            units: u64::from(word(4)) << 32 | u64::from(word(8)),
            octets: octets.get(..captured)?,
            wire_octets: word(16),
        })
    }
}
