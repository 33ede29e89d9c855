//! Threads with names, the list of those that died, and cores for those that are pinned.

use crate::error::StartError;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle, panicking};

/// The threads of a probe that died, which means that they panicked. Copies are the same list.
#[derive(Clone)]
pub struct Deaths {
    names: Arc<Mutex<Vec<String>>>,
    bell: Sender<()>,
    rung: Receiver<()>,
}

impl Default for Deaths {
    /// An empty list.
    fn default() -> Self {
        // One message is enough: the list has the names.
        let (bell, rung) = bounded(1);
        Self {
            names: Arc::default(),
            bell,
            rung,
        }
    }
}

impl Deaths {
    /// Starts a thread called `name`, whose death is noted at once.
    ///
    /// # Errors
    ///
    /// If the system gives none.
    pub fn spawn<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<T>, StartError> {
        let alarm = Alarm {
            name: name.to_owned(),
            deaths: self.clone(),
        };
        let work = move || {
            let _alarm = alarm;
            work()
        };
        Builder::new()
            .name(name.to_owned())
            .spawn(work)
            .map_err(|error| StartError::Thread {
                name: name.to_owned(),
                error,
            })
    }

    /// Notes that the thread called `name` died.
    pub fn note(&self, name: &str) {
        tracing::error!("{name} died: the probe exports what the other threads hold, and ends");
        self.lock().push(name.to_owned());
        let _ = self.bell.try_send(());
    }

    /// Gets a message when a thread has died. Several receivers share the messages.
    #[must_use]
    pub fn bell(&self) -> &Receiver<()> {
        &self.rung
    }

    /// The threads that died, the first one first.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<String>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Notes the death of a thread when it is dropped by a panic.
struct Alarm {
    name: String,
    deaths: Deaths,
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if panicking() {
            self.deaths.note(&self.name);
        }
    }
}

/// Pins the current thread, which is `worker`, to a core.
///
/// # Errors
///
/// [`StartError::Pin`] if the process may not use that core.
pub fn pin(worker: &str, core: usize) -> Result<(), StartError> {
    // A set of cores of the C library has no place for others, and panics.
    let is_number = core < CORES_MAX;
    if is_number && core_affinity::set_for_current(core_affinity::CoreId { id: core }) {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    let worker = worker.to_owned();
    // Linux: EINVAL 22 for a core that does not exist or that the process may not use.
    if is_number && error.raw_os_error() != Some(22) {
        return Err(StartError::PinForbidden {
            worker,
            core,
            error,
        });
    }
    Err(StartError::Pin {
        worker,
        core,
        cores: usable_cores(),
    })
}

/// Cores that a set of the C library has places for (CPU_SETSIZE).
const CORES_MAX: usize = 1024;

/// Cores for workers, one after the other.
pub struct CoreList {
    cores: Vec<usize>,
    are_named: bool,
    used: usize,
}

impl CoreList {
    /// The cores that were named, or else those that the process may use. Warns where
    /// `pinned_count` workers have to share them.
    #[must_use]
    pub fn new(named: Option<&[usize]>, pinned_count: usize) -> Self {
        let cores = named.map_or_else(usable_cores, <[usize]>::to_vec);
        if pinned_count > 0 && cores.is_empty() {
            tracing::warn!(
                "the system does not say which cores the process may use (sched_getaffinity): \
                 workers are not pinned"
            );
        } else if pinned_count > cores.len() {
            tracing::warn!(
                "{pinned_count} queues share {} cores: some workers wait for others",
                cores.len()
            );
        }
        Self {
            cores,
            are_named: named.is_some(),
            used: 0,
        }
    }

    /// The next core.
    pub fn next(&mut self) -> Option<usize> {
        let core = self
            .cores
            .get(self.used.checked_rem(self.cores.len())?)
            .copied();
        self.used += 1;
        core
    }

    /// The next core, if cores were named: a worker that reads through libpcap is not pinned
    /// otherwise.
    pub fn next_if_named(&mut self) -> Option<usize> {
        if self.are_named { self.next() } else { None }
    }
}

fn usable_cores() -> Vec<usize> {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    cores.into_iter().map(|core| core.id).collect()
}
