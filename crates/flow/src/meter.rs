//! The metering step: frames in, records out.
//!
//! A [`Meter`] joins what a worker does with each frame and what it does with each burst, so that
//! the worker, the tests and the benches run the same code. Sources, clocks and sinks are the
//! caller's.

use crate::cache::{BURST_MAX, CacheConfig, CacheCounters, Cursor, FlowCache, Timeouts};
use crate::decode::{DecodeError, Link, decode_noting};
use crate::memory::PageSize;
use crate::own::{OwnDatagrams, is_own};
use crate::packet::Arrival;
use crate::point::PointRules;
use crate::record::{FlowRecord, RecordSink};
use crate::unread::UnreadCounts;
use crate::volume::Volume;
use std::io;
use std::sync::Arc;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The metering of one queue: its flow cache, and what is known of the packets that come in.
///
/// Each turn is a burst: [`meter`](Self::meter) for each frame, at most [`BURST_MAX`] of them, then
/// [`observe`](Self::observe) and [`expire`](Self::expire). Where the packets are the clock, they
/// may wait for those that come after them, and are [observed](Self::observe_first) some at a time.
/// After [`new`](Self::new) nothing allocates.
pub struct Meter {
    cache: FlowCache,
    points: Arc<PointRules>,
    own: Arc<[OwnDatagrams]>,
    /// The packets of the burst under way.
    burst: Vec<Arrival>,
    undecoded: Undecoded,
    unread: UnreadCounts,
    beyond_frame: Volume,
    excluded: Volume,
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
            unread: UnreadCounts::default(),
            beyond_frame: Volume::default(),
            excluded: Volume::default(),
        })
    }

    /// Decodes a frame and adds its packet to the burst under way. A frame without an IPv4 packet
    /// and a datagram of the probe itself are counted and dropped.
    ///
    /// `frame` is what was captured, starting with the link header; `wire_octets` is its length on
    /// the wire. `at_ms` is the uptime at which it was seen, in any order.
    // Always inlined, as `decode` is: the loop over a source's frames calls it from one place.
    #[inline(always)]
    pub fn meter(&mut self, frame: &[u8], wire_octets: u32, link: Link, at_ms: u64) {
        let beyond = &mut self.beyond_frame;
        let note = |octets: u16| *beyond += Volume::of_packet(octets.into());
        match decode_noting(frame, wire_octets, link, note) {
            Ok(packet) if is_own(&self.own, &packet.key) => {
                self.excluded += Volume::of_packet(packet.octets);
            }
            Ok(mut packet) => {
                packet.key.point = self.points.point_of(frame, link, packet.key.source);
                self.burst.push(Arrival { packet, at_ms });
            }
            Err(error) => {
                self.undecoded[error.index()] += 1;
                if let Some(unread) = error.unread() {
                    self.unread.count(unread);
                }
            }
        }
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

    /// The packets that wait to be observed, in the order in which they came.
    #[must_use]
    pub fn waiting(&self) -> &[Arrival] {
        &self.burst
    }

    /// Moves the times of the packets that wait by `by_ms`: the clock that they are given on was
    /// set.
    pub fn move_waiting(&mut self, by_ms: i64) {
        for arrival in &mut self.burst {
            arrival.at_ms = arrival.at_ms.saturating_add_signed(by_ms);
        }
    }

    /// Adds the first `count` of the packets that wait to their flows. Those that are in order, and
    /// not before `now_ms`, move the clock if `moves` says so; the others are
    /// [strays](FlowCache::observe_stray). Returns what the clock reads then.
    ///
    /// # Panics
    ///
    /// If fewer packets wait, or `count` is above [`BURST_MAX`].
    pub fn observe_first(
        &mut self,
        count: usize,
        now_ms: u64,
        moves: bool,
        sink: &mut impl RecordSink,
    ) -> u64 {
        let mut now_ms = now_ms;
        let mut rest = &mut self.burst[..count];
        while !rest.is_empty() {
            let before_ms = now_ms;
            let in_order = rest.iter().take_while(|arrival| {
                let is_in_order = moves && arrival.at_ms >= now_ms;
                now_ms = now_ms.max(if is_in_order { arrival.at_ms } else { 0 });
                is_in_order
            });
            let in_order = in_order.count();
            if in_order == 0 {
                self.cache.observe_stray(&mut rest[0], before_ms, sink);
            } else {
                self.cache.observe(&mut rest[..in_order], sink);
            }
            rest = &mut rest[in_order.max(1)..];
        }
        self.burst.drain(..count);
        now_ms
    }

    /// Sets the uptime at which the first packets come; see [`FlowCache::start_at`].
    pub fn start_at(&mut self, now_ms: u64) {
        self.cache.start_at(now_ms);
    }

    /// Expires the flows that are due at `now_ms`; see [`FlowCache::expire`].
    #[inline]
    pub fn expire(&mut self, now_ms: u64, sets_max: usize, sink: &mut impl RecordSink) -> bool {
        self.cache.expire(now_ms, sets_max, sink)
    }

    /// Uptime at which the first flow is due; see [`FlowCache::earliest_due_ms`].
    #[must_use]
    pub fn earliest_due_ms(&mut self, before_ms: u64) -> Option<u64> {
        self.cache.earliest_due_ms(before_ms)
    }

    /// Expires flows, due or not, and returns whether none is left; see [`FlowCache::drain`]. The
    /// packets that wait to be observed are in none of them.
    pub fn drain(&mut self, sets_max: usize, sink: &mut impl RecordSink) -> bool {
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
            unread: self.unread,
            beyond_frame: self.beyond_frame,
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
    /// The frames among them whose reason is `llc`, `not_ip` or `link_type`, by what they carry.
    pub unread: UnreadCounts,
    /// Packets whose total length exceeds their frame on the wire, and the octets by which it does.
    /// They are metered with the octets of the frame; these octets are in no other count.
    pub beyond_frame: Volume,
    /// The probe's own datagrams, which are not metered.
    pub excluded: Volume,
    /// Packets observed, flows created and expired.
    pub cache: CacheCounters,
    /// Flows resident now.
    pub resident_flows: u64,
}

// A meter moves to the thread of its worker.
const _: () = {
    const fn is_send<T: Send>() {}
    is_send::<Meter>();
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Backing;
    use crate::point::PointRule;
    use crate::record::EndReason;
    use crate::unread::Unread;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::net::SocketAddrV4;

    /// A UDP datagram of 28 octets behind Ethernet, from 10.0.0.`source` port `source_port` to
    /// 10.0.1.1 port 2055.
    fn frame(source: u8, source_port: u16) -> Vec<u8> {
        #[rustfmt::skip]
        let mut frame = vec![
            2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, // Ethernet: to, from, IPv4
            0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, source, 10, 0, 1, 1, // IPv4
            0, 0, 8, 7, 0, 8, 0, 0, // UDP
        ];
        frame[34..36].copy_from_slice(&source_port.to_be_bytes());
        frame
    }

    fn meter_with(own: &[OwnDatagrams]) -> Meter {
        let cache = CacheConfig {
            flows_max: 100,
            timeouts: Timeouts::default(),
            counter_max: u32::MAX.into(),
            seed: 1,
            backing: Backing::OnDemand,
        };
        Meter::new(&MeterConfig {
            cache,
            points: Arc::new(PointRules::new([], 3)),
            own: own.into(),
        })
        .unwrap()
    }

    fn own(source: u8, source_port: u16) -> OwnDatagrams {
        OwnDatagrams {
            source: SocketAddrV4::new([10, 0, 0, source].into(), source_port),
            destination: SocketAddrV4::new([10, 0, 1, 1].into(), 2055),
        }
    }

    fn meter(meter: &mut Meter, frame: &[u8], at_ms: u64) {
        let wire_octets = u32::try_from(frame.len()).unwrap();
        meter.meter(frame, wire_octets, Link::Ethernet, at_ms);
    }

    fn drained(meter: &mut Meter) -> Vec<FlowRecord> {
        let mut records = Vec::new();
        meter.observe(&mut records);
        assert!(meter.drain(usize::MAX, &mut records));
        records
    }

    #[test]
    fn frames_become_records() {
        let mut metering = meter_with(&[]);
        assert_eq!(metering.latest_ms(), None);
        meter(&mut metering, &frame(1, 4000), 5);
        meter(&mut metering, &frame(1, 4000), 9);
        assert_eq!(metering.latest_ms(), Some(9));
        let mut records = Vec::new();
        metering.observe(&mut records);
        assert_eq!(metering.latest_ms(), None);
        assert_eq!(metering.earliest_due_ms(15_010), Some(15_009));
        assert_eq!(metering.earliest_due_ms(15_009), None);
        assert!(metering.expire(15_100, usize::MAX, &mut records));
        let record = records[0];
        assert_eq!(
            (record.key.source_port, record.key.point, record.end),
            (4000, 3, EndReason::Idle)
        );
        let volume = Volume {
            packets: 2,
            octets: 56,
        };
        assert_eq!(
            (record.volume, record.first_ms, record.last_ms),
            (volume, 5, 9)
        );
        assert_eq!(metering.counters().cache.observed, volume);
    }

    #[test]
    fn frames_without_a_packet_are_counted_by_reason() {
        let mut metering = meter_with(&[]);
        let mut arp = frame(1, 1);
        arp[13] = 6;
        meter(&mut metering, &arp, 0);
        meter(&mut metering, &arp[..13], 0);
        let counters = metering.counters();
        assert_eq!(counters.undecoded[DecodeError::Arp.index()], 1);
        assert_eq!(counters.undecoded[DecodeError::Truncated("").index()], 1);
        assert_eq!(counters.undecoded.iter().sum::<u64>(), 2);
        assert!(drained(&mut metering).is_empty());
    }

    #[test]
    fn what_is_not_read_is_counted_by_its_number() {
        let mut metering = meter_with(&[]);
        let mut other = frame(1, 1);
        for (ether_type, times) in [(0x8903_u16, 2), (0x0806, 1), (0x88cc, 3)] {
            other[12..14].copy_from_slice(&ether_type.to_be_bytes());
            (0..times).for_each(|_| meter(&mut metering, &other, 0));
        }
        metering.meter(&other, 42, Link::Unsupported(9), 0);
        let unread = metering.counters().unread;
        let expected = [
            (Unread::EtherType(0x8903), 2),
            (Unread::EtherType(0x88cc), 3),
            (Unread::LinkType(9), 1),
        ];
        assert_eq!(unread.by_name().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn packets_longer_than_their_frame_are_metered_as_long_as_it_and_counted() {
        let mut metering = meter_with(&[]);
        meter(&mut metering, &frame(1, 1), 0);
        let mut longer = frame(1, 1);
        longer[16..18].copy_from_slice(&[0xff, 0xff]);
        meter(&mut metering, &longer, 0);
        let records = drained(&mut metering);
        assert_eq!((records.len(), records[0].volume.octets), (1, 2 * 28));
        let beyond = Volume {
            packets: 1,
            octets: 0xffff - 28,
        };
        assert_eq!(metering.counters().beyond_frame, beyond);
    }

    #[test]
    fn own_datagrams_are_excluded_and_counted() {
        let mut metering = meter_with(&[own(1, 4000), own(2, 4000)]);
        for source in [1, 2, 3] {
            meter(&mut metering, &frame(source, 4000), 0);
        }
        assert_eq!(
            metering.counters().excluded,
            Volume {
                packets: 2,
                octets: 56
            }
        );
        metering.set_own([own(3, 4000)].into());
        meter(&mut metering, &frame(1, 4000), 0);
        meter(&mut metering, &frame(3, 4000), 0);
        let mut sources: Vec<_> = drained(&mut metering)
            .iter()
            .map(|record| record.key.source.octets()[3])
            .collect();
        sources.sort_unstable();
        assert_eq!(
            (sources, metering.counters().excluded.packets),
            (vec![1, 3], 3)
        );
    }

    #[test]
    fn later_rules_hold_for_later_frames() {
        let mut metering = meter_with(&[]);
        meter(&mut metering, &frame(1, 4000), 0);
        let untagged = PointRule {
            vlan: Some(0),
            point: 8,
            ..PointRule::default()
        };
        metering.set_points(Arc::new(PointRules::new([untagged], 9)));
        meter(&mut metering, &frame(1, 4000), 0);
        let mut points: Vec<_> = drained(&mut metering)
            .iter()
            .map(|record| record.key.point)
            .collect();
        points.sort_unstable();
        assert_eq!(points, [3, 8]);
    }

    #[test]
    fn resident_flows_are_visited_and_expired() {
        let mut metering = meter_with(&[]);
        for source in 1..=10 {
            meter(&mut metering, &frame(source, 4000), 0);
        }
        let mut records = Vec::new();
        metering.observe(&mut records);
        let mut shown = 0;
        assert!(!metering.visit(&mut Cursor::default(), usize::MAX, &mut |_| shown += 1));
        assert_eq!((shown, metering.counters().resident_flows), (10, 10));
        let mut picks = |record: &FlowRecord| record.key.source.octets()[3] > 7;
        metering.expire_where(&mut Cursor::default(), usize::MAX, &mut picks, &mut records);
        assert_eq!((records.len(), metering.resident().packets), (3, 7));
    }

    proptest! {
        /// Each frame is undecoded, excluded, or observed, and each packet observed is in a record
        /// or resident.
        #[test]
        fn every_frame_is_accounted_once(
            frames in vec((0u8..4, 0u16..4, 0usize..60, 0usize..44, any::<u8>()), 0..200),
        ) {
            let mut metering = meter_with(&[own(1, 1), own(2, 2)]);
            let mut records = Vec::new();
            for &(source, source_port, end, at, octet) in &frames {
                let mut frame = frame(source, source_port);
                if let Some(damaged) = frame.get_mut(at) {
                    *damaged = octet;
                }
                frame.truncate(end);
                meter(&mut metering, &frame, 0);
                metering.observe(&mut records);
            }
            let MeterCounters { undecoded, unread, excluded, cache, .. } = metering.counters();
            let named: u64 = unread.by_name().map(|(_, count)| count).sum();
            let with_a_number = ["llc", "not_ip", "link_type"].map(|reason| {
                let index = DecodeError::REASONS.iter().position(|&known| known == reason);
                undecoded[index.unwrap()]
            });
            prop_assert_eq!(named + unread.other, with_a_number.iter().sum::<u64>());
            let undecoded: u64 = undecoded.iter().sum();
            let total = undecoded + excluded.packets + cache.observed.packets;
            prop_assert_eq!(total, frames.len() as u64);
            let exported: Volume = records.iter().map(|record| record.volume).sum();
            prop_assert_eq!(exported + metering.resident(), cache.observed);
        }
    }
}
