//! A driver's name and counters, by the ethtool ioctl: sysfs has neither for devices without
//! hardware.

use nix::libc;
use nix::net::if_::{if_indextoname, if_nametoindex};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use std::os::fd::{AsRawFd, OwnedFd};

/// Access to the driver of an interface, by its ifIndex.
pub struct Ethtool {
    socket: OwnedFd,
    index: u32,
}

/// A driver's name and its number of counters.
pub struct DriverInfo {
    /// Its name.
    pub name: String,
    /// Its number of counters at present.
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
/// The octets of its fields `driver` and `n_stats`.
const DRIVER: std::ops::Range<usize> = 4..36;
const N_STATS: std::ops::Range<usize> = 180..184;
/// Octets of struct ethtool_gstrings before its strings, and of one string.
const GSTRINGS_OCTETS: usize = 12;
const ETH_GSTRING_LEN: usize = 32;
/// Octets of struct ethtool_stats before its counters.
const STATS_OCTETS: usize = 8;

/// The most counters that are read: a card with 128 queues and 100 counters for each has fewer.
const COUNTERS_MAX: usize = 16_384;
/// Room for more counters than were requested: a kernel may write all that exist, whatever length
/// is passed, and the channels of a card can be changed between two calls. Memory that is not
/// written to costs nothing.
const ROOM: usize = 4 * COUNTERS_MAX;

impl Ethtool {
    /// Access to the driver of the interface with this ifIndex; `None` if the system gives none.
    pub fn of(index: u32) -> Option<Self> {
        let socket = socket(
            AddressFamily::Inet,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC,
            None,
        )
        .ok()?;
        Some(Self { socket, index })
    }

    /// The driver's name and number of counters.
    pub fn info(&self) -> Option<DriverInfo> {
        let mut request = vec![0; DRVINFO_OCTETS];
        write(&mut request, &[ETHTOOL_GDRVINFO]);
        // SAFETY: the kernel writes a struct ethtool_drvinfo, which is as long as `request`.
        unsafe { self.call(&mut request) }?;
        let counter_count = read(&request[N_STATS])?;
        Some(DriverInfo {
            name: text(&request[DRIVER]),
            counter_count,
        })
    }

    /// The names of the driver's counters, `None` if it does not have exactly `count`.
    pub fn counter_names(&self, count: usize) -> Option<Vec<String>> {
        let length = length(count)?;
        let mut request = vec![0; GSTRINGS_OCTETS + ROOM * ETH_GSTRING_LEN];
        write(&mut request, &[ETHTOOL_GSTRINGS, ETH_SS_STATS, length]);
        // SAFETY: the kernel writes the head of struct ethtool_gstrings and a string for each
        // counter: `count` when it was last asked, and `request` has room for four times the most
        // that `length` allows.
        unsafe { self.call(&mut request) }?;
        let (head, names) = request.split_at(GSTRINGS_OCTETS);
        let names = names.chunks_exact(ETH_GSTRING_LEN).take(count).map(text);
        (read(&head[8..12])? == count).then(|| names.collect())
    }

    /// The values of the driver's counters, `None` if it does not have exactly `count`.
    pub fn counters(&self, count: usize) -> Option<Vec<u64>> {
        let length = length(count)?;
        let mut request = vec![0; STATS_OCTETS + ROOM * size_of::<u64>()];
        write(&mut request, &[ETHTOOL_GSTATS, length]);
        // SAFETY: the kernel writes the head of struct ethtool_stats and a u64 for each counter:
        // `count` when it was last asked, and `request` has room for four times the most that
        // `length` allows.
        unsafe { self.call(&mut request) }?;
        let (head, counters) = request.split_at(STATS_OCTETS);
        let counters = counters
            .as_chunks()
            .0
            .iter()
            .take(count)
            .map(|octets| u64::from_ne_bytes(*octets));
        (read(&head[4..8])? == count).then(|| counters.collect())
    }

    /// Passes a request to the driver, whose answer overwrites it. The kernel finds the driver by
    /// name: `None` if the name that the interface had before is not its name afterwards.
    ///
    /// # Safety
    ///
    /// `request` must start with a command and be at least as long as the kernel's answer to that
    /// command.
    unsafe fn call(&self, request: &mut [u8]) -> Option<()> {
        let name = if_indextoname(self.index).ok()?;
        let mut ifr_name: [libc::c_char; libc::IFNAMSIZ] = [0; libc::IFNAMSIZ];
        for (into, octet) in ifr_name.iter_mut().zip(name.to_bytes_with_nul()) {
            *into = libc::c_char::from_ne_bytes([*octet]);
        }
        let data = libc::__c_anonymous_ifr_ifru {
            ifru_data: request.as_mut_ptr().cast(),
        };
        let mut ifreq = libc::ifreq {
            ifr_name,
            ifr_ifru: data,
        };
        // SAFETY: SIOCETHTOOL requires an ifreq with a terminated name (the kernel's own, with its
        // NUL) whose data points to the command, with room for the answer, which the caller
        // promises; both live until the call returns.
        let answered = unsafe { libc::ioctl(self.socket.as_raw_fd(), SIOCETHTOOL, &raw mut ifreq) };
        let is_same = || if_nametoindex(name.as_c_str()) == Ok(self.index);
        (answered == 0 && is_same()).then_some(())
    }
}

/// The number of counters as the kernel expects it; `None` if there are none or too many.
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
