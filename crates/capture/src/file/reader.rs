//! The thread that reads a capture file in large pieces and finds the frames in them.
//!
//! All pieces are allocated at the start and circulate between this thread and the
//! [`CaptureFile`](super::CaptureFile). A record that is cut by the end of a piece is copied to the
//! front of the next; nothing else is copied. A pipe that holds little gives a small piece at once.

use super::section::{BLOCK_OCTETS_MAX, Section};
use crate::error::CaptureError;
use crate::frame::{CaptureTime, Frame};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded};
use pcap_parser::nom::Offset;
use std::io::{self, ErrorKind, Read};
use std::thread;
use std::time::Duration;

/// Octets of a piece, unless a record is longer: small enough that the octets are still in the
/// processor's cache when they are decoded.
pub(super) const PIECE_OCTETS: usize = 512 << 10;
/// Pieces in circulation: one is read into, one is shown, and two bridge delays of either side.
pub(super) const PIECES: usize = 4;

/// A piece of the file, and the frames in it.
#[derive(Default)]
pub(super) struct Piece {
    /// The frames, in the order of the file.
    pub places: Vec<Place>,
    octets: Vec<u8>,
    /// How many of `octets` have been read, and how many of those belong to whole records.
    read: usize,
    whole: usize,
    /// Offset of the first octet in the file.
    offset: u64,
}

/// Where a frame is in its piece, and its record's fields.
pub(super) struct Place {
    /// When it was captured, in ns since 1970.
    pub captured_ns: u64,
    /// The LINKTYPE number of its link layer.
    pub link: u16,
    at: u32,
    octets: u32,
    wire_octets: u32,
}

impl Place {
    /// The place of `frame` within `octets`.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a piece has at most 256 MiB"
    )]
    fn of(frame: &Frame<'_>, octets: &[u8]) -> Self {
        Self {
            captured_ns: match frame.captured {
                CaptureTime::Wall(captured_ns) => captured_ns,
                CaptureTime::AtReceipt | CaptureTime::Monotonic(_) => {
                    unreachable!("frames of a file carry wall times")
                }
            },
            at: octets.offset(frame.octets) as u32,
            octets: frame.octets.len() as u32,
            wire_octets: frame.wire_octets,
            link: frame.link,
        }
    }
}

impl Piece {
    /// The first piece of the file: its head, of which `whole` octets have been parsed.
    pub fn of_head(head: Vec<u8>, whole: usize) -> Self {
        Self {
            read: head.len(),
            octets: head,
            whole,
            ..Self::default()
        }
    }

    /// The frame at a place of this piece.
    #[inline]
    pub fn frame(&self, place: &Place) -> Frame<'_> {
        let Place {
            captured_ns,
            at,
            octets,
            wire_octets,
            link,
        } = *place;
        let octets = &self.octets[at as usize..][..octets as usize];
        Frame {
            octets,
            wire_octets,
            link,
            captured: CaptureTime::Wall(captured_ns),
        }
    }

    /// The offset in the file at which its last whole record ends.
    pub fn end_offset(&self) -> u64 {
        self.offset + self.whole as u64
    }

    /// Starts with the octets of the record that `before` cut.
    fn continue_after(&mut self, before: &Self, piece_octets: usize) {
        let cut = &before.octets[before.whole..before.read];
        self.octets.resize(piece_octets.max(cut.len()), 0);
        self.octets.shrink_to_fit();
        self.octets[..cut.len()].copy_from_slice(cut);
        self.places.clear();
        (self.read, self.whole, self.offset) = (cut.len(), 0, before.end_offset());
    }

    /// Free room to read into; `None` if a record exceeds the longest that is allowed.
    fn room(&mut self) -> Option<&mut [u8]> {
        if self.read == self.octets.len() {
            if self.whole == 0 {
                if self.octets.len() > BLOCK_OCTETS_MAX {
                    return None;
                }
                self.octets.resize(2 * self.octets.len(), 0);
            }
            self.octets.copy_within(self.whole..self.read, 0);
            (self.read, self.whole, self.offset) = (self.read - self.whole, 0, self.end_offset());
        }
        Some(&mut self.octets[self.read..])
    }
}

/// What the reader thread sends.
pub(super) enum Reading {
    /// The next piece with frames in it.
    Piece(Piece),
    /// The end of the file, or of what can be read. A channel that closes without it means that
    /// the thread panicked.
    End(Result<(), CaptureError>),
}

/// The receiving end.
pub(super) struct Readings {
    readings: Receiver<Reading>,
    used: Sender<Piece>,
}

impl Readings {
    /// Starts reading a capture file called `name`, of which `first` has been read.
    pub fn start(
        name: &str,
        file: impl Read + Send + 'static,
        section: Section,
        first: Piece,
        piece_octets: usize,
    ) -> io::Result<Self> {
        // Room for each piece and for the end: the reader waits only for returned pieces.
        let (found, readings) = bounded(PIECES + 1);
        let (used, returned) = bounded(PIECES);
        for _ in 1..PIECES {
            let piece = Piece {
                octets: vec![0; piece_octets],
                ..Piece::default()
            };
            used.send(piece)
                .expect("the channel has room and its receiver is alive");
        }
        let reader = Reader {
            name: name.to_owned(),
            file,
            section,
            piece_octets,
            found,
            returned,
        };
        // The thread is not joined: it may be blocked on a silent pipe.
        thread::Builder::new()
            .name("reader".to_owned())
            .spawn(move || reader.run(first))?;
        Ok(Self { readings, used })
    }

    /// The next reading, if there is one by now.
    pub fn try_recv(&self) -> Result<Reading, TryRecvError> {
        self.readings.try_recv()
    }

    /// The next reading, waiting at most for `timeout`.
    pub fn recv_timeout(&self, timeout: Duration) -> Result<Reading, RecvTimeoutError> {
        self.readings.recv_timeout(timeout)
    }

    /// Returns a piece whose frames have all been shown.
    pub fn give_back(&self, piece: Piece) {
        // The reader is gone once it has reached the end.
        let _ = self.used.try_send(piece);
    }
}

/// The reader thread's state.
struct Reader<R> {
    name: String,
    file: R,
    section: Section,
    piece_octets: usize,
    found: Sender<Reading>,
    returned: Receiver<Piece>,
}

impl<R: Read> Reader<R> {
    fn run(mut self, mut piece: Piece) {
        piece
            .octets
            .resize(self.piece_octets.max(piece.octets.len()), 0);
        let end = self.read(&mut piece);
        // The frames before the end or the damage, then the end. Sending fails if the source was
        // dropped; the thread ends either way.
        if !piece.places.is_empty() {
            let _ = self.found.send(Reading::Piece(piece));
        }
        let _ = self.found.send(Reading::End(end));
    }

    /// Reads to the end, or until the source is dropped; leaves the frames not yet sent in `piece`.
    fn read(&mut self, piece: &mut Piece) -> Result<(), CaptureError> {
        loop {
            self.find(piece)?;
            if !piece.places.is_empty() {
                let Ok(mut next) = self.returned.recv() else {
                    return Ok(());
                };
                next.continue_after(piece, self.piece_octets);
                let full = std::mem::replace(piece, next);
                if self.found.send(Reading::Piece(full)).is_err() {
                    return Ok(());
                }
            }
            if !self.read_more(piece)? {
                return Ok(());
            }
        }
    }

    /// Finds the frames in the octets that have been read.
    fn find(&mut self, piece: &mut Piece) -> Result<(), CaptureError> {
        let Piece {
            places,
            octets,
            read,
            whole,
            ..
        } = piece;
        let damage = loop {
            let file = &octets[*whole..*read];
            match self
                .section
                .next(file, &mut |frame| places.push(Place::of(&frame, octets)))
            {
                Ok(Some(record_octets)) => *whole += record_octets,
                Ok(None) => return Ok(()),
                Err(what) => break what,
            }
        };
        Err(self.damaged(piece, damage))
    }

    /// Reads more of the file, as much as is available and fits; returns whether there was any.
    fn read_more(&mut self, piece: &mut Piece) -> Result<bool, CaptureError> {
        let Some(room) = piece.room() else {
            return Err(self.damaged(
                piece,
                format!(
                    "a record or block longer than {} MiB",
                    BLOCK_OCTETS_MAX >> 20
                ),
            ));
        };
        let read = loop {
            match self.file.read(room) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        match read {
            Ok(0) if piece.whole == piece.read => Ok(false),
            Ok(0) => {
                let cut = &piece.octets[piece.whole..piece.read];
                Err(self.damaged(piece, self.section.describe_cut(cut)))
            }
            Ok(octets) => {
                piece.read += octets;
                Ok(true)
            }
            Err(error) => {
                Err(self.damaged(piece, format!("the file cannot be read further ({error})")))
            }
        }
    }

    fn damaged(&self, piece: &Piece, what: impl Into<String>) -> CaptureError {
        CaptureError::Damaged {
            name: self.name.clone(),
            offset: piece.end_offset(),
            what: what.into(),
        }
    }
}
