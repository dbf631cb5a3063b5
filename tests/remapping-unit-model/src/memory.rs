//! The unit's door to memory.

/// Memory as the unit reaches it. Addresses are host-physical; those of 8-byte words are multiples of 8. `None` and
/// `false` mean that nothing answers there.
pub trait Memory {
    /// The word as software wrote it last.
    fn read(&self, address: u64) -> Option<u64>;
    /// The word as far as software has flushed it: what a reader past the caches sees.
    fn read_flushed(&self, address: u64) -> Option<u64>;
    /// Writes 4 bytes at a multiple of 4.
    fn write_u32(&self, address: u64, value: u32) -> bool;
    /// Puts `new` in place of `current` in one step, or gives what was there instead.
    fn exchange(&self, address: u64, current: u64, new: u64) -> Option<Result<(), u64>>;
}
