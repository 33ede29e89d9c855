//! What versions 1, 5 and 7 have in common on the wire: one header whose first two fields are the
//! version and the record count, then exactly that many records and nothing else, all integers
//! big-endian.
//!
//! Each version's module names its structures and limits and comes here to be decoded and encoded.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Length in octets of the shortest header of the three versions, that of version 1.
pub const HEADER_OCTETS_MIN: usize = crate::v1::HEADER_OCTETS;
/// Length in octets of the longest datagram of the three versions.
pub const DATAGRAM_OCTETS_MAX: usize = max(
    max(
        crate::v1::DATAGRAM_OCTETS_MAX,
        crate::v5::DATAGRAM_OCTETS_MAX,
    ),
    crate::v7::DATAGRAM_OCTETS_MAX,
);

/// Why octets are not a datagram of the expected version.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum DatagramError {
    /// Shorter than a header.
    #[error("datagram of {found} octets is shorter than the {expected}-octet header")]
    Short {
        /// Octets in the datagram.
        found: usize,
        /// Octets in the header.
        expected: usize,
    },
    /// Another version number.
    #[error("version {found}, expected {expected}")]
    Version {
        /// The version that the datagram names.
        found: u16,
        /// The version that this decoder reads.
        expected: u16,
    },
    /// A count of zero or above the version's limit.
    #[error("record count {found}, expected 1 to {max}")]
    Count {
        /// The count that the header names.
        found: u16,
        /// The most records that the version carries.
        max: usize,
    },
    /// The length contradicts the count.
    #[error("datagram of {found} octets, expected {expected} for its record count")]
    Length {
        /// Octets in the datagram.
        found: usize,
        /// Octets of the header and of as many records as it counts.
        expected: usize,
    },
}

/// Why records do not make a datagram.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum EncodeError {
    /// No records, or more than the version carries.
    #[error("{found} records, expected 1 to {max}")]
    RecordCount {
        /// Records given.
        found: usize,
        /// The most records that the version carries.
        max: usize,
    },
    /// The buffer is too short.
    #[error("buffer of {found} octets, expected {expected}")]
    Buffer {
        /// Octets in the buffer.
        found: usize,
        /// Octets that the datagram takes.
        expected: usize,
    },
}

/// The version number that opens the datagram, whatever follows it; `None` below two octets.
#[must_use]
pub fn version_of(datagram: &[u8]) -> Option<u16> {
    datagram
        .first_chunk()
        .map(|octets| u16::from_be_bytes(*octets))
}

/// Views `datagram` as one header and exactly its count of records.
pub(crate) fn decode<H, R>(
    datagram: &[u8],
    version: u16,
    records_max: usize,
) -> Result<(&H, &[R]), DatagramError>
where
    H: FromBytes + KnownLayout + Immutable + Unaligned,
    R: FromBytes + KnownLayout + Immutable + Unaligned,
{
    let short = DatagramError::Short {
        found: datagram.len(),
        expected: size_of::<H>(),
    };
    let (header, records) = H::ref_from_prefix(datagram).map_err(|_| short)?;
    let [v0, v1, c0, c1] = *datagram.first_chunk().ok_or(short)?;
    let found = u16::from_be_bytes([v0, v1]);
    if found != version {
        return Err(DatagramError::Version {
            found,
            expected: version,
        });
    }
    let count = u16::from_be_bytes([c0, c1]);
    if !(1..=records_max).contains(&usize::from(count)) {
        return Err(DatagramError::Count {
            found: count,
            max: records_max,
        });
    }
    let expected = size_of::<H>() + usize::from(count) * size_of::<R>();
    let records = <[R]>::ref_from_bytes_with_elems(records, usize::from(count)).map_err(|_| {
        DatagramError::Length {
            found: datagram.len(),
            expected,
        }
    })?;
    Ok((header, records))
}

/// Places `records` behind the header and the `count` records that `datagram` already has room for
/// or holds. The header is written by [`finish`].
///
/// # Panics
///
/// If `datagram` is too short for them.
#[inline]
pub(crate) fn append<H, R>(datagram: &mut [u8], count: usize, records: impl IntoIterator<Item = R>)
where
    R: IntoBytes + Immutable,
{
    let room = &mut datagram[size_of::<H>() + count * size_of::<R>()..];
    let mut places = room.chunks_exact_mut(size_of::<R>());
    for record in records {
        let place = places
            .next()
            .expect("the datagram has room for its records");
        place.copy_from_slice(record.as_bytes());
    }
}

/// Writes the header in front of `count` records, with `version` and `count` in its first four
/// octets, and returns the length of the datagram in octets.
pub(crate) fn finish<H, R>(datagram: &mut [u8], header: &H, version: u16, count: u16) -> usize
where
    H: IntoBytes + Immutable,
{
    let front = &mut datagram[..size_of::<H>()];
    front.copy_from_slice(header.as_bytes());
    front[..2].copy_from_slice(&version.to_be_bytes());
    front[2..4].copy_from_slice(&count.to_be_bytes());
    size_of::<H>() + usize::from(count) * size_of::<R>()
}

/// Encodes a whole datagram: [`append`] and [`finish`], once lengths have been checked.
pub(crate) fn encode<H, R>(
    header: &H,
    records: &[R],
    datagram: &mut [u8],
    version: u16,
    records_max: usize,
) -> Result<usize, EncodeError>
where
    H: IntoBytes + Immutable,
    R: IntoBytes + Immutable + Copy,
{
    let count = match u16::try_from(records.len()) {
        Ok(count) if (1..=records_max).contains(&records.len()) => count,
        _ => {
            return Err(EncodeError::RecordCount {
                found: records.len(),
                max: records_max,
            });
        }
    };
    let expected = size_of::<H>() + size_of_val(records);
    if datagram.len() < expected {
        return Err(EncodeError::Buffer {
            found: datagram.len(),
            expected,
        });
    }
    append::<H, R>(datagram, 0, records.iter().copied());
    Ok(finish::<H, R>(datagram, header, version, count))
}

/// Reduces an uptime to the 32 bits that headers and records carry; it wraps every 49.71 days.
#[must_use]
#[inline]
#[expect(
    clippy::cast_possible_truncation,
    reason = "SysUptime is defined modulo 2^32"
)]
pub fn uptime_on_the_wire(uptime_ms: u64) -> u32 {
    uptime_ms as u32
}

/// `usize::max` for constants.
const fn max(a: usize, b: usize) -> usize {
    if a > b { a } else { b }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_a_version_from_two_octets_and_not_from_one() {
        assert_eq!(version_of(&[0, 9]), Some(9));
        assert_eq!(version_of(&[0]), None);
    }

    #[test]
    fn thirty_version_5_records_make_the_longest_datagram() {
        assert_eq!((HEADER_OCTETS_MIN, DATAGRAM_OCTETS_MAX), (16, 1464));
    }

    proptest! {
        #[test]
        fn no_octets_are_a_datagram_of_two_versions(octets in proptest::collection::vec(any::<u8>(), 0..1600)) {
            let readings = [crate::v1::decode(&octets).is_ok(), crate::v5::decode(&octets).is_ok(),
                crate::v7::decode(&octets).is_ok()];
            prop_assert!(readings.iter().filter(|read| **read).count() <= 1);
        }
    }
}
