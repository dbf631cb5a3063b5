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

    /// Replaces the two words of `pair` in one step, low word first in the numbers, if they hold `current`: neither
    /// hardware nor another processor sees one new and one old word. `pair` comes from [`words`](Self::words) of an
    /// allocated frame, at an even index.
    fn exchange_u128(&self, pair: &[AtomicU64; 2], current: u128, new: u128) -> Exchange {
        let _ = (pair, current, new);
        Exchange::Unsupported
    }
}

// SAFETY: each call goes to the same implementor, whose promises are the same behind a reference.
#[expect(unsafe_code, reason = "passes an implementor's promise on")]
unsafe impl<T: Frames + ?Sized> Frames for &T {
    fn allocate(&self, count: usize) -> Result<HostPhysical, OutOfFrames> {
        (**self).allocate(count)
    }

    fn free(&self, first: HostPhysical, count: usize) {
        (**self).free(first, count);
    }

    fn words(&self, frame: HostPhysical) -> &[AtomicU64; 512] {
        (**self).words(frame)
    }

    fn flush(&self, words: &[AtomicU64]) {
        (**self).flush(words);
    }

    fn exchange_u128(&self, pair: &[AtomicU64; 2], current: u128, new: u128) -> Exchange {
        (**self).exchange_u128(pair, current, new)
    }
}

/// How an exchange of 16 bytes ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exchange {
    /// The new words are in place.
    Done,
    /// The words did not hold what was expected, but this. Nothing changed.
    Differs(u128),
    /// This processor has no such instruction (CMPXCHG16B). Nothing changed.
    Unsupported,
}

/// The machine as a driver over several units meets it.
pub trait Machine {
    /// Memory for tables. Cloned into every table, so this is best a small handle.
    type Frames: Frames + Clone;
    /// The registers of one unit.
    type Registers: Registers;

    /// Memory for tables and queues.
    fn frames(&self) -> &Self::Frames;

    /// Maps `size` bytes of registers at `base`, uncached. A unit's first page is mapped to read its capabilities;
    /// when they say that it has more, the first mapping is dropped and a larger one asked for.
    fn registers(&self, base: HostPhysical, size: u64) -> Result<Self::Registers, RegistersUnreachable>;

    /// Nanoseconds since some fixed moment; never goes back.
    fn nanoseconds(&self) -> u64;

    /// Runs `critical` with this processor's interrupts off, so that an interrupt handler that calls the driver cannot
    /// meet a lock that its own processor holds. Where no handler calls the driver, plainly `critical()`.
    fn without_interrupts<T>(&self, critical: impl FnOnce() -> T) -> T;
}

/// The registers of a unit could not be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegistersUnreachable;

impl core::fmt::Display for RegistersUnreachable {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("the unit's registers could not be mapped")
    }
}

impl core::error::Error for RegistersUnreachable {}

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
