//! Where in a table a range lies: the one walk from the root that every change begins with.

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{Relaxed, Release};

use super::entry::{child, count, index, is_link, shift, with_count};
use super::format::Format;
use super::gathered::Gathered;
use super::table::Table;
use crate::address::HostPhysical;
use crate::door::Frames;

/// The lowest table that a whole range lies in, or the last that exists on the way to it.
#[derive(Clone, Copy)]
pub(super) struct Place {
    /// The table.
    pub(super) table: HostPhysical,
    /// Its level.
    pub(super) level: u8,
    /// How many of its entries are present.
    pub(super) present: u16,
    /// The table that links it, unless it is the root.
    parent: HostPhysical,
    /// An address in the range.
    start: u64,
}

impl<F: Format, M: Frames> Table<F, M> {
    /// The place of `[start, last]`, a range that this table can hold.
    #[inline(always)]
    pub(super) fn place(&self, start: u64, last: u64) -> Place {
        self.place_above(0, start, start ^ last)
    }

    /// The place, not lower than just above level `bound`, where the entry for `start` covers addresses that differ
    /// from it in the bits `differing`.
    #[inline(always)]
    fn place_above(&self, bound: u8, start: u64, differing: u64) -> Place {
        let (mut table, mut parent) = (self.root, self.root);
        let (mut level, mut level_shift) = (self.levels(), shift(self.levels()));
        let mut present = self.present;
        while level > 1 && level > bound + 1 && differing >> level_shift == 0 {
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
        Place { table, level, present, parent, start }
    }

    /// The word that links the place's table, unless that is the root.
    #[inline(always)]
    fn link_of(&self, place: &Place) -> Option<&AtomicU64> {
        (place.level < self.levels()).then(|| &self.frames.words(place.parent)[index(place.start, place.level + 1)])
    }

    /// `added` entries of the place's table became present.
    #[inline(always)]
    pub(super) fn add_present(&mut self, place: &Place, added: u16) {
        // A reader sees the same link before and after: the count is in bits that it ignores, so nothing is flushed.
        match self.link_of(place) {
            Some(word) => word.store(with_count(word.load(Relaxed), place.present + added), Relaxed),
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
    fn unlink(&mut self, empty: Place, gathered: &mut Gathered) {
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
