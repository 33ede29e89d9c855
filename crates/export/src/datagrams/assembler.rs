//! [`Assembler`]: the records of one collector become messages in a sequence of their own.

use crate::datagrams::queue::{Message, Queue};
use crate::details::DetailedRecord;
use crate::format::{Format, Heading};
use crate::moment::Moment;
use crate::tally::Tally;
use std::collections::VecDeque;
use xdprobe_netflow::v5::SamplingInterval;

/// Messages of one collector, from the one under construction to the oldest that waits.
pub struct Assembler {
    format: Box<dyn Format>,
    /// The longest that a record waits for its message to fill, in ms.
    flush_delay_ms: u64,
    /// Sequence number of the message under construction.
    sequence: u32,
    queue: Queue,
    /// The records of all messages in the queue, where another outlet may get them.
    kept: Option<VecDeque<DetailedRecord>>,
}

impl Assembler {
    /// Assembles records into at most `messages_max` messages that wait.
    pub fn new(
        format: Box<dyn Format>,
        flush_delay_ms: u64,
        messages_max: usize,
        keeps_records: bool,
    ) -> Self {
        let queue = Queue::new(messages_max, format.message_octets_max());
        let records_max = queue.capacity() * format.records_in(format.message_octets_max());
        Self {
            format,
            flush_delay_ms,
            sequence: 0,
            queue,
            kept: keeps_records.then(|| VecDeque::with_capacity(records_max)),
        }
    }

    /// Encodes records for messages of `payload_octets`, and completes each message that is full.
    /// Returns those that there is no room for. `now_ms` is the time that sending goes by.
    #[inline]
    pub fn push<'a>(
        &mut self,
        mut records: &'a [DetailedRecord],
        payload_octets: usize,
        now: Moment,
        now_ms: u64,
    ) -> &'a [DetailedRecord] {
        while !records.is_empty()
            && let Some(open) = self.queue.open()
        {
            let appended = open.append(&mut *self.format, records, payload_octets, now.uptime_ms);
            let (added, rest) = records.split_at(appended.count);
            if let Some(kept) = &mut self.kept {
                kept.extend(added);
            }
            records = rest;
            if appended.is_full {
                self.complete(now, now_ms);
            }
        }
        records
    }

    /// Moves the sequence past records that are in no message, so that the collector sees the loss.
    pub fn skip(&mut self, records: usize) {
        let step = self.format.sequence_step(records);
        self.sequence = self.sequence.wrapping_add(step);
    }

    /// States another sampling interval in the messages that are completed from here on.
    pub fn set_sampling(&mut self, sampling: SamplingInterval) {
        self.format.set_sampling(sampling);
    }

    /// Completes the message under construction, if there is one, and dates it `now`, or later if
    /// one of its records is. `now_ms` is the time that sending goes by.
    pub fn complete(&mut self, now: Moment, now_ms: u64) {
        let Some(open) = self.queue.open().filter(|open| open.count() > 0) else {
            return;
        };
        let heading = Heading {
            moment: now.at(now.uptime_ms.max(open.latest_ms())),
            sequence: self.sequence,
        };
        open.finish(&mut *self.format, &heading, now_ms);
        let step = self.format.sequence_step(open.count());
        self.sequence = self.sequence.wrapping_add(step);
        self.queue.complete();
    }

    /// How many complete messages wait.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// The `nth` of the complete messages, from the oldest on.
    pub fn get(&self, nth: usize) -> Option<&Message> {
        self.queue.get(nth)
    }

    /// Gives the oldest complete message to `piece` in several, none longer than `payload_octets`.
    pub fn split_oldest(&self, payload_octets: usize, piece: &mut dyn FnMut(&[u8], Tally)) {
        if let Some(oldest) = self.queue.get(0) {
            self.format.split(oldest.octets(), payload_octets, piece);
        }
    }

    /// Removes the oldest complete message.
    pub fn pop(&mut self) {
        if let (Some(kept), Some(oldest)) = (&mut self.kept, self.queue.get(0)) {
            kept.drain(..oldest.count());
        }
        self.queue.pop();
    }

    /// Gives all records that wait to `give`, oldest first, and removes their messages: they were
    /// never sent, so the sequence goes on at the oldest. Gives none where records are not kept.
    pub fn take_back(&mut self, give: &mut dyn FnMut(&[DetailedRecord])) {
        let Some(kept) = &mut self.kept else { return };
        if let Some(oldest) = self.queue.get(0) {
            self.sequence = oldest.sequence();
        }
        let (older, younger) = kept.as_slices();
        for records in [older, younger] {
            if !records.is_empty() {
                give(records);
            }
        }
        kept.clear();
        self.queue.clear();
    }

    /// Records that can be pushed before one does not fit, at least.
    pub fn room(&self, payload_octets: usize) -> usize {
        let messages = self.queue.capacity() - self.queue.len();
        messages.saturating_sub(1) * self.format.records_in(payload_octets)
    }

    /// Records that wait, those of the message under construction included.
    pub fn tally(&self) -> Tally {
        self.queue.tally()
    }

    /// Arrival time of the oldest record that waits, in ms of uptime.
    pub fn oldest_ms(&self) -> Option<u64> {
        let oldest = self
            .queue
            .get(0)
            .or_else(|| self.queue.under_construction());
        oldest.map(Message::oldest_ms)
    }

    /// When the flush delay of the message under construction is over, in ms of uptime.
    pub fn flush_due_ms(&self) -> Option<u64> {
        let open = self.queue.under_construction();
        open.map(|open| open.oldest_ms() + self.flush_delay_ms)
    }
}
