//! Where drivers differ, and what that means for frames and counts. Everything else is the same for
//! all of them.

use super::ethtool::Ethtool;
use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

/// The driver of an interface.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Driver {
    name: String,
}

/// What a driver does with a frame that the socket refuses, since its ring is full. The socket
/// counts it in each case.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refused {
    /// Drops it and says nothing.
    Dropped,
    /// Drops it and counts it among its own drops as well.
    CountedAgain,
    /// Keeps it and offers it again until it is taken: the XDP program and the socket count every
    /// attempt, and none is a loss.
    OfferedAgain,
}

impl Driver {
    /// The driver of the interface of this name; one without a name where it has none.
    #[must_use]
    pub fn of(interface: &str) -> Self {
        let info = Ethtool::of(interface).and_then(|ethtool| ethtool.info());
        Self {
            name: info.map_or_else(String::new, |info| info.name),
        }
    }

    /// What it does with a frame that the socket refuses.
    #[must_use]
    pub fn refused(&self, in_driver: bool, zero_copy: bool) -> Refused {
        match self.name.as_str() {
            // veth_xdp_rcv_one: rx_drops. virtio_net: receive_small_xdp, and drops alone in
            // virtnet_receive_xsk_small.
            "veth" | "virtio_net" if in_driver => Refused::CountedAgain,
            // *_run_xdp_zc: *_XDP_EXIT on ENOBUFS with need_wakeup, which leaves the descriptor
            // where it is. igb has it too but overwrites it (Linux 7.2).
            "i40e" | "ice" | "ixgbe" if zero_copy => Refused::OfferedAgain,
            _ => Refused::Dropped,
        }
    }

    /// Whether it counts a frame that the XDP program drops among its own drops.
    #[must_use]
    pub fn counts_sampled_out(&self, in_driver: bool) -> bool {
        // receive_small_xdp, receive_mergeable_xdp, virtnet_receive_xsk_small: drops.
        // veth_xdp_rcv_one: xdp_drops alone.
        self.name == "virtio_net" && in_driver
    }

    /// How much of a buffer of so many octets its card fills.
    ///
    /// Cards whose drivers write SRRCTL.BSIZEPKT count in KiB. Such a card cuts a frame that is
    /// longer, and its driver takes the pieces for frames (igb) or drops them (82599).
    #[must_use]
    pub fn filled(&self, buffer_octets: u32) -> u32 {
        match self.name.as_str() {
            "igb" | "igc" | "ixgbe" => buffer_octets / 1024 * 1024,
            _ => buffer_octets,
        }
    }
}

/// The counters of a driver's own that tell of received frames lost, by the names that the driver
/// has for them.
///
/// For looking at: they overlap with each other, with the link's statistics, and with what sockets
/// count.
pub struct NamedDrops {
    /// None where the driver has no such counter.
    ethtool: Option<Ethtool>,
    /// All counters that the driver had when it was asked for their names.
    counter_count: usize,
    counters: Vec<Named>,
    /// As last read: an interface that is gone has no counts any more.
    since_start: Mutex<Vec<u64>>,
}

/// A counter: its name, which of the driver's it is, and what it was at the start.
struct Named {
    name: String,
    place: usize,
    before: u64,
}

/// The most counters of one interface. Drivers name totals before queues.
const NAMED_MAX: usize = 64;

impl NamedDrops {
    /// The driver's counters of this kind, by the names that they have now. They count from here.
    #[must_use]
    pub fn of(interface: &str) -> Self {
        Self::look_up(interface).unwrap_or(Self {
            ethtool: None,
            counter_count: 0,
            counters: Vec::new(),
            since_start: Mutex::default(),
        })
    }

    fn look_up(interface: &str) -> Option<Self> {
        let ethtool = Ethtool::of(interface)?;
        let counter_count = ethtool.info()?.counter_count;
        let names = ethtool.counter_names(counter_count)?;
        let before = ethtool.counters(counter_count)?;
        let all = names.into_iter().zip(before).enumerate();
        let named = all.map(|(place, (name, before))| Named {
            name,
            place,
            before,
        });
        let mut counters: Vec<_> = named
            .filter(|counter| tells_of_drops(&counter.name))
            .collect();
        // A name that comes twice would be one metric with two values.
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

    /// Each counter with what it has counted since the start. Some drivers ask the card: at most
    /// once a second.
    ///
    /// Where the driver has other counters by now, since its channels were changed, what it said
    /// before that.
    #[must_use]
    pub fn read(&self) -> Vec<(String, u64)> {
        let mut since_start = self
            .since_start
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(now) = self.all_now() {
            for (known, counter) in since_start.iter_mut().zip(&self.counters) {
                *known = now[counter.place]
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

/// Whether a driver's counter of this name tells of received frames lost. Those with `xdp` count
/// what the program wished.
fn tells_of_drops(name: &str) -> bool {
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

    fn driver(name: &str) -> Driver {
        Driver {
            name: name.to_owned(),
        }
    }

    #[test]
    fn a_refused_frame_is_the_sockets_and_nobody_elses() {
        assert_eq!(
            driver("virtio_net").refused(true, true),
            Refused::CountedAgain
        );
        assert_eq!(driver("virtio_net").refused(false, false), Refused::Dropped);
        assert_eq!(driver("ice").refused(true, true), Refused::OfferedAgain);
        assert_eq!(driver("ice").refused(true, false), Refused::Dropped);
    }

    #[test]
    fn a_frame_that_the_program_dropped_is_not_the_drivers() {
        assert!(driver("virtio_net").counts_sampled_out(true));
        assert!(
            !driver("virtio_net").counts_sampled_out(false)
                && !driver("veth").counts_sampled_out(true)
        );
    }

    #[test]
    fn cards_that_count_in_kib_fill_less_of_a_buffer() {
        assert_eq!(
            (driver("igb").filled(1792), driver("ice").filled(1792)),
            (1024, 1792)
        );
    }

    #[test]
    fn names_that_tell_of_received_frames_lost_are_known() {
        for name in [
            "rx_discards_phy",
            "rx_out_of_buffer",
            "port.rx_dropped",
            "rx_no_dma_resources",
            "rx_queue_0_drops",
        ] {
            assert!(tells_of_drops(name), "{name}");
        }
        for name in [
            "rx_packets",
            "tx_dropped",
            "rx_queue_0_xdp_drops",
            "fdir_overflow",
            "rx_crc_errors",
        ] {
            assert!(!tells_of_drops(name), "{name}");
        }
    }

    #[test]
    fn an_interface_that_is_not_there_has_no_driver() {
        assert_eq!(Driver::of("ngeth77"), driver(""));
        assert!(NamedDrops::of("ngeth77").read().is_empty());
        assert!(
            NamedDrops::of("lo").read().is_empty(),
            "a driver without counters"
        );
    }
}
