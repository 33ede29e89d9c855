//! Why the system forbids something to this process: a capability that is missing, or a filter.

use crate::error::errno;
use std::fs;

/// A capability, by its name and number (linux/capability.h).
#[derive(Clone, Copy)]
pub struct Capability {
    name: &'static str,
    bit: u32,
}

/// Network configuration: XDP programs, promiscuous mode.
pub const NET_ADMIN: Capability = Capability {
    name: "CAP_NET_ADMIN",
    bit: 12,
};
/// Packet sockets and AF_XDP sockets.
pub const NET_RAW: Capability = Capability {
    name: "CAP_NET_RAW",
    bit: 13,
};
/// BPF maps and programs.
pub const BPF: Capability = Capability {
    name: "CAP_BPF",
    bit: 39,
};

/// Why and with what remedy `what` is forbidden; none if `error` is of another kind.
pub fn forbidden(
    what: &str,
    error: &(dyn std::error::Error + 'static),
    needed: &[Capability],
) -> Option<String> {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    explain(what, errno(error)?, needed, &status)
}

fn explain(what: &str, errno: i32, needed: &[Capability], status: &str) -> Option<String> {
    let why = match errno {
        libc::EPERM | libc::EACCES => "not permitted",
        libc::ENOSYS => "not available: the system call is missing",
        libc::EAFNOSUPPORT => "not available: this kind of socket is missing",
        _ => return None,
    };
    let missing = if errno == libc::EPERM || errno == libc::EACCES {
        missing_in(status, needed)
    } else {
        Vec::new()
    };
    let remedy = if missing.is_empty() {
        let filter = if field(status, "Seccomp").is_some_and(|mode| mode != "0") {
            "a seccomp filter of this process forbids it (a container, or RestrictAddressFamilies= \
             or SystemCallFilter= of systemd): allow it there"
        } else {
            "a container, a security module or the kernel's configuration forbids it: allow it \
             there"
        };
        filter.to_owned()
    } else {
        format!("run as root, or grant {}", missing.join(" and "))
    };
    Some(format!("{what} is {why}; {remedy}"))
}

/// The capabilities that this thread does not have.
fn missing_in(status: &str, needed: &[Capability]) -> Vec<&'static str> {
    let effective = field(status, "CapEff").and_then(|bits| u64::from_str_radix(bits, 16).ok());
    let is_missing = |one: &&Capability| effective.is_none_or(|bits| bits & (1 << one.bit) == 0);
    let missing = needed.iter().filter(is_missing);
    missing.map(|capability| capability.name).collect()
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| {
        let value = line.strip_prefix(name)?.strip_prefix(':')?;
        Some(value.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_forbidden_is_named_with_the_capability_that_is_missing_or_the_filter() {
        let explained = |errno, status: &str| explain("bpf()", errno, &[BPF, NET_ADMIN], status);
        // CAP_NET_ADMIN only.
        let some = "CapEff:\t0000000000001000\nSeccomp:\t0\n";
        assert_eq!(
            explained(libc::EPERM, some).unwrap(),
            "bpf() is not permitted; run as root, or grant CAP_BPF"
        );
        let all = "CapEff:\t000001ffffffffff\nSeccomp:\t2\n";
        let filtered = explained(libc::EPERM, all).unwrap();
        assert!(filtered.contains("a seccomp filter"), "{filtered}");
        let filtered = explained(libc::EAFNOSUPPORT, some).unwrap();
        assert!(filtered.contains("a container"), "{filtered}");
        assert_eq!(explained(libc::EINVAL, all), None);
        assert_eq!(
            explained(libc::EPERM, "").unwrap(),
            "bpf() is not permitted; run as root, or grant CAP_BPF and CAP_NET_ADMIN"
        );
    }
}
