//! [`Tally`]: a number of records with their packets and octets.

use xdprobe_flow::{FlowRecord, Volume};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Records with their packets and octets, and the datagrams that carried them.
#[derive(
    Clone, Copy, Debug, Default, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq,
)]
#[repr(C)]
pub struct Tally {
    /// Flow records.
    pub records: u64,
    /// Datagrams; 0 as long as the records are in none.
    pub datagrams: u64,
    /// Packets and octets of the records.
    pub volume: Volume,
}

impl Tally {
    /// Adds one record.
    #[inline]
    pub fn add_record(&mut self, record: &FlowRecord) {
        self.records += 1;
        self.volume += record.volume;
    }

    /// What identities between tallies compare: the records and their volume. The datagrams are
    /// left out, since records that wait are in none.
    #[must_use]
    pub fn metered(self) -> (u64, Volume) {
        (self.records, self.volume)
    }

    /// The same records, counted as in no datagram.
    #[must_use]
    pub fn without_datagrams(self) -> Self {
        Self {
            datagrams: 0,
            ..self
        }
    }

    /// `combine` of each of the four numbers of both tallies.
    pub(crate) fn zip(self, other: Self, combine: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            records: combine(self.records, other.records),
            datagrams: combine(self.datagrams, other.datagrams),
            volume: Volume {
                packets: combine(self.volume.packets, other.volume.packets),
                octets: combine(self.volume.octets, other.volume.octets),
            },
        }
    }
}

impl std::ops::Add for Tally {
    type Output = Self;

    #[inline]
    fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }
}

impl std::ops::AddAssign for Tally {
    #[inline]
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl std::ops::Sub for Tally {
    type Output = Self;

    #[inline]
    fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }
}

impl std::ops::SubAssign for Tally {
    #[inline]
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}

impl std::iter::Sum for Tally {
    fn sum<I: Iterator<Item = Self>>(tallies: I) -> Self {
        tallies.fold(Self::default(), |sum, tally| sum + tally)
    }
}
