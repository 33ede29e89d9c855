//! Writes flow-tools files that are valid at any time.
//!
//! A [`FlowFileWriter`] writes whole records under a temporary name.
//! [`finish`](FlowFileWriter::finish) completes the header, syncs the file and renames it: a file
//! with its final name is complete. Records before the last [`sync`](FlowFileWriter::sync) survive
//! a `kill -9` or a power cut under the temporary name and can be read there. A
//! [`FlowStreamWriter`] writes to a pipe, where nothing can be completed afterwards.

use crate::header::{FLAG_COMPRESS, FLAG_DONE, FLAG_STREAMING, FileHeader};
use crate::output::{Place, Replace, is_unlinked, publish};
use crate::record::{ByteOrder, RECORD_OCTETS_MAX, StoredRecord};
use flate2::Compression;
use flate2::write::ZlibEncoder;
use nix::fcntl::Flock;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use xdprobe_netflow::Version;

/// Octets of records that are gathered before they are written to the file or to zlib.
const BUFFER_OCTETS: usize = 64 * 1024;
/// zlib's default level, and flow-capture's.
pub const LEVEL_DEFAULT: u32 = 6;

/// How a file is written.
#[derive(Clone, Debug)]
pub struct WriterOptions {
    /// Version of the records. A record of another version is stored without the fields that this
    /// one lacks.
    pub version: Version,
    /// Byte order; this machine's is the fastest.
    pub order: ByteOrder,
    /// zlib level, 1 to 9, or 0 for plain records.
    pub level: u32,
    /// Start of the capture, UTC seconds.
    pub capture_start_s: u32,
    /// This host's name.
    pub hostname: Option<String>,
    /// The operator's comment.
    pub comment: Option<String>,
}

impl WriterOptions {
    /// Plain records of version 5 in this machine's byte order.
    #[must_use]
    pub fn plain_v5(capture_start_s: u32) -> Self {
        let order = ByteOrder::NATIVE;
        Self {
            version: Version::V5,
            order,
            level: 0,
            capture_start_s,
            hostname: None,
            comment: None,
        }
    }

    fn header(&self) -> FileHeader {
        FileHeader {
            flags: if self.level > 0 { FLAG_COMPRESS } else { 0 },
            hostname: self.hostname.clone(),
            comment: self.comment.clone(),
            ..FileHeader::new(self.version, self.order)
        }
    }

    /// A header with all fields that `finish` completes, so that its length does not change then.
    fn file_header(&self) -> FileHeader {
        FileHeader {
            capture_start_s: Some(self.capture_start_s),
            capture_end_s: Some(0),
            flows: Some(0),
            lost: Some(0),
            corrupt: Some(0),
            resets: Some(0),
            ..self.header()
        }
    }
}

/// Counts in the header of records and datagrams that are not in the file.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct FileLosses {
    /// Records that are missing by the exporters' sequence numbers.
    pub lost: u32,
    /// Datagrams that were malformed or refused.
    pub corrupt: u32,
    /// Jumps of sequence numbers that are not a loss.
    pub resets: u32,
}

impl FileLosses {
    /// Adds `other`; counts stop at their largest value.
    pub fn add(&mut self, other: Self) {
        self.lost = self.lost.saturating_add(other.lost);
        self.corrupt = self.corrupt.saturating_add(other.corrupt);
        self.resets = self.resets.saturating_add(other.resets);
    }
}

/// A file that is being written.
///
/// A writer that is dropped without [`finish`](Self::finish) leaves the file under its temporary
/// name, as a crash does.
#[derive(Debug)]
pub struct FlowFileWriter {
    header: FileHeader,
    body: Body<Output>,
    /// A second handle, to sync the file and to rewrite its header.
    file: File,
    place: Place,
    losses: FileLosses,
}

/// A file that is complete.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FinishedFile {
    /// Its name. It has a number at its end if something else has the name that it was to have.
    pub path: PathBuf,
    /// Records in the file.
    pub records: u64,
}

impl FlowFileWriter {
    /// Begins a file that will have the name `path` and replace the regular file there.
    ///
    /// The temporary name is `tmp-` and the name, in the same directory.
    ///
    /// # Errors
    ///
    /// If the file cannot be created: [`io::ErrorKind::ResourceBusy`] if another process is writing
    /// it, [`io::ErrorKind::AlreadyExists`] if something has the temporary name.
    pub fn create(path: impl Into<PathBuf>, options: &WriterOptions) -> io::Result<Self> {
        Self::create_at(Place::beside(path.into(), Replace::Anything)?, options)
    }

    /// Begins a file under its temporary name, which must be in the same file system as its final
    /// name.
    ///
    /// # Errors
    ///
    /// As for [`create`](Self::create).
    pub(crate) fn create_at(place: Place, options: &WriterOptions) -> io::Result<Self> {
        let lock = place.create()?;
        let remove = |_: &io::Error| {
            // A file without a header is useless.
            let _ = fs::remove_file(&place.temporary);
        };
        let file = lock.try_clone().inspect_err(remove)?;
        let header = options.file_header();
        let octets = header.encode();
        let mut output = Output { lock, octets: 0 };
        output.write_all(&octets).inspect_err(remove)?;
        Ok(Self {
            header,
            body: Body::new(output, options),
            file,
            place,
            losses: FileLosses::default(),
        })
    }

    /// Appends one record. Records are written in blocks of 64 KiB.
    ///
    /// # Errors
    ///
    /// If the file cannot be written. It is valid up to an earlier record then: see
    /// [`abandon`](Self::abandon), or [`write_out`](Self::write_out) to go on.
    #[inline]
    pub fn push(&mut self, record: &StoredRecord) -> io::Result<()> {
        self.body.append(record);
        if self.body.is_full() {
            self.write_out()?;
        }
        Ok(())
    }

    /// Appends one record, and writes nothing: call [`write_out`](Self::write_out) before many of
    /// them are in memory.
    #[inline]
    pub fn append(&mut self, record: &StoredRecord) {
        self.body.append(record);
    }

    /// Writes the records that are in memory.
    ///
    /// # Errors
    ///
    /// If the file cannot be written, or has been removed. A plain file is cut after its last whole
    /// record; the records that are not in it stay in memory and can be written later. Of a
    /// compressed file, they are gone.
    pub fn write_out(&mut self) -> io::Result<()> {
        if is_unlinked(&self.file)? {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("{} has been removed", self.place.temporary.display()),
            ));
        }
        let written = self.body.drain();
        if let Encoder::Plain(output) = &mut self.body.encoder {
            output.cut(std::mem::take(&mut self.body.torn));
        }
        written
    }

    /// Records that are in memory only.
    #[must_use]
    pub fn unwritten(&self) -> usize {
        self.body.unwritten()
    }

    /// Gives up the records that are in memory only: they will not be in the file.
    pub fn discard_unwritten(&mut self) {
        self.body.discard_unwritten();
    }

    /// Appends whole records in the version and byte order of the file, as they are.
    ///
    /// # Errors
    ///
    /// As for [`push`](Self::push).
    pub fn push_block(&mut self, block: &[u8]) -> io::Result<()> {
        self.body.push_block(block)
    }

    /// Adds to the counts of losses in the header.
    pub fn note(&mut self, losses: FileLosses) {
        self.losses.add(losses);
    }

    /// Sets the start of the capture in the header, UTC seconds.
    pub fn set_capture_start(&mut self, unix_s: u32) {
        self.header.capture_start_s = Some(unix_s);
    }

    /// Records appended, without those that were given up.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.body.records
    }

    /// Octets in the file so far, without the records that are still in memory.
    #[must_use]
    pub fn octets(&self) -> u64 {
        self.body.output().octets
    }

    /// The name that the file will have.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.place.path
    }

    /// The name that the file has until it is finished.
    #[must_use]
    pub fn temporary(&self) -> &Path {
        &self.place.temporary
    }

    /// Writes all records to the file and waits until they are on the disk.
    ///
    /// # Errors
    ///
    /// As for [`push`](Self::push).
    pub fn sync(&mut self) -> io::Result<()> {
        self.write_out()?;
        self.body.flush()?;
        self.file.sync_data()
    }

    /// Completes the header, syncs and renames the file.
    ///
    /// # Errors
    ///
    /// Those of the file system. The file keeps its temporary name then.
    pub fn finish(mut self, capture_end_s: u32) -> io::Result<FinishedFile> {
        self.write_out()?;
        let Self {
            mut header,
            body,
            file,
            place,
            losses,
        } = self;
        let records = body.records;
        // Keeps the lock until the file has its name.
        let _output = body.finish()?;
        header.flags |= FLAG_DONE;
        header.capture_end_s = Some(capture_end_s);
        header.flows = Some(modulo_2_32(records));
        header.lost = Some(losses.lost);
        header.corrupt = Some(losses.corrupt);
        header.resets = Some(losses.resets);
        complete(&file, &header)?;
        let path = publish(&place.temporary, &place.path, place.replace)?;
        if path != place.path {
            tracing::warn!(
                "{} was created by another program meanwhile: the records are in {}",
                place.path.display(),
                path.display()
            );
        }
        Ok(FinishedFile { path, records })
    }

    /// Abandons the file after an error, unfinished, and returns its temporary name.
    ///
    /// A plain file is cut after its last whole record. A store that is opened on the directory
    /// completes the file.
    pub fn abandon(self) -> PathBuf {
        if let Encoder::Plain(output) = &self.body.encoder {
            let whole = whole_octets(&self.header, output.octets);
            // If this fails, readers end at the record that is not whole.
            let _ = self.file.set_len(whole);
        }
        self.place.temporary
    }

    /// Removes the file: it is of no use to anyone.
    pub fn discard(self) {
        // What cannot be removed is left as after a crash.
        let _ = fs::remove_file(&self.place.temporary);
    }
}

/// Writes to a pipe. The stream's header has no counts, or those that were known beforehand.
#[derive(Debug)]
pub struct FlowStreamWriter<W: Write> {
    body: Body<W>,
}

impl<W: Write> FlowStreamWriter<W> {
    /// Begins a stream. The start of the capture in `options` is not used.
    ///
    /// # Errors
    ///
    /// If the output cannot be written.
    pub fn new(output: W, options: &WriterOptions) -> io::Result<Self> {
        Self::with_header(output, options, options.header())
    }

    /// Begins a stream whose header has the counts and times of `known` too.
    ///
    /// # Errors
    ///
    /// If the output cannot be written.
    pub fn with_header(
        mut output: W,
        options: &WriterOptions,
        known: FileHeader,
    ) -> io::Result<Self> {
        let plain = options.header();
        let header = FileHeader {
            order: plain.order,
            version: plain.version,
            flags: known.flags & !(FLAG_DONE | FLAG_COMPRESS) | plain.flags | FLAG_STREAMING,
            ..known
        };
        output.write_all(&header.encode())?;
        Ok(Self {
            body: Body::new(output, options),
        })
    }

    /// Appends one record. Records are written in blocks of 64 KiB.
    ///
    /// # Errors
    ///
    /// If the output cannot be written.
    #[inline]
    pub fn push(&mut self, record: &StoredRecord) -> io::Result<()> {
        self.body.append(record);
        if self.body.is_full() {
            self.body.drain()?;
        }
        Ok(())
    }

    /// Appends one record, and writes nothing: see [`FlowFileWriter::append`].
    #[inline]
    pub fn append(&mut self, record: &StoredRecord) {
        self.body.append(record);
    }

    /// Writes the records that are in memory.
    ///
    /// # Errors
    ///
    /// If the output cannot be written. The rest of the record at which it ended, and the records
    /// behind it, stay in memory if they are plain: the stream is whole again once the rest has
    /// been written.
    pub fn write_out(&mut self) -> io::Result<()> {
        self.body.flush()
    }

    /// Records that are in memory only; one of them in a part only, if the last attempt to write
    /// ended within it.
    #[must_use]
    pub fn unwritten(&self) -> usize {
        self.body.unwritten()
    }

    /// Gives up the records that are in memory only, except for one of which a part is written.
    pub fn discard_unwritten(&mut self) {
        self.body.discard_unwritten();
    }

    /// Appends whole records in the version and byte order of the stream, as they are.
    ///
    /// # Errors
    ///
    /// If the output cannot be written.
    pub fn push_block(&mut self, block: &[u8]) -> io::Result<()> {
        self.body.push_block(block)
    }

    /// Writes the records that are still in memory, and returns the number of all records.
    ///
    /// # Errors
    ///
    /// If the output cannot be written.
    pub fn finish(self) -> io::Result<u64> {
        let records = self.body.records;
        self.body.finish()?.flush()?;
        Ok(records)
    }
}

/// Rewrites the header at the start of the file, and syncs the file.
pub(crate) fn complete(file: &File, header: &FileHeader) -> io::Result<()> {
    // The records first: a header with FLAG_DONE must not be on the disk before them.
    file.sync_data()?;
    file.write_all_at(&header.encode(), 0)?;
    file.sync_all()
}

/// Length in octets of the header and the whole records of a plain file of `octets`.
pub(crate) fn whole_octets(header: &FileHeader, octets: u64) -> u64 {
    let start = header.encode().len() as u64;
    let record = StoredRecord::encoded_octets(header.version) as u64;
    start + octets.saturating_sub(start) / record * record
}

/// A count in the header.
#[expect(
    clippy::cast_possible_truncation,
    reason = "flow-tools counts modulo 2^32"
)]
pub(crate) fn modulo_2_32(count: u64) -> u32 {
    count as u32
}

/// The locked file, and the octets written to it.
#[derive(Debug)]
struct Output {
    lock: Flock<File>,
    octets: u64,
}

impl Output {
    /// Cuts the last octets off. If the system refuses, the next write overwrites them.
    fn cut(&mut self, octets: usize) {
        if octets > 0 {
            self.octets -= octets as u64;
            let _ = self.lock.set_len(self.octets);
        }
    }
}

impl Write for Output {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        let written = self.lock.write_at(octets, self.octets)?;
        self.octets += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Records on their way to the output.
#[derive(Debug)]
struct Body<W: Write> {
    version: Version,
    order: ByteOrder,
    /// Records that are not written.
    buffer: Vec<u8>,
    /// Octets of the first of them that are written nevertheless, after an error.
    torn: usize,
    encoder: Encoder<W>,
    records: u64,
}

#[derive(Debug)]
enum Encoder<W: Write> {
    Plain(W),
    Zlib(ZlibEncoder<W>),
}

impl<W: Write> Body<W> {
    fn new(output: W, options: &WriterOptions) -> Self {
        let encoder = match options.level {
            0 => Encoder::Plain(output),
            level => Encoder::Zlib(ZlibEncoder::new(output, Compression::new(level))),
        };
        let buffer = Vec::with_capacity(BUFFER_OCTETS + RECORD_OCTETS_MAX);
        Self {
            version: options.version,
            order: options.order,
            buffer,
            torn: 0,
            encoder,
            records: 0,
        }
    }

    #[inline]
    fn append(&mut self, record: &StoredRecord) {
        record.encode(self.version, self.order, &mut self.buffer);
        self.records += 1;
    }

    #[inline]
    fn is_full(&self) -> bool {
        self.buffer.len() >= BUFFER_OCTETS
    }

    fn unwritten(&self) -> usize {
        self.buffer.len() / StoredRecord::encoded_octets(self.version)
    }

    /// Forgets the records that are not written. One that is torn is kept.
    fn discard_unwritten(&mut self) {
        let record = StoredRecord::encoded_octets(self.version);
        let kept = usize::from(self.torn > 0);
        self.records -= self.unwritten().saturating_sub(kept) as u64;
        self.buffer.truncate(kept * record);
    }

    /// A block that is at least half a buffer is written as it is, behind the records in memory.
    fn push_block(&mut self, block: &[u8]) -> io::Result<()> {
        let record = StoredRecord::encoded_octets(self.version);
        debug_assert!(block.len().is_multiple_of(record), "the records are whole");
        self.records += (block.len() / record) as u64;
        if block.len() < BUFFER_OCTETS / 2 {
            self.buffer.extend_from_slice(block);
            return if self.buffer.len() < BUFFER_OCTETS {
                Ok(())
            } else {
                self.drain()
            };
        }
        self.drain()?;
        self.write(block)
    }

    fn write(&mut self, octets: &[u8]) -> io::Result<()> {
        match &mut self.encoder {
            Encoder::Plain(output) => output.write_all(octets),
            Encoder::Zlib(encoder) => encoder.write_all(octets),
        }
    }

    fn output(&self) -> &W {
        match &self.encoder {
            Encoder::Plain(output) => output,
            Encoder::Zlib(encoder) => encoder.get_ref(),
        }
    }

    /// Writes the records to the output. Plain records that cannot be written are kept.
    #[cold]
    fn drain(&mut self) -> io::Result<()> {
        match &mut self.encoder {
            Encoder::Plain(output) => {
                let (octets, written) = write_up_to(output, &self.buffer[self.torn..]);
                let octets = self.torn + octets;
                self.torn = octets % StoredRecord::encoded_octets(self.version);
                self.buffer.drain(..octets - self.torn);
                written
            }
            Encoder::Zlib(encoder) => {
                let written = encoder.write_all(&self.buffer);
                self.buffer.clear();
                written
            }
        }
    }

    /// Writes all records to the output. A compressed stream can then be inflated up to here.
    fn flush(&mut self) -> io::Result<()> {
        self.drain()?;
        match &mut self.encoder {
            Encoder::Plain(output) => output.flush(),
            Encoder::Zlib(encoder) => encoder.flush(),
        }
    }

    fn finish(mut self) -> io::Result<W> {
        self.drain()?;
        match self.encoder {
            Encoder::Plain(output) => Ok(output),
            Encoder::Zlib(encoder) => encoder.finish(),
        }
    }
}

/// Writes up to the first error, and returns how many octets are written.
fn write_up_to(output: &mut impl Write, octets: &[u8]) -> (usize, io::Result<()>) {
    let mut written = 0;
    while written < octets.len() {
        match output.write(&octets[written..]) {
            Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
            Ok(more) => written += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (written, Err(error)),
        }
    }
    (written, Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reader::FlowFileReader;
    use proptest::prelude::*;

    fn record(number: u32) -> StoredRecord {
        StoredRecord {
            source: number.into(),
            packets: 1,
            octets: number,
            ..StoredRecord::default()
        }
    }

    fn read(path: &Path) -> (FileHeader, Vec<StoredRecord>) {
        let mut reader = FlowFileReader::open(path).unwrap();
        let records = reader.by_ref().map(Result::unwrap).collect();
        (reader.header().clone(), records)
    }

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_finished_file_has_its_name_and_its_counts() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.ft");
        for level in [0, 6] {
            let options = WriterOptions {
                level,
                hostname: Some("here".into()),
                comment: Some("a comment".into()),
                ..WriterOptions::plain_v5(1000)
            };
            let mut writer = FlowFileWriter::create(&path, &options).unwrap();
            for number in 0..3000 {
                writer.push(&record(number)).unwrap();
            }
            writer.note(FileLosses {
                lost: 3,
                corrupt: 2,
                resets: 1,
            });
            assert!(names(directory.path()).contains(&"tmp-x.ft".to_owned()));
            assert_eq!(
                writer.finish(1060).unwrap(),
                FinishedFile {
                    path: path.clone(),
                    records: 3000
                }
            );
            assert_eq!(names(directory.path()), ["x.ft"]);
            let (header, records) = read(&path);
            assert_eq!(records, (0..3000).map(record).collect::<Vec<_>>());
            assert!(header.has(FLAG_DONE) && !header.has(FLAG_STREAMING));
            assert_eq!(header.has(FLAG_COMPRESS), level > 0);
            assert_eq!(
                (header.capture_start_s, header.capture_end_s, header.flows),
                (Some(1000), Some(1060), Some(3000))
            );
            assert_eq!(
                (header.lost, header.corrupt, header.resets),
                (Some(3), Some(2), Some(1))
            );
            assert_eq!(
                (header.hostname.as_deref(), header.comment.as_deref()),
                (Some("here"), Some("a comment"))
            );
        }
    }

    #[test]
    fn what_was_synced_is_readable_while_the_file_is_written() {
        let directory = tempfile::tempdir().unwrap();
        for level in [0, 6] {
            let path = directory.path().join(format!("{level}.ft"));
            let options = WriterOptions {
                level,
                ..WriterOptions::plain_v5(0)
            };
            let mut writer = FlowFileWriter::create(&path, &options).unwrap();
            for number in 0..5000 {
                writer.push(&record(number)).unwrap();
            }
            writer.sync().unwrap();
            for number in 5000..5010 {
                writer.push(&record(number)).unwrap();
            }
            let mut reader = FlowFileReader::open(writer.temporary()).unwrap();
            assert_eq!(reader.by_ref().map(Result::unwrap).count(), 5000);
            assert!(reader.is_unfinished());
        }
    }

    #[test]
    fn a_file_has_one_writer() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.ft");
        let options = WriterOptions::plain_v5(0);
        let mut writer = FlowFileWriter::create(&path, &options).unwrap();
        writer.push(&record(1)).unwrap();
        let error = FlowFileWriter::create(&path, &options).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
        writer.finish(0).unwrap();
        assert_eq!(read(&path).1, [record(1)]);
        assert!(FlowFileWriter::create(&path, &options).is_ok());
    }

    #[test]
    fn a_full_disk_is_an_error_and_whole_records_remain() {
        let directory = tempfile::tempdir().unwrap();
        let mut writer =
            FlowFileWriter::create(directory.path().join("x.ft"), &WriterOptions::plain_v5(0))
                .unwrap();
        for number in 0..100 {
            writer.push(&record(number)).unwrap();
        }
        writer.sync().unwrap();
        // As if the disk had taken a part of a write.
        let Encoder::Plain(output) = &mut writer.body.encoder else {
            panic!("the file is plain")
        };
        output.write_all(&[1; 33]).unwrap();
        let left = writer.abandon();
        let mut reader = FlowFileReader::open(left).unwrap();
        assert_eq!(reader.by_ref().map(Result::unwrap).count(), 100);
    }

    /// Takes so many octets in all, then none.
    #[derive(Default)]
    struct Full {
        octets: Vec<u8>,
        room: usize,
    }

    impl Write for Full {
        fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
            let taken = octets.len().min(self.room);
            if taken == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.octets.extend_from_slice(&octets[..taken]);
            self.room -= taken;
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    proptest! {
        /// However often and wherever the output is full, what is given up is whole records, and
        /// the stream is sound.
        #[test]
        fn a_stream_that_is_full_at_times_stays_whole(
            rooms in proptest::collection::vec(0_usize..700, 0..20),
            version in 0usize..3,
        ) {
            let version = Version::ALL[version];
            let options = WriterOptions { version, ..WriterOptions::plain_v5(0) };
            let mut output = Full { room: 1000, ..Full::default() };
            let mut writer = FlowStreamWriter::new(&mut output, &options).unwrap();
            let (mut expected, mut waiting) = (Vec::new(), Vec::new());
            for (number, room) in (0..).zip(rooms.into_iter().chain([100_000])) {
                let Encoder::Plain(output) = &mut writer.body.encoder else { unreachable!() };
                output.room = room;
                for record in (0..5).map(|part| record(number * 5 + part)) {
                    writer.append(&record);
                    waiting.push(record);
                }
                let is_full = writer.write_out().is_err();
                expected.extend(waiting.drain(..waiting.len() - writer.unwritten()));
                if is_full {
                    writer.discard_unwritten();
                    waiting.truncate(writer.unwritten());
                }
            }
            prop_assert_eq!(writer.finish().unwrap(), expected.len() as u64);
            let reader = FlowFileReader::new(&output.octets[..]).unwrap();
            prop_assert_eq!(reader.map(Result::unwrap).collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn a_stream_carries_no_counts_unless_they_are_known() {
        let mut octets = Vec::new();
        let mut writer = FlowStreamWriter::new(&mut octets, &WriterOptions::plain_v5(0)).unwrap();
        writer.push(&record(1)).unwrap();
        assert_eq!(writer.finish().unwrap(), 1);
        // As flow-cat writes to a pipe: version and flags alone.
        assert_eq!(octets.len(), 24 + 64);
        let reader = FlowFileReader::new(&octets[..]).unwrap();
        assert_eq!(
            (reader.header().flags, reader.header().flows),
            (FLAG_STREAMING, None)
        );
        assert_eq!(reader.map(Result::unwrap).collect::<Vec<_>>(), [record(1)]);
    }

    proptest! {
        /// Whatever the lengths of blocks, and where records are read and pushed between them.
        #[test]
        fn blocks_are_copied_octet_for_octet(
            counts in proptest::collection::vec(0u32..2000, 1..5),
            level in 0u32..2,
            little: bool,
            version in 0usize..3,
        ) {
            let order = if little { ByteOrder::Little } else { ByteOrder::Big };
            let version = Version::ALL[version];
            let plain = WriterOptions { level: 0, order, version, ..WriterOptions::plain_v5(0) };
            let options = WriterOptions { level, ..plain.clone() };
            let (mut copied, mut expected) = (Vec::new(), Vec::new());
            let mut copy = FlowStreamWriter::new(&mut copied, &plain).unwrap();
            let mut direct = FlowStreamWriter::new(&mut expected, &plain).unwrap();
            for count in &counts {
                let mut octets = Vec::new();
                let mut writer = FlowStreamWriter::new(&mut octets, &options).unwrap();
                for number in 0..*count {
                    writer.push(&record(number)).unwrap();
                    direct.push(&record(number)).unwrap();
                }
                writer.finish().unwrap();
                let mut reader = FlowFileReader::new(&octets[..]).unwrap();
                if let Some(first) = reader.next() {
                    copy.push(&first.unwrap()).unwrap();
                }
                while let Some(block) = reader.next_block() {
                    copy.push_block(block.unwrap()).unwrap();
                }
                prop_assert_eq!(reader.records(), u64::from(*count));
                prop_assert!(reader.next().is_none());
            }
            let total = u64::from(counts.iter().sum::<u32>());
            prop_assert_eq!(copy.finish().unwrap(), total);
            direct.finish().unwrap();
            prop_assert!(copied == expected);
        }

        #[test]
        fn reading_undoes_writing(
            count in 0u32..1500,
            level in 0u32..10,
            little: bool,
            version in 0usize..3,
        ) {
            let order = if little { ByteOrder::Little } else { ByteOrder::Big };
            let version = Version::ALL[version];
            let options = WriterOptions { level, order, version, ..WriterOptions::plain_v5(0) };
            let mut octets = Vec::new();
            let mut writer = FlowStreamWriter::new(&mut octets, &options).unwrap();
            for number in 0..count {
                writer.push(&record(number)).unwrap();
            }
            writer.finish().unwrap();
            let reader = FlowFileReader::new(&octets[..]).unwrap();
            let records: Vec<_> = reader.map(Result::unwrap).collect();
            prop_assert_eq!(records, (0..count).map(record).collect::<Vec<_>>());
        }
    }
}
