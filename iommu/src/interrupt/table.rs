//! The interrupt-remapping table of one unit (VT-d section 5.1.4).
//!
//! Hardware never sees an entry half done: an absent entry is filled from the high word, P last; a present one is
//! changed by one store where only its low word differs, else by one exchange of 16 bytes, and where the processor has
//! none, by taking P away, waiting for the invalidation, and filling again. Every change of a present entry ends with
//! an invalidation, which is the caller's `invalidate`. The table belongs to its unit's interrupt lock.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::address::{HostPhysical, PAGE_SIZE};
use crate::door::{Exchange, Frames, OutOfFrames};
use crate::interrupt::entry::Entry;

/// Entries in one frame.
const PER_FRAME: usize = 256;

/// The table, and which of its entries are taken.
#[derive(Debug)]
pub struct InterruptTable<F> {
    frames: F,
    base: HostPhysical,
    order: u8,
    coherent: bool,
    taken: Vec<u64>,
    in_use: usize,
}

impl<F: Frames> InterruptTable<F> {
    /// A table of `2^order` entries (`order` 8 to 16), all absent. `coherent` is ECAP.C.
    pub fn new(frames: F, order: u8, coherent: bool) -> Result<Self, OutOfFrames> {
        let order = order.clamp(8, 16);
        let entries = 1usize << order;
        let base = frames.allocate(entries / PER_FRAME)?;
        let table = Self { frames, base, order, coherent, taken: vec![0; entries / 64], in_use: 0 };
        if !coherent {
            for frame in 0..entries / PER_FRAME {
                table.frames.flush(table.frames.words(table.frame(frame)));
            }
        }
        Ok(table)
    }

    /// The table's address, for IRTA.
    pub fn base(&self) -> HostPhysical {
        self.base
    }

    /// IRTA.S: the table has `2^(S + 1)` entries.
    pub fn size_code(&self) -> u8 {
        self.order - 1
    }

    /// How many entries there are.
    pub fn entries(&self) -> usize {
        1 << self.order
    }

    /// How many entries are taken.
    pub fn in_use(&self) -> usize {
        self.in_use
    }

    /// Takes `count` (at least 1) entries in a row. The first is aligned to the next power of two of `count`, so that
    /// a function with several MSI messages can count them up in the low bits. `None` where no such block is free.
    pub fn allocate(&mut self, count: u16) -> Option<u16> {
        let count = usize::from(count.max(1));
        let step = count.next_power_of_two();
        let first = (0..self.entries()).step_by(step).find(|first| {
            first + count <= self.entries() && (*first..first + count).all(|index| !self.is_taken(index))
        })?;
        self.mark(first..first + count, true);
        self.in_use += count;
        u16::try_from(first).ok()
    }

    /// Gives entries back that one `allocate(count)` gave; they are absent and invalidated.
    pub fn free(&mut self, first: u16, count: u16) {
        let first = usize::from(first);
        self.mark(first..first + usize::from(count.max(1)), false);
        self.in_use = self.in_use.saturating_sub(usize::from(count.max(1)));
    }

    /// What stands at `index`.
    pub fn entry(&self, index: u16) -> Entry {
        self.pair(index).map_or(Entry::default(), |pair| {
            let (low, high) = (pair[0].load(Ordering::Acquire), pair[1].load(Ordering::Acquire));
            Entry::from_bits(u128::from(high) << 64 | u128::from(low))
        })
    }

    /// Puts `new` at `index`. `invalidate` drops the entry from the unit's cache and waits for it; it is called when
    /// a present entry changed, and, with `announce_new` (CM), when an absent one became present.
    ///
    /// # Errors
    ///
    /// Those of `invalidate`. The entry is then absent: the cache may still hold the old one, so the new one must not
    /// be counted on.
    pub fn set<E>(
        &mut self,
        index: u16,
        new: Entry,
        announce_new: bool,
        mut invalidate: impl FnMut() -> Result<(), E>,
    ) -> Result<(), E> {
        let old = self.entry(index);
        let Some(pair) = self.pair(index) else { return Ok(()) };
        let result = if !old.present() {
            self.fill(pair, new);
            if announce_new && new.present() { invalidate() } else { Ok(()) }
        } else if self.change(pair, old, new) {
            invalidate()
        } else {
            self.store_low(pair, old.absent());
            invalidate().and_then(|()| {
                self.fill(pair, new);
                if announce_new && new.present() { invalidate() } else { Ok(()) }
            })
        };
        if result.is_err() {
            self.store_low(pair, self.entry(index).absent());
        }
        result
    }

    /// Takes P away from `count` entries from `first` on. True if any was present: the caller owes the invalidation of
    /// all of them.
    pub fn withdraw(&mut self, first: u16, count: u16) -> bool {
        let mut any = false;
        for index in (0..count).filter_map(|index| first.checked_add(index)) {
            let old = self.entry(index);
            if let Some(pair) = self.pair(index)
                && old.present()
            {
                self.store_low(pair, old.absent());
                any = true;
            }
        }
        any
    }

    /// Gives the frames back. The unit must not be able to reach them any more.
    pub fn release(self) {
        self.frames.free(self.base, self.entries() / PER_FRAME);
    }

    /// An absent entry: the low word, with P, comes last.
    fn fill(&self, pair: &[AtomicU64; 2], new: Entry) {
        pair[1].store(new.high(), Ordering::Relaxed);
        self.store_low(pair, new);
    }

    /// A present entry, in one step. False where that cannot be; nothing changed then.
    fn change(&self, pair: &[AtomicU64; 2], old: Entry, new: Entry) -> bool {
        if old.high() == new.high() {
            self.store_low(pair, new);
            return true;
        }
        match self.frames.exchange_u128(pair, old.bits(), new.bits()) {
            Exchange::Done => {
                self.flush(pair);
                true
            }
            Exchange::Differs(_) | Exchange::Unsupported => false,
        }
    }

    fn store_low(&self, pair: &[AtomicU64; 2], entry: Entry) {
        pair[0].store(entry.low(), Ordering::Release);
        self.flush(pair);
    }

    fn flush(&self, pair: &[AtomicU64; 2]) {
        if !self.coherent {
            self.frames.flush(pair);
        }
    }

    fn frame(&self, number: usize) -> HostPhysical {
        HostPhysical::new(self.base.as_u64() + number as u64 * PAGE_SIZE)
    }

    fn pair(&self, index: u16) -> Option<&[AtomicU64; 2]> {
        let index = usize::from(index);
        if index >= self.entries() {
            return None;
        }
        self.frames.words(self.frame(index / PER_FRAME)).as_chunks::<2>().0.get(index % PER_FRAME)
    }

    fn is_taken(&self, index: usize) -> bool {
        self.taken.get(index / 64).is_none_or(|word| word >> (index % 64) & 1 != 0)
    }

    fn mark(&mut self, range: Range<usize>, taken: bool) {
        for index in range {
            if let Some(word) = self.taken.get_mut(index / 64) {
                let bit = 1 << (index % 64);
                *word = if taken { *word | bit } else { *word & !bit };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::address::SourceId;
    use crate::fixture::Memory;
    use crate::interrupt::entry::{Source, Trigger};

    fn entry(vector: u8) -> Entry {
        Entry::remapped(Source::Exact(SourceId::new(1, 0, 0)), 0, vector, Trigger::Edge)
    }

    fn posted(vector: u8) -> Entry {
        Entry::posted(Source::Exact(SourceId::new(1, 0, 0)), HostPhysical::new(0x1_0000_0040), vector, false)
    }

    #[test]
    fn entries_are_published_whole_and_invalidated_when_they_were_present() {
        for exchange in [true, false] {
            let memory = Memory::new(32);
            memory.set_exchange(exchange);
            let mut table = InterruptTable::new(memory.clone(), 8, false).unwrap();
            let invalidated = core::cell::Cell::new(0);
            let mut set = |new, announce| {
                table
                    .set(5, new, announce, || {
                        invalidated.set(invalidated.get() + 1);
                        memory.assert_all_flushed();
                        Ok::<(), ()>(())
                    })
                    .unwrap();
                memory.assert_all_flushed();
                (table.entry(5), invalidated.replace(0))
            };
            assert_eq!(set(entry(0x40), false), (entry(0x40), 0), "nothing was cached");
            assert_eq!(set(entry(0x41), false), (entry(0x41), 1));
            let times = if exchange { 1 } else { 2 };
            assert_eq!(set(posted(0x42), true), (posted(0x42), times), "through an absent entry without an exchange");
            assert_eq!(set(Entry::default(), false), (Entry::default(), 1));
            assert_eq!(set(entry(0x43), true), (entry(0x43), 1), "with CM absence is cached too");
            table.release();
            assert_eq!(memory.in_use(), 0);
        }
    }

    #[test]
    fn an_entry_whose_invalidation_failed_is_absent() {
        let memory = Memory::new(32);
        let mut table = InterruptTable::new(memory.clone(), 8, true).unwrap();
        table.set(0, entry(0x40), false, || Ok::<(), ()>(())).unwrap();
        assert_eq!(table.set(0, entry(0x41), false, || Err("no answer")), Err("no answer"));
        assert!(!table.entry(0).present());
        table.release();
    }

    #[test]
    fn blocks_are_aligned_to_what_a_function_can_count() {
        let memory = Memory::new(32);
        let mut table = InterruptTable::new(memory.clone(), 8, true).unwrap();
        assert_eq!(table.allocate(1), Some(0));
        assert_eq!(table.allocate(4), Some(4));
        assert_eq!(table.allocate(3), Some(8));
        assert_eq!(table.allocate(1), Some(1));
        assert_eq!(table.allocate(256), None);
        table.free(4, 4);
        assert_eq!(table.allocate(2), Some(2));
        assert_eq!(table.allocate(4), Some(4));
        assert_eq!(table.in_use(), 1 + 3 + 1 + 2 + 4);
        table.release();
    }

    proptest! {
        #[test]
        fn no_entry_is_given_twice(counts in proptest::collection::vec(1u16..20, 1..60)) {
            let mut table = InterruptTable::new(Memory::new(32), 8, true).unwrap();
            let mut taken = BTreeSet::new();
            let mut held = Vec::new();
            for (turn, count) in counts.into_iter().enumerate() {
                if turn % 3 == 2 && let Some((first, count)) = held.pop() {
                    table.free(first, count);
                    (first..first + count).for_each(|index| { taken.remove(&index); });
                }
                if let Some(first) = table.allocate(count) {
                    prop_assert_eq!(first % count.next_power_of_two(), 0);
                    for index in first..first + count {
                        prop_assert!(index < 256 && taken.insert(index));
                    }
                    held.push((first, count));
                }
            }
            prop_assert_eq!(table.in_use(), taken.len());
        }
    }
}
