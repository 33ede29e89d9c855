//! [`Frame`]: what a source shows, and when it was captured.

/// One frame, where the source stores it.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// What was captured, from the link header on.
    pub octets: &'a [u8],
    /// Its length on the wire, in octets.
    pub wire_octets: u32,
    /// The LINKTYPE number of its link layer.
    pub link: u16,
    /// When it was captured.
    pub captured: CaptureTime,
}

/// When a frame was captured.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CaptureTime {
    /// At the time of the `Source::receive` call that shows it: no other time is known.
    AtReceipt,
    /// In ns since 1970.
    Wall(u64),
    /// In ns of CLOCK_MONOTONIC.
    Monotonic(u64),
}
