//! The metering process.

pub mod key;
pub mod record;

pub use key::FlowKey;
pub use record::{EndReason, FlowRecord, RecordSink};
