//! The metering process: frames become packets, packets become flows, flows become records.
//!
//! A **frame** is what a capture hands over: octets and a [`Link`] type. [`decode`](decode()) finds
//! the outermost IPv4 **packet** in it or returns a [`DecodeError`], and an [`Unread`] protocol is
//! named. A [`FlowCache`] observes
//! packets in bursts and adds each to the flow of its [`Key`]; for IPv4 this is [`KeyV4`], whose
//! seven fields include the observation **point**, which [`PointRules`] find. A flow stays
//! **resident** until it is due (idle, active, or after the linger that follows FIN or RST), until
//! the cache needs its place, or until it is expired by force. Then it goes to a [`RecordSink`] as
//! a [`FlowRecord`]. A [`Meter`] is these steps joined, as a probe's worker does them.
//!
//! The crate knows no export format: a format's limits are configured, such as
//! [`CacheConfig::counter_max`].
//!
//! The crate is pure: it does no input or output, starts no thread and reads no clock. Time is an
//! argument, in milliseconds of uptime, so that a capture file, a fuzzer or a property test can
//! take the place of a network card.
#![deny(unsafe_code)]

pub mod cache;
pub mod decode;
pub mod filter;
pub mod fragment;
pub mod key;
mod memory;
pub mod meter;
pub mod own;
pub mod packet;
pub mod point;
pub mod prefix;
pub mod record;
pub mod unread;
pub mod volume;

pub use cache::{
    BURST_MAX, CacheConfig, CacheCounters, Cursor, FlowCache, HAND_ROUND_MS, Timeouts,
    TimeoutsError,
};
pub use decode::{DecodeError, Link, decode, decode_noting};
pub use filter::FlowFilter;
pub use key::{Key, KeyV4};
pub use memory::{Backing, PageSize};
pub use meter::{Meter, MeterConfig, MeterCounters, Undecoded};
pub use own::OwnDatagrams;
pub use packet::{Arrival, Packet};
pub use point::{Interfaces, MacAddress, PointRule, PointRules, Points};
pub use prefix::Ipv4Prefix;
pub use record::{EndReason, FlowRecord, RecordSink};
pub use unread::{Unread, UnreadCounts};
pub use volume::Volume;
