//! The observation point: AF_XDP queues, libpcap and capture files, each a [`Source`] of frames.
//!
//! A source shows each frame of a burst once, in place; this crate copies and decodes nothing.
//! [`xdp`] takes frames from a network card's queue before the host's stack sees them;
//! [`LiveCapture`] observes passively through libpcap; [`CaptureFile`] reads a pcap or pcapng file.
//! A source counts what it received and lost in [`SourceCounters`], losses by place.

mod counters;
mod error;
mod file;
mod filter;
mod forbidden;
mod frame;
pub mod interface;
mod live;
mod prefetch;
mod sampling;
mod source;
pub mod xdp;

pub use counters::{Dropped, SourceCounters};
pub use error::CaptureError;
pub use file::{CaptureFile, ReadProgress};
pub use filter::Filter;
pub use frame::{CaptureTime, Frame};
pub use interface::Interface;
pub use live::LiveCapture;
pub use prefetch::{PREFETCH_AHEAD, prefetch};
pub use sampling::{Sampling, SamplingMode};
pub use source::{BURST_MAX, Received, Source, SourceChange, Unchangeable};
