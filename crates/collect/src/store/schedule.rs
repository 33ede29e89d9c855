//! When a file ends, and how it is named: flow-capture's rules.

use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan, Zoned};
use std::path::{Path, PathBuf};
use xdprobe_netflow::Version;

const DAY_S: i64 = 86_400;

/// Rotations a day, 0 to 1439, without the one at midnight: a file covers 86400 / (n + 1) seconds,
/// counted from local midnight.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rotations(u16);

impl Default for Rotations {
    /// 95: a file for each quarter of an hour.
    fn default() -> Self {
        Self(95)
    }
}

impl TryFrom<u16> for Rotations {
    type Error = String;

    fn try_from(rotations: u16) -> Result<Self, String> {
        match rotations {
            0..=1439 => Ok(Self(rotations)),
            _ => Err(format!(
                "{rotations} rotations a day, expected 0 to 1439: at most one a minute"
            )),
        }
    }
}

/// Subdirectories of the files, -3 to 3.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Nesting(i8);

impl Default for Nesting {
    /// 3, `YYYY/YYYY-MM/YYYY-MM-DD`: the default of flow-capture's code, not of its manual page.
    fn default() -> Self {
        Self(3)
    }
}

impl TryFrom<i8> for Nesting {
    type Error = String;

    fn try_from(level: i8) -> Result<Self, String> {
        match level {
            -3..=3 => Ok(Self(level)),
            _ => Err(format!("nesting level {level}, expected -3 to 3")),
        }
    }
}

impl Nesting {
    /// The subdirectory as a format of strftime.
    fn format(self) -> &'static str {
        match self.0 {
            0 => "",
            1 => "%Y",
            2 => "%Y/%Y-%m",
            -1 => "%Y-%m-%d",
            -2 => "%Y-%m/%Y-%m-%d",
            _ => "%Y/%Y-%m/%Y-%m-%d",
        }
    }
}

/// Names of one file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Names {
    pub temporary: PathBuf,
    pub finished: PathBuf,
}

/// Rotation and naming in a time zone.
#[derive(Debug)]
pub(super) struct Schedule {
    zone: TimeZone,
    rotations: Rotations,
    nesting: Nesting,
}

impl Schedule {
    pub(super) fn new(zone: TimeZone, rotations: Rotations, nesting: Nesting) -> Self {
        Self {
            zone,
            rotations,
            nesting,
        }
    }

    /// When a file that begins at `now` ends: at the next multiple of the interval since local
    /// midnight, or at the next midnight.
    pub(super) fn next_rotation(&self, now: i64) -> i64 {
        let local = self.local(now);
        let parts = i64::from(self.rotations.0) + 1;
        let second = |moment: Zoned| moment.timestamp().as_second();
        let midnight = local.start_of_day().map_or(now, second);
        let tomorrow = local
            .checked_add(1.day())
            .and_then(|next| next.start_of_day())
            .map_or(now + DAY_S, second);
        let part = (now - midnight) * parts / DAY_S + 1;
        // Rounded up, so that the next file begins in the next interval.
        let end = midnight
            + (part * DAY_S).div_euclid(parts)
            + i64::from((part * DAY_S).rem_euclid(parts) > 0);
        end.min(tomorrow)
    }

    /// Names below `directory` for a file that begins at `now`, or at the first second after it for
    /// which no file exists.
    pub(super) fn names(&self, directory: &Path, version: Version, now: i64) -> Names {
        let mut began = now;
        loop {
            let names = self.names_at(directory, version, began);
            // Also a symbolic link that leads nowhere has the name.
            let is_free = |path: &Path| path.symlink_metadata().is_err();
            if is_free(&names.temporary) && is_free(&names.finished) {
                return names;
            }
            began += 1;
        }
    }

    fn names_at(&self, directory: &Path, version: Version, began: i64) -> Names {
        let local = self.local(began);
        let parent = directory.join(local.strftime(self.nesting.format()).to_string());
        let name = format!(
            "v{:02}.{}",
            version.number(),
            local.strftime("%Y-%m-%d.%H%M%S%z")
        );
        Names {
            temporary: parent.join(format!("tmp-{name}")),
            finished: parent.join(format!("ft-{name}")),
        }
    }

    fn local(&self, unix_s: i64) -> Zoned {
        Timestamp::from_second(unix_s)
            .expect("the time is within the calendar of the library")
            .to_zoned(self.zone.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// 2026-11-22 12:54:48 UTC.
    const NOW: i64 = 1_795_352_088;
    const MIDNIGHT: i64 = NOW - 12 * 3600 - 54 * 60 - 48;

    fn schedule(rotations: u16, nesting: i8) -> Schedule {
        let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        Schedule::new(
            zone,
            rotations.try_into().unwrap(),
            nesting.try_into().unwrap(),
        )
    }

    #[test]
    fn rotates_at_parts_of_the_local_day() {
        assert_eq!(schedule(95, 0).next_rotation(NOW), MIDNIGHT + 13 * 3600);
        assert_eq!(
            schedule(95, 0).next_rotation(MIDNIGHT + 13 * 3600),
            MIDNIGHT + 13 * 3600 + 900
        );
        assert_eq!(schedule(1439, 0).next_rotation(NOW), NOW + 12);
        // Once a day: at midnight in Berlin, an hour before that of UTC.
        assert_eq!(schedule(0, 0).next_rotation(NOW), MIDNIGHT + DAY_S - 3600);
    }

    #[test]
    fn a_day_of_25_hours_ends_at_midnight() {
        // 2026-10-25 in Berlin begins at 22:00 UTC the day before.
        let begin = 1_792_879_200;
        assert_eq!(schedule(0, 0).next_rotation(begin), begin + DAY_S);
        assert_eq!(
            schedule(0, 0).next_rotation(begin + DAY_S),
            begin + DAY_S + 3600
        );
    }

    #[test]
    fn nests_as_flow_capture() {
        let path = |nesting| {
            let names = schedule(95, nesting).names(Path::new("/none"), Version::V5, NOW);
            names.finished.to_str().unwrap().to_owned()
        };
        assert_eq!(path(0), "/none/ft-v05.2026-11-22.135448+0100");
        assert_eq!(path(1), "/none/2026/ft-v05.2026-11-22.135448+0100");
        assert_eq!(path(2), "/none/2026/2026-11/ft-v05.2026-11-22.135448+0100");
        assert_eq!(
            path(3),
            "/none/2026/2026-11/2026-11-22/ft-v05.2026-11-22.135448+0100"
        );
        assert_eq!(path(-1), "/none/2026-11-22/ft-v05.2026-11-22.135448+0100");
        assert_eq!(
            path(-2),
            "/none/2026-11/2026-11-22/ft-v05.2026-11-22.135448+0100"
        );
        assert_eq!(path(-3), path(3));
    }

    #[test]
    fn refuses_more_than_one_rotation_a_minute() {
        assert!(Rotations::try_from(1440).is_err());
        assert!(Nesting::try_from(4).is_err());
    }

    proptest! {
        #[test]
        fn the_next_rotation_is_ahead_and_within_the_interval(
            now in 0i64..4_000_000_000,
            rotations in 0u16..1440,
        ) {
            let next = schedule(rotations, 0).next_rotation(now);
            let interval = DAY_S / (i64::from(rotations) + 1) + 1;
            prop_assert!(next > now && next <= now + interval, "{} after {}", next - now, now);
        }
    }
}
