//! A network interface of this host: its queues, its MTU, whether the host uses it, and what its
//! driver dropped.

mod driver;
mod ethtool;
mod host;
mod named_drops;
mod sysfs;

pub use driver::{Driver, RefusedFrame};
pub use named_drops::NamedDrops;

use crate::error::CaptureError;
use std::fs;
use std::io;
use std::path::PathBuf;
use sysfs::{entries, read_number, sysfs};

/// A network interface of this host.
#[derive(Clone, Debug)]
pub struct Interface {
    /// Its name when it was looked up.
    pub name: String,
    /// Its ifIndex, which it keeps when it is renamed.
    pub index: u32,
    /// Its MTU in octets: the most that a frame carries after its link header.
    pub mtu: u32,
    /// Its RX queues (channels).
    pub queue_count: u32,
    /// Its driver.
    pub driver: Driver,
}

/// Assumed where sysfs does not show the MTU: Ethernet's.
const MTU_UNKNOWN: u32 = 1500;

impl Interface {
    /// Looks up the interface with this name, or with this alternative name.
    ///
    /// # Errors
    ///
    /// [`CaptureError::NoInterface`] if there is none of this name.
    pub fn look_up(name: &str) -> Result<Self, CaptureError> {
        let missing = |_| CaptureError::NoInterface(name.to_owned());
        let index = nix::net::if_::if_nametoindex(name).map_err(missing)?;
        // sysfs and libpcap know no alternative names.
        let main_name = name_of(index);
        let name = main_name.as_deref().unwrap_or(name);
        let mtu = read_number(&sysfs(name).join("mtu"))
            .and_then(|mtu| u32::try_from(mtu).ok())
            .unwrap_or(MTU_UNKNOWN);
        let queue_count = entries(&sysfs(name).join("queues"))
            .filter(|queue| queue.starts_with("rx-"))
            .count();
        // Without sysfs there is no queue directory; an interface has at least one queue.
        let queue_count =
            u32::try_from(queue_count.max(1)).expect("queues are numbered in 32 bits");
        Ok(Self {
            name: name.to_owned(),
            index,
            mtu,
            queue_count,
            driver: Driver::of(name),
        })
    }

    /// Whether its frames start with an Ethernet header, as AF_XDP requires; network-layer tunnels
    /// have none.
    #[must_use]
    pub fn has_ethernet_frames(&self) -> bool {
        const ARPHRD_ETHER: u64 = 1;
        const ARPHRD_LOOPBACK: u64 = 772;
        matches!(
            read_number(&sysfs(&self.name).join("type")),
            Some(ARPHRD_ETHER | ARPHRD_LOOPBACK)
        )
    }

    /// Why the host needs the frames of this interface, if it does: it has an address on it, or a
    /// VLAN, bridge or bond uses it. AF_XDP would take those frames away. What cannot be found out
    /// is a reason too.
    #[must_use]
    pub fn carries_host_traffic(&self) -> Option<String> {
        host::reason(&self.name)
    }

    /// What can no longer be reached through this interface while AF_XDP takes its frames: each
    /// address of the host, each route through a gateway, each ssh connection.
    #[must_use]
    pub fn goes_dark(&self) -> Vec<String> {
        host::goes_dark(&self.name)
    }

    /// Its present name, if it still exists.
    #[must_use]
    pub fn present_name(&self) -> Option<String> {
        name_of(self.index)
    }

    /// Packets that the card and its driver have dropped since the driver was loaded.
    #[must_use]
    pub fn driver_drops(&self) -> u64 {
        self.statistics(&["rx_dropped", "rx_missed_errors", "rx_fifo_errors"])
    }

    /// Packets that the card has dropped since the driver was loaded: of
    /// [`driver_drops`](Self::driver_drops) those that libpcap counts.
    #[must_use]
    pub fn card_drops(&self) -> u64 {
        self.statistics(&["rx_missed_errors", "rx_fifo_errors"])
    }

    /// The sum of some of its counters; 0 if it has been removed.
    fn statistics(&self, counters: &[&str]) -> u64 {
        let statistics = self.folder().join("statistics");
        counters
            .iter()
            .filter_map(|counter| read_number(&statistics.join(counter)))
            .sum()
    }

    /// Its folder in sysfs, by its present name.
    fn folder(&self) -> PathBuf {
        let name = self.present_name();
        sysfs(name.as_deref().unwrap_or(&self.name))
    }

    /// Packets that the interface has received and sent, by its own count, since it was created; 0
    /// if it is gone.
    #[must_use]
    pub fn packets(&self) -> u64 {
        let statistics = self.folder().join("statistics");
        let counters = ["rx_packets", "tx_packets"];
        counters
            .into_iter()
            .filter_map(|counter| read_number(&statistics.join(counter)))
            .sum()
    }

    /// Writes a tunable of the device in sysfs and returns its former value.
    ///
    /// # Errors
    ///
    /// The system's error.
    pub fn set_tunable(&self, tunable: &str, value: u64) -> io::Result<u64> {
        let path = self.folder().join(tunable);
        let before = read_number(&path).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        fs::write(&path, value.to_string())?;
        Ok(before)
    }
}

/// The name of the interface with this ifIndex.
fn name_of(index: u32) -> Option<String> {
    nix::net::if_::if_indextoname(index)
        .ok()?
        .into_string()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_carries_the_hosts_traffic() {
        let loopback = Interface::look_up("lo").unwrap();
        assert_eq!((loopback.name.as_str(), loopback.queue_count), ("lo", 1));
        assert!(loopback.mtu >= 1500);
        assert!(
            loopback
                .carries_host_traffic()
                .unwrap()
                .contains("127.0.0.1")
        );
    }

    #[test]
    fn an_unknown_interface_is_named_in_the_error() {
        let error = Interface::look_up("ngeth77").unwrap_err().to_string();
        assert!(error.contains("'ngeth77' does not exist"), "{error}");
    }
}
