//! Tables that an operator gives and may change while the probe runs: rules for interfaces, and
//! routes.
//!
//! Both are read at the start and again on SIGHUP, by a thread of their own. What was read is put
//! in the old one's place at once: a worker sees it with its next turn, the exporter with its next
//! batch, and neither waits. A file that is bad leaves the old table in force.

use crate::rules::Rules;
use anyhow::{Context, anyhow};
use arc_swap::ArcSwap;
use signal_hook::consts::SIGHUP;
use signal_hook::iterator::{Handle, Signals};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use xdprobe_export::{DetailTables, Points, RouteTable, TableError};
use xdprobe_flow::PointRules;

/// The files that tables are read from.
#[derive(Clone, Debug, Default)]
pub struct TableFiles {
    /// Rules for input and output interface.
    pub rules: Option<PathBuf>,
    /// Routes by prefix.
    pub prefixes: Option<PathBuf>,
}

/// The tables in force.
pub struct Tables {
    files: TableFiles,
    details: Arc<DetailTables>,
    metering: Mutex<Metering>,
}

/// What workers go by, and where each of them finds it.
#[derive(Default)]
struct Metering {
    rules: Rules,
    points: Points,
    interfaces: Vec<InterfacePoints>,
}

struct InterfacePoints {
    name: String,
    input: u16,
    points: PointTable,
}

/// The points of an interface's packets, as they are now.
pub type PointTable = Arc<ArcSwap<PointRules>>;

impl Tables {
    /// The tables that the files say.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong with one of them, with its name and line.
    pub fn read(files: TableFiles) -> anyhow::Result<Self> {
        let tables = Self {
            files,
            details: Arc::default(),
            metering: Mutex::default(),
        };
        tables.read_rules()?;
        tables.read_prefixes()?;
        Ok(tables)
    }

    /// What the exporter goes by.
    pub fn details(&self) -> Arc<DetailTables> {
        Arc::clone(&self.details)
    }

    /// What the workers of an interface go by, whose own ifIndex is `input`.
    pub fn points_on(&self, name: &str, input: u16) -> anyhow::Result<PointTable> {
        let mut metering = self.metering.lock().unwrap_or_else(PoisonError::into_inner);
        let Metering {
            rules,
            points,
            interfaces,
        } = &mut *metering;
        let on = rules
            .on(name, input, points)
            .ok_or_else(|| anyhow!(TOO_MANY_PAIRS))?;
        self.details.points.store(Arc::new(points.clone()));
        let points = Arc::new(ArcSwap::from_pointee(on));
        interfaces.push(InterfacePoints {
            name: name.to_owned(),
            input,
            points: Arc::clone(&points),
        });
        Ok(points)
    }

    /// Warns of each rule that names an interface without [points](Self::points_on): no packet will
    /// ever fit it.
    pub fn warn_of_unused_rules(&self) {
        let Some(path) = &self.files.rules else {
            return;
        };
        let metering = self.metering.lock().unwrap_or_else(PoisonError::into_inner);
        let captured: Vec<_> = metering
            .interfaces
            .iter()
            .map(|at| at.name.as_str())
            .collect();
        for (line, name) in metering.rules.of_others(&captured) {
            let captured = captured.join(", ");
            tracing::warn!(
                "{}:{line}: this rule is of {name}, which is not captured ({captured})",
                path.display()
            );
        }
    }

    /// Reads the files again. What is wrong with one of them is logged, and its old table stays.
    pub fn reload(&self) {
        for read in [self.read_rules(), self.read_prefixes()] {
            if let Err(error) = read {
                tracing::error!("{error:#}; the table that was read before stays in force");
            }
        }
        self.warn_of_unused_rules();
    }

    fn read_rules(&self) -> anyhow::Result<()> {
        let Some(path) = &self.files.rules else {
            return Ok(());
        };
        let file = fs::read_to_string(path)
            .with_context(|| format!("{} cannot be read", path.display()))?;
        let rules = Rules::read(&file).map_err(|error| in_file(path, &error))?;
        let mut metering = self.metering.lock().unwrap_or_else(PoisonError::into_inner);
        let mut points = metering.points.clone();
        let on = |at: &InterfacePoints| rules.on(&at.name, at.input, &mut points);
        let on: Option<Vec<_>> = metering.interfaces.iter().map(on).collect();
        let on = on.ok_or_else(|| anyhow!("{}: {TOO_MANY_PAIRS}", path.display()))?;
        // The exporter knows each number before a worker uses it.
        self.details.points.store(Arc::new(points.clone()));
        for (at, rules) in metering.interfaces.iter().zip(on) {
            retire(at.points.swap(Arc::new(rules)));
        }
        tracing::info!("{}: {} rules in force", path.display(), rules.len());
        (metering.rules, metering.points) = (rules, points);
        Ok(())
    }

    fn read_prefixes(&self) -> anyhow::Result<()> {
        let Some(path) = &self.files.prefixes else {
            return Ok(());
        };
        let file = fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
        let routes = RouteTable::read(&file).map_err(|error| in_file(path, &error))?;
        let skipped = match routes.skipped_count() {
            0 => String::new(),
            count => format!(", {count} of IPv6 skipped"),
        };
        tracing::info!(
            "{}: {} prefixes in force{skipped}",
            path.display(),
            routes.len()
        );
        retire(self.details.routes.swap(Arc::new(routes)));
        Ok(())
    }
}

const TOO_MANY_PAIRS: &str =
    "more than 4096 pairs of input and output since the start; restart the probe";

fn in_file(path: &Path, error: &TableError) -> anyhow::Error {
    anyhow!("{}:{error}", path.display())
}

/// Frees a table once nobody looks at it any more: here, where nobody waits for that.
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

/// Reads tables again on each SIGHUP, until it is dropped.
pub struct Reloader {
    signals: Handle,
    thread: Option<JoinHandle<()>>,
}

impl Reloader {
    /// Starts to listen; none where there is nothing to read: SIGHUP then does what it always did.
    pub fn start(tables: &Arc<Tables>) -> anyhow::Result<Option<Self>> {
        if tables.files.rules.is_none() && tables.files.prefixes.is_none() {
            return Ok(None);
        }
        let mut signals = Signals::new([SIGHUP]).context("SIGHUP cannot be caught")?;
        let (handle, tables) = (signals.handle(), Arc::clone(tables));
        let reload = move || signals.forever().for_each(|_| tables.reload());
        let thread = thread::Builder::new()
            .name("reload".to_owned())
            .spawn(reload)
            .context("no thread for reload")?;
        Ok(Some(Self {
            signals: handle,
            thread: Some(thread),
        }))
    }
}

impl Drop for Reloader {
    fn drop(&mut self) {
        self.signals.close();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_in_configs_are_tables() {
        let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
        let files = TableFiles {
            rules: Some(configs.join("rules.toml")),
            prefixes: Some(configs.join("prefixes.csv")),
        };
        let tables = Tables::read(files).unwrap();
        assert_eq!(tables.details().routes.load().len(), 4);
        let points = tables.points_on("tap0", 5).unwrap();
        assert_ne!(*points.load_full(), PointRules::new([], 5));
    }

    #[test]
    fn an_interface_keeps_its_point_where_no_rule_is() {
        let tables = Tables::read(TableFiles::default()).unwrap();
        let points = tables.points_on("tap0", 5).unwrap();
        assert_eq!(*points.load_full(), PointRules::new([], 5));
        // One whose ifIndex is among the numbers that are given out has one of those.
        let high = tables.points_on("tap1", 0xf123).unwrap();
        assert_eq!(*high.load_full(), PointRules::new([], 0xf000));
        assert_eq!(
            tables.details().points.load().interfaces_of(0xf000).input,
            0xf123
        );
    }
}
