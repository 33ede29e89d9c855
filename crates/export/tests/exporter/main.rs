//! The exporter as its users see it: records in, datagrams and counters out.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod changes;
mod datagrams;
mod distribution;
mod support;
