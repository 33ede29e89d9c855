//! The inputs that paths on a command line name: files, all files below directories, and standard
//! input.

use crate::printable::printable;
use std::collections::HashSet;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Prefix of the names of files that are still being written.
pub const UNFINISHED_PREFIX: &str = "tmp";

/// An input to read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Input {
    /// Standard input.
    Stdin,
    /// The file at this path.
    File(PathBuf),
}

/// The inputs that paths name, and what was left out of them.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Inputs {
    /// The inputs, in the order of the paths.
    pub list: Vec<Input>,
    /// Files in directories that are still being written, left out.
    pub unfinished: usize,
    /// Paths of files that are in the list already, left out.
    pub repeated: usize,
    /// Symbolic links in directories that lead to something that was not read, left out.
    pub links: usize,
}

impl Inputs {
    /// The inputs that `paths` name, in the same order; standard input if there are no paths.
    ///
    /// `-` is standard input. A directory is replaced by the files below it in the order of their
    /// names, without hidden files. Files whose names begin with [`UNFINISHED_PREFIX`] are left out
    /// of directories unless `unfinished` is set; a file that is itself in `paths` never is.
    ///
    /// A symbolic link is followed if it is itself in `paths`, and never inside a directory. A file
    /// that has several names is read once, at the first of them.
    ///
    /// # Errors
    ///
    /// If a path does not exist or a directory cannot be read; the error contains its name.
    pub fn find(paths: &[PathBuf], unfinished: bool) -> io::Result<Self> {
        let mut walk = Walk {
            with_unfinished: unfinished,
            found: Self::default(),
            seen: HashSet::new(),
            links: Vec::new(),
        };
        if paths.is_empty() {
            walk.found.list.push(Input::Stdin);
        }
        for path in paths {
            walk.name(path)?;
        }
        Ok(walk.finish())
    }

    /// The files among the inputs.
    pub fn into_paths(self) -> impl Iterator<Item = PathBuf> {
        self.list.into_iter().filter_map(|input| match input {
            Input::File(path) => Some(path),
            Input::Stdin => None,
        })
    }
}

impl Input {
    /// Opens the input. A file that got its final name since it was listed, `ft-NAME` for
    /// `tmp-NAME`, is opened by that.
    ///
    /// # Errors
    ///
    /// If the file cannot be opened.
    pub fn open(&self) -> io::Result<Box<dyn Read>> {
        Ok(match self {
            Self::Stdin => Box::new(io::stdin().lock()),
            Self::File(path) => Box::new(File::open(path).or_else(|error| {
                finished_name(path)
                    .filter(|_| error.kind() == io::ErrorKind::NotFound)
                    .map_or(Err(error), File::open)
            })?),
        })
    }

    /// Length in octets of a regular file, else 0.
    #[must_use]
    pub fn octets(&self) -> u64 {
        match self {
            Self::Stdin => 0,
            Self::File(path) => fs::metadata(path).map_or(0, |metadata| {
                if metadata.is_file() {
                    metadata.len()
                } else {
                    0
                }
            }),
        }
    }
}

impl std::fmt::Display for Input {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stdin => formatter.write_str("standard input"),
            Self::File(path) => formatter.write_str(&printable(&path.to_string_lossy())),
        }
    }
}

/// A walk over paths and the directories among them.
struct Walk {
    with_unfinished: bool,
    found: Inputs,
    /// Device and inode of each file and directory so far.
    seen: HashSet<(u64, u64)>,
    /// Symbolic links inside directories.
    links: Vec<PathBuf>,
}

impl Walk {
    /// Adds what a path on the command line names.
    fn name(&mut self, path: &Path) -> io::Result<()> {
        if path.as_os_str() == "-" {
            self.found.list.push(Input::Stdin);
            return Ok(());
        }
        let metadata = fs::metadata(path).map_err(|error| about(path, &error))?;
        if metadata.is_dir() {
            self.directory(path, &metadata)?;
        } else if metadata.is_file() && !self.is_new(&metadata) {
            self.found.repeated += 1;
        } else {
            self.found.list.push(Input::File(path.to_owned()));
        }
        Ok(())
    }

    fn directory(&mut self, directory: &Path, metadata: &Metadata) -> io::Result<()> {
        if !self.is_new(metadata) {
            return Ok(());
        }
        let entries = fs::read_dir(directory).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let mut entries = entries.map_err(|error| about(directory, &error))?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let path = entry.path();
            // Of a link itself. A file that was renamed since the directory was read is left out.
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            if name.starts_with('.') {
            } else if metadata.is_symlink() {
                self.links.push(path);
            } else if metadata.is_dir() {
                self.directory(&path, &metadata)?;
            } else if metadata.is_file() {
                self.file(path, &metadata, name.starts_with(UNFINISHED_PREFIX));
            }
        }
        Ok(())
    }

    fn file(&mut self, path: PathBuf, metadata: &Metadata, is_unfinished: bool) {
        if is_unfinished && !self.with_unfinished {
            self.found.unfinished += 1;
        } else if self.is_new(metadata) {
            self.found.list.push(Input::File(path));
        } else {
            self.found.repeated += 1;
        }
    }

    fn is_new(&mut self, metadata: &Metadata) -> bool {
        self.seen.insert((metadata.dev(), metadata.ino()))
    }

    /// Counts the links that lead out of what was walked. Links that lead nowhere do not count.
    fn finish(mut self) -> Inputs {
        let leads_out = |path: &&PathBuf| {
            fs::metadata(path)
                .is_ok_and(|target| !self.seen.contains(&(target.dev(), target.ino())))
        };
        self.found.links = self.links.iter().filter(leads_out).count();
        self.found
    }
}

/// The name that a collector gives to a file when it is complete.
fn finished_name(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    let rest = name.strip_prefix(UNFINISHED_PREFIX)?;
    Some(path.with_file_name(format!("ft{rest}")))
}

fn about(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn directories_are_replaced_by_the_files_below_them() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::create_dir_all(at("2026/01")).unwrap();
        for name in [
            "2026/01/ft-b",
            "2026/01/ft-a",
            "2026/01/tmp-c",
            ".hidden",
            "z",
        ] {
            fs::write(at(name), "").unwrap();
        }
        let files = |names: &[&str]| {
            names
                .iter()
                .map(|name| Input::File(at(name)))
                .collect::<Vec<_>>()
        };
        let root = [directory.path().to_owned()];
        let finished = Inputs::find(&root, false).unwrap();
        assert_eq!(finished.list, files(&["2026/01/ft-a", "2026/01/ft-b", "z"]));
        assert_eq!(finished.unfinished, 1);
        let all = Inputs::find(&root, true).unwrap();
        assert_eq!(
            all.list,
            files(&["2026/01/ft-a", "2026/01/ft-b", "2026/01/tmp-c", "z"])
        );
        assert_eq!(all.unfinished, 0);
        assert_eq!(
            Inputs::find(&[at("2026/01/tmp-c")], false).unwrap().list,
            files(&["2026/01/tmp-c"])
        );
    }

    #[test]
    fn a_file_that_was_finished_since_it_was_listed_is_read_by_its_final_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tmp-v05.x");
        let input = Input::File(path.clone());
        assert!(input.open().is_err());
        fs::write(path.with_file_name("ft-v05.x"), "x").unwrap();
        let mut text = String::new();
        input.open().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "x");
    }

    #[test]
    fn links_inside_directories_are_not_followed_and_each_file_is_read_once() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::create_dir_all(at("flows/2026")).unwrap();
        fs::create_dir_all(at("elsewhere")).unwrap();
        for name in ["flows/2026/ft-a", "flows/2026/ft-b", "elsewhere/ft-c"] {
            fs::write(at(name), "").unwrap();
        }
        symlink(at("flows"), at("flows/2026/back")).unwrap();
        symlink("2026/ft-b", at("flows/latest")).unwrap();
        symlink("nowhere", at("flows/broken")).unwrap();
        symlink("itself", at("flows/itself")).unwrap();
        fs::hard_link(at("flows/2026/ft-a"), at("flows/ft-hard")).unwrap();
        let list = |names: &[&str]| {
            let paths: Vec<PathBuf> = names.iter().map(|name| at(name)).collect();
            Inputs::find(&paths, false).unwrap()
        };
        let names = |inputs: Inputs| {
            let names = inputs.into_paths().map(|path| {
                let below = path.strip_prefix(directory.path()).unwrap();
                below.to_str().unwrap().to_owned()
            });
            names.collect::<Vec<_>>()
        };

        let inside = list(&["flows"]);
        assert_eq!((inside.repeated, inside.links), (1, 0), "{inside:?}");
        assert_eq!(names(inside), ["flows/2026/ft-a", "flows/2026/ft-b"]);

        // A link that is itself named is followed, and what was read before is not read again.
        let named = list(&["flows/latest", "flows", "flows/2026", "flows/2026/ft-a"]);
        assert_eq!((named.repeated, named.links), (3, 0), "{named:?}");
        assert_eq!(names(named), ["flows/latest", "flows/2026/ft-a"]);

        // A link to a place that is not read is worth a word.
        symlink(at("elsewhere"), at("flows/2027")).unwrap();
        assert_eq!(list(&["flows"]).links, 1);
        assert_eq!(list(&["flows", "elsewhere"]).links, 0);
    }

    #[test]
    fn no_path_and_a_dash_are_standard_input() {
        let list = |paths: &[PathBuf]| Inputs::find(paths, false).unwrap().list;
        assert_eq!(list(&[]), [Input::Stdin]);
        assert_eq!(list(&["-".into()]), [Input::Stdin]);
    }

    #[test]
    fn a_missing_path_is_named() {
        let error = Inputs::find(&["/no/such".into()], false)
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("/no/such: "), "{error}");
    }
}
