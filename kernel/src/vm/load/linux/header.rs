//! The setup header of a bzImage, checked.

use super::LinuxError;
use crate::vm::load::bytes;

/// Where the header starts, in the file and in the boot parameters.
pub(super) const START: usize = 0x1f1;
/// Where the boot parameters' room for it ends.
const END_MAXIMUM: usize = 0x290;
/// The oldest protocol with `xloadflags`.
const VERSION_MINIMUM: u16 = 0x20c;
/// Bytes of a sector.
const SECTOR: usize = 512;

/// `loadflags`: the protected-mode part is loaded high.
const LOADED_HIGH: u8 = 1 << 0;
/// `xloadflags`: the 64-bit entry exists.
const KERNEL_64: u16 = 1 << 0;

/// What the loader needs of the header.
#[derive(Debug)]
pub(super) struct Header<'a> {
    /// The protected-mode part.
    pub(super) kernel: &'a [u8],
    /// Where the header ends in the file.
    end: usize,
    /// Where the kernel wants to run.
    pub(super) preferred_address: u64,
    /// How much memory it needs there.
    pub(super) run_size: u64,
    /// The multiple at which it must run.
    pub(super) alignment: u64,
    /// The last address that the initrd may use.
    pub(super) initrd_maximum: u64,
    /// The most bytes of the command line.
    pub(super) command_line_limit: u64,
}

impl<'a> Header<'a> {
    pub(super) fn parse(file: &'a [u8]) -> Result<Self, LinuxError> {
        let short = LinuxError::Short { length: file.len() };
        let (Some(boot), Some(magic)) = (bytes::u16(file, 0x1fe), bytes::array::<4>(file, 0x202)) else {
            return Err(short);
        };
        if boot != 0xaa55 || magic != *b"HdrS" {
            return Err(LinuxError::NotLinux);
        }
        let Some(version) = bytes::u16(file, 0x206) else { return Err(short) };
        if version < VERSION_MINIMUM {
            return Err(LinuxError::Old { version });
        }
        Self::fields(file).ok_or(short)?
    }

    /// `None` when the file ends inside the header.
    fn fields(file: &'a [u8]) -> Option<Result<Self, LinuxError>> {
        let [load_flags] = bytes::array(file, 0x211)?;
        if load_flags & LOADED_HIGH == 0 || bytes::u16(file, 0x236)? & KERNEL_64 == 0 {
            return Some(Err(LinuxError::No64BitEntry));
        }
        let [past] = bytes::array(file, 0x201)?;
        let end = (0x202 + usize::from(past)).min(END_MAXIMUM);
        // Everything read below lies before 0x264: a header that ends earlier is none of this version.
        if end < 0x264 || file.len() < end {
            return None;
        }
        let [sectors] = bytes::array(file, START)?;
        let setup = (usize::from(if sectors == 0 { 4 } else { sectors }) + 1) * SECTOR;
        let size = u64::from(bytes::u32(file, 0x1f4)?) * 16;
        let rest = file.get(setup..).unwrap_or_default();
        // The size is rounded up to 16 bytes; what follows it (a signature) does not belong to the kernel.
        if rest.is_empty() || size > rest.len() as u64 + 15 {
            let needed = size.saturating_add(setup as u64);
            return Some(Err(LinuxError::Truncated { needed, length: file.len() }));
        }
        let kernel = rest.get(..size as usize).unwrap_or(rest);
        Some(Ok(Self {
            kernel,
            end,
            preferred_address: bytes::u64(file, 0x258)?,
            run_size: u64::from(bytes::u32(file, 0x260)?),
            alignment: u64::from(bytes::u32(file, 0x230)?),
            initrd_maximum: u64::from(bytes::u32(file, 0x22c)?),
            command_line_limit: u64::from(bytes::u32(file, 0x238)?),
        }))
    }

    /// The header's bytes in the file that it was parsed from.
    pub(super) fn bytes(&self, file: &'a [u8]) -> &'a [u8] {
        file.get(START..self.end).unwrap_or_default()
    }
}
