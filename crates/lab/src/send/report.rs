//! What a sender reports: the packets that it handed to the driver, and what is in them.

use serde::Serialize;

/// What was sent. Octets are those of IP packets, unless the name says frames.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Interface that sent.
    pub interface: String,
    /// Packets handed to the driver.
    pub packets: u64,
    /// Counts of what is in the packets.
    #[serde(flatten)]
    pub counts: Counts,
    /// Time from the first packet to the last, in seconds.
    pub seconds: f64,
    /// Packets a second.
    pub pps: f64,
    /// CPU time of the sending thread in seconds. Includes the peer's work if the kernel does it on
    /// the same core.
    pub cpu_seconds: f64,
    /// CPU time as a share of the time from the first packet to the last: near 1 at any rate, since
    /// pacing keeps the core busy.
    pub core_share: f64,
    /// The driver's counts, if it has them, as veth does. Frames of other senders in the same time
    /// are included.
    pub driver: Option<DriverCounts>,
    /// Whether sending was stopped before its end.
    pub stopped: bool,
}

impl std::ops::Deref for Report {
    type Target = Counts;

    fn deref(&self) -> &Counts {
        &self.counts
    }
}

/// Counts of what is in the packets. Octets are those of IP packets, unless the name says frames.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Counts {
    /// Sum of the IPv4 packets' total lengths: the octets in a NetFlow v5 ledger.
    pub octets: u64,
    /// Octets of all frames, without frame check sequences.
    pub frame_octets: u64,
    /// IPv4 packets, fragments included.
    pub ipv4_packets: u64,
    /// IPv6 packets.
    pub ipv6_packets: u64,
    /// Octets of the IPv6 packets, headers included.
    pub ipv6_octets: u64,
    /// IPv4 packets that are fragments, first fragments included.
    pub fragments: u64,
    /// Distinct IPv4 flows. Later fragments belong to the flow of the first.
    pub flows: u64,
    /// Distinct IPv6 flows.
    pub ipv6_flows: u64,
}

/// The driver's counts of frames.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct DriverCounts {
    /// Frames that the peer's ring accepted.
    pub accepted: u64,
    /// Frames that were dropped because the ring was full.
    pub refused: u64,
}
