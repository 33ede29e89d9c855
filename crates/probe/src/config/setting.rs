//! A key, its value, and where the value is from.

use super::definition::{Key, Kind};
use super::fault::Place;
use crate::logging::OneLine;
use serde::{Serialize, Serializer};
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use toml::Value as TomlValue;

/// A key with the value that is in force. As JSON, a flat object: `key`, `value` (null if there is
/// none), `from` (`default`, `file` or `command_line`), and of a file `path`, `line` and `column`.
#[derive(Clone, Debug, Serialize)]
pub struct Setting {
    /// The key.
    pub key: String,
    /// How texts name it: `--idle-timeout`, `COLLECTOR`.
    #[serde(skip)]
    pub option: String,
    /// Its value.
    pub value: Value,
    /// Where the value is from.
    #[serde(flatten)]
    pub origin: Origin,
}

/// Where a value is from.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(tag = "from", rename_all = "snake_case")]
pub enum Origin {
    /// The program.
    Default,
    /// The configuration file.
    File {
        /// Its path.
        path: PathBuf,
        /// Where the key is.
        #[serde(flatten)]
        place: Place,
    },
    /// The command line.
    CommandLine,
}

/// A value, by the text of which it consists. Two are equal if their texts are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Value {
    kind: Kind,
    texts: Vec<OsString>,
}

/// A key whose value differs between two configurations.
#[derive(Clone, Debug, Serialize)]
pub struct Changed {
    /// The key.
    pub key: String,
    /// The old value.
    pub from: Value,
    /// The new value.
    pub to: Value,
}

impl Setting {
    /// Whether the value is that of the file.
    pub fn is_of_file(&self) -> bool {
        matches!(self.origin, Origin::File { .. })
    }

    /// Whether the key has a value: a list may be empty, and an option may be left out.
    pub fn has_value(&self) -> bool {
        !self.value.texts.is_empty()
    }
}

impl Value {
    /// The value of a key: as many texts as it has values.
    pub fn new(key: &Key, texts: Vec<OsString>) -> Self {
        let kind = key.kind;
        Self { kind, texts }
    }

    /// Its texts, as they are on a command line.
    pub fn texts(&self) -> &[OsString] {
        &self.texts
    }

    /// The value as TOML; none where there is none.
    pub fn to_toml(&self) -> Option<TomlValue> {
        if self.kind == Kind::List {
            let texts = self.texts.iter().map(|text| self.one_to_toml(text));
            return Some(TomlValue::Array(texts.collect()));
        }
        self.texts.last().map(|text| self.one_to_toml(text))
    }

    fn one_to_toml(&self, text: &OsString) -> TomlValue {
        let text = text.to_string_lossy();
        let number = text
            .parse()
            .ok()
            .filter(|number: &i64| number.to_string() == text);
        match (self.kind, number) {
            (Kind::Flag, _) => TomlValue::Boolean(text == "true"),
            (Kind::Number | Kind::Either, Some(number)) => TomlValue::Integer(number),
            _ => TomlValue::String(text.into_owned()),
        }
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_toml().serialize(serializer)
    }
}

/// The value as TOML, or `none`.
impl fmt::Display for Value {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to_toml() {
            Some(value) => write!(formatter, "{value}"),
            None => write!(formatter, "none"),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => write!(formatter, "default"),
            Self::File { path, place } => {
                let path = path.to_string_lossy();
                write!(formatter, "{}:{}", OneLine(&path), place.line)
            }
            Self::CommandLine => write!(formatter, "command line"),
        }
    }
}

/// `KEY: OLD -> NEW`.
impl fmt::Display for Changed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {} -> {}", self.key, self.from, self.to)
    }
}
