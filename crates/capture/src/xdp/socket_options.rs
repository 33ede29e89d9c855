//! Socket options that xsk-rs does not cover, and the kick.

use nix::libc;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

// linux/if_xdp.h.
const XDP_OPTIONS: libc::c_int = 8;
const XDP_OPTIONS_ZEROCOPY: u32 = 1;
// asm-generic/socket.h.
const SO_BUSY_POLL: libc::c_int = 46;
const SO_PREFER_BUSY_POLL: libc::c_int = 69;
const SO_BUSY_POLL_BUDGET: libc::c_int = 70;

/// Whether the kernel uses zero-copy on a bound AF_XDP socket.
pub fn is_zero_copy(socket: BorrowedFd<'_>) -> io::Result<bool> {
    let options: u32 = xdp_option(socket, XDP_OPTIONS, 0)?;
    Ok(options & XDP_OPTIONS_ZEROCOPY != 0)
}

/// What a socket has refused since it was opened, in packets.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Losses {
    /// Its receive ring was full.
    pub ring_full: u64,
    /// It had no free UMEM frame, or the packet was too long for one.
    pub no_frame: u64,
}

/// What an AF_XDP socket has refused so far.
pub fn losses(socket: BorrowedFd<'_>) -> io::Result<Losses> {
    let zero = libc::xdp_statistics {
        rx_dropped: 0,
        rx_invalid_descs: 0,
        tx_invalid_descs: 0,
        rx_ring_full: 0,
        rx_fill_ring_empty_descs: 0,
        tx_ring_empty_descs: 0,
    };
    let statistics = xdp_option(socket, libc::XDP_STATISTICS, zero)?;
    Ok(Losses {
        ring_full: statistics.rx_ring_full,
        no_frame: statistics.rx_dropped,
    })
}

/// Waits until every poll of a driver that is running now has ended. A frame that an XDP program
/// redirects is in the socket's ring only at the end of its driver's poll.
pub fn await_drivers() {
    /// linux/membarrier.h: waits for an RCU grace period; a driver's poll is a read-side section.
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    /// Where the kernel refuses the command (with nohz_full cores): far longer than a poll.
    const LONG: std::time::Duration = std::time::Duration::from_millis(50);
    // SAFETY: the command takes no pointers.
    if unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) } != 0 {
        std::thread::sleep(LONG);
    }
}

/// Lets the system calls on a socket poll the card, for at most 20 us and 64 frames each.
pub fn prefer_busy_poll(socket: BorrowedFd<'_>) -> io::Result<()> {
    set(socket, libc::SOL_SOCKET, SO_PREFER_BUSY_POLL, &1i32)?;
    set(socket, libc::SOL_SOCKET, SO_BUSY_POLL, &20i32)?;
    set(socket, libc::SOL_SOCKET, SO_BUSY_POLL_BUDGET, &64i32)
}

/// Wakes the driver so that it looks at the fill ring; the error is the state of the device.
pub fn kick(socket: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the buffer has length 0, so the kernel does not write to it; a null address requests
    // no sender address.
    let done = unsafe {
        libc::recvfrom(
            socket.as_raw_fd(),
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

/// Whether the kernel has unbound an AF_XDP socket, because its interface was removed or moved to
/// another network namespace.
pub fn is_unbound(socket: BorrowedFd<'_>) -> bool {
    kick(socket).is_err_and(|error| error.raw_os_error() == Some(libc::ENXIO))
}

/// Puts the interface with this index into promiscuous mode as long as the returned socket is open:
/// the kernel counts such requests and undoes this one with the socket, after a crash too.
pub fn promiscuous(interface_index: u32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes no pointers. With protocol 0 the socket receives nothing.
    let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just created and has no other owner.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    let index = i32::try_from(interface_index).expect("the kernel's ifIndex is an int");
    let promiscuous = u16::try_from(libc::PACKET_MR_PROMISC).expect("the constant is 1");
    let request = libc::packet_mreq {
        mr_ifindex: index,
        mr_type: promiscuous,
        mr_alen: 0,
        mr_address: [0; 8],
    };
    set(
        socket.as_fd(),
        libc::SOL_PACKET,
        libc::PACKET_ADD_MEMBERSHIP,
        &request,
    )?;
    Ok(socket)
}

/// Reads an option of an AF_XDP socket; `value` is what the kernel overwrites.
fn xdp_option<T: Copy>(socket: BorrowedFd<'_>, option: libc::c_int, mut value: T) -> io::Result<T> {
    let mut octets = octets_of::<T>();
    // SAFETY: the kernel writes at most `octets` octets to `value`, which has that length, and the
    // number written to `octets`. Both options are structs of integers, for which any octets are
    // valid.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_XDP,
            option,
            (&raw mut value).cast(),
            &raw mut octets,
        )
    };
    if done == 0 {
        Ok(value)
    } else {
        Err(io::Error::last_os_error())
    }
}

fn set<T>(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
    value: &T,
) -> io::Result<()> {
    // SAFETY: the kernel reads as many octets as `value` has, which is borrowed for the call.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(value).cast(),
            octets_of::<T>(),
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn octets_of<T>() -> libc::socklen_t {
    size_of::<T>()
        .try_into()
        .expect("a socket option is shorter than 4 GiB")
}
