//! Memory: frames with owners, the direct map, registers of devices, the heap.

mod address;
#[cfg(test)]
mod arena;
mod frames;
mod guest;
mod kernel_frames;
mod mmio;

pub use iommu::address::HostPhysical;

pub use self::address::GuestPhysical;
pub use self::frames::{Frames, FreeError, OutOfMemory, Owner, Totals, frames};
pub use self::guest::{
    Access, GuestBlock, GuestMemory, GuestMemoryError, NestedFormat, NestedPaging, NotRam, UnmapError,
};
pub use self::kernel_frames::KernelFrames;
pub use self::mmio::{MapMmioError, Mmio};

/// Where the direct map begins: all RAM, write-back, never executable.
pub const DIRECT_MAP: usize = 0xffff_8000_0000_0000;

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
