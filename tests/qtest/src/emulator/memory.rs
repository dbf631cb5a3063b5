//! The emulated machine's memory, shared with this process. The one module with `unsafe`.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use memmap2::{MmapOptions, MmapRaw};

/// Words of one frame.
pub(crate) type Frame = [AtomicU64; 512];

/// Memory from address 0 on.
pub(crate) struct Shared {
    map: MmapRaw,
    file: PathBuf,
}

impl Shared {
    /// `bytes` (a multiple of 4096) of zeroes behind a file that QEMU opens too.
    pub(crate) fn new(file: PathBuf, bytes: u64) -> Result<Self> {
        let backing = OpenOptions::new().read(true).write(true).create_new(true).open(&file);
        let backing = backing.with_context(|| format!("cannot make {}", file.display()))?;
        backing.set_len(bytes)?;
        let map = MmapOptions::new().map_raw(&backing).context("cannot map the machine's memory")?;
        Ok(Self { map, file })
    }

    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// All frames.
    pub(crate) fn frames(&self) -> &[Frame] {
        let start = self.map.as_mut_ptr().cast::<Frame>();
        // SAFETY: the map is page-aligned, as long as this slice says, valid for reads and writes while `self` is, and
        // reached through atomics alone, in this process and (by whole words or less) in QEMU.
        #[expect(unsafe_code, reason = "the machine's memory is shared with another process")]
        unsafe {
            std::slice::from_raw_parts(start, self.map.len() / 4096)
        }
    }

    fn word(&self, address: u64) -> Option<&AtomicU64> {
        let frame = self.frames().get(usize::try_from(address / 4096).ok()?)?;
        frame.get((address % 4096 / 8) as usize)
    }

    /// The 8 bytes at a multiple of 8.
    pub(crate) fn read(&self, address: u64) -> Option<u64> {
        self.word(address).map(|word| word.load(Ordering::Acquire))
    }

    /// Writes 8 bytes at a multiple of 8, if there is memory.
    pub(crate) fn write(&self, address: u64, value: u64) {
        if let Some(word) = self.word(address) {
            word.store(value, Ordering::Release);
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // It was made for this machine alone; what cannot be removed is the system's temporary folder's to clean.
        let _ = fs::remove_file(&self.file);
    }
}
