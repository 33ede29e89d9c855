//! One worker: steps 1 to 5 of a packet's way, top to bottom, for one queue, interface or file.

use crate::clock::Clock;
use crate::counters::{Phase, Turns, WorkerCounters};
use crate::hand_over::Outbox;
use crate::mailbox::Mailbox;
use crate::published::Published;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::Duration;
use xdprobe_capture::{CaptureError, Frame, Received, Source};
use xdprobe_flow::{BURST_MAX, Link, Meter};

const _: () = assert!(
    xdprobe_capture::BURST_MAX <= BURST_MAX,
    "a burst of frames fits one of packets"
);

/// A worker owns everything that it touches: its source, its flow cache, its counters.
pub struct Worker<S, C> {
    source: S,
    clock: C,
    meter: Meter,
    outbox: Outbox,
    mailbox: Mailbox,
    board: Board,
}

/// The longest that a worker sleeps: the hand then has a tenth of its round to go.
const WAIT_MAX: Duration = Duration::from_millis(50);
/// The longest while a visit of its flows waits for the reader to return a batch.
const ERRAND_WAIT_MAX: Duration = Duration::from_millis(1);
/// Sets that are drained between two publications of the counters: at most 960 flows.
const DRAIN_SETS_MAX: usize = 64;
/// What libpcap's buffer holds when the probe is stopped is still read, but no longer than this, in
/// ms: packets go on arriving in it.
const STOPPING_MS_MAX: u64 = 200;

impl<S: Source, C: Clock> Worker<S, C> {
    /// A worker that meters what `source` gives, does what `mailbox` asks, and publishes what it
    /// counts on `published`.
    pub fn new(
        source: S,
        clock: C,
        meter: Meter,
        outbox: Outbox,
        mailbox: Mailbox,
        published: Arc<Published<WorkerCounters>>,
    ) -> Self {
        Self {
            source,
            clock,
            meter,
            outbox,
            mailbox,
            board: Board::new(published),
        }
    }

    /// Works until the source ends or the mailbox asks to stop, then exports every resident flow.
    ///
    /// # Errors
    ///
    /// Why the source ended, where that was not the end of a file. Every flow is exported then too.
    ///
    /// # Panics
    ///
    /// As its parts do. What it had counted is published first.
    pub fn run(mut self) -> Result<(), CaptureError> {
        catch_unwind(AssertUnwindSafe(|| self.work_to_the_end())).unwrap_or_else(|panic| {
            // What had expired is whole.
            self.outbox.hand_over();
            self.board.published.publish(&self.counters(Phase::Ended));
            resume_unwind(panic)
        })
    }

    fn work_to_the_end(&mut self) -> Result<(), CaptureError> {
        let worked = self.work();
        // What overflows libpcap's buffer while the cache drains was not to be read any more.
        self.source.look_for_losses();
        self.board.published.publish(&self.counters(Phase::Ending));
        self.drain();
        let counters = WorkerCounters {
            resident: self.meter.resident(),
            ..self.counters(Phase::Ended)
        };
        self.board.published.publish(&counters);
        worked
    }

    fn work(&mut self) -> Result<(), CaptureError> {
        let mut stopping_since_ms = None;
        loop {
            let stop_by_ms = self.mailbox.stop_by_ms();
            let turn = self.turn_and_publish()?;
            match turn.received {
                Received::End => return Ok(()),
                // A pipe may be silent for a moment.
                Received::Nothing if stop_by_ms.is_some() && C::REGIME.is_live() => return Ok(()),
                Received::Nothing if !turn.owes_more => self.source.wait(self.wait_max()),
                Received::Nothing | Received::Frames => {}
            }
            let Some(stop_by_ms) = stop_by_ms else {
                continue;
            };
            if !C::REGIME.is_live() || turn.now_ms >= stop_by_ms {
                self.board.left_unread = true;
                return Ok(());
            }
            let since_ms = *stopping_since_ms.get_or_insert(turn.now_ms);
            if !self.source.runs_dry() && turn.now_ms >= since_ms + STOPPING_MS_MAX {
                return Ok(());
            }
        }
    }

    fn wait_max(&self) -> Duration {
        if self.mailbox.has_errands() {
            ERRAND_WAIT_MAX
        } else {
            WAIT_MAX
        }
    }

    /// One turn, then its counters where they are due: what the worker's thread repeats.
    ///
    /// # Errors
    ///
    /// Why the source has no more frames, where that is not the end of a file. Earlier frames are
    /// metered.
    pub fn turn_and_publish(&mut self) -> Result<Turn, CaptureError> {
        let turn = self.turn()?;
        self.publish(&turn);
        Ok(turn)
    }

    /// One turn of the loop: receive a burst, decode and observe it, expire a bounded share of the
    /// flow cache, hand over, and work off what the mailbox asks. Reads the clock once; never
    /// allocates, blocks or logs.
    fn turn(&mut self) -> Result<Turn, CaptureError> {
        let before = self.clock.read();
        let Self {
            source,
            clock,
            meter,
            outbox,
            ..
        } = self;
        let received = source.receive(&mut |frame: Frame<'_>| {
            let at_ms = clock.uptime_of(&frame);
            let link = Link::from_number(frame.link);
            meter.meter(frame.octets, frame.wire_octets, link, at_ms);
        });
        if !C::REGIME.is_live() && matches!(received, Ok(Received::Nothing)) {
            // A slow pipe does not change how its packets are cut into turns.
            let owes_more = self.work_off_mailbox();
            return Ok(Turn {
                received: Received::Nothing,
                owes_more,
                now_ms: before.uptime_ms,
            });
        }
        let is_end = !matches!(received, Ok(Received::Frames));
        let expired_all = clock.observe_and_expire(before, is_end, meter, outbox);
        let now_ms = if C::REGIME.is_live() {
            before.uptime_ms
        } else {
            clock.read().uptime_ms
        };
        let owes_more = self.work_off_mailbox() || !expired_all;
        Ok(Turn {
            received: received?,
            owes_more,
            now_ms,
        })
    }

    #[inline]
    fn work_off_mailbox(&mut self) -> bool {
        let Self {
            source,
            meter,
            outbox,
            mailbox,
            ..
        } = self;
        mailbox.work_off(source, meter, outbox)
    }

    /// Publishes what this turn counted, or leaves that to the next one.
    fn publish(&mut self, turn: &Turn) {
        let taken = self.source.counters().taken();
        self.board.count_turn(turn, taken, self.source.is_down());
        if turn.now_ms < self.board.publish_due_ms && turn.received == Received::Frames {
            return;
        }
        if self.board.is_time_to_look(turn.now_ms) {
            self.source.look_for_losses();
        }
        let phase = if self.source.is_down() {
            Phase::Down
        } else {
            Phase::Running
        };
        self.board.publish_due_ms = turn.now_ms + PUBLISH_MS;
        self.board.published.publish(&self.counters(phase));
    }

    /// What the worker has counted, between two turns.
    fn counters(&self, phase: Phase) -> WorkerCounters {
        let (meter, expired) = (self.meter.counters(), self.outbox.pushed());
        let (kept, kept_since_ms) = self.outbox.kept();
        WorkerCounters {
            source: self.source.counters(),
            meter,
            resident: meter.cache.observed - expired.volume,
            expired,
            dropped: self.outbox.dropped(),
            kept,
            kept_since_ms,
            turns: self.board.turns,
            down_ms: self.board.down_ms,
            left_unread: u64::from(self.board.left_unread),
            phase: phase as u64,
        }
    }

    /// Exports every resident flow. Packets that wait for later ones, and those of a burst that a
    /// slow pipe never completed, join their flows first.
    fn drain(&mut self) {
        let now = self.clock.read();
        self.outbox.wait_from_now_on();
        self.clock
            .observe_and_expire(now, true, &mut self.meter, &mut self.outbox);
        self.outbox.begin_turn(self.clock.read());
        // An exporter that waits for its pace makes this last: what is done is published meanwhile.
        while !self.meter.drain(DRAIN_SETS_MAX, &mut self.outbox) {
            self.board.published.publish(&self.counters(Phase::Ending));
        }
        self.outbox.hand_over();
        debug_assert_eq!(self.meter.counters().resident_flows, 0);
    }
}

/// What a turn came to.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    /// What the source had.
    pub received: Received,
    /// The clock hand is behind, or an errand is not done: the next turn follows at once.
    pub owes_more: bool,
    /// When it was, in ms of uptime.
    pub now_ms: u64,
}

/// How often counters are published while frames keep coming, in ms: each time takes some tens of
/// ns. A worker that has nothing to do publishes before it sleeps.
const PUBLISH_MS: u64 = 1;
/// How often the system is asked what was lost, in ms.
const LOOK_MS: u64 = 1_000;

/// Where a worker publishes what it counts, and when it does so next.
struct Board {
    published: Arc<Published<WorkerCounters>>,
    publish_due_ms: u64,
    look_due_ms: u64,
    turns: Turns,
    /// Frames taken from the source as of the last turn, and when that was, in ms of uptime.
    taken: u64,
    turned_ms: u64,
    /// Time for which the link was down, in ms.
    down_ms: u64,
    /// It ends before its source was read to its end.
    left_unread: bool,
}

impl Board {
    fn new(published: Arc<Published<WorkerCounters>>) -> Self {
        Self {
            published,
            publish_due_ms: 0,
            look_due_ms: LOOK_MS,
            turns: Turns::default(),
            taken: 0,
            turned_ms: 0,
            down_ms: 0,
            left_unread: false,
        }
    }

    /// Counts a turn, after which `taken` frames had been taken from the source.
    #[inline]
    fn count_turn(&mut self, turn: &Turn, taken: u64, is_down: bool) {
        match turn.received {
            Received::Frames => self.turns.busy += 1,
            Received::Nothing | Received::End => self.turns.idle += 1,
        }
        self.turns.full += u64::from(taken - self.taken == xdprobe_capture::BURST_MAX as u64);
        if is_down {
            self.down_ms += turn.now_ms - self.turned_ms;
        }
        (self.taken, self.turned_ms) = (taken, turn.now_ms);
    }

    fn is_time_to_look(&mut self, now_ms: u64) -> bool {
        let is_time = now_ms >= self.look_due_ms;
        if is_time {
            self.look_due_ms = now_ms + LOOK_MS;
        }
        is_time
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::LiveClock;
    use crate::exporting::ExporterThread;
    use crate::hand_over::{Patience, channels};
    use crate::mailbox::mailbox;
    use crate::regime::Regime;
    use std::net::{Ipv4Addr, SocketAddr};
    use xdprobe_capture::{CaptureTime, SourceCounters};
    use xdprobe_export::{
        DatagramConfig, DatagramOutlet, Distribution, Exporter, FixedFormat, Moment, SocketOptions,
        Tally, UdpTransport,
    };
    use xdprobe_flow::{Backing, CacheConfig, EndReason, MeterConfig, Timeouts};
    use xdprobe_lab::frames::{Ethernet, fragments, udp};

    /// Frames in memory, a burst a turn, over and over.
    struct Memory {
        frames: Vec<Vec<u8>>,
        next: usize,
        counters: SourceCounters,
    }

    impl Source for Memory {
        fn receive(&mut self, each: &mut impl FnMut(Frame<'_>)) -> Result<Received, CaptureError> {
            for _ in 0..xdprobe_capture::BURST_MAX {
                let octets = &self.frames[self.next];
                self.next = (self.next + 1) % self.frames.len();
                self.counters.received += 1;
                let wire_octets = u32::try_from(octets.len()).unwrap_or(0);
                each(Frame {
                    octets,
                    wire_octets,
                    link: 1,
                    captured: CaptureTime::AtReceipt,
                });
            }
            Ok(Received::Frames)
        }

        fn wait(&mut self, _timeout: Duration) {}

        fn counters(&self) -> SourceCounters {
            self.counters
        }
    }

    /// A clock that goes on by a millisecond a turn.
    struct Ticks(u64);

    impl Clock for Ticks {
        const REGIME: Regime = Regime::Live;

        fn read(&mut self) -> Moment {
            self.0 += 1;
            Moment {
                uptime_ms: self.0,
                unix_ns: self.0 * 1_000_000,
            }
        }

        fn uptime_of(&mut self, _frame: &Frame<'_>) -> u64 {
            self.0
        }
    }

    /// Known flows, new flows, flows that are cut and flows that make room, fragments, and frames
    /// that are not IPv4.
    fn traffic() -> Vec<Vec<u8>> {
        let ethernet = Ethernet::new([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let to = SocketAddr::from(([10, 0, 0, 2], 9));
        let mut frames = Vec::new();
        for flow in 0..5_000_u32 {
            let from = SocketAddr::from((Ipv4Addr::from_bits(0x0a01_0000 + flow), 1_024));
            let packet = udp(from, to, &[0; 100]);
            frames.push(ethernet.carry(&packet));
            if flow % 50 == 0 {
                frames.extend(
                    fragments(&packet, 64)
                        .iter()
                        .map(|piece| ethernet.carry(piece)),
                );
                frames.push(ethernet.carry_as(0x0806, &[0; 28]));
            }
        }
        frames
    }

    #[test]
    fn a_turn_allocates_nothing() {
        let timeouts = Timeouts {
            idle_ms: 200,
            active_ms: 400,
            ..Timeouts::default()
        };
        let meter = meter(2_000, timeouts);
        let (mut outboxes, inbox) = channels(1, Patience::Drop);
        let source = Memory {
            frames: traffic(),
            next: 0,
            counters: SourceCounters::default(),
        };
        let (outbox, (_postbox, mailbox)) = (outboxes.pop().unwrap(), mailbox());
        let mut worker = Worker::new(source, Ticks(0), meter, outbox, mailbox, Arc::default());
        let mut records = 0;
        for _ in 0..2_000 {
            let allocated = allocation_counter::measure(|| {
                worker.turn_and_publish().unwrap();
            });
            assert_eq!(allocated.count_total, 0);
            while let Ok(batch) = inbox.batches().try_recv() {
                records += batch.records.len() as u64;
                inbox.give_back(batch);
            }
        }
        let counters = worker.counters(Phase::Running);
        let expired = &counters.meter.cache.expired;
        assert!(
            counters.meter.cache.created > 10_000
                && counters.meter.undecoded.iter().sum::<u64>() > 1_000
        );
        for reason in [EndReason::Active, EndReason::LackOfResources] {
            assert!(expired[reason as usize] > 100, "{expired:?}");
        }
        assert_eq!(
            (records + counters.kept, counters.dropped),
            (counters.meter.cache.expired_total(), Tally::default())
        );
    }

    /// Frames of one flow, one every 5 ms, until `ends_ms`.
    struct OneFlow {
        clock: LiveClock,
        due_ms: u64,
        ends_ms: u64,
        counters: SourceCounters,
    }

    impl Source for OneFlow {
        fn receive(&mut self, each: &mut impl FnMut(Frame<'_>)) -> Result<Received, CaptureError> {
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

        fn counters(&self) -> SourceCounters {
            self.counters
        }
    }

    /// The worker's and the exporter's own threads, with a clock that is about to wrap.
    #[test]
    fn a_flow_that_is_active_over_the_wrap_of_sys_uptime_keeps_its_times_in_order() {
        use xdprobe_lab::test_collector::{Keep, TestCollector};

        /// Uptime at which SysUptime wraps, in ms.
        const WRAP_MS: u64 = 1 << 32;
        let clock = LiveClock::start_at(WRAP_MS - 700);
        let checking = TestCollector::start(Keep::Records).unwrap();
        let way = UdpTransport::connect(checking.address(), &SocketOptions::default()).unwrap();
        let config = DatagramConfig {
            flush_delay_ms: 50,
            ..DatagramConfig::default()
        };
        let mut exporter = Exporter::new(Distribution::Copy);
        exporter.add(
            "checking",
            Box::new(DatagramOutlet::new(way, FixedFormat::default(), config).unwrap()),
        );
        let (mut outboxes, inbox) = channels(1, Patience::Drop);
        let (_requests, arrivals) = crossbeam_channel::bounded(1);
        let (start, started) = crossbeam_channel::bounded(1);
        start.try_send(()).unwrap();
        let exporter = ExporterThread::new(exporter, inbox, arrivals, started, clock);
        let timeouts = Timeouts {
            idle_ms: 1_400,
            active_ms: 1_500,
            linger_ms: 100,
            lifetime_spread_ms: 0,
        };
        let source = OneFlow {
            clock,
            due_ms: 0,
            ends_ms: WRAP_MS + 1_500,
            counters: SourceCounters::default(),
        };
        let (outbox, (_postbox, mailbox)) = (outboxes.remove(0), mailbox());
        let meter = meter(100, timeouts);
        let worker = Worker::new(source, clock, meter, outbox, mailbox, Arc::default());
        let worker = std::thread::Builder::new()
            .name("worker".to_owned())
            .spawn(move || worker.run())
            .unwrap();
        exporter.run(Regime::Live).unwrap();
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

    fn meter(flows_max: usize, timeouts: Timeouts) -> Meter {
        let cache = CacheConfig {
            flows_max,
            timeouts,
            counter_max: u64::from(u32::MAX),
            seed: 1,
            backing: Backing::OnDemand,
        };
        let (points, own) = Default::default();
        Meter::new(&MeterConfig { cache, points, own }).unwrap()
    }
}
