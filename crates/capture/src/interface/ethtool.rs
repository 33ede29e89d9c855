//! What a driver tells of itself, by the ioctl that every driver answers: sysfs has none of it for
//! devices without hardware.

use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use std::os::fd::{AsRawFd, OwnedFd};

/// The way to the driver of an interface.
pub struct Ethtool {
    socket: OwnedFd,
    interface: [libc::c_char; libc::IFNAMSIZ],
}

/// Who a driver is, and how much it counts.
pub struct DriverInfo {
    /// Its name.
    pub name: String,
    /// Counters of its own that it has at present.
    pub counter_count: usize,
}

// linux/ethtool.h and linux/sockios.h.
const SIOCETHTOOL: libc::c_ulong = 0x8946;
const ETHTOOL_GDRVINFO: u32 = 0x3;
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSTATS: u32 = 0x1d;
const ETH_SS_STATS: u32 = 1;
/// Octets of struct ethtool_drvinfo.
const DRVINFO_OCTETS: usize = 196;
/// Where its `driver` and `n_stats` are.
const DRIVER: std::ops::Range<usize> = 4..36;
const N_STATS: std::ops::Range<usize> = 180..184;
/// Octets of struct ethtool_gstrings before its strings, and of one of them.
const GSTRINGS_OCTETS: usize = 12;
const ETH_GSTRING_LEN: usize = 32;
/// Octets of struct ethtool_stats before its counters.
const STATS_OCTETS: usize = 8;

/// A card with 128 queues and 100 counters for each has fewer.
const COUNTERS_MAX: usize = 16_384;
/// Kernels may write all counters that there are by then, whatever length they are told: the
/// channels of a card can have been changed since it was asked how many. Memory that is not written
/// to costs nothing.
const ROOM: usize = 4 * COUNTERS_MAX;

impl Ethtool {
    /// The way to the driver of the interface of this name; none if that is no name.
    pub fn of(interface: &str) -> Option<Self> {
        let socket = socket(
            AddressFamily::Inet,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC,
            None,
        )
        .ok()?;
        let mut name: [libc::c_char; libc::IFNAMSIZ] = [0; libc::IFNAMSIZ];
        if interface.len() >= name.len() {
            return None;
        }
        for (into, octet) in name.iter_mut().zip(interface.bytes()) {
            *into = libc::c_char::try_from(octet).ok()?;
        }
        Some(Self {
            socket,
            interface: name,
        })
    }

    /// Who the driver is.
    pub fn info(&self) -> Option<DriverInfo> {
        let mut request = vec![0; DRVINFO_OCTETS];
        write(&mut request, &[ETHTOOL_GDRVINFO]);
        // SAFETY: the kernel writes a struct ethtool_drvinfo, which is as long as `request`.
        unsafe { self.ask(&mut request) }?;
        let counter_count = read(&request[N_STATS])?;
        Some(DriverInfo {
            name: text(&request[DRIVER]),
            counter_count,
        })
    }

    /// The names of its own counters, of which it must have exactly so many.
    pub fn counter_names(&self, count: usize) -> Option<Vec<String>> {
        let length = length(count)?;
        let mut request = vec![0; GSTRINGS_OCTETS + ROOM * ETH_GSTRING_LEN];
        write(&mut request, &[ETHTOOL_GSTRINGS, ETH_SS_STATS, length]);
        // SAFETY: the kernel writes the head of struct ethtool_gstrings and a string for each
        // counter: `count` by its own word of just now, and `request` has room for four times the
        // most that `length` lets through.
        unsafe { self.ask(&mut request) }?;
        let (head, names) = request.split_at(GSTRINGS_OCTETS);
        let names = names.chunks_exact(ETH_GSTRING_LEN).take(count).map(text);
        (read(&head[8..12])? == count).then(|| names.collect())
    }

    /// Its own counters, of which it must have exactly so many.
    pub fn counters(&self, count: usize) -> Option<Vec<u64>> {
        let length = length(count)?;
        let mut request = vec![0; STATS_OCTETS + ROOM * size_of::<u64>()];
        write(&mut request, &[ETHTOOL_GSTATS, length]);
        // SAFETY: the kernel writes the head of struct ethtool_stats and a u64 for each counter:
        // `count` by its own word of just now, and `request` has room for four times the most that
        // `length` lets through.
        unsafe { self.ask(&mut request) }?;
        let (head, counters) = request.split_at(STATS_OCTETS);
        let counters = counters
            .as_chunks()
            .0
            .iter()
            .take(count)
            .map(|octets| u64::from_ne_bytes(*octets));
        (read(&head[4..8])? == count).then(|| counters.collect())
    }

    /// Has the kernel answer a request in its place.
    ///
    /// # Safety
    ///
    /// `request` must begin with a command, and be as long as what the kernel writes in answer to
    /// that.
    unsafe fn ask(&self, request: &mut [u8]) -> Option<()> {
        let data = libc::__c_anonymous_ifr_ifru {
            ifru_data: request.as_mut_ptr().cast(),
        };
        let mut ifreq = libc::ifreq {
            ifr_name: self.interface,
            ifr_ifru: data,
        };
        // SAFETY: SIOCETHTOOL wants an ifreq with a terminated name (zeroed, and the last octet
        // stays 0) whose data points to the command, with room for the answer, which the caller
        // promises; both live until the call returns.
        let answered = unsafe { libc::ioctl(self.socket.as_raw_fd(), SIOCETHTOOL, &raw mut ifreq) };
        (answered == 0).then_some(())
    }
}

/// A count of counters as the kernel wants it, if there are some and not too many.
fn length(count: usize) -> Option<u32> {
    (1..=COUNTERS_MAX)
        .contains(&count)
        .then(|| u32::try_from(count).ok())
        .flatten()
}

fn write(request: &mut [u8], head: &[u32]) {
    for (into, word) in request.as_chunks_mut().0.iter_mut().zip(head) {
        *into = word.to_ne_bytes();
    }
}

fn read(octets: &[u8]) -> Option<usize> {
    usize::try_from(u32::from_ne_bytes(octets.try_into().ok()?)).ok()
}

fn text(octets: &[u8]) -> String {
    let text = octets.split(|&octet| octet == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}
