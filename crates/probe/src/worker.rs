//! One worker: steps 1 to 5 of a packet's way, top to bottom, for one queue, interface or file.

use crate::clock::Clock;
use crate::hand_over::Outbox;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use xdprobe_capture::{CaptureError, Frame, Received, Source, SourceCounters};
use xdprobe_export::{Moment, Tally};
use xdprobe_flow::{Arrival, BURST_MAX, CacheCounters, DecodeError, FlowCache, HAND_ROUND_MS, Link, Volume, decode};

const _: () = assert!(xdprobe_capture::BURST_MAX <= BURST_MAX, "a burst of frames fits one of packets");

/// A worker owns everything that it touches: its source, its cache, its counters.
pub struct Worker<S, C> {
    source: S,
    clock: C,
    cache: FlowCache,
    outbox: Outbox,
    /// ifIndex in the records.
    input: u16,
    /// The packets of the burst under way.
    arrivals: Vec<Arrival>,
    /// The moment of the last turn that metered anything.
    metered: Moment,
    undecoded: Undecoded,
    stop: Arc<AtomicBool>,
}

/// Frames without a packet in them, by [`DecodeError::index`].
pub type Undecoded = [u64; DecodeError::REASONS.len()];

/// What a worker did, told when it ends.
#[derive(Debug, Default)]
pub struct WorkerReport {
    /// What its source saw and lost.
    pub source: SourceCounters,
    /// Frames that were not decoded.
    pub undecoded: Undecoded,
    /// What its cache did.
    pub cache: CacheCounters,
    /// What is resident, counted flow by flow, and how many flows that is.
    pub resident: Volume,
    /// Flows resident.
    pub resident_flows: usize,
    /// Records that were dropped at hand-over.
    pub dropped: Tally,
    /// Why it ended, where that was no end of the file and no wish of the operator's.
    pub error: Option<CaptureError>,
}

/// Sets that the clock hand passes in one turn: 15 000 places, some 50 us. A live worker that owes more comes back for it
/// before it sleeps.
const EXPIRE_SETS_MAX: usize = 1_000;
/// The longest that a worker sleeps: the hand then has a tenth of its round to go.
const WAIT_MAX: Duration = Duration::from_millis(50);
/// What a ring or buffer holds when the probe is stopped is still read, but no longer than this, in ms.
const STOPPING_MS_MAX: u64 = 200;

impl<S: Source, C: Clock> Worker<S, C> {
    /// A worker that meters what `source` gives into `cache` until `stop` is set.
    pub fn new(source: S, clock: C, cache: FlowCache, outbox: Outbox, input: u16, stop: Arc<AtomicBool>) -> Self {
        let arrivals = Vec::with_capacity(BURST_MAX);
        let (metered, undecoded) = (Moment::default(), Undecoded::default());
        Self { source, clock, cache, outbox, input, arrivals, metered, undecoded, stop }
    }

    /// Works until the source ends or somebody stops it, then exports all that is resident.
    pub fn run(mut self) -> WorkerReport {
        let error = self.work().err();
        self.drain();
        WorkerReport {
            source: self.source.counters(),
            undecoded: self.undecoded,
            cache: *self.cache.counters(),
            resident: self.cache.resident(),
            resident_flows: self.cache.len(),
            dropped: self.outbox.dropped(),
            error,
        }
    }

    fn work(&mut self) -> Result<(), CaptureError> {
        let mut read_until_ms = u64::MAX;
        loop {
            let stopping = self.stop.load(Ordering::Relaxed);
            let turn = self.turn()?;
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

    /// One turn: receive a burst, decode it, observe its packets, expire a bounded share of the cache, hand over. Reads the
    /// clock once; allocates nothing, waits for nothing, logs nothing.
    fn turn(&mut self) -> Result<Turn, CaptureError> {
        let before = self.clock.read();
        let Self { source, clock, arrivals, undecoded, input, .. } = self;
        let received = source.receive(&mut |frame: Frame<'_>| {
            let at_ms = clock.uptime_of(&frame);
            match decode(frame.octets, frame.wire_octets, Link::from_number(frame.link)) {
                Ok(mut packet) => {
                    packet.key.input = *input;
                    arrivals.push(Arrival { packet, at_ms });
                }
                Err(error) => undecoded[error.index()] += 1,
            }
        });
        if C::DRIVEN_BY_FRAMES && matches!(received, Ok(Received::Nothing)) {
            // A pipe that is slow does not change how its packets are cut into turns.
            return Ok(Turn { received: Received::Nothing, expired_all: true, now_ms: before.uptime_ms });
        }
        let now = if C::DRIVEN_BY_FRAMES { self.let_time_pass() } else { before };
        self.metered = now;
        self.outbox.begin_turn(now);
        self.cache.observe(&mut self.arrivals, &mut self.outbox);
        self.arrivals.clear();
        // In a file the clock waits for whoever expires; on a live interface the next burst does not.
        let sets_max = if C::DRIVEN_BY_FRAMES { usize::MAX } else { EXPIRE_SETS_MAX };
        let expired_all = self.cache.expire(now.uptime_ms, sets_max, &mut self.outbox);
        self.outbox.end_turn();
        Ok(Turn { received: received?, expired_all, now_ms: now.uptime_ms })
    }

    /// In a capture file minutes may pass between two packets: what falls due in them is expired then, and not when the next
    /// packet comes. Returns the moment of the last packet.
    fn let_time_pass(&mut self) -> Moment {
        let (before, now) = (self.metered, self.clock.read());
        let until_ms = self.arrivals.first().map_or(now.uptime_ms, |first| first.at_ms);
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
            self.outbox.end_turn();
        }
        now
    }

    /// Exports every resident flow; first, what arrived of a burst that a slow pipe never completed joins its flows.
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
