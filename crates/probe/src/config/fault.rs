//! What is wrong with a configuration, and where.

use crate::logging::OneLine;
use serde::Serialize;
use std::fmt;
use std::path::{Path, PathBuf};

/// All that is wrong with a configuration; displayed with one line for each fault.
#[derive(Debug, thiserror::Error)]
pub struct Faults(Vec<Fault>);

/// One thing that is wrong: what was found, and what was expected.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Fault {
    /// The file that it is in; none for the command line.
    path: Option<PathBuf>,
    place: Option<Place>,
    text: String,
}

/// A place in a file: line and column, both from 1. Columns count characters.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

impl Faults {
    /// An error if there are any.
    ///
    /// # Errors
    ///
    /// The faults, at least one.
    pub fn none_of(faults: Vec<Fault>) -> Result<(), Self> {
        if faults.is_empty() {
            Ok(())
        } else {
            Err(Self(faults))
        }
    }

    /// A fault in a whole command line.
    pub fn of_command_line(text: String) -> Self {
        let (path, place) = (None, None);
        Self(vec![Fault { path, place, text }])
    }
}

impl From<Fault> for Faults {
    fn from(fault: Fault) -> Self {
        Self(vec![fault])
    }
}

impl Fault {
    /// A fault in a file.
    pub fn new(path: &Path, place: Option<Place>, text: String) -> Self {
        Self {
            path: Some(path.to_owned()),
            place,
            text,
        }
    }

    /// Where it is.
    pub fn place(&self) -> Option<Place> {
        self.place
    }

    /// The line that it is in.
    pub fn line(&self) -> Option<usize> {
        self.place.map(|place| place.line)
    }
}

impl Place {
    /// The place of the octet at `at`.
    pub fn of(text: &str, at: usize) -> Self {
        let before = text.get(..at).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Self {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// More than that have one cause: what was read is no configuration file.
        const LINES_MAX: usize = 100;
        for (nth, fault) in self.0.iter().take(LINES_MAX).enumerate() {
            let line_end = if nth == 0 { "" } else { "\n" };
            write!(formatter, "{line_end}{fault}")?;
        }
        match self.0.len().saturating_sub(LINES_MAX) {
            0 => Ok(()),
            more => write!(formatter, "\nand {more} faults more"),
        }
    }
}

/// `FILE:LINE:COLUMN: TEXT`, as compilers report.
impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = &self.path {
            write!(formatter, "{}:", OneLine(&path.to_string_lossy()))?;
        }
        if let Some(Place { line, column }) = self.place {
            write!(formatter, "{line}:{column}:")?;
        }
        let space = if self.path.is_some() { " " } else { "" };
        write!(formatter, "{space}{}", OneLine(&self.text))
    }
}
