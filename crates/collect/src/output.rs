//! Where an output goes: decided for every command, before anything is read or created.
//!
//! [`Target::check`] looks at a path and refuses what would destroy something: a directory, the
//! input, a finished file. What exists and is no regular file, such as a device or a FIFO, is
//! written into. A symbolic link is followed, so that the link stays. A regular file is written
//! under a temporary name beside it, which is created anew and never through a link.

use crate::header::MAGIC;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, FcntlArg, Flock, FlockArg, OFlag, RenameFlags, fcntl, renameat2};
use nix::sys::statfs::{PROC_SUPER_MAGIC, statfs};
use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, IsTerminal, Read};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

/// Which finished files an output may replace. An empty file may always be replaced.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Replace {
    /// None.
    #[default]
    Nothing,
    /// Flow-tools files.
    FlowFiles,
    /// Any regular file; block devices may be written into.
    Anything,
}

/// Device and inode of a file: the same under each of its names.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct FileId {
    device: u64,
    inode: u64,
}

/// Where an output goes. Nothing has been created.
#[derive(Debug)]
pub struct Target(Kind);

#[derive(Debug)]
enum Kind {
    Stdout(File),
    /// What exists and is no regular file, or is reached by the number of its descriptor.
    Special {
        path: PathBuf,
        id: FileId,
        is_descriptor: bool,
        is_character_device: bool,
    },
    File(Place),
}

/// The place of a regular file.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The name of the finished file. No symbolic link.
    pub(crate) path: PathBuf,
    /// Its name until then, in the same directory.
    pub(crate) temporary: PathBuf,
    /// What it may replace.
    pub(crate) replace: Replace,
}

/// Why nothing is written to a path.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// It is a directory.
    #[error("{0} is a directory: name a file in it")]
    Directory(PathBuf),
    /// It is read as well.
    #[error("{0} is the input: write to another file")]
    Input(PathBuf),
    /// The input has the name that the output has until it is complete.
    #[error("{0} is the input, and the temporary name of the output: choose another output")]
    InputAsTemporary(PathBuf),
    /// It would be replaced.
    #[error("{0} exists: choose another name, or replace it with --overwrite")]
    Exists(PathBuf),
    /// It would be replaced, and is not of the kind that is replaced without a word.
    #[error(
        "{0} exists and is not a flow-tools file: choose another name, or replace it with \
         --overwrite"
    )]
    ExistsOtherwise(PathBuf),
    /// Its contents would be overwritten.
    #[error("{0} is a block device: choose a file, or overwrite the device with --overwrite")]
    BlockDevice(PathBuf),
    /// Nothing can be written into a Unix socket by its name.
    #[error("{0} is a socket: expected a file, a device or a FIFO")]
    Socket(PathBuf),
    /// Records are not text.
    #[error(
        "standard output is a terminal, expected a file or a pipe: redirect it, or name a file"
    )]
    Terminal,
    /// It leads nowhere, or the system refuses.
    #[error("{path} cannot be written: {error}")]
    System {
        /// The path as it was named.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// Symbolic links that are followed, as in Linux.
const LINKS_MAX: usize = 40;
/// How long a FIFO may have no reader, and how often to look.
const READER_WAITS_MAX: usize = 250;
const READER_WAIT: Duration = Duration::from_millis(20);

impl FileId {
    /// Of the file that a path leads to, `-` being standard input. `None` where reading and writing
    /// do not meet, as in `/dev/null`, or where nothing can be read.
    #[must_use]
    pub fn of_input(path: &Path) -> Option<Self> {
        let metadata = if path.as_os_str() == "-" {
            standard(io::stdin()).and_then(|file| file.metadata())
        } else {
            fs::metadata(path)
        };
        let metadata = metadata.ok()?;
        let kind = metadata.file_type();
        (kind.is_file() || kind.is_fifo() || kind.is_block_device()).then(|| Self::of(&metadata))
    }

    /// Of standard output. `None` where what is written there cannot be read as an input, as on a
    /// terminal.
    #[must_use]
    pub fn of_stdout() -> Option<Self> {
        let metadata = standard(io::stdout())
            .and_then(|file| file.metadata())
            .ok()?;
        (!metadata.file_type().is_char_device()).then(|| Self::of(&metadata))
    }

    pub(crate) fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
        }
    }
}

impl Target {
    /// Checks where a path leads; `-` is standard output. Nothing is created, opened or changed.
    ///
    /// # Errors
    ///
    /// [`OutputError`] if something would be destroyed, or the path leads nowhere.
    pub fn check(path: &Path, replace: Replace, inputs: &[FileId]) -> Result<Self, OutputError> {
        let named = || path.to_owned();
        if path.as_os_str() == "-" {
            return Self::stdout(path, inputs);
        }
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => Err(OutputError::Directory(named())),
            Ok(metadata) if is_stdout(&metadata) => Self::stdout(path, inputs),
            Ok(metadata) if inputs.contains(&FileId::of(&metadata)) => {
                Err(OutputError::Input(named()))
            }
            Ok(metadata) if metadata.is_file() => Self::existing(path, &metadata, replace, inputs),
            Ok(metadata) => Self::special(path, &metadata, replace),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Self::new(path, replace, inputs)
            }
            Err(error) => Err(system(path, error)),
        }
    }

    /// Whether a path leads to standard output: `-`, or another name of it.
    #[must_use]
    pub fn is_stdout_at(path: &Path) -> bool {
        path.as_os_str() == "-" || fs::metadata(path).is_ok_and(|there| is_stdout(&there))
    }

    /// What is written or replaced, as far as it exists: reading it as well would make no sense.
    #[must_use]
    pub fn ids(&self) -> Vec<FileId> {
        let at = |path: &Path| fs::symlink_metadata(path).ok().as_ref().map(FileId::of);
        match &self.0 {
            Kind::Stdout(file) => file
                .metadata()
                .ok()
                .filter(|metadata| !metadata.file_type().is_char_device())
                .as_ref()
                .map(FileId::of)
                .into_iter()
                .collect(),
            Kind::Special { id, .. } => vec![*id],
            Kind::File(place) => [at(&place.path), at(&place.temporary)]
                .into_iter()
                .flatten()
                .collect(),
        }
    }

    /// Whether both outputs would be written into one file, FIFO or block device.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Kind::File(one), Kind::File(other)) => {
                let folder = |place: &Place| {
                    fs::metadata(folder_of(&place.path))
                        .ok()
                        .map(|at| FileId::of(&at))
                };
                one.path.file_name() == other.path.file_name() && folder(one) == folder(other)
            }
            (
                Kind::Special {
                    is_character_device,
                    id: one,
                    ..
                },
                Kind::Special { id: other, .. },
            ) => !is_character_device && one == other,
            (one, other) => matches!((one, other), (Kind::Stdout(_), Kind::Stdout(_))),
        }
    }

    fn stdout(path: &Path, inputs: &[FileId]) -> Result<Self, OutputError> {
        if io::stdout().is_terminal() {
            return Err(OutputError::Terminal);
        }
        let file = standard(io::stdout()).map_err(|error| system(path, error))?;
        let metadata = file.metadata().map_err(|error| system(path, error))?;
        if !metadata.file_type().is_char_device() && inputs.contains(&FileId::of(&metadata)) {
            return Err(OutputError::Input("standard output".into()));
        }
        Ok(Self(Kind::Stdout(file)))
    }

    fn special(path: &Path, metadata: &Metadata, replace: Replace) -> Result<Self, OutputError> {
        let kind = metadata.file_type();
        if kind.is_socket() {
            return Err(OutputError::Socket(path.to_owned()));
        }
        if kind.is_block_device() && replace != Replace::Anything {
            return Err(OutputError::BlockDevice(path.to_owned()));
        }
        Ok(Self(Kind::Special {
            path: path.to_owned(),
            id: FileId::of(metadata),
            is_descriptor: false,
            is_character_device: kind.is_char_device(),
        }))
    }

    fn existing(
        path: &Path,
        metadata: &Metadata,
        replace: Replace,
        inputs: &[FileId],
    ) -> Result<Self, OutputError> {
        if !may_replace(path, metadata, replace) {
            return Err(match replace {
                Replace::FlowFiles => OutputError::ExistsOtherwise(path.to_owned()),
                Replace::Nothing | Replace::Anything => OutputError::Exists(path.to_owned()),
            });
        }
        match follow(path).map_err(|error| system(path, error))? {
            Some(followed) => Self::place(path, followed, replace, inputs),
            None => Ok(Self(Kind::Special {
                path: path.to_owned(),
                id: FileId::of(metadata),
                is_descriptor: true,
                is_character_device: false,
            })),
        }
    }

    fn new(path: &Path, replace: Replace, inputs: &[FileId]) -> Result<Self, OutputError> {
        let followed = follow(path).map_err(|error| system(path, error))?;
        let followed = followed.ok_or_else(|| system(path, Errno::ENOENT.into()))?;
        Self::place(path, followed, replace, inputs)
    }

    fn place(
        named: &Path,
        followed: PathBuf,
        replace: Replace,
        inputs: &[FileId],
    ) -> Result<Self, OutputError> {
        let place = Place::beside(followed, replace).map_err(|error| system(named, error))?;
        let folder = folder_of(&place.path);
        match fs::metadata(folder) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => return Err(system(named, Errno::ENOTDIR.into())),
            Err(error) => return Err(system(named, error)),
        }
        match FileId::of_input(&place.temporary) {
            Some(id) if inputs.contains(&id) => Err(OutputError::InputAsTemporary(place.temporary)),
            _ => Ok(Self(Kind::File(place))),
        }
    }

    /// Opens it for writing, unless it is a regular file: then returns its place.
    pub(crate) fn open(self) -> io::Result<Result<File, Place>> {
        match self.0 {
            Kind::File(place) => Ok(Err(place)),
            Kind::Stdout(file) => Ok(Ok(file)),
            Kind::Special {
                path,
                is_descriptor: true,
                ..
            } => {
                let mut options = OpenOptions::new();
                options.write(true).truncate(true).open(path).map(Ok)
            }
            Kind::Special { path, .. } => open_special(&path).map(Ok),
        }
    }
}

impl Place {
    /// The place of a file that has the name `path` in the end. Symbolic links are not followed.
    pub(crate) fn beside(path: PathBuf, replace: Replace) -> io::Result<Self> {
        let is_folder = path.as_os_str().as_bytes().ends_with(b"/");
        let name = path.file_name().filter(|_| !is_folder).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{} is not the name of a file", path.display()),
            )
        })?;
        let mut temporary = OsString::from("tmp-");
        temporary.push(name);
        let temporary = path.with_file_name(temporary);
        Ok(Self {
            path,
            temporary,
            replace,
        })
    }

    /// Creates the file under its temporary name and locks it. It has the access rights of the file
    /// that it will replace.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::ResourceBusy`] if another process is writing it,
    /// [`io::ErrorKind::AlreadyExists`] if something else has the temporary name.
    pub(crate) fn create(&self) -> io::Result<Flock<File>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        options.custom_flags(OFlag::O_NOFOLLOW.bits());
        let file = options.open(&self.temporary).map_err(|error| {
            if error.kind() == io::ErrorKind::AlreadyExists {
                self.in_the_way()
            } else {
                error
            }
        })?;
        if let Ok(there) = fs::symlink_metadata(&self.path)
            && there.is_file()
        {
            // What the system does not allow is left as it is.
            let _ = std::os::unix::fs::fchown(&file, Some(there.uid()), Some(there.gid()));
            let _ = file.set_permissions(there.permissions());
        }
        let lock = lock(file)?;
        if is_unlinked(&lock)? {
            // Another process took the empty file for one that a crash left, and removed it.
            return Err(io::Error::new(
                io::ErrorKind::ResourceBusy,
                "another process is writing this file",
            ));
        }
        Ok(lock)
    }

    /// Why the temporary name cannot be used.
    fn in_the_way(&self) -> io::Error {
        match open_leftover(&self.temporary).and_then(lock) {
            Err(error) => error,
            Ok(_) => io::Error::new(
                io::ErrorKind::AlreadyExists,
                format!(
                    "{} is left from an earlier run: move it away",
                    self.temporary.display()
                ),
            ),
        }
    }
}

/// Opens a file that has a temporary name, to complete it: a regular file with no other name, and
/// not through a symbolic link.
pub(crate) fn open_leftover(path: &Path) -> io::Result<File> {
    let refuse = |what: &str| {
        let text = format!("{} {what}: move it away", path.display());
        Err(io::Error::new(io::ErrorKind::InvalidInput, text))
    };
    // Opening a device can have effects.
    let there = fs::symlink_metadata(path)?;
    if there.is_symlink() {
        return refuse("is a symbolic link");
    }
    if !there.is_file() {
        return refuse("is not a regular file");
    }
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    options.custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits());
    let file = options.open(path)?;
    let opened = file.metadata()?;
    if !opened.is_file() {
        return refuse("is not a regular file");
    }
    if opened.nlink() > 1 {
        return refuse("has another name (hard link), whose contents would change");
    }
    Ok(file)
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

/// Gives the file its final name and syncs the directory, so that the name survives a power cut.
/// Returns the name: one with a number behind it where something has the name that may not be
/// replaced.
pub(crate) fn publish(temporary: &Path, path: &Path, replace: Replace) -> io::Result<PathBuf> {
    let is_replaced =
        fs::symlink_metadata(path).is_ok_and(|there| may_replace(path, &there, replace));
    let path = if is_replaced {
        fs::rename(temporary, path)?;
        path.to_owned()
    } else {
        rename_to_free(
            temporary,
            std::iter::once(path.to_owned()).chain(numbered(path)),
        )?
    };
    sync_folder(&path)?;
    Ok(path)
}

/// As [`publish`], always with a number behind the name.
pub(crate) fn publish_numbered(temporary: &Path, path: &Path) -> io::Result<PathBuf> {
    let path = rename_to_free(temporary, numbered(path))?;
    sync_folder(&path)?;
    Ok(path)
}

/// Whether the file has no name any more, since its directory or it was removed.
pub(crate) fn is_unlinked(file: &File) -> io::Result<bool> {
    Ok(file.metadata()?.nlink() == 0)
}

/// Whether a path below `folder` reaches its file without a symbolic link on the way.
pub(crate) fn is_free_of_links(folder: &Path, path: &Path) -> bool {
    let Ok(below) = path.strip_prefix(folder) else {
        return false;
    };
    let mut at = folder.to_owned();
    below.components().all(|part| {
        at.push(part);
        fs::symlink_metadata(&at).is_ok_and(|there| !there.is_symlink())
    })
}

/// `PATH.1`, `PATH.2` and so on.
fn numbered(path: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let path = path.as_os_str().to_owned();
    (1_u64..).map(move |number| {
        let mut name = path.clone();
        name.push(format!(".{number}"));
        name.into()
    })
}

/// Renames a file to the first of the names that nothing has.
fn rename_to_free(from: &Path, mut names: impl Iterator<Item = PathBuf>) -> io::Result<PathBuf> {
    loop {
        let to = names.next().expect("there are more numbers than files");
        match rename_new(from, &to) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            renamed => return renamed.map(|()| to),
        }
    }
}

/// Renames a file, and replaces nothing.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    let flags = RenameFlags::RENAME_NOREPLACE;
    match renameat2(AT_FDCWD, from, AT_FDCWD, to, flags) {
        // The file system has no such call.
        Err(Errno::EINVAL | Errno::ENOSYS | Errno::ENOTSUP) => {
            if fs::symlink_metadata(to).is_ok() {
                return Err(Errno::EEXIST.into());
            }
            fs::rename(from, to)
        }
        renamed => Ok(renamed?),
    }
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(folder_of(path))?.sync_all()
}

fn folder_of(path: &Path) -> &Path {
    path.parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// Whether the file at `path` is a regular one that may be replaced.
fn may_replace(path: &Path, metadata: &Metadata, replace: Replace) -> bool {
    let is_flow_file = || {
        let mut octets = [0; MAGIC.len()];
        let read = File::open(path).and_then(|mut file| file.read_exact(&mut octets));
        read.is_ok() && octets == MAGIC
    };
    metadata.is_file()
        && match replace {
            _ if metadata.len() == 0 => true,
            Replace::Nothing => false,
            Replace::FlowFiles => is_flow_file(),
            Replace::Anything => true,
        }
}

/// The path behind all symbolic links, whether it exists or not. `None` if one of them is a
/// descriptor in /proc: it leads to a file, but its text need not be the file's path.
fn follow(path: &Path) -> io::Result<Option<PathBuf>> {
    let mut at = path.to_owned();
    for _ in 0..LINKS_MAX {
        match fs::symlink_metadata(&at) {
            Ok(there) if there.is_symlink() => {
                if statfs(folder_of(&at))?.filesystem_type() == PROC_SUPER_MAGIC {
                    return Ok(None);
                }
                at = folder_of(&at).join(fs::read_link(&at)?);
            }
            Ok(_) => return Ok(Some(at)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some(at)),
            Err(error) => return Err(error),
        }
    }
    Err(Errno::ELOOP.into())
}

/// Opens what is no regular file. A FIFO has to have a reader, for which this waits some seconds.
fn open_special(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true);
    options.custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits());
    let mut waits = 0;
    let file = loop {
        match options.open(path) {
            Err(error) if Errno::ENXIO as i32 == error.raw_os_error().unwrap_or(0) => {
                if waits == READER_WAITS_MAX {
                    let text = "no process reads it: start the reader first";
                    return Err(io::Error::new(error.kind(), text));
                }
                if waits == 0 {
                    tracing::info!("waiting for a reader of {}", path.display());
                }
                waits += 1;
                sleep(READER_WAIT);
            }
            opened => break opened?,
        }
    };
    if file.metadata()?.is_file() {
        let text = "it was a device or a FIFO, and is a regular file now";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
    }
    fcntl(&file, FcntlArg::F_SETFL(OFlag::empty()))?;
    Ok(file)
}

/// Whether it is what standard output leads to. Character devices are opened by their name, except
/// for a terminal.
fn is_stdout(metadata: &Metadata) -> bool {
    let stdout = standard(io::stdout()).and_then(|file| file.metadata());
    stdout.is_ok_and(|stdout| FileId::of(&stdout) == FileId::of(metadata))
        && (!metadata.file_type().is_char_device() || io::stdout().is_terminal())
}

/// A standard stream as a file: the library's line buffer would search records for line ends.
fn standard(stream: impl AsFd) -> io::Result<File> {
    Ok(File::from(stream.as_fd().try_clone_to_owned()?))
}

fn system(path: &Path, error: io::Error) -> OutputError {
    OutputError::System {
        path: path.to_owned(),
        error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::{Mode, SFlag, makedev, mknod};
    use nix::unistd::mkfifo;
    use std::io::Write;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    const NONE: &[FileId] = &[];

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn at(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn write(&self, name: &str, text: &str) -> PathBuf {
            fs::write(self.at(name), text).unwrap();
            self.at(name)
        }

        /// A device, where the test may make one.
        fn device(&self, name: &str, kind: SFlag, major: u64, minor: u64) -> Option<PathBuf> {
            let rights = Mode::from_bits_truncate(0o600);
            let made = mknod(&self.at(name), kind, rights, makedev(major, minor));
            made.ok().map(|()| self.at(name))
        }

        fn link(&self, name: &str, target: &str) -> PathBuf {
            symlink(target, self.at(name)).unwrap();
            self.at(name)
        }

        fn names(&self) -> Vec<String> {
            let mut names: Vec<_> = fs::read_dir(self.0.path())
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        }
    }

    fn place(path: &Path, replace: Replace) -> Place {
        let target = Target::check(path, replace, NONE).unwrap();
        target.open().unwrap().unwrap_err()
    }

    fn refusal(path: &Path, replace: Replace, inputs: &[FileId]) -> OutputError {
        Target::check(path, replace, inputs).unwrap_err()
    }

    #[test]
    fn a_device_and_a_fifo_are_written_into_and_stay() {
        let folder = Folder::new();
        let link = folder.link("link", "null");
        // Character device 1:3 is the null device.
        let null = folder.device("null", SFlag::S_IFCHR, 1, 3);
        for path in null.iter().flat_map(|null| [null, &link]) {
            let target = Target::check(path, Replace::Nothing, NONE).unwrap();
            let mut file = target.open().unwrap().unwrap();
            file.write_all(b"records").unwrap();
            assert!(fs::metadata(path).unwrap().file_type().is_char_device());
        }
        let fifo = folder.at("fifo");
        mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        let target = Target::check(&fifo, Replace::Nothing, NONE).unwrap();
        let reader = std::thread::Builder::new();
        let path = fifo.clone();
        let reader = reader.spawn(move || fs::read(path)).unwrap();
        let mut file = target.open().unwrap().unwrap();
        file.write_all(b"records").unwrap();
        drop(file);
        assert_eq!(reader.join().unwrap().unwrap(), b"records");
        assert!(fs::metadata(&fifo).unwrap().file_type().is_fifo());
        let fifo_read = FileId::of_input(&fifo).unwrap();
        let refused = refusal(&fifo, Replace::Anything, &[fifo_read]);
        assert!(matches!(refused, OutputError::Input(_)), "{refused}");
    }

    #[test]
    fn a_block_device_a_socket_and_a_directory_are_refused() {
        let folder = Folder::new();
        // Block device 7:0 is a loop device; it is not opened.
        if let Some(device) = folder.device("loop", SFlag::S_IFBLK, 7, 0) {
            let refused = refusal(&device, Replace::Nothing, NONE);
            assert!(matches!(refused, OutputError::BlockDevice(_)), "{refused}");
        }
        let socket = folder.at("socket");
        let _listener = UnixListener::bind(&socket).unwrap();
        let refused = refusal(&socket, Replace::Anything, NONE);
        assert!(matches!(refused, OutputError::Socket(_)), "{refused}");
        let link = folder.link("link", ".");
        for path in [folder.0.path(), &link, &folder.at("link/..")] {
            let refused = refusal(path, Replace::Anything, NONE);
            assert!(matches!(refused, OutputError::Directory(_)), "{refused}");
        }
        for path in ["missing/", "missing/x", "socket/x"] {
            let refused = refusal(&folder.at(path), Replace::Anything, NONE);
            assert!(matches!(refused, OutputError::System { .. }), "{refused}");
        }
        folder.link("loop-a", "loop-b");
        let refused = refusal(&folder.link("loop-b", "loop-a"), Replace::Anything, NONE);
        assert!(matches!(refused, OutputError::System { .. }), "{refused}");
    }

    #[test]
    fn the_input_is_refused_under_each_of_its_names() {
        let folder = Folder::new();
        let input = folder.write("input", "packets");
        fs::hard_link(&input, folder.at("hard")).unwrap();
        let link = folder.link("link", "other");
        folder.link("other", "input");
        let inputs = [FileId::of_input(&link).unwrap()];
        for path in [&input, &folder.at("hard"), &link] {
            let refused = refusal(path, Replace::Anything, &inputs);
            assert!(matches!(refused, OutputError::Input(_)), "{refused}");
        }
        fs::rename(&input, folder.at("tmp-x")).unwrap();
        let refused = refusal(&folder.at("x"), Replace::Anything, &inputs);
        assert!(
            matches!(refused, OutputError::InputAsTemporary(_)),
            "{refused}"
        );
    }

    #[test]
    fn a_link_is_followed_and_stays() {
        let folder = Folder::new();
        fs::create_dir(folder.at("there")).unwrap();
        let link = folder.link("link", "again");
        folder.link("again", "there/x.ft");
        for text in ["", "a flow file"] {
            let place = place(&link, Replace::Anything);
            assert_eq!(place.temporary, folder.at("there/tmp-x.ft"));
            drop(place.create().unwrap());
            fs::write(&place.temporary, format!("{text} new")).unwrap();
            publish(&place.temporary, &place.path, place.replace).unwrap();
            let read = fs::read_to_string(folder.at("there/x.ft")).unwrap();
            assert_eq!(read, format!("{text} new"));
            assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        }
    }

    #[test]
    fn a_finished_file_is_replaced_as_far_as_it_is_allowed() {
        let folder = Folder::new();
        let text = folder.write("text", "precious");
        let flows = folder.at("flows");
        fs::write(&flows, MAGIC).unwrap();
        let empty = folder.write("empty", "");
        let refused = |path: &Path, replace| Target::check(path, replace, NONE).is_err();
        for (replace, expected) in [
            (Replace::Nothing, [true, true, false]),
            (Replace::FlowFiles, [true, false, false]),
            (Replace::Anything, [false, false, false]),
        ] {
            let found = [&text, &flows, &empty].map(|path| refused(path, replace));
            assert_eq!(found, expected, "{replace:?}");
        }
    }

    #[test]
    fn a_file_that_came_meanwhile_is_not_replaced() {
        let folder = Folder::new();
        let path = folder.at("x");
        let place = place(&path, Replace::Nothing);
        drop(place.create().unwrap());
        folder.write("x", "precious");
        folder.link("x.1", "nowhere");
        let published = publish(&place.temporary, &place.path, place.replace).unwrap();
        assert_eq!(published, folder.at("x.2"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        assert_eq!(folder.names(), ["x", "x.1", "x.2"]);
    }

    #[test]
    fn the_temporary_file_is_never_opened_through_a_link() {
        let folder = Folder::new();
        let victim = folder.write("victim", "precious");
        folder.link("tmp-x", "victim");
        let error = place(&folder.at("x"), Replace::Nothing)
            .create()
            .unwrap_err();
        assert!(error.to_string().contains("is a symbolic link"), "{error}");
        fs::remove_file(folder.at("tmp-x")).unwrap();
        folder.link("tmp-x", "nowhere");
        place(&folder.at("x"), Replace::Nothing)
            .create()
            .unwrap_err();
        fs::remove_file(folder.at("tmp-x")).unwrap();
        fs::hard_link(&victim, folder.at("tmp-x")).unwrap();
        let error = place(&folder.at("x"), Replace::Nothing)
            .create()
            .unwrap_err();
        assert!(error.to_string().contains("hard link"), "{error}");
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    }

    #[test]
    fn a_replaced_file_keeps_its_access_rights() {
        let folder = Folder::new();
        let path = folder.write("x", "secret");
        let rights = std::os::unix::fs::PermissionsExt::from_mode(0o640);
        fs::set_permissions(&path, rights).unwrap();
        let place = place(&path, Replace::Anything);
        drop(place.create().unwrap());
        publish(&place.temporary, &path, place.replace).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
    }

    #[test]
    fn the_same_output_under_two_names_is_recognized() {
        let folder = Folder::new();
        fs::create_dir(folder.at("there")).unwrap();
        folder.link("link", "there/x");
        folder.link("here", "there");
        let target = |name: &str| Target::check(&folder.at(name), Replace::Nothing, NONE).unwrap();
        assert!(target("link").is_same(&target("here/x")));
        assert!(!target("link").is_same(&target("x")));
    }
}
