//! Local time, fast enough for a printer: the time zone is consulted once for each period between
//! two changes of its offset.

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// A time zone that keeps the offset of its last result, and the period in which this offset holds.
#[derive(Debug)]
pub struct LocalZone {
    zone: TimeZone,
    offset_s: i64,
    valid_from_s: i64,
    valid_until_s: i64,
}

/// Date and time of day, without the year.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct LocalTime {
    pub month: u8,
    pub day: u8,
    pub hour: u8,
    pub minute: u8,
    pub second: u8,
}

impl LocalZone {
    /// The zone of `TZ`, else of `/etc/localtime`, else UTC.
    #[must_use]
    pub fn system() -> Self {
        Self::new(system())
    }

    /// The given zone.
    #[must_use]
    pub fn new(zone: TimeZone) -> Self {
        Self {
            zone,
            offset_s: 0,
            valid_from_s: 0,
            valid_until_s: 0,
        }
    }

    /// The zone itself.
    #[must_use]
    pub fn zone(&self) -> &TimeZone {
        &self.zone
    }

    /// Local date and time at `unix_s`.
    #[inline]
    pub(crate) fn local(&mut self, unix_s: u32) -> LocalTime {
        let unix_s = i64::from(unix_s);
        if !(self.valid_from_s..self.valid_until_s).contains(&unix_s) {
            self.look_up(unix_s);
        }
        split(unix_s + self.offset_s).1
    }

    /// Finds the offset at `unix_s` and the period in which it holds.
    #[cold]
    fn look_up(&mut self, unix_s: i64) {
        let at = from_second(unix_s);
        let seconds =
            |transition: jiff::tz::TimeZoneTransition<'_>| transition.timestamp().as_second();
        self.offset_s = i64::from(self.zone.to_offset(at).seconds());
        self.valid_until_s = self.zone.following(at).next().map_or(i64::MAX, seconds);
        // `preceding` has changes before `at` only. If the offset differs behind the last of them,
        // another change is at this very second, and the period begins here.
        self.valid_from_s = match self.zone.preceding(at).next().map(seconds) {
            Some(change)
                if i64::from(self.zone.to_offset(from_second(change)).seconds())
                    == self.offset_s =>
            {
                change
            }
            Some(_) => unix_s,
            None => i64::MIN,
        };
    }
}

fn from_second(unix_s: i64) -> Timestamp {
    Timestamp::from_second(unix_s).expect("the time is within the calendar of the library")
}

/// The zone of `TZ`, else of `/etc/localtime`, else UTC, as the C library chooses it.
#[must_use]
pub fn system() -> TimeZone {
    TimeZone::try_system()
        .ok()
        .or_else(|| without_rule(&std::env::var("TZ").ok()?))
        .unwrap_or(TimeZone::UTC)
}

/// The zone of a `TZ` that has summer time but no rule for its begin and end: the C library then
/// uses the rule of the United States.
fn without_rule(name: &str) -> Option<TimeZone> {
    TimeZone::posix(&format!("{name},M3.2.0,M11.1.0")).ok()
}

/// Year, and the rest of date and time, in UTC.
#[inline]
pub(crate) fn utc(unix_s: i64) -> (i64, LocalTime) {
    split(unix_s)
}

/// Splits seconds since 1970, in UTC or local time, into the year and the rest of date and time.
///
/// Source: Neri and Schneider, *Euclidean affine functions and their application to
/// calendar algorithms*, in the plain form of Hinnant's `civil_from_days`.
#[inline]
#[expect(
    clippy::cast_possible_truncation,
    reason = "each value is within 0 to 59 or a calendar's range"
)]
fn split(local_s: i64) -> (i64, LocalTime) {
    let days = local_s.div_euclid(86_400);
    let of_day = local_s.rem_euclid(86_400) as u32;
    let era = (days + 719_468).div_euclid(146_097);
    let day_of_era = (days + 719_468).rem_euclid(146_097) as u32;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = era * 400 + i64::from(year_of_era) + i64::from(month <= 2);
    let rest = LocalTime {
        month: month as u8,
        day: day as u8,
        hour: (of_day / 3600) as u8,
        minute: (of_day / 60 % 60) as u8,
        second: (of_day % 60) as u8,
    };
    (year, rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn splits_times_before_1970_and_leap_days() {
        let date = |unix_s| {
            let (year, rest) = utc(unix_s);
            (
                year,
                rest.month,
                rest.day,
                rest.hour,
                rest.minute,
                rest.second,
            )
        };
        assert_eq!(date(-1), (1969, 12, 31, 23, 59, 59));
        assert_eq!(date(951_782_400), (2000, 2, 29, 0, 0, 0));
        assert_eq!(date(1_795_352_088), (2026, 11, 22, 12, 54, 48));
    }

    fn oracle(zone: &TimeZone, unix_s: u32) -> LocalTime {
        let local = from_second(i64::from(unix_s)).to_zoned(zone.clone());
        let small = |field: i8| u8::try_from(field).unwrap();
        LocalTime {
            month: small(local.month()),
            day: small(local.day()),
            hour: small(local.hour()),
            minute: small(local.minute()),
            second: small(local.second()),
        }
    }

    /// A zone with summer time that needs no time zone database.
    fn berlin() -> TimeZone {
        TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()
    }

    #[test]
    fn changes_offset_at_the_second_of_the_change() {
        // 2026-03-29 01:00:00 UTC, when 02:00 becomes 03:00.
        let change = 1_774_746_000;
        let mut zone = LocalZone::new(berlin());
        for unix_s in [change - 1, change, change + 1, change - 1, change] {
            assert_eq!(zone.local(unix_s), oracle(&berlin(), unix_s), "{unix_s}");
        }
    }

    #[test]
    fn a_zone_without_a_rule_has_that_of_the_c_library() {
        let mut zone = LocalZone::new(without_rule("CET-1CEST").unwrap());
        assert_eq!(zone.local(1_795_352_088).hour, 13);
        assert_eq!(zone.local(1_784_000_000).hour, 5);
        assert!(without_rule("Nowhere/None").is_none());
    }

    proptest! {
        #[test]
        fn agrees_with_the_library(times in proptest::collection::vec(any::<u32>(), 1..30)) {
            let mut zone = LocalZone::new(berlin());
            for unix_s in times {
                prop_assert_eq!(zone.local(unix_s), oracle(&berlin(), unix_s));
            }
        }
    }
}
