//! The metering process: frames become packets, packets become flows, flows become records.
#![deny(unsafe_code)]

pub mod cache;
pub mod decode;
pub mod fragment;
pub mod key;
mod memory;
pub mod packet;
pub mod point;
pub mod record;
pub mod volume;

pub use cache::{
    BURST_MAX, CacheConfig, CacheCounters, Cursor, FlowCache, HAND_ROUND_MS, Timeouts,
};
pub use decode::{DecodeError, Link, decode};
pub use key::{Key, KeyV4};
pub use memory::{Backing, PageSize};
pub use packet::{Arrival, Packet};
pub use point::{MacAddress, PointRule, PointRules};
pub use record::{EndReason, FlowRecord, RecordSink};
pub use volume::Volume;
