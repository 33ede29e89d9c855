//! A collector's directory: one file for each interval, with the names and subdirectories of
//! flow-capture; the oldest files are removed.
//!
//! A [`Store`] has at most one file of each version open, under flow-capture's temporary name. When
//! a store is opened, it first completes the files that an earlier one left unfinished. All times
//! are arguments, in UTC seconds.

mod expire;
mod schedule;

pub use crate::recover::Recovered;
pub use expire::Limits;
pub use schedule::{Nesting, Rotations};

use crate::input::Inputs;
use crate::output::{Place, Replace};
use crate::record::{ByteOrder, StoredRecord};
use crate::recover::recover_file;
use crate::writer::{FileLosses, FinishedFile, FlowFileWriter, WriterOptions};
use expire::{Kept, is_unfinished_name};
use jiff::tz::TimeZone;
use schedule::Schedule;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use xdprobe_netflow::Version;

/// Seconds until stored records are on the disk.
const SYNC_S: i64 = 1;
/// Seconds after an error, such as a full disk, until another file is tried.
const RETRY_S: i64 = 1;

/// Where and how files are stored.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// The directory, which must exist.
    pub directory: PathBuf,
    /// Subdirectories of the files.
    pub nesting: Nesting,
    /// How often a file is finished and another begun.
    pub rotations: Rotations,
    /// Which finished files are kept.
    pub limits: Limits,
    /// Version of all records; `None` = each in the version that it came in.
    pub version: Option<Version>,
    /// Byte order of the files.
    pub order: ByteOrder,
    /// zlib level, 0 to 9.
    pub level: u32,
    /// This host's name, for the files' headers.
    pub hostname: Option<String>,
    /// The operator's comment, for the files' headers.
    pub comment: Option<String>,
    /// Program to run with the name of each finished file, relative to the directory.
    pub after_rotation: Option<PathBuf>,
    /// Time zone of the files' names and of midnight.
    pub zone: TimeZone,
}

/// A collector's directory.
#[derive(Debug)]
pub struct Store {
    options: StoreOptions,
    schedule: Schedule,
    kept: Kept,
    /// Files that are being written, one for each version.
    open: Vec<Current>,
    /// The version that always has a file, with or without records: that of the options, else of
    /// the first datagram. Files of other versions begin with a record.
    version: Option<Version>,
    /// Versions that came beside this one.
    others: Vec<Version>,
    /// Losses for the header of the next file, while no file is open.
    losses: FileLosses,
    stored: u64,
    failed: u64,
    files: u64,
    retry_at: i64,
    children: Vec<Child>,
}

/// A file that is being written.
#[derive(Debug)]
struct Current {
    version: Version,
    writer: FlowFileWriter,
    rotate_at: i64,
    synced_at: i64,
    synced_records: u64,
    /// Records of this file in the count of stored records.
    records: u64,
}

impl Store {
    /// Opens the directory: completes unfinished files, removes files beyond the limits, and begins
    /// a file if the version is known. Returns the store and the files that were completed.
    ///
    /// # Errors
    ///
    /// If the directory cannot be read or the file cannot be begun. A file that cannot be recovered
    /// is logged and left unchanged.
    pub fn open(options: StoreOptions, now: i64) -> io::Result<(Self, Vec<Recovered>)> {
        let recovered = recover(&options.directory)?;
        let kept = Kept::load(&options.directory, options.limits)?;
        let schedule = Schedule::new(options.zone.clone(), options.rotations, options.nesting);
        let version = options.version;
        let mut store = Self {
            options,
            schedule,
            kept,
            open: Vec::new(),
            version,
            others: Vec::new(),
            losses: FileLosses::default(),
            stored: 0,
            failed: 0,
            files: 0,
            retry_at: i64::MIN,
            children: Vec::new(),
        };
        store.kept.expire(0);
        if let Some(version) = version {
            store.begin(version, now)?;
        }
        Ok((store, recovered))
    }

    /// Stores records that arrived in datagrams of `version`.
    ///
    /// # Errors
    ///
    /// Those of the file system. The records are counted as failed, and a new file is tried after a
    /// second.
    pub fn push(&mut self, version: Version, records: &[StoredRecord], now: i64) -> io::Result<()> {
        let version = self.options.version.unwrap_or(version);
        self.note_version(version);
        self.tick(now)
            .and_then(|()| self.begin_if_needed(version, now))
            .inspect_err(|_| self.failed += records.len() as u64)?;
        let Some(index) = self.position(version) else {
            self.failed += records.len() as u64;
            return Ok(());
        };
        let current = &mut self.open[index];
        match records
            .iter()
            .try_for_each(|record| current.writer.push(record))
        {
            Ok(()) => {
                current.records += records.len() as u64;
                self.stored += records.len() as u64;
                Ok(())
            }
            Err(error) => {
                self.failed += records.len() as u64;
                Err(self.abandon(index, error, now))
            }
        }
    }

    /// Adds to the counts of losses in the header of the file of `version`, of another open file
    /// where the version is not known or has no file, or of the next file.
    pub fn note(&mut self, version: Option<Version>, losses: FileLosses) {
        let of_version = version.and_then(|version| self.position(version));
        match self.open.get_mut(of_version.unwrap_or(0)) {
            Some(current) => current.writer.note(losses),
            None => self.losses.add(losses),
        }
    }

    /// Does what is due at `now`: another file, a sync, an expiry. Call it about once a second.
    ///
    /// # Errors
    ///
    /// Those of the file system.
    pub fn tick(&mut self, now: i64) -> io::Result<()> {
        self.children
            .retain_mut(|child| matches!(child.try_wait(), Ok(None)));
        self.finish_where(now, |current| now >= current.rotate_at)?;
        if let Some(version) = self.version {
            self.begin_if_needed(version, now)?;
        }
        self.sync_if_due(now)
    }

    /// Finishes the current files before their time.
    ///
    /// # Errors
    ///
    /// Those of the file system.
    pub fn rotate(&mut self, now: i64) -> io::Result<()> {
        self.finish_where(now, |_| true)
    }

    /// Finishes the last files.
    ///
    /// # Errors
    ///
    /// Those of the file system.
    pub fn close(&mut self, now: i64) -> io::Result<()> {
        self.rotate(now)
    }

    /// Records stored.
    #[must_use]
    pub fn stored(&self) -> u64 {
        self.stored
    }

    /// Records that could not be stored.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failed
    }

    /// Files finished.
    #[must_use]
    pub fn files(&self) -> u64 {
        self.files
    }

    fn position(&self, version: Version) -> Option<usize> {
        self.open
            .iter()
            .position(|current| current.version == version)
    }

    /// Remembers the first version, and reports each other one once.
    fn note_version(&mut self, version: Version) {
        let first = *self.version.get_or_insert(version);
        if version != first && !self.others.contains(&version) {
            self.others.push(version);
            tracing::warn!(
                "records of version {} arrive beside those of version {}: they are stored in files \
                 of their own, ft-v{:02}.*",
                version.number(),
                first.number(),
                version.number()
            );
        }
    }

    /// Finishes the files that `is_due` selects. One that cannot be finished does not keep the
    /// others.
    fn finish_where(&mut self, now: i64, is_due: impl Fn(&Current) -> bool) -> io::Result<()> {
        let mut finished = Ok(());
        while let Some(index) = self.open.iter().position(&is_due) {
            let current = self.open.remove(index);
            finished = finished.and(self.finish(current, now));
        }
        finished
    }

    fn finish(&mut self, current: Current, now: i64) -> io::Result<()> {
        let octets = current.writer.octets();
        let temporary = current.writer.temporary().to_owned();
        let Current {
            writer,
            synced_records,
            records,
            ..
        } = current;
        let path = match writer.finish(header_time(now)) {
            Ok(FinishedFile { path, .. }) => path,
            Err(error) => {
                self.count_lost(&temporary, records, synced_records, now);
                return Err(error);
            }
        };
        self.files += 1;
        let octets = fs::metadata(&path).map_or(octets, |metadata| metadata.len());
        self.kept.add(path.clone(), octets);
        self.kept.expire(0);
        self.run_after_rotation(&path);
        Ok(())
    }

    /// Begins a file of `version` if there is none, unless an error was less than a second ago.
    fn begin_if_needed(&mut self, version: Version, now: i64) -> io::Result<()> {
        if self.position(version).is_some() || now < self.retry_at {
            return Ok(());
        }
        self.begin(version, now)
    }

    fn begin(&mut self, version: Version, now: i64) -> io::Result<()> {
        let begun = self.begin_file(version, now);
        if begun.is_err() {
            self.retry_at = now + RETRY_S;
        }
        begun
    }

    fn begin_file(&mut self, version: Version, now: i64) -> io::Result<()> {
        let names = self.schedule.names(&self.options.directory, version, now);
        if let Some(parent) = names.temporary.parent() {
            create_folders(&self.options.directory, parent)?;
        }
        let options = WriterOptions {
            version,
            order: self.options.order,
            level: self.options.level,
            capture_start_s: header_time(now),
            hostname: self.options.hostname.clone(),
            comment: self.options.comment.clone(),
        };
        let place = Place {
            path: names.finished,
            temporary: names.temporary,
            replace: Replace::Nothing,
        };
        let mut writer = FlowFileWriter::create_at(place, &options)?;
        writer.note(std::mem::take(&mut self.losses));
        let rotate_at = self.schedule.next_rotation(now);
        self.open.push(Current {
            version,
            writer,
            rotate_at,
            synced_at: now,
            synced_records: 0,
            records: 0,
        });
        Ok(())
    }

    fn sync_if_due(&mut self, now: i64) -> io::Result<()> {
        let mut synced = false;
        for index in 0..self.open.len() {
            let current = &mut self.open[index];
            // A clock that was set back must not delay the sync.
            let due = now >= current.synced_at + SYNC_S || now < current.synced_at;
            if !due || current.writer.records() == current.synced_records {
                continue;
            }
            current.synced_at = now;
            if let Err(error) = current.writer.sync() {
                return Err(self.abandon(index, error, now));
            }
            current.synced_records = current.writer.records();
            synced = true;
        }
        if synced {
            let octets = self.open.iter().map(|current| current.writer.octets());
            self.kept.expire(octets.sum());
        }
        Ok(())
    }

    /// Abandons an open file after `error`, recovers what is in it, and returns the error.
    fn abandon(&mut self, index: usize, error: io::Error, now: i64) -> io::Error {
        let Current {
            writer,
            synced_records,
            records,
            ..
        } = self.open.remove(index);
        self.count_lost(&writer.abandon(), records, synced_records, now);
        error
    }

    /// Recovers a file of `records` that could not be finished, and counts the records that are not
    /// found in it as failed.
    fn count_lost(&mut self, temporary: &Path, records: u64, synced: u64, now: i64) {
        self.retry_at = now + RETRY_S;
        let found = match recover_file(temporary) {
            Ok(None) => 0,
            Ok(Some(file)) => {
                tracing::warn!("{file}");
                let octets = fs::metadata(&file.path).map_or(0, |metadata| metadata.len());
                self.kept.add(file.path, octets);
                self.files += 1;
                file.records
            }
            // It was removed, and what was in it with it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => {
                tracing::warn!(
                    "cannot recover {} before the next start: {error}",
                    temporary.display()
                );
                synced
            }
        };
        // The batch that failed is counted as failed, but a part of it may be in the file.
        let (missing, more) = (records.saturating_sub(found), found.saturating_sub(records));
        self.stored = self.stored - missing + more;
        self.failed = (self.failed + missing).saturating_sub(more);
    }

    fn run_after_rotation(&mut self, path: &Path) {
        let Some(program) = &self.options.after_rotation else {
            return;
        };
        let relative = path.strip_prefix(&self.options.directory).unwrap_or(path);
        match Command::new(program)
            .arg(relative)
            .current_dir(&self.options.directory)
            .spawn()
        {
            Ok(child) => self.children.push(child),
            Err(error) => {
                tracing::warn!("cannot run {} after a rotation: {error}", program.display());
            }
        }
    }
}

impl Drop for Store {
    /// A start that failed leaves no file behind: one in which nothing was stored is removed.
    fn drop(&mut self) {
        for current in self.open.drain(..) {
            if current.records == 0 {
                current.writer.discard();
            }
        }
    }
}

/// Completes every unfinished file in and below `directory` that no process is writing.
fn recover(directory: &Path) -> io::Result<Vec<Recovered>> {
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

/// Creates the directories down to `folder`, and follows no symbolic link below `directory`.
fn create_folders(directory: &Path, folder: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let below = folder.strip_prefix(directory).unwrap_or(Path::new(""));
    let mut at = directory.to_owned();
    for part in below.components() {
        at.push(part);
        match fs::create_dir(&at) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            created => created?,
        }
        let there = fs::symlink_metadata(&at)?;
        if !there.is_dir() {
            let what = if there.is_symlink() {
                "a symbolic link"
            } else {
                "a file"
            };
            let text = format!(
                "{} is {what}, expected a directory: files are stored in {} only",
                at.display(),
                directory.display()
            );
            return Err(io::Error::new(io::ErrorKind::NotADirectory, text));
        }
    }
    Ok(())
}

/// A time in a header, limited to its 32 bits.
fn header_time(unix_s: i64) -> u32 {
    u32::try_from(unix_s).unwrap_or(if unix_s < 0 { 0 } else { u32::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reader::FlowFileReader;
    use std::os::unix::fs::symlink;

    /// 2026-11-22 12:54:48 UTC.
    const NOW: i64 = 1_795_352_088;

    fn options(directory: &Path) -> StoreOptions {
        StoreOptions {
            directory: directory.to_owned(),
            nesting: Nesting::try_from(0).unwrap(),
            rotations: Rotations::default(),
            limits: Limits::default(),
            version: None,
            order: ByteOrder::NATIVE,
            level: 0,
            hostname: None,
            comment: None,
            after_rotation: None,
            zone: TimeZone::UTC,
        }
    }

    fn records(count: u32) -> Vec<StoredRecord> {
        (0..count)
            .map(|number| StoredRecord {
                packets: number + 1,
                ..StoredRecord::default()
            })
            .collect()
    }

    fn names(directory: &Path) -> Vec<String> {
        let files = Inputs::find(&[directory.to_owned()], true).unwrap();
        let below = |path: PathBuf| {
            let below = path.strip_prefix(directory).unwrap();
            below.to_str().unwrap().to_owned()
        };
        files.into_paths().map(below).collect()
    }

    fn count(path: &Path) -> usize {
        FlowFileReader::open(path)
            .unwrap()
            .map(Result::unwrap)
            .count()
    }

    #[test]
    fn files_have_the_names_of_flow_capture() {
        let directory = tempfile::tempdir().unwrap();
        let (mut store, recovered) = Store::open(options(directory.path()), NOW).unwrap();
        assert!(recovered.is_empty() && names(directory.path()).is_empty());
        store.push(Version::V5, &records(10), NOW).unwrap();
        assert_eq!(names(directory.path()), ["tmp-v05.2026-11-22.125448+0000"]);
        // 13:00:00 is the end of the quarter of an hour.
        store.tick(NOW + 311).unwrap();
        assert_eq!(names(directory.path()), ["tmp-v05.2026-11-22.125448+0000"]);
        store.tick(NOW + 312).unwrap();
        assert_eq!(
            names(directory.path()),
            [
                "ft-v05.2026-11-22.125448+0000",
                "tmp-v05.2026-11-22.130000+0000"
            ]
        );
        store.close(NOW + 313).unwrap();
        assert_eq!(
            names(directory.path()),
            [
                "ft-v05.2026-11-22.125448+0000",
                "ft-v05.2026-11-22.130000+0000"
            ]
        );
        assert_eq!(
            count(&directory.path().join("ft-v05.2026-11-22.125448+0000")),
            10
        );
        assert_eq!((store.stored(), store.failed(), store.files()), (10, 0, 2));
    }

    #[test]
    fn a_known_version_begins_a_file_at_the_start() {
        let directory = tempfile::tempdir().unwrap();
        let options = StoreOptions {
            version: Some(Version::V7),
            ..options(directory.path())
        };
        let (mut store, _) = Store::open(options, NOW).unwrap();
        assert_eq!(names(directory.path()), ["tmp-v07.2026-11-22.125448+0000"]);
        store.push(Version::V5, &records(1), NOW).unwrap();
        store.close(NOW).unwrap();
        let reader =
            FlowFileReader::open(directory.path().join("ft-v07.2026-11-22.125448+0000")).unwrap();
        assert_eq!(reader.header().version, Version::V7);
    }

    #[test]
    fn each_version_has_files_of_its_own_whichever_came_first() {
        let directory = tempfile::tempdir().unwrap();
        let (mut store, _) = Store::open(options(directory.path()), NOW).unwrap();
        let with_as = StoredRecord {
            source_as: 64_500,
            ..StoredRecord::default()
        };
        let lost = FileLosses {
            lost: 3,
            ..FileLosses::default()
        };
        store.push(Version::V1, &records(2), NOW).unwrap();
        store.push(Version::V5, &[with_as; 5], NOW).unwrap();
        store.note(Some(Version::V5), lost);
        store.push(Version::V1, &records(1), NOW + 1).unwrap();
        store.push(Version::V5, &[with_as; 5], NOW + 1).unwrap();
        assert_eq!(
            names(directory.path()),
            [
                "tmp-v01.2026-11-22.125448+0000",
                "tmp-v05.2026-11-22.125448+0000"
            ]
        );
        // After the rotation only the first version has a file without records.
        store.tick(NOW + 312).unwrap();
        store.close(NOW + 313).unwrap();
        assert_eq!(
            names(directory.path()),
            [
                "ft-v01.2026-11-22.125448+0000",
                "ft-v01.2026-11-22.130000+0000",
                "ft-v05.2026-11-22.125448+0000"
            ]
        );
        let open = |name: &str| FlowFileReader::open(directory.path().join(name)).unwrap();
        assert_eq!(open("ft-v01.2026-11-22.125448+0000").count(), 3);
        let five = open("ft-v05.2026-11-22.125448+0000");
        assert_eq!(
            (five.header().lost, five.header().version),
            (Some(3), Version::V5)
        );
        assert_eq!(five.map(Result::unwrap).collect::<Vec<_>>(), [with_as; 10]);
        assert_eq!((store.stored(), store.failed(), store.files()), (13, 0, 3));
    }

    #[test]
    fn rotation_by_hand_within_one_second_keeps_both_files() {
        let directory = tempfile::tempdir().unwrap();
        let (mut store, _) = Store::open(options(directory.path()), NOW).unwrap();
        for _ in 0..3 {
            store.push(Version::V5, &records(1), NOW).unwrap();
            store.rotate(NOW).unwrap();
        }
        assert_eq!(names(directory.path()).len(), 3);
    }

    #[test]
    fn the_oldest_files_are_removed() {
        let directory = tempfile::tempdir().unwrap();
        let limits = Limits {
            files: Some(2),
            octets: None,
        };
        let (mut store, _) = Store::open(
            StoreOptions {
                limits,
                ..options(directory.path())
            },
            NOW,
        )
        .unwrap();
        for minute in 0..4 {
            store
                .push(Version::V5, &records(1), NOW + minute * 60)
                .unwrap();
            store.rotate(NOW + minute * 60).unwrap();
        }
        assert_eq!(
            names(directory.path()),
            [
                "ft-v05.2026-11-22.125648+0000",
                "ft-v05.2026-11-22.125748+0000"
            ]
        );
        // Another store with stricter limits finds both. A file of one record takes 72 + 64 octets.
        let limits = Limits {
            files: None,
            octets: Some(150),
        };
        Store::open(
            StoreOptions {
                limits,
                ..options(directory.path())
            },
            NOW,
        )
        .unwrap();
        assert_eq!(names(directory.path()), ["ft-v05.2026-11-22.125748+0000"]);
    }

    #[test]
    fn the_current_file_counts_towards_the_size() {
        let directory = tempfile::tempdir().unwrap();
        let limits = Limits {
            files: None,
            octets: Some(100_000),
        };
        let (mut store, _) = Store::open(
            StoreOptions {
                limits,
                ..options(directory.path())
            },
            NOW,
        )
        .unwrap();
        store.push(Version::V5, &records(1000), NOW).unwrap();
        store.rotate(NOW).unwrap();
        assert_eq!(names(directory.path()).len(), 1);
        store.push(Version::V5, &records(1000), NOW + 1).unwrap();
        store.tick(NOW + 2).unwrap();
        assert_eq!(names(directory.path()), ["tmp-v05.2026-11-22.125449+0000"]);
    }

    #[test]
    fn a_store_that_was_killed_is_completed_by_the_next() {
        let directory = tempfile::tempdir().unwrap();
        for level in [0, 6] {
            let options = StoreOptions {
                level,
                ..options(directory.path())
            };
            let (mut store, _) = Store::open(options.clone(), NOW).unwrap();
            store.push(Version::V5, &records(2000), NOW).unwrap();
            store.tick(NOW + 1).unwrap();
            store.push(Version::V5, &records(5), NOW + 1).unwrap();
            // As if killed: nothing is flushed, and the lock ends with the process.
            let left = store.open.remove(0).writer;
            let copy = fs::read(left.temporary()).unwrap();
            let temporary = left.temporary().to_owned();
            drop(left);
            fs::write(&temporary, [&copy[..], &[0; 64 * 3 + 33]].concat()).unwrap();

            let (_, recovered) = Store::open(options, NOW + 5).unwrap();
            assert_eq!(recovered.len(), 1);
            assert_eq!(recovered[0].records, 2000);
            let reader = FlowFileReader::open(&recovered[0].path).unwrap();
            assert_eq!(reader.header().flows_promised(), Some(2000));
            assert_eq!(reader.map(Result::unwrap).count(), 2000);
            assert!(
                names(directory.path())
                    .iter()
                    .all(|name| name.starts_with("ft-v05."))
            );
        }
    }

    #[test]
    fn a_file_that_another_process_writes_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let (mut store, _) = Store::open(options(directory.path()), NOW).unwrap();
        store.push(Version::V5, &records(1), NOW).unwrap();
        let (_, recovered) = Store::open(options(directory.path()), NOW).unwrap();
        assert!(recovered.is_empty());
        store.close(NOW).unwrap();
        assert_eq!(names(directory.path()), ["ft-v05.2026-11-22.125448+0000"]);
    }

    #[test]
    fn a_directory_that_is_gone_costs_records_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let gone = directory.path().join("gone");
        fs::create_dir(&gone).unwrap();
        let options = StoreOptions {
            nesting: Nesting::try_from(0).unwrap(),
            ..options(&gone)
        };
        let (mut store, _) = Store::open(options, NOW).unwrap();
        fs::remove_dir(&gone).unwrap();
        fs::write(&gone, "a file in place of the directory").unwrap();
        assert!(store.push(Version::V5, &records(7), NOW).is_err());
        // Within the second another file is not tried, and this is not an error again.
        assert!(store.push(Version::V5, &records(7), NOW).is_ok());
        fs::remove_file(&gone).unwrap();
        store.push(Version::V5, &records(3), NOW + 1).unwrap();
        store.close(NOW + 1).unwrap();
        assert_eq!((store.stored(), store.failed()), (3, 14));
    }

    /// A directory with a flow file of 10 records and, beside it, one outside of it.
    fn inside_and_outside() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let (inside, outside) = (root.path().join("inside"), root.path().join("outside"));
        for directory in [&inside, &outside] {
            fs::create_dir(directory).unwrap();
            let (mut store, _) = Store::open(options(directory), NOW).unwrap();
            store.push(Version::V5, &records(10), NOW).unwrap();
            store.close(NOW).unwrap();
        }
        (root, inside, outside)
    }

    #[test]
    fn a_link_to_an_unfinished_file_is_neither_cut_nor_completed() {
        let (_root, inside, outside) = inside_and_outside();
        let victim = outside.join("tmp-v05.victim");
        let whole = fs::read(outside.join("ft-v05.2026-11-22.125448+0000")).unwrap();
        fs::write(&victim, &whole[..whole.len() - 5]).unwrap();
        let before = fs::read(&victim).unwrap();
        symlink(&victim, inside.join("tmp-v05.2026-11-22.000000+0000")).unwrap();
        symlink("nowhere", inside.join("tmp-v05.2026-11-22.125449+0000")).unwrap();
        fs::hard_link(&victim, inside.join("tmp-hard")).unwrap();
        let (mut store, recovered) = Store::open(options(&inside), NOW + 1).unwrap();
        assert!(recovered.is_empty(), "{recovered:?}");
        assert_eq!(fs::read(&victim).unwrap(), before);
        // A link that leads nowhere does not stop the collector either.
        store.push(Version::V5, &records(1), NOW + 1).unwrap();
        store.close(NOW + 1).unwrap();
        assert!(inside.join("ft-v05.2026-11-22.125450+0000").exists());
        assert!(!inside.join("nowhere").exists());
    }

    #[test]
    fn expiry_removes_nothing_behind_a_link() {
        let (_root, inside, outside) = inside_and_outside();
        symlink(&outside, inside.join("2026")).unwrap();
        symlink(&inside, inside.join("back")).unwrap();
        let other = outside.join("ft-v05.2026-11-22.125448+0000");
        symlink(&other, inside.join("ft-v05.2026-01-01.000000+0000")).unwrap();
        let limits = Limits {
            files: Some(1),
            octets: None,
        };
        let options = StoreOptions {
            limits,
            ..options(&inside)
        };
        let (mut store, _) = Store::open(options, NOW).unwrap();
        assert!(inside.join("ft-v05.2026-11-22.125448+0000").exists());
        store.push(Version::V5, &records(1), NOW + 60).unwrap();
        store.close(NOW + 60).unwrap();
        assert!(!inside.join("ft-v05.2026-11-22.125448+0000").exists());
        assert!(inside.join("ft-v05.2026-11-22.125548+0000").exists());
        assert!(other.exists());
    }

    #[test]
    fn files_are_not_stored_behind_a_linked_directory() {
        let (_root, inside, outside) = inside_and_outside();
        symlink(&outside, inside.join("2026")).unwrap();
        let options = StoreOptions {
            nesting: Nesting::try_from(1).unwrap(),
            ..options(&inside)
        };
        let (mut store, _) = Store::open(options, NOW).unwrap();
        let error = store.push(Version::V5, &records(1), NOW).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("2026 is a symbolic link, expected a directory"),
            "{error}"
        );
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_says_it_is_done_but_is_cut_is_completed() {
        for level in [0, 6] {
            let directory = tempfile::tempdir().unwrap();
            let options = StoreOptions {
                level,
                ..options(directory.path())
            };
            let (mut store, _) = Store::open(options.clone(), NOW).unwrap();
            store.push(Version::V5, &records(3000), NOW).unwrap();
            store.close(NOW).unwrap();
            let finished = directory.path().join("ft-v05.2026-11-22.125448+0000");
            let octets = fs::read(&finished).unwrap();
            fs::remove_file(&finished).unwrap();
            let cut = directory.path().join("tmp-v05.done-but-cut");
            fs::write(&cut, &octets[..octets.len() * 2 / 3 + 7]).unwrap();
            let (_, recovered) = Store::open(options, NOW).unwrap();
            assert_eq!(recovered.len(), 1);
            assert!((500..2100).contains(&recovered[0].records), "{recovered:?}");
            let reader = FlowFileReader::open(&recovered[0].path).unwrap();
            let promised = u64::from(reader.header().flows_promised().unwrap());
            assert_eq!(promised, recovered[0].records);
            assert_eq!(reader.map(Result::unwrap).count() as u64, promised);
        }
    }

    #[test]
    fn a_directory_that_is_removed_with_its_file_is_an_error_at_the_next_sync() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("flows");
        fs::create_dir(&directory).unwrap();
        let (mut store, _) = Store::open(options(&directory), NOW).unwrap();
        store.push(Version::V5, &records(7), NOW).unwrap();
        fs::remove_dir_all(&directory).unwrap();
        let error = store.tick(NOW + 1).unwrap_err();
        assert!(error.to_string().contains("has been removed"), "{error}");
        assert_eq!((store.stored(), store.failed()), (0, 7));
        store.push(Version::V5, &records(3), NOW + 2).unwrap();
        store.close(NOW + 2).unwrap();
        assert_eq!((store.stored(), store.failed()), (3, 7));
    }

    #[test]
    fn a_store_in_which_nothing_was_stored_leaves_no_file() {
        let directory = tempfile::tempdir().unwrap();
        let options = StoreOptions {
            version: Some(Version::V5),
            ..options(directory.path())
        };
        let (store, _) = Store::open(options, NOW).unwrap();
        assert_eq!(names(directory.path()).len(), 1);
        drop(store);
        assert!(names(directory.path()).is_empty());
    }
}
