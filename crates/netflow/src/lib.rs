//! NetFlow on the wire, both directions: versions 1, 5 and 7.
//!
//! [`Version`] is one of the versions. Each has a module, [`v1`], [`v5`] and [`v7`], whose `Header`
//! and `Record` are the layout itself: fields in the order of the wire, integers big-endian. A
//! module decodes a datagram (`decode`), encodes one at once (`encode`), or record by record
//! (`append`, then `finish`). [`wire`] holds what can be said before the version is known:
//! [`wire::version_of`] and the limits of length.
//!
//! The crate opens no socket, reads no clock and starts no thread. It depends on crates about bytes
//! and errors only.
#![forbid(unsafe_code)]

mod engine;
mod layout;
pub mod v1;
pub mod v5;
pub mod v7;
mod version;
pub mod wire;

pub use engine::Engine;
pub use layout::{DatagramError, EncodeError};
pub use version::Version;
