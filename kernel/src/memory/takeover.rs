//! From the loader's page tables to the hypervisor's own: done once, before there is a heap or a lock to wait for.
//!
//! 1. [`prepare`] runs on the loader's tables, which map RAM below 4 GiB at its own address. It takes frames from the
//!    start of one free region, builds the tables and the boot CPU's stacks, and reserves room for the frame books.
//! 2. The caller switches CR3 and RSP.
//! 3. [`finish`] opens the frame allocator through the direct map and hands it every free frame.

use core::fmt;
use core::ptr::NonNull;

use handoff::{Handoff, MemoryKind, MemoryRegion};
use iommu::address::{HostPhysical, PAGE_SIZE};
use x86_64::structures::paging::{FrameAllocator, PhysFrame, Size4KiB};

use super::layout;
use super::map::{MemoryMap, Region};
use super::page_tables::{Access, Caching, MapError, PageTables};
use super::stacks::{self, Purpose};
use super::{Frames, Owner, frames, image, space};

/// Where other CPUs can start in 32-bit mode, and where the loader's tables surely map RAM at its own address.
const FOUR_GIB: u64 = 1 << 32;
/// RAM below is not managed: it is for starting CPUs, and firmware is least careful with it.
const LOW_MEMORY: u64 = 1 << 20;

/// Why the hypervisor cannot take memory over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TakeoverError {
    /// The memory map has no free region between 1 MiB and 4 GiB that is large enough.
    NoMemory { needed: u64, largest: u64 },
    /// The loader did not place the whole image.
    Image { loaded: u64, linked: u64 },
    /// Two things want the same address.
    Tables(MapError),
}

impl fmt::Display for TakeoverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMemory { needed, largest } => write!(
                f,
                "the memory map has no {} KiB of free RAM in one piece between 1 MiB and 4 GiB; the largest piece has \
                 {} KiB. The machine needs more memory",
                needed / 1024,
                largest / 1024
            ),
            Self::Image { loaded, linked } => write!(
                f,
                "the loader placed {loaded:#x} bytes of a kernel that is linked to {linked:#x} bytes; loader and \
                 kernel are not of the same build"
            ),
            Self::Tables(error) => write!(f, "the hypervisor's page tables cannot be built: {error}"),
        }
    }
}

impl core::error::Error for TakeoverError {}

impl From<MapError> for TakeoverError {
    fn from(error: MapError) -> Self {
        Self::Tables(error)
    }
}

/// What leads from [`prepare`] to [`finish`].
pub(crate) struct Prepared {
    tables: PageTables,
    pool: Pool,
    books: u64,
}

impl Prepared {
    /// The new CR3.
    pub(crate) fn root(&self) -> u64 {
        self.tables.root()
    }
}

/// Frames from the start of one free region, one after the other.
struct Pool {
    start: u64,
    next: u64,
    end: u64,
}

impl Pool {
    /// `count` contiguous frames.
    fn take(&mut self, count: u64) -> Option<u64> {
        let end = self.next.checked_add(count.checked_mul(PAGE_SIZE)?).filter(|end| *end <= self.end)?;
        Some(core::mem::replace(&mut self.next, end))
    }
}

// SAFETY: each frame is given once, from a region that the memory map calls free.
unsafe impl FrameAllocator<Size4KiB> for Pool {
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        let frame = self.take(1)?;
        Some(PhysFrame::containing_address(x86_64::PhysAddr::new(frame)))
    }
}

/// Builds the hypervisor's page tables, with the boot CPU's stacks in them.
///
/// # Safety
///
/// RAM below 4 GiB is mapped at its own address, writable; the handoff is what the loader made, and nothing was
/// allocated from its memory map before.
pub(crate) unsafe fn prepare(handoff: &Handoff, gigabyte_pages: bool) -> Result<Prepared, TakeoverError> {
    // SAFETY: the loader's array, at its own address.
    let map = MemoryMap::new(unsafe { entries(handoff, 0) });
    let end = map.end_of_memory().as_u64().min(layout::DIRECT_MAP_SIZE);
    let books = (Frames::storage_size(HostPhysical::new(end)) as u64).div_ceil(PAGE_SIZE);
    let largest = map.regions().filter_map(|region| {
        let (start, end) = (region.start.max(LOW_MEMORY), region.end.min(FOUR_GIB));
        (region.kind == MemoryKind::Usable && start < end).then_some(Pool { start, next: start, end })
    });
    // Tables, stacks and books of any machine fit easily; what runs out after this check is reported as well.
    let needed = (books + 1024) * PAGE_SIZE;
    let pool = largest.max_by_key(|pool| pool.end - pool.start);
    let size = pool.as_ref().map_or(0, |pool| pool.end - pool.start);
    let refused = TakeoverError::NoMemory { needed, largest: size };
    let mut pool = pool.filter(|_| size >= needed).ok_or(refused)?;

    let books = pool.take(books).ok_or(refused)?;
    let root = pool.take(1).ok_or(refused)?;
    // SAFETY: the frame was just taken and is mapped at its own address.
    unsafe { core::ptr::with_exposed_provenance_mut::<u8>(root as usize).write_bytes(0, PAGE_SIZE as usize) };
    // SAFETY: zeroed; all of the pool is mapped at its own address.
    let mut tables = unsafe { PageTables::new(root, 0, gigabyte_pages) };
    map_image(&mut tables, handoff, &mut pool)?;
    map_directly(&mut tables, map, handoff, &mut pool)?;
    stacks::map(&mut tables, 0, &mut pool)?;
    Ok(Prepared { tables, pool, books })
}

/// Opens the frame allocator.
///
/// # Safety
///
/// CR3 holds [`Prepared::root`], the caller runs on the new stack and never goes back to the loader's tables.
pub(crate) unsafe fn finish(prepared: Prepared, handoff: &Handoff) {
    let Prepared { tables, pool, books } = prepared;
    // SAFETY: the root is the hypervisor's own; the direct map holds every table.
    let tables = unsafe { PageTables::new(tables.root(), layout::DIRECT_MAP, tables.has_gigabyte_pages()) };
    // SAFETY: the loader's array, now in the direct map.
    let entries = unsafe { entries(handoff, layout::DIRECT_MAP) };
    let map = MemoryMap::new(entries);
    let end = HostPhysical::new(map.end_of_memory().as_u64().min(layout::DIRECT_MAP_SIZE));
    let storage = NonNull::new(super::to_pointer(HostPhysical::new(books))).unwrap_or(NonNull::dangling());
    // SAFETY: `prepare` took the room for the books out of the pool; free regions are in the direct map and nobody's.
    unsafe { frames().open(storage, end, layout::DIRECT_MAP) };
    space::install(tables, map);
    for region in map.regions().filter(|region| region.kind == MemoryKind::Usable) {
        let (start, end) = (region.start.max(LOW_MEMORY), region.end.min(end.as_u64()));
        // What the pool gave away is the hypervisor's already; the allocator must not touch it while it takes the
        // rest over.
        let taken = pool.start..pool.next;
        for (start, end) in [(start, end.min(taken.start)), (start.max(taken.end), end)] {
            if start < end {
                frames().add(HostPhysical::new(start), ((end - start) / PAGE_SIZE) as usize);
            }
        }
    }
    frames().add_in_use(Owner::Hypervisor, ((pool.next - pool.start) / PAGE_SIZE) as usize);
}

/// The loader's memory map, with RAM mapped at `offset` + its physical address.
///
/// # Safety
///
/// As [`prepare`] says, for that offset.
unsafe fn entries(handoff: &Handoff, offset: usize) -> &'static [MemoryRegion] {
    /// Far more than any firmware has.
    const MOST: u64 = 1 << 16;
    let array = handoff.memory_map;
    let place = core::ptr::with_exposed_provenance::<MemoryRegion>((array.address as usize).wrapping_add(offset));
    if array.address == 0 || !place.is_aligned() || array.count > MOST {
        return &[];
    }
    // SAFETY: the caller's promise; the loader's memory is never given away.
    unsafe { core::slice::from_raw_parts(place, array.count as usize) }
}

fn map_image(tables: &mut PageTables, handoff: &Handoff, pool: &mut Pool) -> Result<(), TakeoverError> {
    let parts = image::parts();
    let base = parts.iter().map(|(range, _)| range.start).min().unwrap_or(0);
    let linked = parts.iter().map(|(range, _)| range.end).max().unwrap_or(0) - base;
    if handoff.kernel.length < linked as u64 {
        return Err(TakeoverError::Image { loaded: handoff.kernel.length, linked: linked as u64 });
    }
    for (range, access) in parts {
        let physical = handoff.kernel.address + (range.start - base) as u64;
        let how = (access, Caching::WriteBack);
        // SAFETY: this is the image, where it runs already, with the permissions that it was linked for.
        unsafe { tables.map(range.start, physical, range.len() as u64, how, true, pool)? };
    }
    Ok(())
}

/// The physical range of the image's parts that are not written.
fn constant_part(handoff: &Handoff) -> (u64, u64) {
    let parts = image::parts();
    let base = parts.iter().map(|(range, _)| range.start).min().unwrap_or(0);
    let constant = parts.iter().filter(|(_, access)| *access != Access::ReadWrite);
    let end = constant.map(|(range, _)| range.end).max().unwrap_or(base);
    (handoff.kernel.address, handoff.kernel.address + (end - base) as u64)
}

/// Maps all RAM: ours for writing, firmware's and the image's constant part for reading.
fn map_directly(
    tables: &mut PageTables,
    map: MemoryMap,
    handoff: &Handoff,
    pool: &mut Pool,
) -> Result<(), TakeoverError> {
    let constant = constant_part(handoff);
    let mut put = |start: u64, end: u64, access: Access| -> Result<(), TakeoverError> {
        let end = end.min(layout::DIRECT_MAP_SIZE);
        if start < end {
            let (at, how) = (layout::DIRECT_MAP + start as usize, (access, Caching::WriteBack));
            // SAFETY: RAM, of which nothing is used yet but what the loader left; the image's constant part is not
            // writable here either.
            unsafe { tables.map(at, start, end - start, how, true, pool)? };
        }
        Ok(())
    };
    let mut run: Option<(u64, u64, Access)> = None;
    for (start, end, access) in map.regions().flat_map(|region| split(&region, constant)).flatten() {
        run = match run {
            Some((first, last, same)) if last == start && same == access => Some((first, end, access)),
            other => {
                if let Some((first, last, access)) = other {
                    put(first, last, access)?;
                }
                Some((start, end, access))
            }
        };
    }
    run.map_or(Ok(()), |(first, last, access)| put(first, last, access))
}

/// A region's pieces in the direct map, with the access of each.
fn split(region: &Region, constant: (u64, u64)) -> [Option<(u64, u64, Access)>; 3] {
    let piece = |start: u64, end: u64, access| {
        let (start, end) = (start.max(region.start), end.min(region.end));
        (start < end).then_some((start, end, access))
    };
    match (region.is_ours(), region.is_firmware()) {
        (true, _) => [
            piece(0, constant.0, Access::ReadWrite),
            piece(constant.0, constant.1, Access::Read),
            piece(constant.1, u64::MAX, Access::ReadWrite),
        ],
        (false, true) => [piece(0, u64::MAX, Access::Read), None, None],
        (false, false) => [None; 3],
    }
}

/// The top of the boot CPU's stack.
pub(crate) fn boot_stack_top() -> usize {
    Purpose::Main.top(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_constant_part_of_the_image_is_read_only_in_the_direct_map() {
        let region = Region { start: 0x10_0000, end: 0x80_0000, kind: MemoryKind::Kernel };
        assert_eq!(
            split(&region, (0x20_0000, 0x30_0000)),
            [
                Some((0x10_0000, 0x20_0000, Access::ReadWrite)),
                Some((0x20_0000, 0x30_0000, Access::Read)),
                Some((0x30_0000, 0x80_0000, Access::ReadWrite))
            ]
        );
        assert_eq!(split(&region, (0, 0x1000)), [None, None, Some((0x10_0000, 0x80_0000, Access::ReadWrite))]);
        let firmware = Region { kind: MemoryKind::AcpiTables, ..region };
        assert_eq!(split(&firmware, (0, 0))[0], Some((0x10_0000, 0x80_0000, Access::Read)));
        let registers = Region { kind: MemoryKind::Mmio, ..region };
        assert_eq!(split(&registers, (0, 0)), [None; 3]);
    }

    #[test]
    fn the_pool_ends_where_its_region_ends() {
        let mut pool = Pool { start: 0x1000, next: 0x1000, end: 0x4000 };
        assert_eq!(pool.take(2), Some(0x1000));
        assert_eq!(pool.take(2), None);
        assert_eq!(pool.take(u64::MAX / 4096 + 1), None);
        assert_eq!(pool.take(1), Some(0x3000));
        assert_eq!(pool.take(1), None);
    }
}
