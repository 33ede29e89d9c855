//! The exporting process: flow records become NetFlow datagrams on their way to collectors.
//!
//! [`Exporter`] is the whole of it: records are pushed in, gathered until a datagram is full or the flush delay is over,
//! numbered, stamped and sent. It reads no clock and owns no thread; what it is told as a [`Moment`] goes into the headers,
//! so that a capture file's export is the same octets every time. [`v5`] is the wire format, beside [`v1`] and [`v7`], with
//! what they share in [`wire`]; a [`Transport`] is a way to a collector: UDP here, a file or a test elsewhere.
#![forbid(unsafe_code)]

mod collector;
mod exporter;
pub mod v1;
pub mod v5;
pub mod v7;
pub mod wire;

pub use collector::{Collector, CollectorAddress, CollectorCounters, SendErrorKind, Transport, UdpTransport};
pub use exporter::{Engine, Exporter, ExporterConfig, ExporterCounters, Moment, Tally};
