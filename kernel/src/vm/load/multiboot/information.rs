//! The information structure that a multiboot image gets (specification, section 3.3).

use alloc::vec::Vec;

use super::{Multiboot, MultibootError};
use crate::vm::load::Target;
use crate::vm::map::{LOADER_AREA, Range};

const INFORMATION: u64 = LOADER_AREA.start;
const MEMORY_MAP: u64 = LOADER_AREA.start + 0x200;
const MODULES: Range = Range { start: LOADER_AREA.start + 0x2000, length: 0x4000 };
const STRINGS: Range = Range { start: LOADER_AREA.start + 0x1_0000, length: LOADER_AREA.length - 0x1_0000 };

/// Bytes of the structure.
const SIZE: usize = 88;
/// Which fields are valid: memory, command line, modules, memory map, loader name.
const FLAGS: u32 = 1 << 0 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9;
/// KiB of conventional memory.
const LOWER_MEMORY: u32 = 639;
const NAME: &str = "Postern";

/// The strings, one behind the other, each with its NUL.
struct Strings {
    bytes: Vec<u8>,
}

impl Strings {
    /// Adds words with a blank between them; gives the string's address.
    fn add(&mut self, words: [&str; 2]) -> u32 {
        let address = STRINGS.start + self.bytes.len() as u64;
        for word in words.into_iter().filter(|word| !word.is_empty()) {
            if self.bytes.len() as u64 > address - STRINGS.start {
                self.bytes.push(b' ');
            }
            // A NUL inside would end the string early.
            self.bytes.extend(word.bytes().filter(|byte| *byte != 0));
        }
        self.bytes.push(0);
        address as u32
    }
}

/// Writes the structure and what it points to; gives its address.
pub(super) fn write(target: Target<'_>, multiboot: &Multiboot<'_>, modules: &[Range]) -> Result<u32, MultibootError> {
    let mut strings = Strings { bytes: Vec::new() };
    let command_line = strings.add([multiboot.name, multiboot.command_line]);
    let name = strings.add([NAME, ""]);
    let mut list = Vec::new();
    for (module, range) in multiboot.modules.iter().zip(modules) {
        let string = strings.add([module.name, module.command_line]);
        // Modules lie below 4 GiB.
        for field in [range.start as u32, range.end() as u32, string, 0] {
            list.extend_from_slice(&field.to_le_bytes());
        }
    }
    for (bytes, room) in [(&list, MODULES), (&strings.bytes, STRINGS)] {
        if bytes.len() as u64 > room.length {
            return Err(MultibootError::TooManyStrings { needed: bytes.len() as u64, limit: room.length });
        }
    }

    let mut map = Vec::new();
    for entry in target.map.e820() {
        map.extend_from_slice(&20u32.to_le_bytes());
        map.extend_from_slice(&entry.range.start.to_le_bytes());
        map.extend_from_slice(&entry.range.length.to_le_bytes());
        map.extend_from_slice(&entry.kind.to_le_bytes());
    }

    let mut fields = [0u32; SIZE / 4];
    let mut set = |offset: usize, value: u32| {
        if let Some(field) = fields.get_mut(offset / 4) {
            *field = value;
        }
    };
    set(0, FLAGS);
    set(4, LOWER_MEMORY);
    set(8, (target.map.low_memory_end().saturating_sub(0x10_0000) / 1024) as u32);
    set(16, command_line);
    set(20, modules.len() as u32);
    set(24, MODULES.start as u32);
    set(44, map.len() as u32);
    set(48, MEMORY_MAP as u32);
    set(64, name);
    let information: Vec<u8> = fields.into_iter().flat_map(u32::to_le_bytes).collect();

    for (address, bytes) in
        [(INFORMATION, &information), (MEMORY_MAP, &map), (MODULES.start, &list), (STRINGS.start, &strings.bytes)]
    {
        target.write(address, bytes)?;
    }
    Ok(INFORMATION as u32)
}
