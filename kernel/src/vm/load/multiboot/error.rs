//! Why a multiboot image cannot be loaded.

use core::fmt;

use crate::vcpu::NotMemory;
use crate::vm::map::Range;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MultibootError {
    /// No header in the first 8192 bytes.
    NoHeader,
    /// The header asks for what no loader of this specification knows.
    UnknownFlags {
        /// The flags that are not known.
        flags: u32,
    },
    /// The header has address fields, and the file ends before them.
    ShortHeader,
    /// The header would lie before the first byte that is loaded.
    HeaderBeforeLoad {
        /// Where the header would lie.
        header: u32,
        /// The first byte loaded.
        load: u32,
    },
    /// Loading would start before the file does.
    LoadBeforeFile {
        /// Where in the file the header is.
        header_offset: usize,
        /// How many bytes before it loading starts.
        before: u32,
    },
    /// Loading ends before it starts.
    EndBeforeLoad {
        /// Its start.
        load: u32,
        /// Its end.
        end: u32,
    },
    /// The zeroed part ends before the data.
    BssBeforeDataEnd {
        /// Where it ends.
        bss_end: u32,
        /// Where the data ends.
        data_end: u64,
    },
    /// The file is shorter than what is to be loaded of it.
    Truncated {
        /// Bytes needed.
        needed: u64,
        /// The file's bytes.
        length: usize,
    },
    /// The header has no address fields, and the file is no 32-bit x86 ELF file.
    NotElf32,
    /// The ELF file has nothing to load.
    NoSegments,
    /// A segment or module leaves RAM.
    DoesNotFit {
        /// Where it would lie.
        range: Range,
        /// Where the VM's low RAM ends.
        memory: u64,
    },
    /// A segment covers the memory that the loader itself needs.
    OverLoader {
        /// Where the segment lies.
        range: Range,
    },
    /// The entry point lies in no segment.
    EntryOutside {
        /// The entry point.
        entry: u32,
    },
    /// A module leaves RAM.
    ModuleDoesNotFit {
        /// Its place in the list, from 0.
        index: usize,
        /// Where it would lie.
        range: Range,
        /// Where the VM's low RAM ends.
        memory: u64,
    },
    /// The strings or the list of modules are too long.
    TooManyStrings {
        /// Bytes that they need.
        needed: u64,
        /// Bytes that there are.
        limit: u64,
    },
    /// A range that the address map calls RAM is none.
    NotMemory,
}

impl fmt::Display for MultibootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoHeader => f.write_str(
                "the image has no Multiboot 1 header in its first 8192 bytes (4-byte aligned, magic 0x1badb002); \
                 give a multiboot image, or use `linux` for a Linux kernel",
            ),
            Self::UnknownFlags { flags } => write!(
                f,
                "the image's multiboot header requires features {flags:#06x}, which Multiboot 1 does not define; it \
                 may be damaged or made for another loader"
            ),
            Self::ShortHeader => f.write_str("the image ends inside its multiboot header; it is truncated"),
            Self::HeaderBeforeLoad { header, load } => write!(
                f,
                "the image's multiboot header says that it lies at {header:#x}, before the first byte loaded, \
                 {load:#x}; its header_addr must not be below its load_addr"
            ),
            Self::LoadBeforeFile { header_offset, before } => write!(
                f,
                "the image's multiboot header lies {header_offset:#x} bytes into the file and says that loading \
                 starts {before:#x} bytes before it; its header_addr or load_addr is wrong"
            ),
            Self::EndBeforeLoad { load, end } => write!(
                f,
                "the image's load_end_addr {end:#x} lies before its load_addr {load:#x}; its multiboot header is wrong"
            ),
            Self::BssBeforeDataEnd { bss_end, data_end } => write!(
                f,
                "the image's bss_end_addr {bss_end:#x} lies before the end of its data, {data_end:#x}; its multiboot \
                 header is wrong"
            ),
            Self::Truncated { needed, length } => {
                write!(f, "the image has {length} bytes, and {needed} of it are to be loaded; it is truncated")
            }
            Self::NotElf32 => f.write_str(
                "the image's multiboot header has no address fields, and the file is no 32-bit x86 ELF executable; \
                 convert it (objcopy -O elf32-i386) or set bit 16 of the header's flags",
            ),
            Self::NoSegments => f.write_str("the image is an ELF file without anything to load; it is no executable"),
            Self::DoesNotFit { range, memory } => write!(
                f,
                "the image loads to {range}, and the VM's RAM is 0 to 0x9fc00 and 0x100000 to {memory:#x}; give the \
                 VM more `memory` or link the image elsewhere"
            ),
            Self::OverLoader { range } => write!(
                f,
                "the image loads to {range}, over what the loader keeps at {}; link it at 0x100000 or above",
                crate::vm::map::LOADER_AREA
            ),
            Self::EntryOutside { entry } => {
                write!(f, "the image's entry point {entry:#x} lies in nothing that is loaded")
            }
            Self::ModuleDoesNotFit { index, range, memory } => write!(
                f,
                "module {} would lie at {range}, and the VM's low RAM ends at {memory:#x}; give the VM more `memory`",
                index.saturating_add(1)
            ),
            Self::TooManyStrings { needed, limit } => write!(
                f,
                "the modules and command lines need {needed} bytes of description, and there are {limit}; give fewer \
                 modules or shorter command lines"
            ),
            Self::NotMemory => NotMemory.fmt(f),
        }
    }
}

impl core::error::Error for MultibootError {}

impl From<NotMemory> for MultibootError {
    fn from(_: NotMemory) -> Self {
        Self::NotMemory
    }
}
