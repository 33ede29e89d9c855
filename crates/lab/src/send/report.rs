//! What a sender reports: the packets that it handed to the driver, and what is in them.

use serde::Serialize;

/// What was sent: octets are counted from the IP header on unless they are said to be of frames.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Interface that was sent on.
    pub interface: String,
    /// Packets handed to the driver.
    pub packets: u64,
    /// What is in them.
    #[serde(flatten)]
    pub counts: Counts,
    /// From the first packet to the last, in seconds.
    pub seconds: f64,
    /// Packets a second.
    pub pps: f64,
    /// Time of a core that sending took, with the far end's work where the kernel does it on the
    /// same core, in seconds.
    pub cpu_seconds: f64,
    /// The same as a share of one core from the first packet to the last: near 1 at any rate, since
    /// pacing keeps the core busy.
    pub core_share: f64,
    /// What the driver made of the frames, where it tells (veth does). Others' frames sent
    /// meanwhile are among them.
    pub driver: Option<DriverCounts>,
    /// Whether it was stopped before all was sent.
    pub stopped: bool,
}

impl std::ops::Deref for Report {
    type Target = Counts;

    fn deref(&self) -> &Counts {
        &self.counts
    }
}

/// What is in the packets, from the IP header on where nothing else is said.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Counts {
    /// IP total lengths of the IPv4 packets: what a NetFlow v5 ledger has to come to.
    pub octets: u64,
    /// Octets of all frames, without frame check sequences.
    pub frame_octets: u64,
    /// IPv4 packets, fragments included.
    pub ipv4_packets: u64,
    /// IPv6 packets.
    pub ipv6_packets: u64,
    /// IPv6 packets' octets, header included.
    pub ipv6_octets: u64,
    /// IPv4 packets that are fragments, first ones included.
    pub fragments: u64,
    /// Distinct IPv4 flows (a datagram's later fragment counts with its first).
    pub flows: u64,
    /// Distinct IPv6 flows.
    pub ipv6_flows: u64,
}

/// What the driver made of the frames.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct DriverCounts {
    /// Frames that went into the far end's ring.
    pub accepted: u64,
    /// Frames that found the ring full and are lost.
    pub refused: u64,
}
