//! The narrow door to the machine: everything that this crate asks of whoever runs it.

use core::sync::atomic::AtomicU64;

use crate::address::HostPhysical;

/// Memory for tables and queues that hardware reads.
///
/// # Safety
///
/// `allocate` gives frames that nobody else uses until they are freed, zeroed, in memory that the remapping units can
/// read. `words` of such a frame stays valid while the frame is allocated. For an address that was never given,
/// `words` must not give access to memory that Rust references use: it aborts instead.
#[expect(unsafe_code, reason = "implementors vouch for memory that hardware shares")]
pub unsafe trait Frames {
    /// `count` (a power of two) contiguous 4 KiB frames, zeroed, aligned to their whole size.
    fn allocate(&self, count: usize) -> Result<HostPhysical, OutOfFrames>;

    /// Gives `count` frames back that one `allocate(count)` gave.
    fn free(&self, first: HostPhysical, count: usize);

    /// The words of one frame. Hardware may read or, where the structure says so, write them at any time.
    fn words(&self, frame: HostPhysical) -> &[AtomicU64; 512];

    /// Writes the cache lines that hold these words back to memory and waits for it, for units whose page walk does
    /// not snoop (ECAP.C = 0). Callers skip it for units whose walk does.
    fn flush(&self, words: &[AtomicU64]);
}

/// No frame is left for the owner that asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfFrames;

impl core::fmt::Display for OutOfFrames {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("no memory is left for a table")
    }
}

impl core::error::Error for OutOfFrames {}

/// The registers of one remapping unit. `offset` is in bytes from the unit's register base, naturally aligned and
/// inside the window (VT-d section 11.4).
pub trait Registers {
    /// The window's size in bytes.
    fn size(&self) -> u64;
    /// One 4-byte read.
    fn read_u32(&self, offset: u64) -> u32;
    /// One 8-byte read.
    fn read_u64(&self, offset: u64) -> u64;
    /// One 4-byte write.
    fn write_u32(&self, offset: u64, value: u32);
    /// One 8-byte write.
    fn write_u64(&self, offset: u64, value: u64);
}

/// A clock for bounded waits.
pub trait Clock {
    /// Nanoseconds since some fixed moment; never goes back.
    fn nanoseconds(&self) -> u64;
}
