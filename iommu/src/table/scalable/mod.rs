//! One unit's root table of scalable mode and what is below it: context tables, and for each function a process
//! directory with one process table, whose entry 0 serves the requests that carry no process id (VT-d section 3.4.3).
//!
//! As in legacy mode, an entry is filled while it is absent and published by its low word; it is taken back by clearing
//! P alone. Each function says which invalidation its caller owes.

pub mod entry;
#[cfg(test)]
mod tests;

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::address::{HostPhysical, SourceId};
use crate::door::{Frames, OutOfFrames};
use crate::table::scalable::entry::{DirectoryEntry, HalfRootEntry, ProcessHigh, ProcessLow, ScalableContextEntry};
use crate::table::{Occupied, Target, Walk};

/// The process id of requests that carry none (RID_PASID). Units without ECAP.RPS know no other.
pub const PLAIN_PROCESS: u32 = 0;

/// The root table and all below it.
#[derive(Debug)]
pub struct ScalableTables<F> {
    frames: F,
    root: HostPhysical,
    /// ECAP.C: the unit reads these structures through the processors' caches.
    coherent: bool,
    /// ECAP.SMPWCS: so it can read page tables.
    walk_coherent: bool,
}

impl<F: Frames> ScalableTables<F> {
    /// A root table with nothing in it: every request is refused.
    pub fn new(frames: F, coherent: bool, walk_coherent: bool) -> Result<Self, OutOfFrames> {
        let root = frames.allocate(1)?;
        let tables = Self { frames, root, coherent, walk_coherent };
        tables.flush(tables.frames.words(root));
        Ok(tables)
    }

    /// The root table, for RTADDR.
    pub fn root(&self) -> HostPhysical {
        self.root
    }

    /// Makes sure that each of `sources` has a context table, a process directory and a process table, all of them
    /// absent still.
    ///
    /// # Errors
    ///
    /// Too few frames; nothing changed.
    pub fn prepare(&mut self, sources: &[SourceId]) -> Result<(), OutOfFrames> {
        let mut halves: Vec<(u8, bool)> = sources.iter().map(|source| half(*source)).collect();
        halves.sort_unstable();
        halves.dedup();
        halves.retain(|half| self.context_table(*half).is_none());
        let bare: Vec<SourceId> = sources.iter().copied().filter(|source| self.directory(*source).is_none()).collect();
        let needed = halves.len() + 2 * bare.len();
        let mut made = Vec::with_capacity(needed);
        for _ in 0..needed {
            match self.frames.allocate(1) {
                Ok(frame) => made.push(frame),
                Err(error) => {
                    made.into_iter().for_each(|frame| self.frames.free(frame, 1));
                    return Err(error);
                }
            }
        }
        let mut made = made.into_iter();
        for (half, table) in halves.into_iter().zip(made.by_ref()) {
            self.flush(self.frames.words(table));
            if let Some(word) = self.half_root(half) {
                word.store(HalfRootEntry::to(table).bits(), Ordering::Release);
                self.flush(core::slice::from_ref(word));
            }
        }
        for source in bare {
            let (Some(directory), Some(table)) = (made.next(), made.next()) else { break };
            self.flush(self.frames.words(table));
            let first = DirectoryEntry::default().with_present(true).with_table(table.as_u64() >> 12);
            self.frames.words(directory)[0].store(first.bits(), Ordering::Release);
            self.flush(self.frames.words(directory));
            if let Some(words) = self.context(source) {
                let silent = low(words).fault_processing_disabled();
                let entry = ScalableContextEntry::default()
                    .with_fault_processing_disabled(silent)
                    .with_directory(u128::from(directory.as_u64() >> 12));
                words[0].store(entry.bits() as u64, Ordering::Release);
                self.flush(words);
            }
        }
        Ok(())
    }

    /// The domain in the entry of `source`, present or being taken back; 0 where there is none.
    pub fn domain_of(&self, source: SourceId) -> u16 {
        self.process(source).map_or(0, |words| words[1].load(Ordering::Acquire) as u16)
    }

    /// Publishes `target` for `source`, which is [prepared](Self::prepare).
    ///
    /// Owed: with CM, the context entry of `source` under domain 0, the process entry, and the translations; else, with
    /// RWBF, a flush of the write buffer; else nothing.
    pub fn fill(&mut self, source: SourceId, target: &Target) -> Result<(), Occupied> {
        let (Some(context), Some(process)) = (self.context(source), self.process(source)) else { return Ok(()) };
        let old = low(context);
        if old.present() {
            return Err(Occupied { source, domain: self.domain_of(source) });
        }
        let (process_low, process_high) = self.encoded(target);
        process[1].store((process_low.bits() >> 64) as u64, Ordering::Relaxed);
        process[2].store(process_high.bits() as u64, Ordering::Relaxed);
        process[3].store((process_high.bits() >> 64) as u64, Ordering::Relaxed);
        process[0].store(process_low.bits() as u64, Ordering::Release);
        self.flush(process);
        let entry = ScalableContextEntry::default()
            .with_present(true)
            .with_device_tlb(target.device_tlb)
            .with_directory(old.directory())
            .with_plain_process(PLAIN_PROCESS.into());
        context[1].store((entry.bits() >> 64) as u64, Ordering::Relaxed);
        context[0].store(entry.bits() as u64, Ordering::Release);
        self.flush(context);
        Ok(())
    }

    fn encoded(&self, target: &Target) -> (ProcessLow, ProcessHigh) {
        let low = ProcessLow::default()
            .with_present(true)
            .with_domain(target.domain.into())
            .with_walk_snoops(self.walk_coherent)
            .with_pages_snoop(target.snoop);
        let width = |levels: u8| u128::from(levels.saturating_sub(2));
        let high = ProcessHigh::default();
        match target.walk {
            Walk::Second { root, levels, accessed_dirty } => (
                low.with_translation_type(2)
                    .with_width_code(width(levels))
                    .with_second_stage_accessed_dirty(accessed_dirty)
                    .with_second_stage(u128::from(root.as_u64() >> 12)),
                high,
            ),
            Walk::First { root, levels, widest } => (
                low.with_translation_type(1).with_width_code(width(widest)),
                high.with_first_stage_levels(u128::from(levels.saturating_sub(4)))
                    .with_first_stage(u128::from(root.as_u64() >> 12)),
            ),
            Walk::PassThrough { widest } => (low.with_translation_type(4).with_width_code(width(widest)), high),
        }
    }

    /// Stops `source`: clears P of its context entry and of its process entry, and nothing else.
    ///
    /// Owed: the context entry, the process entry, the translations, the device's own TLB; then [`erase`](Self::erase).
    pub fn block(&mut self, source: SourceId) {
        if let Some(context) = self.context(source) {
            context[0].store(low(context).with_present(false).bits() as u64, Ordering::Release);
            self.flush(context);
        }
        if let Some(process) = self.process(source) {
            process[0].store(process[0].load(Ordering::Acquire) & !1, Ordering::Release);
            self.flush(process);
        }
    }

    /// Zeroes the blocked entries of `source`, but for FPD: a silenced function stays silent.
    pub fn erase(&mut self, source: SourceId) {
        if let Some(process) = self.process(source) {
            process.iter().for_each(|word| word.store(0, Ordering::Relaxed));
            self.flush(process);
        }
        if let Some(context) = self.context(source) {
            let old = low(context);
            let kept = ScalableContextEntry::default()
                .with_fault_processing_disabled(old.fault_processing_disabled())
                .with_directory(old.directory());
            context[1].store(0, Ordering::Relaxed);
            context[0].store(kept.bits() as u64, Ordering::Release);
            self.flush(context);
        }
    }

    /// Gives the process directory and table of an erased `source` back. Its unit has confirmed that nothing of them is
    /// cached.
    pub fn retire(&mut self, source: SourceId) {
        let (Some(context), Some(directory)) = (self.context(source), self.directory(source)) else { return };
        let old = low(context);
        if old.present() {
            return;
        }
        let table = self.process_table(directory);
        let kept = ScalableContextEntry::default().with_fault_processing_disabled(old.fault_processing_disabled());
        context[0].store(kept.bits() as u64, Ordering::Release);
        self.flush(context);
        self.frames.free(table, 1);
        self.frames.free(directory, 1);
    }

    /// Sets or clears FPD of `source`. False where there is no context table: its faults cannot be silenced.
    ///
    /// Owed: the context entry, then the process entry.
    pub fn silence(&mut self, source: SourceId, silent: bool) -> bool {
        let Some(context) = self.context(source) else { return false };
        context[0].store(low(context).with_fault_processing_disabled(silent).bits() as u64, Ordering::Release);
        self.flush(context);
        if let Some(process) = self.process(source)
            && process[0].load(Ordering::Acquire) & 1 != 0
        {
            let bit = if silent { 2 } else { 0 };
            process[0].store(process[0].load(Ordering::Acquire) & !2 | bit, Ordering::Release);
            self.flush(process);
        }
        true
    }

    /// Gives all frames back. The unit must not be able to reach them any more.
    pub fn release(self) {
        for bus in 0..=u8::MAX {
            for upper in [false, true] {
                let Some(table) = self.context_table((bus, upper)) else { continue };
                for entry in self.frames.words(table).as_chunks::<4>().0 {
                    if let Some(directory) = directory(low(entry)) {
                        self.frames.free(self.process_table(directory), 1);
                        self.frames.free(directory, 1);
                    }
                }
                self.frames.free(table, 1);
            }
        }
        self.frames.free(self.root, 1);
    }

    fn half_root(&self, (bus, upper): (u8, bool)) -> Option<&AtomicU64> {
        self.frames.words(self.root).get(2 * usize::from(bus) + usize::from(upper))
    }

    fn context_table(&self, half: (u8, bool)) -> Option<HostPhysical> {
        HalfRootEntry::from_bits(self.half_root(half)?.load(Ordering::Acquire)).table()
    }

    fn context(&self, source: SourceId) -> Option<&[AtomicU64; 4]> {
        let table = self.context_table(half(source))?;
        self.frames.words(table).as_chunks::<4>().0.get(usize::from(source.devfn() & 0x7f))
    }

    fn directory(&self, source: SourceId) -> Option<HostPhysical> {
        directory(low(self.context(source)?))
    }

    /// The one process table of a directory.
    fn process_table(&self, directory: HostPhysical) -> HostPhysical {
        let first = DirectoryEntry::from_bits(self.frames.words(directory)[0].load(Ordering::Acquire));
        HostPhysical::new(first.table() << 12)
    }

    /// The process entry of requests that carry no process id.
    fn process(&self, source: SourceId) -> Option<&[AtomicU64; 8]> {
        let table = self.process_table(self.directory(source)?);
        self.frames.words(table).as_chunks::<8>().0.get(PLAIN_PROCESS as usize)
    }

    fn flush(&self, words: &[AtomicU64]) {
        if !self.coherent {
            self.frames.flush(words);
        }
    }
}

/// Which context table serves `source`: that of its bus and half.
const fn half(source: SourceId) -> (u8, bool) {
    (source.bus(), source.devfn() >= 0x80)
}

fn low(words: &[AtomicU64; 4]) -> ScalableContextEntry {
    let (low, high) = (words[0].load(Ordering::Acquire), words[1].load(Ordering::Acquire));
    ScalableContextEntry::from_bits(u128::from(high) << 64 | u128::from(low))
}

fn directory(entry: ScalableContextEntry) -> Option<HostPhysical> {
    (entry.directory() != 0).then(|| HostPhysical::new((entry.directory() as u64) << 12))
}
