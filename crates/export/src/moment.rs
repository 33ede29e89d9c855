//! [`Moment`]: one point in time on the uptime clock and on the wall clock.

/// A point in time on both clocks: uptime for the records, UTC for the headers. Both are read
/// together.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Moment {
    /// Monotonic ms since the probe started, not reduced to 32 bits.
    pub uptime_ms: u64,
    /// UTC at the start of that millisecond, in ns since 1970.
    pub unix_ns: u64,
}

impl Moment {
    /// The moment at another uptime, by the same pairing of the two clocks. UTC stops at 1970 if
    /// that uptime is before it.
    #[must_use]
    pub fn at(self, uptime_ms: u64) -> Self {
        const NS_PER_MS: i128 = 1_000_000;
        let moved_ns = (i128::from(uptime_ms) - i128::from(self.uptime_ms)) * NS_PER_MS;
        let unix_ns = u64::try_from(i128::from(self.unix_ns) + moved_ns).unwrap_or(0);
        Self { uptime_ms, unix_ns }
    }
}
