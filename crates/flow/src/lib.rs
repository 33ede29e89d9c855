//! The metering process: frames become packets, packets become flows, flows become records.
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
pub mod volume;

pub use cache::{
    BURST_MAX, CacheConfig, CacheCounters, Cursor, FlowCache, HAND_ROUND_MS, Timeouts,
};
pub use decode::{DecodeError, Link, decode};
pub use filter::FlowFilter;
pub use key::{Key, KeyV4};
pub use memory::{Backing, PageSize};
pub use meter::{Meter, MeterConfig, MeterCounters, Undecoded};
pub use own::OwnDatagrams;
pub use packet::{Arrival, Packet};
pub use point::{MacAddress, PointRule, PointRules};
pub use prefix::Ipv4Prefix;
pub use record::{EndReason, FlowRecord, RecordSink};
pub use volume::Volume;
