//! What another process may do to a probe's XDP program behind its back, as `bpftool` does it:
//! detach it, put another program in its place or into its link, and take sockets out of its map.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result, bail};
use aya::maps::{Map, MapData, XskMap};
use aya::programs::{loaded_links, loaded_programs};
use nix::libc;
use nix::net::if_::if_nametoindex;
use zerocopy::{Immutable, IntoBytes};

// linux/bpf.h.
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_LINK_UPDATE: libc::c_long = 29;
const BPF_LINK_GET_FD_BY_ID: libc::c_long = 30;
const BPF_LINK_DETACH: libc::c_long = 34;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
/// linux/if_link.h.
const XDP_FLAGS_DRV_MODE: u32 = 4;

/// Detaches the program with this id (`ip -details link` shows it) from its interface.
///
/// # Errors
///
/// If no link attaches it, or the kernel refuses.
pub fn detach(program: u32) -> Result<()> {
    bpf(BPF_LINK_DETACH, &[link_of(program)?.as_raw_fd()])?;
    Ok(())
}

/// Puts a program that passes every frame into the link of the program with this id.
///
/// # Errors
///
/// If no link attaches it, or the kernel refuses.
pub fn replace(program: u32) -> Result<()> {
    let (link, pass) = (link_of(program)?, pass()?);
    bpf(BPF_LINK_UPDATE, &[link.as_raw_fd(), pass.as_raw_fd()])?;
    Ok(())
}

/// Attaches a program that passes every frame to an interface of the caller's network namespace,
/// in the driver, until the returned link is dropped.
///
/// # Errors
///
/// If there is no such interface, or the kernel refuses.
pub fn attach_another(interface: &str) -> Result<OwnedFd> {
    let index = if_nametoindex(interface)?;
    let pass = pass()?;
    let program = u32::try_from(pass.as_raw_fd())?;
    let link = bpf(
        BPF_LINK_CREATE,
        &[program, index, BPF_XDP, XDP_FLAGS_DRV_MODE],
    )?;
    Ok(owned(link))
}

/// Takes the socket of a queue out of the socket map of the program with this id.
///
/// # Errors
///
/// If there is no such program, map or socket.
pub fn take_socket(program: u32, queue: u32) -> Result<()> {
    let programs = loaded_programs().collect::<Result<Vec<_>, _>>()?;
    let mut with_id = programs.iter().filter(|info| info.id() == program);
    let info = with_id.next().context("no program has this id")?;
    for id in info.map_ids()?.context("the kernel lists no maps")? {
        let map = Map::from_map_data(MapData::from_id(id)?);
        if let Ok(Map::XskMap(map)) = map {
            XskMap::try_from(Map::XskMap(map))?.unset(queue)?;
            return Ok(());
        }
    }
    bail!("program {program} has no map of sockets")
}

/// The link that attaches the program with this id.
fn link_of(program: u32) -> Result<OwnedFd> {
    let links = loaded_links().collect::<Result<Vec<_>, _>>()?;
    let mut of_program = links.iter().filter(|link| link.program_id() == program);
    let link = of_program.next().context("no link attaches this program")?;
    Ok(owned(bpf(BPF_LINK_GET_FD_BY_ID, &[link.id()])?))
}

/// A program that passes every frame.
fn pass() -> Result<OwnedFd> {
    #[derive(Immutable, IntoBytes)]
    #[repr(C)]
    struct Load {
        kind: u32,
        instruction_count: u32,
        instructions: u64,
        license: u64,
        /// Log, kernel version, flags, name and interface: none.
        between: [u32; 11],
        attach_type: u32,
    }
    // r0 = XDP_PASS; exit.
    let instructions: [u64; 2] = [0x0000_0002_0000_00b7, 0x95];
    let license = c"GPL";
    let load = Load {
        kind: BPF_PROG_TYPE_XDP,
        instruction_count: 2,
        instructions: instructions.as_ptr().expose_provenance() as u64,
        license: license.as_ptr().expose_provenance() as u64,
        between: [0; 11],
        attach_type: BPF_XDP,
    };
    Ok(owned(bpf(BPF_PROG_LOAD, &[load])?))
}

fn owned(descriptor: i32) -> OwnedFd {
    // SAFETY: the kernel has just created the descriptor for `bpf`, and it has no other owner.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

/// Makes the system call bpf with these octets as its attributes.
fn bpf<T: Immutable + IntoBytes>(command: libc::c_long, attributes: &[T]) -> io::Result<i32> {
    let octets = attributes.as_bytes();
    // SAFETY: none of the commands above writes to its attributes; pointers in them are of memory
    // that lives until the call returns.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command, octets.as_ptr(), octets.len()) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(done).map_err(io::Error::other)
}
