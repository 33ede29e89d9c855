//! One running probe, as a library.
//!
//! A [`Plan`] says what is captured, how flows are kept and where records go. [`Pipeline::start`]
//! makes threads of it: one [`worker`] for each queue, interface or file, which owns its source,
//! its flow cache and its counters, and one exporter ([`exporting`]). Records go from workers to
//! the exporter in batches ([`hand_over`]). A worker is asked through its [`mailbox`] only.
//!
//! The [`Pipeline`] is a handle that never waits for the packet path: read a [`Snapshot`] of all
//! counters and draw up the [`Ledger`], visit the resident flows, expire some of them, apply a
//! [`Change`], stop. What differs between a tap and a capture file is decided in [`regime`].
//!
//! The crates below are re-exported, since plans and snapshots are made of their types.
#![forbid(unsafe_code)]

pub use xdprobe_capture as capture;
pub use xdprobe_export as export;
pub use xdprobe_flow as flow;

pub mod capture_clock;
pub mod clock;
mod connect;
pub mod control;
pub mod counters;
mod crew;
mod dating;
mod ending;
pub mod error;
pub mod exporting;
mod filter_watch;
mod flow_file;
pub mod hand_over;
pub mod ledger;
mod left_over;
pub mod losses;
pub mod mailbox;
pub mod memory;
mod own_export;
mod pipeline;
pub mod plan;
pub mod published;
pub mod readiness;
pub mod regime;
mod resolver;
mod rules;
pub mod snapshot;
pub mod tables;
mod thread;
pub mod unread;
mod watch;
pub mod worker;

pub use control::{Applying, Change, Refused};
pub use error::{StartError, TablesError};
pub use ledger::Ledger;
pub use pipeline::{Expiring, Flows, Outcome, Pipeline, RunError, Starting};
pub use plan::{CapturePlan, Destination, ExportPlan, Plan};
pub use regime::Regime;
pub use snapshot::{Boards, Snapshot};
pub use tables::{TableFiles, Tables};
pub use thread::Deaths;
