//! The versions of NetFlow that are supported.

use crate::{v1, v5, v7};
use std::fmt;
use std::str::FromStr;

/// A version of NetFlow. Each has a header, a record and limits of its own.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Version {
    /// No sequence, no engine; up to 24 records.
    V1,
    /// The version that every collector reads; up to 30 records.
    #[default]
    V5,
    /// Version 5 with the address of a router and without an engine; up to 27 records.
    V7,
}

impl Version {
    /// Every version.
    pub const ALL: [Self; 3] = [Self::V1, Self::V5, Self::V7];

    /// The number in the first field of its datagrams.
    #[must_use]
    pub const fn number(self) -> u16 {
        match self {
            Self::V1 => v1::VERSION,
            Self::V5 => v5::VERSION,
            Self::V7 => v7::VERSION,
        }
    }

    /// The version of this number, if it is supported.
    #[must_use]
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|version| version.number() == number)
    }

    /// The most records that one datagram carries.
    #[must_use]
    pub const fn records_max(self) -> usize {
        match self {
            Self::V1 => v1::RECORDS_MAX,
            Self::V5 => v5::RECORDS_MAX,
            Self::V7 => v7::RECORDS_MAX,
        }
    }

    /// Length of a header in octets.
    #[must_use]
    pub const fn header_octets(self) -> usize {
        match self {
            Self::V1 => v1::HEADER_OCTETS,
            Self::V5 => v5::HEADER_OCTETS,
            Self::V7 => v7::HEADER_OCTETS,
        }
    }

    /// Length of a record in octets.
    #[must_use]
    pub const fn record_octets(self) -> usize {
        match self {
            Self::V1 => v1::RECORD_OCTETS,
            Self::V5 => v5::RECORD_OCTETS,
            Self::V7 => v7::RECORD_OCTETS,
        }
    }

    /// Length of a datagram of `count` records, in octets.
    #[must_use]
    pub const fn datagram_octets(self, count: usize) -> usize {
        self.header_octets() + count * self.record_octets()
    }

    /// Length of the longest datagram, in octets.
    #[must_use]
    pub const fn datagram_octets_max(self) -> usize {
        self.datagram_octets(self.records_max())
    }

    /// The most records that fit a UDP payload of `payload_octets`: 0 if not even one fits, and
    /// never more than [`records_max`](Self::records_max).
    #[must_use]
    pub fn records_in(self, payload_octets: usize) -> usize {
        (payload_octets.saturating_sub(self.header_octets()) / self.record_octets())
            .min(self.records_max())
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.number().fmt(f)
    }
}

impl FromStr for Version {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.parse().ok();
        number
            .and_then(Self::from_number)
            .ok_or_else(|| format!("NetFlow {text} is not supported: choose 1, 5 or 7"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_known_by_their_numbers() {
        for version in Version::ALL {
            assert_eq!(Version::from_number(version.number()), Some(version));
            assert_eq!(version.to_string().parse(), Ok(version));
        }
        assert_eq!(
            "9".parse::<Version>(),
            Err("NetFlow 9 is not supported: choose 1, 5 or 7".to_owned())
        );
    }

    #[test]
    fn a_payload_holds_as_many_records_as_fit_and_the_version_allows() {
        for (version, payload_octets, records) in [
            (Version::V5, 71, 0),
            (Version::V5, 72, 1),
            (Version::V5, 1452, 29),
            (Version::V5, 9000, 30),
            (Version::V1, 9000, 24),
            (Version::V7, 1400, 26),
        ] {
            assert_eq!(version.records_in(payload_octets), records);
        }
    }
}
