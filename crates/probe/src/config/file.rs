//! A configuration file: TOML of one level, whose keys are options. It is read as far as possible,
//! so that all its faults are known at once.

use super::definition::{Definition, Key, Kind};
use super::fault::{Fault, Faults, Place};
use super::setting::Value;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::Read;
use std::mem;
use std::path::Path;
use toml::Spanned;
use toml::de::{DeArray, DeInteger, DeTable, DeValue};
use xdprobe_pipeline::tables::open_regular;

/// A key of a file, whose values are valid one by one.
pub struct Entry<'a> {
    /// The key.
    pub key: &'a Key,
    /// Its values, as they are on a command line.
    pub values: Vec<OsString>,
    /// Where the key is.
    pub place: Place,
}

/// Reads a file.
///
/// # Errors
///
/// If it cannot be read, and else everything that is wrong with it: with the syntax, with the name
/// of a key, with the type of a value, with a value, or with two keys of which only one may be set.
pub fn read<'a>(path: &Path, definition: &'a Definition) -> Result<Vec<Entry<'a>>, Faults> {
    let text = read_text(path)?;
    let mut reader = Reader {
        path,
        text: &text,
        definition,
        entries: Vec::new(),
        faults: Vec::new(),
    };
    reader.read();
    Faults::none_of(reader.faults).map(|()| reader.entries)
}

fn read_text(path: &Path) -> Result<String, Faults> {
    /// Far more than every key and comment; a device or a log is longer.
    const OCTETS_MAX: u64 = 1 << 20;
    let fault = |text: String| Faults::from(Fault::new(path, None, text));
    let unread = |error| fault(format!("this configuration file cannot be read: {error}"));
    let mut octets = Vec::new();
    let file = open_regular(path).map_err(unread)?;
    file.take(OCTETS_MAX + 1)
        .read_to_end(&mut octets)
        .map_err(unread)?;
    if octets.len() as u64 > OCTETS_MAX {
        return Err(fault(format!(
            "this is no configuration file: expected at most {OCTETS_MAX} octets"
        )));
    }
    String::from_utf8(octets).map_err(|error| {
        let valid = String::from_utf8_lossy(&error.as_bytes()[..error.utf8_error().valid_up_to()]);
        let octet = error.as_bytes()[valid.len()];
        let place = Place::of(&valid, valid.len());
        let text = format!("found the octet {octet:#04x}, expected text in UTF-8");
        Faults::from(Fault::new(path, Some(place), text))
    })
}

/// A file that is being read.
struct Reader<'a, 'b> {
    path: &'b Path,
    text: &'b str,
    definition: &'a Definition,
    entries: Vec<Entry<'a>>,
    faults: Vec<Fault>,
}

impl<'a> Reader<'a, '_> {
    fn read(&mut self) {
        let (table, errors) = DeTable::parse_recoverable(self.text);
        let table = table.get_ref();
        for error in errors {
            let span = error.span().unwrap_or_default();
            let found = self.text.get(span.clone()).unwrap_or_default();
            let text = match table.get_key_value(found) {
                Some((first, _)) if error.message() == "duplicate key" => {
                    let line = Place::of(self.text, first.span().start).line;
                    format!("duplicate key '{found}': it is set in line {line}")
                }
                _ => syntax_fault(error.message(), found),
            };
            self.refuse(span.start, text);
        }
        // One in each line: others, and what was made of such a line, only follow from it.
        self.faults.sort_by_key(Fault::place);
        self.faults.dedup_by_key(|fault| fault.line());
        let syntax = mem::take(&mut self.faults);
        let broken: BTreeSet<_> = syntax.iter().map(Fault::line).collect();
        self.read_table(table);
        self.check_exclusive();
        self.faults.retain(|fault| !broken.contains(&fault.line()));
        self.faults.extend(syntax);
        self.faults.sort_by_key(Fault::place);
    }

    fn read_table(&mut self, table: &DeTable) {
        for (name, value) in table {
            let at = name.span().start;
            match (self.definition.key(name.get_ref()), value.get_ref()) {
                (Some(key), _) => self.read_value(key, at, value),
                (None, DeValue::Table(inner)) => {
                    self.refuse(
                        at,
                        format!(
                            "found the table '{}', expected no table: remove its heading, since \
                             all keys are on one level",
                            name.get_ref()
                        ),
                    );
                    self.read_table(inner);
                }
                (None, _) => {
                    let nearest = self.definition.nearest(name.get_ref());
                    let nearest = nearest.map_or("", Key::name);
                    self.refuse(
                        at,
                        format!(
                            "unknown key '{}': expected a long option of xdprobe run; the nearest \
                             is '{nearest}'",
                            name.get_ref()
                        ),
                    );
                }
            }
        }
    }

    fn read_value(&mut self, key: &'a Key, at: usize, value: &Spanned<DeValue>) {
        let faults_before = self.faults.len();
        let values = match (key.kind, value.get_ref()) {
            (Kind::List, DeValue::Array(array)) => self.read_array(key, array),
            _ => self.read_one(key, key.kind, value).into_iter().collect(),
        };
        if self.faults.len() == faults_before {
            let place = Place::of(self.text, at);
            self.entries.push(Entry { key, values, place });
        }
    }

    fn read_array(&mut self, key: &Key, array: &DeArray) -> Vec<OsString> {
        let elements = array.iter();
        elements
            .filter_map(|element| self.read_one(key, Kind::Text, element))
            .collect()
    }

    /// The text of a value of this kind, unless there is something wrong with it.
    fn read_one(&mut self, key: &Key, kind: Kind, value: &Spanned<DeValue>) -> Option<OsString> {
        let at = value.span().start;
        let text = match (kind, value.get_ref()) {
            (Kind::Flag, DeValue::Boolean(is_set)) => is_set.to_string(),
            (Kind::Text | Kind::Either, DeValue::String(text)) => text.clone().into_owned(),
            (Kind::Number | Kind::Either, DeValue::Integer(number)) => decimal(number),
            (_, found) => {
                let name = key.name();
                let (found, expected) = (describe(found), expected(key, kind, found));
                self.refuse(at, format!("{name}: found {found}, expected {expected}"));
                return None;
            }
        };
        let text = OsString::from(text);
        if let Err(fault) = key.check(&text) {
            self.refuse(at, fault);
            return None;
        }
        Some(text)
    }

    fn check_exclusive(&mut self) {
        self.entries.sort_by_key(|entry| entry.place);
        for (nth, entry) in self.entries.iter().enumerate() {
            for before in &self.entries[..nth] {
                let are_set = !before.values.is_empty() && !entry.values.is_empty();
                if are_set && self.definition.are_exclusive(before.key, entry.key) {
                    let text = format!(
                        "{} and {} (line {}) exclude each other: expected only one of them",
                        entry.key.name(),
                        before.key.name(),
                        before.place.line
                    );
                    self.faults
                        .push(Fault::new(self.path, Some(entry.place), text));
                }
            }
        }
    }

    fn refuse(&mut self, at: usize, text: String) {
        let place = Place::of(self.text, at);
        self.faults.push(Fault::new(self.path, Some(place), text));
    }
}

/// A number as it is on a command line: TOML also has hexadecimal, octal and binary ones.
fn decimal(number: &DeInteger) -> String {
    let value = i128::from_str_radix(number.as_str(), number.radix());
    value.map_or_else(|_| number.to_string(), |value| value.to_string())
}

fn describe(value: &DeValue) -> String {
    match value {
        DeValue::String(text) => format!("the string {}", toml::Value::from(&**text)),
        DeValue::Integer(number) => format!("the number {number}"),
        DeValue::Float(number) => format!("the number {number}"),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(time) => format!("the date {time}"),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

fn expected(key: &Key, kind: Kind, found: &DeValue) -> String {
    let what = match (kind, found) {
        (Kind::Flag, _) => return "true or false".to_owned(),
        (Kind::List, DeValue::String(text)) => {
            return format!("a list of strings, as in [{}]", toml::Value::from(&**text));
        }
        (Kind::List, _) => return format!("a list of strings: [\"{}\"]", key.value_name()),
        (Kind::Number, DeValue::Float(_)) => "a whole number",
        (Kind::Number, _) => "a number without quotes",
        (Kind::Text, _) => "a string in quotes",
        (Kind::Either, DeValue::Float(_)) => "a string in quotes or a whole number",
        (Kind::Either, _) => "a string or a number",
    };
    let choices = key.choices().into_iter().map(|(name, _)| name);
    let choices = choices.collect::<Vec<_>>().join(", ");
    match Value::new(key, key.defaults()).to_toml() {
        _ if !choices.is_empty() => format!("{what}: one of {choices}"),
        Some(default) if key.kind != Kind::List => format!("{what}, as in {default}"),
        _ => what.to_owned(),
    }
}

/// What the parser says, with what it found if that is a part of a line.
fn syntax_fault(message: &str, found: &str) -> String {
    /// A longer part is a value, not the fault in it.
    const FOUND_MAX: usize = 40;
    let message = message
        .lines()
        .map(str::trim)
        .collect::<Vec<_>>()
        .join("; ");
    let is_short = (1..=FOUND_MAX).contains(&found.len()) && !found.contains(['\r', '\n']);
    if is_short {
        format!("{message}; found {found}")
    } else {
        message
    }
}
