//! Memory on huge pages as the flow cache has it, for the tables that it is compared with.

use allocator_api2::alloc::{AllocError, Allocator};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};
use std::alloc::Layout;
use std::num::NonZeroUsize;
use std::ptr::NonNull;

/// An allocator of huge pages, like those of the flow cache.
#[derive(Clone, Copy)]
pub struct HugePages;

/// Mappings are whole huge pages.
const PAGE_OCTETS: usize = 2 << 20;

// SAFETY: each allocation is a mapping of its own, at least as long and as aligned (to a page) as
// requested, until it is unmapped.
unsafe impl Allocator for HugePages {
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        let octets =
            NonZeroUsize::new(layout.size().next_multiple_of(PAGE_OCTETS)).ok_or(AllocError)?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches nothing that
        // exists.
        let mapping = unsafe { mmap_anonymous(None, octets, protection, MapFlags::MAP_PRIVATE) }
            .map_err(|_| AllocError)?;
        // SAFETY: the range is the mapping just made.
        let _ = unsafe { madvise(mapping, octets.get(), MmapAdvise::MADV_HUGEPAGE) };
        Ok(NonNull::slice_from_raw_parts(mapping.cast(), layout.size()))
    }

    unsafe fn deallocate(&self, start: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller gives back what `allocate` mapped.
        let _ = unsafe { munmap(start.cast(), layout.size().next_multiple_of(PAGE_OCTETS)) };
    }
}
