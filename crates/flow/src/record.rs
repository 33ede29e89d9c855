//! What the flow cache exports: one [`FlowRecord`] for each flow that ends.

use crate::key::KeyV4;
use crate::volume::Volume;

/// An expired flow: its key, and what was observed of it since its previous record.
///
/// Times are uptimes in milliseconds on the caller's monotonic clock. `first_ms <= last_ms` and
/// `volume.packets >= 1` always hold.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FlowRecord<K = KeyV4> {
    /// The flow's key.
    pub key: K,
    /// Packets and layer-3 octets (IP total lengths) since the flow's previous record. Each is at
    /// most the cache's counter ceiling, unless a single packet is above it.
    pub volume: Volume,
    /// Uptime at the first of these packets, in ms.
    pub first_ms: u64,
    /// Uptime at the last of these packets, in ms.
    pub last_ms: u64,
    /// OR of the TCP flags octets of these packets.
    pub tcp_flags: u8,
    /// Why the flow ended.
    pub end: EndReason,
}

/// Why a flow ended, in the order of IPFIX flowEndReason (RFC 5102, section 5.11.3); the last has
/// no counterpart there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum EndReason {
    /// No packet for the length of the idle timeout.
    Idle,
    /// The flow lasted for the length of the active timeout.
    Active,
    /// A TCP FIN or RST was seen, and the linger is over.
    EndOfFlow,
    /// The probe stops, or an operator asked for it.
    Forced,
    /// The cache was full, and this flow made room for a new one.
    LackOfResources,
    /// The next packet would have lifted a counter above its ceiling.
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

/// Where expired flows go: the outbox of a worker, or a vector in tests.
pub trait RecordSink<K = KeyV4> {
    /// Takes one expired flow.
    fn push(&mut self, record: FlowRecord<K>);
}

impl<K> RecordSink<K> for Vec<FlowRecord<K>> {
    fn push(&mut self, record: FlowRecord<K>) {
        Vec::push(self, record);
    }
}
