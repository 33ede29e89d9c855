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

/// Why octets are not a datagram of the wanted version.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum DatagramError {
    /// Shorter than a header.
    #[error("datagram of {found} octets is shorter than the {wanted}-octet header")]
    Short {
        /// Octets in the datagram.
        found: usize,
        /// Octets in the header.
        wanted: usize,
    },
    /// Another version number.
    #[error("version {found}, wanted {wanted}")]
    Version {
        /// The version that the datagram names.
        found: u16,
        /// The version that this decoder reads.
        wanted: u16,
    },
    /// A count of zero or above the version's limit.
    #[error("record count {found}, wanted 1 to {max}")]
    Count {
        /// The count that the header names.
        found: u16,
        /// The most records that the version carries.
        max: usize,
    },
    /// The length contradicts the count.
    #[error("datagram of {found} octets, wanted {wanted} for its record count")]
    Length {
        /// Octets in the datagram.
        found: usize,
        /// Octets of the header and of as many records as it counts.
        wanted: usize,
    },
}

/// Why records do not make a datagram.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum EncodeError {
    /// No records, or more than the version carries.
    #[error("{found} records, wanted 1 to {max}")]
    RecordCount {
        /// Records given.
        found: usize,
        /// The most records that the version carries.
        max: usize,
    },
    /// The buffer is too short.
    #[error("buffer of {found} octets, wanted {wanted}")]
    Buffer {
        /// Octets in the buffer.
        found: usize,
        /// Octets that the datagram takes.
        wanted: usize,
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
        wanted: size_of::<H>(),
    };
    let (header, records) = H::ref_from_prefix(datagram).map_err(|_| short)?;
    let [v0, v1, c0, c1] = *datagram.first_chunk().ok_or(short)?;
    let found = u16::from_be_bytes([v0, v1]);
    if found != version {
        return Err(DatagramError::Version {
            found,
            wanted: version,
        });
    }
    let count = u16::from_be_bytes([c0, c1]);
    if !(1..=records_max).contains(&usize::from(count)) {
        return Err(DatagramError::Count {
            found: count,
            max: records_max,
        });
    }
    let wanted = size_of::<H>() + usize::from(count) * size_of::<R>();
    let records = <[R]>::ref_from_bytes_with_elems(records, usize::from(count)).map_err(|_| {
        DatagramError::Length {
            found: datagram.len(),
            wanted,
        }
    })?;
    Ok((header, records))
}

/// Writes header, with `version` and the true count in its first four octets, and records to the
/// front of `datagram`.
pub(crate) fn encode<H, R>(
    header: &H,
    records: &[R],
    datagram: &mut [u8],
    version: u16,
    records_max: usize,
) -> Result<usize, EncodeError>
where
    H: IntoBytes + Immutable,
    R: IntoBytes + Immutable,
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
    let wanted = size_of::<H>() + size_of_val(records);
    let found = datagram.len();
    let room = datagram
        .get_mut(..wanted)
        .ok_or(EncodeError::Buffer { found, wanted })?;
    let (head, body) = room.split_at_mut(size_of::<H>());
    head.copy_from_slice(header.as_bytes());
    head[..2].copy_from_slice(&version.to_be_bytes());
    head[2..4].copy_from_slice(&count.to_be_bytes());
    body.copy_from_slice(records.as_bytes());
    Ok(wanted)
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
