//! Physical memory for host tests: the machine's frames are then an arena of the process.

use core::ptr::NonNull;
use std::alloc::{Layout, alloc};
use std::sync::OnceLock;

use iommu::address::HostPhysical;

/// Where the arena pretends to lie.
const BASE: u64 = 1 << 30;
/// Its size; the operating system gives what is touched.
const SIZE: usize = 1 << 30;

static OFFSET: OnceLock<usize> = OnceLock::new();

/// What leads from a physical address to the arena.
pub(super) fn offset() -> usize {
    ensure();
    OFFSET.get().copied().unwrap_or_default()
}

/// Makes the arena, once.
pub(super) fn ensure() {
    OFFSET.get_or_init(|| {
        let layout = Layout::from_size_align(SIZE, 1 << 21).unwrap();
        // SAFETY: the layout's size is not 0.
        let memory = unsafe { alloc(layout) };
        let offset = memory.expose_provenance().wrapping_sub(BASE as usize);
        let end = HostPhysical::new(BASE + SIZE as u64);
        let storage = Box::leak(vec![0u64; super::Frames::storage_size(end) / 8 + 1].into_boxed_slice());
        let frames = super::frames::unopened();
        // SAFETY: both were just allocated and are never freed.
        unsafe { frames.open(NonNull::from(storage).cast(), end, offset) };
        frames.add(HostPhysical::new(BASE), SIZE / 4096);
        offset
    });
}
