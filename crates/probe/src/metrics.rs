//! The ledger, live: a page for Prometheus, and whether the probe is alive and ready, over HTTP.
//!
//! [`address`] is where; [`sheet`] is what: each metric by its name, and where its value is in a
//! snapshot; [`server`] is how, on a thread of its own. A worker takes no part in any of it: it
//! publishes its counters whether somebody looks or not.

mod address;
mod server;
mod sheet;

pub use address::Address;
pub use server::Server;
