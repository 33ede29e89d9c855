//! The metering step: frames in, records out.
//!
//! A [`Meter`] joins what a worker does with each frame and what it does with each burst, so that
//! the worker, the tests and the benches run the same code. Sources, clocks and sinks are the
//! caller's.

use crate::cache::BURST_MAX;
use crate::cache::{CacheConfig, CacheCounters, Cursor, FlowCache, Timeouts};
use crate::decode::{DecodeError, Link, decode};
use crate::memory::PageSize;
use crate::own::{OwnDatagrams, is_own};
use crate::packet::Arrival;
use crate::point::PointRules;
use crate::record::{FlowRecord, RecordSink};
use crate::volume::Volume;
use std::io;
use std::sync::Arc;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The metering of one queue: its flow cache, and what is known of the packets that come in.
///
/// Each turn is a burst: [`meter`](Self::meter) for each frame, at most [`BURST_MAX`] of them, then
/// [`observe`](Self::observe) and [`expire`](Self::expire). After [`new`](Self::new) nothing
/// allocates.
pub struct Meter {
    cache: FlowCache,
    points: Arc<PointRules>,
    own: Arc<[OwnDatagrams]>,
    /// The packets of the burst under way.
    burst: Vec<Arrival>,
    undecoded: Undecoded,
    excluded: Volume,
}

/// What a meter is created from.
#[derive(Clone, Debug)]
pub struct MeterConfig {
    /// The flow cache.
    pub cache: CacheConfig,
    /// The observation points of packets.
    pub points: Arc<PointRules>,
    /// The probe's own datagrams, which are not metered.
    pub own: Arc<[OwnDatagrams]>,
}

/// Frames without a packet that is metered, by [`DecodeError::index`].
pub type Undecoded = [u64; DecodeError::REASONS.len()];

/// What a meter has done since it was created: 64-bit integers only, so that a worker can publish
/// it.
#[derive(
    Clone, Copy, Debug, Default, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq,
)]
#[repr(C)]
pub struct MeterCounters {
    /// Frames that were not decoded, by reason.
    pub undecoded: Undecoded,
    /// The probe's own datagrams, which are not metered.
    pub excluded: Volume,
    /// Packets observed, flows created and expired.
    pub cache: CacheCounters,
    /// Flows resident now.
    pub resident_flows: u64,
}

impl Meter {
    /// A meter with an empty cache.
    ///
    /// # Errors
    ///
    /// The error of `mmap` if the system has too little memory for the cache.
    pub fn new(config: &MeterConfig) -> io::Result<Self> {
        Ok(Self {
            cache: FlowCache::new(&config.cache)?,
            points: Arc::clone(&config.points),
            own: Arc::clone(&config.own),
            burst: Vec::with_capacity(BURST_MAX),
            undecoded: Undecoded::default(),
            excluded: Volume::default(),
        })
    }

    /// Decodes a frame and adds its packet to the burst under way. A frame without an IPv4 packet
    /// and a datagram of the probe itself are counted and dropped.
    ///
    /// `frame` is what was captured, starting with the link header; `wire_octets` is its length on
    /// the wire. `at_ms` is the uptime at which it was seen, never less than that of an earlier
    /// frame.
    // Always inlined, as `decode` is: the loop over a source's frames calls it from one place.
    #[inline(always)]
    pub fn meter(&mut self, frame: &[u8], wire_octets: u32, link: Link, at_ms: u64) {
        match decode(frame, wire_octets, link) {
            Ok(packet) if is_own(&self.own, &packet.key) => {
                self.excluded += Volume::of_packet(packet.octets);
            }
            Ok(mut packet) => {
                packet.key.point = self.points.point_of(frame, link, packet.key.source);
                self.burst.push(Arrival { packet, at_ms });
            }
            Err(error) => self.undecoded[error.index()] += 1,
        }
    }

    /// Uptime of the first packet of the burst under way, in ms; `None` if there is no packet.
    #[must_use]
    #[inline]
    pub fn earliest_ms(&self) -> Option<u64> {
        self.burst.first().map(|arrival| arrival.at_ms)
    }

    /// Uptime of the last packet of the burst under way, in ms; `None` if there is no packet.
    #[must_use]
    #[inline]
    pub fn latest_ms(&self) -> Option<u64> {
        self.burst.last().map(|arrival| arrival.at_ms)
    }

    /// Adds the packets of the burst under way to their flows, and empties it. Flows that end by it
    /// go to `sink`.
    ///
    /// # Panics
    ///
    /// If the burst has more than [`BURST_MAX`] packets.
    #[inline]
    pub fn observe(&mut self, sink: &mut impl RecordSink) {
        self.cache.observe(&mut self.burst, sink);
        self.burst.clear();
    }

    /// Expires the flows that are due at `now_ms`; see [`FlowCache::expire`].
    #[inline]
    pub fn expire(&mut self, now_ms: u64, sets_max: usize, sink: &mut impl RecordSink) -> bool {
        self.cache.expire(now_ms, sets_max, sink)
    }

    /// Uptime at which the first flow is due; see [`FlowCache::earliest_due_ms`].
    #[must_use]
    pub fn earliest_due_ms(&self) -> Option<u64> {
        self.cache.earliest_due_ms()
    }

    /// Observes the burst under way, then expires the flows of up to `sets_max` sets, due or not;
    /// see [`FlowCache::drain`]. Returns whether no flow is left.
    ///
    /// # Panics
    ///
    /// If the burst has more than [`BURST_MAX`] packets.
    pub fn drain(&mut self, sets_max: usize, sink: &mut impl RecordSink) -> bool {
        self.observe(sink);
        self.cache.drain(sets_max, sink)
    }

    /// Shows some of the resident flows; see [`FlowCache::visit`].
    pub fn visit(
        &self,
        cursor: &mut Cursor,
        sets_max: usize,
        each: &mut impl FnMut(&FlowRecord),
    ) -> bool {
        self.cache.visit(cursor, sets_max, each)
    }

    /// Expires some of the resident flows; see [`FlowCache::expire_where`].
    pub fn expire_where(
        &mut self,
        cursor: &mut Cursor,
        sets_max: usize,
        picks: &mut impl FnMut(&FlowRecord) -> bool,
        sink: &mut impl RecordSink,
    ) -> bool {
        self.cache.expire_where(cursor, sets_max, picks, sink)
    }

    /// Sets other timeouts, for resident flows too; see [`FlowCache::set_timeouts`].
    pub fn set_timeouts(&mut self, timeouts: Timeouts) {
        self.cache.set_timeouts(timeouts);
    }

    /// Sets the rules by which the packets of later frames get their observation point.
    pub fn set_points(&mut self, points: Arc<PointRules>) {
        self.points = points;
    }

    /// Sets which later frames are the probe's own datagrams.
    pub fn set_own(&mut self, own: Arc<[OwnDatagrams]>) {
        self.own = own;
    }

    /// What the meter has done so far. Packets of the burst under way are not in it.
    #[must_use]
    #[inline]
    pub fn counters(&self) -> MeterCounters {
        MeterCounters {
            undecoded: self.undecoded,
            excluded: self.excluded,
            cache: *self.cache.counters(),
            resident_flows: self.cache.len() as u64,
        }
    }

    /// Packets and octets of the resident flows; see [`FlowCache::resident`].
    #[must_use]
    pub fn resident(&self) -> Volume {
        self.cache.resident()
    }

    /// Places for flows.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.cache.capacity()
    }

    /// The kind of pages that the flows are on.
    #[must_use]
    pub fn page_size(&self) -> PageSize {
        self.cache.page_size()
    }
}
