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
use fault::Fault;
use setting::{Origin, Value};
use std::collections::HashMap;
use std::ffi::OsString;
use std::marker::PhantomData;
use std::path::PathBuf;

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

    /// An error text about options, each line with the places in the file that set the options
    /// which it names: the first before it, as with every fault of a file, others behind it.
    pub fn located(&self, error: &str) -> String {
        let lines = error.lines().map(|line| {
            let is_named = |setting: &&Setting| mentions(line, &setting.option);
            let mut named = self.settings.iter().filter(is_named).filter_map(|setting| {
                let Origin::File { path, place } = &setting.origin else {
                    return None;
                };
                Some((setting, path, *place))
            });
            let Some((_, path, place)) = named.next() else {
                return line.to_owned();
            };
            let others = named.map(|(setting, _, place)| {
                format!("; {} is set in line {}", setting.key, place.line)
            });
            let line = line.to_owned() + &others.collect::<String>();
            Fault::new(path, Some(place), line).to_string()
        });
        lines.collect::<Vec<_>>().join("\n")
    }
}

/// Whether a text has this word, and not only as a part of another option.
fn mentions(text: &str, option: &str) -> bool {
    text.match_indices(option).any(|(at, _)| {
        let next = text[at + option.len()..].chars().next();
        next.is_none_or(|next| next != '-' && !next.is_alphanumeric())
    })
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
                let (path, place) = (path.to_owned(), entry.place);
                (entry.values.clone(), Origin::File { path, place })
            }
            _ => (key.defaults(), Origin::Default),
        };
        Setting {
            key: key.name().to_owned(),
            option: key.option(),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::run::Arguments;
    use clap::Parser;
    use definition::Kind;
    use std::fs;
    use std::path::Path;
    use tempfile::TempDir;

    /// The name of the file in `load` and `faults`.
    const FILE: &str = "probe.toml";

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        line: Line<Arguments>,
    }

    /// What is in force with a file of this text and this command line.
    fn load(text: &str, line: &[&str]) -> Result<Effective<Arguments>, String> {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join(FILE);
        fs::write(&path, text).unwrap();
        let arguments = ["run", "-c", path.to_str().unwrap()];
        let program = Program::try_parse_from([&arguments, line].concat());
        let folder = format!("{}/", folder.path().display());
        let without_folder = |faults: String| faults.replace(&folder, "");
        Effective::load(program.map_err(|error| error.to_string())?.line)
            .map_err(|faults| without_folder(faults.to_string()))
    }

    fn faults(text: &str) -> Vec<String> {
        let faults = load(text, &[]).expect_err(text);
        faults.lines().map(str::to_owned).collect()
    }

    fn value(effective: &Effective<Arguments>, key: &str) -> String {
        let mut settings = effective.settings().iter();
        let setting = settings.find(|setting| setting.key == key).unwrap();
        let from = match setting.origin {
            Origin::Default => "default",
            Origin::File { .. } => "file",
            Origin::CommandLine => "line",
        };
        format!("{} {from}", setting.value)
    }

    #[test]
    fn the_command_line_wins_over_the_file_and_the_file_over_the_default() {
        let file = "interface = [\"tap0\", \"tap1\"]\nlinger = 3\nbusy-poll = true\nring = 0x400\n";
        let effective = load(file, &["--linger=2s"]).unwrap();
        for (key, expected) in [
            ("interface", "[\"tap0\", \"tap1\"] file"),
            ("linger", "\"2s\" line"),
            ("busy-poll", "true file"),
            ("ring", "1024 file"),
            ("idle-timeout", "\"15s\" default"),
            ("cores", "none default"),
            ("collectors", "[] default"),
        ] {
            assert_eq!(value(&effective, key), expected);
        }
        // A list is replaced, not added to; a flag is switched off.
        let line = ["-i", "tap9", "--busy-poll=false", "192.0.2.9:2055"];
        let effective = load(file, &line).unwrap();
        assert_eq!(value(&effective, "interface"), "[\"tap9\"] line");
        assert_eq!(value(&effective, "busy-poll"), "false line");
        assert_eq!(value(&effective, "collectors"), "[\"192.0.2.9:2055\"] line");
    }

    #[test]
    fn an_option_removes_keys_of_the_file_that_exclude_it() {
        let effective = load("interface = [\"tap0\"]\n", &["-r", "x.pcap"]).unwrap();
        assert_eq!(value(&effective, "interface"), "[] default");
        assert_eq!(value(&effective, "read"), "\"x.pcap\" line");
        let effective = load("log-level = \"error\"\n", &["-v"]).unwrap();
        assert_eq!(value(&effective, "log-level"), "\"debug\" line");
        assert_eq!(
            faults("read = \"x\"\n\n interface = [\"tap0\"]\n"),
            [
                "probe.toml:3:2: interface and read (line 1) exclude each other: expected only \
                 one of them"
            ]
        );
    }

    #[test]
    fn all_faults_are_reported_each_with_its_place() {
        let file = "é = 1\nlinger = \"soon\"\n  ring = 1000 # é\n\
                    source = [\"192.0.2.7\", \"é\"]\n\
                    mode = zero\nlinger = 1\n[export]\nttl = 0\n";
        let starts = [
            "probe.toml:1:1: string",
            "probe.toml:2:10: invalid value 'soon' for '--linger <TIME>': 'soon' is not a time",
            "probe.toml:3:10: invalid value '1000' for '--ring <N>': '1000' is not a ring size",
            "probe.toml:4:24: invalid value 'é' for '--source <ADDR[:PORT]>'",
            "probe.toml:5:8: string values must be quoted",
            "probe.toml:6:1: duplicate key 'linger': it is set in line 2",
            "probe.toml:7:2: found the table 'export', expected no table",
            "probe.toml:8:7: invalid value '0' for '--ttl <N>': 0 is not in 1..=255",
        ];
        let faults = faults(file);
        assert_eq!(faults.len(), starts.len(), "{faults:#?}");
        for (fault, start) in faults.iter().zip(starts).skip(1) {
            assert!(fault.starts_with(start), "{fault}");
        }
    }

    #[test]
    fn what_is_no_configuration_file_is_refused_on_one_line() {
        let folder = TempDir::new().unwrap();
        let load = |path: &Path| {
            let line = Line::<Arguments>::of_file(path.to_owned());
            Effective::load(line).unwrap_err().to_string()
        };
        let file = folder.path().join("file");
        assert!(load(&file).contains("cannot be read: No such file"));
        assert!(load(folder.path()).contains("it is a directory, expected a regular file"));
        assert!(load(Path::new("/dev/zero")).contains("it is a device, expected a regular file"));
        fs::write(&file, "\n".repeat((1 << 20) + 1)).unwrap();
        assert!(load(&file).contains("expected at most 1048576 octets"));
        fs::write(&file, b"ring = 1024\nmode = \"\xff\"").unwrap();
        assert!(load(&file).ends_with(":2:9: found the octet 0xff, expected text in UTF-8"));
        fs::write(&file, "x = \n".repeat(10_000)).unwrap();
        assert_eq!(load(&file).lines().count(), 101);
    }

    /// A value of a type that the key does not have.
    fn of_wrong_types(kind: Kind) -> &'static [&'static str] {
        match kind {
            Kind::Flag => &["\"true\"", "1", "[true]", "{}"],
            Kind::List => &["\"x\"", "1", "true", "[1]", "[true]", "[[]]", "{}"],
            Kind::Number => &["\"1\"", "true", "1.0", "[1]", "{}"],
            Kind::Text => &["1", "true", "1.0", "[\"x\"]", "1979-05-27", "{}"],
            Kind::Either => &["true", "1.5", "[\"x\"]", "1979-05-27", "{}"],
        }
    }

    #[test]
    fn every_key_is_refused_with_a_wrong_type() {
        for key in Definition::of::<Arguments>().keys() {
            for wrong in of_wrong_types(key.kind) {
                let faults = faults(&format!("# \n{} = {wrong}\n", key.name()));
                let (start, found) = ("probe.toml:2:", format!(": {}: found ", key.name()));
                let fault = faults[0].as_str();
                assert!(
                    fault.starts_with(start) && fault.contains(&found),
                    "{fault}"
                );
                assert!(
                    faults.len() == 1 && fault.contains(", expected "),
                    "{faults:?}"
                );
            }
        }
    }

    #[test]
    fn every_key_is_refused_with_a_value_out_of_range() {
        // Of these keys any text is a value: what it names is looked for when the probe starts.
        let mut any = vec![
            "interface",
            "read",
            "filter",
            "rules",
            "prefixes",
            "bind-device",
            "control-group",
        ];
        for key in Definition::of::<Arguments>().keys() {
            let values: &[_] = match key.kind {
                // Its only values are true and false.
                Kind::Flag => continue,
                Kind::Number => &["-1", "99999999999999999999"],
                Kind::List => &["[\"\"]", "[\"?\"]"],
                Kind::Text => &["\"\"", "\"?\""],
                Kind::Either => &["-1", "\"\"", "\"?\"", "99999999999999999999"],
            };
            for value in values {
                let text = format!("{} = {value}\n", key.name());
                if any.contains(&key.name()) {
                    continue;
                }
                let faults = faults(&text);
                let fault = &faults[0];
                assert!(fault.starts_with("probe.toml:1:"), "{fault}");
                assert!(
                    faults.len() == 1 && fault.contains(&key.option()),
                    "{faults:?}"
                );
            }
            any.retain(|name| *name != key.name());
        }
        assert!(any.is_empty(), "no such keys: {any:?}");
    }

    #[test]
    fn a_misspelling_of_every_key_is_answered_with_the_key() {
        let definition = Definition::of::<Arguments>();
        for key in definition.keys() {
            let name = key.name();
            let end = name.len() - 1;
            let swapped = format!("{}{}{}", &name[1..2], &name[..1], &name[2..]);
            let misspellings = [
                name[..end].to_owned(),
                format!("{name}x"),
                format!("{}{}", &name[..1], &name[2..]),
                name.to_uppercase(),
                swapped,
                name.replace('-', "_"),
            ];
            for misspelling in misspellings {
                if definition.key(&misspelling).is_some() {
                    continue;
                }
                let faults = faults(&format!("{misspelling} = 1\n"));
                let expected = format!(
                    "probe.toml:1:1: unknown key '{misspelling}': expected a long option of \
                     xdprobe run; the nearest is '{name}'"
                );
                assert_eq!(faults, [expected]);
            }
        }
    }

    #[test]
    fn another_word_for_a_key_is_answered_with_the_key() {
        for (word, key) in [
            ("i", "interface"),
            ("-i", "interface"),
            ("verbose", "log-level"),
            ("quiet", "log-level"),
            ("--log_format", "log-format"),
        ] {
            let faults = faults(&format!("\"{word}\" = 1\n"));
            assert!(
                faults[0].ends_with(&format!("the nearest is '{key}'")),
                "{faults:?}"
            );
        }
    }

    #[test]
    fn the_example_has_every_key_with_its_default_and_its_help() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs/xdprobe.toml");
        let line = Line {
            path: None,
            given: HashMap::new(),
            options: PhantomData::<Arguments>,
        };
        let example = fs::read_to_string(path).unwrap_or_default();
        assert!(
            example == Effective::load(line).unwrap().to_toml(),
            "configs/xdprobe.toml is out of date; write it again: \
             cargo run -p xdprobe -- config show --toml > configs/xdprobe.toml"
        );
    }

    #[test]
    fn every_default_may_be_written_into_a_file_and_changes_nothing() {
        let nothing = load("", &[]).unwrap();
        let rendered = nothing.to_toml();
        let is_key = |line: &&str| line.starts_with('#') && !line.starts_with("# ");
        let keys: Vec<_> = rendered
            .lines()
            .filter(is_key)
            .map(|line| &line[1..])
            .collect();
        assert_eq!(keys.len(), nothing.settings().len());
        let defaults = keys.into_iter().filter(|line| !line.contains('<'));
        let effective = load(&defaults.collect::<Vec<_>>().join("\n"), &[]).unwrap();
        assert!(nothing.difference(&effective).is_empty());
    }

    #[test]
    fn what_is_shown_as_toml_is_the_same_configuration() {
        let line = [
            "-i",
            "a\"b\\c\n\u{7f}é",
            "--ring=64",
            "--busy-poll",
            "-q",
            "-f",
            "tcp",
            "[::1]:9",
        ];
        let effective = load("", &line).unwrap();
        let again = load(&effective.to_toml(), &[]).unwrap();
        assert!(effective.difference(&again).is_empty());
        assert_eq!(again.difference(&load("", &[]).unwrap()).len(), 6);
    }

    #[test]
    fn what_a_reload_changes_is_known_by_key() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join(FILE);
        fs::write(&path, "linger = 1\ninterface = [\"a\"]\n").unwrap();
        let old = Effective::load(Line::<Arguments>::of_file(path.clone())).unwrap();
        fs::write(&path, "ttl = 9\ninterface = [\"a\", \"b\"]\n").unwrap();
        let new = old.reload().unwrap();
        let changed = old.difference(&new);
        let changed: Vec<_> = changed.iter().map(ToString::to_string).collect();
        assert_eq!(
            changed,
            [
                "interface: [\"a\"] -> [\"a\", \"b\"]",
                "linger: 1 -> \"1s\"",
                "ttl: none -> 9"
            ]
        );
        fs::write(&path, "ttl = 0\n").unwrap();
        assert!(new.reload().is_err());
    }

    #[test]
    fn what_options_contradict_is_located_in_the_file() {
        let file = "active-timeout = \"1s\"\n  idle-timeout = \"2s\"\n";
        let located = load(file, &[])
            .unwrap()
            .located("--idle-timeout is above --active-timeout");
        assert!(
            located.ends_with(
                "probe.toml:1:1: --idle-timeout is above --active-timeout; idle-timeout is set in \
                 line 2"
            ),
            "{located}"
        );
        let effective = load(file, &["--idle-timeout=3s", "--active-timeout=2s"]).unwrap();
        assert_eq!(effective.located("--idle-timeout"), "--idle-timeout");
    }

    #[test]
    fn settings_are_flat_json_objects() {
        let effective = load("\nring = 64\n", &[]).unwrap();
        let json = |key: &str| {
            let mut settings = effective.settings().iter();
            let setting = settings.find(|setting| setting.key == key).unwrap();
            let mut json = serde_json::to_value(setting).unwrap();
            json.as_object_mut().unwrap().remove("path");
            json.to_string()
        };
        assert_eq!(
            json("ring"),
            r#"{"column":1,"from":"file","key":"ring","line":2,"value":64}"#
        );
        assert_eq!(
            json("cores"),
            r#"{"from":"default","key":"cores","value":null}"#
        );
        assert_eq!(
            json("interface"),
            r#"{"from":"default","key":"interface","value":[]}"#
        );
    }
}
