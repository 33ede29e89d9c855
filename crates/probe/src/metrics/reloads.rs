//! How often the configuration was reloaded.

use std::sync::atomic::{AtomicU64, Ordering};

/// Reloads since the start.
#[derive(Debug, Default)]
pub struct Reloads {
    applied: AtomicU64,
    failed: AtomicU64,
}

impl Reloads {
    /// Counts a reload that put the configuration in force.
    pub fn count_applied(&self) {
        self.applied.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a reload that changed nothing, since something was wrong.
    pub fn count_failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    /// Each result with the name that metrics use, and how often it came.
    pub fn by_result(&self) -> [(&'static str, u64); 2] {
        [
            ("applied", self.applied.load(Ordering::Relaxed)),
            ("failed", self.failed.load(Ordering::Relaxed)),
        ]
    }
}
