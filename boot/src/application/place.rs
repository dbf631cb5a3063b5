//! The kernel in memory, and the address space that it starts in.

use handoff::{Framebuffer, Range};
use loader::PAGE_SIZE;
use loader::kernel_file::KernelImage;
use loader::page_tables::{AddressSpace, Permissions};
use uefi::Status;
use uefi::boot::MemoryType;

use super::error::BootError;
use super::jump::Trampoline;
use super::memory::{FirmwareTables, Pages};
use super::processor::Processor;
use super::say;

/// Every kernel finds this much of physical memory at its own address, whatever is there.
const IDENTITY_MINIMUM: u64 = 4 << 30;

/// A kernel that is in memory.
pub(super) struct Kernel<'f> {
    image: KernelImage<'f>,
    /// Where it lies.
    pub(super) memory: Range,
    /// Where it starts, as it was linked.
    pub(super) entry: u64,
}

/// Copies the kernel's parts to where they will run.
pub(super) fn load(file: &Pages) -> Result<Kernel<'_>, BootError> {
    let image = KernelImage::parse(file.bytes())?;
    let length = usize::try_from(image.length).unwrap_or(usize::MAX);
    let mut pages = Pages::allocate_low(MemoryType::LOADER_DATA, length, BootError::memory_for("the kernel"))?;
    for segment in &image.segments {
        let first = usize::try_from(segment.start.saturating_sub(image.start).saturating_add(segment.offset)).ok();
        let last = first.and_then(|first| first.checked_add(segment.data.len()));
        let target = first.zip(last).and_then(|(first, last)| pages.bytes_mut().get_mut(first..last));
        let Some(target) = target else {
            return Err(BootError::Memory {
                bytes: length,
                purpose: "the kernel".into(),
                status: Status::BAD_BUFFER_SIZE,
            });
        };
        target.copy_from_slice(segment.data);
    }
    let (memory, entry) = (pages.range(), image.entry);
    say!("The kernel is at {:#x}, {} KiB.", memory.address, memory.length >> 10);
    Ok(Kernel { image, memory, entry })
}

/// Builds the address space and returns its root. Physical memory is data at its own address; of it, only the
/// trampoline's page is code. The kernel's parts have the permissions that its file asks for.
pub(super) fn build_tables(
    kernel: &Kernel<'_>,
    trampoline: &Trampoline,
    framebuffer: &Framebuffer,
    end_of_ram: u64,
    processor: Processor,
) -> Result<u64, BootError> {
    let mut space = AddressSpace::new(FirmwareTables, processor.gigabyte_pages)?;
    let end = end_of_ram.max(IDENTITY_MINIMUM).next_multiple_of(1 << 30);
    let code = trampoline.page();
    let behind = code.saturating_add(PAGE_SIZE);
    if code != 0 {
        space.map(0, 0, code, Permissions::ReadWrite)?;
    }
    space.map(code, code, PAGE_SIZE, Permissions::ReadExecute)?;
    space.map(behind, behind, end.saturating_sub(behind), Permissions::ReadWrite)?;
    let pixels = u64::from(framebuffer.stride).saturating_mul(u64::from(framebuffer.height)).saturating_mul(4);
    if framebuffer.address >= end && pixels != 0 {
        let start = framebuffer.address / PAGE_SIZE * PAGE_SIZE;
        let length = framebuffer.address.saturating_sub(start).saturating_add(pixels).next_multiple_of(PAGE_SIZE);
        space.map(start, start, length, Permissions::ReadWrite)?;
    }
    for segment in &kernel.image.segments {
        let physical = kernel.memory.address.saturating_add(segment.start.saturating_sub(kernel.image.start));
        space.map(segment.start, physical, segment.length, segment.permissions)?;
    }
    Ok(space.root())
}
