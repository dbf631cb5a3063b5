//! The door to shared memory: the one word through which all that posts and reads works, so that a checker of
//! interleavings can stand in for the processor's.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering, fence};

/// A 64-bit word that several processors and remapping units change at once. The methods are those of [`AtomicU64`],
/// with its memory orderings.
pub trait AtomicWord: fmt::Debug {
    /// A word that holds `value`.
    fn new(value: u64) -> Self;
    /// As [`AtomicU64::load`].
    fn load(&self, ordering: Ordering) -> u64;
    /// As [`AtomicU64::store`].
    fn store(&self, value: u64, ordering: Ordering);
    /// As [`AtomicU64::swap`].
    fn swap(&self, value: u64, ordering: Ordering) -> u64;
    /// As [`AtomicU64::fetch_or`].
    fn fetch_or(&self, bits: u64, ordering: Ordering) -> u64;
    /// As [`AtomicU64::fetch_and`].
    fn fetch_and(&self, bits: u64, ordering: Ordering) -> u64;
    /// As [`AtomicU64::compare_exchange`] with [`Ordering::AcqRel`], and [`Ordering::Acquire`] where another value is
    /// found, which is the error.
    fn exchange(&self, current: u64, new: u64) -> Result<u64, u64>;
    /// As [`core::sync::atomic::fence`] with [`Ordering::SeqCst`]: of two who each write one word, pass this and then
    /// read the other's word, at least one reads what the other wrote.
    fn full_fence();
}

impl AtomicWord for AtomicU64 {
    #[inline]
    fn new(value: u64) -> Self {
        Self::new(value)
    }

    #[inline]
    fn load(&self, ordering: Ordering) -> u64 {
        self.load(ordering)
    }

    #[inline]
    fn store(&self, value: u64, ordering: Ordering) {
        self.store(value, ordering);
    }

    #[inline]
    fn swap(&self, value: u64, ordering: Ordering) -> u64 {
        self.swap(value, ordering)
    }

    #[inline]
    fn fetch_or(&self, bits: u64, ordering: Ordering) -> u64 {
        self.fetch_or(bits, ordering)
    }

    #[inline]
    fn fetch_and(&self, bits: u64, ordering: Ordering) -> u64 {
        self.fetch_and(bits, ordering)
    }

    #[inline]
    fn exchange(&self, current: u64, new: u64) -> Result<u64, u64> {
        self.compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire)
    }

    #[inline]
    fn full_fence() {
        fence(Ordering::SeqCst);
    }
}
