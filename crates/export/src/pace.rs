//! Pacing: token buckets, one of records and one of octets, that fill with time.

use std::num::NonZeroU64;

/// The fastest that records are sent to a collector. Without a rate there is no limit.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Pace {
    /// Records per second.
    pub records_per_s: Option<NonZeroU64>,
    /// Octets of UDP payload per second.
    pub octets_per_s: Option<NonZeroU64>,
}

impl Pace {
    /// Whether there is a limit.
    #[must_use]
    pub fn is_limited(self) -> bool {
        self.records_per_s.is_some() || self.octets_per_s.is_some()
    }
}

/// What a datagram takes out of the buckets.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cost {
    pub records: u64,
    pub octets: u64,
}

/// The buckets of one collector.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Buckets {
    records: Option<Bucket>,
    octets: Option<Bucket>,
}

impl Buckets {
    /// Buckets that hold at least one datagram of cost `largest`.
    pub fn new(pace: Pace, largest: Cost) -> Self {
        Self {
            records: pace
                .records_per_s
                .map(|rate| Bucket::new(rate.get(), largest.records)),
            octets: pace
                .octets_per_s
                .map(|rate| Bucket::new(rate.get(), largest.octets)),
        }
    }

    /// Adds the tokens of the time since the previous call.
    pub fn fill(&mut self, now_ms: u64) {
        [&mut self.records, &mut self.octets]
            .into_iter()
            .flatten()
            .for_each(|bucket| bucket.fill(now_ms));
    }

    /// Whether both hold `cost`.
    pub fn hold(&self, cost: Cost) -> bool {
        self.records.is_none_or(|bucket| bucket.holds(cost.records))
            && self.octets.is_none_or(|bucket| bucket.holds(cost.octets))
    }

    /// Takes `cost` out.
    pub fn take(&mut self, cost: Cost) {
        if let Some(bucket) = &mut self.records {
            bucket.take(cost.records);
        }
        if let Some(bucket) = &mut self.octets {
            bucket.take(cost.octets);
        }
    }

    /// When both will hold `cost`, in ms.
    pub fn due_ms(&self, cost: Cost) -> u64 {
        let records = self.records.map_or(0, |bucket| bucket.due_ms(cost.records));
        records.max(self.octets.map_or(0, |bucket| bucket.due_ms(cost.octets)))
    }
}

/// A bucket holds the tokens of this time, and at least those of one datagram: enough to make up
/// for a thread that was woken late, and too few for a burst.
const DEPTH_MS: u64 = 10;
/// Parts of a token: with thousandths, a rate per second is a whole number of parts per ms.
const PARTS: u64 = 1_000;

#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// Tokens per second, and so parts per millisecond.
    rate: u64,
    depth: u64,
    /// Parts in it, at most `depth`.
    level: u64,
    filled_ms: u64,
}

impl Bucket {
    fn new(rate: u64, largest: u64) -> Self {
        let depth = rate
            .saturating_mul(DEPTH_MS)
            .max(largest.saturating_mul(PARTS));
        Self {
            rate,
            depth,
            level: depth,
            filled_ms: 0,
        }
    }

    fn fill(&mut self, now_ms: u64) {
        let passed_ms = now_ms.saturating_sub(self.filled_ms);
        self.level = self
            .level
            .saturating_add(self.rate.saturating_mul(passed_ms))
            .min(self.depth);
        self.filled_ms = self.filled_ms.max(now_ms);
    }

    fn holds(&self, tokens: u64) -> bool {
        tokens.saturating_mul(PARTS) <= self.level
    }

    fn take(&mut self, tokens: u64) {
        debug_assert!(
            self.holds(tokens),
            "no datagram is sent before the bucket holds its tokens"
        );
        self.level = self.level.saturating_sub(tokens.saturating_mul(PARTS));
    }

    fn due_ms(&self, tokens: u64) -> u64 {
        let missing = tokens.saturating_mul(PARTS).saturating_sub(self.level);
        self.filled_ms.saturating_add(missing.div_ceil(self.rate))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    #[test]
    fn a_bucket_says_when_it_will_hold_enough_and_not_a_millisecond_later() {
        let mut bucket = Bucket::new(1_000, 30);
        bucket.take(30);
        assert_eq!(bucket.due_ms(30), 30);
        bucket.fill(29);
        assert!(!bucket.holds(30));
        bucket.fill(30);
        assert!(bucket.holds(30));
    }

    #[test]
    fn the_slower_of_two_limits_holds() {
        let rate = |rate| NonZeroU64::new(rate);
        let pace = Pace {
            records_per_s: rate(1_000_000),
            octets_per_s: rate(1_000),
        };
        let cost = Cost {
            records: 10,
            octets: 500,
        };
        let mut buckets = Buckets::new(pace, cost);
        buckets.take(cost);
        assert_eq!(buckets.due_ms(cost), 500);
    }

    proptest! {
        /// In any time no more is taken than the rate gives and the bucket held; and a sender that
        /// waits until each due time gets the whole rate.
        #[test]
        fn the_rate_is_kept_and_used(
            rate in 1u64..10_000_000,
            costs in vec(1u64..=30, 1..300),
            late_ms in 0u64..3,
        ) {
            let mut bucket = Bucket::new(rate, 30);
            let (mut now_ms, mut taken) = (0, 0);
            for cost in costs {
                let due_ms = bucket.due_ms(cost);
                if due_ms > now_ms {
                    now_ms = due_ms + late_ms;
                }
                bucket.fill(now_ms);
                prop_assert!(bucket.holds(cost));
                bucket.take(cost);
                taken += cost;
                prop_assert!(taken * PARTS <= bucket.depth + rate * now_ms);
            }
            if late_ms == 0 {
                prop_assert!(taken * PARTS + 31 * PARTS + rate >= rate * now_ms);
            }
        }
    }
}
