//! The path to a collector: its transport, and the longest datagram that it carries.

use crate::transport::Transport;
use std::io::{self, IoSlice};

/// A transport, with the length of datagram that it was measured to carry.
pub struct Path {
    transport: Box<dyn Transport>,
    /// The shortest that `payload_octets` becomes.
    payload_octets_min: usize,
    payload_octets: usize,
    /// When it was measured, in ms of the time that sending goes by.
    measured_ms: u64,
}

/// How often the path's MTU is read again. After a datagram that was too long it is read at once.
const MEASURE_MS: u64 = 10_000;

impl Path {
    /// A path whose datagrams are never shorter than `payload_octets_min`: where it carries less,
    /// they are refused as too long, and counted.
    pub fn new(transport: Box<dyn Transport>, payload_octets_min: usize) -> Self {
        let payload_octets = transport.payload_octets_max().max(payload_octets_min);
        Self {
            transport,
            payload_octets_min,
            payload_octets,
            measured_ms: 0,
        }
    }

    /// Octets of payload of the longest datagram.
    pub fn payload_octets(&self) -> usize {
        self.payload_octets
    }

    /// Leads over another transport from here on.
    pub fn replace_transport(&mut self, transport: Box<dyn Transport>, now_ms: u64) {
        self.transport = transport;
        self.measure(now_ms);
    }

    /// Measures the path again, if the last time is long enough ago.
    pub fn measure_when_due(&mut self, now_ms: u64) {
        if now_ms >= self.measured_ms.saturating_add(MEASURE_MS) {
            self.measure(now_ms);
        }
    }

    /// Measures the path again, and returns whether it carries less than before.
    pub fn measure(&mut self, now_ms: u64) -> bool {
        let before = self.payload_octets;
        let octets = self.transport.payload_octets_max();
        self.payload_octets = octets.max(self.payload_octets_min);
        self.measured_ms = now_ms;
        self.payload_octets < before
    }

    /// See [`Transport::send`].
    pub fn send(&mut self, datagrams: &[IoSlice<'_>]) -> io::Result<usize> {
        self.transport.send(datagrams)
    }

    /// See [`Transport::is_connected`].
    pub fn is_connected(&self) -> bool {
        self.transport.is_connected()
    }

    /// See [`Transport::holds_datagrams`].
    pub fn holds_datagrams(&self) -> bool {
        self.transport.holds_datagrams()
    }

    /// See [`Transport::take_error`].
    pub fn take_error(&mut self) -> Option<io::Error> {
        self.transport.take_error()
    }

    /// See [`Transport::finish`].
    pub fn finish(&mut self) -> io::Result<()> {
        self.transport.finish()
    }
}
