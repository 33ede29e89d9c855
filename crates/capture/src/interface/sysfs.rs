//! Interfaces in sysfs.

use nix::dir::Dir;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The folder of one interface, which stays that interface's: when it is renamed, when another one
/// takes its name, and when it is moved to another network namespace. Once the interface is
/// removed, nothing can be read any more.
#[derive(Clone, Debug)]
pub struct Folder(Option<Arc<OwnedFd>>);

impl Folder {
    /// The folder of the interface with this name and ifIndex; an empty one without sysfs, or where
    /// sysfs shows another network namespace.
    pub fn of(name: &str, index: u32) -> Self {
        let folder = File::open(sysfs(name)).ok();
        let folder = Self(folder.map(|folder| Arc::new(folder.into())));
        match folder.number("ifindex") {
            Some(found) if found == u64::from(index) => folder,
            _ => Self(None),
        }
    }

    /// A folder of files that a test made.
    #[cfg(test)]
    pub fn at(path: &Path) -> Self {
        let folder = File::open(path).ok();
        Self(folder.map(|folder| Arc::new(folder.into())))
    }

    /// The number in a file, if there is one.
    pub fn number(&self, file: &str) -> Option<u64> {
        let mut text = String::new();
        let mut file = self.open(file, OFlag::O_RDONLY).ok()?;
        file.read_to_string(&mut text).ok()?;
        text.trim().parse().ok()
    }

    /// Writes a number to a file.
    ///
    /// # Errors
    ///
    /// The system's error.
    pub fn set_number(&self, file: &str, number: u64) -> io::Result<()> {
        // Without effect in sysfs: as `echo` opens it.
        let mut file = self.open(file, OFlag::O_WRONLY | OFlag::O_TRUNC)?;
        file.write_all(number.to_string().as_bytes())
    }

    /// How many names in a folder of it begin with `prefix`; `None` if it cannot be read.
    pub fn count(&self, folder: &str, prefix: &str) -> Option<usize> {
        let of = self.0.as_deref()?;
        let how = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut folder = Dir::openat(of, folder, how, Mode::empty()).ok()?;
        let entries = folder.iter().collect::<nix::Result<Vec<_>>>().ok()?;
        let names = entries.iter().map(nix::dir::Entry::file_name);
        Some(
            names
                .filter(|name| name.to_bytes().starts_with(prefix.as_bytes()))
                .count(),
        )
    }

    fn open(&self, file: &str, how: OFlag) -> io::Result<File> {
        let folder = self.0.as_deref().ok_or(io::ErrorKind::NotFound)?;
        let file = openat(folder, file, how | OFlag::O_CLOEXEC, Mode::empty())?;
        Ok(file.into())
    }
}

/// The folder of the interface with this name.
pub fn sysfs(name: &str) -> PathBuf {
    Path::new("/sys/class/net").join(name)
}

/// The names in a folder; none if it cannot be read.
pub fn entries(folder: &Path) -> impl Iterator<Item = String> + use<> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned())
}
