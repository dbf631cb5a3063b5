//! Memory from firmware: whole pages, of the loader's type.

use core::ptr::NonNull;
use core::slice;

use handoff::Range;
use loader::PAGE_SIZE;
use loader::page_tables::TablePool;
use uefi::Status;
use uefi::boot::{self, AllocateType, MemoryType};

use super::error::BootError;

/// The first address behind what the kernel's parts may have: 32-bit code and devices reach it.
const LOW_LIMIT: u64 = (1 << 32) - 1;

/// Pages that belong to the loader, zeroed, and later to the kernel.
#[derive(Debug)]
pub(super) struct Pages {
    start: NonNull<u8>,
    /// Bytes that are used; the last page is whole.
    length: usize,
}

impl Pages {
    /// Pages for `length` bytes (at least one page), anywhere.
    pub(super) fn allocate(length: usize, error: impl FnOnce(usize, Status) -> BootError) -> Result<Self, BootError> {
        Self::with(AllocateType::AnyPages, MemoryType::LOADER_DATA, length, error)
    }

    /// Pages below 4 GiB, of this type.
    pub(super) fn allocate_low(
        memory_type: MemoryType,
        length: usize,
        error: impl FnOnce(usize, Status) -> BootError,
    ) -> Result<Self, BootError> {
        Self::with(AllocateType::MaxAddress(LOW_LIMIT), memory_type, length, error)
    }

    fn with(
        place: AllocateType,
        memory_type: MemoryType,
        length: usize,
        error: impl FnOnce(usize, Status) -> BootError,
    ) -> Result<Self, BootError> {
        let pages = length.div_ceil(PAGE_SIZE as usize).max(1);
        let bytes = pages.checked_mul(PAGE_SIZE as usize);
        let (Some(bytes), Ok(start)) = (bytes, boot::allocate_pages(place, memory_type, pages)) else {
            return Err(error(length, Status::OUT_OF_RESOURCES));
        };
        // SAFETY: firmware gave these pages to us alone, mapped at their physical addresses, for as long as we like.
        unsafe { start.write_bytes(0, bytes) };
        Ok(Self { start, length })
    }

    /// The bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: the pages are ours and initialised; the borrow of `self` keeps writers out.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }

    /// The bytes, to be written.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the pages are ours and initialised; the exclusive borrow of `self` keeps others out.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }

    /// Where they are, in physical memory.
    pub(super) fn range(&self) -> Range {
        Range { address: self.start.as_ptr() as u64, length: self.length as u64 }
    }
}

/// Page tables, a page each.
#[derive(Default)]
pub(super) struct FirmwareTables;

impl TablePool for FirmwareTables {
    fn allocate(&mut self) -> Option<u64> {
        let page = Pages::allocate(PAGE_SIZE as usize, BootError::memory_for("page tables")).ok()?;
        Some(page.range().address)
    }

    fn read(&self, table: u64, index: usize) -> u64 {
        // SAFETY: as in `write`.
        unsafe { entry(table, index).read() }
    }

    fn write(&mut self, table: u64, index: usize, value: u64) {
        // SAFETY: `allocate` gave the page away for good and whole; only its receiver, the one address space under
        // construction, knows it, and asks for entries below 512.
        unsafe { entry(table, index).write(value) }
    }
}

fn entry(table: u64, index: usize) -> *mut u64 {
    (table as *mut u64).wrapping_add(index % 512)
}
