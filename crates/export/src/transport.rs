//! [`Transport`]: what carries datagrams to a collector.

use std::io::{self, IoSlice};

/// Carries datagrams to a collector: UDP in production, memory in tests.
pub trait Transport: Send {
    /// Sends the first of `datagrams`, at least one, and returns how many.
    ///
    /// # Errors
    ///
    /// Nothing was sent. [`io::ErrorKind::WouldBlock`]: the first has to wait.
    /// [`io::ErrorKind::ConnectionRefused`]: an *earlier* datagram was refused. Any other error:
    /// the first cannot be sent.
    fn send(&mut self, datagrams: &[IoSlice<'_>]) -> io::Result<usize>;

    /// The next error that was reported about datagrams sent earlier; each is returned once.
    fn take_error(&mut self) -> Option<io::Error> {
        None
    }

    /// Whether the kernel still holds datagrams that were sent. It does so for three seconds where
    /// the next hop does not answer the request for its address (ARP, neighbour discovery), and
    /// then reports that the host is unreachable.
    fn holds_datagrams(&self) -> bool {
        false
    }

    /// The longest datagram that the path carries in one piece at present, in octets of payload.
    fn payload_octets_max(&self) -> usize;

    /// Whether a path to the collector has been found; without one every [`send`](Self::send)
    /// fails.
    fn is_connected(&self) -> bool {
        true
    }

    /// Completes what was sent, where that takes an action of its own. No datagram follows.
    ///
    /// # Errors
    ///
    /// What prevented it.
    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}
