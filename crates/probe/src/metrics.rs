//! The live ledger over HTTP: a page for Prometheus, and whether the probe is alive and ready.
//!
//! [`sheet`] makes the page from a snapshot, [`page`] answers requests. Workers take no part in it:
//! they publish their counters in any case.

mod page;
mod reloads;
mod sheet;

pub use page::{PATH, pages};
pub use reloads::Reloads;
