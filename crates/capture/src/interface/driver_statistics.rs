//! A driver's own counters (`ethtool -S`), by the ioctl that every driver answers: netlink carries only the standard ones.

use super::Redirects;
use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use std::os::fd::AsRawFd;

/// What the interface's driver says of XDP redirects, on all queues.
pub fn redirects(interface: &str) -> Redirects {
    let statistics = read(interface).unwrap_or_default();
    let sum = |suffix: &str| {
        let of_queues = statistics.iter().filter(|(name, _)| name.starts_with("rx_queue_") && name.ends_with(suffix));
        of_queues.map(|(_, value)| value).sum()
    };
    if statistics.iter().any(|(name, _)| name == "peer_ifindex") {
        // drivers/net/veth.c: a failed redirect counts as rx_drops, a successful one as xdp_redirect.
        Redirects::Succeeded(sum("_xdp_redirect"))
    } else {
        // drivers/net/virtio_net.c: a failed redirect counts as xdp_drops and as drops.
        Redirects::Failed(sum("_xdp_drops"))
    }
}

// linux/ethtool.h and linux/sockios.h.
const SIOCETHTOOL: libc::c_ulong = 0x8946;
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSTATS: u32 = 0x1d;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETH_SS_STATS: u32 = 1;
const NAME_OCTETS: usize = 32;
const COUNT_MAX: usize = 1 << 16;

/// All of them, by name.
fn read(interface: &str) -> Option<Vec<(String, u64)>> {
    let count = count(interface)?;
    let count_word = u32::try_from(count).ok()?;
    let names = command(interface, &[ETHTOOL_GSTRINGS, ETH_SS_STATS, count_word], count * NAME_OCTETS)?;
    let values = command(interface, &[ETHTOOL_GSTATS, count_word], count * size_of::<u64>())?;
    let names = names[3 * size_of::<u32>()..].chunks_exact(NAME_OCTETS).map(|name| {
        let end = name.iter().position(|&octet| octet == 0).unwrap_or(NAME_OCTETS);
        String::from_utf8_lossy(&name[..end]).into_owned()
    });
    let values = values[2 * size_of::<u32>()..].as_chunks().0.iter().map(|&value| u64::from_ne_bytes(value));
    Some(names.zip(values).collect())
}

/// How many there are.
fn count(interface: &str) -> Option<usize> {
    // struct ethtool_sset_info: command, reserved, a 64-bit mask of the sets wanted, then a count for each.
    let answer = command(interface, &[ETHTOOL_GSSET_INFO, 0, 1 << ETH_SS_STATS, 0], size_of::<u32>())?;
    let (&count, _) = answer[4 * size_of::<u32>()..].split_first_chunk()?;
    usize::try_from(u32::from_ne_bytes(count)).ok().filter(|&count| count > 0 && count <= COUNT_MAX)
}

/// Sends one ethtool command, made of `words` and room for `answer_octets` behind them, and returns it with the answer.
fn command(interface: &str, words: &[u32], answer_octets: usize) -> Option<Vec<u8>> {
    let mut request: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    request.resize(request.len() + answer_octets, 0);
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
    // command. The kernel writes behind the words at most what they say there is room for, which is `answer_octets`; both
    // live until the call returns.
    let answered = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut ifreq) };
    (answered == 0).then_some(request)
}
