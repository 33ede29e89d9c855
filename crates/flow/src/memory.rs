//! The crate's one unsafe module: tables on huge pages, and prefetching.
//!
//! A flow cache is read at random, so with pages of 4 KiB nearly every packet misses the TLB as
//! well as the cache.
#![expect(
    unsafe_code,
    reason = "memory mapping and prefetching have no safe form"
)]

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};
use std::io;
use std::marker::PhantomData;
use std::num::NonZeroUsize;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use zerocopy::FromZeros;

/// When the pages of a table are allocated.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Backing {
    /// At once, so that no packet ever waits for a page. For live captures.
    Prefaulted,
    /// At first use, since a small capture file uses little of a large table.
    OnDemand,
}

/// The kind of pages that a table is on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PageSize {
    /// Reserved huge pages (hugetlbfs, vm.nr_hugepages).
    Reserved,
    /// Transparent huge pages, as far as the kernel has them.
    Transparent,
    /// Ordinary pages of 4 KiB.
    Ordinary,
}

impl std::fmt::Display for PageSize {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Reserved => "reserved huge pages",
            Self::Transparent => "transparent huge pages",
            Self::Ordinary => "4 KiB pages",
        })
    }
}

const HUGE_PAGE_OCTETS: usize = 2 << 20;

/// A slice of values that never moves or grows, on the largest pages available.
pub struct Table<T> {
    /// Start and length of the mapping; the values begin at its start.
    mapping: NonNull<u8>,
    mapping_octets: usize,
    length: usize,
    page_size: PageSize,
    values: PhantomData<T>,
}

// SAFETY: a `Table` owns its mapping alone, as a `Box<[T]>` would, so it may move to wherever a `T`
// may.
unsafe impl<T: Send> Send for Table<T> {}

impl<T: FromZeros> Table<T> {
    /// `length` values, all of whose octets are 0.
    ///
    /// # Errors
    ///
    /// The error of `mmap` if there is not even ordinary memory.
    pub fn zeroed(length: usize, backing: Backing) -> io::Result<Self> {
        let out_of_memory = || io::Error::from(io::ErrorKind::OutOfMemory);
        let octets = length
            .checked_mul(size_of::<T>())
            .ok_or_else(out_of_memory)?;
        let rounded = octets
            .max(1)
            .checked_next_multiple_of(HUGE_PAGE_OCTETS)
            .ok_or_else(out_of_memory)?;
        let mapping_octets = NonZeroUsize::new(rounded).ok_or_else(out_of_memory)?;
        assert!(
            align_of::<T>() <= 4096,
            "mappings are aligned to pages and no further"
        );
        let (mapping, page_size) = map(mapping_octets, backing)?;
        Ok(Self {
            mapping,
            mapping_octets: mapping_octets.get(),
            length,
            page_size,
            values: PhantomData,
        })
    }

    /// Requests the cache line in which the value begins, ahead of its use.
    #[inline(always)]
    pub fn prefetch(&self, index: usize) {
        prefetch(self.mapping.as_ptr().cast::<T>().wrapping_add(index));
    }

    /// The kind of pages that the table is on.
    pub fn page_size(&self) -> PageSize {
        self.page_size
    }
}

/// Maps zeroed memory: reserved huge pages, else transparent ones, else ordinary ones.
fn map(octets: NonZeroUsize, backing: Backing) -> io::Result<(NonNull<u8>, PageSize)> {
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    let populate = match backing {
        Backing::Prefaulted => MapFlags::MAP_POPULATE,
        Backing::OnDemand => MapFlags::empty(),
    };
    let anonymous = MapFlags::MAP_PRIVATE;
    if backing == Backing::Prefaulted {
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches nothing that
        // exists.
        let reserved = unsafe {
            mmap_anonymous(
                None,
                octets,
                protection,
                anonymous | MapFlags::MAP_HUGETLB | populate,
            )
        };
        if let Ok(mapping) = reserved {
            return Ok((mapping.cast(), PageSize::Reserved));
        }
    }
    // SAFETY: as above.
    let mapping = unsafe { mmap_anonymous(None, octets, protection, anonymous) }?;
    // SAFETY: the range is the mapping just made; the advice changes its page size and nothing in
    // it.
    let advised = unsafe { madvise(mapping, octets.get(), MmapAdvise::MADV_HUGEPAGE) };
    if backing == Backing::Prefaulted {
        // SAFETY: the range is the mapping just made; populating leaves its contents as they are.
        // Kernels before 5.14 refuse the advice, and the pages then come at first use.
        let _ = unsafe { madvise(mapping, octets.get(), MmapAdvise::MADV_POPULATE_WRITE) };
    }
    Ok((
        mapping.cast(),
        if advised.is_ok() {
            PageSize::Transparent
        } else {
            PageSize::Ordinary
        },
    ))
}

impl<T> Deref for Table<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: the mapping holds `length` values, is aligned to a page (at least
        // `align_of::<T>()`, asserted), was zeroed (a valid `T` by `FromZeros`) and lives as long
        // as `self`, which is borrowed.
        unsafe { std::slice::from_raw_parts(self.mapping.as_ptr().cast(), self.length) }
    }
}

impl<T> DerefMut for Table<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.mapping.as_ptr().cast(), self.length) }
    }
}

impl<T> Drop for Table<T> {
    fn drop(&mut self) {
        // SAFETY: the range is the whole mapping that this table owns, and nothing borrows from it
        // any more.
        let unmapped = unsafe { munmap(self.mapping.cast(), self.mapping_octets) };
        debug_assert!(unmapped.is_ok());
    }
}

/// Requests a cache line. The address need not be valid.
#[inline(always)]
fn prefetch<T>(value: *const T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: prefetching reads nothing architecturally and faults on no address; SSE is part
        // of x86_64.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(value.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}

/// A bit for each lane that equals `value`, the first lane lowest.
#[inline(always)]
pub fn equal_lanes(lanes: &[u16; 16], value: u16) -> u16 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE2 is part of x86_64.
    return unsafe { equal_lanes_sse2(lanes, value) };
    #[cfg(not(target_arch = "x86_64"))]
    lanes.iter().enumerate().fold(0, |mask, (lane, &other)| {
        mask | u16::from(other == value) << lane
    })
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "sse2")]
fn equal_lanes_sse2(lanes: &[u16; 16], value: u16) -> u16 {
    use std::arch::x86_64::{
        _mm_cmpeq_epi16, _mm_loadu_si128, _mm_movemask_epi8, _mm_packs_epi16, _mm_set1_epi16,
    };
    let (low, high) = lanes.split_at(8);
    // SAFETY: 16 octets are read from 8 lanes of 2; the load requires no alignment.
    let low = unsafe { _mm_loadu_si128(low.as_ptr().cast()) };
    // SAFETY: as above.
    let high = unsafe { _mm_loadu_si128(high.as_ptr().cast()) };
    let expected = _mm_set1_epi16(value.cast_signed());
    let equal = _mm_packs_epi16(
        _mm_cmpeq_epi16(low, expected),
        _mm_cmpeq_epi16(high, expected),
    );
    // The mask has 16 bits.
    let [a, b, ..] = _mm_movemask_epi8(equal).to_le_bytes();
    u16::from_le_bytes([a, b])
}

/// A bit for each lane that `value` has reached, modulo 256 and at most 128 ago, the first lane
/// lowest.
#[inline(always)]
pub fn lanes_up_to(lanes: &[u8; 16], value: u8) -> u16 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE2 is part of x86_64.
    return unsafe { lanes_up_to_sse2(lanes, value) };
    #[cfg(not(target_arch = "x86_64"))]
    lanes.iter().enumerate().fold(0, |mask, (lane, &other)| {
        mask | u16::from(other.wrapping_sub(value).cast_signed() <= 0) << lane
    })
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "sse2")]
fn lanes_up_to_sse2(lanes: &[u8; 16], value: u8) -> u16 {
    use std::arch::x86_64::{
        _mm_cmpgt_epi8, _mm_loadu_si128, _mm_movemask_epi8, _mm_set1_epi8, _mm_setzero_si128,
        _mm_sub_epi8,
    };
    // SAFETY: 16 octets are read from 16 lanes; the load requires no alignment.
    let lanes = unsafe { _mm_loadu_si128(lanes.as_ptr().cast()) };
    let ahead = _mm_sub_epi8(lanes, _mm_set1_epi8(value.cast_signed()));
    // The mask has 16 bits.
    let [a, b, ..] = _mm_movemask_epi8(_mm_cmpgt_epi8(ahead, _mm_setzero_si128())).to_le_bytes();
    !u16::from_le_bytes([a, b])
}

/// How far the first of some lanes is ahead of `value`, modulo 256 and from -128 to 127; 127 if
/// there is none. They are those whose bit in the row's mask differs from `without`.
pub fn least_ahead(rows: &[[u8; 16]], masks: &[u16], without: bool, value: u8) -> i8 {
    let flip = if without { u16::MAX } else { 0 };
    let masks = masks.iter().map(|mask| mask ^ flip);
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE2 is part of x86_64.
    return unsafe { least_ahead_sse2(rows, masks, value) };
    #[cfg(not(target_arch = "x86_64"))]
    rows.iter()
        .zip(masks)
        .flat_map(|(row, mask)| {
            let picked = row.iter().enumerate();
            let picked = picked.filter(move |(lane, _)| mask >> lane & 1 == 1);
            picked.map(move |(_, other)| other.wrapping_sub(value).cast_signed())
        })
        .fold(i8::MAX, i8::min)
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "sse2")]
fn least_ahead_sse2(rows: &[[u8; 16]], masks: impl Iterator<Item = u16>, value: u8) -> i8 {
    use std::arch::x86_64::{
        _mm_and_si128, _mm_andnot_si128, _mm_cmpeq_epi8, _mm_loadu_si128, _mm_min_epu8,
        _mm_or_si128, _mm_set_epi64x, _mm_set1_epi8, _mm_storeu_si128, _mm_sub_epi8,
    };
    /// As unsigned octets, lanes that are less far ahead come first.
    const BIAS: u8 = 0x80;
    const LANE_BITS: i64 = 0x8040_2010_0804_0201_u64.cast_signed();
    let of_octet = |octet: u8| i64::from_le_bytes([octet; 8]);
    let (bits, all) = (_mm_set_epi64x(LANE_BITS, LANE_BITS), _mm_set1_epi8(-1));
    let from = _mm_set1_epi8(value.wrapping_sub(BIAS).cast_signed());
    let mut least = all;
    for (row, mask) in rows.iter().zip(masks) {
        let [low, high] = mask.to_le_bytes();
        let mask = _mm_and_si128(_mm_set_epi64x(of_octet(high), of_octet(low)), bits);
        let mask = _mm_cmpeq_epi8(mask, bits);
        // SAFETY: 16 octets are read from a row of 16; the load requires no alignment.
        let lanes = unsafe { _mm_loadu_si128(row.as_ptr().cast()) };
        let ahead = _mm_and_si128(_mm_sub_epi8(lanes, from), mask);
        least = _mm_min_epu8(least, _mm_or_si128(ahead, _mm_andnot_si128(mask, all)));
    }
    let mut lanes = [0; 16];
    // SAFETY: 16 octets are written to an array of 16; the store requires no alignment.
    unsafe { _mm_storeu_si128(lanes.as_mut_ptr().cast(), least) };
    let least = lanes.into_iter().fold(u8::MAX, u8::min);
    (least ^ BIAS).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_least_ahead_is_that_of_the_lanes_one_by_one(
            rows: [[u8; 16]; 3], masks: [u16; 3], without: bool, value: u8,
        ) {
            let lanes = (0..48).filter(|at| (masks[at / 16] >> (at % 16) & 1 == 1) != without);
            let ahead = lanes.map(|at| rows[at / 16][at % 16].wrapping_sub(value).cast_signed());
            let expected = ahead.min().unwrap_or(i8::MAX);
            prop_assert_eq!(least_ahead(&rows, &masks, without, value), expected);
        }
    }

    #[test]
    fn tables_begin_zeroed_and_hold_what_is_written() {
        for backing in [Backing::Prefaulted, Backing::OnDemand] {
            let mut table = Table::<u64>::zeroed(300_000, backing).unwrap();
            assert_eq!((table.len(), table.iter().sum::<u64>()), (300_000, 0));
            table[299_999] = 7;
            assert_eq!(table.iter().sum::<u64>(), 7);
        }
    }

    #[test]
    fn equal_lanes_are_those_that_equal() {
        let mut lanes = [7; 16];
        (lanes[0], lanes[9], lanes[15]) = (0x8000, 0x8000, 0x8000);
        assert_eq!(equal_lanes(&lanes, 0x8000), 1 | 1 << 9 | 1 << 15);
        assert_eq!(equal_lanes(&lanes, 7), !(1 | 1 << 9 | 1 << 15));
        assert_eq!(equal_lanes(&lanes, 8), 0);
    }

    #[test]
    fn lanes_are_reached_modulo_256() {
        let lanes = std::array::from_fn(|lane| [250, 255, 0, 5][lane % 4]);
        assert_eq!(lanes_up_to(&lanes, 249), 0b0000);
        assert_eq!(lanes_up_to(&lanes, 250), 0b0001_0001_0001_0001);
        assert_eq!(lanes_up_to(&lanes, 4), 0b0111_0111_0111_0111);
        assert_eq!(lanes_up_to(&lanes, 5), u16::MAX);
    }

    #[test]
    fn an_impossible_size_is_an_error() {
        assert!(Table::<u64>::zeroed(usize::MAX / 2, Backing::OnDemand).is_err());
        assert!(Table::<u64>::zeroed(1 << 58, Backing::OnDemand).is_err());
    }
}
