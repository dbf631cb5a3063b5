//! Where in a table a range lies: the one walk from the root that every change begins with.

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{Relaxed, Release};

use super::entry::{Words, child, count, is_link, with_count, with_more};
use super::format::Format;
use super::gathered::Gathered;
use super::table::Table;
use crate::address::HostPhysical;
use crate::door::Frames;

/// A table that a whole range lies in: mostly the lowest that is linked, and in any case one so low that the range is
/// more than a part of one entry, or that the entry links nothing.
#[derive(Clone, Copy)]
pub(super) struct Place {
    /// The table.
    pub(super) table: HostPhysical,
    /// Its level.
    pub(super) level: u8,
    /// The bits below what it resolves.
    shift: u32,
    /// How many of its entries are present.
    pub(super) present: u16,
    /// The table that links it, unless it is the root.
    parent: HostPhysical,
    /// An address in the range.
    start: u64,
}

impl Place {
    /// The bytes that one entry of the table covers.
    #[inline(always)]
    pub(super) fn size(&self) -> u64 {
        1 << self.shift
    }

    /// The entries of `words`, the table's, for `length` bytes from `start` on, which are whole entries.
    #[inline(always)]
    pub(super) fn run<'w>(&self, words: &'w Words, start: u64, length: u64) -> &'w [AtomicU64] {
        let first = (start >> self.shift) as usize & 511;
        if length == self.size() {
            return core::slice::from_ref(&words[first]);
        }
        words.get(first..first + (length >> self.shift) as usize).unwrap_or(&[])
    }
}

impl<F: Format, M: Frames> Table<F, M> {
    /// The place of `[start, last]`, a range that this table can hold.
    #[inline(always)]
    pub(super) fn place(&self, start: u64, last: u64) -> Place {
        // One more than the differing bits, so that a range of exactly one entry has its place in that entry's table.
        self.place_above(0, start, (start ^ last) + 1)
    }

    /// The place above level `bound` where the entry for `start` covers addresses that differ from it by `difference`.
    #[inline(always)]
    fn place_above(&self, bound: u8, start: u64, difference: u64) -> Place {
        let (mut table, mut parent) = (self.root, self.root);
        let (mut level, mut level_shift) = (self.levels(), self.top_shift);
        let mut present = self.present;
        while level > 1 && level > bound + 1 && difference >> level_shift == 0 {
            let link = self.frames.words(table)[(start >> level_shift) as usize & 511].load(Relaxed);
            if !is_link(link) {
                break;
            }
            parent = table;
            table = child(link);
            present = count(link);
            level -= 1;
            level_shift -= 9;
        }
        Place { table, level, shift: level_shift, present, parent, start }
    }

    /// The word that links the place's table, unless that is the root.
    #[inline(always)]
    fn link_of(&self, place: &Place) -> Option<&AtomicU64> {
        (place.shift < self.top_shift)
            .then(|| &self.frames.words(place.parent)[(place.start >> (place.shift + 9)) as usize & 511])
    }

    /// `added` entries of the place's table became present.
    #[inline(always)]
    pub(super) fn add_present(&mut self, place: &Place, added: u16) {
        // A reader sees the same link before and after: the count is in bits that it ignores, so nothing is flushed.
        match self.link_of(place) {
            Some(word) => word.store(with_more(word.load(Relaxed), added), Relaxed),
            None => self.present += added,
        }
    }

    /// `removed` entries of the place's table became absent. Tables that emptied are unlinked and gathered.
    #[inline(always)]
    pub(super) fn remove_present(&mut self, place: &Place, removed: u16, gathered: &mut Gathered) {
        let left = place.present - removed;
        match self.link_of(place) {
            Some(word) if left > 0 => word.store(with_count(word.load(Relaxed), left), Relaxed),
            Some(_) => self.unlink(*place, gathered),
            None => self.present = left,
        }
    }

    /// Unlinks the place's table, which is empty, and those above it that empty by that.
    #[inline(never)]
    fn unlink(&mut self, empty: Place, gathered: &mut Gathered) {
        self.forget_recent();
        let mut place = empty;
        while let Some(word) = self.link_of(&place) {
            word.store(0, Release);
            if self.needs_flush() {
                self.frames.flush(core::slice::from_ref(word));
            }
            gathered.push(place.table, &self.frames);
            place = self.place_above(place.level, place.start, 0);
            let left = place.present - 1;
            match self.link_of(&place) {
                Some(word) if left > 0 => return word.store(with_count(word.load(Relaxed), left), Relaxed),
                Some(_) => (),
                None => self.present = left,
            }
        }
    }
}
