//! Prefetching of frame headers.

/// Headers are prefetched this many frames ahead of the frame that is shown.
pub const PREFETCH_AHEAD: usize = 8;

/// Requests the cache line at `address` ahead of its use.
#[inline(always)]
pub fn prefetch<T>(address: *const T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch has no architectural effect and faults on no address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}
