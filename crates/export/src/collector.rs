//! One collector: its records become datagrams in a sequence of its own, and leave at its pace.

use crate::details::DetailedRecord;
use crate::exporter::{Moment, Tally};
use crate::pace::{Buckets, Cost, Pace};
use crate::queue::{Datagram, Queue};
use crate::v5;
use crate::version::{Heading, Version};
use crate::wire::DATAGRAM_OCTETS_MAX;
use std::io::{self, IoSlice};
use std::str::FromStr;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A way to a collector.
pub trait Transport: Send {
    /// Sends some of `datagrams`, from the first on, and returns how many: at least one of them.
    ///
    /// # Errors
    ///
    /// Nothing was sent. [`io::ErrorKind::WouldBlock`] says that the first has to wait,
    /// [`io::ErrorKind::ConnectionRefused`] that an *earlier* datagram was refused; anything else,
    /// that the first cannot be sent.
    fn send(&mut self, datagrams: &[IoSlice<'_>]) -> io::Result<usize>;

    /// What came back about datagrams that were sent earlier, each time once.
    fn take_error(&mut self) -> Option<io::Error> {
        None
    }

    /// The longest datagram that the way carries in one piece at present, in octets of payload.
    fn payload_octets_max(&self) -> usize;

    /// Completes what was sent, where that takes anything: no datagram follows.
    ///
    /// # Errors
    ///
    /// What kept it incomplete.
    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Engine type and id: with the exporter's address they name one sequence space.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Engine {
    /// Engine type.
    pub r#type: u8,
    /// Engine id.
    pub id: u8,
}

impl FromStr for Engine {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once(':').and_then(|(r#type, id)| {
            Some(Self {
                r#type: r#type.parse().ok()?,
                id: id.parse().ok()?,
            })
        });
        parsed.ok_or_else(|| {
            format!("'{text}' is not an engine: wanted TYPE:ID, each 0 to 255, as in 0:1")
        })
    }
}

/// How collectors are exported to, each of them.
#[derive(Clone, Copy, Debug)]
pub struct CollectorConfig {
    /// Version of the datagrams.
    pub version: Version,
    /// Engine type and id in every header that has them.
    pub engine: Engine,
    /// What every header that can tells of sampling.
    pub sampling: v5::Sampling,
    /// The longest that a record waits for its datagram to fill, in ms.
    pub flush_delay_ms: u64,
    /// How fast it may be sent to.
    pub pace: Pace,
    /// Records that wait for the pace before more are refused.
    pub paced_records_max: usize,
}

impl Default for CollectorConfig {
    /// Version 5, engine 0:0, as fast as it goes.
    fn default() -> Self {
        Self {
            version: Version::V5,
            engine: Engine::default(),
            sampling: v5::Sampling::default(),
            flush_delay_ms: 1_000,
            pace: Pace::default(),
            paced_records_max: 262_144,
        }
    }
}

/// Why a way to a collector is of no use.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "its path carries {found} octets of payload in one piece, and a version {version} datagram of one record takes {wanted}"
)]
pub struct TooNarrow {
    /// Octets of payload that the path carries.
    found: usize,
    /// Octets of a datagram with one record.
    wanted: usize,
    version: u16,
}

/// Why a datagram did not leave.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SendErrorKind {
    /// No route to the network or host.
    Unreachable,
    /// The kernel has no buffer for it.
    NoBuffer,
    /// Longer than the path carries.
    TooLong,
    /// A local rule forbids it.
    Forbidden,
    /// Refused again and again.
    Refused,
    /// Anything else.
    Other,
}

impl SendErrorKind {
    /// Every kind with the name that reports and metrics use.
    pub const NAMES: [&'static str; 6] = [
        "unreachable",
        "no_buffer",
        "too_long",
        "forbidden",
        "refused",
        "other",
    ];

    /// Whether it is the way to the collector that is to blame, so that another collector may be
    /// better.
    fn is_the_ways(self) -> bool {
        !matches!(self, Self::TooLong | Self::NoBuffer)
    }

    fn of(error: &io::Error) -> Self {
        // Linux: EMSGSIZE 90 and ENOBUFS 105 have no stable io::ErrorKind.
        match (error.raw_os_error(), error.kind()) {
            (Some(90), _) => Self::TooLong,
            (Some(105), _) | (_, io::ErrorKind::WouldBlock | io::ErrorKind::OutOfMemory) => {
                Self::NoBuffer
            }
            (
                _,
                io::ErrorKind::NetworkUnreachable
                | io::ErrorKind::HostUnreachable
                | io::ErrorKind::NetworkDown,
            ) => Self::Unreachable,
            (_, io::ErrorKind::PermissionDenied) => Self::Forbidden,
            (_, io::ErrorKind::ConnectionRefused) => Self::Refused,
            _ => Self::Other,
        }
    }
}

/// Why a collector did not get records that were meant for it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LossReason {
    /// Its queue was full, since its pace was slower than the flows: refused before they were in a
    /// datagram.
    Pacing,
    /// Its queue was full, since its socket took nothing.
    Socket,
    /// The system did not send their datagram; `errors` says why.
    Send,
    /// They were sent, and its host or a router answered that they could not be delivered.
    Refused,
}

impl LossReason {
    /// Every reason with the name that reports and metrics use.
    pub const NAMES: [&'static str; 4] = ["pacing", "socket", "send", "refused"];
}

/// What one collector was sent, and what it was not. Nothing here ever falls, but for what waits
/// and how it is.
#[derive(
    Clone, Copy, Debug, Default, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq,
)]
#[repr(C)]
pub struct CollectorCounters {
    /// What the way to it took; what was refused later is among it.
    pub sent: Tally,
    /// Octets of UDP payload in that.
    pub octets: u64,
    /// What it was sent and did not refuse by the time that answers were looked for.
    pub exported: Tally,
    /// What was meant for it and did not get there, by [`LossReason`].
    pub lost: [Tally; LossReason::NAMES.len()],
    /// Answers that earlier datagrams could not be delivered (ICMP): nobody listens, or the host
    /// cannot be reached.
    pub refusals: u64,
    /// Datagrams that did not leave, by [`SendErrorKind`].
    pub errors: [u64; SendErrorKind::NAMES.len()],
    /// Records that waited for the pace.
    pub delayed_records: u64,
    /// How long their datagrams waited, in all, in ms.
    pub delayed_ms: u64,
    /// Times that its name was resolved again.
    pub resolves: u64,
    /// Times that it could not be.
    pub resolve_failures: u64,
    /// Records that wait: for their datagram to fill, for the pace, for the socket.
    pub waiting: u64,
    /// A [`CollectorState`].
    pub state: u64,
}

impl CollectorCounters {
    /// How it is.
    #[must_use]
    pub fn state(&self) -> CollectorState {
        let states = [CollectorState::Up, CollectorState::Refusing];
        states
            .into_iter()
            .find(|&state| state as u64 == self.state)
            .unwrap_or(CollectorState::Unresolved)
    }

    /// What it did not get, for whatever reason.
    #[must_use]
    pub fn lost_total(&self) -> Tally {
        self.lost
            .iter()
            .fold(Tally::default(), |sum, lost| sum + *lost)
    }
}

/// How a collector is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CollectorState {
    /// Nothing is known against it.
    Up,
    /// What it was sent last came back, or could not be sent.
    Refusing,
    /// Its name has no address at present; the one that it had stays in force.
    Unresolved,
}

impl CollectorState {
    /// Every state with the name that reports and metrics use.
    pub const NAMES: [&'static str; 3] = ["up", "refusing", "unresolved"];

    /// The name that reports and metrics use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

/// One collector: its name, the way to it, what waits for it, and its counters.
pub struct Collector {
    name: String,
    transport: Box<dyn Transport>,
    config: CollectorConfig,
    /// Records of a datagram that goes in one piece.
    records_max: usize,
    measured_ms: u64,
    /// Records meant for it before the datagram under construction, modulo 2^32.
    sequence: u32,
    queue: Queue,
    buckets: Option<Buckets>,
    /// The present, in ms of the clock that sending goes by.
    now_ms: u64,
    /// Since when the socket takes nothing.
    blocked_since_ms: Option<u64>,
    /// What left since an answer was last looked for, and when the last of it did.
    unanswered: Tally,
    sent_ms: u64,
    refusing: bool,
    unresolved: bool,
    counters: CollectorCounters,
}

/// What becomes of datagrams that wait for a collector that refuses.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum OnRefusal {
    /// They are sent all the same: it may be back.
    GoOn,
    /// They stay: somebody else gets them.
    Stop,
}

/// Datagrams of a run: as many as one call takes (65 507 octets of UDP payload), and worth waiting
/// for under load.
const RUN_MAX: usize = 44;
/// Datagrams that wait while a socket takes none, where no pace asks for more: 1.5 MB.
const QUEUE_DATAGRAMS: usize = 1_024;
/// How long a socket may take nothing before what waits for it is lost.
const BLOCKED_MS_MAX: u64 = 5_000;
/// What left last, with nothing to follow it, is looked after for an answer once this long ago.
const ANSWER_MS: u64 = 100;
/// How often the path's MTU is read again; a datagram that is too long has it read at once.
const MEASURE_MS: u64 = 10_000;
/// A pending refusal may be reported by the next send in place of sending; two can be pending at
/// most times.
const SEND_ATTEMPTS: usize = 4;

impl Collector {
    /// A collector called `name` that `transport` leads to.
    ///
    /// # Errors
    ///
    /// [`TooNarrow`] where not even one record fits a datagram.
    pub fn new(
        name: impl Into<String>,
        transport: impl Transport + 'static,
        config: CollectorConfig,
    ) -> Result<Self, TooNarrow> {
        let transport: Box<dyn Transport> = Box::new(transport);
        let version = config.version;
        let (found, wanted) = (transport.payload_octets_max(), version.datagram_octets(1));
        let records_max = version.records_in(found);
        if records_max == 0 {
            return Err(TooNarrow {
                found,
                wanted,
                version: version.number(),
            });
        }
        let paced = config.paced_records_max / records_max + 1;
        let datagrams = if config.pace.is_limited() {
            paced
        } else {
            QUEUE_DATAGRAMS
        };
        let largest = Cost {
            records: version.records_max() as u64,
            octets: version.datagram_octets(version.records_max()) as u64,
        };
        Ok(Self {
            name: name.into(),
            transport,
            config,
            records_max,
            measured_ms: 0,
            sequence: 0,
            queue: Queue::new(datagrams),
            buckets: config
                .pace
                .is_limited()
                .then(|| Buckets::new(config.pace, largest)),
            now_ms: 0,
            blocked_since_ms: None,
            unanswered: Tally::default(),
            sent_ms: 0,
            refusing: false,
            unresolved: false,
            counters: CollectorCounters::default(),
        })
    }

    /// What it is called.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it was sent, what waits for it, and how it is.
    #[must_use]
    pub fn counters(&self) -> CollectorCounters {
        let filling = self
            .queue
            .under_construction()
            .map_or(0, |open| open.count as u64);
        CollectorCounters {
            waiting: self.queue.records() + filling,
            state: self.state() as u64,
            ..self.counters
        }
    }

    fn state(&self) -> CollectorState {
        match (self.refusing, self.unresolved) {
            (true, _) => CollectorState::Refusing,
            (false, true) => CollectorState::Unresolved,
            (false, false) => CollectorState::Up,
        }
    }

    /// Records of a datagram that goes to it in one piece at present.
    #[must_use]
    pub fn records_max(&self) -> usize {
        self.records_max
    }

    /// From here on leads to it by another way, in the same sequence.
    pub fn replace_transport(&mut self, transport: Box<dyn Transport>) {
        self.transport = transport;
        self.counters.exported += std::mem::take(&mut self.unanswered);
        self.refusing = false;
        self.measure();
    }

    /// Notes that its name was resolved again, or could not be.
    pub fn note_resolved(&mut self, resolved: bool) {
        self.counters.resolves += u64::from(resolved);
        self.counters.resolve_failures += u64::from(!resolved);
        self.unresolved = !resolved;
    }

    pub(crate) fn begin_turn(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
    }

    pub(crate) fn is_refusing(&self) -> bool {
        self.refusing
    }

    /// Records that can be pushed before any is refused; a few of them may be fewer than that.
    pub(crate) fn room(&self) -> usize {
        self.queue.room().saturating_sub(1) * self.records_max
    }

    /// Adds records to the datagram under construction, and lets it wait once it is full. `now` is
    /// no earlier than any uptime in them.
    pub(crate) fn push(&mut self, mut records: &[DetailedRecord], now: Moment) {
        while !records.is_empty() {
            let Some(open) = self.queue.open() else {
                return self.refuse(records);
            };
            let room = self
                .records_max
                .saturating_sub(open.count)
                .clamp(1, records.len());
            let (these, rest) = records.split_at(room);
            open.append(self.config.version, these, now.uptime_ms);
            records = rest;
            if open.count >= self.records_max {
                self.complete(now);
            }
        }
    }

    /// The uptime at which the oldest record came that has not left, in ms; none while all have.
    pub(crate) fn oldest_ms(&self) -> Option<u64> {
        self.queue
            .get(0)
            .or_else(|| self.queue.under_construction())
            .map(|datagram| datagram.oldest_ms)
    }

    /// The uptime at which the datagram under construction has to be complete, in ms; none while it
    /// is empty.
    pub(crate) fn flush_due_ms(&self) -> Option<u64> {
        self.queue
            .under_construction()
            .map(|open| open.oldest_ms + self.config.flush_delay_ms)
    }

    /// Completes the datagram under construction, if it has a record.
    pub(crate) fn complete(&mut self, now: Moment) {
        if self.queue.under_construction().is_none() {
            return;
        }
        let Some(open) = self.queue.open() else {
            return;
        };
        let moment = now.at(now.uptime_ms.max(open.latest_ms));
        let CollectorConfig {
            version,
            engine,
            sampling,
            ..
        } = self.config;
        let (count, sequence) = (open.count, self.sequence);
        open.write_header(
            version,
            &Heading {
                count,
                moment,
                sequence,
                engine,
                sampling,
            },
        );
        open.complete_ms = self.now_ms;
        self.sequence = self
            .sequence
            .wrapping_add(u32::try_from(count).unwrap_or(0));
        self.queue.complete();
    }

    /// Sends what may leave: where nothing but a run's length holds datagrams up, only runs, unless
    /// `all` are to leave. Returns when to come back, in ms, if any has to wait for the pace or for
    /// the socket.
    pub(crate) fn send(&mut self, all: bool, on_refusal: OnRefusal) -> Option<u64> {
        if let Some(buckets) = &mut self.buckets {
            buckets.fill(self.now_ms);
        }
        if self.now_ms >= self.measured_ms.saturating_add(MEASURE_MS) {
            self.measure();
        }
        let least = if all || self.buckets.is_some() {
            1
        } else {
            RUN_MAX
        };
        while self.queue.waiting() >= least {
            self.look_for_answers();
            if self.refusing && on_refusal == OnRefusal::Stop {
                return None;
            }
            let Some(oldest) = self.queue.get(0) else {
                break;
            };
            if let Some(buckets) = self
                .buckets
                .as_ref()
                .filter(|buckets| !buckets.hold(cost(oldest)))
            {
                return Some(buckets.due_ms(cost(oldest)));
            }
            if oldest.count > self.records_max {
                self.send_in_pieces();
                continue;
            }
            match self.send_run() {
                Ok(sent) => self.count_sent(sent),
                Err(error)
                    if error.kind() == io::ErrorKind::WouldBlock && !self.is_blocked_too_long() =>
                {
                    return Some(self.now_ms + 1);
                }
                Err(error)
                    if SendErrorKind::of(&error) == SendErrorKind::TooLong && self.narrowed() => {}
                Err(error)
                    if on_refusal == OnRefusal::Stop && SendErrorKind::of(&error).is_the_ways() =>
                {
                    self.refusing = true;
                    return None;
                }
                Err(error) => self.lose_oldest(&error),
            }
        }
        if self.now_ms >= self.sent_ms.saturating_add(ANSWER_MS) {
            self.look_for_answers();
        }
        None
    }

    /// Looks for what came back about datagrams that were sent earlier.
    pub(crate) fn look_for_answers(&mut self) {
        if let Some(error) = self.transport.take_error() {
            if SendErrorKind::of(&error) == SendErrorKind::TooLong {
                self.measure();
            }
            self.count_refusal();
        } else if self.unanswered.records > 0 {
            self.counters.exported += std::mem::take(&mut self.unanswered);
            self.refusing = false;
        }
    }

    /// Takes what waits, with what stands under construction, away from a collector that refuses
    /// and gives it to `other`.
    pub(crate) fn move_to(&mut self, other: &mut Self, now: Moment) {
        self.complete(now);
        other.complete(now);
        if let Some(oldest) = self.queue.get(0) {
            // To this collector they were never sent: its sequence goes on in front of them.
            self.sequence = oldest.sequence;
        }
        while let Some(datagram) = self.queue.get(0) {
            match other.queue.open() {
                Some(open) => {
                    open.copy_from(datagram, self.config.version, other.sequence);
                    other.queue.complete();
                }
                None => other.counters.lost[LossReason::Pacing as usize] += datagram.tally(),
            }
            other.sequence = other
                .sequence
                .wrapping_add(u32::try_from(datagram.count).unwrap_or(0));
            self.queue.pop();
        }
    }

    /// Completes what was sent: see [`Transport::finish`].
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        self.look_for_answers();
        self.transport.finish()
    }

    fn refuse(&mut self, records: &[DetailedRecord]) {
        let reason = if self.blocked_since_ms.is_some() {
            LossReason::Socket
        } else {
            LossReason::Pacing
        };
        let mut refused = Tally {
            records: records.len() as u64,
            ..Tally::default()
        };
        records
            .iter()
            .for_each(|record| refused.volume.add_record(&record.flow));
        self.counters.lost[reason as usize] += refused;
        // The collector then sees the loss.
        self.sequence = self
            .sequence
            .wrapping_add(u32::try_from(records.len()).unwrap_or(0));
    }

    /// Sends some of those that wait and returns how many.
    fn send_run(&mut self) -> io::Result<usize> {
        for _ in 1..SEND_ATTEMPTS {
            match self.send_run_once() {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    self.count_refusal()
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                done => return done,
            }
        }
        self.send_run_once()
    }

    fn send_run_once(&mut self) -> io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); RUN_MAX];
        let (mut count, mut buckets) = (0, self.buckets);
        while count < RUN_MAX
            && let Some(datagram) = self
                .queue
                .get(count)
                .filter(|datagram| datagram.count <= self.records_max)
        {
            if let Some(buckets) = &mut buckets {
                if !buckets.hold(cost(datagram)) {
                    break;
                }
                buckets.take(cost(datagram));
            }
            slices[count] = IoSlice::new(datagram.octets());
            count += 1;
        }
        self.transport.send(&slices[..count])
    }

    fn count_sent(&mut self, sent: usize) {
        for _ in 0..sent {
            let Some(datagram) = self.queue.get(0) else {
                break;
            };
            let (tally, cost) = (datagram.tally(), cost(datagram));
            let delay_ms = self.now_ms.saturating_sub(datagram.complete_ms);
            self.queue.pop();
            if let Some(buckets) = &mut self.buckets {
                buckets.take(cost);
            }
            self.count_delay(tally, delay_ms);
            self.count_taken(tally, cost.octets);
        }
    }

    fn count_taken(&mut self, tally: Tally, octets: u64) {
        self.counters.sent += tally;
        self.counters.octets += octets;
        self.unanswered += tally;
        self.sent_ms = self.now_ms;
        self.blocked_since_ms = None;
    }

    fn count_delay(&mut self, tally: Tally, delay_ms: u64) {
        if self.buckets.is_some() && delay_ms > 0 {
            self.counters.delayed_records += tally.records;
            self.counters.delayed_ms += delay_ms;
        }
    }

    /// What left since the last look is taken for what came back: which of it was, nobody tells.
    fn count_refusal(&mut self) {
        self.counters.refusals += 1;
        self.counters.lost[LossReason::Refused as usize] += std::mem::take(&mut self.unanswered);
        self.refusing = true;
    }

    /// Sends the oldest, which became too long for the path while it waited, as several.
    fn send_in_pieces(&mut self) {
        let Self {
            queue,
            transport,
            config,
            records_max,
            ..
        } = self;
        let Some(oldest) = queue.get(0) else { return };
        let (version, sequence) = (config.version, oldest.sequence);
        let (mut sent, mut octets, mut lost) = (Tally::default(), 0, Tally::default());
        let mut errors = self.counters.errors;
        let mut piece = [0; DATAGRAM_OCTETS_MAX];
        for from in (0..oldest.count).step_by((*records_max).max(1)) {
            let to = (from + *records_max).min(oldest.count);
            let (length, volume) =
                version.write_piece(oldest.octets(), from, to, sequence, &mut piece);
            let tally = Tally {
                records: (to - from) as u64,
                datagrams: 1,
                volume,
            };
            match transport.send(&[IoSlice::new(&piece[..length])]) {
                Ok(_) => {
                    sent += tally;
                    octets += length as u64;
                }
                Err(error) => {
                    errors[SendErrorKind::of(&error) as usize] += 1;
                    lost += tally;
                }
            }
        }
        if let Some(buckets) = &mut self.buckets {
            // The headers that were added are not worth a wait of their own.
            buckets.take(cost(oldest));
        }
        self.queue.pop();
        self.counters.errors = errors;
        self.counters.lost[LossReason::Send as usize] += lost;
        self.count_taken(sent, octets);
    }

    fn lose_oldest(&mut self, error: &io::Error) {
        let Some(oldest) = self.queue.get(0) else {
            return;
        };
        let kind = SendErrorKind::of(error);
        self.refusing |= kind.is_the_ways();
        self.counters.errors[kind as usize] += 1;
        self.counters.lost[LossReason::Send as usize] += oldest.tally();
        self.queue.pop();
    }

    fn is_blocked_too_long(&mut self) -> bool {
        self.now_ms >= *self.blocked_since_ms.get_or_insert(self.now_ms) + BLOCKED_MS_MAX
    }

    /// Whether the path carries less than it did.
    fn narrowed(&mut self) -> bool {
        let before = self.records_max;
        self.measure();
        self.records_max < before
    }

    fn measure(&mut self) {
        self.measured_ms = self.now_ms;
        // A path that became too narrow for a single record has its datagrams refused as too long,
        // and counted.
        self.records_max = self
            .config
            .version
            .records_in(self.transport.payload_octets_max())
            .max(1);
    }
}

fn cost(datagram: &Datagram) -> Cost {
    Cost {
        records: datagram.count as u64,
        octets: datagram.length as u64,
    }
}
