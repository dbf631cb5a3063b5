//! Postern's lock-free words under every interleaving and every memory order that the language permits, explored by
//! `loom`. The types are those of the product, on [`LoomWord`]s instead of the processor's.
//!
//! Interrupts between processors are [`Wire`]s: what was sent is seen by whoever answers, with all that was written
//! before it was sent, and an interrupt that is not answered stays.

use core::sync::atomic::Ordering;

use iommu::interrupt::posted::word::AtomicWord;
use loom::sync::atomic::{AtomicU64, fence};

/// A word whose every access `loom` schedules.
#[derive(Debug)]
pub struct LoomWord(AtomicU64);

impl AtomicWord for LoomWord {
    fn new(value: u64) -> Self {
        Self(AtomicU64::new(value))
    }

    fn load(&self, ordering: Ordering) -> u64 {
        self.0.load(ordering)
    }

    fn store(&self, value: u64, ordering: Ordering) {
        self.0.store(value, ordering);
    }

    fn swap(&self, value: u64, ordering: Ordering) -> u64 {
        self.0.swap(value, ordering)
    }

    fn fetch_or(&self, bits: u64, ordering: Ordering) -> u64 {
        self.0.fetch_or(bits, ordering)
    }

    fn fetch_and(&self, bits: u64, ordering: Ordering) -> u64 {
        self.0.fetch_and(bits, ordering)
    }

    fn exchange(&self, current: u64, new: u64) -> Result<u64, u64> {
        self.0.compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire)
    }

    fn full_fence() {
        fence(Ordering::SeqCst);
    }
}

/// The interrupt lines into one processor: up to 64 kinds, each pending or not.
#[derive(Debug)]
pub struct Wire(LoomWord);

impl Default for Wire {
    fn default() -> Self {
        Self(LoomWord::new(0))
    }
}

impl Wire {
    /// Sends an interrupt of this kind.
    pub fn send(&self, kind: u8) {
        self.0.fetch_or(1 << kind, Ordering::AcqRel);
    }

    /// Answers an interrupt of this kind: whether one was pending, which it is no more.
    pub fn answer(&self, kind: u8) -> bool {
        self.0.fetch_and(!(1 << kind), Ordering::AcqRel) & 1 << kind != 0
    }
}
