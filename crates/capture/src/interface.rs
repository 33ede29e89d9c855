//! A network interface of this host: its queues, its MTU, whether the host uses it, and what its
//! driver dropped.

mod driver;
mod ethtool;
mod named_drops;

pub use driver::{Driver, RefusedFrame};
pub use named_drops::NamedDrops;

use crate::error::CaptureError;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A network interface of this host.
#[derive(Clone, Debug)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its ifIndex.
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
    /// Looks up the interface with this name.
    ///
    /// # Errors
    ///
    /// [`CaptureError::NoInterface`] if there is none of this name.
    pub fn look_up(name: &str) -> Result<Self, CaptureError> {
        let missing = |_| CaptureError::NoInterface(name.to_owned());
        let index = nix::net::if_::if_nametoindex(name).map_err(missing)?;
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
    /// VLAN, bridge or bond uses it. AF_XDP would take those frames away.
    #[must_use]
    pub fn carries_host_traffic(&self) -> Option<String> {
        if let Some(address) = host_address(&self.name) {
            return Some(format!("the host has the address {address} on it"));
        }
        let upper = entries(&sysfs(&self.name))
            .find_map(|entry| entry.strip_prefix("upper_").map(str::to_owned));
        upper.map(|upper| format!("'{upper}' uses it"))
    }

    /// Packets that the card and its driver have dropped since the driver was loaded.
    #[must_use]
    pub fn driver_drops(&self) -> u64 {
        let statistics = sysfs(&self.name).join("statistics");
        let counters = ["rx_dropped", "rx_missed_errors", "rx_fifo_errors"];
        counters
            .into_iter()
            .filter_map(|counter| read_number(&statistics.join(counter)))
            .sum()
    }

    /// Packets that the interface has received and sent, by its own count, since it was created; 0
    /// if it is gone.
    #[must_use]
    pub fn packets(&self) -> u64 {
        let statistics = sysfs(&self.name).join("statistics");
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
        let path = sysfs(&self.name).join(tunable);
        let before = read_number(&path).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        fs::write(&path, value.to_string())?;
        Ok(before)
    }
}

/// An address of the host on the interface. Link-local IPv6 addresses do not count: every interface
/// that is up has one, taps too.
fn host_address(name: &str) -> Option<String> {
    let on_it = nix::ifaddrs::getifaddrs()
        .ok()?
        .filter(|entry| entry.interface_name == name);
    on_it.filter_map(|entry| entry.address).find_map(|address| {
        let v4 = address
            .as_sockaddr_in()
            .map(|address| address.ip().to_string());
        let v6 = address
            .as_sockaddr_in6()
            .map(nix::sys::socket::SockaddrIn6::ip);
        v4.or_else(|| {
            v6.filter(|address| !address.is_unicast_link_local())
                .map(|address| address.to_string())
        })
    })
}

fn sysfs(name: &str) -> PathBuf {
    Path::new("/sys/class/net").join(name)
}

fn entries(folder: &Path) -> impl Iterator<Item = String> + use<> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned())
}

fn read_number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
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
