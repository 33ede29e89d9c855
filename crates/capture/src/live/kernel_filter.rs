//! The filter that the kernel runs for a packet socket, before it copies a frame.

use libc::sock_filter;
use nix::libc;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Makes the kernel run `program` for a socket, in place of the one before, from one frame to the
/// next.
///
/// # Errors
///
/// The system's error: the program has more than 4096 instructions, or the socket's memory for
/// options (net.core.optmem_max) is too small for it. The program before stays.
pub fn attach(socket: BorrowedFd<'_>, program: &mut [sock_filter]) -> io::Result<()> {
    let len =
        u16::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let program = libc::sock_fprog {
        len,
        filter: program.as_mut_ptr(),
    };
    set(socket, libc::SO_ATTACH_FILTER, &program)
}

/// Makes the kernel pass every frame to a socket.
///
/// # Errors
///
/// The system's error.
pub fn detach(socket: BorrowedFd<'_>) -> io::Result<()> {
    match set(socket, libc::SO_DETACH_FILTER, &0_i32) {
        // There was none.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        detached => detached,
    }
}

fn set<T>(socket: BorrowedFd<'_>, option: libc::c_int, value: &T) -> io::Result<()> {
    let octets = libc::socklen_t::try_from(size_of::<T>()).expect("options are small");
    // SAFETY: `value` is valid for reads of `octets`, and the kernel keeps no pointer to it; of a
    // program it copies the instructions, which outlive the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            std::ptr::from_ref(value).cast(),
            octets,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
