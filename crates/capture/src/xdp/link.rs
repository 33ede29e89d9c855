//! The BPF link that attaches the XDP program to an interface. The aya crate makes such links, but
//! does not say where they are attached.

use nix::libc;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// A program attached to an interface, until this is dropped or the process ends in any way.
pub struct Link(OwnedFd);

/// Where a link is attached, as the kernel reports it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LinkState {
    /// The program; another one after an update of the link.
    pub program: u32,
    /// The ifIndex; 0 once the link was detached or the interface removed.
    pub index: u32,
}

/// Where the program runs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub enum Place {
    /// After the driver, on socket buffers (XDP_FLAGS_SKB_MODE of linux/if_link.h).
    Skb = 2,
    /// In the driver (XDP_FLAGS_DRV_MODE).
    Driver = 4,
}

// linux/bpf.h.
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_XDP: u32 = 37;

/// The head of `union bpf_attr` for BPF_LINK_CREATE.
#[derive(FromBytes, Immutable, IntoBytes)]
#[repr(C)]
struct Create {
    program: i32,
    index: u32,
    attach_type: u32,
    flags: u32,
}

/// The head of `union bpf_attr` for BPF_OBJ_GET_INFO_BY_FD.
#[derive(FromBytes, Immutable, IntoBytes)]
#[repr(C)]
struct GetInfo {
    object: i32,
    info_octets: u32,
    info: u64,
}

/// The head of `struct bpf_link_info` for links of XDP.
#[derive(Default, FromBytes, Immutable, IntoBytes)]
#[repr(C)]
struct Info {
    kind: u32,
    id: u32,
    program: u32,
    padding: u32,
    index: u32,
    rest: u32,
}

impl Link {
    /// Attaches a program to the interface with this ifIndex.
    ///
    /// # Errors
    ///
    /// The kernel's error: EBUSY or EEXIST if the interface has an XDP program, EINVAL before Linux
    /// 5.9.
    pub fn attach(program: BorrowedFd<'_>, index: u32, place: Place) -> io::Result<Self> {
        let mut request = Create {
            program: program.as_raw_fd(),
            index,
            attach_type: BPF_XDP,
            flags: place as u32,
        };
        // SAFETY: BPF_LINK_CREATE has no pointers in these octets.
        let descriptor = unsafe { bpf(BPF_LINK_CREATE, &mut request) }?;
        let descriptor = i32::try_from(descriptor).map_err(io::Error::other)?;
        // SAFETY: the kernel has just created the descriptor, which has no other owner.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(descriptor) }))
    }

    /// Where it is attached now.
    ///
    /// # Errors
    ///
    /// The kernel's error.
    pub fn state(&self) -> io::Result<LinkState> {
        let mut info = Info::default();
        let octets = size_of::<Info>();
        let mut request = GetInfo {
            object: self.0.as_raw_fd(),
            info_octets: u32::try_from(octets).map_err(io::Error::other)?,
            info: (&raw mut info).expose_provenance() as u64,
        };
        // SAFETY: BPF_OBJ_GET_INFO_BY_FD writes at most `info_octets` octets to `info`, which is as
        // long, lives until the call returns, and may have any octets.
        unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut request) }?;
        let Info { program, index, .. } = info;
        Ok(LinkState { program, index })
    }
}

/// Makes the system call bpf.
///
/// # Safety
///
/// `request` must be a head of `union bpf_attr` for `command`, with valid pointers.
unsafe fn bpf<T: FromBytes + IntoBytes>(
    command: libc::c_long,
    request: &mut T,
) -> io::Result<libc::c_long> {
    let request = request.as_mut_bytes();
    // SAFETY: the kernel reads and writes as many octets as are passed as the length; the caller
    // promises the rest.
    let done =
        unsafe { libc::syscall(libc::SYS_bpf, command, request.as_mut_ptr(), request.len()) };
    if done >= 0 {
        Ok(done)
    } else {
        Err(io::Error::last_os_error())
    }
}
