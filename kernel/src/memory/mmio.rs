//! Registers of devices: a window that is mapped uncached, and accesses that cannot leave it.

use core::fmt;
use core::ptr::NonNull;

use iommu::address::HostPhysical;

/// A window of device registers. Copies name the same window; the mapping stays for good.
///
/// An access outside of the window, or one that is not naturally aligned, does what a bus does with an address that
/// nothing answers: a read gives all ones, a write is lost.
#[derive(Clone, Copy)]
pub struct Mmio {
    base: NonNull<u8>,
    length: u64,
}

// SAFETY: the window is plain device memory, valid from every CPU and for good, and every access is one volatile
// machine access.
unsafe impl Send for Mmio {}
// SAFETY: as above; a shared window allows nothing that an owned one does not.
unsafe impl Sync for Mmio {}

impl Mmio {
    /// The window of `length` bytes at `base`.
    ///
    /// # Safety
    ///
    /// `base` is mapped for reading and writing, uncached, `length` bytes long, for good; no Rust reference ever
    /// covers any of it; `base` is aligned to 8 bytes.
    pub unsafe fn new(base: NonNull<u8>, length: u64) -> Self {
        Self { base, length }
    }

    /// The window's size in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The part of the window that begins at `offset` and has `length` bytes, or `None` where that leaves it.
    pub fn part(&self, offset: u64, length: u64) -> Option<Self> {
        let end = offset.checked_add(length)?;
        if end > self.length || !offset.is_multiple_of(8) {
            return None;
        }
        // SAFETY: offset <= length of the window, checked above.
        let base = unsafe { self.base.add(offset as usize) };
        Some(Self { base, length })
    }

    fn place<T>(&self, offset: u64) -> Option<*mut T> {
        let size = size_of::<T>() as u64;
        if !offset.is_multiple_of(size) || offset.checked_add(size)? > self.length {
            return None;
        }
        // SAFETY: offset + size <= length of the window, checked above.
        Some(unsafe { self.base.as_ptr().add(offset as usize) }.cast())
    }

    fn read<T>(&self, offset: u64, nothing: T) -> T {
        match self.place::<T>(offset) {
            // SAFETY: `place` gives an aligned place inside of the window, which `new` promises is mapped.
            Some(place) => unsafe { place.read_volatile() },
            None => nothing,
        }
    }

    fn write<T>(&self, offset: u64, value: T) {
        if let Some(place) = self.place::<T>(offset) {
            // SAFETY: as in `read`.
            unsafe { place.write_volatile(value) }
        }
    }

    /// One 1-byte read at `offset` bytes.
    pub fn read_u8(&self, offset: u64) -> u8 {
        self.read(offset, !0)
    }

    /// One 2-byte read.
    pub fn read_u16(&self, offset: u64) -> u16 {
        self.read(offset, !0)
    }

    /// One 4-byte read.
    pub fn read_u32(&self, offset: u64) -> u32 {
        self.read(offset, !0)
    }

    /// One 8-byte read.
    pub fn read_u64(&self, offset: u64) -> u64 {
        self.read(offset, !0)
    }

    /// One 1-byte write at `offset` bytes.
    pub fn write_u8(&self, offset: u64, value: u8) {
        self.write(offset, value);
    }

    /// One 2-byte write.
    pub fn write_u16(&self, offset: u64, value: u16) {
        self.write(offset, value);
    }

    /// One 4-byte write.
    pub fn write_u32(&self, offset: u64, value: u32) {
        self.write(offset, value);
    }

    /// One 8-byte write.
    pub fn write_u64(&self, offset: u64, value: u64) {
        self.write(offset, value);
    }

    /// As many 8-byte writes as `values` has, from `offset` on, in order; none of them where the last one would leave
    /// the window.
    pub fn write_all_u64(&self, offset: u64, values: &[u64]) {
        if let Some(place) = self.run(offset, values.len()) {
            for (index, value) in values.iter().enumerate() {
                // SAFETY: `run` gives an aligned place for all of the values inside of the window.
                unsafe { place.add(index).write_volatile(*value) }
            }
        }
    }

    /// Writes `count` times 8 bytes of zeros from `offset` on; none of them where the last one would leave the window.
    pub fn clear(&self, offset: u64, count: usize) {
        if let Some(place) = self.run(offset, count) {
            // SAFETY: `run` gives a place for that many words inside of the window; the direction flag is clear, as
            // the calling convention has it.
            unsafe {
                core::arch::asm!("rep stosq", inout("rdi") place => _, inout("rcx") count => _, in("rax") 0u64,
                    options(nostack, preserves_flags));
            }
        }
    }

    /// The place of `count` words of 8 bytes.
    fn run(&self, offset: u64, count: usize) -> Option<*mut u64> {
        let length = (count as u64).checked_mul(8)?;
        (offset.checked_add(length)? <= self.length).then_some(())?;
        if count == 0 { None } else { self.place(offset) }
    }
}

impl fmt::Debug for Mmio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mmio({:p}, {:#x} bytes)", self.base, self.length)
    }
}

/// Why a range of registers cannot be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapMmioError {
    /// No bytes, or a range that wraps or leaves the processor's physical addresses or the window kept for registers.
    OutOfRange {
        /// The first byte.
        address: HostPhysical,
        /// Bytes.
        length: u64,
    },
    /// RAM lies in the range.
    Memory {
        /// The first byte.
        address: HostPhysical,
        /// Bytes.
        length: u64,
    },
    /// No frame is left for the page tables.
    OutOfMemory,
}

impl fmt::Display for MapMmioError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfRange { address, length } => write!(
                f,
                "device registers at {address} ({length:#x} bytes) cannot be mapped: the range is empty or outside of \
                 the physical addresses that this processor and the hypervisor's window for registers can hold"
            ),
            Self::Memory { address, length } => write!(
                f,
                "device registers at {address} ({length:#x} bytes) cannot be mapped: firmware's memory map says that \
                 RAM lies there; the device's BAR or the ACPI table that names the range is wrong"
            ),
            Self::OutOfMemory => f.write_str("no memory is left for the page tables of device registers"),
        }
    }
}

impl core::error::Error for MapMmioError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(words: &'static mut [u64]) -> Mmio {
        let length = words.len() as u64 * 8;
        // SAFETY: the memory is leaked, aligned, and no longer reachable but through the window.
        unsafe { Mmio::new(NonNull::from(words).cast(), length) }
    }

    #[test]
    fn accesses_stay_inside() {
        let mmio = window(Box::leak(Box::new([0x1122_3344_5566_7788, 0])));
        assert_eq!(mmio.read_u64(0), 0x1122_3344_5566_7788);
        assert_eq!(mmio.read_u8(7), 0x11);
        assert_eq!(mmio.read_u16(2), 0x5566);
        mmio.write_u32(12, 5);
        assert_eq!(mmio.read_u64(8), 5 << 32);
        for (offset, what) in [(16, "behind the end"), (12, "across the end"), (4, "not aligned"), (u64::MAX, "wild")] {
            mmio.write_u64(offset, 0);
            assert_eq!(mmio.read_u64(offset), !0, "{what}");
        }
        assert_eq!(mmio.read_u64(8), 5 << 32);
        mmio.write_all_u64(0, &[1, 2]);
        mmio.write_all_u64(8, &[3, 4]);
        mmio.write_all_u64(u64::MAX - 7, &[3]);
        mmio.write_all_u64(4, &[3]);
        assert_eq!((mmio.read_u64(0), mmio.read_u64(8)), (1, 2));
        mmio.clear(0, 1);
        mmio.clear(8, 2);
        mmio.clear(8, usize::MAX);
        assert_eq!((mmio.read_u64(0), mmio.read_u64(8)), (0, 2));
        mmio.write_u64(8, 5 << 32);
        let part = mmio.part(8, 8).unwrap();
        assert_eq!(part.read_u32(4), 5);
        assert_eq!(part.read_u32(8), !0);
        assert!(mmio.part(8, 9).is_none());
    }
}
