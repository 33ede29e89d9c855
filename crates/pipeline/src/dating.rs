//! Headers for records that are off the clock.
//!
//! A header dates the uptimes of its datagram, which have 32 bits: back to 49.7 days before the
//! header, and not before uptime began. Records of a capture file whose packets came out of order
//! may be further off. They get a header of their own, and uptimes that its 32 bits can carry, so
//! that their times are those of their packets.

use crate::capture_clock::BEGIN_MS;
use xdprobe_export::Moment;
use xdprobe_flow::FlowRecord;

/// How some records are dated.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Dating {
    /// How many records it is for.
    pub count: usize,
    /// What their header says; the time of the batch itself where nothing is off it.
    pub moment: Moment,
    /// By how much to move their uptimes, in ms modulo 2^64.
    pub moved_ms: u64,
}

/// Uptimes of one datagram that are no further apart than this can be distinguished, in ms.
const SPAN_MS_MAX: u64 = u32::MAX as u64;

/// How the first of `records`, of which there is at least one, are dated in a batch of `now`.
pub fn of_first(records: &[FlowRecord], now: Moment) -> Dating {
    let span_of = |record: &FlowRecord| (record.first_ms, record.last_ms);
    let is_on_clock = |record: &FlowRecord| {
        record.last_ms <= now.uptime_ms && now.uptime_ms - record.first_ms <= SPAN_MS_MAX
    };
    let on_clock = is_on_clock(&records[0]);
    let first = if on_clock {
        (now.uptime_ms, now.uptime_ms)
    } else {
        span_of(&records[0])
    };
    let (mut count, mut earliest_ms, mut latest_ms) = (0, first.0, first.1);
    for record in records {
        let with_it = (
            record.first_ms.min(earliest_ms),
            record.last_ms.max(latest_ms),
        );
        let is_one_of_them =
            count == 0 || is_on_clock(record) == on_clock && with_it.1 - with_it.0 <= SPAN_MS_MAX;
        if !is_one_of_them {
            break;
        }
        (earliest_ms, latest_ms) = with_it;
        count += 1;
    }
    let is_carried = earliest_ms >= BEGIN_MS && (on_clock || latest_ms - BEGIN_MS <= SPAN_MS_MAX);
    let moved_ms = if is_carried {
        0
    } else {
        BEGIN_MS.wrapping_sub(earliest_ms)
    };
    let dated = now.at(latest_ms);
    Dating {
        count,
        moment: Moment {
            uptime_ms: latest_ms.wrapping_add(moved_ms),
            ..dated
        },
        moved_ms,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use xdprobe_flow::{EndReason, KeyV4, Volume};

    const DAY_MS: u64 = 86_400_000;
    /// Some days after uptime began.
    const NOW_MS: u64 = BEGIN_MS + 3 * DAY_MS;
    const NOW: Moment = Moment {
        uptime_ms: NOW_MS,
        unix_ns: 1_700_000_000_000_000_000,
    };

    fn record(first_ms: u64, last_ms: u64) -> FlowRecord {
        FlowRecord {
            key: KeyV4 {
                source: Ipv4Addr::LOCALHOST,
                destination: Ipv4Addr::LOCALHOST,
                source_port: 1,
                destination_port: 2,
                protocol: 6,
                tos: 0,
                point: 0,
            },
            volume: Volume::of_packet(40),
            first_ms,
            last_ms,
            tcp_flags: 0,
            end: EndReason::Idle,
        }
    }

    fn dated(records: &[(u64, u64)]) -> Dating {
        let records: Vec<_> = records
            .iter()
            .map(|(first_ms, last_ms)| record(*first_ms, *last_ms))
            .collect();
        of_first(&records, NOW)
    }

    #[test]
    fn records_on_the_clock_are_dated_by_their_batch() {
        let with_a_stray = [
            (BEGIN_MS, BEGIN_MS + 5),
            (NOW_MS - 9, NOW_MS),
            (NOW_MS, NOW_MS + 1),
        ];
        let expected = Dating {
            count: 2,
            moment: NOW,
            moved_ms: 0,
        };
        assert_eq!(dated(&with_a_stray), expected);
    }

    #[test]
    fn records_that_one_header_cannot_carry_get_one_of_their_own() {
        let far_ms = 1_700_000_000_000;
        let before = (BEGIN_MS - 20_000, BEGIN_MS - 10_000);
        let in_1970 = (NOW_MS - far_ms, NOW_MS - far_ms + 7);
        let ahead = (NOW_MS + 60_000, NOW_MS + 61_000);
        let far_ahead = (NOW_MS + far_ms, NOW_MS + far_ms + 7);
        for (records, count) in [
            (vec![before, (NOW_MS, NOW_MS)], 2),
            (vec![in_1970, (NOW_MS, NOW_MS)], 1),
            (vec![in_1970, in_1970, before], 2),
            (vec![ahead, ahead, far_ahead], 2),
            (vec![far_ahead, far_ahead], 2),
        ] {
            let dating = dated(&records);
            assert_eq!(dating.count, count, "{records:?}");
            let uptime_ms = dating.moment.uptime_ms;
            for (first_ms, last_ms) in &records[..count] {
                let on_the_wire = [first_ms, last_ms].map(|ms| ms.wrapping_add(dating.moved_ms));
                let [first, last] = on_the_wire;
                assert!(BEGIN_MS <= first && first <= last && last <= uptime_ms);
                assert!(uptime_ms - BEGIN_MS <= SPAN_MS_MAX, "{records:?}");
                // The header and the uptimes say when it was.
                let unix_ms = dating.moment.unix_ns / 1_000_000 - (uptime_ms - first);
                assert_eq!(
                    unix_ms,
                    1_700_000_000_000 + first_ms - NOW_MS,
                    "{records:?}"
                );
            }
        }
    }
}
