//! The hypervisor's address space while it runs: what is added to it after [`super::takeover`] made it.

use iommu::address::{HostPhysical, PAGE_SIZE};
use spin::{Mutex, Once};
use x86_64::structures::paging::{FrameAllocator, PhysFrame, Size4KiB};

use super::layout;
use super::map::{MemoryMap, Region};
use super::mmio::{MapMmioError, Mmio};
use super::page_tables::{Access, Caching, MapError, PageTables};
use super::{Owner, frames, stacks};
use crate::cpu::interrupts;

/// The tables. Lock order: heap, these, frames.
static TABLES: Mutex<Option<PageTables>> = Mutex::new(None);
static MAP: Once<MemoryMap> = Once::new();

/// Frames for page tables, stacks and heap once the frame allocator is open.
pub(super) struct Source;

// SAFETY: the frame allocator gives each frame once.
unsafe impl FrameAllocator<Size4KiB> for Source {
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        let frame = frames().allocate(Owner::Hypervisor, 1, PAGE_SIZE).ok()?;
        Some(PhysFrame::containing_address(x86_64::PhysAddr::new(frame.as_u64())))
    }
}

/// The machine's memory map; empty until the hypervisor has taken memory over.
pub fn memory_map() -> MemoryMap {
    MAP.get().copied().unwrap_or(MemoryMap::new(&[]))
}

pub(super) fn install(tables: PageTables, map: MemoryMap) {
    interrupts::without(|| *TABLES.lock() = Some(tables));
    MAP.call_once(|| map);
}

fn with_tables<T>(act: impl FnOnce(&mut PageTables) -> Result<T, MapError>) -> Result<T, MapError> {
    interrupts::without(|| TABLES.lock().as_mut().map_or(Err(MapError::OutOfMemory), act))
}

/// The physical address of the root of the hypervisor's page tables: CR3 of every CPU.
pub(crate) fn root() -> u64 {
    with_tables(|tables| Ok(tables.root())).unwrap_or(0)
}

/// Where a virtual address leads, and what may be done with it.
pub(crate) fn look_up(address: usize) -> Option<(u64, Access)> {
    interrupts::without(|| TABLES.try_lock()?.as_ref()?.look_up(address))
}

/// Where something of the hypervisor's lies in memory, for hardware that is told its address: its first byte. `None` in
/// an ordinary process. Whoever tells it sees to it that it neither moves nor crosses a page.
pub fn physical_of<T>(place: &T) -> Option<HostPhysical> {
    let address = core::ptr::from_ref(place).addr();
    let found = with_tables(|tables| Ok(tables.look_up(address))).ok()?;
    found.map(|(physical, _)| HostPhysical::new(physical))
}

/// Maps device registers, uncached. The same registers can be mapped any number of times; the mapping stays.
///
/// # Errors
///
/// [`MapMmioError`]: the range wraps, is empty, is out of reach, or holds RAM; or memory for page tables ran out.
pub fn map_mmio(address: HostPhysical, length: u64) -> Result<Mmio, MapMmioError> {
    let bad = MapMmioError::OutOfRange { address, length };
    let start = address.as_u64();
    let end = start.checked_add(length).filter(|end| length > 0 && *end <= layout::REGISTERS_SIZE).ok_or(bad)?;
    let (first, last) = (start / PAGE_SIZE * PAGE_SIZE, end.next_multiple_of(PAGE_SIZE));
    if memory_map().touches_memory(first, last) {
        return Err(MapMmioError::Memory { address, length });
    }
    let caching = (Access::ReadWrite, Caching::Uncached);
    with_tables(|tables| {
        let at = layout::REGISTERS + first as usize;
        // SAFETY: no RAM lies there, so no Rust object does; registers are only reached through `Mmio`.
        unsafe { tables.map(at, first, last - first, caching, false, &mut Source) }
    })
    .map_err(|error| match error {
        MapError::OutOfMemory => MapMmioError::OutOfMemory,
        MapError::Occupied { .. } | MapError::BadRange { .. } => bad,
    })?;
    let place = core::ptr::with_exposed_provenance_mut(layout::REGISTERS + start as usize);
    let place = core::ptr::NonNull::new(place).ok_or(bad)?;
    // SAFETY: mapped just now, uncached, for good.
    Ok(unsafe { Mmio::new(place, length) })
}

/// Maps a framebuffer, write-combining. It stays mapped.
///
/// # Errors
///
/// As [`map_mmio`].
pub(crate) fn map_screen(address: HostPhysical, length: u64) -> Result<Mmio, MapMmioError> {
    let bad = MapMmioError::OutOfRange { address, length };
    let start = address.as_u64();
    let inside = start % PAGE_SIZE;
    let end =
        start.checked_add(length).filter(|_| length > 0 && length <= layout::SCREEN_SIZE - PAGE_SIZE).ok_or(bad)?;
    let (first, last) = (start - inside, end.checked_next_multiple_of(PAGE_SIZE).ok_or(bad)?);
    if memory_map().touches_memory(first, last) {
        return Err(MapMmioError::Memory { address, length });
    }
    let caching = (Access::ReadWrite, Caching::WriteCombining);
    // SAFETY: no RAM lies there; the screen is only reached through this window.
    with_tables(|tables| unsafe { tables.map(layout::SCREEN, first, last - first, caching, true, &mut Source) })
        .map_err(|_| bad)?;
    let place = core::ptr::with_exposed_provenance_mut(layout::SCREEN + inside as usize);
    let place = core::ptr::NonNull::new(place).ok_or(bad)?;
    // SAFETY: mapped just now, for good; write-combining is what a framebuffer wants.
    Ok(unsafe { Mmio::new(place, length) })
}

/// The bytes that firmware left at `address`, or `None` where the memory map does not say that firmware keeps memory
/// there. Writes through the hypervisor's address space fault.
pub(crate) fn firmware_bytes(address: HostPhysical, length: usize) -> Option<&'static [u8]> {
    use handoff::MemoryKind::Reserved;
    /// Firmware's tables may lie here on machines with a BIOS inside, and no memory map has to say so.
    const LEGACY: u64 = 0x10_0000;
    let start = address.as_u64();
    let end = start.checked_add(length as u64)?;
    let map = memory_map();
    let kept = |region: &Region| region.is_firmware() || region.kind == Reserved;
    let legacy = start > 0 && start < end && end <= LEGACY && !map.touches_memory(start, end);
    if end > layout::DIRECT_MAP_SIZE || !(legacy || map.covers(start, end, kept)) {
        return None;
    }
    let (first, last) = (start / PAGE_SIZE * PAGE_SIZE, end.next_multiple_of(PAGE_SIZE));
    with_tables(|tables| {
        let at = layout::DIRECT_MAP + first as usize;
        let how = (Access::Read, Caching::WriteBack);
        // SAFETY: read-only, and nobody but firmware writes there.
        unsafe { tables.map(at, first, last - first, how, false, &mut Source) }
    })
    .ok()?;
    // SAFETY: mapped just now or before, read-only, for good; firmware keeps tables as they are.
    Some(unsafe { core::slice::from_raw_parts(super::to_pointer(address), length) })
}

/// Maps one fresh frame at an address of the heap's window.
pub(super) fn map_fresh_page(at: usize) -> Result<(), MapError> {
    let frame = Source.allocate_frame().ok_or(MapError::OutOfMemory)?.start_address().as_u64();
    let how = (Access::ReadWrite, Caching::WriteBack);
    // SAFETY: the frame is fresh and the window is the heap's.
    let result = with_tables(|tables| unsafe { tables.map(at, frame, PAGE_SIZE, how, true, &mut Source) });
    if result.is_err()
        && let Err(error) = frames().free(Owner::Hypervisor, HostPhysical::new(frame), 1)
    {
        log::error!("a frame of the heap is lost: {error}");
    }
    result
}

/// Maps the stacks of one CPU. Where that fails, what was mapped until then stays, for another try.
pub(crate) fn map_stacks(cpu: u32) -> Result<(), MapError> {
    with_tables(|tables| stacks::map(tables, cpu, &mut Source))
}

/// The page below 1 MiB in which other CPUs start: mapped at its own address, read-only but executable, while this
/// lives.
pub(crate) struct StartPage {
    address: HostPhysical,
}

impl StartPage {
    /// A free page below 640 KiB; `None` where there is none, or no memory to map it.
    pub(crate) fn new() -> Option<Self> {
        // Page 0 is left alone: firmware may expect its vectors and data there.
        let region = memory_map().regions().find_map(|region| {
            let start = region.start.max(PAGE_SIZE);
            (region.kind == handoff::MemoryKind::Usable && start < region.end.min(0xa_0000)).then_some(start)
        })?;
        let how = (Access::Execute, Caching::WriteBack);
        let at = region as usize;
        // SAFETY: the page is free RAM that no allocator manages; it is written through the direct map before any CPU
        // runs in it.
        with_tables(|tables| unsafe { tables.map(at, region, PAGE_SIZE, how, true, &mut Source) }).ok()?;
        Some(Self { address: HostPhysical::new(region) })
    }

    /// Where it lies.
    pub(crate) fn address(&self) -> HostPhysical {
        self.address
    }
}

impl Drop for StartPage {
    fn drop(&mut self) {
        let _ = with_tables(|tables| {
            // SAFETY: whoever held the page has seen the other CPUs leave it. A CPU that still had it in its TLB would
            // find there what it ran, code of the hypervisor that nobody overwrites.
            unsafe { tables.unmap_page(self.address.as_u64() as usize) };
            Ok(())
        });
    }
}
