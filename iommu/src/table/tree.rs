//! One unit's root table and the context tables below it.
//!
//! Hardware reads these at any moment. An entry is published by filling everything but its low word first, and taken
//! back by clearing P alone, so that what hardware may still be using stays whole until the invalidation. This module
//! changes memory only; each function says which invalidation its caller owes. The tables belong to their unit's
//! context lock.

use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::address::{HostPhysical, PAGE_SIZE, SourceId};
use crate::door::{Frames, OutOfFrames};
use crate::table::entry::{ContextEntry, RootEntry};

/// A context entry that is in use, so that it cannot be filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Occupied {
    /// The function.
    pub source: SourceId,
    /// The domain that it is in.
    pub domain: u16,
}

impl fmt::Display for Occupied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is in domain {} already; detach it first", self.source, self.domain)
    }
}

impl core::error::Error for Occupied {}

/// The root table, and a context table for each bus that needed one.
#[derive(Debug)]
pub struct ContextTables<F> {
    frames: F,
    root: HostPhysical,
    coherent: bool,
}

impl<F: Frames> ContextTables<F> {
    /// A root table with nothing in it: every request is refused. `coherent` is ECAP.C.
    pub fn new(frames: F, coherent: bool) -> Result<Self, OutOfFrames> {
        let root = frames.allocate(1)?;
        if !coherent {
            frames.flush(frames.words(root));
        }
        Ok(Self { frames, root, coherent })
    }

    /// The root table, for RTADDR.
    pub fn root(&self) -> HostPhysical {
        self.root
    }

    /// Makes sure that each of `buses` has a context table. The caller owes what it owes for any entry that becomes
    /// present, and pays it with the entry that it then fills.
    ///
    /// # Errors
    ///
    /// Too few frames; nothing changed.
    pub fn prepare(&mut self, buses: impl Iterator<Item = u8>) -> Result<(), OutOfFrames> {
        let mut missing: Vec<u8> = buses.filter(|bus| self.context_table(*bus).is_none()).collect();
        missing.sort_unstable();
        missing.dedup();
        let mut made = Vec::with_capacity(missing.len());
        for _ in &missing {
            match self.frames.allocate(1) {
                Ok(table) => made.push(table),
                Err(error) => {
                    made.into_iter().for_each(|table| self.frames.free(table, 1));
                    return Err(error);
                }
            }
        }
        for (bus, table) in missing.into_iter().zip(made) {
            if !self.coherent {
                self.frames.flush(self.frames.words(table));
            }
            if let Some(pair) = pair(&self.frames, self.root, bus) {
                pair[0].store(RootEntry::to(table).bits() as u64, Ordering::Release);
                self.flush(pair);
            }
        }
        Ok(())
    }

    /// What stands in the entry of `source`; all zeros where its bus has no table.
    pub fn entry(&self, source: SourceId) -> ContextEntry {
        self.context(source).map_or(ContextEntry::default(), |pair| {
            let (low, high) = (pair[0].load(Ordering::Acquire), pair[1].load(Ordering::Acquire));
            ContextEntry::from_bits(u128::from(high) << 64 | u128::from(low))
        })
    }

    /// Publishes `entry` for `source`, whose bus is [prepared](Self::prepare).
    ///
    /// Owed: with CM, the context entry of `source` under domain 0, then the domain's translations; else, with RWBF, a
    /// flush of the write buffer; else nothing.
    pub fn fill(&mut self, source: SourceId, entry: ContextEntry) -> Result<(), Occupied> {
        let old = self.entry(source);
        if old.present() {
            return Err(Occupied { source, domain: old.domain_id() });
        }
        if let Some(pair) = self.context(source) {
            pair[1].store((entry.bits() >> 64) as u64, Ordering::Relaxed);
            pair[0].store(entry.bits() as u64, Ordering::Release);
            self.flush(pair);
        }
        Ok(())
    }

    /// Stops `source`: clears P and nothing else. Gives what stood there.
    ///
    /// Owed: the context entry of `source` under its old domain, the domain's translations, the device's own TLB; then
    /// [`erase`](Self::erase).
    pub fn block(&mut self, source: SourceId) -> ContextEntry {
        let old = self.entry(source);
        if let Some(pair) = self.context(source) {
            pair[0].store(old.with_present(false).bits() as u64, Ordering::Release);
            self.flush(pair);
        }
        old
    }

    /// Zeroes the blocked entry of `source`, but for FPD: a silenced function stays silent.
    pub fn erase(&mut self, source: SourceId) {
        let silenced = self.entry(source).fault_processing_disabled();
        if let Some(pair) = self.context(source) {
            pair[1].store(0, Ordering::Relaxed);
            pair[0].store(
                ContextEntry::default().with_fault_processing_disabled(silenced).bits() as u64,
                Ordering::Release,
            );
            self.flush(pair);
        }
    }

    /// Sets or clears FPD of `source`. False where its bus has no table: its faults cannot be silenced.
    ///
    /// Owed: the context entry of `source` under its domain.
    pub fn silence(&mut self, source: SourceId, silent: bool) -> bool {
        let entry = self.entry(source).with_fault_processing_disabled(silent);
        match self.context(source) {
            Some(pair) => {
                pair[0].store(entry.bits() as u64, Ordering::Release);
                self.flush(pair);
                true
            }
            None => false,
        }
    }

    /// Gives the frames back. The unit must not be able to reach them any more.
    pub fn release(self) {
        for bus in 0..=u8::MAX {
            if let Some(table) = self.context_table(bus) {
                self.frames.free(table, 1);
            }
        }
        self.frames.free(self.root, 1);
    }

    fn context_table(&self, bus: u8) -> Option<HostPhysical> {
        let pair = pair(&self.frames, self.root, bus)?;
        RootEntry::from_bits(u128::from(pair[0].load(Ordering::Acquire))).table()
    }

    fn context(&self, source: SourceId) -> Option<&[AtomicU64; 2]> {
        pair(&self.frames, self.context_table(source.bus())?, source.devfn())
    }

    fn flush(&self, pair: &[AtomicU64; 2]) {
        if !self.coherent {
            self.frames.flush(pair);
        }
    }
}

/// The two words of entry `index` in a table of 256.
fn pair<F: Frames>(frames: &F, table: HostPhysical, index: u8) -> Option<&[AtomicU64; 2]> {
    debug_assert!(table.is_aligned(PAGE_SIZE));
    frames.words(table).as_chunks::<2>().0.get(usize::from(index))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::Memory;
    use crate::table::entry::Translation;

    fn entry(domain: u16) -> ContextEntry {
        ContextEntry::translating(HostPhysical::new(0x5000), 4, domain, Translation::Untranslated)
    }

    #[test]
    fn nothing_is_present_until_it_is_filled() {
        let memory = Memory::new(16);
        let mut tables = ContextTables::new(memory.clone(), false).unwrap();
        let source = SourceId::new(3, 4, 5);
        assert_eq!(tables.entry(source), ContextEntry::default());
        tables.prepare([3, 3].into_iter()).unwrap();
        assert_eq!(memory.in_use(), 2);
        tables.prepare([3].into_iter()).unwrap();
        assert_eq!(memory.in_use(), 2);
        assert_eq!(tables.fill(source, entry(7)), Ok(()));
        assert_eq!(tables.entry(source), entry(7));
        assert_eq!(tables.entry(SourceId::new(3, 4, 4)), ContextEntry::default());
        assert_eq!(tables.fill(source, entry(8)), Err(Occupied { source, domain: 7 }));
        tables.release();
        assert_eq!(memory.in_use(), 0);
    }

    #[test]
    fn too_little_memory_for_all_buses_changes_nothing() {
        let memory = Memory::new(3);
        let mut tables = ContextTables::new(memory.clone(), true).unwrap();
        assert_eq!(tables.prepare([1, 2, 3].into_iter()), Err(OutOfFrames));
        assert_eq!(memory.in_use(), 1);
        assert!(tables.context_table(1).is_none());
        tables.release();
    }

    #[test]
    fn blocking_clears_only_the_present_bit() {
        let memory = Memory::new(16);
        let mut tables = ContextTables::new(memory.clone(), false).unwrap();
        let source = SourceId::new(0, 1, 0);
        tables.prepare([0].into_iter()).unwrap();
        tables.fill(source, entry(7)).unwrap();
        assert_eq!(tables.block(source), entry(7));
        assert_eq!(tables.entry(source), entry(7).with_present(false));
        tables.erase(source);
        assert_eq!(tables.entry(source), ContextEntry::default());
        tables.release();
    }

    #[test]
    fn a_silenced_function_stays_silent_when_it_leaves() {
        let memory = Memory::new(16);
        let mut tables = ContextTables::new(memory.clone(), true).unwrap();
        let source = SourceId::new(0, 1, 0);
        assert!(!tables.silence(source, true), "no table, no bit");
        tables.prepare([0].into_iter()).unwrap();
        tables.fill(source, entry(7)).unwrap();
        assert!(tables.silence(source, true));
        assert_eq!(tables.entry(source), entry(7).with_fault_processing_disabled(true));
        tables.block(source);
        tables.erase(source);
        assert!(tables.entry(source).fault_processing_disabled());
        assert!(tables.silence(source, false));
        assert_eq!(tables.entry(source), ContextEntry::default());
        tables.release();
    }

    #[test]
    fn every_change_is_flushed_for_a_unit_that_does_not_snoop() {
        let memory = Memory::new(16);
        let mut tables = ContextTables::new(memory.clone(), false).unwrap();
        let source = SourceId::new(9, 0, 0);
        tables.prepare([9].into_iter()).unwrap();
        tables.fill(source, entry(1)).unwrap();
        memory.assert_all_flushed();
        tables.block(source);
        memory.assert_all_flushed();
        tables.erase(source);
        memory.assert_all_flushed();
        tables.release();
    }
}
