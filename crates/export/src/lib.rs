//! The exporting process: flow records go to collectors.
//!
//! An [`Exporter`] distributes records over collectors. Each collector has an [`Outlet`], which
//! takes records and delivers them. A [`DatagramOutlet`] encodes them in a [`Format`] into
//! datagrams, numbers and dates these, and sends them over a [`Transport`] at a [`Pace`] of its
//! own; [`FixedFormat`] is NetFlow 1, 5 and 7, and [`UdpTransport`] is UDP. [`DetailTables`] add to
//! each record what the flow cache does not know: interfaces, AS numbers, masks and next hop.
//!
//! The crate starts no thread and reads no clock. Time is an argument, a [`Moment`] or ms of the
//! turn, so that the export of a capture file is the same octets each time.
#![forbid(unsafe_code)]

pub use xdprobe_netflow as netflow;

mod balance;
mod collector;
mod datagrams;
mod details;
mod exporter;
mod failover;
mod fixed_format;
mod format;
mod moment;
mod outlet;
mod pace;
mod recipient;
mod routes;
mod tally;
mod totals;
mod transport;
mod udp;

pub use collector::{CollectorCounters, CollectorId, CollectorState, LossReason, SendErrorKind};
pub use datagrams::{DatagramConfig, DatagramOutlet, TooNarrow};
pub use details::{DetailTables, DetailedRecord, Details};
pub use exporter::{Distribution, Exporter, RemovedCollector};
pub use fixed_format::FixedFormat;
pub use format::{Appended, Format, Heading};
pub use moment::Moment;
pub use outlet::{OnRefusal, Outlet};
pub use pace::Pace;
pub use routes::{AS_TRANS, Route, RouteTable, TableError};
pub use tally::Tally;
pub use totals::ExporterCounters;
pub use transport::Transport;
pub use udp::{CollectorAddress, SocketOptions, UdpTransport};
