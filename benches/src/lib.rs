//! What benches share: frames in memory ([`frames`]), what the engine is held against ([`rivals`]),
//! and the steps of a packet's way, each by itself ([`steps`]).

pub mod frames;
/// The probe's own: it is no part of a library, and a copy would measure something else.
#[path = "../../crates/probe/src/hand_over.rs"]
pub mod hand_over;
pub mod memory;
#[path = "../../crates/probe/src/published.rs"]
pub mod published;
pub mod rivals;
pub mod steps;

use std::time::Instant;

/// Packets of a burst: what one turn of a worker takes off a ring.
pub const BURST: usize = 64;

/// The time, for measuring.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "a bench is there to read the clock"
)]
pub fn now() -> Instant {
    Instant::now()
}
