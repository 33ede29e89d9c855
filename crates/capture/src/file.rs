//! Capture files: pcap in both byte orders and resolutions, and pcapng, from a path or standard
//! input.
//!
//! A thread reads ahead and finds the frames, in a few large pieces of the file that circulate
//! between it and the [`CaptureFile`]; frames are shown in place. The clock is the packets' own
//! times, so a burst ends before its frames span more than [`BURST_SPAN_NS`]: flows expired between
//! bursts are late by no more than that, however fast the file is read and however it arrives.

mod header;
mod reader;
mod section;

use crate::counters::SourceCounters;
use crate::error::CaptureError;
use crate::filter::{Filter, FilterByLink};
use crate::frame::Frame;
use crate::prefetch::{PREFETCH_AHEAD, prefetch};
use crate::sampling::{Sampler, Sampling};
use crate::source::{BURST_MAX, Received, Source, SourceChange, Unchangeable};
use crossbeam_channel::TryRecvError;
use header::Head;
use reader::{Piece, Reading, Readings};
use section::Section;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The longest time between frames of one burst, by their own times.
const BURST_SPAN_NS: u64 = 100_000_000;

/// A capture file, read from start to end.
pub struct CaptureFile {
    name: String,
    readings: Readings,
    /// The reading that [`Source::wait`] received.
    arrived: Option<Reading>,
    /// The current piece, and the index of its next frame.
    piece: Option<Piece>,
    next: usize,
    filter: Option<FilterByLink>,
    sampler: Sampler,
    counters: SourceCounters,
    burst: Burst,
    ended: bool,
    progress: ReadProgress,
}

impl CaptureFile {
    /// Octets of the pieces that a file is read in.
    pub const BUFFER_OCTETS: u64 = (reader::PIECES * reader::PIECE_OCTETS) as u64;

    /// Opens the capture file at `path`, or standard input for `-`, and starts reading it.
    ///
    /// # Errors
    ///
    /// [`CaptureError::Read`], [`CaptureError::NotACapture`] or [`CaptureError::Header`].
    pub fn open(path: &Path, filter: Option<&Filter>) -> Result<Self, CaptureError> {
        let (name, opened) = if path == Path::new("-") {
            (
                "standard input".to_owned(),
                io::stdin().as_fd().try_clone_to_owned().map(File::from),
            )
        } else {
            (path.display().to_string(), File::open(path))
        };
        let file = opened.map_err(|error| CaptureError::Read {
            name: name.clone(),
            error,
        })?;
        let octets_total = match file.metadata() {
            Ok(metadata) if metadata.is_file() => Some(metadata.len()),
            _ => None,
        };
        let mut opened = Self::from_reader(&name, file, filter)?;
        opened.progress.octets_total = octets_total;
        Ok(opened)
    }

    /// Reads a capture file called `name` from any reader; its total length is not known.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn from_reader(
        name: &str,
        reader: impl Read + Send + 'static,
        filter: Option<&Filter>,
    ) -> Result<Self, CaptureError> {
        Self::in_pieces_of(reader::PIECE_OCTETS, name, reader, filter)
    }

    fn in_pieces_of(
        piece_octets: usize,
        name: &str,
        mut reader: impl Read + Send + 'static,
        filter: Option<&Filter>,
    ) -> Result<Self, CaptureError> {
        let failed = |error| CaptureError::Read {
            name: name.to_owned(),
            error,
        };
        let (head, octets) = Head::read(name, &mut reader)?;
        let (section, whole) = Section::begin(&head);
        let first = Piece::of_head(octets, whole);
        Ok(Self {
            name: name.to_owned(),
            readings: Readings::start(name, reader, section, first, piece_octets)
                .map_err(failed)?,
            arrived: None,
            piece: None,
            next: 0,
            filter: filter.cloned().map(FilterByLink::new),
            sampler: sampler(Sampling::NONE),
            counters: SourceCounters::default(),
            burst: Burst::default(),
            ended: false,
            progress: ReadProgress::default(),
        })
    }

    /// The same file, sampled before it is filtered. Two runs show the same frames, in random mode
    /// as well.
    #[must_use]
    pub fn sampled(mut self, sampling: Sampling) -> Self {
        self.sampler = sampler(sampling);
        self
    }

    /// How far the file has been read; the handle stays up to date.
    #[must_use]
    pub fn progress(&self) -> ReadProgress {
        self.progress.clone()
    }

    /// Returns the current piece to the reader and takes the next, if it has been read by now.
    fn take_piece(&mut self) -> Result<Received, CaptureError> {
        if let Some(used) = self.piece.take() {
            self.progress.set(used.end_offset());
            self.readings.give_back(used);
        }
        let arrived = self
            .arrived
            .take()
            .map_or_else(|| self.readings.try_recv(), Ok);
        match arrived {
            Ok(Reading::Piece(piece)) => {
                piece
                    .places
                    .iter()
                    .take(PREFETCH_AHEAD)
                    .for_each(|place| prefetch(piece.frame(place).octets.as_ptr()));
                (self.piece, self.next) = (Some(piece), 0);
                Ok(Received::Frames)
            }
            Ok(Reading::End(end)) => {
                self.ended = true;
                end.map(|()| Received::End)
            }
            Err(TryRecvError::Empty) => Ok(Received::Nothing),
            Err(TryRecvError::Disconnected) => {
                self.ended = true;
                let error = io::Error::other("its reader thread panicked; please report this");
                Err(CaptureError::Read {
                    name: self.name.clone(),
                    error,
                })
            }
        }
    }

    /// The filter, compiled for the link types of the current piece so that an expression without a
    /// meaning there is refused now. For other link types it is compiled at their first frame.
    fn compile(&self, filter: Filter) -> Result<FilterByLink, CaptureError> {
        let mut by_link = FilterByLink::new(filter);
        for place in self.piece.iter().flat_map(|piece| &piece.places) {
            by_link.compile_for(place.link)?;
        }
        Ok(by_link)
    }
}

impl Source for CaptureFile {
    fn receive(&mut self, each: &mut impl FnMut(Frame<'_>)) -> Result<Received, CaptureError> {
        if self.ended {
            return Ok(Received::End);
        }
        while self.burst.frames < BURST_MAX {
            let Some((piece, place)) = self
                .piece
                .as_ref()
                .and_then(|piece| Some((piece, piece.places.get(self.next)?)))
            else {
                match self.take_piece()? {
                    Received::Frames => continue,
                    Received::Nothing => return Ok(Received::Nothing),
                    Received::End => break,
                }
            };
            if !self.burst.reaches(place.captured_ns) {
                break;
            }
            if let Some(ahead) = piece.places.get(self.next + PREFETCH_AHEAD) {
                prefetch(piece.frame(ahead).octets.as_ptr());
            }
            self.next += 1;
            self.burst.frames += 1;
            let frame = piece.frame(place);
            if !self.sampler.takes_next() {
                self.counters.sampled_out += 1;
            } else if self
                .filter
                .as_mut()
                .map_or(Ok(true), |filter| filter.matches(&frame))?
            {
                self.counters.received += 1;
                self.counters.received_octets += u64::from(frame.wire_octets);
                each(frame);
            } else {
                self.counters.filtered += 1;
            }
        }
        let Burst { frames, .. } = std::mem::take(&mut self.burst);
        Ok(if frames == 0 && self.ended {
            Received::End
        } else {
            Received::Frames
        })
    }

    fn wait(&mut self, timeout: Duration) {
        if self.piece.is_none() && self.arrived.is_none() && !self.ended {
            self.arrived = self.readings.recv_timeout(timeout).ok();
        }
    }

    fn counters(&self) -> SourceCounters {
        self.counters
    }

    /// The setting changes with the next burst. A filter that has no meaning on the link type of a
    /// frame that comes later ends the source there, with [`CaptureError::Filter`].
    fn apply(&mut self, change: SourceChange) -> Result<(), Unchangeable> {
        let setting = change.setting();
        match change {
            SourceChange::Sampling(sampling) => self.sampler = sampler(sampling),
            SourceChange::Filter(None) => self.filter = None,
            SourceChange::Filter(Some(filter)) => {
                let compiled = self.compile(filter).map_err(|error| Unchangeable {
                    setting,
                    reason: error.to_string(),
                })?;
                self.filter = Some(compiled);
            }
        }
        Ok(())
    }
}

/// How far a capture file has been read. Clones share the position; any thread may read it.
#[derive(Clone, Debug, Default)]
pub struct ReadProgress {
    octets_read: Arc<AtomicU64>,
    octets_total: Option<u64>,
}

impl ReadProgress {
    /// Octets of the file whose frames have all been shown, in steps of the pieces it is read in.
    #[must_use]
    pub fn octets_read(&self) -> u64 {
        self.octets_read.load(Ordering::Relaxed)
    }

    /// Octets of the file when it was opened; `None` if it is a pipe or another stream.
    #[must_use]
    pub fn octets_total(&self) -> Option<u64> {
        self.octets_total
    }

    fn set(&self, octets_read: u64) {
        self.octets_read.store(octets_read, Ordering::Relaxed);
    }
}

/// The current burst. A pipe that is empty for now interrupts it but does not end it.
#[derive(Default)]
struct Burst {
    frames: usize,
    first_ns: Option<u64>,
}

impl Burst {
    /// Whether a frame of that time still belongs to it.
    #[inline]
    fn reaches(&mut self, captured_ns: u64) -> bool {
        captured_ns.abs_diff(*self.first_ns.get_or_insert(captured_ns)) <= BURST_SPAN_NS
    }
}

/// A sampler that makes the same choices in each run.
fn sampler(sampling: Sampling) -> Sampler {
    sampling.sampler(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::CaptureTime;
    use crate::sampling::SamplingMode;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::io::{Cursor, Write};
    use std::sync::mpsc;

    /// A pcap file in either byte order and resolution.
    fn pcap(big_endian: bool, nanoseconds: bool, records: &[(u32, u32, &[u8])]) -> Vec<u8> {
        let word = |value: u32| {
            if big_endian {
                value.to_be_bytes()
            } else {
                value.to_le_bytes()
            }
        };
        let half = |value: u16| {
            if big_endian {
                value.to_be_bytes()
            } else {
                value.to_le_bytes()
            }
        };
        let magic = if nanoseconds {
            0xa1b2_3c4d
        } else {
            0xa1b2_c3d4
        };
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

    /// A pcap file of the modified format: each record's header has eight more octets.
    fn modified_pcap(big_endian: bool, records: &[(u32, u32, &[u8])]) -> Vec<u8> {
        let mut file = pcap(big_endian, false, &[]);
        let order = if big_endian {
            u32::to_be_bytes
        } else {
            u32::to_le_bytes
        };
        file[..4].copy_from_slice(&order(0xa1b2_cd34));
        for &(s, fraction, octets) in records {
            let length = u32::try_from(octets.len()).unwrap();
            file.extend(
                [s, fraction, length, length + 100, 1, 0]
                    .map(order)
                    .concat(),
            );
            file.extend(octets);
        }
        file
    }

    /// A pcapng block, little-endian.
    fn block(block_type: u32, body: &[u8]) -> Vec<u8> {
        let padded = body.len().next_multiple_of(4);
        let length = u32::try_from(padded + 12).unwrap().to_le_bytes();
        let mut block = [
            &block_type.to_le_bytes(),
            &length,
            body,
            &[0; 3][..padded - body.len()],
        ]
        .concat();
        block.extend(length);
        block
    }

    fn words(values: &[u32]) -> Vec<u8> {
        values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect()
    }

    type Shown = (Vec<u8>, u32, u16, u64);

    fn read(file: &[u8]) -> (Vec<Shown>, Option<CaptureError>) {
        read_in_pieces_of(reader::PIECE_OCTETS, Cursor::new(file.to_vec()))
    }

    fn read_in_pieces_of(
        octets: usize,
        file: impl Read + Send + 'static,
    ) -> (Vec<Shown>, Option<CaptureError>) {
        match CaptureFile::in_pieces_of(octets, "test", file, None) {
            Ok(source) => show_all(source),
            Err(error) => (Vec::new(), Some(error)),
        }
    }

    fn show_all(mut source: CaptureFile) -> (Vec<Shown>, Option<CaptureError>) {
        let mut shown = Vec::new();
        loop {
            let received = source.receive(&mut |frame: Frame<'_>| {
                let CaptureTime::Wall(captured_ns) = frame.captured else {
                    panic!("a frame without a time")
                };
                shown.push((
                    frame.octets.to_vec(),
                    frame.wire_octets,
                    frame.link,
                    captured_ns,
                ));
            });
            match received {
                Ok(Received::End) => return (shown, None),
                Ok(Received::Nothing) => source.wait(LONG),
                Ok(Received::Frames) => {}
                Err(error) => return (shown, Some(error)),
            }
        }
    }

    /// A limit for waits that end much earlier unless something is broken.
    const LONG: Duration = Duration::from_secs(60);

    /// Delivers at most so many octets a read(), as a slow pipe may.
    struct Trickle(usize, Cursor<Vec<u8>>);

    impl Read for Trickle {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let end = into.len().min(self.0);
            self.1.read(&mut into[..end])
        }
    }

    /// Each read() returns the next result sent; the end of the file once the sender is dropped.
    struct Pipe(mpsc::Receiver<io::Result<Vec<u8>>>);

    impl Read for Pipe {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let Ok(sent) = self.0.recv() else {
                return Ok(0);
            };
            let octets = sent?;
            into[..octets.len()].copy_from_slice(&octets);
            Ok(octets.len())
        }
    }

    /// A pipe that contains `octets`, and its sending end.
    fn pipe_with(octets: &[u8]) -> (mpsc::SyncSender<io::Result<Vec<u8>>>, Pipe) {
        let (pipe, pieces) = mpsc::sync_channel(100);
        let (head, rest) = octets.split_at(24.min(octets.len()));
        for piece in [head, rest] {
            pipe.send(Ok(piece.to_vec())).unwrap();
        }
        (pipe, Pipe(pieces))
    }

    /// A pcapng section with an Ethernet interface.
    fn section() -> Vec<u8> {
        [
            block(0x0a0d_0d0a, &words(&[0x1a2b_3c4d, 1, u32::MAX, u32::MAX])),
            block(1, &words(&[1, 65_535])),
        ]
        .concat()
    }

    #[test]
    fn reads_pcap_in_both_byte_orders_and_resolutions() {
        for big_endian in [false, true] {
            for (nanoseconds, expected_ns) in [(false, 7_000_005_000), (true, 7_000_000_005)] {
                let (shown, error) = read(&pcap(big_endian, nanoseconds, &[(7, 5, &[1, 2, 3])]));
                assert_eq!(shown, [(vec![1, 2, 3], 103, 1, expected_ns)]);
                assert!(error.is_none());
            }
        }
    }

    #[test]
    fn reads_the_modified_pcap_in_both_byte_orders() {
        for big_endian in [false, true] {
            let records: [(u32, u32, &[u8]); 2] = [(7, 5, &[1, 2, 3]), (8, 0, &[4; 60])];
            let file = modified_pcap(big_endian, &records);
            let (shown, error) = read(&file);
            let expected = [
                (vec![1, 2, 3], 103, 1, 7_000_005_000),
                (vec![4; 60], 160, 1, 8_000_000_000),
            ];
            assert_eq!(shown, expected);
            assert!(error.is_none(), "{error:?}");
            let (shown, error) = read_in_pieces_of(7, Trickle(5, Cursor::new(file.clone())));
            assert!(error.is_none() && shown == expected);
            let (_, error) = read(&file[..file.len() - 61]);
            let error = error.unwrap().to_string();
            assert!(
                error.contains("inside a record header: 23 of its 24 octets are there"),
                "{error}"
            );
        }
    }

    #[test]
    fn refuses_versions_that_it_does_not_know() {
        for big_endian in [false, true] {
            for (major, expected) in [(3, "pcap version 3.4"), (1, "pcap version 1.4")] {
                let mut file = pcap(big_endian, false, &[(1, 0, &[1; 60])]);
                file[4 + usize::from(big_endian)] = major;
                let (shown, error) = read(&file);
                let error = error.unwrap().to_string();
                assert!(shown.is_empty() && error.contains(expected), "{error}");
                assert!(error.contains("expected version 2"), "{error}");
            }
        }
        let of_version = |major: u32| {
            let mut section = section();
            section[12..14].copy_from_slice(&major.to_le_bytes()[..2]);
            section
        };
        let packet = block(6, &[words(&[0, 0, 0, 1, 1]), vec![1]].concat());
        let error = read(&of_version(2)).1.unwrap().to_string();
        assert_eq!(
            error,
            "test: pcapng version 2.0 is not supported: expected version 1"
        );
        let (shown, error) = read(&[section(), packet, of_version(7)].concat());
        let error = error.unwrap().to_string();
        assert_eq!(shown.len(), 1);
        assert!(
            error.contains("damaged at octet 84: pcapng version 7.0 is not supported"),
            "{error}"
        );
    }

    #[test]
    fn says_that_a_file_is_cut_inside_its_header() {
        for (file, expected) in [
            (
                &pcap(false, false, &[])[..23],
                "cut inside its header: 23 of the 24 octets of a pcap header",
            ),
            (
                &pcap(true, true, &[])[..4],
                "cut inside its header: 4 of the 24 octets of a pcap header",
            ),
            (
                &section()[..8],
                "cut inside its header: 8 of the 28 octets of a pcapng section header",
            ),
            (
                &section()[..27],
                "cut inside its header: 27 of the 28 octets of a pcapng section header",
            ),
        ] {
            let error = read(file).1.unwrap().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn says_which_fields_of_a_pcapng_file_contradict_each_other() {
        let changed = |mut octets: Vec<u8>, at: usize, value: u32| {
            octets[at..at + 4].copy_from_slice(&value.to_le_bytes());
            octets
        };
        let packet = block(6, &[words(&[0, 0, 0, 60, 60]), vec![1; 60]].concat());
        let obsolete = block(2, &[words(&[0, 0, 0, 60, 60]), vec![1; 60]].concat());
        let end = packet.len() - 4;
        for (damaged, expected) in [
            (
                changed(packet.clone(), 20, 9999),
                "a packet of 9999 octets in a block of 92",
            ),
            (
                changed(packet.clone(), 20, u32::MAX),
                "a packet of 4294967295 octets in a block",
            ),
            (
                changed(obsolete, 20, 9999),
                "a packet of 9999 octets in a block of 92",
            ),
            (changed(packet.clone(), 4, 8), "a block of 8 octets; 12 to"),
            (
                changed(packet.clone(), 4, u32::MAX),
                "a block of 4294967295 octets; 12 to",
            ),
            (
                changed(packet.clone(), end, 96),
                "a block of 92 octets that ends with a length of 96; both must be equal",
            ),
            (
                block(6, &words(&[0, 0])),
                "a packet block of 20 octets; at least 32",
            ),
            (
                block(1, &words(&[1])),
                "an interface description of 16 octets; at least 20",
            ),
            (
                changed(section(), 8, 0x0102_0304),
                "a pcapng section header with 04030201 in place of the byte-order magic",
            ),
        ] {
            // The packets before it are shown; what comes behind it changes nothing.
            for behind in [&[][..], &packet[..], &[0xff; 20_000]] {
                let file = [&section()[..], &packet, &damaged, behind].concat();
                let (shown, error) = read(&file);
                let error = error.unwrap().to_string();
                let at = section().len() + packet.len();
                assert_eq!(shown.len(), 1, "{error}");
                assert!(
                    error.contains(&format!("damaged at octet {at}: {expected}")),
                    "{error}, expected: {expected}"
                );
            }
        }
        for (at, value, expected) in [
            (8, 0x0102_0304, "04030201 in place of the byte-order magic"),
            (
                4,
                20,
                "a pcapng section header of 20 octets: expected 28 to 1048576",
            ),
            (4, u32::MAX, "a pcapng section header of 4294967295 octets"),
        ] {
            let error = read(&changed(section(), at, value)).1.unwrap().to_string();
            assert!(
                error.starts_with("test: ") && error.contains(expected),
                "{error}"
            );
        }
    }

    #[test]
    fn says_how_much_of_the_last_record_or_block_is_there() {
        let file = pcap(false, false, &[(1, 0, &[1; 60])]);
        let packet = block(6, &[words(&[0, 0, 0, 60, 60]), vec![1; 60]].concat());
        let blocks = [section(), packet].concat();
        for (file, cut, expected) in [
            (
                &file,
                1,
                "the file ends inside a record: 75 of its 76 octets are there",
            ),
            (
                &file,
                61,
                "the file ends inside a record header: 15 of its 16 octets are there",
            ),
            (
                &blocks,
                1,
                "the file ends inside a block: 91 of its 92 octets are there",
            ),
            (
                &blocks,
                85,
                "the file ends inside a block header: 7 of its 12 octets are there",
            ),
        ] {
            let error = read(&file[..file.len() - cut]).1.unwrap().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_record_that_is_too_long_is_damage_although_the_file_ends_inside_it() {
        let mut file = pcap(false, false, &[(1, 0, &[1; 60]), (2, 0, &[2; 60])]);
        file[108..112].copy_from_slice(&[0, 0, 0, 0x7f]);
        let error = read(&file).1.unwrap().to_string();
        assert!(
            error.contains("damaged at octet 100: a record of 2130706432 octets; at most 262144"),
            "{error}"
        );
    }

    #[test]
    fn reads_every_kind_of_packet_block_and_interface() {
        // Interface 0: Ethernet, microseconds. Interface 1: raw IP, 2^-10 s (option 9), offset
        // 100 s (option 14).
        let options = [9 | 1 << 16, 0x8a, 14 | 8 << 16, 100, 0, 0];
        let raw = block(1, &[words(&[101, 0]), words(&options)].concat());
        let enhanced = block(6, &[words(&[1, 0, 2048, 3, 60]), vec![7, 8, 9]].concat());
        let obsolete = block(2, &[words(&[0, 0, 5_000_000, 2, 50]), vec![4, 5]].concat());
        let simple = block(3, &[words(&[3]), vec![1, 2, 3]].concat());
        let custom = block(0x8000_0001, &[9; 8]);
        let (shown, error) = read(&[section(), raw, enhanced, custom, obsolete, simple].concat());
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
    fn shows_the_frames_before_the_damage_and_says_where_it_is() {
        let file = pcap(false, false, &[(1, 0, &[1; 60]), (2, 0, &[2; 60])]);
        let (shown, error) = read(&file[..file.len() - 1]);
        assert_eq!(shown.len(), 1);
        let error = error.unwrap().to_string();
        assert!(
            error.contains("damaged at octet 100: the file ends inside a record"),
            "{error}"
        );
        let mut oversized = file;
        oversized[108..112].copy_from_slice(&[0, 0, 0, 0x7f]);
        let (shown, error) = read(&oversized);
        assert_eq!(shown.len(), 1);
        assert!(error.unwrap().to_string().contains("damaged at octet 100"));
    }

    #[test]
    fn a_packet_of_an_undescribed_interface_is_damage() {
        let section = block(0x0a0d_0d0a, &words(&[0x1a2b_3c4d, 1, u32::MAX, u32::MAX]));
        let (_, error) = read(&[section, block(6, &words(&[0, 0, 0, 0, 0]))].concat());
        assert!(
            error
                .unwrap()
                .to_string()
                .contains("a packet of interface 0, but only 0 interfaces are described")
        );
    }

    #[test]
    fn says_what_a_file_contains_that_is_not_a_capture() {
        for (file, expected) in [
            (&b""[..], "it starts with nothing"),
            (
                b"GIF89a and so on and so forth",
                "not a capture file (pcap or pcapng): it starts with 47 49 46 38",
            ),
            (&[0x1f, 0x8b, 8, 0, 0], "zcat"),
            (&[0x28, 0xb5, 0x2f, 0xfd, 0], "zstdcat"),
            (&[0xfd, b'7', b'z', b'X', b'Z', 0], "xzcat"),
            (
                &[0x04, 0x22, 0x4d, 0x18, 0x64],
                "lz4 data; decompress it first: `lz4cat FILE",
            ),
            (&[0x02, 0x21, 0x4c, 0x18, 0x64], "lz4cat"),
            (
                b"BZh91AY&SY",
                "bzip2 data; decompress it first: `bzcat FILE",
            ),
        ] {
            let error = read(file).1.unwrap().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn bursts_end_by_their_span_of_time_however_the_file_is_read() {
        let times: Vec<(u32, u32)> = (0..200)
            .map(|n| (1, n * 1000))
            .chain([(1, 600_000), (9, 0)])
            .collect();
        let records: Vec<_> = times
            .iter()
            .map(|&(s, us)| (s, us, &[0u8; 20][..]))
            .collect();
        let file = pcap(false, false, &records);
        let bursts = |mut source: CaptureFile| {
            let mut bursts = Vec::new();
            loop {
                let mut frames = 0;
                loop {
                    match source.receive(&mut |_: Frame<'_>| frames += 1).unwrap() {
                        Received::Nothing => source.wait(LONG),
                        Received::Frames => break,
                        Received::End => return bursts,
                    }
                }
                bursts.push(frames);
            }
        };
        let whole =
            bursts(CaptureFile::from_reader("whole", Cursor::new(file.clone()), None).unwrap());
        let trickled = bursts(
            CaptureFile::from_reader("slow", Trickle(1, Cursor::new(file.clone())), None).unwrap(),
        );
        let in_small_pieces =
            bursts(CaptureFile::in_pieces_of(50, "small", Cursor::new(file), None).unwrap());
        assert_eq!(whole, [64, 64, 64, 8, 1, 1]);
        assert_eq!((trickled, in_small_pieces), (whole.clone(), whole));
    }

    #[test]
    fn records_and_blocks_longer_than_a_piece_are_shown_whole() {
        let long: Vec<u8> = (0..10_000u32).map(|n| n.to_le_bytes()[0]).collect();
        let records: Vec<(u32, u32, &[u8])> = vec![
            (1, 0, &[1; 60]),
            (2, 0, &long),
            (3, 0, &[3; 60]),
            (4, 0, &long),
        ];
        let expected: Vec<_> = records
            .iter()
            .map(|&(.., octets)| octets.to_vec())
            .collect();
        let comment = block(0x0000_0bad, &long);
        let pcapng: Vec<u8> = records.iter().fold(section(), |file, &(s, _, octets)| {
            let length = u32::try_from(octets.len()).unwrap();
            let packet = [words(&[0, 0, s, length, length]), octets.to_vec()].concat();
            [file, comment.clone(), block(6, &packet)].concat()
        });
        for file in [pcap(false, false, &records), pcapng] {
            let (shown, error) = read_in_pieces_of(256, Cursor::new(file));
            assert!(error.is_none(), "{error:?}");
            assert_eq!(
                shown
                    .into_iter()
                    .map(|(octets, ..)| octets)
                    .collect::<Vec<_>>(),
                expected
            );
        }
    }

    #[test]
    fn a_pipe_shows_its_frames_at_once_and_each_once() {
        let file = pcap(false, false, &[(1, 0, &[1; 60]), (2, 0, &[2; 60])]);
        let (pipe, end) = pipe_with(&file[..150]);
        let mut source = CaptureFile::from_reader("pipe", end, None).unwrap();
        source.wait(LONG);
        let mut shown = Vec::new();
        let mut receive = |source: &mut CaptureFile| {
            source
                .receive(&mut |frame: Frame<'_>| shown.push(frame.octets[0]))
                .unwrap()
        };
        assert_eq!(
            receive(&mut source),
            Received::Nothing,
            "the burst may continue"
        );
        pipe.send(Ok(file[150..].to_vec())).unwrap();
        source.wait(LONG);
        assert_eq!(
            receive(&mut source),
            Received::Frames,
            "it spans more than a burst"
        );
        assert_eq!(receive(&mut source), Received::Nothing);
        drop(pipe);
        source.wait(LONG);
        assert_eq!(
            (receive(&mut source), receive(&mut source)),
            (Received::Frames, Received::End)
        );
        assert_eq!(shown, [1, 2]);
        let progress = source.progress();
        assert_eq!(progress.octets_read(), file.len() as u64);
        assert_eq!(progress.octets_total(), None);
    }

    #[test]
    fn the_frames_before_a_read_error_are_shown() {
        let file = pcap(false, false, &[(1, 0, &[1; 60]), (2, 0, &[2; 60])]);
        let (pipe, end) = pipe_with(&file[..150]);
        pipe.send(Err(io::Error::from(io::ErrorKind::Interrupted)))
            .unwrap();
        pipe.send(Err(io::Error::other("a bad sector"))).unwrap();
        let (shown, error) = show_all(CaptureFile::from_reader("bad", end, None).unwrap());
        assert_eq!(shown.len(), 1);
        let error = error.unwrap().to_string();
        assert!(
            error.contains(
                "bad: damaged at octet 100: the file cannot be read further (a bad sector)"
            ),
            "{error}"
        );
    }

    #[test]
    fn dropping_a_source_in_the_middle_ends_its_reader_thread() {
        let records: Vec<_> = (0..1_000).map(|s| (s, 0, &[0u8; 60][..])).collect();
        let file = pcap(false, false, &records);
        /// Reports when the reader drops its file.
        struct ReportsDrop(Cursor<Vec<u8>>, mpsc::SyncSender<()>);
        impl Read for ReportsDrop {
            fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
                self.0.read(into)
            }
        }
        impl Drop for ReportsDrop {
            fn drop(&mut self) {
                let _ = self.1.send(());
            }
        }
        for received in [false, true] {
            let (dropped, reported) = mpsc::sync_channel(1);
            let reader = ReportsDrop(Cursor::new(file.clone()), dropped);
            let mut source = CaptureFile::in_pieces_of(200, "dropped", reader, None).unwrap();
            if received {
                source.wait(LONG);
                source.receive(&mut |_: Frame<'_>| ()).unwrap();
            }
            drop(source);
            reported.recv_timeout(LONG).unwrap();
        }
    }

    #[test]
    fn a_panic_of_the_reader_thread_is_not_taken_for_the_end_of_the_file() {
        struct Panicking(Cursor<Vec<u8>>);
        impl Read for Panicking {
            fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
                match self.0.read(into)? {
                    0 => std::panic::resume_unwind(Box::new("in a test")),
                    octets => Ok(octets),
                }
            }
        }
        let file = pcap(false, false, &[(1, 0, &[1; 60])]);
        let (shown, error) = read_in_pieces_of(1 << 20, Panicking(Cursor::new(file)));
        assert_eq!(shown.len(), 1);
        assert!(
            error
                .unwrap()
                .to_string()
                .contains("test: its reader thread panicked")
        );
    }

    #[test]
    fn the_progress_of_a_file_ends_at_its_length() {
        let file = pcap(false, false, &[(1, 0, &[1; 60]), (2, 0, &[2; 60])]);
        let mut path = tempfile::NamedTempFile::new().unwrap();
        path.write_all(&file).unwrap();
        let source = CaptureFile::open(path.path(), None).unwrap();
        let progress = source.progress();
        assert_eq!(progress.octets_total(), Some(file.len() as u64));
        assert_eq!(progress.octets_read(), 0);
        show_all(source);
        assert_eq!(progress.octets_read(), file.len() as u64);
    }

    /// Shows the first burst of `source`, then applies `change`, and returns the first octets of
    /// the frames shown before and after.
    fn shown_around(
        mut source: CaptureFile,
        change: SourceChange,
    ) -> (Vec<u8>, Result<(), Unchangeable>, Vec<u8>, SourceCounters) {
        let mut before = Vec::new();
        source.wait(LONG);
        source
            .receive(&mut |frame: Frame<'_>| before.push(frame.octets[0]))
            .unwrap();
        let applied = source.apply(change);
        let mut after = Vec::new();
        loop {
            let received = source.receive(&mut |frame: Frame<'_>| after.push(frame.octets[0]));
            match received.unwrap() {
                Received::Nothing => source.wait(LONG),
                Received::Frames => {}
                Received::End => return (before, applied, after, source.counters()),
            }
        }
    }

    /// Each frame is a burst of its own, and its first octet is its number.
    fn numbered() -> CaptureFile {
        let octets: Vec<[u8; 60]> = (1..=7).map(|n| [n; 60]).collect();
        let records: Vec<_> = (1..)
            .zip(&octets)
            .map(|(s, octets)| (s, 0, &octets[..]))
            .collect();
        CaptureFile::from_reader("numbered", Cursor::new(pcap(false, false, &records)), None)
            .unwrap()
    }

    #[test]
    fn a_filter_applies_from_the_next_burst_on_and_can_be_removed() {
        let four = Filter::new("ether[0] = 4").unwrap();
        let (before, applied, after, counters) =
            shown_around(numbered(), SourceChange::Filter(Some(four.clone())));
        assert_eq!((before, applied, after), (vec![1], Ok(()), vec![4]));
        assert_eq!((counters.received, counters.filtered), (2, 5));
        let mut filtered = numbered();
        filtered.apply(SourceChange::Filter(Some(four))).unwrap();
        let (before, applied, after, _) = shown_around(filtered, SourceChange::Filter(None));
        assert_eq!(
            (before, applied, after),
            (vec![], Ok(()), vec![2, 3, 4, 5, 6, 7])
        );
    }

    #[test]
    fn sampling_applies_from_the_next_burst_on() {
        let one_of_three = Sampling {
            mode: SamplingMode::Deterministic,
            interval: 3.try_into().unwrap(),
        };
        let (before, applied, after, counters) =
            shown_around(numbered(), SourceChange::Sampling(one_of_three));
        assert_eq!((before, applied, after), (vec![1], Ok(()), vec![2, 5]));
        assert_eq!((counters.received, counters.sampled_out), (3, 4));
    }

    #[test]
    fn a_filter_without_a_meaning_on_the_link_type_at_hand_is_refused_and_the_old_one_stays() {
        let raw = block(1, &words(&[101, 0]));
        let packet = |n: u8| {
            let times_and_lengths = [1, 0, u32::from(n) * 1_000_000, 1, 60];
            block(6, &[words(&times_and_lengths), vec![n]].concat())
        };
        let file = [section(), raw, packet(1), packet(2)].concat();
        let source = CaptureFile::from_reader("raw", Cursor::new(file), None).unwrap();
        let by_address = Filter::new("ether host 00:00:00:00:00:01").unwrap();
        let (before, applied, after, _) =
            shown_around(source, SourceChange::Filter(Some(by_address)));
        assert_eq!((before, after), (vec![1], vec![2]));
        let refused = applied.unwrap_err();
        assert_eq!(refused.setting, "filter");
        assert!(refused.reason.contains("link type 101"), "{refused}");
    }

    proptest! {
        /// Whatever the size of pieces and wherever they cut records, however little a read()
        /// returns: the same frames and the same damage.
        #[test]
        fn the_frames_of_a_file_do_not_depend_on_how_it_is_read(
            lengths in vec(0usize..120, 0..40),
            pcapng: bool,
            piece_octets in 1usize..300,
            at_a_time in 1usize..300,
            missing in 0usize..50,
        ) {
            let frame = |&octets: &usize| vec![u8::try_from(octets).unwrap(); octets];
            let frames: Vec<Vec<u8>> = lengths.iter().map(frame).collect();
            let mut file = if pcapng {
                frames.iter().fold(section(), |file, octets| {
                    let length = u32::try_from(octets.len()).unwrap();
                    let packet = [words(&[0, 0, 7, length, length]), octets.clone()].concat();
                    [file, block(6, &packet), block(5, &[0; 20])].concat()
                })
            } else {
                let records: Vec<_> = frames.iter().map(|octets| (1, 0, &octets[..])).collect();
                pcap(false, false, &records)
            };
            file.truncate((file.len() - missing.min(file.len())).max(24));
            let (shown, error) = read(&file);
            prop_assert!(missing > 0 || (shown.len() == frames.len() && error.is_none()));
            let slow = Trickle(at_a_time, Cursor::new(file));
            let (again, error_again) = read_in_pieces_of(piece_octets, slow);
            prop_assert_eq!(again, shown);
            let text = |error: Option<CaptureError>| error.map(|error| error.to_string());
            prop_assert_eq!(text(error_again), text(error));
        }

        #[test]
        fn no_file_panics(mut file in vec(any::<u8>(), 0..300), head in 0usize..5) {
            let heads: [&[u8]; 5] = [
                &[],
                &[0xa1, 0xb2, 0xcd, 0x34, 0, 2, 0, 4],
                &[0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0],
                &[0xa1, 0xb2, 0x3c, 0x4d],
                &section(),
            ];
            file.splice(0..0, heads[head].iter().copied());
            let _ = read(&file);
        }

        #[test]
        fn no_bit_flip_panics(at in 0usize..400, bit in 0u8..8) {
            let records: [(u32, u32, &[u8]); 3] =
                [(1, 0, &[1; 60]), (2, 0, &[2; 60]), (3, 0, &[3; 60])];
            let mut file = pcap(false, false, &records);
            if let Some(octet) = file.get_mut(at) {
                *octet ^= 1 << bit;
            }
            let (shown, _) = read(&file);
            prop_assert!(shown.len() <= 3);
        }
    }
}
