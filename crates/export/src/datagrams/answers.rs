//! Answers: what came back about datagrams that were sent.
//!
//! UDP confirms nothing. An ICMP error does not name its datagram: everything sent since the last
//! look counts as refused. Without an error, it counts as delivered.
//!
//! A host on the same network that is off answers no request for its address, and the error comes
//! only after three seconds, in which the kernel holds what is sent. So where datagrams have not
//! been seen to leave the kernel yet, the path is *unproven*, and silence counts for nothing until
//! it is proven. Where the host goes off later, the kernel goes on sending to its known address for
//! up to a minute: when the error comes, delivery of what was sent in that time is *in doubt*.

use crate::tally::Tally;

/// What was sent, by what came back about it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Answers {
    /// Sent since the last look; while the path is unproven, all that was sent on it.
    unanswered: Tally,
    /// When the last of it was sent, in ms of the time that sending goes by.
    sent_ms: u64,
    /// Whether datagrams have been seen to leave since the path is in use.
    is_proven: bool,
    /// When the first datagram was sent on the unproven path.
    unproven_since_ms: Option<u64>,
    /// Whether the last answer was a refusal, or the last send failed.
    is_refusing: bool,
    exported: Tally,
    /// Of these, what was exported in the present period and in the one before, and when the
    /// present one began.
    recent: [Tally; 2],
    period_ms: u64,
    in_doubt: Tally,
    refused: Tally,
    refusals: u64,
}

/// What a refusal is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refusal {
    /// The host answers, and no program listens at the port.
    Port,
    /// The host or its network cannot be reached.
    Host,
}

/// The last datagrams, with none behind them, are checked for an answer this long after.
const ANSWER_MS: u64 = 100;
/// A next hop that does not answer is reported after three requests, a second apart (Linux,
/// Documentation/networking/ip-sysctl.rst, mcast_solicit and retrans_time_ms).
const PROOF_MS_MAX: u64 = 4_000;
/// A known next hop that is off is noticed after 53 s at most: its address is good for up to 45 s,
/// then 5 s pass until it is asked for, and 3 s until that fails (as above, base_reachable_time_ms,
/// delay_first_probe_time, ucast_solicit). Two periods are between this and twice this long.
const PERIOD_MS: u64 = 60_000;

impl Answers {
    /// Notes that something was sent.
    pub fn note_sent(&mut self, tally: Tally, now_ms: u64) {
        self.unanswered += tally;
        self.sent_ms = now_ms;
        if !self.is_proven {
            self.unproven_since_ms.get_or_insert(now_ms);
        }
    }

    /// Whether it is time to look, even if nothing else is sent.
    pub fn is_look_due(&self, now_ms: u64) -> bool {
        self.awaits_proof() || now_ms >= self.sent_ms.saturating_add(ANSWER_MS)
    }

    /// Whether something was sent on a path that is unproven.
    pub fn awaits_proof(&self) -> bool {
        !self.is_proven && self.unanswered.records > 0
    }

    /// Whether something was sent about which an answer may come.
    pub fn is_unanswered(&self) -> bool {
        self.unanswered.records > 0
    }

    /// Notes a refusal: what is unanswered did not arrive.
    pub fn note_refusal(&mut self, refusal: Refusal) {
        self.refusals += 1;
        self.refused += std::mem::take(&mut self.unanswered);
        self.is_refusing = true;
        self.unproven_since_ms = None;
        self.is_proven = refusal == Refusal::Port;
        if refusal == Refusal::Host {
            self.in_doubt += std::mem::take(&mut self.recent).into_iter().sum();
        }
    }

    /// Notes that a look found no refusal: what is unanswered, if anything, arrived, unless the
    /// path is unproven and the kernel still holds some of it.
    pub fn note_silence(&mut self, holds_datagrams: impl FnOnce() -> bool, now_ms: u64) {
        if self.unanswered.records == 0 {
            return;
        }
        if !self.is_proven {
            let since_ms = self.unproven_since_ms.unwrap_or(now_ms);
            if now_ms < since_ms.saturating_add(PROOF_MS_MAX) && holds_datagrams() {
                return;
            }
            self.is_proven = true;
        }
        self.count_exported(now_ms);
        self.is_refusing = false;
    }

    /// Notes that the path is to blame for a send that failed.
    pub fn note_failure(&mut self) {
        self.is_refusing = true;
    }

    /// Notes that another path is used from here on: what is unanswered has no answer any more, and
    /// nothing is known against the new path.
    pub fn note_replaced(&mut self, now_ms: u64) {
        self.settle(now_ms);
        self.is_refusing = false;
        self.is_proven = false;
        self.unproven_since_ms = None;
    }

    /// Notes that no answer is waited for any more.
    pub fn settle(&mut self, now_ms: u64) {
        if !self.is_proven {
            self.in_doubt += self.unanswered;
        }
        self.count_exported(now_ms);
    }

    fn count_exported(&mut self, now_ms: u64) {
        let arrived = std::mem::take(&mut self.unanswered);
        self.exported += arrived;
        let [present, _] = self.recent;
        match now_ms.saturating_sub(self.period_ms) / PERIOD_MS {
            0 => {}
            1 => (self.recent, self.period_ms) = ([Tally::default(), present], now_ms),
            _ => (self.recent, self.period_ms) = (Default::default(), now_ms),
        }
        self.recent[0] += arrived;
    }

    /// Whether what was sent last was refused, or could not be sent.
    pub fn is_refusing(&self) -> bool {
        self.is_refusing
    }

    /// What was sent and not refused.
    pub fn exported(&self) -> Tally {
        self.exported
    }

    /// Of what was exported, what was sent in the minute or two before the host was found
    /// unreachable.
    pub fn in_doubt(&self) -> Tally {
        self.in_doubt
    }

    /// What was sent and refused.
    pub fn refused(&self) -> Tally {
        self.refused
    }

    /// How many refusals came.
    pub fn refusals(&self) -> u64 {
        self.refusals
    }
}
