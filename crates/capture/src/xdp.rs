//! AF_XDP: frames are taken from a card's queue before the host's stack sees them.
//!
//! [`XdpInterface`] is an interface with the XDP program attached, by a BPF link that the kernel
//! removes when this process ends in any way. [`XdpQueue`] is one queue: a socket with its rings
//! and UMEM frames, opened on the thread that reads it. At start the program is attached with no
//! sockets, so frames pass to the host; each queue is opened and its fill ring filled; its socket
//! is given to the program last, so that no frame is taken before it can be read.

mod abi;
mod bell;
mod config;
mod frames;
mod interface;
#[cfg(test)]
mod memory;
mod program;
mod queue;
mod rest;
mod rings;
mod socket;
mod socket_options;

pub use config::{Mode, XdpConfig};
pub use interface::{InterfaceCounters, QueueCounters, XdpInterface};
pub use queue::{QueueReport, XdpQueue};
pub use socket_options::Losses;
