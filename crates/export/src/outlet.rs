//! [`Outlet`]: where the records of one collector go.

use crate::collector::CollectorCounters;
use crate::details::DetailedRecord;
use crate::moment::Moment;
use crate::pace::Pace;
use crate::transport::Transport;
use std::io;
use xdprobe_netflow::v5::SamplingInterval;

/// Takes the records meant for one collector, and delivers them: as datagrams over a network, into
/// a file or a database.
///
/// An outlet that writes at once what it is given has to implement [`push`](Self::push) and
/// [`counters`](Self::counters) only. No method waits for the other end: an outlet keeps records
/// while that is slow, up to a bound that is set at the start, and counts those beyond it as lost.
pub trait Outlet: Send {
    /// Sets the time that sending goes by, in ms of any epoch; it never decreases.
    fn begin_turn(&mut self, now_ms: u64) {
        let _ = now_ms;
    }

    /// Takes records over. `now` is no earlier than any uptime in them.
    fn push(&mut self, records: &[DetailedRecord], now: Moment);

    /// Records that can be pushed before any is lost, at least.
    fn room(&self) -> usize {
        usize::MAX
    }

    /// Arrival time of the oldest record still waiting, in ms of uptime; none if none waits.
    fn oldest_ms(&self) -> Option<u64> {
        None
    }

    /// When the message under construction has to be complete, in ms of uptime; none if there is
    /// none.
    fn flush_due_ms(&self) -> Option<u64> {
        None
    }

    /// Completes the message under construction, if there is one, and dates it `now`.
    fn complete(&mut self, now: Moment) {
        let _ = now;
    }

    /// Sends what may leave: worthwhile quantities only, or with `all` everything that is complete.
    /// Returns when to call again, in ms of the time that sending goes by, if something has to wait
    /// for the pace, for the socket, or for the next hop to answer.
    fn send(&mut self, all: bool, on_refusal: OnRefusal) -> Option<u64> {
        let _ = (all, on_refusal);
        None
    }

    /// Looks for answers about what was sent.
    fn look_for_answers(&mut self) {}

    /// Whether what was sent last was refused, or could not be sent.
    fn is_refusing(&self) -> bool {
        false
    }

    /// Whether something was sent and the system does not yet know whether the next hop takes it.
    fn awaits_proof(&self) -> bool {
        false
    }

    /// Whether a path to the collector has been found; without one nothing can be delivered.
    fn is_connected(&self) -> bool {
        true
    }

    /// Gives the records that still wait to `give`, oldest first, and forgets them: another outlet
    /// gets them. Gives none where they are not kept as records; they go on waiting.
    fn take_back(&mut self, give: &mut dyn FnMut(&[DetailedRecord])) {
        let _ = give;
    }

    /// Loses what still waits, by [`LossReason::Stop`](crate::LossReason::Stop). Nothing is under
    /// construction, and what may leave has left.
    fn abandon(&mut self) {}

    /// Sends over another transport from here on, where it has one, in the same sequence.
    fn replace_transport(&mut self, transport: Box<dyn Transport>) {
        drop(transport);
    }

    /// States another sampling interval with the records that are pushed from here on, where it is
    /// stated at all. No message is under construction.
    fn set_sampling(&mut self, sampling: SamplingInterval) {
        let _ = sampling;
    }

    /// Sends at another pace from here on, where it has one.
    fn set_pace(&mut self, pace: Pace) {
        let _ = pace;
    }

    /// Completes what was delivered; no record follows.
    ///
    /// # Errors
    ///
    /// What prevented it.
    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// What became of the records that were pushed: `sent`, `octets`, `exported`,
    /// `in_doubt`, `lost`, `refusals`, `errors`, `delayed_records`, `delayed_ms` and `waiting`. The
    /// exporter sets the other fields.
    fn counters(&self) -> CollectorCounters;
}

/// What becomes of records that wait for a collector that refuses.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum OnRefusal {
    /// They are sent all the same: it may be back.
    GoOn,
    /// They stay, so that another collector gets them.
    Stop,
}
