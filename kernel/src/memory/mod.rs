//! Memory: frames with owners, the hypervisor's own address space, registers of devices, stacks, the heap.

mod address;
#[cfg(test)]
mod arena;
mod frames;
mod guest;
mod heap;
pub(crate) mod image;
mod kernel_frames;
mod layout;
mod map;
mod mmio;
mod page_tables;
pub(crate) mod space;
pub(crate) mod stacks;
pub(crate) mod takeover;
mod zero;

pub use iommu::address::HostPhysical;

pub use self::address::GuestPhysical;
pub use self::frames::{Frames, FreeError, OutOfMemory, Owner, Totals, frames};
pub use self::guest::{
    Access, GuestBlock, GuestMemory, GuestMemoryError, NestedFormat, NestedPaging, NotRam, UnmapError,
};
pub use self::heap::{HeapUse, heap_use};
pub use self::kernel_frames::KernelFrames;
pub use self::layout::DIRECT_MAP;
pub use self::map::{MemoryMap, Region};
pub use self::mmio::{MapMmioError, Mmio};
pub use self::space::{map_mmio, memory_map, physical_of};

/// Where RAM at `address` is mapped. Memory that is no RAM is not mapped there at all.
pub fn to_pointer(address: HostPhysical) -> *mut u8 {
    core::ptr::with_exposed_provenance_mut((address.as_u64() as usize).wrapping_add(direct_map_offset()))
}

#[cfg(not(test))]
fn direct_map_offset() -> usize {
    DIRECT_MAP
}

#[cfg(test)]
fn direct_map_offset() -> usize {
    arena::offset()
}
