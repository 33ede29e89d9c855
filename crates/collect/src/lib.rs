//! The collector: receives NetFlow datagrams, stores their records in flow-tools files, reads such
//! files and prints them.
//!
//! A flow-tools **file** is a [`FileHeader`](header::FileHeader) and then [`StoredRecord`]s of one
//! version, plain or as one zlib stream. A [`FlowFileReader`] iterates over the records of a file
//! or of a stream, a [`FlowFileWriter`] writes them, and a [`Printer`](print::Printer) prints them
//! in the formats of flow-print.
//!
//! A [`Receiver`](receive::Receiver) receives bursts of datagrams from a socket, and
//! [`datagram::decode`] turns them into records. A [`Store`](store::Store) is a directory of files
//! that rotate and expire. A [`Collector`](collector::Collector) runs both, one thread each, and
//! counts by [exporter](sequence::Exporters) between them.
//!
//! No input makes the crate panic. Time is an argument everywhere but in [`collector`], which reads
//! the system's clock.
#![forbid(unsafe_code)]

pub mod collector;
pub mod datagram;
mod flow_output;
pub mod header;
pub mod input;
pub mod names;
pub mod output;
pub mod print;
mod printable;
mod reader;
pub mod receive;
mod record;
mod recover;
pub mod sequence;
pub mod store;
pub mod throttle;
mod writer;
mod zone;

pub use flow_output::FlowOutput;

pub use printable::printable;
pub use reader::{FlowFileReader, ReadError};
pub use record::{ByteOrder, RECORD_OCTETS_MAX, StoredRecord};
pub use writer::{
    FileLosses, FinishedFile, FlowFileWriter, FlowStreamWriter, LEVEL_DEFAULT, WriterOptions,
};
/// Why octets are not a datagram of a version that is read here.
pub use xdprobe_netflow::DatagramError;
/// The version of the records in a file, and of the datagrams that they came in.
pub use xdprobe_netflow::Version;
pub use zone::{LocalZone, system as system_zone};
