//! The thread that reads a capture file: large pieces, one read() after the other, and where the
//! frames stand in them.
//!
//! All pieces are made at the start and go round between it and whoever receives. A record that the
//! end of a piece cuts is moved to the front of the next; nothing else is copied. A pipe that has
//! little gives a piece with little in it, at once.

use super::section::Section;
use crate::{CaptureError, CaptureTime, Frame};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded};
use pcap_parser::nom::Offset;
use std::io::{self, ErrorKind, Read};
use std::thread;
use std::time::Duration;

/// Octets of a piece, where no record is longer: what comes out of read() is still in the
/// processor's cache when it is decoded.
pub(super) const PIECE_OCTETS: usize = 512 << 10;
/// Pieces that go round: one is read into, one is shown, and between them nobody waits for each
/// other's hiccups.
const PIECES: usize = 4;
/// No capture length or block is longer in a sound file (libpcap's MAXIMUM_SNAPLEN for all but a
/// few link types is 256 KiB, and 128 MiB for those).
const BLOCK_OCTETS_MAX: usize = 128 << 20;

/// A piece of the file, and the frames in it.
#[derive(Default)]
pub(super) struct Piece {
    /// Where the frames stand, in the order of the file.
    pub places: Vec<Place>,
    octets: Vec<u8>,
    /// Of the octets, those that have been read, and of these, those of records that are whole.
    read: usize,
    whole: usize,
    /// Of the first octet, in the file.
    offset: u64,
}

/// Where a frame stands in its piece, and what its record says of it.
pub(super) struct Place {
    /// When it was captured, in ns since 1970.
    pub captured_ns: u64,
    at: u32,
    octets: u32,
    wire_octets: u32,
    link: u16,
}

impl Place {
    /// Where `frame` stands among `octets`.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a piece grows to 256 MiB at the most"
    )]
    fn of(frame: &Frame<'_>, octets: &[u8]) -> Self {
        Self {
            captured_ns: match frame.captured {
                CaptureTime::Wall(captured_ns) => captured_ns,
                CaptureTime::OfTheTurn | CaptureTime::Monotonic(_) => 0,
            },
            at: octets.offset(frame.octets) as u32,
            octets: frame.octets.len() as u32,
            wire_octets: frame.wire_octets,
            link: frame.link,
        }
    }
}

impl Piece {
    /// The file's first piece: its head, of whose octets `whole` are known already.
    pub fn of_head(head: Vec<u8>, whole: usize) -> Self {
        Self {
            read: head.len(),
            octets: head,
            whole,
            ..Self::default()
        }
    }

    /// The frame at one of its places.
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

    /// Where in the file its last whole record ends.
    pub fn end_offset(&self) -> u64 {
        self.offset + self.whole as u64
    }

    /// Goes on where `before` ends: with the record that it cut.
    fn continue_behind(&mut self, before: &Self, piece_octets: usize) {
        let cut = &before.octets[before.whole..before.read];
        self.octets.resize(piece_octets.max(cut.len()), 0);
        self.octets.shrink_to_fit();
        self.octets[..cut.len()].copy_from_slice(cut);
        self.places.clear();
        (self.read, self.whole, self.offset) = (cut.len(), 0, before.end_offset());
    }

    /// Where more can be read to; `None` if one record is longer than any can be.
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

/// What the reader tells.
pub(super) enum Reading {
    /// The next piece with frames in it.
    Piece(Piece),
    /// All has been read, or can be. Without it, a closed channel is no end of the file.
    End(Result<(), CaptureError>),
}

/// The receiving end.
pub(super) struct Readings {
    readings: Receiver<Reading>,
    used: Sender<Piece>,
}

impl Readings {
    /// Begins to read a capture file called `name`, of which `first` has been read.
    pub fn start(
        name: &str,
        file: impl Read + Send + 'static,
        section: Section,
        first: Piece,
        piece_octets: usize,
    ) -> io::Result<Self> {
        // Room for each piece and for the end: the reader waits for pieces to come back and for
        // nothing else.
        let (tell, readings) = bounded(PIECES + 1);
        let (used, come_back) = bounded(PIECES);
        for _ in 1..PIECES {
            // There is room, and the receiver is right here.
            let _ = used.send(Piece {
                octets: vec![0; piece_octets],
                ..Piece::default()
            });
        }
        let reader = Reader {
            name: name.to_owned(),
            file,
            section,
            piece_octets,
            tell,
            come_back,
        };
        // Nobody waits for its end: it may be waiting for a pipe that stays silent.
        thread::Builder::new()
            .name("reader".to_owned())
            .spawn(move || reader.run(first))?;
        Ok(Self { readings, used })
    }

    /// What has been read, if there is any yet.
    pub fn try_recv(&self) -> Result<Reading, TryRecvError> {
        self.readings.try_recv()
    }

    /// What will have been read within `timeout`.
    pub fn recv_timeout(&self, timeout: Duration) -> Result<Reading, RecvTimeoutError> {
        self.readings.recv_timeout(timeout)
    }

    /// Gives a piece back whose frames have all been shown.
    pub fn give_back(&self, piece: Piece) {
        // A reader that has come to the end wants none back.
        let _ = self.used.try_send(piece);
    }
}

/// The reading end.
struct Reader<R> {
    name: String,
    file: R,
    section: Section,
    piece_octets: usize,
    tell: Sender<Reading>,
    come_back: Receiver<Piece>,
}

impl<R: Read> Reader<R> {
    fn run(mut self, mut piece: Piece) {
        piece
            .octets
            .resize(self.piece_octets.max(piece.octets.len()), 0);
        let end = self.read(&mut piece);
        // What comes before the end, or the damage; and then this. Somebody who wants no more of
        // the file does not listen.
        if !piece.places.is_empty() {
            let _ = self.tell.send(Reading::Piece(piece));
        }
        let _ = self.tell.send(Reading::End(end));
    }

    /// Reads to the end, or as long as somebody takes what is read; leaves what is not told yet in
    /// `piece`.
    fn read(&mut self, piece: &mut Piece) -> Result<(), CaptureError> {
        loop {
            self.find(piece)?;
            if !piece.places.is_empty() {
                let Ok(mut next) = self.come_back.recv() else {
                    return Ok(());
                };
                next.continue_behind(piece, self.piece_octets);
                let found = std::mem::replace(piece, next);
                if self.tell.send(Reading::Piece(found)).is_err() {
                    return Ok(());
                }
            }
            if !self.read_more(piece)? {
                return Ok(());
            }
        }
    }

    /// Finds the frames in what has been read.
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

    /// Reads more of the file, as much as there is room for and there is for now; says whether
    /// there was any.
    fn read_more(&mut self, piece: &mut Piece) -> Result<bool, CaptureError> {
        let Some(room) = piece.room() else {
            return Err(self.damaged(
                piece,
                format!("a block longer than {} MiB", BLOCK_OCTETS_MAX >> 20),
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
            Ok(0) => Err(self.damaged(piece, "the file ends inside a record")),
            Ok(octets) => {
                piece.read += octets;
                Ok(true)
            }
            Err(_) => Err(self.damaged(piece, "the file cannot be read any further")),
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
