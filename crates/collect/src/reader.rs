//! Reads a flow-tools file: its header, then its records, up to the end or the first damage.
//!
//! All records before the damage are delivered: the error is the last item.

use crate::header::{FLAG_COMPRESS, FLAG_DONE, FLAG_STREAMING, FileHeader, HeaderError};
use crate::record::StoredRecord;
use flate2::{Decompress, FlushDecompress, Status};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Octets of records in memory: many records, and few enough for a core's cache.
const BUFFER_OCTETS: usize = 64 * 1024;

/// Iterates over the records of a flow-tools file or stream.
///
/// The iterator ends after the first error.
#[derive(Debug)]
pub struct FlowFileReader<R> {
    header: FileHeader,
    header_octets: u64,
    body: Body<R>,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    records: u64,
    ended: bool,
    unfinished: bool,
}

impl FlowFileReader<File> {
    /// Opens the file at `path` and reads its header.
    ///
    /// # Errors
    ///
    /// [`ReadError::Header`] if the file cannot be opened or does not start with a supported
    /// header.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, ReadError> {
        Self::new(File::open(path).map_err(HeaderError::from)?)
    }
}

impl<R: Read> FlowFileReader<R> {
    /// Reads the header from `source`. A buffer around `source` is of no use: records are read 64
    /// KiB at a time.
    ///
    /// # Errors
    ///
    /// [`ReadError::Header`] if `source` does not start with a supported header.
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
            ended: false,
            unfinished: false,
        })
    }

    /// The header of the file.
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

    /// Whether the file was not closed properly, so that records may be missing at its end. Known
    /// after the last record.
    #[must_use]
    pub fn is_unfinished(&self) -> bool {
        self.unfinished
    }

    /// Whole records as they are in the file, one or more of the header's version and byte order,
    /// up to 64 KiB. The fastest way to copy records; `None` at the end.
    ///
    /// Records that this returned, the iterator does not return, and the other way round.
    pub fn next_block(&mut self) -> Option<Result<&[u8], ReadError>> {
        let record_octets = StoredRecord::encoded_octets(self.header.version);
        if self.end - self.start < record_octets
            && let Err(end) = self.fill()
        {
            return end.map(Err);
        }
        let records = (self.end - self.start) / record_octets;
        let block = self.start..self.start + records * record_octets;
        self.start = block.end;
        self.records += records as u64;
        Some(Ok(&self.buffer[block]))
    }

    /// The next record, reading more octets as needed.
    #[cold]
    fn refill(&mut self) -> Option<Result<StoredRecord, ReadError>> {
        match self.fill() {
            Ok(()) => self.decode(),
            Err(end) => end.map(Err),
        }
    }

    /// Reads until a whole record is in the buffer, or as much as one read returns; else the end:
    /// `None` if it is a proper one.
    fn fill(&mut self) -> Result<(), Option<ReadError>> {
        let record_octets = StoredRecord::encoded_octets(self.header.version);
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        while self.end < record_octets {
            if self.ended {
                return Err(None);
            }
            match self.body.read(&mut self.buffer[self.end..]) {
                Ok(0) => {
                    self.ended = true;
                    return Err(self.at_end());
                }
                Ok(octets) => self.end += octets,
                Err(source) => {
                    self.ended = true;
                    return Err(Some(ReadError::Damaged {
                        offset: self.octets(),
                        records: self.records,
                        source,
                    }));
                }
            }
        }
        Ok(())
    }

    /// `None` at a proper end, or at the end of a file that is still being written; else the error.
    fn at_end(&mut self) -> Option<ReadError> {
        let in_progress = !self.header.has(FLAG_DONE | FLAG_STREAMING);
        self.unfinished = in_progress;
        if in_progress {
            return None;
        }
        let (found, records) = (self.end, self.records);
        if found > 0 || !self.body.is_complete() {
            return Some(ReadError::Cut {
                offset: self.octets(),
                found,
                expected: StoredRecord::encoded_octets(self.header.version),
                records,
            });
        }
        match self.header.flows_promised() {
            Some(promised) if u64::from(promised) != records & u64::from(u32::MAX) => {
                Some(ReadError::Count {
                    promised,
                    records,
                    offset: self.octets(),
                })
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

/// Why reading ended. Offsets are octets from the start of the file.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The header is missing, damaged, or not supported.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// The file ends too early.
    #[error("the file ends at offset {offset}, inside record {} ({found} of {expected} octets), \
        after {records} whole records", records + 1)]
    Cut {
        /// Length of the file.
        offset: u64,
        /// Octets of the record that is cut.
        found: usize,
        /// Octets of a whole record.
        expected: usize,
        /// Records before it.
        records: u64,
    },
    /// Records are missing, or there are too many.
    #[error(
        "found {records} records up to the end at offset {offset}, expected {promised} as in the \
         header"
    )]
    Count {
        /// Records by the header, modulo 2^32.
        promised: u32,
        /// Records in the file.
        records: u64,
        /// Length of the file.
        offset: u64,
    },
    /// The source failed, or the compressed stream is damaged.
    #[error("cannot read beyond offset {offset}, after {records} whole records: {source}")]
    Damaged {
        /// Octets of the file that were read.
        offset: u64,
        /// Records before it.
        records: u64,
        /// The cause.
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

    /// Octets read from the source.
    fn octets(&self) -> u64 {
        match self {
            Self::Plain { octets, .. } => *octets,
            Self::Zlib(inflater) => inflater.zlib.total_in(),
        }
    }

    /// Whether the octets are complete, as far as their format shows it.
    fn is_complete(&self) -> bool {
        match self {
            Self::Plain { .. } => true,
            Self::Zlib(inflater) => inflater.ended,
        }
    }
}

/// One zlib stream (RFC 1950). Unlike the decoders of the library it returns what was inflated
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
            let consumed = usize::try_from(self.zlib.total_in() - in_before)
                .expect("zlib consumes no more than its input");
            let inflated = usize::try_from(self.zlib.total_out() - out_before)
                .expect("zlib fills no more than its buffer");
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
            let source_has_ended = self.end == 0;
            if source_has_ended {
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

/// One read, repeated if a signal interrupts it.
fn read_once(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match source.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}
