//! What xsk-rs does not wrap: a handful of socket options and the kick.

use crate::Interface;
use nix::libc;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

// linux/if_xdp.h.
const XDP_OPTIONS: libc::c_int = 8;
const XDP_OPTIONS_ZEROCOPY: u32 = 1;
// asm-generic/socket.h.
const SO_BUSY_POLL: libc::c_int = 46;
const SO_PREFER_BUSY_POLL: libc::c_int = 69;
const SO_BUSY_POLL_BUDGET: libc::c_int = 70;

/// Whether the kernel really uses zero-copy on a bound AF_XDP socket.
pub fn is_zero_copy(socket: RawFd) -> io::Result<bool> {
    let mut options = 0u32;
    let mut octets = libc::socklen_t::try_from(size_of::<u32>()).unwrap_or(4);
    // SAFETY: the kernel writes at most `octets` to `options`, which is that long, and its length
    // to `octets`.
    let done = unsafe {
        libc::getsockopt(
            socket,
            libc::SOL_XDP,
            XDP_OPTIONS,
            (&raw mut options).cast(),
            &raw mut octets,
        )
    };
    if done == 0 {
        Ok(options & XDP_OPTIONS_ZEROCOPY != 0)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// What a socket has refused since it was opened, in packets.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Losses {
    /// Its receive ring was full.
    pub ring_full: u64,
    /// It had no frame to put them in, or they were too long for one.
    pub no_frame: u64,
}

/// What a socket has refused so far.
pub fn losses(socket: RawFd) -> io::Result<Losses> {
    // SAFETY: all fields are integers, for which zero is a value.
    let mut statistics: libc::xdp_statistics = unsafe { std::mem::zeroed() };
    let mut octets =
        libc::socklen_t::try_from(size_of_val(&statistics)).map_err(io::Error::other)?;
    let into = (&raw mut statistics).cast();
    // SAFETY: the kernel writes at most `octets` to `statistics`, which is that long, and its
    // length to `octets`.
    let done = unsafe {
        libc::getsockopt(
            socket,
            libc::SOL_XDP,
            libc::XDP_STATISTICS,
            into,
            &raw mut octets,
        )
    };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Losses {
        ring_full: statistics.rx_ring_full,
        no_frame: statistics.rx_dropped,
    })
}

/// Waits until every driver's turn that is under way now has ended. A frame that an XDP program
/// redirects is in the socket's ring only at the end of its driver's turn.
pub fn await_drivers() {
    /// linux/membarrier.h: a grace period of RCU, which a driver's turn is a reading section of.
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    /// Where the kernel has no such command (with nohz_full cores): far longer than a turn.
    const LONG: std::time::Duration = std::time::Duration::from_millis(50);
    // SAFETY: the command takes no pointers.
    if unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) } != 0 {
        std::thread::sleep(LONG);
    }
}

/// Makes a socket's own calls poll the card, for at most 20 us and 64 frames each.
pub fn prefer_busy_poll(socket: RawFd) -> io::Result<()> {
    set(socket, libc::SOL_SOCKET, SO_PREFER_BUSY_POLL, &1i32)?;
    set(socket, libc::SOL_SOCKET, SO_BUSY_POLL, &20i32)?;
    set(socket, libc::SOL_SOCKET, SO_BUSY_POLL_BUDGET, &64i32)
}

/// Lets the kernel look at the fill ring, and says what it thinks of the device.
pub fn kick(socket: RawFd) -> io::Result<()> {
    // SAFETY: a null buffer of length 0 is written to by nobody, and a null address asks for none.
    let done = unsafe {
        libc::recvfrom(
            socket,
            std::ptr::null_mut(),
            0,
            libc::MSG_DONTWAIT,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
        )
    };
    if done >= 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Puts the interface into promiscuous mode for as long as the returned socket lives: the kernel
/// counts such wishes and takes this one back with the socket, also after a crash.
pub fn promiscuous(interface: &Interface) -> io::Result<OwnedFd> {
    // SAFETY: no pointers are involved. Protocol 0: the socket receives nothing.
    let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made and belongs to nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    let index = i32::try_from(interface.index).map_err(io::Error::other)?;
    let promiscuous = u16::try_from(libc::PACKET_MR_PROMISC).map_err(io::Error::other)?;
    let wish = libc::packet_mreq {
        mr_ifindex: index,
        mr_type: promiscuous,
        mr_alen: 0,
        mr_address: [0; 8],
    };
    set(
        socket.as_raw_fd(),
        libc::SOL_PACKET,
        libc::PACKET_ADD_MEMBERSHIP,
        &wish,
    )?;
    Ok(socket)
}

fn set<T>(socket: RawFd, level: libc::c_int, option: libc::c_int, value: &T) -> io::Result<()> {
    let octets = libc::socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)?;
    // SAFETY: the kernel reads `octets` octets, exactly the value, which is borrowed for the call.
    let done = unsafe {
        libc::setsockopt(
            socket,
            level,
            option,
            std::ptr::from_ref(value).cast(),
            octets,
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
