//! Tables that an operator gives and may change while the probe runs: rules for interfaces, and
//! routes.
//!
//! Workers get new rules through their mailboxes, the exporter finds new tables with its next
//! batch; neither waits. A bad file leaves the old table in force.

use crate::error::TablesError;
use crate::mailbox::{Postbox, Request};
use crate::rules::Rules;
use nix::fcntl::OFlag;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;
use xdprobe_collect::printable;
use xdprobe_export::{DetailTables, RouteTable, TableError};
use xdprobe_flow::{PointRules, Points};

/// The files that tables are read from.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct TableFiles {
    /// Rules for input and output interface.
    pub rules: Option<PathBuf>,
    /// Routes by prefix.
    pub prefixes: Option<PathBuf>,
}

/// The tables in force. Copies are the same.
#[derive(Clone, Default)]
pub struct Tables {
    details: Arc<DetailTables>,
    metering: Arc<Mutex<Metering>>,
}

/// What workers go by.
#[derive(Default)]
struct Metering {
    /// The file that the rules come from.
    path: Option<PathBuf>,
    rules: Rules,
    points: Points,
    interfaces: Vec<InterfacePoints>,
}

/// The observation points of one interface, and its workers.
struct InterfacePoints {
    name: String,
    input: u16,
    rules: Arc<PointRules>,
    workers: Vec<Postbox>,
}

impl Tables {
    /// The tables of the files.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong with one of them, with its name and line.
    pub fn read(files: &TableFiles) -> Result<Self, TablesError> {
        let tables = Self::default();
        match tables.put_in_force(files).into_iter().next() {
            Some(error) => Err(error),
            None => Ok(tables),
        }
    }

    /// What is wrong with the files, without putting them in force.
    #[must_use]
    pub fn check(files: &TableFiles) -> Vec<TablesError> {
        let wrong = [read_rules(files).err(), read_prefixes(files).err()];
        wrong.into_iter().flatten().collect()
    }

    /// Reads files again and puts what they say in force, without a file nothing. If anything is
    /// wrong it is returned, and what was in force stays in force.
    #[must_use]
    pub fn reload(&self, files: &TableFiles) -> Vec<TablesError> {
        let wrong = self.put_in_force(files);
        self.warn_of_unused_rules();
        wrong
    }

    fn put_in_force(&self, files: &TableFiles) -> Vec<TablesError> {
        let (rules, routes) = match (read_rules(files), read_prefixes(files)) {
            (Ok(rules), Ok(routes)) => (rules, routes),
            (rules, routes) => return rules.err().into_iter().chain(routes.err()).collect(),
        };
        if let Err(error) = self.set_rules(rules, files.rules.as_deref()) {
            return vec![error];
        }
        self.set_routes(routes, files.prefixes.as_deref());
        Vec::new()
    }

    /// What the exporter goes by.
    #[must_use]
    pub fn details(&self) -> Arc<DetailTables> {
        Arc::clone(&self.details)
    }

    /// Adds an interface whose own ifIndex is `input`, and returns the rules for its packets.
    ///
    /// # Errors
    ///
    /// [`TablesError::TooManyPairs`].
    pub fn add_interface(&self, name: &str, input: u16) -> Result<Arc<PointRules>, TablesError> {
        let mut metering = self.metering();
        let Metering { rules, points, .. } = &mut *metering;
        let rules = rules
            .on(name, input, points)
            .ok_or(TablesError::TooManyPairs)?;
        self.details.points.store(Arc::new(points.clone()));
        let rules = Arc::new(rules);
        metering.interfaces.push(InterfacePoints {
            name: name.to_owned(),
            input,
            rules: Arc::clone(&rules),
            workers: Vec::new(),
        });
        Ok(rules)
    }

    /// Posts new rules of an interface to `worker` from here on.
    pub fn subscribe(&self, interface: &str, worker: &Postbox) {
        let mut metering = self.metering();
        let here = metering
            .interfaces
            .iter_mut()
            .filter(|at| at.name == interface);
        here.for_each(|at| at.workers.push(worker.clone()));
    }

    /// Warns of each interface that rules name and that is not captured: no packet will match them.
    pub fn warn_of_unused_rules(&self) {
        let metering = self.metering();
        let Some(path) = &metering.path else { return };
        let captured: Vec<_> = metering
            .interfaces
            .iter()
            .map(|at| at.name.as_str())
            .collect();
        let mut unused: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (line, name) in metering.rules.of_others(&captured) {
            unused.entry(name).or_default().push(line);
        }
        for (name, lines) in unused {
            let others = match lines.len() - 1 {
                0 => String::new(),
                count => format!(", as are {count} more"),
            };
            tracing::warn!(
                "{}:{}: this rule is for {}, which is not captured ({}){others}",
                path.display(),
                lines[0],
                printable(name),
                captured.join(", ")
            );
        }
    }

    fn metering(&self) -> std::sync::MutexGuard<'_, Metering> {
        self.metering.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_rules(&self, rules: Rules, path: Option<&Path>) -> Result<(), TablesError> {
        let mut metering = self.metering();
        let mut points = metering.points.clone();
        let on = |at: &InterfacePoints| rules.on(&at.name, at.input, &mut points);
        let on: Option<Vec<_>> = metering.interfaces.iter().map(on).collect();
        let on = on.ok_or(TablesError::TooManyPairs)?;
        // The exporter knows each number before a worker uses it.
        self.details.points.store(Arc::new(points.clone()));
        for (at, rules) in metering.interfaces.iter_mut().zip(on) {
            let rules = Arc::new(rules);
            for worker in &at.workers {
                worker.post_or_wait(Request::Points(Arc::clone(&rules)));
            }
            retire(std::mem::replace(&mut at.rules, rules));
        }
        if let Some(path) = path {
            tracing::info!("{}: {} rules in force", path.display(), rules.len());
        }
        *metering = Metering {
            path: path.map(Path::to_owned),
            rules,
            points,
            interfaces: std::mem::take(&mut metering.interfaces),
        };
        Ok(())
    }

    fn set_routes(&self, routes: RouteTable, path: Option<&Path>) {
        if let Some(path) = path {
            let skipped = match routes.skipped_count() {
                0 => String::new(),
                count => format!(", {count} of IPv6 skipped"),
            };
            tracing::info!(
                "{}: {} prefixes in force{skipped}, {} MiB",
                path.display(),
                routes.len(),
                routes.octets().div_ceil(1 << 20)
            );
        }
        retire(self.details.routes.swap(Arc::new(routes)));
    }
}

/// The rules of their file; none without one.
fn read_rules(files: &TableFiles) -> Result<Rules, TablesError> {
    let Some(path) = &files.rules else {
        return Ok(Rules::default());
    };
    let file = read_file(path)?;
    let file = String::from_utf8(file).map_err(|error| TablesError::Read {
        path: path.clone(),
        error: io::Error::new(io::ErrorKind::InvalidData, error.utf8_error()),
    })?;
    Rules::read(&file).map_err(|error| wrong(path, &error))
}

/// The routes of their file; none without one.
fn read_prefixes(files: &TableFiles) -> Result<RouteTable, TablesError> {
    let Some(path) = &files.prefixes else {
        return Ok(RouteTable::default());
    };
    RouteTable::read(&read_file(path)?).map_err(|error| wrong(path, &error))
}

fn read_file(path: &Path) -> Result<Vec<u8>, TablesError> {
    let mut file = Vec::new();
    let read = open_regular(path).and_then(|mut opened| opened.read_to_end(&mut file));
    read.map(|_| file).map_err(|error| TablesError::Read {
        path: path.to_owned(),
        error,
    })
}

/// What is wrong with a file. What it quotes from there can neither control a terminal nor add
/// lines to the log.
fn wrong(path: &Path, error: &TableError) -> TablesError {
    TablesError::Line {
        path: path.to_owned(),
        error: TableError {
            line: error.line,
            what: printable(&error.what),
        },
    }
}

/// Opens a regular file, without waiting: a FIFO or a device may have nothing to read, for ever.
///
/// # Errors
///
/// What the path is instead, or the system's error.
pub fn open_regular(path: &Path) -> io::Result<File> {
    let file = File::options()
        .read(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open(path)?;
    let found = file.metadata()?.file_type();
    if found.is_file() {
        return Ok(file);
    }
    let found = if found.is_dir() {
        "directory"
    } else if found.is_fifo() {
        "FIFO"
    } else {
        "device"
    };
    Err(io::Error::other(format!(
        "it is a {found}, expected a regular file"
    )))
}

/// Frees a table here, once no worker or exporter uses it any more: they do not wait for that.
fn retire<T>(table: Arc<T>) {
    const PAUSE: Duration = Duration::from_millis(1);
    const PAUSES_MAX: usize = 1_000;
    for _ in 0..PAUSES_MAX {
        if Arc::strong_count(&table) == 1 {
            break;
        }
        thread::sleep(PAUSE);
    }
    drop(table);
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;
    use tempfile::TempDir;

    #[test]
    fn a_fifo_and_a_directory_are_refused_at_once() {
        let folder = TempDir::new().unwrap();
        let fifo = folder.path().join("fifo");
        mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        for (path, found) in [(fifo, "FIFO"), (folder.path().to_owned(), "directory")] {
            let rules = TableFiles {
                rules: Some(path.clone()),
                prefixes: None,
            };
            let prefixes = TableFiles {
                rules: None,
                prefixes: Some(path.clone()),
            };
            for files in [rules, prefixes] {
                let error = Tables::read(&files).err().unwrap().to_string();
                assert_eq!(
                    error,
                    format!(
                        "{} cannot be read: it is a {found}, expected a regular file",
                        path.display()
                    )
                );
                assert_eq!(Tables::default().reload(&files).len(), 1);
            }
        }
    }

    #[test]
    fn the_examples_in_configs_are_tables() {
        let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
        let files = TableFiles {
            rules: Some(configs.join("rules.toml")),
            prefixes: Some(configs.join("prefixes.csv")),
        };
        let tables = Tables::read(&files).unwrap();
        assert_eq!(tables.details().routes.load().len(), 4);
        let rules = tables.add_interface("tap0", 5).unwrap();
        assert_ne!(*rules, PointRules::new([], 5));
    }

    #[test]
    fn an_interface_keeps_its_point_where_no_rule_is() {
        let tables = Tables::default();
        let rules = tables.add_interface("tap0", 5).unwrap();
        assert_eq!(*rules, PointRules::new([], 5));
        // One whose ifIndex is among the numbers that are given out gets one of those.
        let high = tables.add_interface("tap1", 0xf123).unwrap();
        assert_eq!(*high, PointRules::new([], 0xf000));
        let details = tables.details();
        assert_eq!(details.points.load().interfaces_of(0xf000).input, 0xf123);
    }
}
