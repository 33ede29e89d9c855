//! What is known of a datagram before its version is: the version number itself, and the lengths
//! that hold for versions 1, 5 and 7 alike.

pub use crate::layout::{DatagramError, EncodeError};
use crate::version::Version;
use zerocopy::FromBytes;
use zerocopy::byteorder::network_endian::U16;

/// Length in octets of the shortest header of the three versions, that of version 1.
pub const HEADER_OCTETS_MIN: usize = Version::V1.header_octets();
/// Length in octets of the longest datagram of the three versions, that of version 5.
pub const DATAGRAM_OCTETS_MAX: usize = Version::V5.datagram_octets_max();

/// The version number that opens the datagram, whatever follows it; `None` if the datagram is
/// shorter than two octets.
#[must_use]
pub fn version_of(datagram: &[u8]) -> Option<u16> {
    let (version, _) = U16::ref_from_prefix(datagram).ok()?;
    Some(version.get())
}

/// The low 32 bits of an uptime: what headers and records carry. They wrap every 49.71 days.
#[must_use]
#[inline]
#[expect(
    clippy::cast_possible_truncation,
    reason = "SysUptime is defined modulo 2^32"
)]
pub fn uptime_on_the_wire(uptime_ms: u64) -> u32 {
    uptime_ms as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{self, Layout};
    use crate::{v1, v5, v7};
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::fmt::Debug;

    fn any_of<T: FromBytes + Debug>() -> impl Strategy<Value = T> {
        vec(any::<u8>(), size_of::<T>()).prop_map(|octets| T::read_from_bytes(&octets).unwrap())
    }

    /// A header, 1 to the most records, and where to part them in two.
    fn any_parts<H>() -> impl Strategy<Value = (H, Vec<H::Record>, usize)>
    where
        H: Layout + Debug,
        H::Record: Debug,
    {
        (
            any_of::<H>(),
            vec(any_of::<H::Record>(), 1..=H::RECORDS_MAX),
            0..=H::RECORDS_MAX,
        )
            .prop_map(|(header, records, part)| {
                let part = part.min(records.len());
                (header, records, part)
            })
    }

    /// Decoding undoes encoding but for the version and the count, which encoding sets.
    fn decoding_undoes_encoding<H>(header: &H, records: &[H::Record]) -> Result<(), TestCaseError>
    where
        H: Layout + Debug,
        H::Record: Debug + PartialEq,
    {
        let mut datagram = [0; DATAGRAM_OCTETS_MAX];
        let octets = layout::encode(header, records, &mut datagram).unwrap();
        let (found, found_records) = layout::decode::<H>(&datagram[..octets]).unwrap();
        prop_assert_eq!(found_records, records);
        let opening = size_of::<layout::Opening>();
        let (found, header) = (found.as_bytes(), header.as_bytes());
        prop_assert_eq!(&found[opening..], &header[opening..]);
        let (found, _) = layout::Opening::ref_from_prefix(found).unwrap();
        prop_assert_eq!(
            (found.version.get(), usize::from(found.count.get())),
            (H::VERSION, records.len())
        );
        Ok(())
    }

    /// The records in two parts, or in one piece with their header: the same octets.
    fn appending_is_encoding<H: Layout>(
        header: &H,
        records: &[H::Record],
        part: usize,
    ) -> Result<(), TestCaseError> {
        let (mut whole, mut grown) = ([0; DATAGRAM_OCTETS_MAX], [0; DATAGRAM_OCTETS_MAX]);
        let octets = layout::encode(header, records, &mut whole).unwrap();
        let (first, rest) = records.split_at(part);
        layout::append::<H>(&mut grown, 0, first.iter().copied());
        layout::append::<H>(&mut grown, part, rest.iter().copied());
        let count = u16::try_from(records.len()).unwrap();
        prop_assert_eq!(layout::finish(&mut grown, header, count), octets);
        prop_assert_eq!(whole, grown);
        Ok(())
    }

    #[test]
    fn reads_a_version_from_two_octets_and_not_from_one() {
        assert_eq!(version_of(&[0, 9]), Some(9));
        assert_eq!(version_of(&[0]), None);
    }

    #[test]
    fn no_version_has_a_shorter_header_or_a_longer_datagram() {
        assert_eq!((HEADER_OCTETS_MIN, DATAGRAM_OCTETS_MAX), (16, 1464));
        for version in Version::ALL {
            assert!(version.header_octets() >= HEADER_OCTETS_MIN);
            assert!(version.datagram_octets_max() <= DATAGRAM_OCTETS_MAX);
        }
    }

    #[test]
    fn uptimes_wrap_after_32_bits() {
        assert_eq!(uptime_on_the_wire((1 << 32) - 1), u32::MAX);
        assert_eq!(uptime_on_the_wire((1 << 32) + 7), 7);
    }

    proptest! {
        #[test]
        fn decoding_undoes_encoding_of_each_version(
            (v1_header, v1_records, _) in any_parts::<v1::Header>(),
            (v5_header, v5_records, _) in any_parts::<v5::Header>(),
            (v7_header, v7_records, _) in any_parts::<v7::Header>(),
        ) {
            decoding_undoes_encoding(&v1_header, &v1_records)?;
            decoding_undoes_encoding(&v5_header, &v5_records)?;
            decoding_undoes_encoding(&v7_header, &v7_records)?;
        }

        #[test]
        fn appending_and_finishing_give_the_octets_of_encoding(
            (v1_header, v1_records, v1_part) in any_parts::<v1::Header>(),
            (v5_header, v5_records, v5_part) in any_parts::<v5::Header>(),
            (v7_header, v7_records, v7_part) in any_parts::<v7::Header>(),
        ) {
            appending_is_encoding(&v1_header, &v1_records, v1_part)?;
            appending_is_encoding(&v5_header, &v5_records, v5_part)?;
            appending_is_encoding(&v7_header, &v7_records, v7_part)?;
        }

        /// No octets panic either.
        #[test]
        fn no_octets_are_a_datagram_of_two_versions(
            version in 0u16..10,
            mut octets in vec(any::<u8>(), 2..1600),
        ) {
            octets[..2].copy_from_slice(&version.to_be_bytes());
            let readings = [
                v1::decode(&octets).is_ok(),
                v5::decode(&octets).is_ok(),
                v7::decode(&octets).is_ok(),
            ];
            prop_assert!(readings.iter().filter(|read| **read).count() <= 1);
        }
    }
}
