//! The plan of a 32-bit ELF image: its segments at their physical addresses.

use alloc::vec::Vec;

use elf::ElfBytes;
use elf::endian::LittleEndian;
use elf::file::Class;

use super::{MultibootError, Plan, Segment};
use crate::vm::map::Range;

pub(super) fn plan(file: &[u8]) -> Result<Plan<'_>, MultibootError> {
    let elf = ElfBytes::<LittleEndian>::minimal_parse(file).map_err(|_| MultibootError::NotElf32)?;
    if elf.ehdr.class != Class::ELF32 || elf.ehdr.e_machine != elf::abi::EM_386 {
        return Err(MultibootError::NotElf32);
    }
    let mut segments = Vec::new();
    let mut entry = elf.ehdr.e_entry;
    for header in elf.segments().ok_or(MultibootError::NoSegments)? {
        if header.p_type != elf::abi::PT_LOAD || header.p_memsz == 0 {
            continue;
        }
        let needed = header.p_offset.saturating_add(header.p_filesz);
        let data = elf.segment_data(&header).map_err(|_| MultibootError::Truncated { needed, length: file.len() })?;
        let length = header.p_memsz.max(header.p_filesz);
        // An entry that is linked at a virtual address starts at that byte's physical one: paging is off.
        let virtual_range = Range { start: header.p_vaddr, length };
        if virtual_range.contains(elf.ehdr.e_entry, 1)
            && let Some(offset) = elf.ehdr.e_entry.checked_sub(header.p_vaddr)
        {
            entry = header.p_paddr.saturating_add(offset);
        }
        segments.push(Segment { range: Range { start: header.p_paddr, length }, data });
    }
    if segments.is_empty() {
        return Err(MultibootError::NoSegments);
    }
    let entry = u32::try_from(entry).map_err(|_| MultibootError::EntryOutside { entry: u32::MAX })?;
    Ok(Plan { segments, entry })
}
