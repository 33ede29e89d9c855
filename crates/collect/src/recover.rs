//! Completes files that a killed collector, a power cut or a full disk left under temporary names.
//!
//! A recovery can be interrupted at each step, like the collector itself: a file is completed, in
//! place or as a copy, before it is renamed.

use crate::header::{FLAG_COMPRESS, FLAG_DONE, FileHeader};
use crate::output::{Place, Replace, lock, open_leftover, publish, publish_numbered};
use crate::reader::FlowFileReader;
use crate::record::{RECORD_OCTETS_MAX, StoredRecord};
use crate::writer::{
    FileLosses, FlowFileWriter, LEVEL_DEFAULT, WriterOptions, complete, modulo_2_32, whole_octets,
};
use std::borrow::Cow;
use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// A file that was completed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Recovered {
    /// Name of the file.
    pub path: PathBuf,
    /// Records in the file.
    pub records: u64,
}

impl std::fmt::Display for Recovered {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            formatter,
            "recovered {} with {} records",
            self.path.display(),
            self.records
        )
    }
}

/// Completes one file of a collector and gives it its final name. A file without records is
/// removed: `None`.
pub(crate) fn recover_file(temporary: &Path) -> io::Result<Option<Recovered>> {
    let path = finished_name(temporary);
    let file = lock(open_leftover(temporary)?)?;
    let Some(records) = complete_records(&file, temporary)? else {
        return Ok(None);
    };
    let path = publish(temporary, &path, Replace::Nothing)?;
    Ok(Some(Recovered { path, records }))
}

/// Completes what an earlier run left under the temporary name of an output, and gives it the
/// output's name with a number behind it, since another file is about to be written. A file without
/// records is removed: `None`.
///
/// # Errors
///
/// If it is in use, belongs to another user, or is no flow-tools file. It stays as it is.
pub(crate) fn recover_beside(place: &Place) -> io::Result<Option<Recovered>> {
    let temporary = &place.temporary;
    let about = |what: String| io::Error::other(format!("{}: {what}", temporary.display()));
    let file = lock(open_leftover(temporary)?)?;
    let owner = file.metadata()?.uid();
    if owner != nix::unistd::geteuid().as_raw() {
        return Err(about(format!(
            "left by a run of the user with id {owner}: move it away"
        )));
    }
    let records = complete_records(&file, temporary)
        .map_err(|error| about(format!("{error}; left by an earlier run? Move it away")))?;
    let Some(records) = records else {
        return Ok(None);
    };
    let path = publish_numbered(temporary, &place.path)?;
    Ok(Some(Recovered { path, records }))
}

/// Completes the header and the records of a file, and returns how many it has. A file without
/// records is removed: `None`.
fn complete_records(file: &File, temporary: &Path) -> io::Result<Option<u64>> {
    if file.metadata()?.len() == 0 {
        fs::remove_file(temporary)?;
        return Ok(None);
    }
    let mut reader = reader_of(file)?;
    let header = reader.header().clone();
    let start = reader.octets();
    if header.has(FLAG_DONE) && reader.by_ref().all(|record| record.is_ok()) {
        // Interrupted after the header was completed and before the file was renamed.
        return Ok(Some(reader.records()));
    }
    let records = if header.has(FLAG_COMPRESS) || header.encode().len() as u64 != start {
        complete_beside(file, temporary)?
    } else {
        complete_in_place(file, header, start)?
    };
    if records == 0 {
        fs::remove_file(temporary)?;
        return Ok(None);
    }
    Ok(Some(records))
}

fn reader_of(file: &File) -> io::Result<FlowFileReader<File>> {
    let mut again = file.try_clone()?;
    again.seek(SeekFrom::Start(0))?;
    FlowFileReader::new(again).map_err(io::Error::other)
}

/// Cuts a plain file after its last whole record and completes its header. Needs no room on the
/// disk.
fn complete_in_place(file: &File, mut header: FileHeader, start: u64) -> io::Result<u64> {
    let end = capture_end(file)?;
    let record = StoredRecord::encoded_octets(header.version);
    let whole = whole_octets(&header, file.metadata()?.len());
    let whole = without_zeros(file, start, whole, record)?;
    let records = (whole - start) / record as u64;
    file.set_len(whole)?;
    header.flags |= FLAG_DONE;
    header.capture_end_s = header.capture_end_s.map(|_| end);
    header.flows = header.flows.map(|_| modulo_2_32(records));
    complete(file, &header)?;
    Ok(records)
}

/// Copies what can be read into a new file, which then replaces the old one.
fn complete_beside(file: &File, temporary: &Path) -> io::Result<u64> {
    let mut reader = reader_of(file)?;
    let header = reader.header().clone();
    let end = capture_end(file)?;
    let options = WriterOptions {
        version: header.version,
        order: header.order,
        level: if header.has(FLAG_COMPRESS) {
            LEVEL_DEFAULT
        } else {
            0
        },
        capture_start_s: header.capture_start_s.unwrap_or(0),
        hostname: header.hostname.clone(),
        comment: header.comment.clone(),
    };
    // A hidden name: a recovery never lists it. What an interrupted recovery left there is removed;
    // the lock on the file that is recovered is the lock on it too.
    let name = name_of(temporary);
    let beside = temporary.with_file_name(format!(".recovering-{name}"));
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let place = Place {
        path: temporary.to_owned(),
        temporary: beside,
        replace: Replace::Anything,
    };
    let mut writer = FlowFileWriter::create_at(place, &options)?;
    writer.note(FileLosses {
        lost: header.lost.unwrap_or(0),
        corrupt: header.corrupt.unwrap_or(0),
        resets: header.resets.unwrap_or(0),
    });
    for record in reader.by_ref().map_while(Result::ok) {
        if let Err(error) = writer.push(&record) {
            writer.discard();
            return Err(error);
        }
    }
    Ok(writer.finish(end)?.records)
}

/// The length without records of zeros at the end. A power cut leaves such records where the file
/// system has stored the length of the file but not yet its octets.
fn without_zeros(file: &File, start: u64, mut end: u64, record: usize) -> io::Result<u64> {
    let mut octets = [0; RECORD_OCTETS_MAX];
    let octets = &mut octets[..record];
    while end > start {
        file.read_exact_at(octets, end - record as u64)?;
        if octets.iter().any(|octet| *octet != 0) {
            break;
        }
        end -= record as u64;
    }
    Ok(end)
}

/// When the file was last written to, UTC seconds.
fn capture_end(file: &File) -> io::Result<u32> {
    let modified = file.metadata()?.modified()?;
    Ok(modified.duration_since(UNIX_EPOCH).map_or(0, |since| {
        u32::try_from(since.as_secs()).unwrap_or(u32::MAX)
    }))
}

fn name_of(path: &Path) -> Cow<'_, str> {
    path.file_name()
        .expect("an unfinished file has a name")
        .to_string_lossy()
}

/// The final name: `ft-v05.TIME` for `tmp-v05.TIME`, and the name without `tmp-` for others.
fn finished_name(temporary: &Path) -> PathBuf {
    let name = name_of(temporary);
    let rest = name
        .trim_start_matches(crate::input::UNFINISHED_PREFIX)
        .trim_start_matches('-');
    let finished = match rest {
        "" => "recovered".to_owned(),
        rest if rest.starts_with('v') => format!("ft-{rest}"),
        rest => rest.to_owned(),
    };
    temporary.with_file_name(finished)
}
