//! What the benches share. The code that they measure is the shipped code, which `xdprobe-pipeline`
//! re-exports.
//!
//! [`frames`] are in memory, and a [`ring`] of them is the source of the shipped worker. The
//! [`rig`] holds that worker; its [`clock`] can be paused, its meter is set up as in a probe with
//! one collector ([`metering`]). Steps behind the flow cache start from [`records`]; [`exporting`]
//! has an exporter that makes no system call. [`steps`] are the steps of a packet's way, each by
//! itself, and [`rivals`] are what the engine is compared with.

pub mod clock;
pub mod exporting;
pub mod frames;
pub mod memory;
pub mod metering;
pub mod records;
pub mod rig;
pub mod ring;
pub mod rivals;
pub mod statistics;
pub mod steps;
