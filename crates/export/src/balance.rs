//! Balance: each record goes to one collector, and all records of one flow key to the same.

use crate::details::DetailedRecord;
use crate::moment::Moment;
use crate::recipient::Recipient;
use foldhash::quality::FixedState;
use std::hash::BuildHasher;
use xdprobe_flow::KeyV4;

/// Divides records among recipients by their flow key. Memory is allocated at the start.
pub struct Balance {
    /// Which recipient gets each of the records that are being divided.
    shares: Vec<usize>,
    /// The records of one recipient.
    share: Vec<DetailedRecord>,
}

/// Records that are divided at a time, so that each recipient gets several at once.
const DIVIDED_MAX: usize = 256;

impl Balance {
    pub fn new() -> Self {
        Self {
            shares: Vec::with_capacity(DIVIDED_MAX),
            share: Vec::with_capacity(DIVIDED_MAX),
        }
    }

    /// Pushes each record to the recipient of its key, in the order in which they come.
    pub fn push(&mut self, recipients: &mut [Recipient], records: &[DetailedRecord], now: Moment) {
        let Self { shares, share } = self;
        for records in records.chunks(DIVIDED_MAX) {
            shares.clear();
            let keys = records.iter().map(|record| &record.flow.key);
            shares.extend(keys.map(|key| share_of(key, recipients.len())));
            for (nth, recipient) in recipients.iter_mut().enumerate() {
                let its = shares
                    .iter()
                    .zip(records)
                    .filter(|(share, _)| **share == nth);
                share.clear();
                share.extend(its.map(|(_, record)| record));
                if !share.is_empty() {
                    recipient.push(share, DetailedRecord::tally(share), now);
                }
            }
        }
    }
}

/// Which of `recipients` gets the records of a key: the same one in every run.
fn share_of(key: &KeyV4, recipients: usize) -> usize {
    const SEED: u64 = 0x7864_7072_6f62_6500;
    let hash = FixedState::with_seed(SEED).hash_one(key);
    // The hash as a fraction of 2^64, times the number of shares (Lemire, "Fast random integer
    // generation in an interval").
    let share = (u128::from(hash) * recipients as u128) >> 64;
    usize::try_from(share).expect("it is below the number of recipients")
}
