//! NetFlow on the wire, both directions: versions 1, 5 and 7.
//!
//! [`Version`] is one of them, by its number. Each has a module, [`v1`], [`v5`] and [`v7`], whose
//! `Header` and `Record` *are* the layout: fields in wire order, integers big-endian, so that
//! decoding is a view of octets and no offset is written down anywhere. [`wire`] holds what the
//! versions share: how a datagram is checked, and how it is built, record by record.
//!
//! The crate opens no socket, reads no clock and starts no thread; it depends on crates about bytes
//! and errors only.
#![forbid(unsafe_code)]

mod engine;
pub mod v1;
pub mod v5;
pub mod v7;
mod version;
pub mod wire;

pub use engine::Engine;
pub use version::Version;
pub use wire::{DatagramError, EncodeError};
