//! Flow records as a flow cache expires them.

use crate::frames::key;
use xdprobe_pipeline::export::Moment;
use xdprobe_pipeline::flow::{EndReason, FlowRecord, Volume};
use xdprobe_pipeline::hand_over::BATCH_RECORDS;

/// A moment later than any uptime in these records.
pub const LATER: Moment = Moment {
    uptime_ms: 1_000,
    unix_ns: 1_700_000_000_000_000_000,
};

/// The record of a flow of three packets.
#[must_use]
pub fn record(flow: u32) -> FlowRecord {
    FlowRecord {
        key: key(flow),
        volume: Volume {
            packets: 3,
            octets: 138,
        },
        first_ms: 1,
        last_ms: 2,
        tcp_flags: 0,
        end: EndReason::Idle,
    }
}

/// Records of one full batch, each of another flow.
#[must_use]
pub fn batch() -> Vec<FlowRecord> {
    (0..).map(record).take(BATCH_RECORDS).collect()
}
