//! The metering step as in a probe with one collector and no file of rules.

use crate::frames::POINT;
use std::net::SocketAddrV4;
use std::sync::Arc;
use xdprobe_pipeline::Regime;
use xdprobe_pipeline::flow::{
    CacheConfig, FlowCache, Meter, MeterConfig, OwnDatagrams, PointRules, Timeouts,
};
use xdprobe_pipeline::plan::COUNTER_MAX;

const FOREVER_MS: u64 = u64::MAX / 4;

/// Timeouts by which no flow is ever due.
pub const NEVER: Timeouts = Timeouts {
    idle_ms: FOREVER_MS,
    active_ms: FOREVER_MS,
    linger_ms: FOREVER_MS,
    lifetime_spread_ms: 0,
};

/// The cache of a live worker, but that its seed is fixed.
#[must_use]
pub fn cache_config(flows_max: usize, timeouts: Timeouts) -> CacheConfig {
    CacheConfig {
        flows_max,
        timeouts,
        counter_max: COUNTER_MAX,
        seed: 1,
        backing: Regime::Live.backing(),
    }
}

/// An empty cache for so many flows.
///
/// # Panics
///
/// If the system has too little memory.
#[must_use]
pub fn cache(flows_max: usize, timeouts: Timeouts) -> FlowCache {
    FlowCache::new(&cache_config(flows_max, timeouts)).expect("memory for the flows")
}

/// A meter with an empty cache for so many flows: one observation point without rules, and the
/// datagrams to one collector excluded.
///
/// # Panics
///
/// If the system has too little memory.
#[must_use]
pub fn meter(flows_max: usize, timeouts: Timeouts) -> Meter {
    let own = OwnDatagrams {
        source: SocketAddrV4::new([192, 0, 2, 1].into(), 40_000),
        destination: SocketAddrV4::new([192, 0, 2, 9].into(), 2055),
    };
    let config = MeterConfig {
        cache: cache_config(flows_max, timeouts),
        points: Arc::new(PointRules::new([], POINT)),
        own: [own].into(),
    };
    Meter::new(&config).expect("memory for the flows")
}
