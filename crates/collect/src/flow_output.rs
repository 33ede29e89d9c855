//! [`FlowOutput`]: records on their way to wherever an output goes, a file or a stream.

use crate::header::FileHeader;
use crate::output::{Place, Target};
use crate::record::StoredRecord;
use crate::recover::recover_beside;
use crate::writer::{FileLosses, FinishedFile, FlowFileWriter, FlowStreamWriter, WriterOptions};
use std::fs::File;
use std::io;
use std::path::Path;

/// An output of records that is being written.
#[derive(Debug)]
pub enum FlowOutput {
    /// A regular file, which has its name once it is finished.
    File(Box<FlowFileWriter>),
    /// Standard output, a device or a FIFO.
    Stream(Box<FlowStreamWriter<File>>),
}

impl FlowOutput {
    /// Begins the output. What an earlier run left under the temporary name of a file is completed
    /// first, as `NAME.1` or with a larger number, and logged. The header of a stream has the
    /// counts and times of `known`, if there is one.
    ///
    /// # Errors
    ///
    /// If it cannot be created or opened, another process is writing it, or something has its
    /// temporary name that is no unfinished file of this user.
    pub fn open(
        target: Target,
        options: &WriterOptions,
        known: Option<FileHeader>,
    ) -> io::Result<Self> {
        let file = match target.open()? {
            Err(place) => return Ok(Self::File(Box::new(begin(&place, options)?))),
            Ok(file) => file,
        };
        Ok(Self::Stream(Box::new(match known {
            Some(known) => FlowStreamWriter::with_header(file, options, known)?,
            None => FlowStreamWriter::new(file, options)?,
        })))
    }

    /// Appends one record. Records are written in blocks of 64 KiB.
    ///
    /// # Errors
    ///
    /// If the output cannot be written.
    #[inline]
    pub fn push(&mut self, record: &StoredRecord) -> io::Result<()> {
        match self {
            Self::File(writer) => writer.push(record),
            Self::Stream(writer) => writer.push(record),
        }
    }

    /// Appends whole records in the version and byte order of the output, as they are.
    ///
    /// # Errors
    ///
    /// If the output cannot be written.
    pub fn push_block(&mut self, block: &[u8]) -> io::Result<()> {
        match self {
            Self::File(writer) => writer.push_block(block),
            Self::Stream(writer) => writer.push_block(block),
        }
    }

    /// Appends one record, and writes nothing: call [`write_out`](Self::write_out) before many of
    /// them are in memory.
    #[inline]
    pub fn append(&mut self, record: &StoredRecord) {
        match self {
            Self::File(writer) => writer.append(record),
            Self::Stream(writer) => writer.append(record),
        }
    }

    /// Writes the records that are in memory.
    ///
    /// # Errors
    ///
    /// If the output cannot be written. The records that are not in it stay in memory; the output
    /// is sound up to there, and can be continued.
    pub fn write_out(&mut self) -> io::Result<()> {
        match self {
            Self::File(writer) => writer.write_out(),
            Self::Stream(writer) => writer.write_out(),
        }
    }

    /// Records that are in memory only.
    #[must_use]
    pub fn unwritten(&self) -> usize {
        match self {
            Self::File(writer) => writer.unwritten(),
            Self::Stream(writer) => writer.unwritten(),
        }
    }

    /// Gives up the records that are in memory only. Of a stream, one of which a part is written
    /// stays.
    pub fn discard_unwritten(&mut self) {
        match self {
            Self::File(writer) => writer.discard_unwritten(),
            Self::Stream(writer) => writer.discard_unwritten(),
        }
    }

    /// Sets the start of the capture in the header of a file, UTC seconds.
    pub fn set_capture_start(&mut self, unix_s: u32) {
        if let Self::File(writer) = self {
            writer.set_capture_start(unix_s);
        }
    }

    /// Adds to the counts of losses in the header of a file.
    pub fn note(&mut self, losses: FileLosses) {
        if let Self::File(writer) = self {
            writer.note(losses);
        }
    }

    /// The name that a file has until it is finished.
    #[must_use]
    pub fn temporary(&self) -> Option<&Path> {
        match self {
            Self::File(writer) => Some(writer.temporary()),
            Self::Stream(_) => None,
        }
    }

    /// Writes what is in memory, and completes a file; then it has its name.
    ///
    /// # Errors
    ///
    /// Those of the file system. A file keeps its temporary name then.
    pub fn finish(self, capture_end_s: u32) -> io::Result<()> {
        match self {
            Self::File(writer) => writer.finish(capture_end_s).map(|FinishedFile { .. }| ()),
            Self::Stream(writer) => writer.finish().map(drop),
        }
    }

    /// Removes a file that is not finished.
    pub fn discard(self) {
        if let Self::File(writer) = self {
            writer.discard();
        }
    }
}

fn begin(place: &Place, options: &WriterOptions) -> io::Result<FlowFileWriter> {
    if place.temporary.symlink_metadata().is_ok()
        && let Some(recovered) = recover_beside(place)?
    {
        tracing::warn!("{recovered}, which an earlier run left unfinished");
    }
    FlowFileWriter::create_at(place.clone(), options)
}
