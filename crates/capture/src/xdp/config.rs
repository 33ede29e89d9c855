//! How an interface is captured from with AF_XDP.

use crate::filter::Filter;
use crate::sampling::Sampling;

/// The settings of one interface.
#[derive(Clone, Debug)]
pub struct XdpConfig {
    /// The AF_XDP modes to try.
    pub mode: Mode,
    /// Entries of each queue's receive ring, a power of two. A queue has twice as many UMEM frames
    /// and a fill ring of four times as many entries.
    pub ring_entries: u32,
    /// Never sleep: the reader polls the card itself.
    pub busy_poll: bool,
    /// Sampling in the XDP program, before the filter.
    pub sampling: Sampling,
    /// The frames to show; others are dropped right after they are received.
    pub filter: Option<Filter>,
}

impl XdpConfig {
    /// 10 ms at 3 Mpps: a reader that loses its core for that long loses no frame.
    pub const RING_ENTRIES: u32 = 32_768;
}

/// The AF_XDP modes to try.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Mode {
    /// Zero-copy, else copy in the driver's XDP, else skb mode.
    #[default]
    Auto,
    /// Frames stay where the card wrote them; the driver must support it.
    ZeroCopy,
    /// The driver runs XDP, and the kernel copies each frame once.
    Copy,
    /// Any driver: XDP runs after the driver, on socket buffers.
    Skb,
}
