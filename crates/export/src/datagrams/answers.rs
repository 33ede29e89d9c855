//! Answers: what came back about datagrams that were sent.
//!
//! UDP confirms nothing. An ICMP error does not name its datagram: everything sent since the last
//! look counts as refused. Without an error, it counts as delivered.

use crate::tally::Tally;

/// What was sent, by what came back about it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Answers {
    /// Sent since the last look.
    unanswered: Tally,
    /// When the last of it was sent, in ms of the time that sending goes by.
    sent_ms: u64,
    /// Whether the last answer was a refusal, or the last send failed.
    is_refusing: bool,
    exported: Tally,
    refused: Tally,
    refusals: u64,
}

/// The last datagrams, with none behind them, are checked for an answer this long after.
const ANSWER_MS: u64 = 100;

impl Answers {
    /// Notes that something was sent.
    pub fn note_sent(&mut self, tally: Tally, now_ms: u64) {
        self.unanswered += tally;
        self.sent_ms = now_ms;
    }

    /// Whether it is time to look, even if nothing else is sent.
    pub fn is_look_due(&self, now_ms: u64) -> bool {
        now_ms >= self.sent_ms.saturating_add(ANSWER_MS)
    }

    /// Notes a refusal: what is unanswered did not arrive.
    pub fn note_refusal(&mut self) {
        self.refusals += 1;
        self.refused += std::mem::take(&mut self.unanswered);
        self.is_refusing = true;
    }

    /// Notes that a look found no refusal: what is unanswered, if anything, arrived.
    pub fn note_silence(&mut self) {
        if self.unanswered.records > 0 {
            self.exported += std::mem::take(&mut self.unanswered);
            self.is_refusing = false;
        }
    }

    /// Notes that the path is to blame for a send that failed.
    pub fn note_failure(&mut self) {
        self.is_refusing = true;
    }

    /// Notes that another path is used from here on: what is unanswered has no answer any more, and
    /// nothing is known against the new path.
    pub fn note_replaced(&mut self) {
        self.exported += std::mem::take(&mut self.unanswered);
        self.is_refusing = false;
    }

    /// Whether what was sent last was refused, or could not be sent.
    pub fn is_refusing(&self) -> bool {
        self.is_refusing
    }

    /// What was sent and not refused.
    pub fn exported(&self) -> Tally {
        self.exported
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
