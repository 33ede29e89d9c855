//! The keys of a configuration file, as the definition of the command line has them: clap's
//! `Command` says which options there are, what their values may be and what they are for.

use crate::logging::SHORTHANDS;
use clap::builder::{StyledStr, ValueParser};
use clap::{Arg, ArgAction, ArgMatches, Args, Command, value_parser};
use std::any::TypeId;
use std::ffi::{OsStr, OsString};
use std::num::{NonZeroU8, NonZeroU16, NonZeroU32, NonZeroU64, NonZeroUsize};
use std::path::PathBuf;

/// The options of a command, each of them a key.
pub struct Definition {
    command: Command,
    keys: Vec<Key>,
}

/// An option or a list of positional arguments, as a key.
pub struct Key {
    arg: Arg,
    /// What its value is.
    pub kind: Kind,
}

/// What the value of a key is, by the definition of its option.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// True or false: an option without a value.
    Flag,
    /// An array: an option that may be repeated.
    List,
    /// A number.
    Number,
    /// A string.
    Text,
    /// A string or a number, as its own parser reads it: a time, a list of cores.
    Either,
}

impl Definition {
    /// The keys of a command with these options.
    pub fn of<A: Args>() -> Self {
        let command = Command::new("xdprobe run")
            .no_binary_name(true)
            .disable_help_flag(true);
        let command = A::augment_args(command);
        let is_shorthand = |arg: &&Arg| SHORTHANDS.iter().any(|(id, ..)| arg.get_id() == id);
        let options = command.get_arguments().filter(|arg| !is_shorthand(arg));
        let keys: Vec<_> = options.cloned().map(Key::new).collect();
        let command = with_switches(command, &keys);
        Self { command, keys }
    }

    /// The keys: positional arguments first, then the options, in the order of the help.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        let is_positional = |key: &&Key| key.arg.is_positional();
        let options = self.keys.iter().filter(move |key| !is_positional(key));
        self.keys.iter().filter(is_positional).chain(options)
    }

    /// The key of this name.
    pub fn key(&self, name: &str) -> Option<&Key> {
        self.keys.iter().find(|key| key.name() == name)
    }

    /// The key that `name` is another word for, else the key whose name is most like it.
    pub fn nearest(&self, name: &str) -> Option<&Key> {
        // As the option is written on a command line, or as a key is in other programs.
        let dashed = name.trim_start_matches('-').replace('_', "-");
        let shorthand = SHORTHANDS.iter().find(|(id, ..)| *id == dashed);
        let shorthand = shorthand.and_then(|(_, key, _)| self.key(key));
        let is_short = |key: &&Key| {
            let short = key.arg.get_short();
            short.is_some_and(|short| dashed.chars().eq([short]))
        };
        let dashed_small = dashed.to_lowercase();
        let likeness =
            |key: &&Key| strsim::normalized_damerau_levenshtein(&dashed_small, key.name());
        let most_like = || {
            let keys = self.keys.iter();
            keys.max_by(|one, other| likeness(one).total_cmp(&likeness(other)))
        };
        shorthand
            .or_else(|| self.keys.iter().find(is_short))
            .or_else(most_like)
    }

    /// Whether only one of the two keys may be given.
    pub fn are_exclusive(&self, one: &Key, other: &Key) -> bool {
        let excludes = |one: &Key, other: &Key| {
            let excluded = self.command.get_arg_conflicts_with(&one.arg);
            excluded
                .iter()
                .any(|arg| arg.get_id() == other.arg.get_id())
        };
        excludes(one, other) || excludes(other, one)
    }

    /// The command line of these arguments.
    ///
    /// # Errors
    ///
    /// What is wrong with it, on one line.
    pub fn parse(&self, arguments: Vec<OsString>) -> Result<ArgMatches, String> {
        let command = self.command.clone();
        command
            .try_get_matches_from(arguments)
            .map_err(|error| on_one_line(&error))
    }

    /// The same command, whose flags take a value: a flag of a file is switched off by
    /// `--FLAG=false` on the command line.
    pub fn with_switches(&self, command: Command) -> Command {
        with_switches(command, &self.keys)
    }
}

impl Key {
    fn new(arg: Arg) -> Self {
        let kind = Kind::of(&arg);
        Self { arg, kind }
    }

    /// The option without its dashes; of positional arguments, what they are.
    pub fn name(&self) -> &str {
        self.arg.get_long().unwrap_or(self.id())
    }

    /// How texts about a command line name it.
    pub fn option(&self) -> String {
        match self.arg.get_long() {
            Some(long) => format!("--{long}"),
            None => self.value_name().to_owned(),
        }
    }

    /// Its name in clap's matches.
    pub fn id(&self) -> &str {
        self.arg.get_id().as_str()
    }

    /// Its values as arguments of a command line; those of positional arguments come last.
    pub fn arguments(&self, values: &[OsString]) -> Vec<OsString> {
        if self.arg.is_positional() && !values.is_empty() {
            return [&["--".into()], values].concat();
        }
        let argument = |value: &OsString| {
            let mut argument = OsString::from(format!("--{}=", self.name()));
            argument.push(value);
            argument
        };
        values.iter().map(argument).collect()
    }

    /// Checks one value by the parser of its option.
    ///
    /// # Errors
    ///
    /// What the command line says of it, on one line.
    pub fn check(&self, value: &OsStr) -> Result<(), String> {
        // Without what the option requires of others.
        let mut arg = Arg::new("value").value_parser(self.arg.get_value_parser().clone());
        if let Some(names) = self.arg.get_value_names() {
            arg = arg.value_names(names.to_vec());
        }
        if !self.arg.is_positional() {
            arg = arg.long(self.name().to_owned());
        }
        let command = Command::new("value").no_binary_name(true);
        let command = command.disable_help_flag(true).arg(arg);
        let checked = command.try_get_matches_from(self.arguments(&[value.to_owned()]));
        checked.map(|_| ()).map_err(|error| on_one_line(&error))
    }

    /// What it has unless it is given.
    pub fn defaults(&self) -> Vec<OsString> {
        match self.kind {
            Kind::Flag => vec!["false".into()],
            _ => self
                .arg
                .get_default_values()
                .iter()
                .map(OsString::from)
                .collect(),
        }
    }

    /// What a value is, as the help names it.
    pub fn value_name(&self) -> &str {
        let names = self.arg.get_value_names();
        names
            .and_then(<[_]>::first)
            .map_or("VALUE", |name| name.as_str())
    }

    /// The help, of which a line end is a space.
    pub fn help(&self) -> String {
        self.arg.get_help().map(plain).unwrap_or_default()
    }

    /// What is done where it is not given and has no default: `[default: THIS]` in its help.
    pub fn otherwise(&self) -> Option<String> {
        let help = self.help();
        let (_, otherwise) = help.split_once("[default: ")?;
        otherwise
            .split_once(']')
            .map(|(otherwise, _)| otherwise.to_owned())
    }

    /// The heading of its group in the help.
    pub fn heading(&self) -> Option<&str> {
        self.arg.get_help_heading()
    }

    /// The names that its value may have, and what each means, if there are only such.
    pub fn choices(&self) -> Vec<(String, String)> {
        let is_flag = self.kind == Kind::Flag;
        let choices = self.arg.get_value_parser().possible_values();
        let choices = choices.into_iter().flatten().filter(|_| !is_flag);
        choices
            .map(|choice| {
                let help = choice.get_help().map(plain).unwrap_or_default();
                (choice.get_name().to_owned(), help)
            })
            .collect()
    }
}

impl Kind {
    fn of(arg: &Arg) -> Self {
        let is_repeated = arg
            .get_num_args()
            .is_some_and(|count| count.max_values() > 1);
        let parser = arg.get_value_parser();
        match arg.get_action() {
            ArgAction::SetTrue | ArgAction::SetFalse => Self::Flag,
            ArgAction::Append => Self::List,
            _ if is_repeated => Self::List,
            _ if is_of(parser, &[TypeId::of::<bool>()]) => Self::Flag,
            _ if is_number(parser) && defaults_are_numbers(arg) => Self::Number,
            _ if is_text(parser) => Self::Text,
            _ => Self::Either,
        }
    }
}

fn is_of(parser: &ValueParser, types: &[TypeId]) -> bool {
    types.iter().any(|r#type| parser.type_id() == *r#type)
}

fn is_number(parser: &ValueParser) -> bool {
    let numbers = [
        TypeId::of::<u8>(),
        TypeId::of::<u16>(),
        TypeId::of::<u32>(),
        TypeId::of::<u64>(),
        TypeId::of::<usize>(),
        TypeId::of::<NonZeroU8>(),
        TypeId::of::<NonZeroU16>(),
        TypeId::of::<NonZeroU32>(),
        TypeId::of::<NonZeroU64>(),
        TypeId::of::<NonZeroUsize>(),
    ];
    is_of(parser, &numbers)
}

/// False where a number is written as something else, such as a ratio.
fn defaults_are_numbers(arg: &Arg) -> bool {
    let mut defaults = arg.get_default_values().iter();
    defaults.all(|value| {
        value
            .to_str()
            .is_some_and(|value| value.parse::<u64>().is_ok())
    })
}

fn is_text(parser: &ValueParser) -> bool {
    let texts = [
        TypeId::of::<String>(),
        TypeId::of::<OsString>(),
        TypeId::of::<PathBuf>(),
    ];
    is_of(parser, &texts) || parser.possible_values().is_some()
}

fn with_switches(command: Command, keys: &[Key]) -> Command {
    let flags = keys.iter().filter(|key| key.kind == Kind::Flag);
    flags.fold(command, |command, key| {
        command.mut_arg(key.id(), |arg| {
            arg.action(ArgAction::Set)
                .value_parser(value_parser!(bool))
                .num_args(0..=1)
                .require_equals(true)
                .default_value("false")
                .default_missing_value("true")
                .value_name("true|false")
                .hide_possible_values(true)
                .hide_default_value(true)
        })
    })
}

fn plain(text: &StyledStr) -> String {
    text.to_string()
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

/// What clap says of a command line, without the hints on usage that it ends with.
fn on_one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let is_hint = |line: &&str| line.starts_with("Usage:") || line.starts_with("For more");
    let lines = text
        .lines()
        .take_while(|line| !is_hint(line))
        .map(str::trim);
    let lines: Vec<_> = lines.filter(|line| !line.is_empty()).collect();
    lines.join("; ").replace("; [", " [")
}
