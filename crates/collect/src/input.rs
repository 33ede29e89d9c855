//! The inputs that paths on a command line name: files, all files below directories, and standard
//! input.

use std::fs::{self, File};
use std::io::{self, Read};
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

impl Input {
    /// The inputs that `paths` name, in the same order; standard input if there are no paths.
    ///
    /// `-` is standard input. A directory is replaced by the files below it in the order of their
    /// names, without hidden files. Files whose names begin with [`UNFINISHED_PREFIX`] are left out
    /// of directories unless `unfinished` is set; a file that is itself in `paths` never is.
    ///
    /// # Errors
    ///
    /// If a path does not exist or a directory cannot be read; the error contains its name.
    pub fn list(paths: &[PathBuf], unfinished: bool) -> io::Result<Vec<Self>> {
        if paths.is_empty() {
            return Ok(vec![Self::Stdin]);
        }
        let mut inputs = Vec::new();
        for path in paths {
            if path.as_os_str() == "-" {
                inputs.push(Self::Stdin);
            } else if fs::metadata(path)
                .map_err(|error| about(path, &error))?
                .is_dir()
            {
                walk(path, unfinished, &mut inputs)?;
            } else {
                inputs.push(Self::File(path.clone()));
            }
        }
        Ok(inputs)
    }

    /// Opens the input.
    ///
    /// # Errors
    ///
    /// If the file cannot be opened.
    pub fn open(&self) -> io::Result<Box<dyn Read>> {
        Ok(match self {
            Self::Stdin => Box::new(io::stdin().lock()),
            Self::File(path) => Box::new(File::open(path)?),
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
            Self::File(path) => path.display().fmt(formatter),
        }
    }
}

fn walk(directory: &Path, unfinished: bool, inputs: &mut Vec<Input>) -> io::Result<()> {
    let entries = fs::read_dir(directory).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let mut entries = entries.map_err(|error| about(directory, &error))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let path = entry.path();
        // A file that was renamed since the directory was read. It is left out.
        let Ok(metadata) = fs::metadata(&path) else {
            continue;
        };
        if name.starts_with('.') {
        } else if metadata.is_dir() {
            walk(&path, unfinished, inputs)?;
        } else if metadata.is_file() && (unfinished || !name.starts_with(UNFINISHED_PREFIX)) {
            inputs.push(Input::File(path));
        }
    }
    Ok(())
}

fn about(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(
            Input::list(&root, false).unwrap(),
            files(&["2026/01/ft-a", "2026/01/ft-b", "z"])
        );
        assert_eq!(
            Input::list(&root, true).unwrap(),
            files(&["2026/01/ft-a", "2026/01/ft-b", "2026/01/tmp-c", "z"])
        );
        assert_eq!(
            Input::list(&[at("2026/01/tmp-c")], false).unwrap(),
            files(&["2026/01/tmp-c"])
        );
    }

    #[test]
    fn no_path_and_a_dash_are_standard_input() {
        assert_eq!(Input::list(&[], false).unwrap(), [Input::Stdin]);
        assert_eq!(Input::list(&["-".into()], false).unwrap(), [Input::Stdin]);
    }

    #[test]
    fn a_missing_path_is_named() {
        let error = Input::list(&["/no/such".into()], false)
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("/no/such: "), "{error}");
    }
}
