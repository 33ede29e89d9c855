//! Packets and octets, counted together.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A number of packets and the sum of their layer-3 octets.
#[derive(
    Clone, Copy, Debug, Default, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq,
)]
#[repr(C)]
pub struct Volume {
    /// Packets.
    pub packets: u64,
    /// Layer-3 octets.
    pub octets: u64,
}

impl Volume {
    /// The volume of one packet of this many octets.
    #[must_use]
    #[inline]
    pub const fn of_packet(octets: u32) -> Self {
        Self {
            packets: 1,
            octets: octets as u64,
        }
    }
}

impl std::ops::Add for Volume {
    type Output = Self;

    #[inline]
    fn add(self, other: Self) -> Self {
        Self {
            packets: self.packets + other.packets,
            octets: self.octets + other.octets,
        }
    }
}

impl std::ops::Sub for Volume {
    type Output = Self;

    #[inline]
    fn sub(self, other: Self) -> Self {
        Self {
            packets: self.packets - other.packets,
            octets: self.octets - other.octets,
        }
    }
}

impl std::ops::AddAssign for Volume {
    #[inline]
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl std::iter::Sum for Volume {
    fn sum<I: Iterator<Item = Self>>(volumes: I) -> Self {
        volumes.fold(Self::default(), |sum, volume| sum + volume)
    }
}
