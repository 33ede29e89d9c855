//! The exporting process: flow records become NetFlow datagrams on their way to collectors.
//!
//! An [`Exporter`] distributes records over [`Collector`]s. Each of them gathers its records until
//! a datagram is full or the flush delay is over, numbers and stamps it, and sends it at its own
//! [`Pace`]. They read no clock and own no thread; what they are told as a [`Moment`] goes into the
//! headers, so that a capture file's export is the same octets every time. [`v5`] is a wire format,
//! beside [`v1`] and [`v7`], with what they share in [`wire`], and [`Version`] chooses between
//! them; a [`Transport`] is a way to a collector: UDP here, a file or a test elsewhere.
#![forbid(unsafe_code)]

mod collector;
mod details;
mod exporter;
mod failover;
mod pace;
mod queue;
mod routes;
mod udp;
pub mod v1;
pub mod v5;
pub mod v7;
mod version;
pub mod wire;

pub use collector::{
    Collector, CollectorConfig, CollectorCounters, CollectorState, Engine, LossReason,
    SendErrorKind, TooNarrow, Transport,
};
pub use details::{DetailTables, DetailedRecord, Details, Interfaces, Points};
pub use exporter::{Distribution, Exporter, ExporterCounters, Moment, Tally};
pub use pace::Pace;
pub use routes::{AS_TRANS, Route, RouteTable, TableError};
pub use udp::{CollectorAddress, SocketOptions, UdpTransport};
pub use version::Version;
