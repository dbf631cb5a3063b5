//! What the loader left: Multiboot Specification 0.6.96, section 3.3.

use core::ffi::CStr;

/// EAX at the entry.
const MAGIC: u32 = 0x2BAD_B002;

const HAS_MEMORY: u32 = 1 << 0;
const HAS_COMMAND_LINE: u32 = 1 << 2;
const HAS_MODULES: u32 = 1 << 3;
const HAS_MAP: u32 = 1 << 6;

/// The information structure, as far as the guests read it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Raw {
    flags: u32,
    memory_lower: u32,
    memory_upper: u32,
    boot_device: u32,
    command_line: u32,
    module_count: u32,
    modules: u32,
    symbols: [u32; 4],
    map_length: u32,
    map: u32,
}

/// A file that the loader put into memory.
#[derive(Clone, Copy, Debug)]
pub struct Module {
    /// Its bytes.
    pub data: &'static [u8],
    /// The string that came with it.
    pub text: &'static str,
}

/// A row of the memory map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// The first byte.
    pub start: u64,
    /// Bytes.
    pub length: u64,
    /// 1: free RAM.
    pub kind: u32,
}

/// The loader's information.
#[derive(Clone, Copy, Debug)]
pub struct Information(Raw);

impl Information {
    /// What the two registers of the entry lead to; `None` if it was not a Multiboot loader.
    ///
    /// # Safety
    ///
    /// `magic` and `information` are EAX and EBX at the entry, and what the loader wrote is still there.
    pub unsafe fn new(magic: u32, information: u32) -> Option<Self> {
        // SAFETY: a loader that leaves the magic number leaves the structure, too, in memory that is mapped.
        (magic == MAGIC).then(|| Self(unsafe { (information as usize as *const Raw).read_unaligned() }))
    }

    /// Which parts are there.
    pub fn flags(&self) -> u32 {
        self.0.flags
    }

    /// KiB of memory below 1 MiB, and above it up to the first hole.
    pub fn memory(&self) -> Option<(u32, u32)> {
        (self.0.flags & HAS_MEMORY != 0).then_some((self.0.memory_lower, self.0.memory_upper))
    }

    /// The command line, or nothing where it is absent or not UTF-8.
    pub fn command_line(&self) -> &'static str {
        if self.0.flags & HAS_COMMAND_LINE == 0 {
            return "";
        }
        text(self.0.command_line)
    }

    /// The value of `KEY=VALUE` on the command line.
    pub fn option(&self, key: &str) -> Option<&'static str> {
        self.command_line()
            .split_ascii_whitespace()
            .filter_map(|word| word.split_once('='))
            .find(|(name, _)| *name == key)
            .map(|(_, value)| value)
    }

    /// The modules.
    pub fn modules(&self) -> impl Iterator<Item = Module> + '_ {
        let count = if self.0.flags & HAS_MODULES != 0 { self.0.module_count } else { 0 };
        (0..count as usize).map(|index| {
            // SAFETY: the loader says that so many records of 16 bytes lie there, and nothing has overwritten them.
            let [start, end, string, _] =
                unsafe { (self.0.modules as usize as *const [u32; 4]).add(index).read_unaligned() };
            // SAFETY: likewise for the module's bytes.
            let data =
                unsafe { core::slice::from_raw_parts(start as usize as *const u8, end.saturating_sub(start) as usize) };
            Module { data, text: text(string) }
        })
    }

    /// The memory map.
    pub fn map(&self) -> impl Iterator<Item = Region> + '_ {
        let length = if self.0.flags & HAS_MAP != 0 { self.0.map_length as usize } else { 0 };
        let mut offset = 0;
        core::iter::from_fn(move || {
            if offset + 24 > length {
                return None;
            }
            let entry = (self.0.map as usize + offset) as *const u8;
            // SAFETY: the loader says that the map is `length` bytes long; an entry has at least 24.
            let (size, start, length, kind) = unsafe {
                (
                    entry.cast::<u32>().read_unaligned(),
                    entry.add(4).cast::<u64>().read_unaligned(),
                    entry.add(12).cast::<u64>().read_unaligned(),
                    entry.add(20).cast::<u32>().read_unaligned(),
                )
            };
            offset += size as usize + 4;
            Some(Region { start, length, kind })
        })
    }
}

fn text(address: u32) -> &'static str {
    // SAFETY: the loader ends each of its strings with a NUL, and nothing has overwritten them.
    unsafe { CStr::from_ptr(address as usize as *const _) }.to_str().unwrap_or_default()
}
