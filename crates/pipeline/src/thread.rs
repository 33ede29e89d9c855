//! Threads with names, and cores for those that are pinned.

use crate::error::StartError;
use std::thread::{Builder, JoinHandle};

/// Starts a thread called `name`.
///
/// # Errors
///
/// If the system gives none.
pub fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, StartError> {
    Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .map_err(|error| StartError::Thread {
            name: name.to_owned(),
            error,
        })
}

/// Pins the current thread, which is `worker`, to a core.
///
/// # Errors
///
/// [`StartError::Pin`] if the process may not use that core.
pub fn pin(worker: &str, core: usize) -> Result<(), StartError> {
    if core_affinity::set_for_current(core_affinity::CoreId { id: core }) {
        return Ok(());
    }
    Err(StartError::Pin {
        worker: worker.to_owned(),
        core,
        cores: usable_cores(),
    })
}

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
        if pinned_count > cores.len() {
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
