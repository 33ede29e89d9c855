//! Completes files that a killed collector, a power cut or a full disk left under temporary names.
//!
//! A recovery can be interrupted at each step, like the collector itself: a file is completed, in
//! place or as a copy, before it is renamed.

use super::expire::is_unfinished_name;
use crate::header::{FLAG_COMPRESS, FLAG_DONE};
use crate::input::Inputs;
use crate::reader::FlowFileReader;
use crate::record::{RECORD_OCTETS_MAX, StoredRecord};
use crate::writer::{
    FileLosses, FlowFileWriter, WriterOptions, complete, lock, modulo_2_32, publish, whole_octets,
};
use std::borrow::Cow;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
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

/// Completes every unfinished file in and below `directory` that no process is writing.
pub(super) fn recover(directory: &Path) -> io::Result<Vec<Recovered>> {
    let mut recovered = Vec::new();
    let inputs = Inputs::find(&[directory.to_owned()], true)?;
    if inputs.links > 0 {
        tracing::warn!(
            "{} symbolic links below {} are not followed: files behind them are neither recovered \
             nor removed; mount the other place there, or collect into it with -w",
            inputs.links,
            directory.display()
        );
    }
    for path in inputs.into_paths().filter(|path| is_unfinished_name(path)) {
        match recover_file(&path) {
            Ok(file) => recovered.extend(file),
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {}
            Err(error) => tracing::warn!("cannot recover {}: {error}", path.display()),
        }
    }
    Ok(recovered)
}

/// Completes one file and gives it its final name. A file without records is removed: `None`.
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
        // Interrupted after the header was completed and before the file was renamed.
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

/// Cuts a plain file after its last whole record and completes its header. Needs no room on the
/// disk.
fn complete_in_place(file: &File, reader: FlowFileReader<File>) -> io::Result<u64> {
    let mut header = reader.header().clone();
    let end = capture_end(file)?;
    let start = reader.octets();
    let record = StoredRecord::encoded_octets(header.version);
    let whole = without_zeros(
        file,
        start,
        whole_octets(&header, file.metadata()?.len()),
        record,
    )?;
    let records = (whole - start) / record as u64;
    drop(reader);
    file.set_len(whole)?;
    header.flags |= FLAG_DONE;
    header.capture_end_s = header.capture_end_s.map(|_| end);
    header.flows = header.flows.map(|_| modulo_2_32(records));
    complete(file, &header)?;
    Ok(records)
}

/// Copies what can be read into a new file, which then replaces the old one.
fn complete_beside(temporary: &Path, mut reader: FlowFileReader<File>) -> io::Result<u64> {
    let header = reader.header().clone();
    let end = capture_end(&File::open(temporary)?)?;
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
    // A hidden name: a recovery never lists it, and the next one overwrites it.
    let name = name_of(temporary);
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

/// The final name: `ft-v05.TIME` for `tmp-v05.TIME`, and the name without `tmp-` for others, with a
/// number behind it if that name exists.
fn finished_name(temporary: &Path) -> PathBuf {
    let name = name_of(temporary);
    let rest = name
        .trim_start_matches(crate::input::UNFINISHED_PREFIX)
        .trim_start_matches('-');
    let finished = if rest.starts_with('v') {
        format!("ft-{rest}")
    } else {
        rest.to_owned()
    };
    let path = temporary.with_file_name(&finished);
    let numbered = (1..).map(|number| temporary.with_file_name(format!("{finished}.{number}")));
    std::iter::once(path)
        .chain(numbered)
        .find(|path| !path.exists())
        .expect("there are more numbers than files")
}
