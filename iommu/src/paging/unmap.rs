//! Unmapping: leaves cleared in runs, emptied tables unlinked and gathered, large pages split where the range ends
//! inside one.

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{Relaxed, Release};

use super::entry::{self, ENTRIES, child, count, entry_end, index, run, size, with_count};
use super::error::ChangeError;
use super::format::{Format, LARGE};
use super::gathered::Gathered;
use super::place::Place;
use super::reserve::Reserve;
use super::table::Table;
use crate::address::HostPhysical;
use crate::door::Frames;

impl<F: Format, M: Frames> Table<F, M> {
    /// Unmaps `length` bytes from `input`. What of the range is not mapped stays so: [`Gathered::bytes`] tells how
    /// much was.
    ///
    /// A large page that the range covers in part is split; the rest of it stays mapped without a moment's gap.
    /// Readers may use what they cached of the range, through the unlinked tables too, until the caller's
    /// invalidation; only then may the memory be used for something else, and the tables be released. After an error
    /// (a split that finds no frame) the table is what it was.
    pub fn unmap(&mut self, input: u64, length: u64) -> Result<Gathered, ChangeError> {
        let end = self.check_range(input, length)?;
        let place = self.place(input, end - 1);
        match self.unmap_leaves(&place, input, length) {
            Some(gathered) => Ok(gathered),
            None => self.unmap_any(place, input, end),
        }
    }

    /// Makes every range end at ends of leaves on both sides, so that unmapping them afterwards cannot fail. Nothing is
    /// unmapped; readers may use what they cached of the large pages that were split until the caller's invalidation.
    /// After an error the table is what it was: the frames for all splits are taken before the first.
    pub fn isolate_all(&mut self, ranges: impl Iterator<Item = (u64, u64)> + Clone) -> Result<Gathered, ChangeError> {
        let mut needed = 0;
        for (input, length) in ranges.clone() {
            let end = self.check_range(input, length)?;
            let place = self.place(input, end - 1);
            needed += self.splits(&place, input, end);
        }
        let mut gathered = Gathered::new();
        if needed == 0 {
            return Ok(gathered);
        }
        let mut places = alloc::vec::Vec::new();
        for (input, length) in ranges {
            places.push((self.place(input, input + (length - 1)), input, input + length));
        }
        // Ranges in one large page are counted once for each: what is too much goes back.
        let mut reserve = Reserve::take(&self.frames, needed)?;
        for (place, start, end) in &places {
            self.split_at(place, *start, &mut reserve, &mut gathered);
            self.split_at(place, *end, &mut reserve, &mut gathered);
        }
        Ok(gathered)
    }

    /// The common case, leaves of one table and no hole among them; `None` where it is not this.
    #[inline(always)]
    fn unmap_leaves(&mut self, place: &Place, input: u64, length: u64) -> Option<Gathered> {
        if (input | length) & (place.size() - 1) != 0 {
            return None;
        }
        let run = place.run(self.frames.words(place.table), input, length);
        let is_leaf = if place.level == 1 { F::PRESENT } else { LARGE };
        if entry::common_bits(run) & is_leaf == 0 {
            return None;
        }
        let removed = run.len() as u16;
        let mut gathered = Gathered::leaves(input, input + length);
        if removed < place.present || place.level == self.levels() {
            entry::clear(run);
            if self.needs_flush() {
                self.frames.flush(run);
            }
        }
        self.remove_present(place, removed, &mut gathered);
        Some(gathered)
    }

    fn unmap_any(&mut self, place: Place, input: u64, end: u64) -> Result<Gathered, ChangeError> {
        let mut gathered = Gathered::new();
        self.isolate(&place, input, end, &mut gathered)?;
        let removed = self.remove(place.table, place.level, place.present, input, end, &mut gathered);
        if removed > 0 {
            self.remove_present(&place, removed, &mut gathered);
        }
        if gathered.tables() > 0 {
            self.forget_recent();
        }
        Ok(gathered)
    }

    /// Makes `[start, end)` end at ends of leaves on both sides.
    #[inline(always)]
    pub(super) fn isolate(
        &mut self,
        place: &Place,
        start: u64,
        end: u64,
        gathered: &mut Gathered,
    ) -> Result<(), ChangeError> {
        if (start | end) & (size(place.level) - 1) == 0 {
            return Ok(());
        }
        self.isolate_inside(place, start, end, gathered)
    }

    fn isolate_inside(&self, place: &Place, start: u64, end: u64, gathered: &mut Gathered) -> Result<(), ChangeError> {
        let needed = self.splits(place, start, end);
        if needed == 0 {
            return Ok(());
        }
        let mut reserve = Reserve::take(&self.frames, needed)?;
        self.split_at(place, start, &mut reserve, gathered);
        self.split_at(place, end, &mut reserve, gathered);
        Ok(())
    }

    /// How many large pages have an end of `[start, end)` inside: each needs a table.
    fn splits(&self, place: &Place, start: u64, end: u64) -> u64 {
        let at_start = self.straddler(place, start);
        let at_end = self.straddler(place, end);
        // One table for each level at which a boundary lies inside a page, once where both lie in the same.
        let mut needed = 0;
        for level in 2..=at_start.max(at_end) {
            let cuts = |boundary: u64, straddler: u8| level <= straddler && boundary & (size(level) - 1) != 0;
            let first = cuts(start, at_start);
            let second = cuts(end, at_end);
            let same = first && second && start >> entry::shift(level) == end >> entry::shift(level);
            needed += u64::from(first) + u64::from(second) - u64::from(same);
        }
        needed
    }

    /// The level of the leaf that has `boundary` inside; 1 when none has.
    fn straddler(&self, place: &Place, boundary: u64) -> u8 {
        let (mut table, mut level) = (place.table, place.level);
        // A boundary at the end of an entry is in no leaf of this table or below, nor is the table's own end.
        while boundary & (size(level) - 1) != 0 {
            let entry = self.frames.words(table)[index(boundary, level)].load(Relaxed);
            if entry & LARGE != 0 {
                return level;
            }
            if entry == 0 {
                break;
            }
            table = child(entry);
            level -= 1;
        }
        1
    }

    /// Splits large leaves until none has `boundary` inside.
    fn split_at(&self, place: &Place, boundary: u64, reserve: &mut Reserve<'_, M>, gathered: &mut Gathered) {
        let (mut table, mut level) = (place.table, place.level);
        while boundary & (size(level) - 1) != 0 {
            let word = &self.frames.words(table)[index(boundary, level)];
            let mut link = word.load(Relaxed);
            if link == 0 {
                return;
            }
            if link & LARGE != 0 {
                link = self.split(word, link, level, reserve.next());
                let start = boundary & !(size(level) - 1);
                gathered.split(start, start + size(level));
            }
            table = child(link);
            level -= 1;
        }
    }

    /// Replaces a large leaf by a full table of the same translation, built and flushed first; returns the link.
    fn split(&self, word: &AtomicU64, leaf: u64, level: u8, frame: HostPhysical) -> u64 {
        let words = self.frames.words(frame);
        entry::fill(words, self.format.first_part(level, leaf), size(level - 1));
        if self.needs_flush() {
            self.frames.flush(words);
        }
        let link = with_count(self.format.link(frame), ENTRIES);
        word.store(link, Release);
        if self.needs_flush() {
            self.frames.flush(core::slice::from_ref(word));
        }
        link
    }

    /// Empties `[start, end)` of the table at `level`, which has `present` entries; returns how many became absent.
    /// When that is all of them the caller unlinks the table, whose words may then be as they were.
    #[inline(always)]
    fn remove(
        &self,
        table: HostPhysical,
        level: u8,
        present: u16,
        start: u64,
        end: u64,
        gathered: &mut Gathered,
    ) -> u16 {
        let removed = if level == 1 {
            let run = run(self.frames.words(table), 1, start, end);
            let removed = if run.len() == usize::from(ENTRIES) {
                present
            } else if present == ENTRIES || entry::common_bits(run) & F::PRESENT != 0 {
                run.len() as u16
            } else {
                entry::count_present(run)
            };
            if removed == 0 {
                return 0;
            }
            self.remove_leaves(run, 1, present, removed, gathered)
        } else {
            return self.remove_entries(table, level, present, start, end, gathered);
        };
        gathered.touch(start, end);
        removed
    }

    /// Empties a run of leaves, of which `removed` (not 0) are present, of a table at `level` that has `present`
    /// entries. A table that dies by it need not be cleared, but the root never dies.
    #[inline(always)]
    fn remove_leaves(&self, run: &[AtomicU64], level: u8, present: u16, removed: u16, gathered: &mut Gathered) -> u16 {
        if removed < present || level == self.levels() {
            entry::clear(run);
            if self.needs_flush() {
                self.frames.flush(run);
            }
        }
        gathered.add_bytes(u64::from(removed) << entry::shift(level));
        removed
    }

    /// As [`remove`](Self::remove), above level 1.
    fn remove_entries(
        &self,
        table: HostPhysical,
        level: u8,
        present: u16,
        start: u64,
        end: u64,
        gathered: &mut Gathered,
    ) -> u16 {
        let words = self.frames.words(table);
        if (start | end) & (size(level) - 1) == 0 {
            let run = run(words, level, start, end);
            if entry::common_bits(run) & LARGE != 0 {
                gathered.touch(start, end);
                return self.remove_leaves(run, level, present, run.len() as u16, gathered);
            }
        }
        let mut removed = 0;
        let mut at = start;
        while at < end {
            let stop = entry_end(at, level).min(end);
            let word = &words[index(at, level)];
            let entry = word.load(Relaxed);
            if entry != 0 && self.remove_entry(word, entry, level, at, stop, gathered) {
                removed += 1;
            }
            at = stop;
        }
        if removed > 0 && self.needs_flush() {
            let first = index(start, level);
            self.frames.flush(words.get(first..=index(end - 1, level)).unwrap_or(words));
        }
        removed
    }

    /// Empties `[start, end)`, part or all of what a present entry at `level` covers; returns whether the entry
    /// became absent.
    #[inline(always)]
    fn remove_entry(
        &self,
        word: &AtomicU64,
        entry: u64,
        level: u8,
        start: u64,
        end: u64,
        gathered: &mut Gathered,
    ) -> bool {
        if entry & LARGE != 0 {
            word.store(0, Release);
            gathered.touch(start, end);
            gathered.add_bytes(end - start);
            return true;
        }
        let table = child(entry);
        if end - start == size(level) {
            word.store(0, Release);
            gathered.touch(start, end);
            self.gather(table, level - 1, count(entry), gathered);
            return true;
        }
        let below = self.remove(table, level - 1, count(entry), start, end, gathered);
        if below == count(entry) {
            word.store(0, Release);
            gathered.push(table, &self.frames);
            return true;
        }
        if below > 0 {
            word.store(with_count(entry, count(entry) - below), Relaxed);
        }
        false
    }

    /// Takes a whole subtree that was just unlinked.
    fn gather(&self, table: HostPhysical, level: u8, present: u16, gathered: &mut Gathered) {
        let words = self.frames.words(table);
        if level == 1 || entry::common_bits(words) & LARGE != 0 {
            gathered.add_bytes(u64::from(present) * size(level));
        } else {
            for word in words {
                let entry = word.load(Relaxed);
                if entry & LARGE != 0 {
                    gathered.add_bytes(size(level));
                } else if entry != 0 {
                    self.gather(child(entry), level - 1, count(entry), gathered);
                }
            }
        }
        gathered.push(table, &self.frames);
    }
}
