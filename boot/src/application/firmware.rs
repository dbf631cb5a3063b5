//! What only firmware knows: ACPI tables, the screen, the memory map; and the end of its boot services.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::mem::offset_of;

use handoff::{Array, Framebuffer, MemoryKind, MemoryRegion, Range};
use loader::memory_map::{end_of_ram, kind_of, normalize, region};
use uefi::boot::{self, MemoryDescriptor, OpenProtocolAttributes, OpenProtocolParams};
use uefi::proto::console::gop::{GraphicsOutput, PixelFormat};
use uefi::table::cfg::ConfigTableEntry;
use uefi::{Status, system, table};

use super::NO_REGION;
use super::error::BootError;

/// Bytes of the map's buffer for descriptors that appear until the boot services end.
const MAP_SLACK: usize = 16 * 1024;
/// How often the boot services are asked to end: each try may find the map changed by an event of firmware's own.
const EXIT_TRIES: usize = 8;

/// The kernel takes as long as it takes.
pub(super) fn stop_watchdog() {
    // Firmware without a watchdog refuses, and has none to stop.
    let _ = boot::set_watchdog_timer(0, 0x1_0000, None);
}

/// The ACPI root pointer: version 2 if firmware has it, else version 1.
pub(super) fn rsdp() -> Option<u64> {
    system::with_config_table(|entries| {
        let find = |guid| entries.iter().find(|entry| entry.guid == guid).map(|entry| entry.address as u64);
        find(ConfigTableEntry::ACPI2_GUID).or_else(|| find(ConfigTableEntry::ACPI_GUID)).filter(|address| *address != 0)
    })
}

/// The screen; all zero if there is none with 32 bits a pixel that memory writes reach.
pub(super) fn framebuffer() -> Framebuffer {
    find_framebuffer().unwrap_or_default()
}

fn find_framebuffer() -> Option<Framebuffer> {
    let handle = boot::get_handle_for_protocol::<GraphicsOutput>().ok()?;
    let parameters = OpenProtocolParams { handle, agent: boot::image_handle(), controller: None };
    // SAFETY: opened beside firmware's console, which an exclusive opening would stop; the mode is only read, on the
    // one processor that runs, and no driver is stopped meanwhile.
    let mut output =
        unsafe { boot::open_protocol::<GraphicsOutput>(parameters, OpenProtocolAttributes::GetProtocol) }.ok()?;
    let mode = output.current_mode_info();
    let format = match mode.pixel_format() {
        PixelFormat::Bgr => 0,
        PixelFormat::Rgb => 1,
        PixelFormat::Bitmask | PixelFormat::BltOnly => return None,
    };
    let (width, height) = mode.resolution();
    let mut pixels = output.frame_buffer();
    let needed = mode.stride().checked_mul(height)?.checked_mul(4)?;
    if pixels.size() < needed || mode.stride() < width {
        return None;
    }
    Some(Framebuffer {
        address: pixels.as_mut_ptr() as u64,
        width: width.try_into().ok()?,
        height: height.try_into().ok()?,
        stride: mode.stride().try_into().ok()?,
        format,
    })
}

/// Everything that leaving the boot services needs, allocated before.
pub(super) struct Exit {
    /// Firmware's descriptors.
    buffer: &'static mut [u64],
    /// The same as regions, and what is [excluded](Exit::exclude).
    entries: &'static mut [MemoryRegion],
    /// How many of them are excluded ones: the first.
    excluded: usize,
    /// What the kernel gets.
    regions: &'static mut [MemoryRegion],
}

/// How firmware wrote its map.
struct MapShape {
    /// Bytes of all descriptors.
    size: usize,
    /// Bytes from one descriptor to the next.
    step: usize,
    /// What names this state of the map.
    key: usize,
}

impl Exit {
    /// Allocates for the map as it is now, and some more.
    pub(super) fn prepare() -> Result<Self, BootError> {
        let (status, shape) = read_map(&mut []);
        if status != Status::BUFFER_TOO_SMALL {
            return Err(BootError::MemoryMap(status));
        }
        let size = shape.size.saturating_add(MAP_SLACK);
        let buffer: Vec<u64> = vec![0; size.div_ceil(size_of::<u64>())];
        let entries = size / size_of::<MemoryDescriptor>();
        let regions: Vec<MemoryRegion> = vec![NO_REGION; entries.saturating_mul(2)];
        Ok(Self {
            buffer: Box::leak(buffer.into_boxed_slice()),
            entries: Box::leak(vec![NO_REGION; entries].into_boxed_slice()),
            excluded: 0,
            regions: Box::leak(regions.into_boxed_slice()),
        })
    }

    /// A range of the loader's memory that the kernel's map shows as another kind.
    pub(super) fn exclude(&mut self, range: Range, kind: MemoryKind) {
        let pages = range.length.div_ceil(loader::PAGE_SIZE);
        if let (Some(slot), Some(region)) = (self.entries.get_mut(self.excluded), region(range.address, pages, kind)) {
            *slot = region;
            self.excluded = self.excluded.saturating_add(1);
        }
    }

    /// The first address behind the last RAM.
    pub(super) fn end_of_ram(&mut self) -> Result<u64, BootError> {
        let (status, shape) = read_map(self.buffer);
        if status != Status::SUCCESS {
            return Err(BootError::MemoryMap(status));
        }
        let count = self.fill(&shape)?;
        Ok(end_of_ram(self.entries.get(..count).unwrap_or_default()))
    }

    /// Ends the boot services and returns the final map. Firmware must not be called any more, not even to allocate.
    pub(super) fn leave(mut self) -> Result<Array, BootError> {
        let mut last = Status::ABORTED;
        for _ in 0..EXIT_TRIES {
            let (status, shape) = read_map(self.buffer);
            if status != Status::SUCCESS {
                return Err(BootError::MemoryMap(status));
            }
            last = end_boot_services(shape.key);
            if last == Status::SUCCESS {
                let count = self.fill(&shape)?;
                let entries = self.entries.get(..count).unwrap_or_default();
                let count =
                    normalize(entries, self.regions).map_err(|_| BootError::MemoryMap(Status::BUFFER_TOO_SMALL))?;
                return Ok(Array { address: self.regions.as_ptr() as u64, count: count as u64 });
            }
        }
        Err(BootError::StillInFirmware(last))
    }

    /// Turns the descriptors in the buffer into regions; returns how many there are with the excluded ones.
    fn fill(&mut self, shape: &MapShape) -> Result<usize, BootError> {
        let words = |bytes: usize| bytes / size_of::<u64>();
        let descriptors = self.buffer.get(..words(shape.size)).unwrap_or_default();
        let step = words(shape.step.max(size_of::<MemoryDescriptor>()));
        let mut count = self.excluded;
        for descriptor in descriptors.chunks_exact(step) {
            let word = |offset: usize| descriptor.get(words(offset)).copied().unwrap_or(0);
            // The type is the first 32 bits.
            let kind = kind_of(word(offset_of!(MemoryDescriptor, ty)) as u32);
            let start = word(offset_of!(MemoryDescriptor, phys_start));
            let pages = word(offset_of!(MemoryDescriptor, page_count));
            if let Some(region) = region(start, pages, kind) {
                let slot = self.entries.get_mut(count).ok_or(BootError::MemoryMap(Status::BUFFER_TOO_SMALL))?;
                *slot = region;
                count = count.saturating_add(1);
            }
        }
        Ok(count)
    }
}

/// Firmware's map, as far as the buffer holds it.
fn read_map(buffer: &mut [u64]) -> (Status, MapShape) {
    let mut shape = MapShape { size: size_of_val(buffer), step: 0, key: 0 };
    let mut version = 0;
    let Some(table) = table::system_table_raw() else { return (Status::NOT_READY, shape) };
    // SAFETY: firmware's system table and boot services are valid until `end_boot_services` succeeds, and nothing
    // calls this after; the buffer has the size that is given and descriptors' alignment.
    let status = unsafe {
        ((*table.as_ref().boot_services).get_memory_map)(
            &mut shape.size,
            buffer.as_mut_ptr().cast(),
            &mut shape.key,
            &mut shape.step,
            &mut version,
        )
    };
    (status, shape)
}

fn end_boot_services(key: usize) -> Status {
    let Some(table) = table::system_table_raw() else { return Status::NOT_READY };
    // SAFETY: as in `read_map`; the caller holds no protocol and does not allocate any more.
    unsafe { ((*table.as_ref().boot_services).exit_boot_services)(boot::image_handle().as_ptr(), key) }
}
