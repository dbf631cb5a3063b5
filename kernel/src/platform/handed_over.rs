//! What the loader handed over, checked: every range must lie in memory that the loader's own map calls the loader's,
//! which the hypervisor never gives away.

use alloc::vec::Vec;
use core::fmt;

use handoff::{Array, Handoff, MAGIC, MemoryKind, Module, Range, VERSION};

use crate::memory::{HostPhysical, memory_map, to_pointer};

/// As many files as a configuration may name.
const MOST_MODULES: u64 = 4096;

/// A file from the boot volume.
#[derive(Clone, Copy, Debug)]
pub struct File {
    /// Its path as the configuration spells it.
    pub path: &'static str,
    /// Its bytes.
    pub bytes: &'static [u8],
}

/// What the loader read from the boot volume.
#[derive(Clone, Debug)]
pub struct Files {
    /// The configuration.
    pub configuration: &'static str,
    /// The files that it names.
    pub named: Vec<File>,
    /// The kernel's own file.
    pub kernel: &'static [u8],
}

/// What is wrong with what was handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandoffError {
    /// It does not begin as a handoff does.
    NoHandoff,
    /// The loader is of another build.
    Version {
        /// The loader's.
        found: u32,
    },
    /// A range does not lie in the loader's memory, or is no text where it should be.
    Damaged {
        /// Which.
        what: &'static str,
    },
}

impl fmt::Display for HandoffError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoHandoff => f.write_str("the kernel was not started by Postern's loader"),
            Self::Version { found } => write!(
                f,
                "the loader hands over in version {found}, the kernel expects version {VERSION}: install both from the \
                 same build"
            ),
            Self::Damaged { what } => write!(f, "what the loader handed over is damaged: {what}"),
        }
    }
}

impl core::error::Error for HandoffError {}

/// Looks whether these first fields are those of a handoff that this kernel knows.
///
/// # Errors
///
/// [`HandoffError::NoHandoff`], [`HandoffError::Version`].
pub(crate) fn check(handoff: &Handoff) -> Result<(), HandoffError> {
    if handoff.magic != MAGIC {
        return Err(HandoffError::NoHandoff);
    }
    if handoff.version != VERSION || handoff.size as usize != size_of::<Handoff>() {
        return Err(HandoffError::Version { found: handoff.version });
    }
    Ok(())
}

/// Finds the files.
///
/// # Errors
///
/// [`HandoffError::Damaged`].
pub(crate) fn files(handoff: &Handoff) -> Result<Files, HandoffError> {
    let text = |range, what| {
        let bytes = bytes(range).ok_or(HandoffError::Damaged { what })?;
        core::str::from_utf8(bytes).map_err(|_| HandoffError::Damaged { what })
    };
    let Array { address, count } = handoff.modules;
    let damaged = HandoffError::Damaged { what: "the list of files" };
    if count > MOST_MODULES {
        return Err(damaged);
    }
    let list = bytes(Range { address, length: count * size_of::<Module>() as u64 }).ok_or(damaged)?;
    let named = list.chunks_exact(size_of::<Module>()).map(|module| {
        let number = |index: usize| {
            let bytes = module.get(index * 8..).and_then(|bytes| bytes.first_chunk());
            bytes.copied().map_or(0, u64::from_le_bytes)
        };
        let path = text(Range { address: number(0), length: number(1) }, "the path of a file")?;
        let bytes = bytes(Range { address: number(2), length: number(3) })
            .ok_or(HandoffError::Damaged { what: "the content of a file" })?;
        Ok(File { path, bytes })
    });
    Ok(Files {
        configuration: text(handoff.configuration, "the configuration")?,
        named: named.collect::<Result<_, _>>()?,
        kernel: bytes(handoff.kernel_file).ok_or(HandoffError::Damaged { what: "the kernel's file" })?,
    })
}

/// The bytes of a range in the loader's memory.
fn bytes(range: Range) -> Option<&'static [u8]> {
    if range.length == 0 {
        return Some(&[]);
    }
    let end = range.address.checked_add(range.length)?;
    if !memory_map().covers(range.address, end, |region| region.kind == MemoryKind::Loader) {
        return None;
    }
    let place = to_pointer(HostPhysical::new(range.address));
    // SAFETY: RAM in the direct map that the loader filled; the allocator never gets it, so nobody writes it.
    Some(unsafe { core::slice::from_raw_parts(place, range.length as usize) })
}

#[cfg(test)]
mod tests {
    use handoff::Framebuffer;

    use super::*;

    fn handoff() -> Handoff {
        Handoff {
            magic: MAGIC,
            version: VERSION,
            size: size_of::<Handoff>() as u32,
            rsdp: 0,
            memory_map: Array::default(),
            kernel: Range::default(),
            kernel_file: Range::default(),
            configuration: Range::default(),
            modules: Array::default(),
            framebuffer: Framebuffer::default(),
        }
    }

    #[test]
    fn another_build_is_refused() {
        assert_eq!(check(&handoff()), Ok(()));
        assert_eq!(check(&Handoff { magic: 1, ..handoff() }), Err(HandoffError::NoHandoff));
        assert_eq!(check(&Handoff { version: 77, ..handoff() }), Err(HandoffError::Version { found: 77 }));
        assert!(check(&Handoff { size: 8, ..handoff() }).is_err());
    }

    #[test]
    fn ranges_outside_of_the_loaders_memory_are_refused() {
        let wild = Range { address: 0x10_0000, length: 16 };
        let what = |handoff| files(&handoff).map(|_| ()).unwrap_err().to_string();
        assert!(what(Handoff { configuration: wild, ..handoff() }).ends_with("the configuration"));
        assert!(what(Handoff { kernel_file: wild, ..handoff() }).ends_with("the kernel's file"));
        for (address, count) in [(0x10_0000, 2), (0, u64::MAX), (u64::MAX, 1)] {
            let modules = Array { address, count };
            assert!(what(Handoff { modules, ..handoff() }).ends_with("the list of files"));
        }
        assert!(files(&handoff()).unwrap().named.is_empty());
    }
}
