//! Where time enters: the one module that reads the system's clocks.
//!
//! Flows are timed in uptime, ms since an epoch, which never goes back. On a live interface the
//! epoch is the probe's start and the clock is the monotonic one; in a capture file the epoch is
//! the first packet and the packets are the clock. Wall time is paired with uptime only where a
//! header is written, so a step of the wall clock changes no First or Last.

use nix::time::{ClockId, clock_gettime};
use xdprobe_capture::{CaptureTime, Frame};
use xdprobe_export::Moment;

const NS_PER_MS: u64 = 1_000_000;

/// What tells a worker the time.
pub trait Clock: Send {
    /// The time is driven by the frames themselves: between two of them nothing happens.
    const DRIVEN_BY_FRAMES: bool;

    /// Reads the clock, once a turn.
    fn read(&mut self) -> Moment;

    /// The uptime at which a frame was captured, in ms: never earlier than that of a frame before
    /// it.
    fn uptime_of(&mut self, frame: &Frame<'_>) -> u64;
}

/// The system's clocks, counted from the probe's start. Copies tell the same time.
#[derive(Clone, Copy, Debug)]
pub struct LiveClock {
    /// Monotonic time at the start, and the uptime that it was then, in ns.
    started_ns: u64,
    uptime_at_start_ns: u64,
    /// As last read, in ns.
    monotonic_ns: u64,
    wall_ns: u64,
    /// Uptime of the latest frame, in ms.
    latest_ms: u64,
}

impl LiveClock {
    /// A clock whose uptime begins now.
    pub fn start() -> Self {
        Self::start_at(0)
    }

    /// A clock whose uptime is `uptime_ms` now, as if it had started that long ago.
    fn start_at(uptime_ms: u64) -> Self {
        let started_ns = read_ns(ClockId::CLOCK_MONOTONIC);
        Self {
            started_ns,
            uptime_at_start_ns: uptime_ms * NS_PER_MS,
            monotonic_ns: started_ns,
            wall_ns: read_ns(ClockId::CLOCK_REALTIME),
            latest_ms: uptime_ms,
        }
    }

    fn uptime_ns(&self) -> u64 {
        self.uptime_at_start_ns + (self.monotonic_ns - self.started_ns)
    }

    /// The present, by what the system's clocks say.
    fn tell(&mut self, monotonic_ns: u64, wall_ns: u64) -> Moment {
        (self.monotonic_ns, self.wall_ns) = (monotonic_ns, wall_ns);
        let into_the_ms = self.uptime_ns() % NS_PER_MS;
        Moment {
            uptime_ms: self.uptime_ns() / NS_PER_MS,
            unix_ns: wall_ns.saturating_sub(into_the_ms),
        }
    }
}

impl Clock for LiveClock {
    const DRIVEN_BY_FRAMES: bool = false;

    fn read(&mut self) -> Moment {
        self.tell(
            read_ns(ClockId::CLOCK_MONOTONIC),
            read_ns(ClockId::CLOCK_REALTIME),
        )
    }

    #[inline]
    fn uptime_of(&mut self, frame: &Frame<'_>) -> u64 {
        /// A buffered frame is a little older than the turn that receives it; one that claims more
        /// is on another clock.
        const AGE_NS_MAX: u64 = 1_000_000_000;
        let age_ns = match frame.captured {
            CaptureTime::AtReceipt => 0,
            CaptureTime::Wall(ns) => self.wall_ns.saturating_sub(ns),
            CaptureTime::Monotonic(ns) => self.monotonic_ns.saturating_sub(ns),
        };
        let age_ns = if age_ns <= AGE_NS_MAX { age_ns } else { 0 };
        self.latest_ms = self
            .latest_ms
            .max(self.uptime_ns().saturating_sub(age_ns) / NS_PER_MS);
        self.latest_ms
    }
}

/// The packets' own times. Where they go back by more than a reordering (captures joined in the
/// wrong order, a clock that was set), uptime stands still and the wall clock follows, as it would
/// on a live probe whose clock is stepped.
#[derive(Clone, Copy, Debug, Default)]
pub struct CaptureClock {
    epoch_unix_ms: Option<i64>,
    latest_ms: u64,
}

/// Packets of one capture come this much out of order, from several queues or cards; in ms.
const REORDERING_MS: i64 = 1_000;

impl Clock for CaptureClock {
    const DRIVEN_BY_FRAMES: bool = true;

    fn read(&mut self) -> Moment {
        let uptime_ms = i64::try_from(self.latest_ms).unwrap_or(i64::MAX);
        let unix_ms = self.epoch_unix_ms.unwrap_or(0).saturating_add(uptime_ms);
        Moment {
            uptime_ms: self.latest_ms,
            unix_ns: u64::try_from(unix_ms)
                .unwrap_or(0)
                .saturating_mul(NS_PER_MS),
        }
    }

    #[inline]
    fn uptime_of(&mut self, frame: &Frame<'_>) -> u64 {
        let captured_ms = match frame.captured {
            CaptureTime::Wall(ns) => i64::try_from(ns / NS_PER_MS).unwrap_or(i64::MAX),
            // No frame of a file is without a time of its own.
            CaptureTime::AtReceipt | CaptureTime::Monotonic(_) => 0,
        };
        let epoch_ms = *self.epoch_unix_ms.get_or_insert(captured_ms);
        let latest_ms = i64::try_from(self.latest_ms).unwrap_or(i64::MAX);
        let uptime_ms = captured_ms.saturating_sub(epoch_ms);
        if uptime_ms < latest_ms.saturating_sub(REORDERING_MS) {
            self.epoch_unix_ms = Some(captured_ms.saturating_sub(latest_ms));
        }
        self.latest_ms = self.latest_ms.max(u64::try_from(uptime_ms).unwrap_or(0));
        self.latest_ms
    }
}

fn read_ns(clock: ClockId) -> u64 {
    // Linux has both clocks, and neither is before its epoch.
    let time = clock_gettime(clock).map_or(std::time::Duration::ZERO, std::time::Duration::from);
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(captured: CaptureTime) -> Frame<'static> {
        Frame {
            octets: &[],
            wire_octets: 0,
            link: 1,
            captured,
        }
    }

    fn capture_times(seconds: &[f64]) -> Vec<(u64, u64)> {
        let mut clock = CaptureClock::default();
        let times = seconds.iter().map(|s| {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "small and positive"
            )]
            let captured_ns = (s * 1e9) as u64;
            let uptime_ms = clock.uptime_of(&frame(CaptureTime::Wall(captured_ns)));
            let moment = clock.read();
            assert_eq!(moment.uptime_ms, uptime_ms);
            (uptime_ms, moment.unix_ns / NS_PER_MS)
        });
        times.collect()
    }

    #[test]
    fn uptime_in_a_capture_begins_with_its_first_packet() {
        assert_eq!(
            capture_times(&[1000.5, 1001.25]),
            [(0, 1_000_500), (750, 1_001_250)]
        );
    }

    #[test]
    fn packets_out_of_order_do_not_turn_the_clock_back() {
        assert_eq!(
            capture_times(&[10.0, 11.0, 10.5, 12.0]),
            [(0, 10_000), (1000, 11_000), (1000, 11_000), (2000, 12_000)]
        );
    }

    #[test]
    fn a_step_back_moves_the_wall_clock_and_not_the_uptime() {
        assert_eq!(
            capture_times(&[5000.0, 5010.0, 100.0, 101.0]),
            [
                (0, 5_000_000),
                (10_000, 5_010_000),
                (10_000, 100_000),
                (11_000, 101_000)
            ]
        );
    }

    #[test]
    fn live_frames_are_timed_by_their_age_and_never_back() {
        let mut clock = LiveClock {
            started_ns: 0,
            ..LiveClock::start()
        };
        (clock.monotonic_ns, clock.wall_ns) = (5_000_000_000, 90_000_000_000);
        assert_eq!(
            clock.uptime_of(&frame(CaptureTime::Wall(89_980_000_000))),
            4_980
        );
        assert_eq!(
            clock.uptime_of(&frame(CaptureTime::Wall(89_970_000_000))),
            4_980,
            "out of order"
        );
        assert_eq!(clock.uptime_of(&frame(CaptureTime::AtReceipt)), 5_000);
        assert_eq!(
            clock.uptime_of(&frame(CaptureTime::Wall(1))),
            5_000,
            "on another clock"
        );
        assert_eq!(
            clock.uptime_of(&frame(CaptureTime::Wall(95_000_000_000))),
            5_000,
            "from the future"
        );
        clock.monotonic_ns = 5_100_000_000;
        assert_eq!(
            clock.uptime_of(&frame(CaptureTime::Monotonic(5_060_000_000))),
            5_060
        );
    }

    /// In ns.
    const SECOND: u64 = 1_000_000_000;
    const HOUR: u64 = 3_600 * SECOND;
    /// Uptime at which SysUptime wraps, in ms.
    const WRAP_MS: u64 = 1 << 32;

    #[test]
    fn a_step_of_the_wall_clock_moves_headers_and_nothing_else() {
        for wall_ns in [99 * HOUR, 101 * HOUR] {
            let mut clock = LiveClock {
                started_ns: 0,
                ..LiveClock::start()
            };
            let before = clock.tell(10 * SECOND, 100 * HOUR);
            assert_eq!(
                clock.uptime_of(&frame(CaptureTime::Wall(100 * HOUR - SECOND / 10))),
                9_900
            );
            let after = clock.tell(11 * SECOND, wall_ns);
            assert_eq!(
                (before.uptime_ms, after.uptime_ms, after.unix_ns),
                (10_000, 11_000, wall_ns)
            );
            // A frame from before the step is on another clock: it came now, and not before those
            // that were seen.
            assert_eq!(
                clock.uptime_of(&frame(CaptureTime::Wall(100 * HOUR + SECOND / 2))),
                11_000
            );
            assert_eq!(
                clock.uptime_of(&frame(CaptureTime::Wall(wall_ns - SECOND / 10))),
                11_000
            );
        }
    }

    /// Frames of one flow, one each time that somebody looks and 5 ms have passed, for `lasts`.
    struct OneFlow {
        clock: LiveClock,
        due_ms: u64,
        ends_ms: u64,
        counters: xdprobe_capture::SourceCounters,
    }

    impl xdprobe_capture::Source for OneFlow {
        fn receive(
            &mut self,
            each: &mut impl FnMut(Frame<'_>),
        ) -> Result<xdprobe_capture::Received, xdprobe_capture::CaptureError> {
            use xdprobe_capture::Received;
            let now_ms = self.clock.read().uptime_ms;
            if now_ms >= self.ends_ms {
                return Ok(Received::End);
            }
            if now_ms < self.due_ms {
                return Ok(Received::Nothing);
            }
            self.due_ms = now_ms + 5;
            let octets = xdprobe_lab::frames::udp(
                "10.0.0.1:7".parse().unwrap(),
                "10.0.0.2:9".parse().unwrap(),
                &[],
            );
            let wire_octets = u32::try_from(octets.len()).unwrap();
            self.counters.received += 1;
            self.counters.received_octets += u64::from(wire_octets);
            each(Frame {
                octets: &octets,
                wire_octets,
                link: 101,
                captured: CaptureTime::AtReceipt,
            });
            Ok(Received::Frames)
        }

        fn wait(&mut self, _: std::time::Duration) {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }

        fn counters(&self) -> xdprobe_capture::SourceCounters {
            self.counters
        }
    }

    /// The worker's and the exporter's own threads, with a clock that is about to wrap.
    #[test]
    fn a_flow_that_is_active_over_the_wrap_of_sys_uptime_keeps_its_times_in_order() {
        use crate::exporting::{ExportClock, ExporterBoard, ExporterThread};
        use crate::hand_over::{Patience, channels};
        use crate::own_export::OwnDatagrams;
        use crate::published::Published;
        use crate::worker::{ObservationPoint, Worker};
        use std::sync::Arc;
        use xdprobe_export::{
            Collector, CollectorConfig, Distribution, Exporter, SocketOptions, UdpTransport,
        };
        use xdprobe_flow::{Backing, CacheConfig, FlowCache, Timeouts};
        use xdprobe_lab::collector::{Collector as Checking, Keep};

        let clock = LiveClock::start_at(WRAP_MS - 700);
        let checking = Checking::start(Keep::Records).unwrap();
        let way = UdpTransport::connect(checking.address(), &SocketOptions::default()).unwrap();
        let config = CollectorConfig {
            flush_delay_ms: 50,
            ..CollectorConfig::default()
        };
        let exporter = Exporter::new(
            Distribution::Copy,
            vec![Collector::new("checking", way, config).unwrap()],
        );
        let (mut outboxes, inbox) = channels(1, Patience::Drop);
        let board = Arc::new(ExporterBoard::new(&exporter));
        let (_news, resolutions) = crossbeam_channel::bounded(1);
        let exporter = ExporterThread::new(exporter, inbox, resolutions, clock, board);
        let timeouts = Timeouts {
            idle_ms: 1_400,
            active_ms: 1_500,
            linger_ms: 100,
            lifetime_spread_ms: 0,
        };
        let config = CacheConfig {
            flows_max: 100,
            timeouts,
            seed: 0,
            backing: Backing::OnDemand,
        };
        let ends_ms = WRAP_MS + 1_500;
        let source = OneFlow {
            clock,
            due_ms: 0,
            ends_ms,
            counters: xdprobe_capture::SourceCounters::default(),
        };
        let point = ObservationPoint {
            points: Arc::default(),
            own: OwnDatagrams::default(),
        };
        let (outbox, published) = (outboxes.remove(0), Arc::new(Published::default()));
        let cache = FlowCache::new(&config).unwrap();
        let worker = Worker::new(
            source,
            clock,
            cache,
            outbox,
            point,
            published,
            Arc::default(),
        );
        let worker = std::thread::Builder::new()
            .name("worker".to_owned())
            .spawn(move || worker.run())
            .unwrap();
        exporter.run(ExportClock::Live).unwrap();
        worker.join().unwrap().unwrap();
        let received = checking.stop().unwrap();
        received.assert_sound();
        let over_the_wrap = received
            .list
            .iter()
            .filter(|record| record.first_ms.get() > record.last_ms.get())
            .count();
        assert!(over_the_wrap == 1 && received.list.len() > 1, "{received}");
    }

    #[test]
    fn the_live_clock_pairs_wall_time_with_the_start_of_the_millisecond() {
        let mut clock = LiveClock::start();
        let moment = clock.read();
        assert!(moment.uptime_ms < 10_000);
        assert_eq!(
            clock.wall_ns - moment.unix_ns,
            clock.uptime_ns() % NS_PER_MS
        );
    }
}
