//! Reloading: the configuration is read again, and what differs is applied, all or nothing.
//!
//! A thread of its own carries reloads out one after the other, since names may take long to
//! resolve and files to read. SIGHUP and the control socket ask it.

use super::arguments::Arguments;
use crate::config::{Effective, Setting};
use crate::control::{ReloadRequest, Reloaded, Unchanged};
use crate::logging;
use crate::metrics::Reloads;
use crossbeam_channel::{Receiver, Sender, bounded};
use serde_json::json;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use xdprobe_pipeline::{Change, Pipeline, TableFiles, Tables};

/// Keys that change while the probe runs, by the change that takes them.
const LIVE: [(Part, &[&str]); 7] = [
    (Part::Collectors, &["collectors"]),
    (Part::Filter, &["filter"]),
    (
        Part::Sampling,
        &[
            "sampling",
            "sampling-mode",
            "sampled-upstream",
            "sampling-header",
        ],
    ),
    (
        Part::Timeouts,
        &[
            "active-timeout",
            "idle-timeout",
            "linger",
            "lifetime-spread",
        ],
    ),
    (Part::Pace, &["records-per-second", "octets-per-second"]),
    (Part::Tables, &["rules", "prefixes"]),
    (Part::LogLevel, &["log-level"]),
];

/// What changes as one. What may fail comes first; tables, whose files are checked before, come
/// last, since what an old file said cannot be restored.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Part {
    Collectors,
    Filter,
    Sampling,
    Timeouts,
    Pace,
    Tables,
    LogLevel,
}

/// Asks for reloads.
pub struct Reloader {
    requests: Sender<ReloadRequest>,
    settings: Arc<Mutex<Vec<Setting>>>,
}

/// Reloads that wait for the one under way.
const REQUESTS_MAX: usize = 4;

impl Reloader {
    /// Starts the thread; it ends when this is dropped.
    pub fn start(
        effective: Effective<Arguments>,
        pipeline: &Arc<Pipeline>,
        reloads: Arc<Reloads>,
    ) -> anyhow::Result<Self> {
        let (requests, asked) = bounded(REQUESTS_MAX);
        let settings = Arc::new(Mutex::new(effective.settings().to_vec()));
        let reloading = Reloading {
            effective,
            pipeline: Arc::downgrade(pipeline),
            reloads,
            settings: Arc::clone(&settings),
        };
        // Not waited for at the end: a resolver or a file may keep it waiting.
        pipeline
            .boards()
            .deaths
            .spawn("reload", move || reloading.run(&asked))?;
        Ok(Self { requests, settings })
    }

    /// Asks for a reload, without waiting for it.
    pub fn ask(&self, request: ReloadRequest) {
        if let Err(refused) = self.requests.try_send(request) {
            let why = format!("{REQUESTS_MAX} reloads are waiting already; try again later");
            let ReloadRequest { reply, .. } = refused.into_inner();
            // The other side may have stopped waiting.
            let _ = reply.try_send(Err(Unchanged { why: vec![why] }));
        }
    }

    /// Every key with its value and where the value is from.
    pub fn settings(&self) -> Vec<Setting> {
        let settings = self.settings.lock();
        settings.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What the thread owns.
struct Reloading {
    effective: Effective<Arguments>,
    /// Weak: the thread must not keep interfaces attached when the probe has ended.
    pipeline: Weak<Pipeline>,
    reloads: Arc<Reloads>,
    settings: Arc<Mutex<Vec<Setting>>>,
}

impl Reloading {
    fn run(mut self, asked: &Receiver<ReloadRequest>) {
        for ReloadRequest { is_dry, reply } in asked {
            let done = self.reload(is_dry);
            match &done {
                Ok(Reloaded { applied: false, .. }) => {}
                Ok(Reloaded { changed, .. }) => {
                    self.reloads.count_applied();
                    match changed.len() {
                        0 => tracing::info!("reloaded: the configuration is as it was"),
                        count => tracing::info!("reloaded: {count} keys changed"),
                    }
                }
                Err(Unchanged { why }) => {
                    if !is_dry {
                        self.reloads.count_failed();
                    }
                    let lines = why.iter();
                    lines.for_each(|line| {
                        tracing::error!("not reloaded, what was in force stays in force: {line}");
                    });
                }
            }
            // The other side may have stopped waiting.
            let _ = reply.try_send(done);
        }
    }

    fn reload(&mut self, is_dry: bool) -> Result<Reloaded, Unchanged> {
        let unchanged = |text: String| Unchanged {
            why: text.lines().map(str::to_owned).collect(),
        };
        let new = self.effective.reload();
        let new = new.map_err(|faults| unchanged(faults.to_string()))?;
        let arguments = new.arguments();
        let faults = arguments.faults();
        if !faults.is_empty() {
            return Err(unchanged(new.located(&faults.join("\n"))));
        }
        let changed = self.effective.difference(&new);
        let fixed = changed
            .iter()
            .filter(|changed| part_of(&changed.key).is_none());
        let fixed: Vec<_> = fixed
            .map(|changed| format!("{changed}: {} changes only with a restart", changed.key))
            .collect();
        if !fixed.is_empty() {
            return Err(Unchanged { why: fixed });
        }
        let mut parts: Vec<_> = LIVE.iter().map(|(part, _)| *part).collect();
        parts.retain(|&part| {
            let is_read_again =
                part == Part::Tables && arguments.tables.files() != TableFiles::default();
            is_read_again || changed.iter().any(|one| part_of(&one.key) == Some(part))
        });
        let changes = parts.iter().map(|part| part.change(&arguments));
        let changes: Result<Vec<_>, _> = changes.collect();
        let changes = changes.map_err(|text| unchanged(new.located(&text)))?;
        if parts.contains(&Part::Tables) {
            let wrong = Tables::check(&arguments.tables.files());
            if !wrong.is_empty() {
                let why = wrong.iter().map(ToString::to_string).collect();
                return Err(Unchanged { why });
            }
        }
        if !is_dry {
            self.apply(&parts, changes).map_err(unchanged)?;
            logging::set_level(arguments.log.level());
            let settings = new.settings().to_vec();
            *self.settings.lock().unwrap_or_else(PoisonError::into_inner) = settings;
            self.effective = new;
        }
        Ok(Reloaded {
            applied: !is_dry,
            changed: changed.iter().map(|changed| json!(changed)).collect(),
            text: changed.iter().map(ToString::to_string).collect(),
        })
    }

    /// Makes the changes; where one is refused, those before it are taken back.
    fn apply(&self, parts: &[Part], changes: Vec<Option<Change>>) -> Result<(), String> {
        let pipeline = self.pipeline.upgrade();
        let pipeline = pipeline.ok_or_else(|| "the probe has ended".to_owned())?;
        for (nth, change) in changes.into_iter().enumerate() {
            let made = change.map(|change| pipeline.apply(change).wait());
            let Some(Err(refused)) = made else { continue };
            let old = self.effective.arguments();
            // The one that was refused may have been made in part.
            for part in parts[..=nth].iter().rev() {
                if let Ok(Some(change)) = part.change(&old) {
                    // What cannot be restored is logged where it fails.
                    let _ = pipeline.apply(change).wait();
                }
            }
            return Err(format!(
                "{refused}; what was in force before is in force again"
            ));
        }
        Ok(())
    }
}

/// The part that a key belongs to; none if it changes only with a restart.
fn part_of(key: &str) -> Option<Part> {
    let part = LIVE.iter().find(|(_, keys)| keys.contains(&key));
    part.map(|(part, _)| *part)
}

impl Part {
    /// The change that puts these options in force; none if the program makes it itself.
    fn change(self, arguments: &Arguments) -> Result<Option<Change>, String> {
        let change = match self {
            Self::Collectors => Change::Destinations(arguments.export.collectors.clone()),
            Self::Filter => Change::Filter(arguments.filter().map_err(|error| error.to_string())?),
            Self::Sampling => {
                let plan = arguments.sampling.plan();
                let plan = plan.map_err(|error| error.to_string())?;
                Change::Sampling {
                    taken: plan.capture,
                    stated: plan.header,
                }
            }
            Self::Timeouts => Change::Timeouts(arguments.timeouts()),
            Self::Pace => Change::Pace(arguments.export.pace()),
            Self::Tables => Change::Tables(arguments.tables.files()),
            Self::LogLevel => return Ok(None),
        };
        Ok(Some(change))
    }
}
