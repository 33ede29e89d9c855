//! Which finished files are kept: the newest, up to a number of files and of octets.

use crate::header::MAGIC;
use crate::input::{Input, UNFINISHED_PREFIX};
use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

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
    limits: Limits,
    files: VecDeque<(PathBuf, u64)>,
    octets: u64,
}

impl Kept {
    /// The flow files in and below `directory`, by flow-capture's rule: files with a name that
    /// begins with `ft` or `cf`, and with the magic number.
    pub(super) fn load(directory: &Path, limits: Limits) -> io::Result<Self> {
        let mut kept = Self {
            limits,
            files: VecDeque::new(),
            octets: 0,
        };
        if limits == Limits::default() {
            return Ok(kept);
        }
        let mut files: Vec<PathBuf> = paths(directory, false)?
            .into_iter()
            .filter(|path| is_flow_file_name(path) && has_magic(path))
            .collect();
        // The name contains the time, so that the order of names is the order of ages, in all
        // directories.
        files.sort_by(|a, b| stamp(a).cmp(stamp(b)));
        for path in files {
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

/// Files in and below `directory`.
pub(super) fn paths(directory: &Path, unfinished: bool) -> io::Result<Vec<PathBuf>> {
    let inputs = Input::list(&[directory.to_owned()], unfinished)?;
    Ok(inputs
        .into_iter()
        .filter_map(|input| {
            if let Input::File(path) = input {
                Some(path)
            } else {
                None
            }
        })
        .collect())
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

fn has_magic(path: &Path) -> bool {
    let mut octets = [0; MAGIC.len()];
    File::open(path)
        .and_then(|mut file| file.read_exact(&mut octets))
        .is_ok()
        && octets == MAGIC
}

/// The time in a name: `2026-11-22.125448+0000` in `ft-v05.2026-11-22.125448+0000`.
fn stamp(path: &Path) -> &str {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    name.split_once('.').map_or(name, |(_, stamp)| stamp)
}
