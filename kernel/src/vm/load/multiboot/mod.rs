//! Multiboot 1 images (Multiboot Specification version 0.6.96): 32-bit ELF files and files with address fields in their
//! header, entered in 32-bit protected mode.
//!
//! ```text
//! loader area + 0x0000   information structure
//!             + 0x0200   memory map
//!             + 0x2000   module list
//!             + 0x10000  command lines, up to the area's end
//! behind the image       modules, page aligned
//! ```

mod elf32;
mod error;
mod header;
mod information;

use alloc::vec::Vec;

pub use self::error::MultibootError;
use self::header::{Addresses, Header};
use super::Target;
use crate::vcpu::Start;
use crate::vm::map::{LOADER_AREA, Range};

/// What EAX says: a multiboot loader started this.
const LOADER_MAGIC: u32 = 0x2bad_b002;
/// Modules start at multiples of this.
const PAGE: u64 = 4096;
/// The end of what a 32-bit entry can name.
const FOUR_GIB: u64 = 1 << 32;

/// A module: a file that the image finds in memory.
#[derive(Clone, Copy, Debug)]
pub struct Module<'a> {
    /// Its name, the first word of its string.
    pub name: &'a str,
    /// The file's bytes.
    pub data: &'a [u8],
    /// The rest of its string.
    pub command_line: &'a str,
}

/// An image and what it is started with.
#[derive(Clone, Copy, Debug)]
pub struct Multiboot<'a> {
    /// Its name, the first word of its command line.
    pub name: &'a str,
    /// The image file.
    pub image: &'a [u8],
    /// The rest of its command line.
    pub command_line: &'a str,
    /// Its modules, in order.
    pub modules: &'a [Module<'a>],
}

/// Bytes of the file and where in RAM they go; RAM behind them up to the range's end is zero.
#[derive(Clone, Copy, Debug)]
struct Segment<'a> {
    range: Range,
    data: &'a [u8],
}

/// An image as it will lie in RAM.
#[derive(Debug)]
struct Plan<'a> {
    segments: Vec<Segment<'a>>,
    entry: u32,
}

/// Loads an image with its modules.
///
/// # Errors
/// [`MultibootError`]; RAM may hold part of the image then.
pub fn load(target: Target<'_>, multiboot: Multiboot<'_>) -> Result<Start, MultibootError> {
    let header = Header::find(multiboot.image)?;
    let plan = match header.addresses {
        Some(addresses) => by_addresses(multiboot.image, &header, addresses)?,
        None => elf32::plan(multiboot.image)?,
    };
    let end = place(target, &plan)?;
    let modules = place_modules(target, multiboot.modules, end)?;
    let information = information::write(target, &multiboot, &modules)?;
    Ok(Start::Protected { entry: plan.entry, eax: LOADER_MAGIC, ebx: information })
}

/// The plan of an image whose header has address fields (specification, section 3.1.3).
fn by_addresses<'a>(file: &'a [u8], header: &Header, addresses: Addresses) -> Result<Plan<'a>, MultibootError> {
    let Addresses { header: at, load, load_end, bss_end, entry } = addresses;
    let before = at.checked_sub(load).ok_or(MultibootError::HeaderBeforeLoad { header: at, load })?;
    let offset = (header.offset as u64)
        .checked_sub(before.into())
        .ok_or(MultibootError::LoadBeforeFile { header_offset: header.offset, before })?;
    let rest = file.get(offset as usize..).unwrap_or_default();
    let data = match load_end {
        0 => rest,
        end => {
            let length = end.checked_sub(load).ok_or(MultibootError::EndBeforeLoad { load, end })?;
            rest.get(..length as usize)
                .ok_or(MultibootError::Truncated { needed: offset + u64::from(length), length: file.len() })?
        }
    };
    let data_end = u64::from(load) + data.len() as u64;
    let end = match bss_end {
        0 => data_end,
        bss_end => u64::from(bss_end),
    };
    let length = end.checked_sub(u64::from(load)).filter(|_| end >= data_end);
    let length = length.ok_or(MultibootError::BssBeforeDataEnd { bss_end, data_end })?;
    let range = Range { start: load.into(), length };
    Ok(Plan { segments: alloc::vec![Segment { range, data }], entry })
}

/// Writes the segments; gives the end of the highest.
fn place(target: Target<'_>, plan: &Plan<'_>) -> Result<u64, MultibootError> {
    let mut end = 0;
    for segment in &plan.segments {
        let range = segment.range;
        if !target.map.is_memory(range.start, range.length) || range.end() > FOUR_GIB {
            return Err(MultibootError::DoesNotFit { range, memory: target.map.low_memory_end() });
        }
        if range.overlaps(LOADER_AREA) {
            return Err(MultibootError::OverLoader { range });
        }
        target.write(range.start, segment.data)?;
        end = end.max(range.end());
    }
    if !plan.segments.iter().any(|segment| segment.range.contains(plan.entry.into(), 1)) {
        return Err(MultibootError::EntryOutside { entry: plan.entry });
    }
    Ok(end)
}

/// Writes the modules one behind the other from `end` on, never below the first MiB.
fn place_modules(target: Target<'_>, modules: &[Module<'_>], end: u64) -> Result<Vec<Range>, MultibootError> {
    let mut next = end.max(0x10_0000);
    let mut ranges = Vec::new();
    for module in modules {
        let length = module.data.len() as u64;
        let range = Range { start: next.next_multiple_of(PAGE), length };
        if !target.map.is_memory(range.start, length) || range.end() > FOUR_GIB {
            let memory = target.map.low_memory_end();
            return Err(MultibootError::ModuleDoesNotFit { index: ranges.len(), range, memory });
        }
        target.write(range.start, module.data)?;
        next = range.end();
        ranges.push(range);
    }
    Ok(ranges)
}

#[cfg(test)]
mod tests;
