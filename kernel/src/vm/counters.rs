//! What a VM did, for the summary.

use core::sync::atomic::{AtomicU64, Ordering};

/// Counts over one run of a VM. Exits are counted by each virtual CPU itself.
#[derive(Debug, Default)]
pub struct Counters {
    ports: AtomicU64,
    registers: AtomicU64,
    ticks: AtomicU64,
}

/// A moment of [`Counters`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Accesses of I/O ports.
    pub ports: u64,
    /// Accesses of emulated device registers in memory.
    pub registers: u64,
    /// How often a device's deadline was served.
    pub ticks: u64,
}

impl Counters {
    pub(super) fn count_port(&self) {
        self.ports.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_register(&self) {
        self.registers.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_tick(&self) {
        self.ticks.fetch_add(1, Ordering::Relaxed);
    }

    /// The counts as they are.
    pub fn counts(&self) -> Counts {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts { ports: load(&self.ports), registers: load(&self.registers), ticks: load(&self.ticks) }
    }
}
