//! A network interface of this host: its queues, its MTU, whether the host uses it, and what its
//! driver dropped.

mod driver;
mod ethtool;
mod host;
mod named_drops;
mod napi;
mod sysfs;

pub use driver::{Driver, LinkCount, RefusedFrame};
pub use named_drops::NamedDrops;
pub use napi::{Deferral, Napis};

use crate::error::CaptureError;
use std::io;
use sysfs::Folder;

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
    /// Where its counters and settings are, whatever its name is by now.
    folder: Folder,
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
        let folder = Folder::of(name, index);
        let mtu = folder
            .number("mtu")
            .and_then(|mtu| u32::try_from(mtu).ok())
            .unwrap_or(MTU_UNKNOWN);
        Ok(Self {
            name: name.to_owned(),
            index,
            mtu,
            // Without sysfs there is no queue directory; an interface has at least one queue.
            queue_count: channels_in(&folder).unwrap_or(1),
            driver: Driver::of(index),
            folder,
        })
    }

    /// An interface that no host has, with the files of this folder.
    #[cfg(test)]
    pub(crate) fn in_folder(folder: &std::path::Path) -> Self {
        Self {
            name: "ngeth77".to_owned(),
            index: i32::MAX.unsigned_abs(),
            mtu: MTU_UNKNOWN,
            queue_count: 1,
            driver: Driver::of(i32::MAX.unsigned_abs()),
            folder: Folder::at(folder),
        }
    }

    /// Whether its frames start with an Ethernet header, as AF_XDP requires; network-layer tunnels
    /// have none.
    #[must_use]
    pub fn has_ethernet_frames(&self) -> bool {
        const ARPHRD_ETHER: u64 = 1;
        const ARPHRD_LOOPBACK: u64 = 772;
        matches!(
            self.folder.number("type"),
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

    /// Frames that the interface has received, by its own count, since it was created; `None` if it
    /// is gone. [`Driver::link_count`] says which frames its driver counts there.
    #[must_use]
    pub fn received(&self) -> Option<u64> {
        self.folder.number("statistics/rx_packets")
    }

    /// Packets that the interface has received and sent, by its own count, since it was created; 0
    /// if it is gone.
    #[must_use]
    pub fn packets(&self) -> u64 {
        self.statistics(&["rx_packets", "tx_packets"])
    }

    /// Its RX queues (channels) by now; `None` if it is gone.
    #[must_use]
    pub fn channels(&self) -> Option<u32> {
        channels_in(&self.folder)
    }

    /// The sum of some of its counters; 0 if it has been removed.
    fn statistics(&self, counters: &[&str]) -> u64 {
        let count = |counter: &&str| self.folder.number(&format!("statistics/{counter}"));
        counters.iter().filter_map(count).sum()
    }

    /// How the device defers interrupts, where its NAPI instances have no settings of their own;
    /// `None` if it is gone.
    #[must_use]
    pub fn deferral(&self) -> Option<Deferral> {
        let polls = self.folder.number(DEFER_POLLS)?;
        Some(Deferral {
            polls: u32::try_from(polls).ok()?,
            timeout_ns: self.folder.number(DEFER_TIMEOUT)?,
        })
    }

    /// Sets how the device, and so each of its NAPI instances, defers interrupts.
    ///
    /// # Errors
    ///
    /// The system's error.
    pub fn set_deferral(&self, deferral: Deferral) -> io::Result<()> {
        self.folder.set_number(DEFER_POLLS, deferral.polls.into())?;
        self.folder.set_number(DEFER_TIMEOUT, deferral.timeout_ns)
    }
}

/// The files of [`Deferral`] in the folder of an interface.
const DEFER_POLLS: &str = "napi_defer_hard_irqs";
const DEFER_TIMEOUT: &str = "gro_flush_timeout";

/// The RX queues of the interface with this folder; `None` if they cannot be read.
fn channels_in(folder: &Folder) -> Option<u32> {
    let count = folder.count("queues", "rx-").filter(|&count| count > 0)?;
    u32::try_from(count).ok()
}

/// The name of the interface with this ifIndex.
fn name_of(index: u32) -> Option<String> {
    let name = nix::net::if_::if_indextoname(index).ok()?;
    // For an interface that does not exist nix 0.31 returns an empty name, not an error.
    name.into_string().ok().filter(|name| !name.is_empty())
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
    fn an_ifindex_that_no_interface_has_has_no_name() {
        assert_eq!(name_of(i32::MAX.unsigned_abs()), None);
        assert_eq!(name_of(1).as_deref(), Some("lo"));
    }

    #[test]
    fn an_unknown_interface_is_named_in_the_error() {
        let error = Interface::look_up("ngeth77").unwrap_err().to_string();
        assert!(error.contains("'ngeth77' does not exist"), "{error}");
    }
}
