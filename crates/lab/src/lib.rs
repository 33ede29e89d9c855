//! What tests and benches stand on, and nothing that is shipped: network namespaces with veth pairs
//! in them ([`namespace`]), traffic whose truth is known ([`send`], or [`plain`] where a driver has
//! no XDP), frames and capture files by hand ([`frames`]) or large ones from a seed
//! ([`capture_file`]), and a collector that looks for what an exporter may do wrong
//! ([`test_collector`]).
//!
//! A test makes a [`namespace::Namespace`] and a pair of interfaces in it, starts the probe on one
//! end and a [`send::Sender`] on the other, and holds the probe's ledger and the
//! [`test_collector::Received`] against the [`send::Report`]. Where it cannot run, [`requirements`] say
//! so.

pub mod capture_file;
pub mod frames;
mod headers;
pub mod interface;
pub mod namespace;
pub mod plain;
pub mod requirements;
pub mod send;
pub mod test_collector;
