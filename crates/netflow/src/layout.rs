//! How a datagram of versions 1, 5 and 7 is laid out, for each of them: a header that begins with
//! the version and the record count, then exactly that many records, nothing after them, all
//! integers big-endian.
//!
//! A version names its header, record and limits in [`Layout`]; decoding and encoding are here.

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Octets that can be viewed as a value and written from one.
pub trait Wire: FromBytes + IntoBytes + Immutable + KnownLayout + Unaligned + Copy {}

impl<T: FromBytes + IntoBytes + Immutable + KnownLayout + Unaligned + Copy> Wire for T {}

/// A version's header, and with it the version's record and limits.
pub trait Layout: Wire {
    /// The record that follows the header.
    type Record: Wire;
    /// The number in the header's first field.
    const VERSION: u16;
    /// The most records that one datagram carries.
    const RECORDS_MAX: usize;
}

/// The fields that open every header.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Opening {
    /// The version.
    pub version: U16,
    /// Records that follow the header.
    pub count: U16,
}

/// Why octets are not a datagram of the expected version.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum DatagramError {
    /// Shorter than a header.
    #[error("datagram of {found} octets is shorter than the header of {expected} octets")]
    Short {
        /// Octets in the datagram.
        found: usize,
        /// Octets in the header.
        expected: usize,
    },
    /// Another version number.
    #[error("NetFlow version {found}, expected {expected}")]
    Version {
        /// The version in the header.
        found: u16,
        /// The version that this decoder reads.
        expected: u16,
    },
    /// A count of zero or above the version's limit.
    #[error("record count {found}, expected 1 to {max}")]
    Count {
        /// The count in the header.
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
    #[error("buffer of {found} octets, expected at least {expected}")]
    Buffer {
        /// Octets in the buffer.
        found: usize,
        /// Octets that the datagram takes.
        expected: usize,
    },
}

/// Views `datagram` as one header and exactly its count of records.
pub fn decode<H: Layout>(datagram: &[u8]) -> Result<(&H, &[H::Record]), DatagramError> {
    let short = DatagramError::Short {
        found: datagram.len(),
        expected: size_of::<H>(),
    };
    let (header, records) = H::ref_from_prefix(datagram).map_err(|_| short)?;
    let (opening, _) = Opening::ref_from_prefix(datagram).map_err(|_| short)?;
    let (version, count) = (opening.version.get(), opening.count.get());
    if version != H::VERSION {
        return Err(DatagramError::Version {
            found: version,
            expected: H::VERSION,
        });
    }
    let record_count = usize::from(count);
    if !(1..=H::RECORDS_MAX).contains(&record_count) {
        return Err(DatagramError::Count {
            found: count,
            max: H::RECORDS_MAX,
        });
    }
    let records = <[H::Record]>::ref_from_bytes_with_elems(records, record_count);
    let records = records.map_err(|_| DatagramError::Length {
        found: datagram.len(),
        expected: octets_of::<H>(record_count),
    })?;
    Ok((header, records))
}

/// Writes `records` behind the first `count` records of `datagram`. [`finish`] writes the header.
///
/// # Panics
///
/// If `datagram` is too short for them.
#[inline]
pub fn append<H: Layout>(
    datagram: &mut [u8],
    count: usize,
    records: impl IntoIterator<Item = H::Record>,
) {
    let room = &mut datagram[octets_of::<H>(count)..];
    let mut places = room.chunks_exact_mut(size_of::<H::Record>());
    for record in records {
        let place = places
            .next()
            .expect("the datagram has room for its records");
        place.copy_from_slice(record.as_bytes());
    }
}

/// Writes `header` in front of `count` records, with the right version and count in it, and returns
/// the length of the datagram in octets.
///
/// # Panics
///
/// If `datagram` is shorter than a header.
pub fn finish<H: Layout>(datagram: &mut [u8], header: &H, count: u16) -> usize {
    const ROOM: &str = "the datagram has room for its header";
    let opening = Opening {
        version: H::VERSION.into(),
        count: count.into(),
    };
    header.write_to_prefix(datagram).expect(ROOM);
    opening.write_to_prefix(datagram).expect(ROOM);
    octets_of::<H>(usize::from(count))
}

/// Encodes a whole datagram: checks the lengths, then [`append`] and [`finish`].
pub fn encode<H: Layout>(
    header: &H,
    records: &[H::Record],
    datagram: &mut [u8],
) -> Result<usize, EncodeError> {
    let wrong_count = EncodeError::RecordCount {
        found: records.len(),
        max: H::RECORDS_MAX,
    };
    if !(1..=H::RECORDS_MAX).contains(&records.len()) {
        return Err(wrong_count);
    }
    let count = u16::try_from(records.len()).map_err(|_| wrong_count)?;
    let expected = octets_of::<H>(records.len());
    if datagram.len() < expected {
        return Err(EncodeError::Buffer {
            found: datagram.len(),
            expected,
        });
    }
    append::<H>(datagram, 0, records.iter().copied());
    Ok(finish(datagram, header, count))
}

/// Length of a datagram of `count` records, in octets.
const fn octets_of<H: Layout>(count: usize) -> usize {
    size_of::<H>() + count * size_of::<H::Record>()
}
