//! When a flow ends, and which one makes room for another. How flows are stored is not decided
//! here.

use super::resident::{FIN_OR_RST, Resident};
use crate::key::Key;
use crate::packet::Arrival;
use crate::record::{EndReason, FlowRecord};
use std::time::Duration;

/// How long flows stay, in ms.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Timeouts {
    /// A flow without a packet for this long is expired.
    pub idle_ms: u64,
    /// A flow that has lasted for this long is expired, and its next packet begins another.
    pub active_ms: u64,
    /// The idle timeout of a flow that has shown FIN or RST; at most `idle_ms` counts.
    pub linger_ms: u64,
    /// The active timeout of each flow is shorter by a share of this that depends on its key alone,
    /// so that flows that began together do not all end together. At most `active_ms` counts.
    pub lifetime_spread_ms: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            idle_ms: 15_000,
            active_ms: 60_000,
            linger_ms: 1_000,
            lifetime_spread_ms: 0,
        }
    }
}

/// Timeouts by which a flow could never be idle, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum TimeoutsError {
    /// The active timeout always comes first.
    #[error(
        "the idle timeout of {idle_s} s is above the active timeout of {active_s} s: lower the \
         first or raise the second"
    )]
    IdleAboveActive {
        /// The idle timeout.
        idle_s: f64,
        /// The active timeout.
        active_s: f64,
    },
    /// The active timeout of some flows always comes first.
    #[error(
        "the lifetime spread of {spread_s} s is above the {between_s} s between the idle and the \
         active timeout: lower the first or raise the active timeout"
    )]
    Spread {
        /// The lifetime spread.
        spread_s: f64,
        /// The active timeout less the idle timeout.
        between_s: f64,
    },
}

impl Timeouts {
    /// Checks that every flow can be idle.
    ///
    /// # Errors
    ///
    /// Which of the timeouts prevents it.
    pub fn check(&self) -> Result<(), TimeoutsError> {
        let seconds = |ms: u64| Duration::from_millis(ms).as_secs_f64();
        if self.idle_ms > self.active_ms {
            return Err(TimeoutsError::IdleAboveActive {
                idle_s: seconds(self.idle_ms),
                active_s: seconds(self.active_ms),
            });
        }
        let between_ms = self.active_ms - self.idle_ms;
        if self.lifetime_spread_ms > between_ms {
            return Err(TimeoutsError::Spread {
                spread_s: seconds(self.lifetime_spread_ms),
                between_s: seconds(between_ms),
            });
        }
        Ok(())
    }

    /// Uptime at which a resident flow is due if no packet comes, in ms.
    #[must_use]
    pub fn due_ms<K: Key>(&self, flow: &FlowRecord<K>) -> u64 {
        let Self {
            idle_ms,
            active_ms,
            linger_ms,
            lifetime_spread_ms,
        } = consistent(*self);
        let early_ms = share_of(lifetime_spread_ms, K::fold(&flow.key.to_bits()));
        let idle_ms = if flow.tcp_flags & FIN_OR_RST == 0 {
            idle_ms
        } else {
            linger_ms
        };
        (flow.first_ms + active_ms - early_ms).min(flow.last_ms + idle_ms)
    }
}

/// The rules by which flows end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Policy {
    timeouts: Timeouts,
    /// At most 2^64 - 2^32, so that the octets of one more packet never overflow 64 bits.
    counter_max: u64,
}

impl Policy {
    pub(super) fn new(timeouts: Timeouts, counter_max: u64) -> Self {
        Self {
            timeouts: consistent(timeouts),
            counter_max: counter_max.min(u64::MAX - u64::from(u32::MAX)),
        }
    }

    /// Sets other timeouts. Each resident flow has to be [renewed](Self::renew) once.
    pub(super) fn set_timeouts(&mut self, timeouts: Timeouts) {
        self.timeouts = consistent(timeouts);
    }

    /// Whether the packet joins its flow, and is no earlier than the flow's last: it neither comes
    /// after the flow's end nor lifts a counter above the ceiling.
    #[inline]
    pub(super) fn admits<K: Key>(&self, flow: &Resident<K>, arrival: &Arrival<K>) -> bool {
        // An earlier packet seems to come very much later.
        let silent_ms = arrival.at_ms.wrapping_sub(flow.last_ms);
        self.has_room(flow, arrival)
            && silent_ms < self.idle_ms(flow)
            && arrival.at_ms < flow.active_until_ms
    }

    /// Whether the packet can be one of its flow by its time, which may be earlier than that of
    /// packets that came before.
    pub(super) fn is_in_time<K: Key>(&self, flow: &Resident<K>, arrival: &Arrival<K>) -> bool {
        let at_ms = arrival.at_ms;
        if at_ms >= flow.last_ms {
            at_ms - flow.last_ms < self.idle_ms(flow) && at_ms < flow.active_until_ms
        } else {
            at_ms >= flow.first_ms
                || flow.first_ms - at_ms < self.timeouts.idle_ms
                    && flow.last_ms < self.active_until_ms::<K>(&flow.key, at_ms)
        }
    }

    /// Whether the packet leaves the flow's counters at their ceiling or below.
    #[inline]
    pub(super) fn has_room<K: Key>(&self, flow: &Resident<K>, arrival: &Arrival<K>) -> bool {
        let volume = flow.volume();
        volume.octets + u64::from(arrival.packet.octets) <= self.counter_max
            && volume.packets < self.counter_max
    }

    /// The timeout that was over first at `now_ms`, if any was.
    #[inline]
    pub(super) fn due<K: Key>(&self, flow: &Resident<K>, now_ms: u64) -> Option<EndReason> {
        (now_ms >= self.due_ms(flow)).then(|| self.timed_out(flow))
    }

    /// The timeout that is over first.
    #[inline]
    pub(super) fn timed_out<K: Key>(&self, flow: &Resident<K>) -> EndReason {
        let went_idle = self.idle_until_ms(flow) <= flow.active_until_ms;
        match (went_idle, flow.is_closing()) {
            (true, true) => EndReason::EndOfFlow,
            (true, false) => EndReason::Idle,
            (false, _) => EndReason::Active,
        }
    }

    /// Uptime at which the flow is due if no packet comes, in ms.
    #[inline]
    pub(super) fn due_ms<K: Key>(&self, flow: &Resident<K>) -> u64 {
        self.idle_until_ms(flow).min(flow.active_until_ms) + flow.late_ms()
    }

    /// Uptime at which the active timeout of a flow is over, in ms.
    #[inline]
    pub(super) fn active_until_ms<K: Key>(&self, key: &K::Bits, first_ms: u64) -> u64 {
        let early_ms = share_of(self.timeouts.lifetime_spread_ms, K::fold(key));
        first_ms + (self.timeouts.active_ms - early_ms)
    }

    /// Applies the present timeouts to a flow that began under others, or earlier than it seemed.
    #[inline]
    pub(super) fn renew<K: Key>(&self, flow: &mut Resident<K>) {
        flow.active_until_ms = self.active_until_ms::<K>(&flow.key, flow.first_ms);
    }

    /// Of flows that are given oldest first, the first that [costs little](is_expendable) to evict;
    /// if there is none, the one that was idle longest. In a flood of flows of one packet each this
    /// is the first flow of all, and no other is read.
    #[inline(always)]
    pub(super) fn evicted<'a, K: Key + 'a, P>(
        &self,
        flows: impl Iterator<Item = (P, &'a Resident<K>)> + Clone,
        now_ms: u64,
    ) -> Option<P> {
        let expendable = flows.clone().find(|(_, flow)| is_expendable(flow, now_ms));
        expendable
            .or_else(|| flows.min_by_key(|(_, flow)| flow.last_ms))
            .map(|(place, _)| place)
    }

    /// Uptime at which the flow has been idle for long enough, in ms.
    #[inline]
    fn idle_until_ms<K: Key>(&self, flow: &Resident<K>) -> u64 {
        flow.last_ms + self.idle_ms(flow)
    }

    /// How long the flow may be idle, in ms.
    #[inline]
    fn idle_ms<K: Key>(&self, flow: &Resident<K>) -> u64 {
        if flow.is_closing() {
            self.timeouts.linger_ms
        } else {
            self.timeouts.idle_ms
        }
    }
}

/// Timeouts of which none contradicts another.
fn consistent(timeouts: Timeouts) -> Timeouts {
    Timeouts {
        // The linger is an idle timeout too, and the shorter one counts.
        linger_ms: timeouts.linger_ms.min(timeouts.idle_ms),
        lifetime_spread_ms: timeouts.lifetime_spread_ms.min(timeouts.active_ms),
        ..timeouts
    }
}

/// Whether evicting the flow at `now_ms` costs little: one packet only, or silent for a second.
#[inline]
fn is_expendable<K: Key>(flow: &Resident<K>, now_ms: u64) -> bool {
    const SILENT_MS: u64 = 1_000;
    flow.volume().packets == 1 || now_ms >= flow.last_ms + SILENT_MS
}

/// A share from 0 to all of `spread_ms` that depends on the folded key alone. No seed takes part,
/// so that a flow has the same share on each queue and in each run over a file.
#[inline]
pub(super) fn share_of(spread_ms: u64, folded: u64) -> u64 {
    // The finisher of MurmurHash3: each bit of the key changes about half of the result's.
    let mixed = (folded ^ folded >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let mixed = (mixed ^ mixed >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    ((mixed >> 32) * (spread_ms + 1)) >> 32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever the key and the spread, a share is no more than the whole.
        #[test]
        fn a_share_is_at_most_the_spread(spread_ms in 0u64..=1 << 31, folded in any::<u64>()) {
            prop_assert!(share_of(spread_ms, folded) <= spread_ms);
        }
    }

    #[test]
    fn shares_are_spread_evenly() {
        let mut counts = [0; 10];
        for key in 0..10_000 {
            counts[usize::try_from(share_of(999, key)).unwrap() / 100] += 1;
        }
        assert!(
            counts.iter().all(|count| (900..1_100).contains(count)),
            "{counts:?}"
        );
    }

    #[test]
    fn a_linger_above_idle_and_a_spread_above_active_are_cut() {
        let timeouts = Timeouts {
            idle_ms: 10,
            active_ms: 20,
            linger_ms: 30,
            lifetime_spread_ms: 40,
        };
        let Timeouts {
            linger_ms,
            lifetime_spread_ms,
            ..
        } = consistent(timeouts);
        assert_eq!((linger_ms, lifetime_spread_ms), (10, 20));
    }
}
