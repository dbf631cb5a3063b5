//! What Postern's boot loader decides, apart from the firmware that it asks and the machine that it changes: which
//! ELF file is a kernel, what the memory map says, which page tables the kernel starts on.
//!
//! The UEFI application of this package (`main.rs`) does the rest.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod kernel_file;
pub mod memory_map;
pub mod page_tables;

/// The bytes of a page.
pub const PAGE_SIZE: u64 = 4096;
