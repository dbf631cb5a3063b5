//! Loaders: they put an image into guest RAM and say in which state the first virtual CPU starts.
//!
//! Images are not trusted: every field is checked against the file and against the address map, and a broken one is a
//! named error, never a panic and never a write outside RAM.

mod bytes;
pub mod linux;
pub mod multiboot;

use alloc::vec::Vec;
use core::fmt;

use super::map::{AddressMap, Range};
use super::memory::GuestMemory;
use crate::memory::GuestPhysical;
use crate::vcpu::NotMemory;

/// Selector of the flat code segment in the descriptor table that a loader writes.
pub const CODE_SELECTOR: u16 = 0x10;
/// Selector of the flat data segment in the descriptor table that a loader writes.
pub const DATA_SELECTOR: u16 = 0x18;

/// The state in which the first virtual CPU starts. Interrupts are off; segments are flat, with [`CODE_SELECTOR`] in CS
/// and [`DATA_SELECTOR`] in the others; registers not named are 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryState {
    /// 64-bit mode with paging on.
    Long {
        /// RIP.
        instruction: u64,
        /// RSI: Linux's boot parameters.
        boot_parameters: u64,
        /// CR3: maps the first 4 GiB at their own addresses.
        page_table: GuestPhysical,
        /// GDTR.
        descriptor_table: DescriptorTable,
    },
    /// 32-bit protected mode with paging off.
    Protected {
        /// EIP.
        instruction: u32,
        /// EAX: multiboot's magic number.
        magic: u32,
        /// EBX: multiboot's information structure.
        information: u32,
        /// GDTR.
        descriptor_table: DescriptorTable,
    },
}

/// Where a descriptor table lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DescriptorTable {
    /// Its first byte.
    pub base: GuestPhysical,
    /// The offset of its last byte.
    pub limit: u16,
}

/// Why an image cannot be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoadError {
    /// A Linux kernel.
    Linux(linux::LinuxError),
    /// A multiboot image.
    Multiboot(multiboot::MultibootError),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Linux(error) => error.fmt(f),
            Self::Multiboot(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for LoadError {}

impl From<linux::LinuxError> for LoadError {
    fn from(error: linux::LinuxError) -> Self {
        Self::Linux(error)
    }
}

impl From<multiboot::MultibootError> for LoadError {
    fn from(error: multiboot::MultibootError) -> Self {
        Self::Multiboot(error)
    }
}

/// Where a loader puts things.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    /// The VM's addresses.
    pub map: &'a AddressMap,
    /// The VM's RAM.
    pub memory: &'a dyn GuestMemory,
    /// The ACPI root pointer.
    pub root_pointer: GuestPhysical,
}

impl Target<'_> {
    fn write(&self, address: u64, bytes: &[u8]) -> Result<(), NotMemory> {
        self.memory.write(GuestPhysical::new(address), bytes)
    }
}

/// Writes the descriptor table that [`EntryState`] describes: null, null, code, data.
fn write_descriptor_table(target: Target<'_>, at: Range, long: bool) -> Result<DescriptorTable, NotMemory> {
    // Base 0, limit 4 GiB, present, ring 0, accessed; code executable and readable with L or D, data writable with D.
    let code: u64 = if long { 0x00af_9b00_0000_ffff } else { 0x00cf_9b00_0000_ffff };
    let data: u64 = 0x00cf_9300_0000_ffff;
    let bytes: Vec<u8> = [0, 0, code, data].into_iter().flat_map(u64::to_le_bytes).collect();
    target.write(at.start, &bytes)?;
    Ok(DescriptorTable { base: GuestPhysical::new(at.start), limit: 31 })
}
