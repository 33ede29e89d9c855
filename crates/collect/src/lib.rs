//! The collector: flow records from datagrams into flow-tools files, and from flow-tools files to
//! the reader's eye.
//!
//! A flow-tools **file** is a [`FileHeader`](header::FileHeader) and then [`StoredRecord`]s of one
//! version, plain or as one zlib stream. A [`FlowFileReader`] iterates the records of a file or of
//! any stream, a [`FlowFileWriter`] writes them, and a [`Printer`](print::Printer) prints them as
//! flow-print does.
//!
//! A [`Receiver`](receive::Receiver) takes bursts of datagrams from a socket and
//! [`datagram::decode`] makes records of them. A [`Store`](store::Store) is a folder of files that
//! rotate and expire, and a [`Collector`](collector::Collector) is both at work, with the
//! [accounting of exporters](sequence::Exporters) between them.
//!
//! None of them panics on any input. Time is an argument; only [`collector`] has a clock.
#![forbid(unsafe_code)]

pub mod collector;
pub mod datagram;
pub mod header;
pub mod input;
pub mod print;
mod reader;
pub mod receive;
mod record;
pub mod sequence;
pub mod store;
mod writer;
mod zone;

pub use reader::{FlowFileReader, ReadError};
pub use record::{ByteOrder, RECORD_OCTETS_MAX, StoredRecord};
pub use writer::{FileLosses, FlowFileWriter, FlowStreamWriter, LEVEL_DEFAULT, WriterOptions};
/// The version of the records in a file, and of the datagrams that they came in.
pub use xdprobe_netflow::Version;
pub use zone::{LocalZone, system as system_zone};
