//! Capture files: pcap in both byte orders and resolutions, and pcapng, from a path or standard input.
//!
//! pcap-parser finds the blocks in a large buffer; frames are shown where they lie in it. The packets' own times are the
//! clock, so a burst ends before it spans more than [`BURST_SPAN_NS`] of them: whoever expires flows between bursts is then
//! never later than that, however fast the file is read, and however it arrives.

use crate::filter::Matcher;
use crate::sampling::Sampler;
use crate::{BURST_MAX, CaptureError, Filter, Frame, Received, Sampling, Source, SourceCounters};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use pcap_parser::traits::{PcapNGPacketBlock, PcapReaderIterator};
use pcap_parser::{
    Block, InterfaceDescriptionBlock, PcapBlockOwned, PcapError, PcapHeader, UnknownBlock, create_reader,
};
use std::fs::File;
use std::io::{self, Cursor, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The longest that the frames of one burst lie apart, by their own times.
pub const BURST_SPAN_NS: u64 = 100_000_000;

/// A capture file, read from start to end.
pub struct CaptureFile {
    name: String,
    reader: Box<dyn PcapReaderIterator + Send>,
    section: Section,
    filter: Option<Matcher>,
    sampler: Sampler,
    counters: SourceCounters,
    last_ns: u64,
    burst: Burst,
    /// What to wait on where the file is a pipe.
    pipe: Option<OwnedFd>,
    ended: bool,
    progress: Arc<AtomicU64>,
}

/// The burst under way: a pipe that has no more for now interrupts it, but does not end it.
#[derive(Default)]
struct Burst {
    frames: usize,
    first_ns: Option<u64>,
}

/// Read at a time, and how long a block may be before the buffer has to grow.
const BUFFER_OCTETS: usize = 1 << 20;
/// No capture length or block is longer in a sound file (libpcap's MAXIMUM_SNAPLEN for all but a few link types is 256 KiB,
/// and 128 MiB for those).
const BLOCK_OCTETS_MAX: usize = 128 << 20;
/// What libpcap allows a record where the file's own snap length is smaller.
const SNAP_OCTETS_MAX: u32 = 256 << 10;

impl CaptureFile {
    /// Opens the capture file at `path`, or standard input for `-`.
    ///
    /// # Errors
    ///
    /// [`CaptureError::Read`] or [`CaptureError::NotACapture`].
    pub fn open(path: &Path, filter: Option<&Filter>) -> Result<Self, CaptureError> {
        let (name, opened) = if path == Path::new("-") {
            ("standard input".to_owned(), io::stdin().as_fd().try_clone_to_owned().map(File::from))
        } else {
            (path.display().to_string(), File::open(path))
        };
        let failed = |error| CaptureError::Read { name: name.clone(), error };
        let file = opened.map_err(failed)?;
        let pipe = file.as_fd().try_clone_to_owned().map_err(failed)?;
        Ok(Self { pipe: Some(pipe), ..Self::from_reader(&name, file, filter)? })
    }

    /// Reads a capture file called `name` from wherever it comes.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn from_reader(
        name: &str,
        mut reader: impl Read + Send + 'static,
        filter: Option<&Filter>,
    ) -> Result<Self, CaptureError> {
        let head = read_head(&mut reader).map_err(|error| CaptureError::Read { name: name.to_owned(), error })?;
        let found = describe(&head);
        // A head that is whole tells everything; the reader takes it and goes on behind it.
        let reader = create_reader(BUFFER_OCTETS, Cursor::new(head).chain(reader))
            .map_err(|_| CaptureError::NotACapture { name: name.to_owned(), found })?;
        Ok(Self {
            name: name.to_owned(),
            reader,
            section: Section::default(),
            filter: filter.map(Filter::matcher),
            sampler: Sampling::NONE.sampler(0),
            counters: SourceCounters::default(),
            last_ns: 0,
            burst: Burst::default(),
            pipe: None,
            ended: false,
            progress: Arc::default(),
        })
    }

    /// The same file, sampled before it is filtered: of each two runs the same frames are shown, by chance too.
    #[must_use]
    pub fn sampled(self, sampling: Sampling) -> Self {
        Self { sampler: sampling.sampler(0), ..self }
    }

    /// Octets of the file that were read so far, kept up to date with each burst: for whoever shows it.
    #[must_use]
    pub fn progress(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.progress)
    }

    fn consumed_octets(&self) -> u64 {
        self.reader.consumed() as u64
    }

    fn damaged(&self, what: impl Into<String>) -> CaptureError {
        CaptureError::Damaged { name: self.name.clone(), offset: self.consumed_octets(), what: what.into() }
    }

    /// Whether reading would not have to wait.
    fn is_readable(&self, timeout: PollTimeout) -> bool {
        let Some(pipe) = &self.pipe else { return true };
        // An error or the other end's hanging up is for the read to tell.
        poll(&mut [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)], timeout) != Ok(0)
    }

    /// Makes the next block available, or says that there is none.
    fn refill(&mut self, needs_room: bool) -> Result<(), CaptureError> {
        if needs_room {
            let octets = self.reader.data().len().max(BUFFER_OCTETS) * 2;
            if octets > 2 * BLOCK_OCTETS_MAX || !self.reader.grow(octets) {
                return Err(self.damaged(format!("a block longer than {} MiB", BLOCK_OCTETS_MAX >> 20)));
            }
        }
        let refilled = self.reader.refill().is_ok();
        if refilled { Ok(()) } else { Err(self.damaged("the file cannot be read any further")) }
    }
}

impl Source for CaptureFile {
    fn receive(&mut self, each: &mut impl FnMut(Frame<'_>)) -> Result<Received, CaptureError> {
        self.progress.store(self.consumed_octets(), Ordering::Relaxed);
        if self.ended {
            return Ok(Received::End);
        }
        while self.burst.frames < BURST_MAX {
            let (octets, block) = match self.reader.next() {
                Ok(next) => next,
                Err(PcapError::Eof) => {
                    self.ended = true;
                    break;
                }
                Err(error @ (PcapError::Incomplete(_) | PcapError::BufferTooSmall)) => {
                    let needs_room = error == PcapError::BufferTooSmall;
                    if !self.is_readable(PollTimeout::ZERO) {
                        return Ok(Received::Nothing);
                    }
                    self.refill(needs_room)?;
                    continue;
                }
                Err(error) => {
                    let what = match error {
                        PcapError::UnexpectedEof => "the file ends inside a record",
                        PcapError::ReadError => "the file cannot be read any further",
                        _ => "not a record or block",
                    };
                    self.ended = true;
                    return Err(self.damaged(what));
                }
            };
            let frame = match self.section.frame(&block, self.last_ns) {
                Ok(frame) => frame,
                Err(what) => {
                    self.ended = true;
                    return Err(self.damaged(what));
                }
            };
            if let Some(frame) = frame {
                let captured_ns = frame.captured_ns.unwrap_or(self.last_ns);
                if captured_ns.abs_diff(*self.burst.first_ns.get_or_insert(captured_ns)) > BURST_SPAN_NS {
                    break;
                }
                self.last_ns = captured_ns;
                self.burst.frames += 1;
                if !self.sampler.takes_next() {
                    self.counters.sampled_out += 1;
                } else if self.filter.as_mut().map_or(Ok(true), |filter| filter.wants(&frame))? {
                    self.counters.received += 1;
                    self.counters.received_octets += u64::from(frame.wire_octets);
                    each(frame);
                } else {
                    self.counters.filtered += 1;
                }
            }
            self.reader.consume(octets);
        }
        let Burst { frames, .. } = std::mem::take(&mut self.burst);
        Ok(if frames == 0 && self.ended { Received::End } else { Received::Frames })
    }

    fn wait(&mut self, timeout: Duration) {
        self.is_readable(PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX));
    }

    fn counters(&self) -> SourceCounters {
        self.counters
    }
}

/// What the blocks so far say about those to come: a pcap header, or the interfaces of a pcapng section.
#[derive(Default)]
struct Section {
    big_endian: bool,
    interfaces: Vec<FileInterface>,
    snap_octets_max: u32,
}

/// An interface that frames were captured on.
#[derive(Clone, Copy)]
struct FileInterface {
    link: u16,
    snap_octets: u32,
    units: TimeUnits,
}

impl Section {
    /// The frame that a block holds, if it holds one; what is wrong with it, if something is.
    fn frame<'a>(&mut self, block: &'a PcapBlockOwned<'_>, last_ns: u64) -> Result<Option<Frame<'a>>, String> {
        let (interface, units, octets, wire_octets) = match block {
            PcapBlockOwned::LegacyHeader(header) => {
                self.begin_pcap(header);
                return Ok(None);
            }
            PcapBlockOwned::Legacy(record) => {
                if record.caplen > self.snap_octets_max {
                    return Err(format!(
                        "a record of {} octets, at most {} allowed",
                        record.caplen, self.snap_octets_max
                    ));
                }
                let interface = self.interface(0)?;
                let captured_ns = interface.units.of_record(record.ts_sec, record.ts_usec);
                return Ok(Some(interface.frame(record.data, record.origlen, captured_ns)));
            }
            PcapBlockOwned::NG(Block::SectionHeader(header)) => {
                *self = Self { big_endian: header.big_endian(), ..Self::default() };
                return Ok(None);
            }
            PcapBlockOwned::NG(Block::InterfaceDescription(description)) => {
                self.interfaces.push(FileInterface::described_by(description)?);
                return Ok(None);
            }
            PcapBlockOwned::NG(Block::EnhancedPacket(packet)) => {
                let units = u64::from(packet.ts_high) << 32 | u64::from(packet.ts_low);
                (packet.if_id, Some(units), packet.packet_data(), packet.origlen)
            }
            PcapBlockOwned::NG(Block::SimplePacket(packet)) => (0, None, packet.data, packet.origlen),
            PcapBlockOwned::NG(Block::Unknown(block)) => match ObsoletePacket::in_block(block, self.big_endian) {
                Some(packet) => (packet.interface, Some(packet.units), packet.octets, packet.wire_octets),
                None => return Ok(None),
            },
            PcapBlockOwned::NG(_) => return Ok(None),
        };
        let interface = self.interface(interface)?;
        let captured_ns = units.map_or(last_ns, |units| interface.units.of_count(units));
        // A simple packet has no captured length: it is as long as on the wire, or cut at the interface's snap length.
        let captured = match interface.snap_octets {
            0 => wire_octets,
            snap_octets => wire_octets.min(snap_octets),
        };
        let simple = matches!(block, PcapBlockOwned::NG(Block::SimplePacket(_)));
        let kept = if simple { usize::try_from(captured).unwrap_or(usize::MAX) } else { octets.len() };
        Ok(Some(interface.frame(&octets[..octets.len().min(kept)], wire_octets, captured_ns)))
    }

    fn begin_pcap(&mut self, header: &PcapHeader) {
        let per_second = if header.is_nanosecond_precision() { 1_000_000_000 } else { 1_000_000 };
        self.snap_octets_max = header.snaplen.max(SNAP_OCTETS_MAX);
        self.interfaces = vec![FileInterface {
            link: link_number(header.network.0),
            snap_octets: header.snaplen,
            units: TimeUnits { per_second, offset_s: 0 },
        }];
    }

    fn interface(&self, id: u32) -> Result<FileInterface, String> {
        let found = usize::try_from(id).ok().and_then(|id| self.interfaces.get(id)).copied();
        found.ok_or_else(|| format!("a packet of interface {id}, but {} are described", self.interfaces.len()))
    }
}

impl FileInterface {
    fn described_by(description: &InterfaceDescriptionBlock<'_>) -> Result<Self, String> {
        let per_second = units_per_second(description.if_tsresol)
            .ok_or_else(|| format!("a time resolution of {:#04x}, finer than can be", description.if_tsresol))?;
        Ok(Self {
            link: link_number(description.linktype.0),
            snap_octets: description.snaplen,
            units: TimeUnits { per_second, offset_s: description.if_tsoffset },
        })
    }

    fn frame(self, octets: &[u8], wire_octets: u32, captured_ns: u64) -> Frame<'_> {
        // Some writers left the length on the wire smaller than what they captured; what is there was on the wire.
        let wire_octets = wire_octets.max(u32::try_from(octets.len()).unwrap_or(u32::MAX));
        Frame { octets, wire_octets, link: self.link, captured_ns: Some(captured_ns) }
    }
}

/// How a file counts time.
#[derive(Clone, Copy)]
struct TimeUnits {
    per_second: u64,
    offset_s: i64,
}

const NS_PER_S: u64 = 1_000_000_000;

impl TimeUnits {
    /// A pcap record's seconds and fraction, in ns since 1970. Fractions beyond a second occur, and carry.
    fn of_record(self, s: u32, fraction: u32) -> u64 {
        u64::from(s) * NS_PER_S + u64::from(fraction) * (NS_PER_S / self.per_second)
    }

    /// A pcapng time, in ns since 1970.
    fn of_count(self, units: u64) -> u64 {
        let ns = u128::from(units) * u128::from(NS_PER_S) / u128::from(self.per_second);
        let offset_ns = i128::from(self.offset_s) * i128::from(NS_PER_S);
        let moved_ns = i128::try_from(ns).unwrap_or(i128::MAX).saturating_add(offset_ns);
        u64::try_from(moved_ns.max(0)).unwrap_or(u64::MAX)
    }
}

/// pcapng's if_tsresol: a negative power of 10, or of 2 where the top bit is set.
fn units_per_second(resolution: u8) -> Option<u64> {
    let exponent = u32::from(resolution & 0x7f);
    if resolution & 0x80 == 0 { 10u64.checked_pow(exponent) } else { 1u64.checked_shl(exponent) }
}

/// The LINKTYPE number in the low half of the field; the high half may say how long a frame check sequence is.
fn link_number(field: i32) -> u16 {
    let [.., high, low] = field.to_be_bytes();
    u16::from_be_bytes([high, low])
}

/// The packet block of early pcapng (type 2), which the parser does not know.
struct ObsoletePacket<'a> {
    interface: u32,
    units: u64,
    octets: &'a [u8],
    wire_octets: u32,
}

impl<'a> ObsoletePacket<'a> {
    const BLOCK_TYPE: u32 = 2;

    fn in_block(block: &UnknownBlock<'a>, big_endian: bool) -> Option<Self> {
        let block_type = if big_endian { block.block_type.swap_bytes() } else { block.block_type };
        if block.block_type != Self::BLOCK_TYPE && block_type != Self::BLOCK_TYPE {
            return None;
        }
        let (fields, octets) = block.data.split_first_chunk::<20>()?;
        let half = |at: usize| [fields[at], fields[at + 1]];
        let word = |at: usize| [fields[at], fields[at + 1], fields[at + 2], fields[at + 3]];
        let half = |at| if big_endian { u16::from_be_bytes(half(at)) } else { u16::from_le_bytes(half(at)) };
        let word = |at| if big_endian { u32::from_be_bytes(word(at)) } else { u32::from_le_bytes(word(at)) };
        let captured = usize::try_from(word(12)).ok()?;
        Some(Self {
            interface: u32::from(half(0)),
            units: u64::from(word(4)) << 32 | u64::from(word(8)),
            octets: octets.get(..captured)?,
            wire_octets: word(16),
        })
    }
}

/// The file's beginning as the parser wants it, in one piece: a pcap header, or a whole pcapng section header. A pipe may
/// give it in any number of pieces.
fn read_head(reader: &mut impl Read) -> io::Result<Vec<u8>> {
    const PCAP_HEADER_OCTETS: u64 = 24;
    const SECTION_HEADER: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];
    const SECTION_HEADER_OCTETS_MAX: u32 = 1 << 20;
    let mut head = Vec::new();
    reader.by_ref().take(PCAP_HEADER_OCTETS).read_to_end(&mut head)?;
    if let [a, b, c, d, l0, l1, l2, l3, m0, ..] = head[..]
        && [a, b, c, d] == SECTION_HEADER
    {
        // The byte-order magic is 0x1a2b3c4d.
        let length = [l0, l1, l2, l3];
        let length = if m0 == 0x1a { u32::from_be_bytes(length) } else { u32::from_le_bytes(length) };
        let rest = u64::from(length.min(SECTION_HEADER_OCTETS_MAX)).saturating_sub(head.len() as u64);
        reader.by_ref().take(rest).read_to_end(&mut head)?;
    }
    Ok(head)
}

/// What a file that is no capture begins with, for the error.
fn describe(head: &[u8]) -> String {
    match head {
        [] => "nothing at all (it is empty)".to_owned(),
        [0x1f, 0x8b, ..] => "gzip (unpack it: `zcat FILE | xdprobe run -r - ...`)".to_owned(),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd (unpack it: `zstdcat FILE | xdprobe run -r - ...`)".to_owned(),
        [0xfd, b'7', b'z', b'X', ..] => "xz (unpack it: `xzcat FILE | xdprobe run -r - ...`)".to_owned(),
        _ => head.iter().take(4).map(|octet| format!("{octet:02x}")).collect::<Vec<_>>().join(" "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// A pcap file in either byte order and resolution.
    fn pcap(big_endian: bool, nanoseconds: bool, records: &[(u32, u32, &[u8])]) -> Vec<u8> {
        let word = |value: u32| if big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
        let half = |value: u16| if big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
        let magic = if nanoseconds { 0xa1b2_3c4d } else { 0xa1b2_c3d4 };
        let mut file = word(magic).to_vec();
        file.extend([half(2), half(4)].concat());
        file.extend([word(0), word(0), word(65_535), word(1)].concat());
        for &(s, fraction, octets) in records {
            let length = u32::try_from(octets.len()).unwrap();
            file.extend([word(s), word(fraction), word(length), word(length + 100)].concat());
            file.extend(octets);
        }
        file
    }

    /// A pcapng block, little-endian.
    fn block(block_type: u32, body: &[u8]) -> Vec<u8> {
        let padded = body.len().next_multiple_of(4);
        let length = u32::try_from(padded + 12).unwrap().to_le_bytes();
        let mut block = [&block_type.to_le_bytes(), &length, body, &[0; 3][..padded - body.len()]].concat();
        block.extend(length);
        block
    }

    fn words(values: &[u32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    type Shown = (Vec<u8>, u32, u16, u64);

    fn read(file: &[u8]) -> (Vec<Shown>, Option<CaptureError>) {
        let mut shown = Vec::new();
        let mut source = match CaptureFile::from_reader("test", Cursor::new(file.to_vec()), None) {
            Ok(source) => source,
            Err(error) => return (shown, Some(error)),
        };
        loop {
            let received = source.receive(&mut |frame: Frame<'_>| {
                shown.push((frame.octets.to_vec(), frame.wire_octets, frame.link, frame.captured_ns.unwrap()));
            });
            match received {
                Ok(Received::End) => return (shown, None),
                Ok(_) => {}
                Err(error) => return (shown, Some(error)),
            }
        }
    }

    #[test]
    fn reads_pcap_in_both_byte_orders_and_resolutions() {
        for big_endian in [false, true] {
            for (nanoseconds, wanted_ns) in [(false, 7_000_005_000), (true, 7_000_000_005)] {
                let (shown, error) = read(&pcap(big_endian, nanoseconds, &[(7, 5, &[1, 2, 3])]));
                assert_eq!(shown, [(vec![1, 2, 3], 103, 1, wanted_ns)]);
                assert!(error.is_none());
            }
        }
    }

    #[test]
    fn reads_every_kind_of_packet_block_and_interface() {
        let section = block(0x0a0d_0d0a, &words(&[0x1a2b_3c4d, 1, u32::MAX, u32::MAX]));
        // Interface 0: Ethernet, microseconds. Interface 1: raw IP, 2^-10 s (option 9), 100 s late (option 14).
        let ethernet = block(1, &words(&[1, 65_535]));
        let options = [9 | 1 << 16, 0x8a, 14 | 8 << 16, 100, 0, 0];
        let raw = block(1, &[words(&[101, 0]), words(&options)].concat());
        let enhanced = block(6, &[words(&[1, 0, 2048, 3, 60]), vec![7, 8, 9]].concat());
        let obsolete = block(2, &[words(&[0, 0, 5_000_000, 2, 50]), vec![4, 5]].concat());
        let simple = block(3, &[words(&[3]), vec![1, 2, 3]].concat());
        let custom = block(0x8000_0001, &[9; 8]);
        let (shown, error) = read(&[section, ethernet, raw, enhanced, custom, obsolete, simple].concat());
        assert!(error.is_none(), "{error:?}");
        assert_eq!(
            shown,
            [
                (vec![7, 8, 9], 60, 101, 102_000_000_000),
                (vec![4, 5], 50, 1, 5_000_000_000),
                (vec![1, 2, 3], 3, 1, 5_000_000_000),
            ]
        );
    }

    #[test]
    fn shows_what_comes_before_the_damage_and_says_where_it_is() {
        let file = pcap(false, false, &[(1, 0, &[1; 60]), (2, 0, &[2; 60])]);
        let (shown, error) = read(&file[..file.len() - 1]);
        assert_eq!(shown.len(), 1);
        let error = error.unwrap().to_string();
        assert!(error.contains("damaged at octet 100: the file ends inside a record"), "{error}");
        let mut monstrous = file;
        monstrous[108..112].copy_from_slice(&[0, 0, 0, 0x7f]);
        let (shown, error) = read(&monstrous);
        assert_eq!(shown.len(), 1);
        assert!(error.unwrap().to_string().contains("damaged at octet 100"));
    }

    #[test]
    fn a_packet_of_an_interface_never_described_is_damage() {
        let section = block(0x0a0d_0d0a, &words(&[0x1a2b_3c4d, 1, u32::MAX, u32::MAX]));
        let (_, error) = read(&[section, block(6, &words(&[0, 0, 0, 0, 0]))].concat());
        assert!(error.unwrap().to_string().contains("a packet of interface 0, but 0 are described"));
    }

    #[test]
    fn says_what_is_not_a_capture() {
        for (file, wanted) in [
            (&b""[..], "begins with nothing at all"),
            (b"GIF89a and so on and so forth", "begins with 47 49 46 38, wanted a capture file"),
            (&[0x1f, 0x8b, 8, 0, 0], "zcat"),
        ] {
            let error = read(file).1.unwrap().to_string();
            assert!(error.contains(wanted), "{error}");
        }
    }

    #[test]
    fn bursts_end_with_their_span_of_time_and_depend_on_nothing_else() {
        /// Gives one octet at a time, as a slow pipe may.
        struct Trickle(Cursor<Vec<u8>>);
        impl Read for Trickle {
            fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
                let end = into.len().min(1);
                self.0.read(&mut into[..end])
            }
        }
        let times: Vec<(u32, u32)> = (0..200).map(|n| (1, n * 1000)).chain([(1, 600_000), (9, 0)]).collect();
        let records: Vec<_> = times.iter().map(|&(s, us)| (s, us, &[0u8; 20][..])).collect();
        let file = pcap(false, false, &records);
        let bursts = |mut source: CaptureFile| {
            let mut bursts = Vec::new();
            loop {
                let mut frames = 0;
                if source.receive(&mut |_: Frame<'_>| frames += 1).unwrap() == Received::End {
                    return bursts;
                }
                bursts.push(frames);
            }
        };
        let whole = bursts(CaptureFile::from_reader("whole", Cursor::new(file.clone()), None).unwrap());
        let trickled = bursts(CaptureFile::from_reader("slow", Trickle(Cursor::new(file)), None).unwrap());
        assert_eq!(whole, [64, 64, 64, 8, 1, 1]);
        assert_eq!(trickled, whole);
    }

    proptest! {
        #[test]
        fn no_file_panics(mut file in vec(any::<u8>(), 0..300), magic in 0usize..4) {
            let magics: [&[u8]; 4] = [&[], &[0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0], &[0xa1, 0xb2, 0x3c, 0x4d], &[
                0x0a, 0x0d, 0x0d, 0x0a, 28, 0, 0, 0, 0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255,
                255, 28, 0, 0, 0, 1, 0, 0, 0, 20, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 20, 0, 0, 0,
            ]];
            file.splice(0..0, magics[magic].iter().copied());
            let _ = read(&file);
        }

        #[test]
        fn no_bit_flip_panics(at in 0usize..400, bit in 0u8..8) {
            let mut file = pcap(false, false, &[(1, 0, &[1; 60]), (2, 0, &[2; 60]), (3, 0, &[3; 60])]);
            if let Some(octet) = file.get_mut(at) {
                *octet ^= 1 << bit;
            }
            let (shown, _) = read(&file);
            prop_assert!(shown.len() <= 3);
        }
    }
}
