//! What the flow cache lets go of: one [`FlowRecord`] per flow and expiry.

use crate::key::FlowKey;

/// One expired flow: its key and what was seen of it since its previous record.
///
/// Times are uptimes in milliseconds on the caller's monotonic clock, not yet reduced to the 32
/// bits of the wire. `first_ms <= last_ms` always; `packets >= 1`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FlowRecord {
    /// The seven fields that tell flows apart.
    pub key: FlowKey,
    /// Packets since the flow's previous record.
    pub packets: u32,
    /// Layer-3 octets (IP total lengths) since the flow's previous record.
    pub octets: u32,
    /// Uptime at the first of these packets, in ms.
    pub first_ms: u64,
    /// Uptime at the last of these packets, in ms.
    pub last_ms: u64,
    /// OR of the TCP flags octets of these packets.
    pub tcp_flags: u8,
    /// Why the flow was expired.
    pub end: EndReason,
}

/// Why a flow was expired, in the order of IPFIX flowEndReason (RFC 5102, section 5.11.3); the last
/// is ours.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum EndReason {
    /// No packet for as long as the idle timeout.
    Idle,
    /// The flow has gone on for as long as the active timeout.
    Active,
    /// A TCP FIN or RST was seen, and the linger is over.
    EndOfFlow,
    /// The probe stops, or an operator asked for it.
    Forced,
    /// The cache was full and this flow the oldest of its neighbourhood.
    LackOfResources,
    /// The next packet would have overflowed a 32-bit counter.
    CounterLimit,
}

impl EndReason {
    /// Every reason, in the order of their numbers.
    pub const ALL: [Self; 6] = [
        Self::Idle,
        Self::Active,
        Self::EndOfFlow,
        Self::Forced,
        Self::LackOfResources,
        Self::CounterLimit,
    ];

    /// The name that reports and metrics use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Active => "active",
            Self::EndOfFlow => "end_of_flow",
            Self::Forced => "forced",
            Self::LackOfResources => "lack_of_resources",
            Self::CounterLimit => "counter_limit",
        }
    }
}

/// Where expired flows go: the worker's outbox, or a vector in tests.
pub trait RecordSink {
    /// Takes one expired flow over.
    fn push(&mut self, record: FlowRecord);
}

impl RecordSink for Vec<FlowRecord> {
    fn push(&mut self, record: FlowRecord) {
        Vec::push(self, record);
    }
}
