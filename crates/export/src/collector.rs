//! What is known of a collector: its id, its state, and what became of the records meant for it.

use crate::tally::Tally;
use std::fmt;
use std::io;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Identifies a collector within one exporter; never used again once that collector is removed.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct CollectorId(u32);

impl CollectorId {
    /// The first id of an exporter.
    pub const FIRST: Self = Self(0);

    /// The id after this one.
    pub(crate) fn next(self) -> Self {
        let next = self.0.checked_add(1);
        Self(next.expect("fewer than 2^32 collectors are added to one exporter"))
    }
}

impl fmt::Display for CollectorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What became of the records meant for one collector. Counters only grow, except `waiting` and
/// `state`.
///
/// At every moment [`accounts_for_all`](Self::accounts_for_all) holds. At rest, once nothing waits
/// and everything sent is answered or taken as delivered, `pushed` is `exported`, `lost` and
/// `handed_on` together.
#[derive(
    Clone, Copy, Debug, Default, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq,
)]
#[repr(C)]
pub struct CollectorCounters {
    /// Records that the exporter had taken before this collector was added.
    pub taken_before: Tally,
    /// Records meant for it; they are in no datagram yet.
    pub pushed: Tally,
    /// Of these, records that were taken back and given to another collector.
    pub handed_on: Tally,
    /// What was sent, including what was refused later.
    pub sent: Tally,
    /// Octets of payload in that.
    pub octets: u64,
    /// What was sent, and not refused by the time of the next look for answers.
    pub exported: Tally,
    /// Of what was exported, what was sent so shortly before the host was found unreachable (by a
    /// minute or two) that its delivery is not known.
    pub in_doubt: Tally,
    /// What it did not get, by [`LossReason`].
    pub lost: [Tally; LossReason::NAMES.len()],
    /// Answers that earlier datagrams could not be delivered (ICMP): the port is closed or the host
    /// cannot be reached.
    pub refusals: u64,
    /// Datagrams that could not be sent, or records that could not be written to a file, by
    /// [`SendErrorKind`].
    pub errors: [u64; SendErrorKind::NAMES.len()],
    /// Records that waited for the pace.
    pub delayed_records: u64,
    /// Sum of the times that their datagrams waited, in ms.
    pub delayed_ms: u64,
    /// Times that its name was resolved again.
    pub resolves: u64,
    /// Times that resolving its name failed.
    pub resolve_failures: u64,
    /// What waits now: for its datagram to fill, for the pace or for the socket.
    pub waiting: Tally,
    /// The number of a [`CollectorState`].
    pub state: u64,
}

impl CollectorCounters {
    /// The state of the collector.
    ///
    /// # Panics
    ///
    /// If `state` is the number of none.
    #[must_use]
    pub fn state(&self) -> CollectorState {
        CollectorState::ALL
            .into_iter()
            .find(|&state| state as u64 == self.state)
            .expect("`state` is the number of a CollectorState")
    }

    /// What it did not get, for any reason.
    #[must_use]
    pub fn lost_total(&self) -> Tally {
        self.lost.into_iter().sum()
    }

    /// What was sent and is neither refused nor taken as delivered yet.
    #[must_use]
    pub fn unanswered(&self) -> Tally {
        self.sent - self.exported - self.lost[LossReason::Refused as usize]
    }

    /// Whether every record that was pushed is exported, lost, unanswered, waiting or handed on,
    /// and counted once.
    #[must_use]
    pub fn accounts_for_all(&self) -> bool {
        let settled = self.exported + self.lost_total() + self.handed_on;
        self.pushed.metered() == (settled + self.unanswered() + self.waiting).metered()
    }
}

/// The state of a collector.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CollectorState {
    /// Nothing indicates that it does not receive.
    Up,
    /// What was sent to it last was refused, or could not be sent.
    Refusing,
    /// Its name has no address at present; the last known address stays in use.
    Unresolved,
    /// No socket leads to it yet: its name has had no address, or there has been no route.
    Unconnected,
}

impl CollectorState {
    /// Every state, in the order of their numbers.
    pub const ALL: [Self; 4] = [
        Self::Up,
        Self::Refusing,
        Self::Unresolved,
        Self::Unconnected,
    ];

    /// Every state with the name that reports and metrics use.
    pub const NAMES: [&'static str; 4] = ["up", "refusing", "unresolved", "unconnected"];

    /// The name that reports and metrics use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// Whether what is sent to it is expected to arrive.
    #[must_use]
    pub const fn takes_records(self) -> bool {
        matches!(self, Self::Up | Self::Unresolved)
    }
}

/// Why a collector did not get records that were meant for it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LossReason {
    /// Its queue was full because its pace is below the rate of records.
    Pacing,
    /// Its queue was full because its socket accepted nothing.
    Socket,
    /// Their datagram could not be sent; `errors` has the kind.
    Send,
    /// They were sent, and the host or a router answered that they could not be delivered.
    Refused,
    /// It was removed while they waited, or there was no collector at all.
    Removed,
    /// They could not be written to its file; `errors` has the kind.
    Write,
    /// They still waited when the time for the end of the run was over.
    Stop,
}

impl LossReason {
    /// Every reason with the name that reports and metrics use.
    pub const NAMES: [&'static str; 7] = [
        "pacing", "socket", "send", "refused", "removed", "write", "stop",
    ];
}

/// Why a datagram could not be sent, or a record not be written to a file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SendErrorKind {
    /// No route to the network or host.
    Unreachable,
    /// The kernel has no buffer for it.
    NoBuffer,
    /// Longer than the path carries.
    TooLong,
    /// Forbidden by a local rule.
    Forbidden,
    /// Refused at each attempt.
    Refused,
    /// The disk or a quota is full, or a file as long as it may be.
    NoSpace,
    /// Any other error.
    Other,
}

impl SendErrorKind {
    /// Every kind with the name that reports and metrics use.
    pub const NAMES: [&'static str; 7] = [
        "unreachable",
        "no_buffer",
        "too_long",
        "forbidden",
        "refused",
        "no_space",
        "other",
    ];

    /// The kind of an error that sending or writing returned.
    #[must_use]
    pub fn of(error: &io::Error) -> Self {
        // Linux: EMSGSIZE 90 and ENOBUFS 105 have no stable io::ErrorKind.
        match (error.raw_os_error(), error.kind()) {
            (Some(90), _) => Self::TooLong,
            (Some(105), _) | (_, io::ErrorKind::WouldBlock | io::ErrorKind::OutOfMemory) => {
                Self::NoBuffer
            }
            (
                _,
                io::ErrorKind::NetworkUnreachable
                | io::ErrorKind::HostUnreachable
                | io::ErrorKind::NetworkDown,
            ) => Self::Unreachable,
            (_, io::ErrorKind::PermissionDenied) => Self::Forbidden,
            (_, io::ErrorKind::ConnectionRefused) => Self::Refused,
            (
                _,
                io::ErrorKind::StorageFull
                | io::ErrorKind::QuotaExceeded
                | io::ErrorKind::FileTooLarge,
            ) => Self::NoSpace,
            _ => Self::Other,
        }
    }

    /// Whether the path to the collector causes it, so that another collector may do better.
    pub(crate) fn is_of_the_path(self) -> bool {
        !matches!(self, Self::TooLong | Self::NoBuffer)
    }
}
