//! Which finished files are kept: the newest, up to a number of files and of octets.

use crate::input::{Inputs, UNFINISHED_PREFIX};
use crate::output::is_free_of_links;
use crate::reader::FlowFileReader;
use jiff::fmt::strtime::BrokenDownTime;
use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// Limits of what is kept; `None` = no limit.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Limits {
    /// The most finished files.
    pub files: Option<usize>,
    /// The most octets of finished files and the current one.
    pub octets: Option<u64>,
}

/// Finished files, the oldest first. Without limits the list stays empty.
#[derive(Debug)]
pub(super) struct Kept {
    directory: PathBuf,
    limits: Limits,
    files: VecDeque<(PathBuf, u64)>,
    octets: u64,
}

impl Kept {
    /// The flow files in and below `directory`, by flow-capture's rule: files with a name that
    /// begins with `ft` or `cf`, and with the magic number.
    pub(super) fn load(directory: &Path, limits: Limits) -> io::Result<Self> {
        let mut kept = Self {
            directory: directory.to_owned(),
            limits,
            files: VecDeque::new(),
            octets: 0,
        };
        if limits == Limits::default() {
            return Ok(kept);
        }
        let files = Inputs::find(&[directory.to_owned()], false)?.into_paths();
        let mut files: Vec<(i64, PathBuf)> = files
            .filter(|path| is_flow_file_name(path))
            .filter_map(|path| Some((began_s(&path)?, path)))
            .collect();
        files.sort();
        for (_, path) in files {
            let octets = fs::metadata(&path).map_or(0, |metadata| metadata.len());
            kept.add(path, octets);
        }
        Ok(kept)
    }

    /// Adds a file that was just finished.
    pub(super) fn add(&mut self, path: PathBuf, octets: u64) {
        if self.limits != Limits::default() {
            self.octets += octets;
            self.files.push_back((path, octets));
        }
    }

    /// Removes the oldest files until the rest, and the `current` octets of the current file, are
    /// within the limits.
    pub(super) fn expire(&mut self, current: u64) {
        while self.is_above(current) {
            let Some((path, octets)) = self.files.pop_front() else {
                return;
            };
            self.octets -= octets;
            if !is_free_of_links(&self.directory, &path) {
                // A directory on the way has become a link since the file was listed.
                tracing::warn!(
                    "{} is not removed: it is gone, or behind a link",
                    path.display()
                );
                continue;
            }
            match fs::remove_file(&path) {
                Ok(()) => tracing::info!("removed {}", path.display()),
                Err(error) => tracing::warn!("cannot remove {}: {error}", path.display()),
            }
        }
    }

    fn is_above(&self, current: u64) -> bool {
        self.limits
            .files
            .is_some_and(|files| self.files.len() > files)
            || self
                .limits
                .octets
                .is_some_and(|octets| self.octets + current > octets)
    }
}

fn is_flow_file_name(path: &Path) -> bool {
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy())
        .unwrap_or_default();
    ["ft", "cf"].iter().any(|prefix| name.starts_with(prefix))
}

/// Whether the name is one of an unfinished file.
pub(super) fn is_unfinished_name(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with(UNFINISHED_PREFIX))
}

/// When a flow file was begun, UTC seconds: the time in its name, else the one in its header, else
/// the time of its last change. `None` if it is not a flow file.
fn began_s(path: &Path) -> Option<i64> {
    let header = FlowFileReader::open(path).ok()?.header().clone();
    let changed_s = || {
        let changed = fs::metadata(path).ok()?.modified().ok()?;
        i64::try_from(changed.duration_since(UNIX_EPOCH).ok()?.as_secs()).ok()
    };
    named_s(path)
        .or_else(|| header.capture_start_s.map(i64::from))
        .or_else(changed_s)
        .or(Some(0))
}

/// The time in a name, `2026-11-22.125448+0000` in `ft-v05.2026-11-22.125448+0000`, in UTC seconds.
///
/// The offset from UTC counts: in the hour that the end of summer time repeats, and after another
/// choice of time zone, the order of names is not the order of ages.
fn named_s(path: &Path) -> Option<i64> {
    let (_, stamp) = path.file_name()?.to_str()?.split_once('.')?;
    // A recovered file can have a number behind the time.
    let (time, _) = BrokenDownTime::parse_prefix("%Y-%m-%d.%H%M%S%z", stamp).ok()?;
    Some(time.to_timestamp().ok()?.as_second())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::writer::{FlowFileWriter, WriterOptions};

    /// 2026-10-25 00:30:00 UTC. At 01:00:00 UTC summer time ends in Berlin.
    const BEFORE: i64 = 1_792_888_200;

    fn write(path: &Path) {
        let writer = FlowFileWriter::create(path, &WriterOptions::plain_v5(7)).unwrap();
        writer.finish(8).unwrap();
    }

    fn kept_of(directory: &Path, files: usize) -> Vec<String> {
        let limits = Limits {
            files: Some(files),
            octets: None,
        };
        Kept::load(directory, limits).unwrap().expire(0);
        let left = Inputs::find(&[directory.to_owned()], false).unwrap();
        let name = |path: PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
        left.into_paths().map(name).collect()
    }

    #[test]
    fn names_mean_a_time_in_utc() {
        let named = |name: &str| named_s(Path::new(name));
        assert_eq!(named("a/ft-v05.2026-10-25.023000+0200"), Some(BEFORE));
        assert_eq!(named("ft-v05.2026-10-25.023000+0100"), Some(BEFORE + 3600));
        assert_eq!(named("ft-v08m01.2026-10-24.173000-0700"), Some(BEFORE));
        assert_eq!(named("ft-v05.2026-10-25.023000+0200.1"), Some(BEFORE));
        for none in [
            "ft-v05",
            "cf.yesterday",
            "ft-v05.2026-10-25.023000",
            "ft-v05.2026-13-25.023000+0200",
        ] {
            assert_eq!(named(none), None, "{none}");
        }
    }

    #[test]
    fn the_repeated_hour_of_the_time_change_does_not_cost_the_younger_files() {
        let directory = tempfile::tempdir().unwrap();
        for name in [
            "ft-v05.2026-10-25.020000+0200",
            "ft-v05.2026-10-25.024500+0200",
            "ft-v05.2026-10-25.020000+0100",
            "ft-v05.2026-10-25.021500+0100",
        ] {
            write(&directory.path().join(name));
        }
        assert_eq!(
            kept_of(directory.path(), 2),
            [
                "ft-v05.2026-10-25.020000+0100",
                "ft-v05.2026-10-25.021500+0100"
            ]
        );
    }

    #[test]
    fn a_change_of_the_time_zone_does_not_cost_the_younger_files() {
        let directory = tempfile::tempdir().unwrap();
        // First with TZ=Asia/Tokyo, then with TZ=UTC. The header's time is that of 1970.
        for name in [
            "ft-v05.2026-11-22.220000+0900",
            "ft-v05.2026-11-22.131500+0000",
            "ft-old",
        ] {
            write(&directory.path().join(name));
        }
        assert_eq!(
            kept_of(directory.path(), 1),
            ["ft-v05.2026-11-22.131500+0000"]
        );
    }

    #[test]
    fn expiry_neither_follows_links_nor_counts_a_file_twice() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::create_dir(at("2026")).unwrap();
        for number in 0..6 {
            write(&at(&format!("2026/ft-v05.2026-11-22.1{number}0000+0000")));
        }
        std::os::unix::fs::symlink(directory.path(), at("2026/back")).unwrap();
        std::os::unix::fs::symlink("2026/ft-v05.2026-11-22.100000+0000", at("ft-first")).unwrap();
        assert_eq!(kept_of(directory.path(), 6).len(), 6);
        assert_eq!(kept_of(directory.path(), 100).len(), 6);
    }
}
