//! Messages of one collector: one under construction behind those that wait to be sent, in memory
//! that is allocated at the start.

use crate::details::DetailedRecord;
use crate::format::{Appended, Format, Heading};
use crate::tally::Tally;
use xdprobe_flow::Volume;

/// A ring of messages.
pub struct Queue {
    messages: Box<[Message]>,
    /// The oldest that waits.
    head: usize,
    /// Complete messages, from the head on; the one under construction comes behind them.
    waiting: usize,
    /// Records of the complete messages.
    tally: Tally,
}

/// One message, with what is known of its records.
#[derive(Clone)]
pub struct Message {
    octets: Box<[u8]>,
    /// Length in octets; 0 until it is complete.
    length: usize,
    /// Records in it.
    count: usize,
    /// Packets and octets of these records.
    volume: Volume,
    /// Its sequence number.
    sequence: u32,
    /// Uptime at which its first record arrived, in ms.
    oldest_ms: u64,
    /// Uptime at which its last record arrived, in ms.
    latest_ms: u64,
    /// When it was complete, in ms of the time that sending goes by.
    complete_ms: u64,
}

impl Queue {
    /// Room for `messages_max` messages of up to `octets_max` octets.
    pub fn new(messages_max: usize, octets_max: usize) -> Self {
        let empty = Message {
            octets: vec![0; octets_max].into(),
            length: 0,
            count: 0,
            volume: Volume::default(),
            sequence: 0,
            oldest_ms: 0,
            latest_ms: 0,
            complete_ms: 0,
        };
        Self {
            messages: vec![empty; messages_max.max(1)].into(),
            head: 0,
            waiting: 0,
            tally: Tally::default(),
        }
    }

    /// How many messages it has room for at most.
    pub fn capacity(&self) -> usize {
        self.messages.len()
    }

    /// How many complete messages wait.
    pub fn len(&self) -> usize {
        self.waiting
    }

    /// Records that wait, those of the message under construction included.
    pub fn tally(&self) -> Tally {
        let open = self.under_construction().map(Message::tally);
        self.tally + open.unwrap_or_default()
    }

    /// The message under construction, or an empty one to begin; none where complete messages take
    /// all the room.
    pub fn open(&mut self) -> Option<&mut Message> {
        let at = self.place(self.waiting);
        (self.waiting < self.messages.len()).then(|| &mut self.messages[at])
    }

    /// The message under construction, if it has a record.
    pub fn under_construction(&self) -> Option<&Message> {
        let at = self.place(self.waiting);
        (self.waiting < self.messages.len())
            .then(|| &self.messages[at])
            .filter(|message| message.count > 0)
    }

    /// Adds the message under construction, which is complete, to those that wait.
    pub fn complete(&mut self) {
        let complete = self
            .under_construction()
            .expect("a message with a record is under construction");
        debug_assert!(complete.length > 0, "its header is written");
        self.tally += complete.tally();
        self.waiting += 1;
    }

    /// The `nth` of the messages that wait, from the oldest on.
    pub fn get(&self, nth: usize) -> Option<&Message> {
        (nth < self.waiting).then(|| &self.messages[self.place(nth)])
    }

    /// Removes the oldest message that waits, if there is one.
    pub fn pop(&mut self) {
        let Some(oldest) = self.get(0) else { return };
        self.tally -= oldest.tally();
        self.messages[self.head].count = 0;
        self.head = self.place(1);
        self.waiting -= 1;
        if self.waiting == 0 && self.messages[self.head].count == 0 {
            // From the front again, whose memory is still in the processor's caches.
            self.head = 0;
        }
    }

    /// Removes all messages, the one under construction included.
    pub fn clear(&mut self) {
        while self.waiting > 0 {
            self.pop();
        }
        if let Some(open) = self.open() {
            open.count = 0;
        }
        self.head = 0;
    }

    fn place(&self, nth: usize) -> usize {
        let at = self.head + nth;
        if at < self.messages.len() {
            at
        } else {
            at - self.messages.len()
        }
    }
}

impl Message {
    /// The octets to send, once it is complete.
    pub fn octets(&self) -> &[u8] {
        &self.octets[..self.length]
    }

    /// Length in octets; 0 until it is complete.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Its sequence number, once it is complete.
    pub fn sequence(&self) -> u32 {
        self.sequence
    }

    /// Uptime at which its first record arrived, in ms.
    pub fn oldest_ms(&self) -> u64 {
        self.oldest_ms
    }

    /// Uptime at which its last record arrived, in ms; no uptime in its records is later.
    pub fn latest_ms(&self) -> u64 {
        self.latest_ms
    }

    /// When it was complete, in ms of the time that sending goes by.
    pub fn complete_ms(&self) -> u64 {
        self.complete_ms
    }

    /// How many records it has.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Its records and itself, as counters have them.
    pub fn tally(&self) -> Tally {
        Tally {
            records: self.count as u64,
            datagrams: 1,
            volume: self.volume,
        }
    }

    /// Encodes the first of `records` behind those that it has, as many as there is room for. They
    /// arrived at uptime `now_ms`.
    #[inline]
    pub fn append(
        &mut self,
        format: &mut dyn Format,
        records: &[DetailedRecord],
        payload_octets: usize,
        now_ms: u64,
    ) -> Appended {
        if self.count == 0 {
            (self.length, self.volume, self.oldest_ms) = (0, Volume::default(), now_ms);
        }
        let appended = format.append(records, self.count, payload_octets, &mut self.octets);
        let added = records[..appended.count].iter();
        self.volume += added.map(|record| record.flow.volume).sum();
        self.latest_ms = now_ms;
        self.count += appended.count;
        appended
    }

    /// Completes it with a header. It is then `now_ms` by the time that sending goes by.
    pub fn finish(&mut self, format: &mut dyn Format, heading: &Heading, now_ms: u64) {
        debug_assert!(self.latest_ms <= heading.moment.uptime_ms);
        self.length = format.finish(heading, self.count, &mut self.octets);
        self.sequence = heading.sequence;
        self.complete_ms = now_ms;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(queue: &mut Queue, count: usize) -> bool {
        let Some(message) = queue.open() else {
            return false;
        };
        (message.count, message.length) = (count, count);
        queue.complete();
        true
    }

    #[test]
    fn messages_leave_in_the_order_in_which_they_came_and_no_more_come_than_there_is_room_for() {
        let mut queue = Queue::new(3, 0);
        let (mut came, mut left) = (0, 0);
        for turn in 1..50 {
            while queue.capacity() - queue.len() > turn % 3 && fill(&mut queue, came + 1) {
                came += 1;
            }
            while let Some(oldest) = queue.get(0).map(|oldest| oldest.count)
                && queue.len() > turn % 2
            {
                left += 1;
                assert_eq!(oldest, left);
                queue.pop();
            }
        }
        assert!(left > 40);
        let waiting: usize = (left + 1..=came).sum();
        assert_eq!(queue.tally().records, waiting as u64);
        while fill(&mut queue, 1) {}
        assert_eq!((queue.capacity(), queue.len()), (3, 3));
        assert!(queue.open().is_none() && queue.under_construction().is_none());
    }

    #[test]
    fn a_cleared_queue_is_an_empty_one() {
        let mut queue = Queue::new(3, 0);
        assert!(fill(&mut queue, 1) && fill(&mut queue, 2));
        queue.open().unwrap().count = 3;
        assert_eq!(queue.tally().records, 6);
        queue.clear();
        assert_eq!((queue.len(), queue.tally()), (0, Tally::default()));
        assert!(queue.under_construction().is_none());
        assert!((0..3).all(|_| fill(&mut queue, 1)));
    }
}
