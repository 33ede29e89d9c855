//! One flow in its place, and when it is due.

use super::{Arrival, Timeouts};
use crate::key::FlowKey;
use crate::record::{EndReason, FlowRecord};
use zerocopy::FromZeros;

/// A flow in its place: one cache line.
#[derive(Clone, Copy, FromZeros)]
#[repr(C, align(64))]
pub(super) struct Resident {
    pub(super) key: u128,
    pub(super) first_ms: u64,
    pub(super) last_ms: u64,
    /// When it has been active for long enough: its share of the spread is known from its key
    /// alone, once and for all.
    active_until_ms: u64,
    /// 0 where the place is free: a flow has at least the packet that made it.
    pub(super) packets: u32,
    pub(super) octets: u32,
    pub(super) tcp_flags: u8,
    /// Whether it stands in its second set.
    pub(super) displaced: bool,
}

const _: () = assert!(size_of::<Resident>() == 64);

/// RFC 9293, section 3.1.
const FIN_OR_RST: u8 = 0x05;

impl Resident {
    /// A flow of its first packet.
    #[inline]
    pub(super) fn new(key: u128, arrival: &Arrival, timeouts: &Timeouts, displaced: bool) -> Self {
        let early_ms = share_of(timeouts.lifetime_spread_ms, key);
        Self {
            key,
            first_ms: arrival.at_ms,
            last_ms: arrival.at_ms,
            active_until_ms: arrival.at_ms + (timeouts.active_ms - early_ms),
            packets: 1,
            octets: arrival.packet.octets,
            tcp_flags: arrival.packet.tcp_flags,
            displaced,
        }
    }

    /// Adds the packet if that is all there is to do: there is a flow here, it is the packet's own,
    /// the packet neither comes too late for it nor overflows its 32-bit counters, and it does not
    /// bring the end closer. Returns whether it did: nearly always.
    #[inline]
    pub(super) fn add(&mut self, key: u128, arrival: &Arrival, timeouts: &Timeouts) -> bool {
        let closes = arrival.packet.tcp_flags & !self.tcp_flags & FIN_OR_RST != 0;
        self.holds(key) && !closes && self.add_any(arrival, timeouts)
    }

    /// Adds a packet of this flow if it neither comes too late nor overflows the counters.
    #[inline]
    pub(super) fn add_any(&mut self, arrival: &Arrival, timeouts: &Timeouts) -> bool {
        let (octets, overflow) = self.octets.overflowing_add(arrival.packet.octets);
        if overflow || self.packets == u32::MAX || self.is_due(arrival.at_ms, timeouts) {
            return false;
        }
        debug_assert!(
            arrival.at_ms >= self.last_ms,
            "packets arrive in the order of their times"
        );
        self.packets += 1;
        self.octets = octets;
        self.last_ms = arrival.at_ms;
        self.tcp_flags |= arrival.packet.tcp_flags;
        true
    }

    /// Whether nobody would miss it much if it made room at `now_ms`: one packet only, or none for
    /// a while.
    #[inline]
    pub(super) fn is_expendable(&self, now_ms: u64) -> bool {
        const A_WHILE_MS: u64 = 1_000;
        self.packets == 1 || now_ms >= self.last_ms + A_WHILE_MS
    }

    /// Whether it is the flow of `key`.
    #[inline]
    pub(super) fn holds(&self, key: u128) -> bool {
        self.key == key && self.packets > 0
    }

    /// Makes the place one that holds no flow.
    #[inline]
    pub(super) fn leave(&mut self) {
        self.packets = 0;
    }

    /// Whether it ought to be let go at `now_ms`.
    #[inline]
    fn is_due(&self, now_ms: u64, timeouts: &Timeouts) -> bool {
        now_ms >= self.due_ms(timeouts)
    }

    /// The timeout that was over first at `now_ms`, if any was.
    #[inline]
    pub(super) fn due(&self, now_ms: u64, timeouts: &Timeouts) -> Option<EndReason> {
        if !self.is_due(now_ms, timeouts) {
            return None;
        }
        Some(
            match (
                self.quiet_until_ms(timeouts) <= self.active_until_ms,
                self.is_closing(),
            ) {
                (true, true) => EndReason::EndOfFlow,
                (true, false) => EndReason::Idle,
                (false, _) => EndReason::Active,
            },
        )
    }

    /// When it is due if no packet comes.
    #[inline]
    pub(super) fn due_ms(&self, timeouts: &Timeouts) -> u64 {
        self.quiet_until_ms(timeouts).min(self.active_until_ms)
    }

    /// When it has been quiet for long enough.
    #[inline]
    fn quiet_until_ms(&self, timeouts: &Timeouts) -> u64 {
        self.last_ms
            + if self.is_closing() {
                timeouts.linger_ms
            } else {
                timeouts.idle_ms
            }
    }

    /// Whether a FIN or RST was seen.
    #[inline]
    fn is_closing(&self) -> bool {
        self.tcp_flags & FIN_OR_RST != 0
    }

    /// What is exported of it.
    #[inline]
    pub(super) fn record(&self, end: EndReason) -> FlowRecord {
        FlowRecord {
            key: FlowKey::from_bits(self.key),
            packets: self.packets,
            octets: self.octets,
            first_ms: self.first_ms,
            last_ms: self.last_ms,
            tcp_flags: self.tcp_flags,
            end,
        }
    }
}

/// A share from 0 to all of `spread_ms` that a key has for good: no seed is in it, so that a flow
/// on two queues and the next run of a file have the same.
#[inline]
#[expect(
    clippy::cast_possible_truncation,
    reason = "both halves of the key are folded into 64 bits"
)]
pub(super) fn share_of(spread_ms: u64, key: u128) -> u64 {
    let folded = (key >> 64) as u64 ^ (key as u64).rotate_left(32);
    // The finisher of MurmurHash3: each bit of the key changes about half of the result's.
    let mixed = (folded ^ folded >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let mixed = (mixed ^ mixed >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    ((mixed >> 32) * (spread_ms + 1)) >> 32
}
