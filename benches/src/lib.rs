//! What the benches share. The code that they measure is the shipped code, which `xdprobe-pipeline`
//! re-exports.
//!
//! Frames are in memory ([`frames`]), where the shipped worker receives them ([`ring`]) by a clock
//! that can be paused ([`clock`]); its meter is set up as in a probe with one collector
//! ([`metering`]). Steps behind the flow cache start from [`records`]; [`exporting`] has an exporter
//! that makes no system call. [`steps`] are the steps of a
//! packet's way, each by itself, and [`rivals`] are what the engine is compared with.

pub mod clock;
pub mod exporting;
pub mod frames;
pub mod memory;
pub mod metering;
pub mod records;
pub mod ring;
pub mod rivals;
pub mod statistics;
pub mod steps;
