//! The kernel's file: a static ELF for x86-64, checked before a byte of it is copied (System V ABI, chapter 4).
//!
//! The file is not trusted. What it says is used only where it stays inside the file, inside the kernel's window of
//! addresses, and gives no page both write and execute permission.

use alloc::vec::Vec;
use core::fmt;

use elf::ElfBytes;
use elf::abi::{EM_X86_64, ET_EXEC, PF_W, PF_X, PT_LOAD};
use elf::endian::LittleEndian;
use elf::file::Class;
use elf::segment::ProgramHeader;

use crate::PAGE_SIZE;
use crate::page_tables::Permissions;

/// The lowest address that a kernel may be linked for: the last 2 GiB of the address space.
pub const WINDOW_START: u64 = 0xFFFF_FFFF_8000_0000;
/// The most bytes that a kernel may span.
pub const SPAN_LIMIT: u64 = 256 << 20;
/// The most segments that are loaded.
const SEGMENT_LIMIT: usize = 16;

/// A kernel that may be loaded.
#[derive(Debug, PartialEq, Eq)]
pub struct KernelImage<'f> {
    /// Where it starts.
    pub entry: u64,
    /// The page of its first byte.
    pub start: u64,
    /// Bytes to the end of its last page; a multiple of 4 KiB.
    pub length: u64,
    /// Its parts, by address, no two on one page.
    pub segments: Vec<Segment<'f>>,
}

/// A part of the kernel with one kind of access.
#[derive(Debug, PartialEq, Eq)]
pub struct Segment<'f> {
    /// The page of its first byte.
    pub start: u64,
    /// Bytes to the end of its last page; a multiple of 4 KiB.
    pub length: u64,
    /// Bytes from `start` to the first byte of `data`; below 4 KiB. The rest of the pages is zero.
    pub offset: u64,
    /// What is copied from the file.
    pub data: &'f [u8],
    /// What the kernel may do with it.
    pub permissions: Permissions,
}

/// Why a file is no kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelFileError {
    /// It is not an ELF file, or a damaged one.
    NotElf,
    /// It is for another machine, or not a static executable.
    NotStaticX86,
    /// It has nothing to load.
    Empty,
    /// It has more segments than a kernel needs.
    TooManySegments,
    /// A segment reaches past the end of the file.
    Truncated(u64),
    /// A segment is larger in the file than in memory, or leaves the kernel's window.
    OutsideWindow(u64),
    /// A segment is to be both written and executed.
    WritableCode(u64),
    /// Two segments share a page.
    SharedPage(u64),
    /// The entry point is not in code.
    NoEntry(u64),
}

impl fmt::Display for KernelFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotElf => f.write_str("it is not an ELF file, or it is damaged"),
            Self::NotStaticX86 => f.write_str("it is not a static x86-64 executable (ELF64, ET_EXEC)"),
            Self::Empty => f.write_str("it has no segment to load"),
            Self::TooManySegments => write!(f, "it has more than {SEGMENT_LIMIT} segments to load"),
            Self::Truncated(address) => write!(f, "its segment for {address:#x} reaches past the end of the file"),
            Self::OutsideWindow(address) => write!(
                f,
                "its segment for {address:#x} does not lie within {} MiB at or above {WINDOW_START:#x}",
                SPAN_LIMIT >> 20
            ),
            Self::WritableCode(address) => {
                write!(f, "its segment for {address:#x} is to be both writable and executable")
            }
            Self::SharedPage(address) => write!(f, "two of its segments share the page at {address:#x}"),
            Self::NoEntry(address) => write!(f, "its entry point {address:#x} is not in an executable segment"),
        }
    }
}

impl core::error::Error for KernelFileError {}

impl<'f> KernelImage<'f> {
    /// Checks a file and says what is to be loaded where.
    ///
    /// # Errors
    ///
    /// The first rule that the file breaks.
    pub fn parse(file: &'f [u8]) -> Result<Self, KernelFileError> {
        let elf = ElfBytes::<LittleEndian>::minimal_parse(file).map_err(|_| KernelFileError::NotElf)?;
        if elf.ehdr.class != Class::ELF64 || elf.ehdr.e_machine != EM_X86_64 || elf.ehdr.e_type != ET_EXEC {
            return Err(KernelFileError::NotStaticX86);
        }
        let headers = elf.segments().ok_or(KernelFileError::Empty)?;
        let mut segments = Vec::new();
        for header in headers.iter().filter(|header| header.p_type == PT_LOAD && header.p_memsz != 0) {
            if segments.len() == SEGMENT_LIMIT {
                return Err(KernelFileError::TooManySegments);
            }
            segments.push(Segment::new(&header, file)?);
        }
        segments.sort_by_key(|segment: &Segment<'_>| segment.start);
        for (before, after) in segments.iter().zip(segments.iter().skip(1)) {
            if before.end() > after.start {
                return Err(KernelFileError::SharedPage(after.start));
            }
        }
        let (Some(first), Some(last)) = (segments.first(), segments.last()) else {
            return Err(KernelFileError::Empty);
        };
        let (start, length) = (first.start, last.end().saturating_sub(first.start));
        if length > SPAN_LIMIT {
            return Err(KernelFileError::OutsideWindow(last.start));
        }
        let entry = elf.ehdr.e_entry;
        if !segments.iter().any(|segment| segment.runs(entry)) {
            return Err(KernelFileError::NoEntry(entry));
        }
        Ok(Self { entry, start, length, segments })
    }
}

impl<'f> Segment<'f> {
    fn new(header: &ProgramHeader, file: &'f [u8]) -> Result<Self, KernelFileError> {
        let address = header.p_vaddr;
        let outside = KernelFileError::OutsideWindow(address);
        let truncated = KernelFileError::Truncated(address);
        // The last page of the address space is left out, so that the end of a segment is an address.
        let end = address.checked_add(header.p_memsz).ok_or(outside)?;
        let end = end.checked_next_multiple_of(PAGE_SIZE).ok_or(outside)?;
        if address < WINDOW_START || header.p_filesz > header.p_memsz {
            return Err(outside);
        }
        let first = usize::try_from(header.p_offset).map_err(|_| truncated)?;
        let length = usize::try_from(header.p_filesz).map_err(|_| truncated)?;
        let last = first.checked_add(length).ok_or(truncated)?;
        let data = file.get(first..last).ok_or(truncated)?;
        let permissions = match (header.p_flags & PF_W != 0, header.p_flags & PF_X != 0) {
            (true, true) => return Err(KernelFileError::WritableCode(address)),
            (true, false) => Permissions::ReadWrite,
            (false, true) => Permissions::ReadExecute,
            (false, false) => Permissions::ReadOnly,
        };
        let offset = address % PAGE_SIZE;
        let start = address - offset;
        Ok(Self { start, length: end - start, offset, data, permissions })
    }

    /// The first byte behind its last page.
    fn end(&self) -> u64 {
        self.start.saturating_add(self.length)
    }

    /// Whether the address is code of this segment.
    fn runs(&self, address: u64) -> bool {
        self.permissions == Permissions::ReadExecute && (self.start..self.end()).contains(&address)
    }
}

#[cfg(test)]
#[path = "kernel_file/tests.rs"]
mod tests;
