//! Interfaces in sysfs.

use std::fs;
use std::path::{Path, PathBuf};

/// The folder of the interface with this name.
pub fn sysfs(name: &str) -> PathBuf {
    Path::new("/sys/class/net").join(name)
}

/// The names in a folder; none if it cannot be read.
pub fn entries(folder: &Path) -> impl Iterator<Item = String> + use<> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned())
}

/// The number in a file, if there is one.
pub fn read_number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}
