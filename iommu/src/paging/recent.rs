//! Translation in software, with a memory of the table where the last one ended.

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;

use super::entry::{child, index, size};
use super::format::{Format, LARGE};
use super::shape::Levels;
use super::table::Table;
use crate::address::HostPhysical;
use crate::door::Frames;

/// The table at level 1, 2 or 3 where a translation ended, in one word, so that readers on several processors never
/// see half of it: the table's address bits 43:12 in 63:32, its level in 31:30, the input's bits above what the table
/// resolves in 26:0. What does not fit is not remembered.
///
/// It names a table that is linked. Only an unmap unlinks tables, and an unmap has the table to itself.
pub(super) struct Recent(AtomicU64);

const TABLE_SHIFT: u32 = 20;
const LEVEL: u64 = 3 << 30;
const LEVEL_ONE: u64 = 0;
const LEVEL_TWO: u64 = 2 << 30;
const LEVEL_THREE: u64 = 1 << 30;
const TAG: u64 = (1 << 27) - 1;
/// Nothing is remembered: no input, of 64 bits, has this tag at level 3.
const NONE: u64 = LEVEL_THREE | TAG;

impl Recent {
    pub(super) const fn new() -> Self {
        Self(AtomicU64::new(NONE))
    }

    /// Remembers the `table` that resolves `input`, under its level and tag.
    #[inline(always)]
    fn remember(&self, input: u64, level_and_tag: u64, table: HostPhysical) {
        if (input | table.as_u64() << 4) >> 48 == 0 {
            self.0.store(table.as_u64() << TABLE_SHIFT | level_and_tag, Relaxed);
        }
    }
}

impl<F: Format, M: Frames> Table<F, M> {
    /// Where `input` points, if it is mapped. Cheapest for addresses near the last one that was asked for.
    #[inline]
    pub fn translate(&self, input: u64) -> Option<HostPhysical> {
        let recent = self.recent.0.load(Relaxed);
        let words = || self.frames.words(HostPhysical::new(recent >> TABLE_SHIFT & !0xfff));
        let tag = recent & TAG;
        if recent & LEVEL == LEVEL_ONE {
            if tag == input >> 21 {
                let entry = words()[index(input, 1)].load(Relaxed);
                return (entry & F::PRESENT != 0).then(|| target::<F>(entry, input, 1));
            }
        } else if recent & LEVEL_TWO != 0 {
            if tag == input >> 30 {
                let entry = words()[index(input, 2)].load(Relaxed);
                if entry & LARGE != 0 {
                    return Some(target::<F>(entry, input, 2));
                }
            }
        } else if tag == input >> 39 {
            let entry = words()[index(input, 3)].load(Relaxed);
            if entry & LARGE != 0 {
                return Some(target::<F>(entry, input, 3));
            }
        }
        self.walk(input)
    }

    /// A translation from the root.
    #[inline(never)]
    fn walk(&self, input: u64) -> Option<HostPhysical> {
        if input >> self.shape.input_bits != 0 {
            return None;
        }
        let words = |table| self.frames.words(table);
        let mut table = self.root;
        if self.shape.levels > Levels::Three {
            if self.shape.levels == Levels::Five {
                table = link(words(table)[index(input, 5)].load(Relaxed))?;
            }
            table = link(words(table)[index(input, 4)].load(Relaxed))?;
        }
        let entry = words(table)[index(input, 3)].load(Relaxed);
        if entry & LARGE != 0 {
            self.recent.remember(input, LEVEL_THREE | (input >> 39), table);
            return Some(target::<F>(entry, input, 3));
        }
        table = link(entry)?;
        let entry = words(table)[index(input, 2)].load(Relaxed);
        if entry & LARGE != 0 {
            self.recent.remember(input, LEVEL_TWO | (input >> 30), table);
            return Some(target::<F>(entry, input, 2));
        }
        table = link(entry)?;
        self.recent.remember(input, LEVEL_ONE | (input >> 21), table);
        let entry = words(table)[index(input, 1)].load(Relaxed);
        (entry & F::PRESENT != 0).then(|| target::<F>(entry, input, 1))
    }

    /// Tables were unlinked.
    pub(super) fn forget_recent(&mut self) {
        *self.recent.0.get_mut() = NONE;
    }
}

/// The table that an entry links which is no leaf.
#[inline(always)]
fn link(entry: u64) -> Option<HostPhysical> {
    (entry != 0).then_some(child(entry))
}

/// Where a leaf at `level` leads `input`.
#[inline(always)]
fn target<F: Format>(leaf: u64, input: u64, level: u8) -> HostPhysical {
    let within = size(level) - 1;
    HostPhysical::new(leaf & F::LEAF_ADDRESS & !within | input & within)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_input_and_table_fit_and_larger_ones_are_left_out() {
        let recent = Recent::new();
        let (input, table) = ((1 << 48) - 1, HostPhysical::new((1 << 44) - 4096));
        let parts = || {
            let word = recent.0.load(Relaxed);
            (word >> TABLE_SHIFT & !0xfff, word & LEVEL, word & TAG)
        };
        recent.remember(input, LEVEL_ONE | (input >> 21), table);
        assert_eq!(parts(), (table.as_u64(), LEVEL_ONE, input >> 21));
        recent.remember(input, LEVEL_TWO | (input >> 30), table);
        assert_eq!(parts(), (table.as_u64(), LEVEL_TWO, input >> 30));
        recent.remember(input, LEVEL_THREE | (input >> 39), table);
        assert_eq!(parts(), (table.as_u64(), LEVEL_THREE, input >> 39));
        recent.remember(1 << 48, LEVEL_ONE, HostPhysical::new(0));
        recent.remember(0, LEVEL_ONE, HostPhysical::new(1 << 44));
        assert_eq!(parts(), (table.as_u64(), LEVEL_THREE, input >> 39), "what does not fit was remembered");
    }
}
