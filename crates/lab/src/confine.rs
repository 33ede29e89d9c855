//! Programs from which the system withholds something: system calls by a seccomp filter, as a
//! container or systemd sets one, and the network of the host.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::libc;
use nix::sched::{CloneFlags, unshare};

/// A system call that fails.
#[derive(Clone, Copy, Debug)]
pub struct Denial {
    /// Its number.
    pub call: libc::c_long,
    /// Only with this first argument, if any is named.
    pub first_argument: Option<u32>,
    /// The error that it fails with.
    pub errno: i32,
}

/// Lets a command run with nothing but a loopback interface.
pub fn without_network(command: &mut Command) {
    let enter = || unshare(CloneFlags::CLONE_NEWNET).map_err(io::Error::from);
    // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
    unsafe { command.pre_exec(enter) };
}

/// Lets system calls of a command fail. The calls with which it is started must not be among them.
pub fn deny(command: &mut Command, denials: &[Denial]) {
    let filter = filter(denials);
    let apply = move || {
        let program = libc::sock_fprog {
            len: u16::try_from(filter.len()).map_err(io::Error::other)?,
            filter: filter.as_ptr().cast_mut(),
        };
        // SAFETY: the options take these numbers.
        let done = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
        if done != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel copies the program, which lives until the call returns.
        let done = unsafe {
            libc::prctl(
                libc::PR_SET_SECCOMP,
                libc::SECCOMP_MODE_FILTER,
                &raw const program,
            )
        };
        if done == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    };
    // SAFETY: between fork and exec the closure makes two system calls and allocates nothing.
    unsafe { command.pre_exec(apply) };
}

/// The filter as classic BPF over struct seccomp_data: the number of the call at octet 0, its first
/// argument at octet 16 (the lower half, on a little-endian machine).
fn filter(denials: &[Denial]) -> Vec<libc::sock_filter> {
    const CALL: u32 = 0;
    const FIRST_ARGUMENT: u32 = 16;
    let mut filter = Vec::new();
    for denial in denials {
        let argument = denial.first_argument;
        let call = u32::try_from(denial.call).expect("system calls have small numbers");
        let errno = u32::try_from(denial.errno).expect("errors have small numbers");
        filter.push(load(CALL));
        filter.push(skip_unless(call, if argument.is_some() { 3 } else { 1 }));
        if let Some(argument) = argument {
            filter.push(load(FIRST_ARGUMENT));
            filter.push(skip_unless(argument, 1));
        }
        filter.push(answer(libc::SECCOMP_RET_ERRNO | errno));
    }
    filter.push(answer(libc::SECCOMP_RET_ALLOW));
    filter
}

fn load(offset: u32) -> libc::sock_filter {
    statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, offset)
}

fn skip_unless(value: u32, count: u8) -> libc::sock_filter {
    statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, count, value)
}

fn answer(value: u32) -> libc::sock_filter {
    statement(libc::BPF_RET | libc::BPF_K, 0, value)
}

fn statement(code: u32, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter {
        code: u16::try_from(code).expect("codes have 16 bits"),
        jt: 0,
        jf,
        k,
    }
}
