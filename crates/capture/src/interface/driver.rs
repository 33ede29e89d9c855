//! Where drivers differ, and what that means for frames and counts. Everything else is the same for all of them.

use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use std::os::fd::AsRawFd;

/// The driver of an interface.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Driver {
    name: String,
}

/// What a driver does with a frame that the socket refuses, since its ring is full. The socket counts it in each case.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refused {
    /// Drops it and says nothing.
    Dropped,
    /// Drops it and counts it among its own drops as well.
    CountedAgain,
    /// Keeps it and offers it again until it is taken: the XDP program and the socket count every attempt, and none is a loss.
    OfferedAgain,
}

impl Driver {
    /// The driver of the interface of this name; one without a name where it has none.
    #[must_use]
    pub fn of(interface: &str) -> Self {
        Self { name: name(interface).unwrap_or_default() }
    }

    /// What it does with a frame that the socket refuses.
    #[must_use]
    pub fn refused(&self, in_driver: bool, zero_copy: bool) -> Refused {
        match self.name.as_str() {
            // veth_xdp_rcv_one: rx_drops. virtio_net: receive_small_xdp, and drops alone in virtnet_receive_xsk_small.
            "veth" | "virtio_net" if in_driver => Refused::CountedAgain,
            // *_run_xdp_zc: *_XDP_EXIT on ENOBUFS with need_wakeup, which leaves the descriptor where it is. igb has it too
            // but overwrites it (Linux 7.2).
            "i40e" | "ice" | "ixgbe" if zero_copy => Refused::OfferedAgain,
            _ => Refused::Dropped,
        }
    }

    /// Whether it counts a frame that the XDP program drops among its own drops.
    #[must_use]
    pub fn counts_sampled_out(&self, in_driver: bool) -> bool {
        // receive_small_xdp, receive_mergeable_xdp, virtnet_receive_xsk_small: drops. veth_xdp_rcv_one: xdp_drops alone.
        self.name == "virtio_net" && in_driver
    }

    /// How much of a buffer of so many octets its card fills.
    ///
    /// Cards whose drivers write SRRCTL.BSIZEPKT count in KiB. Such a card cuts a frame that is longer, and its driver takes
    /// the pieces for frames (igb) or drops them (82599).
    #[must_use]
    pub fn filled(&self, buffer_octets: u32) -> u32 {
        match self.name.as_str() {
            "igb" | "igc" | "ixgbe" => buffer_octets / 1024 * 1024,
            _ => buffer_octets,
        }
    }
}

// linux/ethtool.h and linux/sockios.h.
const SIOCETHTOOL: libc::c_ulong = 0x8946;
const ETHTOOL_GDRVINFO: u32 = 0x3;
/// Octets of struct ethtool_drvinfo: the command, the driver's name, and others' after it.
const DRVINFO_OCTETS: usize = 196;
const NAME: std::ops::Range<usize> = 4..36;

/// The driver's name, by the ioctl that every driver answers: sysfs has none for devices without hardware.
fn name(interface: &str) -> Option<String> {
    let mut request = [0; DRVINFO_OCTETS];
    request[..4].copy_from_slice(&ETHTOOL_GDRVINFO.to_ne_bytes());
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).ok()?;
    let mut name: [libc::c_char; libc::IFNAMSIZ] = [0; libc::IFNAMSIZ];
    if interface.len() >= name.len() {
        return None;
    }
    for (into, octet) in name.iter_mut().zip(interface.bytes()) {
        *into = libc::c_char::try_from(octet).ok()?;
    }
    let data = libc::__c_anonymous_ifr_ifru { ifru_data: request.as_mut_ptr().cast() };
    let mut ifreq = libc::ifreq { ifr_name: name, ifr_ifru: data };
    // SAFETY: SIOCETHTOOL wants an ifreq with a terminated name (zeroed, and the last octet stays 0) whose data points to the
    // command. The kernel writes a struct ethtool_drvinfo there, which is as long as `request`; both live until the call
    // returns.
    let answered = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut ifreq) };
    let text = request[NAME].split(|&octet| octet == 0).next()?;
    (answered == 0).then(|| String::from_utf8_lossy(text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn driver(name: &str) -> Driver {
        Driver { name: name.to_owned() }
    }

    #[test]
    fn a_refused_frame_is_the_sockets_and_nobody_elses() {
        assert_eq!(driver("virtio_net").refused(true, true), Refused::CountedAgain);
        assert_eq!(driver("virtio_net").refused(false, false), Refused::Dropped);
        assert_eq!(driver("ice").refused(true, true), Refused::OfferedAgain);
        assert_eq!(driver("ice").refused(true, false), Refused::Dropped);
    }

    #[test]
    fn a_frame_that_the_program_dropped_is_not_the_drivers() {
        assert!(driver("virtio_net").counts_sampled_out(true));
        assert!(!driver("virtio_net").counts_sampled_out(false) && !driver("veth").counts_sampled_out(true));
    }

    #[test]
    fn cards_that_count_in_kib_fill_less_of_a_buffer() {
        assert_eq!((driver("igb").filled(1792), driver("ice").filled(1792)), (1024, 1792));
    }

    #[test]
    fn an_interface_that_is_not_there_has_no_driver() {
        assert_eq!(Driver::of("ngeth77"), driver(""));
    }
}
