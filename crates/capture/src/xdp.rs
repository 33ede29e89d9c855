//! AF_XDP: frames are taken from a card's queue before the host's stack sees them.
//!
//! [`XdpInterface`] is an interface with the XDP program attached, by a BPF link that the kernel
//! removes when this process ends in any way. [`XdpQueue`] is one queue: a socket with its rings
//! and UMEM frames, opened on the thread that reads it.
//!
//! A start goes from what takes long to what takes effect: the program is loaded
//! ([`LoadedInterface`]) and each queue's memory reserved ([`QueueMemory`]); the program is
//! attached, without sockets, so frames pass to the host; each queue is opened and its fill ring
//! filled; all sockets are given to the program last ([`XdpInterface::start_redirecting`]). What
//! passes before that, and after [`XdpInterface::stop_redirecting`], is in no count.

mod abi;
mod bell;
mod config;
mod deferral;
mod frames;
mod interface;
mod link;
#[cfg(test)]
mod memory;
mod program;
mod queue;
mod rest;
mod rings;
mod socket;
mod socket_options;
mod watch;

pub use config::{Mode, XdpConfig};
pub use interface::{InterfaceCounters, LoadedInterface, QueueCounters, XdpInterface};
pub use queue::{QueueMemory, QueueReport, XdpQueue};
pub use socket_options::Losses;
pub use watch::{Difference, Reason};
