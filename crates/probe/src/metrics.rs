//! The live ledger over HTTP: a page for Prometheus, and whether the probe is alive and ready.
//!
//! [`address`] is where to listen, [`sheet`] makes the page from a snapshot, [`server`] answers requests on a thread of its own. Workers take no part in it: they publish their counters in any case.

mod address;
mod server;
mod sheet;

pub use address::Address;
pub use server::Server;
