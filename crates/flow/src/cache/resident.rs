//! One flow in its place.

use crate::key::{Key, KeyV4};
use crate::packet::Arrival;
use crate::record::{EndReason, FlowRecord};
use crate::volume::Volume;
use zerocopy::FromZeros;

/// A flow in its place: for [`KeyV4`] one cache line.
#[derive(Clone, Copy, FromZeros)]
#[repr(C, align(64))]
pub(super) struct Resident<K: Key> {
    pub(super) key: K::Bits,
    pub(super) first_ms: u64,
    pub(super) last_ms: u64,
    /// Uptime at which the active timeout is over, in ms: depends on `first_ms`, the key and the
    /// timeouts, and is kept because a packet would take long to work it out.
    pub(super) active_until_ms: u64,
    /// 0 where the place is free: a flow has at least the packet that created it.
    packets: u64,
    octets: u64,
    tcp_flags: u8,
    /// Whether the flow is in its second set.
    pub(super) displaced: bool,
    /// By how much the flow's last packet was behind the clock: the binary logarithm of the ms,
    /// rounded up; 0 where it was not.
    late: u8,
}

// Without padding an IPv4 flow takes 59 octets. The rest of the line has room for the 4 octets of
// a scope that could join the key.
const _: () = {
    assert!(size_of::<Resident<KeyV4>>() == 64 && align_of::<Resident<KeyV4>>() == 64);
    let used = std::mem::offset_of!(Resident<KeyV4>, late) + size_of::<u8>();
    assert!(64 - used.next_multiple_of(4) >= 4);
};

/// RFC 9293, section 3.1.
pub(super) const FIN_OR_RST: u8 = 0x05;

impl<K: Key> Resident<K> {
    /// A flow that begins with this packet.
    #[inline]
    pub(super) fn new(key: K::Bits, arrival: &Arrival<K>, active_until_ms: u64) -> Self {
        Self {
            key,
            first_ms: arrival.at_ms,
            last_ms: arrival.at_ms,
            active_until_ms,
            packets: 1,
            octets: arrival.packet.octets.into(),
            tcp_flags: arrival.packet.tcp_flags,
            displaced: false,
            late: 0,
        }
    }

    /// Adds a packet of this flow that is no earlier than its last.
    #[inline]
    pub(super) fn add(&mut self, arrival: &Arrival<K>) {
        debug_assert!(
            arrival.at_ms >= self.last_ms,
            "packets arrive in the order of their times"
        );
        self.packets += 1;
        self.octets += u64::from(arrival.packet.octets);
        self.last_ms = arrival.at_ms;
        self.tcp_flags |= arrival.packet.tcp_flags;
    }

    /// Adds a packet of this flow, whatever its time.
    pub(super) fn add_in_any_order(&mut self, arrival: &Arrival<K>) {
        let last_ms = self.last_ms.max(arrival.at_ms);
        self.first_ms = self.first_ms.min(arrival.at_ms);
        self.last_ms = arrival.at_ms;
        self.add(arrival);
        self.last_ms = last_ms;
    }

    /// Notes that the last packet of the flow came `late_ms` after its own time.
    pub(super) fn set_late(&mut self, late_ms: u64) {
        self.late = match late_ms {
            0 => 0,
            _ => u8::try_from(late_ms.next_power_of_two().trailing_zeros().max(1))
                .expect("a logarithm of 64 bits"),
        };
    }

    /// How long after its timeouts the flow is due by the clock, in ms: at least as long as its
    /// last packet was late, and less than twice that. So a source that is behind the clock all the
    /// time has the timeouts that its own packets give it.
    #[inline]
    pub(super) fn late_ms(&self) -> u64 {
        // Odd for 0 alone.
        (1 << self.late) & !1
    }

    /// Whether this is the flow of `key`.
    #[inline]
    pub(super) fn holds(&self, key: K::Bits) -> bool {
        self.key == key && self.packets > 0
    }

    /// Makes the place one that holds no flow. It keeps its key, but admits no packet: its active
    /// timeout is over at any time.
    #[inline]
    pub(super) fn clear(&mut self) {
        self.packets = 0;
        self.active_until_ms = 0;
    }

    /// Packets and octets so far.
    #[inline]
    pub(super) fn volume(&self) -> Volume {
        Volume {
            packets: self.packets,
            octets: self.octets,
        }
    }

    /// Whether a FIN or RST was seen.
    #[inline]
    pub(super) fn is_closing(&self) -> bool {
        self.tcp_flags & FIN_OR_RST != 0
    }

    /// Whether the packet is the first of this flow with its FIN or RST.
    #[inline]
    pub(super) fn is_closed_by(&self, arrival: &Arrival<K>) -> bool {
        arrival.packet.tcp_flags & !self.tcp_flags & FIN_OR_RST != 0
    }

    /// The record that is exported of this flow if it ends now, for this reason.
    #[inline]
    pub(super) fn record(&self, end: EndReason) -> FlowRecord<K> {
        FlowRecord {
            key: K::from_bits(self.key),
            volume: self.volume(),
            first_ms: self.first_ms,
            last_ms: self.last_ms,
            tcp_flags: self.tcp_flags,
            end,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::long::LongKey;

    #[test]
    fn a_flow_with_a_key_of_40_octets_takes_two_cache_lines() {
        assert_eq!(
            (
                size_of::<Resident<LongKey>>(),
                align_of::<Resident<LongKey>>()
            ),
            (128, 64)
        );
    }
}
