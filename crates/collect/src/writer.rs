//! Writes flow-tools files that are valid at any time.
//!
//! A [`FlowFileWriter`] writes whole records under a temporary name.
//! [`finish`](FlowFileWriter::finish) completes the header, syncs the file and renames it: a file
//! with its final name is complete. Records before the last [`sync`](FlowFileWriter::sync) survive
//! a `kill -9` or a power cut under the temporary name and can be read there. A
//! [`FlowStreamWriter`] writes to a pipe, where nothing can be completed afterwards.

use crate::header::{FLAG_COMPRESS, FLAG_DONE, FLAG_STREAMING, FileHeader};
use crate::record::{ByteOrder, RECORD_OCTETS_MAX, StoredRecord};
use flate2::Compression;
use flate2::write::ZlibEncoder;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File, OpenOptions};
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
    temporary: PathBuf,
    path: PathBuf,
    losses: FileLosses,
}

impl FlowFileWriter {
    /// Begins a file that will have the name `path` and replace the file there.
    ///
    /// The temporary name is `tmp-` and the name, in the same directory.
    ///
    /// # Errors
    ///
    /// If the file cannot be created; [`io::ErrorKind::ResourceBusy`] if another process is writing
    /// it.
    pub fn create(path: impl Into<PathBuf>, options: &WriterOptions) -> io::Result<Self> {
        let path = path.into();
        let name = path.file_name().ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{} is not the name of a file", path.display()),
            )
        })?;
        let mut temporary = std::ffi::OsString::from("tmp-");
        temporary.push(name);
        let temporary = path.with_file_name(temporary);
        Self::create_as(temporary, path, options)
    }

    /// Begins a file that will have the name `path`, under the name `temporary`, which must be in
    /// the same file system.
    ///
    /// # Errors
    ///
    /// As for [`create`](Self::create).
    pub fn create_as(
        temporary: PathBuf,
        path: PathBuf,
        options: &WriterOptions,
    ) -> io::Result<Self> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&temporary)?;
        let second = file.try_clone()?;
        let lock = lock(file)?;
        // Under the lock only: another process may be writing the file.
        lock.set_len(0)?;
        let header = options.file_header();
        let octets = header.encode();
        let mut output = Output { lock, octets: 0 };
        output.write_all(&octets).inspect_err(|_| {
            // A file without a header is useless.
            let _ = fs::remove_file(&temporary);
        })?;
        let body = Body::new(output, options);
        Ok(Self {
            header,
            body,
            file: second,
            temporary,
            path,
            losses: FileLosses::default(),
        })
    }

    /// Appends one record.
    ///
    /// # Errors
    ///
    /// If the file cannot be written. It is valid up to an earlier record then: see
    /// [`abandon`](Self::abandon).
    #[inline]
    pub fn push(&mut self, record: &StoredRecord) -> io::Result<()> {
        self.body.push(record)
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

    /// Records appended.
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
        &self.path
    }

    /// The name that the file has until it is finished.
    #[must_use]
    pub fn temporary(&self) -> &Path {
        &self.temporary
    }

    /// Writes all records to the file and waits until they are on the disk.
    ///
    /// # Errors
    ///
    /// As for [`push`](Self::push).
    pub fn sync(&mut self) -> io::Result<()> {
        self.body.flush()?;
        self.file.sync_data()
    }

    /// Completes the header, syncs and renames the file, and returns the number of its records.
    ///
    /// # Errors
    ///
    /// Those of the file system. The file keeps its temporary name then.
    pub fn finish(self, capture_end_s: u32) -> io::Result<u64> {
        let Self {
            mut header,
            body,
            file,
            temporary,
            path,
            losses,
        } = self;
        let records = body.records;
        let output = body.finish()?;
        header.flags |= FLAG_DONE;
        header.capture_end_s = Some(capture_end_s);
        header.flows = Some(modulo_2_32(records));
        header.lost = Some(losses.lost);
        header.corrupt = Some(losses.corrupt);
        header.resets = Some(losses.resets);
        complete(&file, &header)?;
        publish(&temporary, &path)?;
        drop(output);
        Ok(records)
    }

    /// Abandons the file after an error, unfinished, and returns its temporary name.
    ///
    /// A plain file is cut after its last whole record. A store that is opened on the directory
    /// completes the file.
    pub fn abandon(self) -> PathBuf {
        if let Body {
            encoder: Encoder::Plain(output),
            ..
        } = &self.body
        {
            let whole = whole_octets(&self.header, output.octets);
            // If this fails, readers end at the record that is not whole.
            let _ = self.file.set_len(whole);
        }
        self.temporary
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

    /// Appends one record.
    ///
    /// # Errors
    ///
    /// If the output cannot be written.
    #[inline]
    pub fn push(&mut self, record: &StoredRecord) -> io::Result<()> {
        self.body.push(record)
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

/// Gives the file its final name and syncs the directory, so that the name survives a power cut.
pub(crate) fn publish(temporary: &Path, path: &Path) -> io::Result<()> {
    fs::rename(temporary, path)?;
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    File::open(directory)?.sync_all()
}

/// Locks the file. A file without a lock is not in use: a crash left it.
pub(crate) fn lock(file: File) -> io::Result<Flock<File>> {
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| match error {
        Errno::EWOULDBLOCK => io::Error::new(
            io::ErrorKind::ResourceBusy,
            "another process is writing this file",
        ),
        error => error.into(),
    })
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

impl Write for Output {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        let written = (&*self.lock).write(octets)?;
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
    buffer: Vec<u8>,
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
            encoder,
            records: 0,
        }
    }

    #[inline]
    fn push(&mut self, record: &StoredRecord) -> io::Result<()> {
        record.encode(self.version, self.order, &mut self.buffer);
        self.records += 1;
        if self.buffer.len() < BUFFER_OCTETS {
            Ok(())
        } else {
            self.drain()
        }
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

    #[cold]
    fn drain(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        let done = self.write(&buffer);
        buffer.clear();
        self.buffer = buffer;
        done
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
            assert_eq!(writer.finish(1060).unwrap(), 3000);
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
