//! What benches share: frames in memory ([`frames`]), and what the engine is held against ([`rivals`]).

pub mod frames;
pub mod memory;
pub mod rivals;

use std::time::Instant;

/// Packets of a burst: what one turn of a worker takes off a ring.
pub const BURST: usize = 64;

/// The time, for measuring.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "a bench is there to read the clock")]
pub fn now() -> Instant {
    Instant::now()
}
