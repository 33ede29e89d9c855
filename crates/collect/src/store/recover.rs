//! Completing files that a killed collector, a power cut or a full disk left under their temporary
//! names.
//!
//! Every step is one that can itself be cut: a file is completed in place or beside, and only then
//! renamed.

use super::expire::{is_unfinished_name, paths};
use crate::header::{FLAG_COMPRESS, FLAG_DONE};
use crate::reader::FlowFileReader;
use crate::record::{RECORD_OCTETS_MAX, StoredRecord};
use crate::writer::{
    FileLosses, FlowFileWriter, WriterOptions, complete, lock, modulo_2_32, publish, whole_octets,
};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// A file that was completed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Recovered {
    /// Its name now.
    pub path: PathBuf,
    /// Records that it has.
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

/// Completes every unfinished file in and below `directory` that no process writes.
pub(super) fn recover(directory: &Path) -> io::Result<Vec<Recovered>> {
    let mut recovered = Vec::new();
    for path in paths(directory, true)?
        .into_iter()
        .filter(|path| is_unfinished_name(path))
    {
        match recover_file(&path) {
            Ok(file) => recovered.extend(file),
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {}
            Err(error) => tracing::warn!("{} stays as it is: {error}", path.display()),
        }
    }
    Ok(recovered)
}

/// Completes one file and gives it its name; `None` if there is nothing in it, and then it is
/// removed.
pub(super) fn recover_file(temporary: &Path) -> io::Result<Option<Recovered>> {
    let file = lock(OpenOptions::new().read(true).write(true).open(temporary)?)?;
    if file.metadata()?.len() == 0 {
        fs::remove_file(temporary)?;
        return Ok(None);
    }
    let path = finished_name(temporary);
    let reader = FlowFileReader::open(temporary).map_err(io::Error::other)?;
    let header = reader.header().clone();
    let is_complete = header.has(FLAG_DONE);
    let records = if is_complete {
        // Cut between the header and the name.
        reader.map_while(Result::ok).count() as u64
    } else if header.has(FLAG_COMPRESS) || header.encode().len() as u64 != reader.octets() {
        complete_beside(temporary, reader)?
    } else {
        complete_in_place(&file, reader)?
    };
    if records == 0 && !is_complete {
        fs::remove_file(temporary)?;
        return Ok(None);
    }
    publish(temporary, &path)?;
    Ok(Some(Recovered { path, records }))
}

/// Cuts a plain file back to whole records and completes its header. Needs no room on the disk.
fn complete_in_place(file: &File, reader: FlowFileReader<File>) -> io::Result<u64> {
    let mut header = reader.header().clone();
    let end = capture_end(file);
    let start = reader.octets();
    let record = StoredRecord::encoded_octets(header.version) as u64;
    let whole = without_zeros(
        file,
        start,
        whole_octets(&header, file.metadata()?.len()),
        record,
    )?;
    let records = (whole - start) / record;
    drop(reader);
    file.set_len(whole)?;
    header.flags |= FLAG_DONE;
    header.capture_end_s = header.capture_end_s.map(|_| end);
    header.flows = header.flows.map(|_| modulo_2_32(records));
    complete(file, &header)?;
    Ok(records)
}

/// Copies what can be read into a new file and puts that in the place of the old.
fn complete_beside(temporary: &Path, mut reader: FlowFileReader<File>) -> io::Result<u64> {
    let header = reader.header().clone();
    let end = capture_end(&File::open(temporary)?);
    let options = WriterOptions {
        version: header.version,
        order: header.order,
        level: if header.has(FLAG_COMPRESS) {
            crate::writer::LEVEL_DEFAULT
        } else {
            0
        },
        capture_start_s: header.capture_start_s.unwrap_or(0),
        hostname: header.hostname.clone(),
        comment: header.comment.clone(),
    };
    // A hidden name: no recovery takes it for a file of its own, and the next one overwrites it.
    let name = temporary.file_name().unwrap_or_default().to_string_lossy();
    let beside = temporary.with_file_name(format!(".recovering-{name}"));
    let mut writer = FlowFileWriter::create_as(beside, temporary.to_owned(), &options)?;
    writer.note(FileLosses {
        lost: header.lost.unwrap_or(0),
        corrupt: header.corrupt.unwrap_or(0),
        resets: header.resets.unwrap_or(0),
    });
    for record in reader.by_ref().map_while(Result::ok) {
        writer.push(&record)?;
    }
    writer.finish(end)
}

/// The length without records of nothing but zeros at the end: a power cut leaves those where the
/// file system knew of the octets but did not have them yet.
fn without_zeros(file: &File, start: u64, mut end: u64, record: u64) -> io::Result<u64> {
    let mut octets = [0; RECORD_OCTETS_MAX];
    let octets = &mut octets[..usize::try_from(record).unwrap_or(RECORD_OCTETS_MAX)];
    while end > start {
        file.read_exact_at(octets, end - record)?;
        if octets.iter().any(|octet| *octet != 0) {
            break;
        }
        end -= record;
    }
    Ok(end)
}

/// When the file was last written to.
fn capture_end(file: &File) -> u32 {
    let modified = file
        .metadata()
        .and_then(|metadata| metadata.modified())
        .unwrap_or(UNIX_EPOCH);
    modified.duration_since(UNIX_EPOCH).map_or(0, |since| {
        u32::try_from(since.as_secs()).unwrap_or(u32::MAX)
    })
}

/// `ft-v05.TIME` for `tmp-v05.TIME`, and the name without `tmp-` for others; not one that is taken.
fn finished_name(temporary: &Path) -> PathBuf {
    let name = temporary.file_name().unwrap_or_default().to_string_lossy();
    let rest = name
        .trim_start_matches(crate::input::UNFINISHED_PREFIX)
        .trim_start_matches('-');
    let finished = if rest.starts_with('v') {
        format!("ft-{rest}")
    } else {
        rest.to_owned()
    };
    let path = temporary.with_file_name(&finished);
    let taken = (1..).map(|number| temporary.with_file_name(format!("{finished}.{number}")));
    std::iter::once(path)
        .chain(taken)
        .find(|path| !path.exists())
        .unwrap_or_else(|| temporary.to_owned())
}
