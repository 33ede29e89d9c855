//! Reading a flow-tools file: its header, then its records one after another, until the end or the
//! first damage.
//!
//! What came before damage is always delivered: the error is the last item.

use crate::header::{FLAG_COMPRESS, FLAG_DONE, FLAG_STREAMING, FileHeader, HeaderError};
use crate::record::StoredRecord;
use flate2::{Decompress, FlushDecompress, Status};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Octets of records that are kept in memory; many records, and few enough to stay in a core's
/// cache.
const BUFFER_OCTETS: usize = 64 * 1024;

/// Iterates the records of a flow-tools file or stream.
///
/// The iterator is fused: after the first error it ends.
#[derive(Debug)]
pub struct FlowFileReader<R> {
    header: FileHeader,
    header_octets: u64,
    body: Body<R>,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    records: u64,
    over: bool,
    unfinished: bool,
}

impl FlowFileReader<File> {
    /// Opens the file at `path` and reads its header.
    ///
    /// # Errors
    ///
    /// [`ReadError::Header`] if the file cannot be opened or does not start with a header of a kind
    /// that is read.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, ReadError> {
        Self::new(File::open(path).map_err(HeaderError::from)?)
    }
}

impl<R: Read> FlowFileReader<R> {
    /// Reads the header from `source`, which is best not buffered: reads are of 64 KiB.
    ///
    /// # Errors
    ///
    /// [`ReadError::Header`] if `source` does not start with a header of a kind that is read.
    pub fn new(mut source: R) -> Result<Self, ReadError> {
        let (header, octets) = FileHeader::read(&mut source)?;
        let body = if header.has(FLAG_COMPRESS) {
            Body::Zlib(Inflater::new(source))
        } else {
            Body::Plain { source, octets: 0 }
        };
        Ok(Self {
            header,
            header_octets: octets as u64,
            body,
            buffer: vec![0; BUFFER_OCTETS].into_boxed_slice(),
            start: 0,
            end: 0,
            records: 0,
            over: false,
            unfinished: false,
        })
    }

    /// What the file says about itself.
    #[must_use]
    pub fn header(&self) -> &FileHeader {
        &self.header
    }

    /// Records delivered so far.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Octets read from the source so far, the header included.
    #[must_use]
    pub fn octets(&self) -> u64 {
        self.header_octets + self.body.octets()
    }

    /// After the end: the file was not closed properly, so that it may have lost records at its
    /// end.
    #[must_use]
    pub fn is_unfinished(&self) -> bool {
        self.unfinished
    }

    /// The next record, reading more octets as needed.
    #[cold]
    fn refill(&mut self) -> Option<Result<StoredRecord, ReadError>> {
        let wanted = StoredRecord::encoded_octets(self.header.version);
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        while !self.over && self.end < wanted {
            match self.body.read(&mut self.buffer[self.end..]) {
                Ok(0) => {
                    self.over = true;
                    return self.at_end();
                }
                Ok(octets) => self.end += octets,
                Err(source) => {
                    self.over = true;
                    let (offset, records) = (self.octets(), self.records);
                    return Some(Err(ReadError::Damaged {
                        offset,
                        records,
                        source,
                    }));
                }
            }
        }
        if self.over { None } else { self.decode() }
    }

    /// Tells a proper end from a cut.
    fn at_end(&mut self) -> Option<Result<StoredRecord, ReadError>> {
        let in_progress = !self.header.has(FLAG_DONE | FLAG_STREAMING);
        self.unfinished = in_progress;
        if in_progress {
            return None;
        }
        let (found, records) = (self.end, self.records);
        if found > 0 || !self.body.is_complete() {
            let wanted = StoredRecord::encoded_octets(self.header.version);
            return Some(Err(ReadError::Cut {
                offset: self.octets(),
                found,
                wanted,
                records,
            }));
        }
        match self.header.flows_promised() {
            Some(promised) if u64::from(promised) != records & u64::from(u32::MAX) => {
                Some(Err(ReadError::Count {
                    promised,
                    records,
                    offset: self.octets(),
                }))
            }
            _ => None,
        }
    }

    #[inline]
    fn decode(&mut self) -> Option<Result<StoredRecord, ReadError>> {
        let octets = &self.buffer[self.start..self.end];
        let record = StoredRecord::decode(self.header.version, self.header.order, octets)?;
        self.start += StoredRecord::encoded_octets(self.header.version);
        self.records += 1;
        Some(Ok(record))
    }
}

impl<R: Read> Iterator for FlowFileReader<R> {
    type Item = Result<StoredRecord, ReadError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.decode().or_else(|| self.refill())
    }
}

impl<R: Read> std::iter::FusedIterator for FlowFileReader<R> {}

/// Why a file is not read on. Offsets are octets from the start of the file.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The header is not one that is read.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// The file ends too early.
    #[error("the file ends at offset {offset}, inside record {} ({found} of {wanted} octets), after {records} whole records", records + 1)]
    Cut {
        /// Where the file ends.
        offset: u64,
        /// Octets of the record that is cut.
        found: usize,
        /// Octets of a record.
        wanted: usize,
        /// Records before it.
        records: u64,
    },
    /// Records are missing, or there are too many.
    #[error(
        "the header promises {promised} records, the file has {records} up to its end at offset {offset}"
    )]
    Count {
        /// What the header says, modulo 2^32.
        promised: u32,
        /// What the file has.
        records: u64,
        /// Where the file ends.
        offset: u64,
    },
    /// The source failed, or the compressed stream is damaged.
    #[error("cannot read on at offset {offset}, after {records} whole records: {source}")]
    Damaged {
        /// How far the file was read.
        offset: u64,
        /// Records before it.
        records: u64,
        /// What went wrong.
        source: io::Error,
    },
}

/// The records' octets, plain or inflated.
#[derive(Debug)]
enum Body<R> {
    Plain { source: R, octets: u64 },
    Zlib(Inflater<R>),
}

impl<R: Read> Body<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain { source, octets } => {
                let read = read_once(source, buffer)?;
                *octets += read as u64;
                Ok(read)
            }
            Self::Zlib(inflater) => inflater.read(buffer),
        }
    }

    /// Octets taken from the source.
    fn octets(&self) -> u64 {
        match self {
            Self::Plain { octets, .. } => *octets,
            Self::Zlib(inflater) => inflater.zlib.total_in(),
        }
    }

    /// Whether nothing is missing at the end, as far as the octets tell.
    fn is_complete(&self) -> bool {
        match self {
            Self::Plain { .. } => true,
            Self::Zlib(inflater) => inflater.ended,
        }
    }
}

/// One zlib stream (RFC 1950). Unlike a decoder of the library it gives out what was inflated
/// before damage, and then the error.
struct Inflater<R> {
    source: R,
    zlib: Decompress,
    input: Box<[u8]>,
    start: usize,
    end: usize,
    ended: bool,
    error: Option<io::Error>,
}

impl<R: Read> Inflater<R> {
    fn new(source: R) -> Self {
        let input = vec![0; BUFFER_OCTETS].into_boxed_slice();
        Self {
            source,
            zlib: Decompress::new(true),
            input,
            start: 0,
            end: 0,
            ended: false,
            error: None,
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        while !self.ended {
            if self.start == self.end {
                (self.start, self.end) = (0, read_once(&mut self.source, &mut self.input)?);
            }
            let input = &self.input[self.start..self.end];
            let (in_before, out_before) = (self.zlib.total_in(), self.zlib.total_out());
            let status = self.zlib.decompress(input, buffer, FlushDecompress::None);
            let consumed = usize::try_from(self.zlib.total_in() - in_before).unwrap_or(input.len());
            let inflated =
                usize::try_from(self.zlib.total_out() - out_before).unwrap_or(buffer.len());
            self.start += consumed;
            self.ended = matches!(status, Ok(Status::StreamEnd));
            self.error = status
                .err()
                .map(|error| io::Error::new(io::ErrorKind::InvalidData, error));
            if inflated > 0 {
                return Ok(inflated);
            }
            if let Some(error) = self.error.take() {
                return Err(error);
            }
            let source_is_over = self.end == 0;
            if source_is_over {
                break;
            }
        }
        Ok(0)
    }
}

impl<R: std::fmt::Debug> std::fmt::Debug for Inflater<R> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Inflater")
            .field("source", &self.source)
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

/// One read that no signal interrupts.
fn read_once(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match source.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}
