//! The one structure that Postern's boot loader hands to its kernel.
//!
//! The loader fills a [`Handoff`] in memory of kind [`MemoryKind::Loader`] and jumps to the kernel's entry point with
//! its physical address in RDI (System V calling convention), interrupts off, long mode with 4 levels of page tables
//! on, EFER.NXE and CR0.WP set, and a stack of [`BOOT_STACK_SIZE`] bytes. The page tables map at their own addresses all
//! of physical memory from 0 to the end of RAM (at least the first 4 GiB) and the framebuffer, writable and not
//! executable, and the kernel's segments at the addresses that they were linked for, with their own permissions. GDT,
//! IDT and TSS are still firmware's, in memory that the map shows as usable: the kernel loads its own first. Every
//! address in here is physical.
//!
//! The layout is fixed by [`VERSION`]: a kernel refuses a version that it does not know.

#![no_std]
#![forbid(unsafe_code)]

/// The first eight bytes of a [`Handoff`].
pub const MAGIC: u64 = u64::from_le_bytes(*b"POSTERN\0");

/// The layout of a [`Handoff`]; changes with every change of a structure in this crate.
pub const VERSION: u32 = 1;

/// Bytes of stack that the kernel may use until it has its own.
pub const BOOT_STACK_SIZE: usize = 64 * 1024;

/// What the loader tells the kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Handoff {
    /// [`MAGIC`].
    pub magic: u64,
    /// [`VERSION`].
    pub version: u32,
    /// `size_of::<Handoff>()`, in bytes.
    pub size: u32,
    /// The ACPI root system description pointer, or 0 where firmware gave none.
    pub rsdp: u64,
    /// An array of [`MemoryRegion`]: sorted by address, without overlap.
    pub memory_map: Array,
    /// The kernel's image as it lies in memory.
    pub kernel: Range,
    /// The kernel's ELF file, for its symbols.
    pub kernel_file: Range,
    /// The configuration file's text: UTF-8 and TOML, which the loader checked. Whatever else is wrong with it is the
    /// kernel's to report.
    pub configuration: Range,
    /// An array of [`Module`]: the files that the configuration names, each once, but for those that are absent.
    pub modules: Array,
    /// The screen, with `address` 0 where firmware has none.
    pub framebuffer: Framebuffer,
}

/// Bytes in memory.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// The first byte.
    pub address: u64,
    /// How many bytes.
    pub length: u64,
}

/// An array in memory.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Array {
    /// The first element.
    pub address: u64,
    /// How many elements.
    pub count: u64,
}

/// A file that the loader read from its volume.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Module {
    /// The path as the configuration spells it (UTF-8).
    pub path: Range,
    /// The file's bytes; `address` is aligned to 4 KiB.
    pub data: Range,
}

/// A part of the physical address space.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryRegion {
    /// The first byte; aligned to 4 KiB.
    pub start: u64,
    /// Bytes; a multiple of 4 KiB.
    pub length: u64,
    /// A [`MemoryKind`] as a number.
    pub kind: u32,
    /// 0.
    pub reserved: u32,
}

/// What a [`MemoryRegion`] holds.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryKind {
    /// Free RAM.
    Usable = 1,
    /// RAM that holds the handoff, the modules, the boot stack and the boot page tables: free once they are not used.
    Loader = 2,
    /// RAM that holds the kernel.
    Kernel = 3,
    /// RAM that holds ACPI tables.
    AcpiTables = 4,
    /// RAM that firmware needs kept (ACPI NVS, runtime services).
    Firmware = 5,
    /// Registers of devices.
    Mmio = 6,
    /// Not to be touched.
    Reserved = 7,
}

impl MemoryKind {
    /// The kind with this number.
    pub const fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            1 => Self::Usable,
            2 => Self::Loader,
            3 => Self::Kernel,
            4 => Self::AcpiTables,
            5 => Self::Firmware,
            6 => Self::Mmio,
            7 => Self::Reserved,
            _ => return None,
        })
    }
}

/// A linear framebuffer with 32 bits a pixel.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Framebuffer {
    /// The first pixel, or 0: no screen.
    pub address: u64,
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Pixels from one row to the next.
    pub stride: u32,
    /// 0: blue in the lowest byte; 1: red in the lowest byte.
    pub format: u32,
}

const _: () = {
    assert!(size_of::<Handoff>() == 128);
    assert!(size_of::<MemoryRegion>() == 24);
    assert!(size_of::<Module>() == 32);
};
