//! The text files of the workspace and their lines.

use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};

/// The columns that a line may have.
pub const COLUMNS_MAX: usize = 100;

pub fn is_long_by_an_address(line: &str) -> bool {
    let words = line.split(' ').filter(|word| word.contains("://"));
    let longest = words.map(|word| word.chars().count()).max().unwrap_or(0);
    line.chars().count() - longest <= COLUMNS_MAX
}

/// The source and text files of the workspace, relative to its root. Dated results are records and
/// stay as they were written.
pub fn text_files() -> impl Iterator<Item = PathBuf> {
    const FOLDERS: [&str; 7] = [
        "crates", "benches", "fuzz", "docs", "scripts", "configs", ".ci",
    ];
    const SKIPPED: [&str; 3] = ["target", "results", "__pycache__"];
    let mut found = Vec::new();
    let mut folders: Vec<_> = FOLDERS.iter().map(|name| root().join(name)).collect();
    let in_root = fs::read_dir(root())
        .unwrap()
        .map(|entry| entry.unwrap().path());
    found.extend(in_root.filter(|path| path.extension().is_some() && path.is_file()));
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if !path.is_dir() {
                found.push(path);
            } else if !SKIPPED.contains(&last_part(&path).as_str()) {
                folders.push(path);
            }
        }
    }
    found.retain(|path| match path.extension() {
        Some(extension) => ["rs", "md", "c", "h", "py", "sh", "toml"]
            .iter()
            .any(|known| extension == *known),
        None => true,
    });
    found.sort();
    found.into_iter().map(|path| relative(&path))
}

pub fn is_rust(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension == "rs")
}

pub fn numbered_lines(file: &Path) -> Vec<(usize, String)> {
    let numbered = |(at, line): (usize, &str)| (at + 1, line.to_owned());
    read(file).lines().enumerate().map(numbered).collect()
}

pub fn read(file: &Path) -> String {
    let path = root().join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .expect("this crate is in crates/lab")
}

pub fn relative(path: &Path) -> PathBuf {
    path.strip_prefix(root()).unwrap_or(path).to_owned()
}

pub fn last_part(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

pub fn tokens_of(text: &str) -> Vec<TokenTree> {
    text.parse::<TokenStream>().unwrap().into_iter().collect()
}

/// Where a string literal begins and ends: line and column, both from 0.
pub struct StringLiteral {
    start: (usize, usize),
    end: (usize, usize),
}

impl StringLiteral {
    pub fn all(text: &str) -> Vec<Self> {
        let mut found = Vec::new();
        let mut waiting = tokens_of(text);
        while let Some(token) = waiting.pop() {
            match token {
                TokenTree::Group(group) => waiting.extend(group.stream()),
                // A doc comment is a literal as well, but its source begins with a slash.
                TokenTree::Literal(literal)
                    if literal.to_string().ends_with(['"', '#'])
                        && !literal.span().source_text().unwrap().starts_with('/') =>
                {
                    let (start, end) = (literal.span().start(), literal.span().end());
                    found.push(Self {
                        start: (start.line - 1, start.column),
                        end: (end.line - 1, end.column),
                    });
                }
                _ => {}
            }
        }
        found
    }

    /// Whether this literal makes the line too long: it begins within the columns that a line may
    /// have, and only punctuation follows it.
    pub fn ends_line(&self, number: usize, line: &str) -> bool {
        let begins_in_time = self.start <= (number, COLUMNS_MAX);
        let end = if self.end.0 == number {
            self.end.1
        } else {
            usize::MAX
        };
        let is_punctuation = |character: char| ")]};,?".contains(character);
        begins_in_time && self.end.0 >= number && line.chars().skip(end).all(is_punctuation)
    }
}
