//! The metering process: frames become packets, packets become flows, flows become records.
//!
//! A **frame** is what a capture hands over: octets and a link type. [`decode`](decode()) finds the
//! one thing in it that NetFlow v5 can speak of, its outermost IPv4 **packet**, or names the reason
//! why there is none. A [`FlowCache`] observes packets in bursts; each belongs to the flow of its
//! seven-field [`FlowKey`]. A flow stays **resident** until it is due (idle, active or after the
//! linger that follows FIN or RST), until the cache needs its place or until it is drained; then it
//! leaves through a [`RecordSink`] as a [`FlowRecord`].
//!
//! The crate is pure: it does no input or output, starts no thread and reads no clock. Time is an
//! argument, in milliseconds of uptime, so that a capture file, a fuzzer or a property test can
//! stand where a network card stands.
#![deny(unsafe_code)]

pub mod cache;
pub mod decode;
pub mod fragment;
pub mod key;
mod memory;
pub mod point;
pub mod record;

pub use cache::{
    Arrival, BURST_MAX, CacheConfig, CacheCounters, FlowCache, HAND_ROUND_MS, Timeouts, Volume,
};
pub use decode::{DecodeError, Link, Packet, decode};
pub use key::FlowKey;
pub use memory::{Backing, PageSize};
pub use point::{MacAddress, PointRule, PointRules};
pub use record::{EndReason, FlowRecord, RecordSink};
