//! One worker: steps 1 to 5 of a packet's way, top to bottom, for one queue, interface or file.

use crate::clock::Clock;
use crate::hand_over::Outbox;
use crate::own_export::OwnDatagrams;
use crate::published::Published;
use crate::tables::PointTable;
use arc_swap::Cache;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use xdprobe_capture::{CaptureError, Frame, Received, Source, SourceCounters};
use xdprobe_export::{Moment, Tally};
use xdprobe_flow::{
    Arrival, BURST_MAX, CacheCounters, DecodeError, FlowCache, HAND_ROUND_MS, Link, PointRules,
    Volume, decode,
};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

const _: () = assert!(
    xdprobe_capture::BURST_MAX <= BURST_MAX,
    "a burst of frames fits one of packets"
);

/// A worker owns everything that it touches: its source, its cache, its counters.
pub struct Worker<S, C> {
    source: S,
    clock: C,
    cache: FlowCache,
    outbox: Outbox,
    /// Where its packets were seen.
    points: Cache<PointTable, Arc<PointRules>>,
    /// The probe's own datagrams, which may come past here.
    own: OwnDatagrams,
    /// The packets of the burst under way.
    arrivals: Vec<Arrival>,
    /// The moment of the last turn that metered anything.
    metered: Moment,
    undecoded: Undecoded,
    /// The probe's own datagrams.
    excluded: Volume,
    turns: Turns,
    /// Frames taken from the source as of the last turn, and when that was, in ms of uptime.
    taken: u64,
    turned_ms: u64,
    /// Time for which the link was down, in ms.
    down_ms: u64,
    /// Uptime at which the counters are to be published, and losses to be looked for, in ms.
    publish_due_ms: u64,
    look_due_ms: u64,
    published: Arc<Published<WorkerCounters>>,
    stop: Arc<AtomicBool>,
}

/// What a worker knows of the place that it receives from.
pub struct ObservationPoint {
    /// Where its packets were seen.
    pub points: PointTable,
    /// The probe's own datagrams, which may come past here.
    pub own: OwnDatagrams,
}

/// Frames without a packet in them, by [`DecodeError::index`].
pub type Undecoded = [u64; DecodeError::REASONS.len()];

/// What a worker did, as it publishes it: after a turn, so that no packet is between two counts.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct WorkerCounters {
    /// What its source saw and lost.
    pub source: SourceCounters,
    /// Frames that were not decoded.
    pub undecoded: Undecoded,
    /// The probe's own datagrams, which are not metered, with their layer-3 octets.
    pub excluded: Volume,
    /// What its cache did.
    pub cache: CacheCounters,
    /// Flows resident.
    pub resident_flows: u64,
    /// What is resident: what was observed and not let go; at the end, counted flow by flow.
    pub resident: Volume,
    /// Records that its cache let go.
    pub expired: Tally,
    /// Records that were dropped at hand-over.
    pub dropped: Tally,
    /// Records that wait to be handed over, and when the oldest of them came, in ms of uptime.
    pub kept: u64,
    /// See `kept`.
    pub kept_since_ms: u64,
    /// Its turns.
    pub turns: Turns,
    /// Time for which its link was down, in ms.
    pub down_ms: u64,
    /// A [`Phase`].
    pub phase: u64,
}

/// Turns, by what came of them.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Turns {
    /// Nothing was waiting.
    pub idle: u64,
    /// Frames were.
    pub busy: u64,
    /// Of these, those that found a whole burst, and left more behind perhaps.
    pub full: u64,
}

impl WorkerCounters {
    /// How far it has come.
    pub fn phase(&self) -> Phase {
        let phases = [Phase::Opening, Phase::Running, Phase::Down];
        phases
            .into_iter()
            .find(|&phase| phase as u64 == self.phase)
            .unwrap_or(Phase::Ended)
    }
}

/// How far a worker has come, as [`WorkerCounters::phase`] has it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Phase {
    /// It has not begun.
    Opening,
    /// It receives.
    Running,
    /// Its link is down; it goes on by itself when the link is back.
    Down,
    /// It has ended.
    Ended,
}

/// Sets that the clock hand passes in one turn: a few hundred ns, and some 150 us if all their 3
/// 250 flows are due. A live worker that owes more comes back for it before it sleeps.
const EXPIRE_SETS_MAX: usize = 250;
/// The longest that a worker sleeps: the hand then has a tenth of its round to go.
const WAIT_MAX: Duration = Duration::from_millis(50);
/// How often counters are published while frames keep coming, in ms: each time is some tens of ns.
/// A worker that has nothing to do publishes before it sleeps.
const PUBLISH_MS: u64 = 1;
/// How often the system is asked what was lost, in ms.
const LOOK_MS: u64 = 1_000;
/// What a ring or buffer holds when the probe is stopped is still read, but no longer than this, in
/// ms.
const STOPPING_MS_MAX: u64 = 200;

impl<S: Source, C: Clock> Worker<S, C> {
    /// A worker that meters what `source` gives into `cache` until `stop` is set, and publishes
    /// what it counts.
    pub fn new(
        source: S,
        clock: C,
        cache: FlowCache,
        outbox: Outbox,
        point: ObservationPoint,
        published: Arc<Published<WorkerCounters>>,
        stop: Arc<AtomicBool>,
    ) -> Self {
        Self {
            source,
            clock,
            cache,
            outbox,
            points: Cache::new(point.points),
            own: point.own,
            arrivals: Vec::with_capacity(BURST_MAX),
            metered: Moment::default(),
            undecoded: Undecoded::default(),
            excluded: Volume::default(),
            turns: Turns::default(),
            taken: 0,
            turned_ms: 0,
            down_ms: 0,
            publish_due_ms: 0,
            look_due_ms: LOOK_MS,
            published,
            stop,
        }
    }

    /// Works until the source ends or somebody stops it, then exports all that is resident.
    ///
    /// # Errors
    ///
    /// Why it ended, where that was no end of the file and no wish of the operator's. All is
    /// exported then too.
    pub fn run(mut self) -> Result<(), CaptureError> {
        let worked = self.work();
        self.drain();
        self.source.look_for_losses();
        self.published.publish(&WorkerCounters {
            resident: self.cache.resident(),
            ..self.counters(Phase::Ended)
        });
        worked
    }

    fn work(&mut self) -> Result<(), CaptureError> {
        let mut read_until_ms = u64::MAX;
        loop {
            let stopping = self.stop.load(Ordering::Relaxed);
            let turn = self.turn()?;
            self.tell(&turn);
            match turn.received {
                Received::End => return Ok(()),
                Received::Nothing if stopping => return Ok(()),
                Received::Nothing if turn.expired_all => self.source.wait(WAIT_MAX),
                Received::Nothing | Received::Frames => {}
            }
            if stopping {
                read_until_ms = read_until_ms.min(turn.now_ms + STOPPING_MS_MAX);
                if C::DRIVEN_BY_FRAMES || turn.now_ms >= read_until_ms {
                    return Ok(());
                }
            }
        }
    }

    /// One turn: receive a burst, decode it, observe its packets, expire a bounded share of the
    /// cache, hand over. Reads the clock once; allocates nothing, waits for nothing, logs nothing.
    fn turn(&mut self) -> Result<Turn, CaptureError> {
        let before = self.clock.read();
        self.own.begin_turn();
        let Self {
            source,
            clock,
            arrivals,
            undecoded,
            excluded,
            points,
            own,
            ..
        } = self;
        let points = points.load();
        let received = source.receive(&mut |frame: Frame<'_>| {
            let at_ms = clock.uptime_of(&frame);
            let link = Link::from_number(frame.link);
            match decode(frame.octets, frame.wire_octets, link) {
                Ok(packet) if own.hold(&packet.key) => {
                    *excluded += Volume {
                        packets: 1,
                        octets: u64::from(packet.octets),
                    };
                }
                Ok(mut packet) => {
                    packet.key.input = points.point_of(frame.octets, link, packet.key.source);
                    arrivals.push(Arrival { packet, at_ms });
                }
                Err(error) => undecoded[error.index()] += 1,
            }
        });
        if C::DRIVEN_BY_FRAMES && matches!(received, Ok(Received::Nothing)) {
            // A pipe that is slow does not change how its packets are cut into turns.
            return Ok(Turn {
                received: Received::Nothing,
                expired_all: true,
                now_ms: before.uptime_ms,
            });
        }
        let now = if C::DRIVEN_BY_FRAMES {
            self.let_time_pass()
        } else {
            before
        };
        self.metered = now;
        // What waited while the reader slept came before that which fell due meanwhile.
        let passed_ms = self
            .arrivals
            .last()
            .map_or(now.uptime_ms, |latest| latest.at_ms);
        self.outbox.begin_turn(now);
        self.cache.observe(&mut self.arrivals, &mut self.outbox);
        self.arrivals.clear();
        // In a file the clock waits for whoever expires; on a live interface the next burst does
        // not.
        let sets_max = if C::DRIVEN_BY_FRAMES {
            usize::MAX
        } else {
            EXPIRE_SETS_MAX
        };
        let expired_all = self.cache.expire(passed_ms, sets_max, &mut self.outbox);
        Ok(Turn {
            received: received?,
            expired_all,
            now_ms: now.uptime_ms,
        })
    }

    /// Publishes what this turn counted, or lets the next one do that as well.
    fn tell(&mut self, turn: &Turn) {
        let Turn {
            received, now_ms, ..
        } = *turn;
        match received {
            Received::Frames => self.turns.busy += 1,
            Received::Nothing | Received::End => self.turns.idle += 1,
        }
        let (taken_before, turned_before_ms) = (self.taken, self.turned_ms);
        (self.taken, self.turned_ms) = (self.source.counters().taken(), now_ms);
        self.turns.full +=
            u64::from(self.taken - taken_before == xdprobe_capture::BURST_MAX as u64);
        if self.source.is_down() {
            self.down_ms += now_ms - turned_before_ms;
        }
        if now_ms < self.publish_due_ms && received == Received::Frames {
            return;
        }
        if now_ms >= self.look_due_ms {
            self.look_due_ms = now_ms + LOOK_MS;
            self.source.look_for_losses();
        }
        let phase = if self.source.is_down() {
            Phase::Down
        } else {
            Phase::Running
        };
        self.publish_due_ms = now_ms + PUBLISH_MS;
        self.published.publish(&self.counters(phase));
    }

    /// What it has counted, between two turns.
    fn counters(&self, phase: Phase) -> WorkerCounters {
        let (cache, expired) = (*self.cache.counters(), self.outbox.pushed());
        let (kept, kept_since_ms) = self.outbox.kept();
        WorkerCounters {
            source: self.source.counters(),
            undecoded: self.undecoded,
            excluded: self.excluded,
            cache,
            resident_flows: self.cache.len() as u64,
            resident: cache.observed - expired.volume,
            expired,
            dropped: self.outbox.dropped(),
            kept,
            kept_since_ms,
            turns: self.turns,
            down_ms: self.down_ms,
            phase: phase as u64,
        }
    }

    /// In a capture file minutes may pass between two packets: what falls due in them is expired
    /// then, and not when the next packet comes. Returns the moment of the last packet.
    fn let_time_pass(&mut self) -> Moment {
        let (before, now) = (self.metered, self.clock.read());
        let until_ms = self
            .arrivals
            .first()
            .map_or(now.uptime_ms, |first| first.at_ms);
        let mut passed_ms = before.uptime_ms;
        while until_ms - passed_ms > HAND_ROUND_MS
            && let Some(due_ms) = self.cache.earliest_due_ms()
        {
            // The hand comes all the way round in each step.
            passed_ms = due_ms.max(passed_ms + HAND_ROUND_MS);
            if passed_ms >= until_ms {
                break;
            }
            self.outbox.begin_turn(before.at(passed_ms));
            self.cache.expire(passed_ms, usize::MAX, &mut self.outbox);
        }
        now
    }

    /// Exports every resident flow; first, what arrived of a burst that a slow pipe never completed
    /// joins its flows.
    fn drain(&mut self) {
        let now = self.clock.read();
        self.outbox.begin_turn(now);
        self.outbox.wait_from_now_on();
        self.cache.observe(&mut self.arrivals, &mut self.outbox);
        self.arrivals.clear();
        self.cache.drain(usize::MAX, &mut self.outbox);
        self.outbox.hand_over();
        debug_assert!(self.cache.is_empty());
    }
}

/// What a turn came to.
struct Turn {
    received: Received,
    /// The clock hand is where it should be.
    expired_all: bool,
    /// When it was.
    now_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hand_over::{Patience, channels};
    use std::net::{Ipv4Addr, SocketAddr};
    use xdprobe_capture::CaptureTime;
    use xdprobe_flow::{Backing, CacheConfig, Timeouts};
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
        const DRIVEN_BY_FRAMES: bool = false;

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
        let config = CacheConfig {
            flows_max: 2_000,
            timeouts,
            seed: 1,
            backing: Backing::OnDemand,
        };
        let cache = FlowCache::new(&config).unwrap();
        let (mut outboxes, inbox) = channels(1, Patience::Drop);
        let source = Memory {
            frames: traffic(),
            next: 0,
            counters: SourceCounters::default(),
        };
        let (published, stop) = (
            Arc::new(Published::default()),
            Arc::new(AtomicBool::new(false)),
        );
        let outbox = outboxes.pop().unwrap();
        let point = ObservationPoint {
            points: PointTable::default(),
            own: OwnDatagrams::default(),
        };
        let mut worker = Worker::new(source, Ticks(0), cache, outbox, point, published, stop);
        let mut records = 0;
        for _ in 0..2_000 {
            let allocated = allocation_counter::measure(|| {
                let turn = worker.turn().unwrap();
                worker.tell(&turn);
            });
            assert_eq!(allocated.count_total, 0);
            while let Ok(batch) = inbox.batches().try_recv() {
                records += batch.records.len() as u64;
                inbox.give_back(batch);
            }
        }
        let counters = worker.counters(Phase::Running);
        let expired = &counters.cache.expired;
        assert!(counters.cache.created > 10_000 && counters.undecoded.iter().sum::<u64>() > 1_000);
        for reason in [
            xdprobe_flow::EndReason::Active,
            xdprobe_flow::EndReason::LackOfResources,
        ] {
            assert!(expired[reason as usize] > 100, "{expired:?}");
        }
        assert_eq!(
            (records + counters.kept, counters.dropped),
            (counters.cache.expired_total(), Tally::default())
        );
    }
}
