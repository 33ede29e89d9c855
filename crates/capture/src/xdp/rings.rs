//! What a reader needs of a socket: its rings, the memory of its frames, and the kick.
//!
//! `socket.rs` implements it with the kernel, `memory.rs` with plain memory for tests.

use super::abi::Stamp;
use std::io;

/// The receive ring and the fill ring of a socket, and the UMEM behind them.
pub(super) trait Rings {
    /// The kernel's `xdp_desc`.
    type Descriptor: Descriptor;

    /// Moves entries of the receive ring to the start of `burst`; returns how many.
    fn consume(&mut self, burst: &mut [Self::Descriptor]) -> usize;

    /// Moves the first of `idle` to the fill ring; returns how many, 0 if it has no room.
    fn produce(&mut self, idle: &[Self::Descriptor]) -> usize;

    /// What was received into a UMEM frame.
    fn octets(&self, descriptor: &Self::Descriptor) -> &[u8];

    /// The octets before a received frame as the XDP program's stamp; any value if it wrote none.
    fn stamp(&self, descriptor: &Self::Descriptor) -> Stamp;

    /// Whether the driver waits for a kick before it looks at the fill ring again.
    fn needs_kick(&self) -> bool;

    /// Wakes the driver; the error is the state of the device.
    fn kick(&self) -> io::Result<()>;

    /// Whether the receive ring has entries. Makes a system call.
    fn has_frames(&self) -> bool;
}

/// A UMEM frame, and how much was received into it. The default names no UMEM frame.
pub(super) trait Descriptor: Copy + Default {
    /// Octets received.
    fn octets(&self) -> u32;

    /// Whether the received frame continues in the next descriptor.
    fn is_continued(&self) -> bool;
}
