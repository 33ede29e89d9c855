//! Capture files: pcap in both byte orders and resolutions, and pcapng, from a path or standard
//! input.
//!
//! A thread of its own reads ahead and finds the frames, in a few large pieces of the file that go
//! round between it and whoever receives; frames are shown where they lie in them. The packets' own
//! times are the clock, so a burst ends before it spans more than [`BURST_SPAN_NS`] of them:
//! whoever expires flows between bursts is then never later than that, however fast the file is
//! read, and however it arrives.

mod reader;
mod section;

use crate::filter::Matcher;
use crate::sampling::Sampler;
use crate::{
    BURST_MAX, CaptureError, Filter, Frame, PREFETCH_AHEAD, Received, Sampling, Source,
    SourceCounters, prefetch,
};
use crossbeam_channel::TryRecvError;
use reader::{Piece, Reading, Readings};
use section::Section;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The longest that the frames of one burst lie apart, by their own times.
pub const BURST_SPAN_NS: u64 = 100_000_000;

/// A capture file, read from start to end.
pub struct CaptureFile {
    name: String,
    readings: Readings,
    /// What came while somebody waited for it.
    arrived: Option<Reading>,
    /// The piece at hand, and which of its frames is the next.
    piece: Option<Piece>,
    next: usize,
    filter: Option<Matcher>,
    sampler: Sampler,
    counters: SourceCounters,
    burst: Burst,
    ended: bool,
    progress: Arc<AtomicU64>,
}

/// The burst under way: a pipe that has no more for now interrupts it, but does not end it.
#[derive(Default)]
struct Burst {
    frames: usize,
    first_ns: Option<u64>,
}

impl Burst {
    /// Whether a frame of that time is still one of it.
    #[inline]
    fn reaches(&mut self, captured_ns: u64) -> bool {
        captured_ns.abs_diff(*self.first_ns.get_or_insert(captured_ns)) <= BURST_SPAN_NS
    }
}

impl CaptureFile {
    /// Opens the capture file at `path`, or standard input for `-`, and begins to read it.
    ///
    /// # Errors
    ///
    /// [`CaptureError::Read`] or [`CaptureError::NotACapture`].
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
        Self::from_reader(&name, file, filter)
    }

    /// Reads a capture file called `name` from wherever it comes.
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
        let head = read_head(&mut reader).map_err(failed)?;
        let Some((section, whole)) = Section::begin(&head) else {
            return Err(CaptureError::NotACapture {
                name: name.to_owned(),
                found: describe(&head),
            });
        };
        let first = Piece::of_head(head, whole);
        Ok(Self {
            name: name.to_owned(),
            readings: Readings::start(name, reader, section, first, piece_octets)
                .map_err(failed)?,
            arrived: None,
            piece: None,
            next: 0,
            filter: filter.map(Filter::matcher),
            sampler: Sampling::NONE.sampler(0),
            counters: SourceCounters::default(),
            burst: Burst::default(),
            ended: false,
            progress: Arc::default(),
        })
    }

    /// The same file, sampled before it is filtered: of each two runs the same frames are shown, by
    /// chance too.
    #[must_use]
    pub fn sampled(self, sampling: Sampling) -> Self {
        Self {
            sampler: sampling.sampler(0),
            ..self
        }
    }

    /// Octets of the file whose frames have all been shown, kept up to date with each piece: for
    /// whoever shows it.
    #[must_use]
    pub fn progress(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.progress)
    }

    /// Gives the piece at hand back and takes the next, if it has been read by now.
    fn take_piece(&mut self) -> Result<Received, CaptureError> {
        if let Some(used) = self.piece.take() {
            self.progress.store(used.end_offset(), Ordering::Relaxed);
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
                let error = io::Error::other("its reader died; please report this");
                Err(CaptureError::Read {
                    name: self.name.clone(),
                    error,
                })
            }
        }
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
                .map_or(Ok(true), |filter| filter.wants(&frame))?
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
}

/// The file's beginning as the parser wants it, in one piece: a pcap header, or a whole pcapng
/// section header. A pipe may give it in any number of pieces.
fn read_head(reader: &mut impl Read) -> io::Result<Vec<u8>> {
    const PCAP_HEADER_OCTETS: u64 = 24;
    const SECTION_HEADER: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];
    const SECTION_HEADER_OCTETS_MAX: u32 = 1 << 20;
    let mut head = Vec::new();
    reader
        .by_ref()
        .take(PCAP_HEADER_OCTETS)
        .read_to_end(&mut head)?;
    if let [a, b, c, d, l0, l1, l2, l3, m0, ..] = head[..]
        && [a, b, c, d] == SECTION_HEADER
    {
        // The byte-order magic is 0x1a2b3c4d.
        let length = [l0, l1, l2, l3];
        let length = if m0 == 0x1a {
            u32::from_be_bytes(length)
        } else {
            u32::from_le_bytes(length)
        };
        let rest =
            u64::from(length.min(SECTION_HEADER_OCTETS_MAX)).saturating_sub(head.len() as u64);
        reader.by_ref().take(rest).read_to_end(&mut head)?;
    }
    Ok(head)
}

/// What a file that is no capture begins with, for the error.
fn describe(head: &[u8]) -> String {
    match head {
        [] => "nothing at all (it is empty)".to_owned(),
        [0x1f, 0x8b, ..] => "gzip (unpack it: `zcat FILE | xdprobe run -r - ...`)".to_owned(),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            "zstd (unpack it: `zstdcat FILE | xdprobe run -r - ...`)".to_owned()
        }
        [0xfd, b'7', b'z', b'X', ..] => {
            "xz (unpack it: `xzcat FILE | xdprobe run -r - ...`)".to_owned()
        }
        _ => head
            .iter()
            .take(4)
            .map(|octet| format!("{octet:02x}"))
            .collect::<Vec<_>>()
            .join(" "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CaptureTime;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::io::Cursor;
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

    /// No wait in these tests is as long, unless something is broken.
    const LONG: Duration = Duration::from_secs(60);

    /// Gives so many octets at a time, as a slow pipe may.
    struct Trickle(usize, Cursor<Vec<u8>>);

    impl Read for Trickle {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let end = into.len().min(self.0);
            self.1.read(&mut into[..end])
        }
    }

    /// One read() for each of what is sent, and an error where that is one; then the end, once
    /// nobody sends any more.
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

    /// A pipe that holds `octets` so far, and its other end.
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
            for (nanoseconds, wanted_ns) in [(false, 7_000_005_000), (true, 7_000_000_005)] {
                let (shown, error) = read(&pcap(big_endian, nanoseconds, &[(7, 5, &[1, 2, 3])]));
                assert_eq!(shown, [(vec![1, 2, 3], 103, 1, wanted_ns)]);
                assert!(error.is_none());
            }
        }
    }

    #[test]
    fn reads_every_kind_of_packet_block_and_interface() {
        // Interface 0: Ethernet, microseconds. Interface 1: raw IP, 2^-10 s (option 9), 100 s late
        // (option 14).
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
    fn shows_what_comes_before_the_damage_and_says_where_it_is() {
        let file = pcap(false, false, &[(1, 0, &[1; 60]), (2, 0, &[2; 60])]);
        let (shown, error) = read(&file[..file.len() - 1]);
        assert_eq!(shown.len(), 1);
        let error = error.unwrap().to_string();
        assert!(
            error.contains("damaged at octet 100: the file ends inside a record"),
            "{error}"
        );
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
        assert!(
            error
                .unwrap()
                .to_string()
                .contains("a packet of interface 0, but 0 are described")
        );
    }

    #[test]
    fn says_what_is_not_a_capture() {
        for (file, wanted) in [
            (&b""[..], "begins with nothing at all"),
            (
                b"GIF89a and so on and so forth",
                "begins with 47 49 46 38, wanted a capture file",
            ),
            (&[0x1f, 0x8b, 8, 0, 0], "zcat"),
        ] {
            let error = read(file).1.unwrap().to_string();
            assert!(error.contains(wanted), "{error}");
        }
    }

    #[test]
    fn bursts_end_with_their_span_of_time_and_depend_on_nothing_else() {
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
        let in_bits =
            bursts(CaptureFile::in_pieces_of(50, "bits", Cursor::new(file), None).unwrap());
        assert_eq!(whole, [64, 64, 64, 8, 1, 1]);
        assert_eq!((trickled, in_bits), (whole.clone(), whole));
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
        let wanted: Vec<_> = records
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
                wanted
            );
        }
    }

    #[test]
    fn a_pipe_shows_what_it_has_at_once_and_nothing_twice() {
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
            "the burst may go on"
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
        assert_eq!(source.progress().load(Ordering::Relaxed), file.len() as u64);
    }

    #[test]
    fn a_file_that_cannot_be_read_any_further_is_shown_up_to_there() {
        let file = pcap(false, false, &[(1, 0, &[1; 60]), (2, 0, &[2; 60])]);
        let (pipe, end) = pipe_with(&file[..150]);
        pipe.send(Err(io::Error::from(io::ErrorKind::Interrupted)))
            .unwrap();
        pipe.send(Err(io::Error::other("a bad sector"))).unwrap();
        let (shown, error) = show_all(CaptureFile::from_reader("bad", end, None).unwrap());
        assert_eq!(shown.len(), 1);
        let error = error.unwrap().to_string();
        assert!(
            error.contains("bad: damaged at octet 100: the file cannot be read any further"),
            "{error}"
        );
    }

    #[test]
    fn a_source_that_is_dropped_in_the_middle_ends_its_reader() {
        let records: Vec<_> = (0..1_000).map(|s| (s, 0, &[0u8; 60][..])).collect();
        let file = pcap(false, false, &records);
        /// Says when the reader lets go of its file.
        struct Told(Cursor<Vec<u8>>, mpsc::SyncSender<()>);
        impl Read for Told {
            fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
                self.0.read(into)
            }
        }
        impl Drop for Told {
            fn drop(&mut self) {
                let _ = self.1.send(());
            }
        }
        for received in [false, true] {
            let (dropped, told) = mpsc::sync_channel(1);
            let reader = Told(Cursor::new(file.clone()), dropped);
            let mut source = CaptureFile::in_pieces_of(200, "dropped", reader, None).unwrap();
            if received {
                source.wait(LONG);
                source.receive(&mut |_: Frame<'_>| ()).unwrap();
            }
            drop(source);
            told.recv_timeout(LONG).unwrap();
        }
    }

    #[test]
    fn a_reader_that_dies_is_no_end_of_the_file() {
        struct Deadly(Cursor<Vec<u8>>);
        impl Read for Deadly {
            fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
                match self.0.read(into)? {
                    0 => std::panic::resume_unwind(Box::new("of what nobody thought of")),
                    octets => Ok(octets),
                }
            }
        }
        let file = pcap(false, false, &[(1, 0, &[1; 60])]);
        let (shown, error) = read_in_pieces_of(1 << 20, Deadly(Cursor::new(file)));
        assert_eq!(shown.len(), 1);
        assert!(error.unwrap().to_string().contains("test: its reader died"));
    }

    proptest! {
        /// Whatever the pieces, wherever they cut records, however little a read() gives: the same
        /// frames, and the same damage.
        #[test]
        fn what_a_file_shows_does_not_depend_on_how_it_is_read(
            lengths in vec(0usize..120, 0..40),
            pcapng: bool,
            piece_octets in 1usize..300,
            at_a_time in 1usize..300,
            missing in 0usize..50,
        ) {
            let frames: Vec<Vec<u8>> = lengths.iter().map(|&octets| vec![u8::try_from(octets).unwrap(); octets]).collect();
            let mut file = if pcapng {
                frames.iter().fold(section(), |file, octets| {
                    let length = u32::try_from(octets.len()).unwrap();
                    let packet = [words(&[0, 0, 7, length, length]), octets.clone()].concat();
                    [file, block(6, &packet), block(5, &[0; 20])].concat()
                })
            } else {
                pcap(false, false, &frames.iter().map(|octets| (1, 0, &octets[..])).collect::<Vec<_>>())
            };
            file.truncate((file.len() - missing.min(file.len())).max(24));
            let (shown, error) = read(&file);
            prop_assert!(missing > 0 || (shown.len() == frames.len() && error.is_none()));
            let (again, error_again) = read_in_pieces_of(piece_octets, Trickle(at_a_time, Cursor::new(file)));
            prop_assert_eq!(again, shown);
            prop_assert_eq!(error_again.map(|error| error.to_string()), error.map(|error| error.to_string()));
        }

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
