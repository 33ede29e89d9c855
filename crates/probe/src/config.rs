//! The configuration of a probe: the options of its command line, and below them those of a file.
//!
//! There is one definition, the options as clap has them. A file has a key for each of them, with
//! the same values. A [`Line`] is what a command line says; [`Effective`] is what is in force once
//! the file has been read: for each key the value of the command line, else that of the file, else
//! the default.

mod definition;
mod fault;
mod file;
mod render;
mod setting;

pub use fault::Faults;
pub use setting::{Changed, Setting};

use crate::logging::SHORTHANDS;
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args, Command, value_parser};
use definition::{Definition, Key};
use setting::{Origin, Value};
use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt::Write;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

/// The options `A` in force, from command line, file and defaults.
#[derive(Debug)]
pub struct Effective<A> {
    line: Line<A>,
    /// One for each key.
    settings: Vec<Setting>,
    /// The same, as clap has them.
    matches: ArgMatches,
}

impl<A: Args> Effective<A> {
    /// What is in force with this command line. Reads the configuration file, if the command line
    /// names one.
    ///
    /// An option of the command line replaces the file's value, also a whole list, and keys of the
    /// file that exclude this option.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with the file.
    pub fn load(line: Line<A>) -> Result<Self, Faults> {
        let definition = Definition::of::<A>();
        let settings = settings(&line, &definition)?;
        // Backwards, since positional arguments come first in a definition and last on a line. A
        // default is not given, since it would exclude what the option excludes.
        let given = definition.keys().zip(&settings).collect::<Vec<_>>();
        let given = given
            .iter()
            .rev()
            .filter(|(key, setting)| setting.value.texts() != key.defaults());
        let arguments = given.flat_map(|(key, setting)| key.arguments(setting.value.texts()));
        let matches = definition
            .parse(arguments.collect())
            .and_then(|matches| {
                A::from_arg_matches(&matches)
                    .map(|_| matches)
                    .map_err(|error| error.to_string())
            })
            .map_err(Faults::of_command_line)?;
        Ok(Self {
            line,
            settings,
            matches,
        })
    }

    /// What is in force if the file is read again.
    ///
    /// # Errors
    ///
    /// As [`Self::load`].
    pub fn reload(&self) -> Result<Self, Faults> {
        Self::load(self.line.clone())
    }

    /// A table of every key, its value and where the value is from.
    pub fn to_table(&self) -> String {
        render::table(&Definition::of::<A>(), &self.settings)
    }

    /// A configuration file with every key; defaults are commented out.
    pub fn to_toml(&self) -> String {
        render::toml(&Definition::of::<A>(), &self.settings)
    }

    /// The options.
    pub fn arguments(&self) -> A {
        A::from_arg_matches(&self.matches).expect("the same matches made options before")
    }
}

impl<A> Effective<A> {
    /// The configuration file.
    pub fn path(&self) -> Option<&Path> {
        self.line.path.as_deref()
    }

    /// Every key with its value and where the value is from.
    pub fn settings(&self) -> &[Setting] {
        &self.settings
    }

    /// The keys whose value differs in `new`.
    pub fn difference(&self, new: &Self) -> Vec<Changed> {
        let pairs = self.settings.iter().zip(&new.settings);
        let changed = pairs.filter(|(old, new)| old.value != new.value);
        changed
            .map(|(old, new)| Changed {
                key: old.key.clone(),
                from: old.value.clone(),
                to: new.value.clone(),
            })
            .collect()
    }

    /// An error text about options, and behind it where those that it names are set in the file.
    pub fn located(&self, mut error: String) -> String {
        let is_named = |setting: &&Setting| {
            let option = format!("--{}", setting.key);
            let mut found = error.match_indices(&option);
            found.any(|(at, _)| {
                let next = error[at + option.len()..].chars().next();
                next.is_none_or(|next| next != '-' && !next.is_alphanumeric())
            })
        };
        let named: Vec<_> = self.settings.iter().filter(is_named).collect();
        for setting in named {
            if let Origin::File { .. } = setting.origin {
                let _ = write!(error, "; {} is set in {}", setting.key, setting.origin);
            }
        }
        error
    }
}

/// Each key, from line, file and defaults.
fn settings<A>(line: &Line<A>, definition: &Definition) -> Result<Vec<Setting>, Faults> {
    let path = line.path.as_deref();
    let entries = path.map(|path| file::read(path, definition)).transpose()?;
    let entries = entries.unwrap_or_default();
    let given = |key: &Key| line.given.get(key.name());
    let is_excluded = |key: &Key| {
        let mut others = definition.keys().filter(|other| given(other).is_some());
        others.any(|other| definition.are_exclusive(key, other))
    };
    let setting = |key: &Key| {
        let entry = entries.iter().find(|entry| entry.key.name() == key.name());
        let (texts, origin) = match (given(key), entry, path) {
            (Some(texts), ..) => (texts.clone(), Origin::CommandLine),
            (None, Some(entry), Some(path)) if !is_excluded(key) => {
                let (path, line) = (path.to_owned(), entry.place.line);
                (entry.values.clone(), Origin::File { path, line })
            }
            _ => (key.defaults(), Origin::Default),
        };
        Setting {
            key: key.name().to_owned(),
            value: Value::new(key, texts),
            origin,
        }
    };
    Ok(definition.keys().map(setting).collect())
}

/// The options `A` as a command line gives them, and the file that may give others. As part of a
/// command line it has all options of `A`, and `--config`.
#[derive(Debug)]
pub struct Line<A> {
    path: Option<PathBuf>,
    /// What was given, by key.
    given: HashMap<String, Vec<OsString>>,
    options: PhantomData<A>,
}

impl<A> Line<A> {
    /// A command line that only names a file.
    pub fn of_file(path: PathBuf) -> Self {
        Self {
            path: Some(path),
            given: HashMap::new(),
            options: PhantomData,
        }
    }
}

impl<A> Clone for Line<A> {
    fn clone(&self) -> Self {
        Self {
            path: self.path.clone(),
            given: self.given.clone(),
            options: PhantomData,
        }
    }
}

impl<A: Args> Args for Line<A> {
    fn augment_args(command: Command) -> Command {
        let command = Definition::of::<A>().with_switches(A::augment_args(command));
        command.arg(
            Arg::new("config")
                .short('c')
                .long("config")
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .help_heading(None::<&str>)
                .help(
                    "Read options from this TOML file, whose keys are the long options; those of \
                     the command line win",
                ),
        )
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<A: Args> clap::FromArgMatches for Line<A> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let definition = Definition::of::<A>();
        let is_given =
            |key: &&Key| matches.value_source(key.id()) == Some(ValueSource::CommandLine);
        let given = definition.keys().filter(is_given).map(|key| {
            let texts = matches.get_raw(key.id()).into_iter().flatten();
            (key.name().to_owned(), texts.map(OsString::from).collect())
        });
        let shorthands = SHORTHANDS
            .into_iter()
            .filter(|(id, ..)| matches!(matches.try_get_one::<bool>(id), Ok(Some(true))));
        let shorthands =
            shorthands.map(|(_, key, value)| (key.to_owned(), vec![OsString::from(value)]));
        Ok(Self {
            path: matches.get_one("config").cloned(),
            given: given.chain(shorthands).collect(),
            options: PhantomData,
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
