//! Linux's bzImage through its 64-bit entry (Linux: Documentation/arch/x86/boot.rst, "64-bit boot protocol").
//!
//! ```text
//! loader area + 0x0000   boot parameters
//!             + 0x1000   descriptor table
//!             + 0x2000   page tables of the first 4 GiB
//!             + 0x10000  command line
//! pref_address           kernel, with init_size bytes of room
//! top of low RAM         initrd
//! ```

mod descriptors;
mod header;
mod page_table;

use alloc::vec;
use core::fmt;

use self::header::Header;
use super::Target;
use crate::vcpu::{NotMemory, Start};
use crate::vm::map::{LOADER_AREA, Range};

const BOOT_PARAMETERS: u64 = LOADER_AREA.start;
const DESCRIPTOR_TABLE: u64 = LOADER_AREA.start + 0x1000;
const PAGE_TABLES: u64 = LOADER_AREA.start + 0x2000;
const COMMAND_LINE: Range = Range { start: LOADER_AREA.start + 0x1_0000, length: 0x1_0000 };

/// Bytes of the boot parameters.
const BOOT_PARAMETERS_SIZE: usize = 4096;
/// From the start of the protected-mode part to its 64-bit entry.
const ENTRY_64: u64 = 0x200;
/// The most rows of the memory map.
const E820_MAXIMUM: usize = 128;
/// "A boot loader without a number."
const UNREGISTERED_LOADER: u8 = 0xff;
/// The initrd starts at a multiple of this.
const PAGE: u64 = 4096;

/// A kernel and what it is started with.
#[derive(Clone, Copy, Debug)]
pub struct Linux<'a> {
    /// The bzImage file.
    pub kernel: &'a [u8],
    /// The initramfs file.
    pub initrd: Option<&'a [u8]>,
    /// The command line.
    pub command_line: &'a str,
}

/// Why a Linux kernel cannot be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinuxError {
    /// The file ends inside its header.
    Short {
        /// The file's bytes.
        length: usize,
    },
    /// The signature is missing.
    NotLinux,
    /// The boot protocol is older than 2.12.
    Old {
        /// The protocol's version, major in the high byte.
        version: u16,
    },
    /// The kernel lacks the 64-bit entry, or wants to be loaded below 1 MiB.
    No64BitEntry,
    /// The header says that the protected-mode part is longer than the file.
    Truncated {
        /// Bytes that the header asks for.
        needed: u64,
        /// The file's bytes.
        length: usize,
    },
    /// The kernel does not fit into RAM where it wants to run.
    KernelDoesNotFit {
        /// Where it wants to run.
        range: Range,
        /// Where the VM's low RAM ends.
        memory: u64,
    },
    /// The address at which the kernel wants to run is not aligned as it asks for itself.
    Misaligned {
        /// The address.
        address: u64,
        /// The alignment.
        alignment: u64,
    },
    /// The initrd does not fit above the kernel.
    InitrdDoesNotFit {
        /// Its bytes.
        length: usize,
        /// Bytes that are free.
        free: u64,
    },
    /// The command line is longer than the kernel takes, or holds a NUL.
    CommandLine {
        /// Its bytes.
        length: usize,
        /// The most that the kernel takes.
        limit: u64,
    },
    /// A range that the address map calls RAM is none.
    NotMemory,
}

impl fmt::Display for LinuxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short { length } => write!(
                f,
                "the kernel file has {length} bytes and ends inside its setup header; it is damaged or no bzImage"
            ),
            Self::NotLinux => f.write_str(
                "the kernel file has no Linux setup header; give a bzImage (Debian: /boot/vmlinuz-...), not an ELF \
                 or compressed file",
            ),
            Self::Old { version } => write!(
                f,
                "the kernel speaks boot protocol {}.{:02}, and 2.12 (Linux 3.8) is the oldest with a 64-bit entry; \
                 give a newer kernel",
                version >> 8,
                version & 0xff
            ),
            Self::No64BitEntry => {
                f.write_str("the kernel has no 64-bit entry above 1 MiB; give an x86-64 kernel (bzImage)")
            }
            Self::Truncated { needed, length } => {
                write!(f, "the kernel file has {length} bytes, and its header asks for {needed}; it is truncated")
            }
            Self::KernelDoesNotFit { range, memory } => write!(
                f,
                "the kernel runs at {range}, and the VM's low RAM ends at {memory:#x}; give the VM more `memory`"
            ),
            Self::Misaligned { address, alignment } => write!(
                f,
                "the kernel wants to run at {address:#x} and at a multiple of {alignment:#x}, which is no power of \
                 two or does not divide it; the file is damaged"
            ),
            Self::InitrdDoesNotFit { length, free } => write!(
                f,
                "the initrd has {length} bytes, and {free} are free between the kernel and the end of the VM's low \
                 RAM; give the VM more `memory`"
            ),
            Self::CommandLine { length, limit } => write!(
                f,
                "the kernel's command line has {length} bytes, and this kernel takes {limit} without NUL; shorten \
                 `cmdline`"
            ),
            Self::NotMemory => NotMemory.fmt(f),
        }
    }
}

impl core::error::Error for LinuxError {}

impl From<NotMemory> for LinuxError {
    fn from(_: NotMemory) -> Self {
        Self::NotMemory
    }
}

/// Loads a kernel.
///
/// # Errors
/// [`LinuxError`]; RAM may hold part of the image then.
pub fn load(target: Target<'_>, linux: Linux<'_>) -> Result<Start, LinuxError> {
    let header = Header::parse(linux.kernel)?;
    let run = run_range(target, &header)?;
    target.write(run.start, header.kernel)?;
    let initrd = place_initrd(target, linux.initrd, &header, run)?;
    write_command_line(target, linux.command_line, &header)?;
    write_boot_parameters(target, linux, &header, initrd)?;
    let gdt_limit = descriptors::write(target, DESCRIPTOR_TABLE)?;
    Ok(Start::Long {
        entry: run.start.saturating_add(ENTRY_64),
        rsi: BOOT_PARAMETERS,
        page_table: page_table::write(target, PAGE_TABLES)?,
        gdt: DESCRIPTOR_TABLE,
        gdt_limit,
    })
}

/// Where the kernel runs, with the room that it needs to unpack itself.
fn run_range(target: Target<'_>, header: &Header<'_>) -> Result<Range, LinuxError> {
    let (address, alignment) = (header.preferred_address, header.alignment);
    if !alignment.is_power_of_two() || address & (alignment - 1) != 0 {
        return Err(LinuxError::Misaligned { address, alignment });
    }
    let length = header.run_size.max(header.kernel.len() as u64);
    let range = Range { start: address, length };
    if !target.map.is_memory(address, length) || range.overlaps(LOADER_AREA) {
        return Err(LinuxError::KernelDoesNotFit { range, memory: target.map.low_memory_end() });
    }
    Ok(range)
}

/// Puts the initrd as high as kernel and RAM allow; an empty range where there is none.
fn place_initrd(
    target: Target<'_>,
    initrd: Option<&[u8]>,
    header: &Header<'_>,
    run: Range,
) -> Result<Range, LinuxError> {
    let Some(initrd) = initrd.filter(|initrd| !initrd.is_empty()) else {
        return Ok(Range { start: 0, length: 0 });
    };
    let length = initrd.len() as u64;
    let top = target.map.low_memory_end().min(header.initrd_maximum.saturating_add(1));
    let free = top.saturating_sub(run.end());
    let start = top
        .checked_sub(length)
        .map(|start| start & !(PAGE - 1))
        .filter(|start| *start >= run.end())
        .ok_or(LinuxError::InitrdDoesNotFit { length: initrd.len(), free })?;
    target.write(start, initrd)?;
    Ok(Range { start, length })
}

fn write_command_line(target: Target<'_>, line: &str, header: &Header<'_>) -> Result<(), LinuxError> {
    let limit = header.command_line_limit.min(COMMAND_LINE.length - 1);
    if line.len() as u64 > limit || line.contains('\0') {
        return Err(LinuxError::CommandLine { length: line.len(), limit });
    }
    // RAM is zero: the NUL is there.
    Ok(target.write(COMMAND_LINE.start, line.as_bytes())?)
}

/// The "zero page" (Linux: Documentation/arch/x86/zero-page.rst): zero but for the copied header and what is set here.
fn write_boot_parameters(
    target: Target<'_>,
    linux: Linux<'_>,
    header: &Header<'_>,
    initrd: Range,
) -> Result<(), LinuxError> {
    let mut page = vec![0u8; BOOT_PARAMETERS_SIZE];
    let mut put = |offset: usize, bytes: &[u8]| {
        if let Some(field) = page.get_mut(offset..).and_then(|rest| rest.get_mut(..bytes.len())) {
            field.copy_from_slice(bytes);
        }
    };
    put(header::START, header.bytes(linux.kernel));
    put(0x210, &[UNREGISTERED_LOADER]);
    for (low, high, value) in
        [(0x218, 0x0c0, initrd.start), (0x21c, 0x0c4, initrd.length), (0x228, 0x0c8, COMMAND_LINE.start)]
    {
        put(low, &(value as u32).to_le_bytes());
        put(high, &((value >> 32) as u32).to_le_bytes());
    }
    // No list of further setup data: the file's own pointer would lead anywhere.
    put(0x250, &[0; 8]);
    put(0x070, &target.root_pointer.as_u64().to_le_bytes());
    let mut rows = 0;
    for (row, entry) in target.map.e820().take(E820_MAXIMUM).enumerate() {
        let at = 0x2d0 + row * 20;
        put(at, &entry.range.start.to_le_bytes());
        put(at + 8, &entry.range.length.to_le_bytes());
        put(at + 16, &entry.kind.to_le_bytes());
        rows += 1;
    }
    put(0x1e8, &[rows]);
    Ok(target.write(BOOT_PARAMETERS, &page)?)
}

#[cfg(test)]
mod tests;
