//! Values of options, as they are written and as they are meant.

use std::time::Duration;

/// Cores by number. A type of its own, since clap takes a bare vector for a repeated option.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Cores(pub Vec<usize>);

/// RX queues of an interface.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Queues {
    /// All that the interface has.
    All,
    /// Those of these numbers.
    Some(Vec<u32>),
}

/// A time in whole ms.
pub fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).expect("an option is at most 24 h")
}

/// A time such as `15s`, `500ms` or `2min`; a bare number is seconds, as in fprobe's options.
pub fn parse_timeout(text: &str) -> Result<Duration, String> {
    /// A flow must be exported before its uptimes wrap, after 49.7 days.
    const MAX: Duration = Duration::from_secs(24 * 60 * 60);
    let bare = text.parse().map(Duration::from_secs).ok();
    let duration = bare.or_else(|| humantime::parse_duration(text).ok());
    let expected = || {
        format!(
            "'{text}' is not a time from 1ms to 24h: expected a number and a unit, as in 15s, \
             500ms or 2min"
        )
    };
    duration
        .filter(|duration| (Duration::from_millis(1)..=MAX).contains(duration))
        .ok_or_else(expected)
}

/// A time as in [`parse_timeout`], or 0.
pub fn parse_spread(text: &str) -> Result<Duration, String> {
    if text == "0" {
        Ok(Duration::ZERO)
    } else {
        parse_timeout(text)
    }
}

/// The capacity of a flow cache.
pub fn parse_flows(text: &str) -> Result<usize, String> {
    let expected = || format!("'{text}' is not a number of flows: expected 1 to 1000000000");
    text.parse()
        .ok()
        .filter(|flows| (1..=1_000_000_000).contains(flows))
        .ok_or_else(expected)
}

/// The entries of a ring.
pub fn parse_ring(text: &str) -> Result<u32, String> {
    let expected =
        || format!("'{text}' is not a ring size: expected a power of two from 64 to 1048576");
    text.parse()
        .ok()
        .filter(|entries: &u32| entries.is_power_of_two() && (64..=1 << 20).contains(entries))
        .ok_or_else(expected)
}

/// RX queues: `all`, or numbers and ranges.
pub fn parse_queues(text: &str) -> Result<Queues, String> {
    if text == "all" {
        return Ok(Queues::All);
    }
    /// More than any card has.
    const QUEUES_MAX: u32 = 4_096;
    parse_list(text, "queues", QUEUES_MAX).map(Queues::Some)
}

/// Cores: numbers and ranges.
pub fn parse_cores(text: &str) -> Result<Cores, String> {
    /// A set of cores of the C library has places for so many (CPU_SETSIZE).
    const CORES_MAX: u32 = 1_024;
    let cores = parse_list(text, "cores", CORES_MAX)?;
    let cores = cores.into_iter().map(|core| core as usize);
    Ok(Cores(cores.collect()))
}

/// Numbers below `max` and ranges, each at most once: `0-3,6`.
fn parse_list(text: &str, what: &str, max: u32) -> Result<Vec<u32>, String> {
    let expected = || {
        format!(
            "'{text}' is not a list of {what}: expected numbers and ranges from 0 to {}, each \
             once, as in 0-3,6",
            max - 1
        )
    };
    let mut list = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = first
            .parse()
            .ok()
            .zip(last.parse().ok())
            .ok_or_else(expected)?;
        if first > last || last >= max || list.iter().any(|number| (first..=last).contains(number))
        {
            return Err(expected());
        }
        list.extend(first..=last);
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_hold_numbers_and_ranges_each_once() {
        assert_eq!(
            parse_list("0-3,6", "queues", 4_096),
            Ok(vec![0, 1, 2, 3, 6])
        );
        for bad in ["", "1,1", "0-3,2", "a", "1-", "5000"] {
            assert!(parse_list(bad, "queues", 4_096).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_have_units_or_are_seconds() {
        assert_eq!(parse_timeout("60"), Ok(Duration::from_secs(60)));
        assert_eq!(parse_timeout("500ms"), Ok(Duration::from_millis(500)));
        assert!(parse_timeout("0").is_err() && parse_timeout("50d").is_err());
    }
}
