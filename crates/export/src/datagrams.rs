//! [`DatagramOutlet`]: records leave as datagrams in a sequence of their own, at a pace of their
//! own.
//!
//! Records are encoded into the datagram under construction as they are pushed (`assembler`), wait
//! there and behind it in memory that is allocated at the start (`queue`), and leave over a
//! [`Transport`] (`path`). What was sent counts as exported once nothing came back about it
//! (`answers`).

mod answers;
mod assembler;
mod path;
mod queue;

use crate::collector::{CollectorCounters, LossReason, SendErrorKind};
use crate::details::DetailedRecord;
use crate::format::Format;
use crate::moment::Moment;
use crate::outlet::{OnRefusal, Outlet};
use crate::pace::{Buckets, Cost, Pace};
use crate::tally::Tally;
use crate::transport::Transport;
use answers::{Answers, Refusal};
use assembler::Assembler;
use path::Path;
use queue::Message;
use std::io::{self, IoSlice};
use xdprobe_netflow::v5::SamplingInterval;

/// Encodes records in one [`Format`] and sends them over one [`Transport`].
pub struct DatagramOutlet {
    assembler: Assembler,
    path: Path,
    answers: Answers,
    pace: Option<Buckets>,
    /// What the largest datagram takes out of the buckets.
    largest: Cost,
    /// The time that sending goes by, in ms.
    now_ms: u64,
    /// Since when the socket accepts nothing, in ms of that time.
    blocked_since_ms: Option<u64>,
    /// What the assembler and the answers do not count.
    counters: CollectorCounters,
}

/// Settings of a [`DatagramOutlet`].
#[derive(Clone, Copy, Debug)]
pub struct DatagramConfig {
    /// The longest that a record waits for its datagram to fill, in ms.
    pub flush_delay_ms: u64,
    /// The fastest that records are sent.
    pub pace: Pace,
    /// Records that may wait for the pace before more are lost.
    pub paced_records_max: usize,
    /// Whether records that wait can be taken back for another outlet: needed in failover, and
    /// wherever a collector may be removed without the loss of what waits for it.
    pub keeps_records: bool,
}

impl Default for DatagramConfig {
    /// A flush delay of 1 s, no pace, and records are not kept.
    fn default() -> Self {
        Self {
            flush_delay_ms: 1_000,
            pace: Pace::default(),
            paced_records_max: 262_144,
            keeps_records: false,
        }
    }
}

impl DatagramConfig {
    /// Octets of memory that an outlet takes whose path carries the longest datagrams of `format`.
    #[must_use]
    pub fn octets_for(&self, format: &impl Format) -> u64 {
        let octets_max = format.message_octets_max();
        let records_max = format.records_in(octets_max).max(1);
        let datagrams_max = self.datagrams_max(records_max) as u64;
        let kept = if self.keeps_records {
            records_max * size_of::<DetailedRecord>()
        } else {
            0
        };
        datagrams_max.saturating_mul((size_of::<Message>() + octets_max + kept) as u64)
    }

    /// Datagrams of `records_max` records that may wait.
    fn datagrams_max(&self, records_max: usize) -> usize {
        if self.pace.is_limited() {
            self.paced_records_max / records_max + 1
        } else {
            QUEUE_DATAGRAMS
        }
    }
}

/// The path to a collector carries not even one record in a datagram.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "the path carries {found} octets of payload in one piece, and a datagram of one record takes \
     {expected}: raise its MTU"
)]
pub struct TooNarrow {
    /// Octets of payload that the path carries.
    found: usize,
    /// Octets of a datagram with one record.
    expected: usize,
}

/// Datagrams of a run: as many as one call takes (65 507 octets of UDP payload), and worth waiting
/// for under load.
const RUN_MAX: usize = 44;
/// Datagrams that wait while a socket accepts none, where no pace asks for more: 1.5 MB.
const QUEUE_DATAGRAMS: usize = 1_024;
/// How long a socket may accept nothing before what waits for it is lost.
const BLOCKED_MS_MAX: u64 = 5_000;
/// How often a path that is unproven is looked at.
const PROOF_LOOK_MS: u64 = 20;
/// A send may report a pending refusal instead of sending; at most times two can be pending.
const SEND_ATTEMPTS: usize = 4;

impl DatagramOutlet {
    /// An outlet over `transport`, whose datagrams are messages of `format`.
    ///
    /// # Errors
    ///
    /// [`TooNarrow`] if not even one record fits a datagram.
    pub fn new(
        transport: impl Transport + 'static,
        format: impl Format + 'static,
        config: DatagramConfig,
    ) -> Result<Self, TooNarrow> {
        let found = transport.payload_octets_max();
        let records_max = format.records_in(found);
        if records_max == 0 {
            let expected = format.message_octets(1);
            return Err(TooNarrow { found, expected });
        }
        let is_paced = config.pace.is_limited();
        let datagrams_max = config.datagrams_max(records_max);
        let largest = Cost {
            records: format.records_in(format.message_octets_max()) as u64,
            octets: format.message_octets_max() as u64,
        };
        Ok(Self {
            path: Path::new(Box::new(transport), format.message_octets(1)),
            assembler: Assembler::new(
                Box::new(format),
                config.flush_delay_ms,
                datagrams_max,
                config.keeps_records,
            ),
            answers: Answers::default(),
            pace: is_paced.then(|| Buckets::new(config.pace, largest)),
            largest,
            now_ms: 0,
            blocked_since_ms: None,
            counters: CollectorCounters::default(),
        })
    }
}

impl Outlet for DatagramOutlet {
    fn begin_turn(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
    }

    fn push(&mut self, records: &[DetailedRecord], now: Moment) {
        let payload_octets = self.path.payload_octets();
        let refused = self
            .assembler
            .push(records, payload_octets, now, self.now_ms);
        if !refused.is_empty() {
            self.count_overflow(refused);
        }
    }

    fn room(&self) -> usize {
        self.assembler.room(self.path.payload_octets())
    }

    fn oldest_ms(&self) -> Option<u64> {
        self.assembler.oldest_ms()
    }

    fn flush_due_ms(&self) -> Option<u64> {
        self.assembler.flush_due_ms()
    }

    fn complete(&mut self, now: Moment) {
        self.assembler.complete(now, self.now_ms);
    }

    fn set_sampling(&mut self, sampling: SamplingInterval) {
        self.assembler.set_sampling(sampling);
    }

    fn set_pace(&mut self, pace: Pace) {
        let is_limited = pace.is_limited();
        self.pace = is_limited.then(|| Buckets::new(pace, self.largest));
    }

    /// Sends whole runs only, unless a pace or `all` asks for less.
    fn send(&mut self, all: bool, on_refusal: OnRefusal) -> Option<u64> {
        if let Some(pace) = &mut self.pace {
            pace.fill(self.now_ms);
        }
        self.path.measure_when_due(self.now_ms);
        let least = if all || self.pace.is_some() {
            1
        } else {
            RUN_MAX
        };
        while self.assembler.len() >= least {
            self.look_for_answers();
            if self.is_refusing() && on_refusal == OnRefusal::Stop {
                return None;
            }
            let oldest = self.assembler.get(0)?;
            if let Some(pace) = self.pace.as_ref().filter(|pace| !pace.hold(cost(oldest))) {
                return Some(pace.due_ms(cost(oldest)));
            }
            if oldest.length() > self.path.payload_octets() {
                self.send_in_pieces();
                continue;
            }
            let error = match self.send_run() {
                Ok(sent) => {
                    self.count_run(sent);
                    continue;
                }
                Err(error) => error,
            };
            let kind = SendErrorKind::of(&error);
            if error.kind() == io::ErrorKind::WouldBlock && !self.is_blocked_too_long() {
                return Some(self.now_ms + 1);
            }
            if kind == SendErrorKind::TooLong && self.path.measure(self.now_ms) {
                continue;
            }
            if on_refusal == OnRefusal::Stop && kind.is_of_the_path() {
                self.answers.note_failure();
                return None;
            }
            self.lose_oldest(kind);
        }
        if self.answers.is_look_due(self.now_ms) {
            self.look_for_answers();
        }
        self.awaits_proof().then_some(self.now_ms + PROOF_LOOK_MS)
    }

    fn look_for_answers(&mut self) {
        match self.path.take_error() {
            Some(error) => {
                let kind = SendErrorKind::of(&error);
                if kind == SendErrorKind::TooLong {
                    self.path.measure(self.now_ms);
                }
                self.answers.note_refusal(refusal_of(kind));
            }
            None => self
                .answers
                .note_silence(|| self.path.holds_datagrams(), self.now_ms),
        }
    }

    fn awaits_proof(&self) -> bool {
        self.answers.awaits_proof()
    }

    fn is_refusing(&self) -> bool {
        self.answers.is_refusing()
    }

    fn is_connected(&self) -> bool {
        self.path.is_connected()
    }

    fn take_back(&mut self, give: &mut dyn FnMut(&[DetailedRecord])) {
        self.assembler.take_back(give);
    }

    fn abandon(&mut self) {
        while let Some(oldest) = self.assembler.get(0) {
            self.counters.lost[LossReason::Stop as usize] += oldest.tally();
            self.assembler.pop();
        }
    }

    fn replace_transport(&mut self, transport: Box<dyn Transport>) {
        self.answers.note_replaced(self.now_ms);
        self.path.replace_transport(transport, self.now_ms);
    }

    fn finish(&mut self) -> io::Result<()> {
        self.look_for_answers();
        self.answers.settle(self.now_ms);
        self.path.finish()
    }

    fn counters(&self) -> CollectorCounters {
        let mut counters = CollectorCounters {
            exported: self.answers.exported(),
            in_doubt: self.answers.in_doubt(),
            refusals: self.answers.refusals(),
            waiting: self.assembler.tally(),
            ..self.counters
        };
        counters.lost[LossReason::Refused as usize] = self.answers.refused();
        counters
    }
}

impl DatagramOutlet {
    /// Counts records that the queue has no room for.
    fn count_overflow(&mut self, records: &[DetailedRecord]) {
        let reason = if self.blocked_since_ms.is_some() {
            LossReason::Socket
        } else {
            LossReason::Pacing
        };
        self.counters.lost[reason as usize] += DetailedRecord::tally(records);
        self.assembler.skip(records.len());
    }

    /// Sends the first of the datagrams that wait, and returns how many.
    fn send_run(&mut self) -> io::Result<usize> {
        for _ in 1..SEND_ATTEMPTS {
            let error = match self.send_run_once() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => error,
                sent => return sent,
            };
            let kind = SendErrorKind::of(&error);
            // An unreachable host may be an answer, too; if not, the next attempt fails as well.
            let is_answer = kind == SendErrorKind::Refused
                || (kind == SendErrorKind::Unreachable && self.answers.is_unanswered());
            if !is_answer {
                return Err(error);
            }
            self.answers.note_refusal(refusal_of(kind));
        }
        self.send_run_once()
    }

    fn send_run_once(&mut self) -> io::Result<usize> {
        let payload_octets = self.path.payload_octets();
        let mut slices = [IoSlice::new(&[]); RUN_MAX];
        let (mut count, mut pace) = (0, self.pace);
        while count < RUN_MAX
            && let Some(datagram) = self.assembler.get(count)
            && datagram.length() <= payload_octets
        {
            if let Some(pace) = &mut pace {
                if !pace.hold(cost(datagram)) {
                    break;
                }
                pace.take(cost(datagram));
            }
            slices[count] = IoSlice::new(datagram.octets());
            count += 1;
        }
        self.path.send(&slices[..count])
    }

    /// Counts the first `sent` datagrams as sent, and removes them.
    fn count_run(&mut self, sent: usize) {
        for _ in 0..sent {
            let datagram = self.assembler.get(0);
            let datagram = datagram.expect("no more datagrams are sent than were given");
            let (tally, cost) = (datagram.tally(), cost(datagram));
            let delay_ms = self.now_ms.saturating_sub(datagram.complete_ms());
            self.assembler.pop();
            if let Some(pace) = &mut self.pace {
                pace.take(cost);
                if delay_ms > 0 {
                    self.counters.delayed_records += tally.records;
                    self.counters.delayed_ms += delay_ms;
                }
            }
            self.count_sent(tally, cost.octets);
        }
    }

    fn count_sent(&mut self, tally: Tally, octets: u64) {
        self.counters.sent += tally;
        self.counters.octets += octets;
        self.answers.note_sent(tally, self.now_ms);
        self.blocked_since_ms = None;
    }

    /// Sends the oldest datagram, which became too long for the path while it waited, as several.
    fn send_in_pieces(&mut self) {
        let Some(oldest) = self.assembler.get(0) else {
            return;
        };
        let cost = cost(oldest);
        let (mut sent, mut octets, mut lost) = (Tally::default(), 0, Tally::default());
        let Self {
            assembler,
            path,
            counters,
            ..
        } = self;
        assembler.split_oldest(path.payload_octets(), &mut |piece, tally| match path
            .send(&[IoSlice::new(piece)])
        {
            Ok(_) => {
                sent += tally;
                octets += piece.len() as u64;
            }
            Err(error) => {
                counters.errors[SendErrorKind::of(&error) as usize] += 1;
                lost += tally;
            }
        });
        counters.lost[LossReason::Send as usize] += lost;
        assembler.pop();
        if let Some(pace) = &mut self.pace {
            // The headers of the pieces are too short to wait for.
            pace.take(cost);
        }
        self.count_sent(sent, octets);
    }

    /// Counts the oldest datagram as lost, and removes it.
    fn lose_oldest(&mut self, kind: SendErrorKind) {
        let Some(oldest) = self.assembler.get(0) else {
            return;
        };
        if kind.is_of_the_path() {
            self.answers.note_failure();
        }
        self.counters.errors[kind as usize] += 1;
        self.counters.lost[LossReason::Send as usize] += oldest.tally();
        self.assembler.pop();
    }

    fn is_blocked_too_long(&mut self) -> bool {
        self.now_ms >= *self.blocked_since_ms.get_or_insert(self.now_ms) + BLOCKED_MS_MAX
    }
}

/// What an ICMP error of this kind is about.
fn refusal_of(kind: SendErrorKind) -> Refusal {
    match kind {
        SendErrorKind::Unreachable => Refusal::Host,
        _ => Refusal::Port,
    }
}

fn cost(datagram: &Message) -> Cost {
    Cost {
        records: datagram.count() as u64,
        octets: datagram.length() as u64,
    }
}
