//! [`Format`]: how records become messages.

use crate::details::DetailedRecord;
use crate::moment::Moment;
use crate::tally::Tally;
use xdprobe_netflow::v5::SamplingInterval;

/// Encodes records into the messages of one wire format, straight into the memory that they are
/// sent from.
///
/// A message is built in place: [`append`](Self::append) as often as needed, then
/// [`finish`](Self::finish). One message is under construction at a time, and `append` with
/// `before == 0` begins it, so that a format may keep the state of that message in itself.
pub trait Format: Send {
    /// The longest message, in octets.
    fn message_octets_max(&self) -> usize;

    /// Length in octets of a message with this many records.
    fn message_octets(&self, records: usize) -> usize;

    /// How many records, of whatever kind, fit a message of `payload_octets`: 0 if none does.
    fn records_in(&self, payload_octets: usize) -> usize;

    /// Encodes as many of `records` as the message has room for, at least one in an empty message,
    /// behind the `before` records that it holds. The finished message is no longer than
    /// `payload_octets`, unless a single record is.
    ///
    /// # Panics
    ///
    /// If `message` is shorter than [`message_octets_max`](Self::message_octets_max).
    fn append(
        &mut self,
        records: &[DetailedRecord],
        before: usize,
        payload_octets: usize,
        message: &mut [u8],
    ) -> Appended;

    /// Completes a message of `count` records with its header, and returns its length in octets.
    fn finish(&mut self, heading: &Heading, count: usize, message: &mut [u8]) -> usize;

    /// Gives a finished message to `piece` in several, none longer than `payload_octets` unless a
    /// single record is, each with the tally of its records: for a path that became narrower while
    /// the message waited.
    fn split(&self, message: &[u8], payload_octets: usize, piece: &mut dyn FnMut(&[u8], Tally));

    /// States another sampling interval in the headers of messages that are finished from here on,
    /// where they have a field for it.
    fn set_sampling(&mut self, sampling: SamplingInterval) {
        let _ = sampling;
    }

    /// By how much the sequence number of the next message is above that of one with this many
    /// records.
    fn sequence_step(&self, records: usize) -> u32;
}

/// What a header states besides the settings of its format.
#[derive(Clone, Copy, Debug)]
pub struct Heading {
    /// When the message was complete; no earlier than any uptime in its records.
    pub moment: Moment,
    /// Sequence number of the message.
    pub sequence: u32,
}

/// What [`Format::append`] did.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Appended {
    /// How many of the records are in the message now.
    pub count: usize,
    /// Whether the message has no room for another record.
    pub is_full: bool,
}
