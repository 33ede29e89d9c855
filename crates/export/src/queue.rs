//! Datagrams of one collector: one under construction behind those that wait to leave, in memory
//! that is set at the start.

use crate::details::DetailedRecord;
use crate::exporter::Tally;
use crate::version::{Heading, Version};
use crate::wire::DATAGRAM_OCTETS_MAX;
use xdprobe_flow::Volume;

/// A ring of datagrams.
pub(crate) struct Queue {
    datagrams: Box<[Datagram]>,
    /// The oldest that waits.
    head: usize,
    /// Complete ones, from the head on; the one under construction comes behind them.
    waiting: usize,
    /// Records that wait.
    records: u64,
}

/// One datagram, with what does not stand in it.
#[derive(Clone)]
pub(crate) struct Datagram {
    octets: [u8; DATAGRAM_OCTETS_MAX],
    /// Length of what stands in it, in octets; 0 until it is complete.
    pub length: usize,
    /// Records in it.
    pub count: usize,
    /// What they count.
    pub volume: Volume,
    /// Where it stands in the sequence.
    pub sequence: u32,
    /// Uptime at which its first record came, in ms.
    pub oldest_ms: u64,
    /// The latest uptime that one of its records speaks of, in ms.
    pub latest_ms: u64,
    /// When it was complete, in ms of the clock that sending goes by.
    pub complete_ms: u64,
}

impl Queue {
    /// Room for `datagrams_max` datagrams.
    pub fn new(datagrams_max: usize) -> Self {
        Self {
            datagrams: vec![Datagram::EMPTY; datagrams_max.max(1)].into(),
            head: 0,
            waiting: 0,
            records: 0,
        }
    }

    /// How many more datagrams there is room for; one of them may be under construction.
    pub fn room(&self) -> usize {
        self.datagrams.len() - self.waiting
    }

    /// Complete datagrams.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Records in complete datagrams.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// The datagram under construction, or an empty one to begin; none where all room is taken by
    /// those that wait.
    pub fn open(&mut self) -> Option<&mut Datagram> {
        let at = self.place(self.waiting);
        (self.waiting < self.datagrams.len()).then(|| &mut self.datagrams[at])
    }

    /// The datagram under construction, if it has a record.
    pub fn under_construction(&self) -> Option<&Datagram> {
        let at = self.place(self.waiting);
        (self.waiting < self.datagrams.len())
            .then(|| &self.datagrams[at])
            .filter(|datagram| datagram.count > 0)
    }

    /// Lets the datagram under construction, which is complete, wait.
    pub fn complete(&mut self) {
        debug_assert!(
            self.under_construction()
                .is_some_and(|datagram| datagram.length > 0)
        );
        self.records += self
            .under_construction()
            .map_or(0, |datagram| datagram.count as u64);
        self.waiting += 1;
    }

    /// The `nth` of those that wait.
    pub fn get(&self, nth: usize) -> Option<&Datagram> {
        (nth < self.waiting).then(|| &self.datagrams[self.place(nth)])
    }

    /// Forgets the oldest.
    pub fn pop(&mut self) {
        let Some(oldest) = self.get(0) else { return };
        self.records -= oldest.count as u64;
        self.datagrams[self.head].count = 0;
        self.head = self.place(1);
        self.waiting -= 1;
        if self.waiting == 0 && self.datagrams[self.head].count == 0 {
            // From the front again, whose memory is still in the processor's caches.
            self.head = 0;
        }
    }

    fn place(&self, nth: usize) -> usize {
        let at = self.head + nth;
        if at < self.datagrams.len() {
            at
        } else {
            at - self.datagrams.len()
        }
    }
}

impl Datagram {
    const EMPTY: Self = Self {
        octets: [0; DATAGRAM_OCTETS_MAX],
        length: 0,
        count: 0,
        volume: Volume {
            packets: 0,
            octets: 0,
        },
        sequence: 0,
        oldest_ms: 0,
        latest_ms: 0,
        complete_ms: 0,
    };

    /// What stands in it, once it is complete.
    pub fn octets(&self) -> &[u8] {
        &self.octets[..self.length]
    }

    /// Its records, as counters have them.
    pub fn tally(&self) -> Tally {
        Tally {
            records: self.count as u64,
            datagrams: 1,
            volume: self.volume,
        }
    }

    /// Writes records behind those that it has; there is room. The first of them came at `now_ms`.
    #[inline]
    pub fn append(&mut self, version: Version, records: &[DetailedRecord], now_ms: u64) {
        if self.count == 0 {
            (self.length, self.volume, self.oldest_ms, self.latest_ms) =
                (0, Volume::default(), now_ms, 0);
        }
        version.write_records(records, self.count, &mut self.octets);
        for record in records {
            self.latest_ms = self.latest_ms.max(record.flow.last_ms);
            self.volume.add_record(&record.flow);
        }
        self.count += records.len();
    }

    /// Writes the header, behind which the records already stand.
    pub fn write_header(&mut self, version: Version, heading: &Heading) {
        debug_assert!(heading.count == self.count && self.latest_ms <= heading.moment.uptime_ms);
        version.write_header(heading, &mut self.octets);
        self.sequence = heading.sequence;
        self.length = version.datagram_octets(self.count);
    }

    /// Becomes a copy of another collector's, at `sequence`.
    pub fn copy_from(&mut self, other: &Self, version: Version, sequence: u32) {
        self.clone_from(other);
        version.renumber(&mut self.octets, sequence);
        self.sequence = sequence;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(queue: &mut Queue, count: usize) -> bool {
        let Some(datagram) = queue.open() else {
            return false;
        };
        (datagram.count, datagram.length) = (count, count);
        queue.complete();
        true
    }

    #[test]
    fn datagrams_leave_in_the_order_in_which_they_came_and_no_more_come_than_there_is_room_for() {
        let mut queue = Queue::new(3);
        let (mut came, mut left) = (0, 0);
        for turn in 1..50 {
            while queue.room() > turn % 3 && fill(&mut queue, came + 1) {
                came += 1;
            }
            while let Some(oldest) = queue.get(0).map(|oldest| oldest.count)
                && queue.waiting() > turn % 2
            {
                left += 1;
                assert_eq!(oldest, left);
                queue.pop();
            }
        }
        assert!(left > 40);
        while fill(&mut queue, 1) {}
        assert_eq!((queue.room(), queue.waiting()), (0, 3));
        assert!(queue.open().is_none() && queue.under_construction().is_none());
    }
}
