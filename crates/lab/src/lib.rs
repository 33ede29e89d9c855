//! Tools for tests and benchmarks; nothing here is shipped. [`namespace`] makes network namespaces
//! with veth pairs. [`send`] generates traffic with exact counts, and [`plain`] does the same on
//! drivers without XDP. [`frames`] builds frames and capture files, [`capture_file`] large capture
//! files from a seed. [`confine`] withholds system calls from a program, [`intrude`] does to a
//! probe's XDP program what another process may do. [`terminal`] runs a program in a terminal and
//! reads its screen. [`test_collector`] is a collector that checks an exporter's datagrams.
//!
//! A test makes a [`namespace::Namespace`] with a veth pair in it, starts the probe on one end and
//! a [`send::Sender`] on the other, and compares the probe's ledger and the
//! [`test_collector::Collected`] records with the [`send::Report`]. If a test cannot run here,
//! [`requirements`] report why.

pub mod capture_file;
pub mod confine;
pub mod frames;
mod headers;
pub mod interface;
pub mod intrude;
pub mod namespace;
pub mod plain;
pub mod requirements;
pub mod send;
pub mod terminal;
pub mod test_collector;
