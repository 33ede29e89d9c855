//! The drop counters of a driver, by the driver's own names.

use super::ethtool::Ethtool;
use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

/// A driver's own counters of received frames that were lost, by the driver's names.
///
/// For display only: they overlap with each other, with the link's statistics, and with the
/// counters of sockets.
pub struct NamedDrops {
    /// `None` if the driver has no such counters.
    ethtool: Option<Ethtool>,
    /// The number of all counters of the driver when their names were read.
    counter_count: usize,
    counters: Vec<Named>,
    /// As last read: an interface that was removed has no counters any more.
    since_start: Mutex<Vec<u64>>,
}

impl NamedDrops {
    /// The drop counters that the driver of the interface with this ifIndex has now; they count
    /// from here on.
    #[must_use]
    pub fn of(index: u32) -> Self {
        Self::look_up(index).unwrap_or(Self {
            ethtool: None,
            counter_count: 0,
            counters: Vec::new(),
            since_start: Mutex::default(),
        })
    }

    fn look_up(index: u32) -> Option<Self> {
        let ethtool = Ethtool::of(index)?;
        let counter_count = ethtool.info()?.counter_count;
        let names = ethtool.counter_names(counter_count)?;
        let before = ethtool.counters(counter_count)?;
        let all = names.into_iter().zip(before).enumerate();
        let named = all.map(|(index, (name, before))| Named {
            name,
            index,
            before,
        });
        let mut counters: Vec<_> = named
            .filter(|counter| counts_drops(&counter.name))
            .collect();
        // A name that occurs twice would be one metric with two values.
        let mut seen = HashSet::new();
        counters.retain(|counter| seen.insert(counter.name.clone()));
        counters.truncate(NAMED_MAX);
        let since_start = Mutex::new(vec![0; counters.len()]);
        Some(Self {
            ethtool: Some(ethtool),
            counter_count,
            counters,
            since_start,
        })
    }

    /// Each counter by name, since the start. Some drivers query the card: at most once a second.
    ///
    /// If the driver has other counters by now, because its channels were changed, the values from
    /// before the change.
    #[must_use]
    pub fn read(&self) -> Vec<(String, u64)> {
        let mut since_start = self
            .since_start
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(now) = self.all_now() {
            for (known, counter) in since_start.iter_mut().zip(&self.counters) {
                *known = now[counter.index]
                    .saturating_sub(counter.before)
                    .max(*known);
            }
        }
        self.counters
            .iter()
            .zip(since_start.iter())
            .map(|(counter, count)| (counter.name.clone(), *count))
            .collect()
    }

    fn all_now(&self) -> Option<Vec<u64>> {
        let ethtool = self
            .ethtool
            .as_ref()
            .filter(|_| !self.counters.is_empty())?;
        (ethtool.info()?.counter_count == self.counter_count)
            .then(|| ethtool.counters(self.counter_count))
            .flatten()
    }
}

/// A counter: its name, its index among the driver's, and its value at the start.
struct Named {
    name: String,
    index: usize,
    before: u64,
}

/// The most counters of one interface. Drivers list totals before queues.
const NAMED_MAX: usize = 64;

/// Whether a driver's counter with this name counts received frames that were lost. Counters with
/// `xdp` count what the program decided.
fn counts_drops(name: &str) -> bool {
    const WORDS: [&str; 11] = [
        "drop",
        "discard",
        "no_buf",
        "nobuf",
        "no_dma",
        "no_desc",
        "out_of_buffer",
        "missed",
        "overflow",
        "overrun",
        "fifo",
    ];
    name.contains("rx") && !name.contains("xdp") && WORDS.iter().any(|word| name.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_counters_of_lost_frames_are_recognized() {
        for name in [
            "rx_discards_phy",
            "rx_out_of_buffer",
            "port.rx_dropped",
            "rx_no_dma_resources",
            "rx_queue_0_drops",
        ] {
            assert!(counts_drops(name), "{name}");
        }
        for name in [
            "rx_packets",
            "tx_dropped",
            "rx_queue_0_xdp_drops",
            "fdir_overflow",
            "rx_crc_errors",
        ] {
            assert!(!counts_drops(name), "{name}");
        }
    }

    #[test]
    fn an_interface_without_counters_has_no_named_drops() {
        const LOOPBACK: u32 = 1;
        for index in [u32::MAX, LOOPBACK] {
            assert!(NamedDrops::of(index).read().is_empty(), "{index}");
        }
    }
}
