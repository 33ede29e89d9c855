//! Why a run cannot start.

use std::io;
use std::path::PathBuf;
use xdprobe_capture::CaptureError;
use xdprobe_collect::output::OutputError;
use xdprobe_export::{CollectorAddress, TableError, TooNarrow};
use xdprobe_flow::TimeoutsError;

/// Why a run cannot start: what was found, where, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Flows could never be idle.
    #[error(transparent)]
    Timeouts(#[from] TimeoutsError),
    /// A capture file is read by its packets' clock, and nothing else can be.
    #[error("a capture file and another source in one plan: plan one file, or interfaces only")]
    Mixed,
    /// An interface or file cannot be captured from.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// A collector's name has no address.
    #[error("collector {name} cannot be resolved: {error}")]
    Unresolved {
        /// The collector.
        name: CollectorAddress,
        /// What the resolver said.
        error: io::Error,
    },
    /// No socket leads to a collector.
    #[error("no route to collector {name}: {error}")]
    NoRoute {
        /// The collector.
        name: CollectorAddress,
        /// What the system said.
        error: io::Error,
    },
    /// The path to a collector carries no datagram of one record.
    #[error("no route to collector {name}: {error}; see --mtu")]
    TooNarrow {
        /// The collector.
        name: CollectorAddress,
        /// Both lengths.
        error: TooNarrow,
    },
    /// A file is not written, so that nothing is destroyed.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// Two destinations are one file.
    #[error("{first} and {second} are the same: expected each file once")]
    SameFile {
        /// The first.
        first: String,
        /// The second.
        second: String,
    },
    /// A file cannot be created.
    #[error("{path} cannot be written: {error}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A table cannot be read or is wrong.
    #[error(transparent)]
    Tables(#[from] TablesError),
    /// The run would take more memory than there is.
    #[error(
        "not enough memory: the probe {need}, but {room}; lower {options}, or let --shrink-to-fit \
         choose smaller caches and rings"
    )]
    MemoryShort {
        /// What it takes.
        need: String,
        /// What is left, and of what.
        room: String,
        /// The options that decide how much it takes.
        options: String,
    },
    /// A limit of the process leaves too little for any work.
    #[error("not enough memory: the program takes {need}, but {room}: raise the limit")]
    ProcessLimit {
        /// What it takes.
        need: String,
        /// What is left, and of what.
        room: String,
    },
    /// The flow cache of a worker got no memory.
    #[error("no memory for {flows_max} flows ({error}); lower --flows-per-queue")]
    Memory {
        /// Flows that the cache was to hold.
        flows_max: usize,
        /// What the system said.
        error: io::Error,
    },
    /// A worker cannot run on its core.
    #[error("{worker} cannot be pinned to core {core}: expected one of {cores:?} (--cores)")]
    Pin {
        /// The worker.
        worker: String,
        /// The core.
        core: usize,
        /// The cores that the process may use.
        cores: Vec<usize>,
    },
    /// The system forbids that a worker is pinned.
    #[error(
        "{worker} cannot be pinned to core {core} ({error}): the system call sched_setaffinity is \
         forbidden, by a seccomp filter or a security module; allow it there"
    )]
    PinForbidden {
        /// The worker.
        worker: String,
        /// The core.
        core: usize,
        /// What the system said.
        error: io::Error,
    },
    /// An interface is named twice.
    #[error(
        "interface '{0}' is captured twice, perhaps by an alternative name, and every packet would \
         count twice: name it once"
    )]
    Twice(String),
    /// The system gives no thread.
    #[error("no thread for {name}: {error}")]
    Thread {
        /// What it was for.
        name: String,
        /// What the system said.
        error: io::Error,
    },
    /// A thread panicked before every worker had started.
    #[error("a thread died while the probe started; please report this")]
    Died,
}

impl StartError {
    /// Whether it may pass without a change of the command line or configuration, as the network
    /// of a host that boots comes up.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Unresolved { .. } => true,
            Self::NoRoute { error, .. } => matches!(
                error.kind(),
                io::ErrorKind::NetworkUnreachable
                    | io::ErrorKind::HostUnreachable
                    | io::ErrorKind::NetworkDown
                    // The source address, or the device to send from, is not there yet.
                    | io::ErrorKind::AddrNotAvailable
                    | io::ErrorKind::NotFound
            ),
            _ => false,
        }
    }

    /// Whether the command line or configuration has to change, rather than the system.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        match self {
            Self::Output(error) => !matches!(error, OutputError::System { .. }),
            other => matches!(
                other,
                Self::TooNarrow { .. }
                    | Self::Timeouts(_)
                    | Self::Mixed
                    | Self::Twice(_)
                    | Self::SameFile { .. }
            ),
        }
    }
}

/// What is wrong with a table that an operator gave.
#[derive(Debug, thiserror::Error)]
pub enum TablesError {
    /// The file cannot be read.
    #[error("{path} cannot be read: {error}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A line of the file is wrong.
    #[error("{path}:{error}")]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, and what is wrong with it.
        error: TableError,
    },
    /// Observation points have run out of numbers.
    #[error("more than 4096 pairs of input and output since the start; restart the probe")]
    TooManyPairs,
}
