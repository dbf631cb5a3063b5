//! The multiboot header (specification, section 3.1).

use super::MultibootError;
use crate::vm::load::bytes;

const MAGIC: u32 = 0x1bad_b002;
/// The header lies wholly in this many bytes.
const SEARCHED: usize = 8192;
/// Flags that an image may require: modules on page boundaries, a memory map, a video mode (which it then finds
/// absent in the information structure).
const KNOWN: u32 = 0x7;
/// Flags that a loader must know.
const REQUIRED: u32 = 0xffff;
/// The address fields are valid.
const ADDRESSES: u32 = 1 << 16;

/// The header's address fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Addresses {
    pub(super) header: u32,
    pub(super) load: u32,
    /// 0: to the end of the file.
    pub(super) load_end: u32,
    /// 0: nothing is zeroed.
    pub(super) bss_end: u32,
    pub(super) entry: u32,
}

/// A header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Where in the file it is.
    pub(super) offset: usize,
    pub(super) addresses: Option<Addresses>,
}

impl Header {
    /// The first header of a file.
    pub(super) fn find(file: &[u8]) -> Result<Self, MultibootError> {
        let (offset, flags) = (0..SEARCHED - 8)
            .step_by(4)
            .find_map(|offset| {
                let magic = bytes::u32(file, offset).filter(|magic| *magic == MAGIC)?;
                let flags = bytes::u32(file, offset + 4)?;
                let checksum = bytes::u32(file, offset + 8)?;
                // The three are chosen to wrap to 0.
                (magic.wrapping_add(flags).wrapping_add(checksum) == 0).then_some((offset, flags))
            })
            .ok_or(MultibootError::NoHeader)?;
        let unknown = flags & REQUIRED & !KNOWN;
        if unknown != 0 {
            return Err(MultibootError::UnknownFlags { flags: unknown });
        }
        if flags & ADDRESSES == 0 {
            return Ok(Self { offset, addresses: None });
        }
        let field = |index: usize| bytes::u32(file, offset + 12 + 4 * index).ok_or(MultibootError::ShortHeader);
        let addresses =
            Addresses { header: field(0)?, load: field(1)?, load_end: field(2)?, bss_end: field(3)?, entry: field(4)? };
        Ok(Self { offset, addresses: Some(addresses) })
    }
}
