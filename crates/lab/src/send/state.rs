//! Counters of the XDP program.

use std::sync::Arc;

use anyhow::{Context, Result};
use aya::maps::{Array, MapData};
use zerocopy::FromBytes;

/// The one value of the program's map `state`, in 64-bit words.
pub type StateMap = Arc<Array<MapData, [u64; STATE_WORDS]>>;

/// Length of a [`State`] in 64-bit words.
const STATE_WORDS: usize = size_of::<State>() / size_of::<u64>();

/// Counters of the program: `struct state` of send.bpf.c.
#[derive(Clone, Copy, Debug, Default, FromBytes)]
#[repr(C)]
pub struct State {
    pub packets: u64,
    pub frame_octets: u64,
    pub ipv4_packets: u64,
    pub ipv4_octets: u64,
    pub ipv6_packets: u64,
    pub ipv6_octets: u64,
    pub fragments: u64,
    /// Datagrams: packets without later fragments.
    pub turns: u64,
    /// Flows that churn has begun.
    pub born: u64,
    _slot: u64,
    _half: u64,
    pub first_ns: u64,
    pub last_ns: u64,
}

impl State {
    pub fn read(map: &StateMap) -> Result<Self> {
        let words = map.get(&0, 0).context("reading the generator's counters")?;
        Ok(zerocopy::transmute!(words))
    }
}
