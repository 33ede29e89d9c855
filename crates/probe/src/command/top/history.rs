//! Samples of the last 40 s, and the rates between them.
//!
//! A rate over a window is what was counted between the latest sample and the one that was the
//! latest when the window began, divided by the time between the two by the probe's own clock.
//! While there are no samples of the whole window, it is over those there are: at the least two.

use super::sample::Sample;
use std::cmp::Ordering;
use std::collections::VecDeque;

/// Seconds over which rates are averaged.
pub const WINDOWS_S: [u64; 3] = [2, 10, 40];
/// The window of the rates in tables, in seconds. A loss counts as moving if it was counted in it.
pub const TABLE_WINDOW_S: u64 = WINDOWS_S[1];

/// The latest samples, oldest first; at least one.
#[derive(Clone, Debug)]
pub struct History(VecDeque<Sample>);

impl History {
    /// Begins with a sample.
    pub fn new(first: Sample) -> Self {
        Self(VecDeque::from([first]))
    }

    /// Adds a sample. One of a lower uptime is of a probe that was started again: what came before
    /// it is forgotten.
    pub fn add(&mut self, sample: Sample) {
        let uptime_ms = sample.uptime_ms();
        match uptime_ms.cmp(&self.now().uptime_ms()) {
            Ordering::Less => self.0.clear(),
            Ordering::Equal => drop(self.0.pop_back()),
            Ordering::Greater => (),
        }
        self.0.push_back(sample);
        let begins_ms = uptime_ms.saturating_sub(WINDOWS_S[2] * 1_000);
        while self
            .0
            .get(1)
            .is_some_and(|second| second.uptime_ms() <= begins_ms)
        {
            self.0.pop_front();
        }
    }

    /// The latest sample.
    pub fn now(&self) -> &Sample {
        self.0.back().expect("there is always one")
    }

    /// What a count grew by in a second, over a window; none as long as only one sample has it.
    pub fn rate(&self, window_s: u64, count: impl Fn(&Sample) -> Option<u64>) -> Option<f64> {
        let (grown, ms) = self.growth(window_s, count)?;
        // Counts are far below 2^53.
        #[expect(clippy::cast_precision_loss, reason = "a rate has three digits")]
        Some(grown as f64 * 1_000.0 / ms as f64)
    }

    /// Whether a count of losses has grown in the window of tables.
    pub fn is_moving(&self, count: impl Fn(&Sample) -> Option<u64>) -> bool {
        self.growth(TABLE_WINDOW_S, count)
            .is_some_and(|(grown, _)| grown > 0)
    }

    /// What a count grew by over a window, and in how many ms.
    pub fn growth(
        &self,
        window_s: u64,
        count: impl Fn(&Sample) -> Option<u64>,
    ) -> Option<(u64, u64)> {
        let now = self.now();
        let begins_ms = now.uptime_ms().saturating_sub(window_s * 1_000);
        let latest = count(now)?;
        let mut base = None;
        for sample in self.0.iter().rev().skip(1) {
            let Some(count) = count(sample) else {
                break;
            };
            base = Some((sample.uptime_ms(), count));
            if sample.uptime_ms() <= begins_ms {
                break;
            }
        }
        let (at_ms, count) = base?;
        Some((latest.saturating_sub(count), now.uptime_ms() - at_ms))
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use serde_json::json;

    /// A sample at an uptime, with this many packets of 100 octets received, and these lost in the
    /// ring.
    pub fn sample(uptime_ms: u64, received: u64, lost: u64) -> Sample {
        let queue = json!({
            "interface": "tap0", "queue": 0, "state": "running",
            "received_packets": received, "received_octets": received * 100,
            "filtered": 0, "sampled_out": 0, "dropped": { "ring_full": lost }, "undecoded": 0,
            "observed_packets": received, "resident_flows": 250, "flows_max": 1_000,
            "flows_created": received / 10, "flows_evicted": lost / 2,
            "idle_turns": uptime_ms / 10, "busy_turns": uptime_ms / 10, "full_turns": 0,
            "down_ms": 0,
        });
        let value = json!({
            "queues": { "uptime_ms": uptime_ms, "interfaces": {}, "queues": [queue] },
            "ledger": {
                "received": { "packets": received, "octets": received * 100 },
                "sampled_out": { "packets": 0 }, "filtered": { "packets": 3 },
                "excluded": { "packets": 0, "octets": 0 },
                "dropped": { "ring_full": lost, "no_socket": 0, "driver": 7 },
                "undecoded": { "not_ip": 5, "llc": 0 },
                "flows": { "created": received / 10 },
                "exported": { "records": received / 20 },
                "lost": { "records": 0, "reasons": { "refused": 0, "hand_over": 0 } },
                "collectors": [{
                    "collector": "192.0.2.9:2055", "state": "up", "records": received / 20,
                    "lost": { "refused": 0 }, "waiting": 0, "refusals": 0,
                }],
            },
        });
        serde_json::from_value(value).unwrap()
    }

    fn received(sample: &Sample) -> Option<u64> {
        Some(sample.ledger.received.packets)
    }

    fn rates(history: &History) -> [Option<f64>; 3] {
        WINDOWS_S.map(|window| history.rate(window, received))
    }

    #[test]
    fn one_sample_has_no_rates_and_two_have_them_over_every_window() {
        let mut history = History::new(sample(5_000, 700, 0));
        assert_eq!(rates(&history), [None; 3]);
        history.add(sample(5_500, 800, 0));
        assert_eq!(rates(&history), [Some(200.0); 3]);
    }

    #[test]
    fn each_rate_is_over_its_window() {
        let mut history = History::new(sample(0, 0, 0));
        let mut packets = 0;
        // 10 packets a second for 30 s, 100 for 8 s, 1 000 for 2 s.
        for second in 1..=40 {
            packets += match second {
                1..=30 => 10,
                31..=38 => 100,
                _ => 1_000,
            };
            history.add(sample(second * 1_000, packets, 0));
        }
        assert_eq!(rates(&history), [Some(1_000.0), Some(280.0), Some(77.5)]);
        assert_eq!(history.0.len(), 41);
        history.add(sample(41_000, packets, 0));
        assert_eq!(history.0.len(), 41, "samples before the windows are kept");
    }

    #[test]
    fn rates_are_by_the_probes_clock_and_over_two_samples_at_the_least() {
        let mut history = History::new(sample(1_000, 0, 0));
        history.add(sample(31_000, 3_000, 0));
        history.add(sample(46_000, 6_000, 0));
        assert_eq!(rates(&history)[..2], [Some(200.0); 2]);
        // The sample at the beginning of the window counts, and none before it.
        assert_eq!(rates(&history)[2], Some(6_000.0 / 45.0));
    }

    #[test]
    fn a_probe_that_was_started_again_has_rates_of_its_own() {
        let mut history = History::new(sample(50_000, 9_000, 0));
        history.add(sample(51_000, 9_900, 0));
        history.add(sample(200, 10, 0));
        assert_eq!(rates(&history), [None; 3]);
        history.add(sample(1_200, 60, 0));
        assert_eq!(rates(&history), [Some(50.0); 3]);
    }

    #[test]
    fn samples_of_the_same_time_and_counts_that_fall_make_no_rate_of_their_own() {
        let mut history = History::new(sample(1_000, 100, 0));
        history.add(sample(1_000, 100, 0));
        assert_eq!(rates(&history), [None; 3]);
        history.add(sample(2_000, 40, 0));
        assert_eq!(rates(&history), [Some(0.0); 3]);
    }

    #[test]
    fn a_count_that_begins_later_has_a_rate_since_then() {
        let added = |sample: &Sample| (sample.uptime_ms() >= 2_000).then_some(sample.uptime_ms());
        let mut history = History::new(sample(1_000, 0, 0));
        history.add(sample(2_000, 0, 0));
        assert_eq!(history.rate(10, added), None);
        history.add(sample(3_000, 0, 0));
        assert_eq!(history.rate(10, added), Some(1_000.0));
    }

    #[test]
    fn a_loss_moves_for_ten_seconds() {
        let lost = |sample: &Sample| Some(sample.lost_packets());
        let mut history = History::new(sample(0, 0, 5));
        assert!(!history.is_moving(lost));
        history.add(sample(1_000, 0, 6));
        assert!(history.is_moving(lost));
        for second in 2..=10 {
            history.add(sample(second * 1_000, 0, 6));
            assert!(history.is_moving(lost), "{second}");
        }
        history.add(sample(11_000, 0, 6));
        assert!(!history.is_moving(lost));
    }
}
