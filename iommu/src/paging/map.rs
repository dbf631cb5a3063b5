//! Mapping: a plan that checks and counts, then a fill that cannot fail.

use core::sync::atomic::Ordering::{Relaxed, Release};

use super::attributes::Attributes;
use super::entry::{self, child, count, entry_end, index, size, with_more};
use super::error::MapError;
use super::format::{Format, LARGE};
use super::place::Place;
use super::reserve::Reserve;
use super::shape::{INTERRUPT_WINDOW, InterruptWindow};
use super::table::Table;
use crate::address::{HostPhysical, PAGE_SIZE};
use crate::door::Frames;

/// The end of what `[at, end)` can say with whole leaves at `level`, when such leaves may stand there and one fits.
#[inline(always)]
fn leaves_end(at: u64, end: u64, level: u8, largest: u8) -> Option<u64> {
    let mask = size(level) - 1;
    let stop = end & !mask;
    (level <= largest && at & mask == 0 && stop > at).then_some(stop)
}

/// Whether `length` bytes from `start` on, which do not wrap, meet the interrupt window.
#[inline(always)]
fn meets_window(start: u64, length: u64) -> bool {
    // From the start to the window's last byte, which is far when the start is behind it.
    let distance = INTERRUPT_WINDOW.1.wrapping_sub(start);
    distance < length + (INTERRUPT_WINDOW.1 - INTERRUPT_WINDOW.0)
}

impl<F: Format, M: Frames> Table<F, M> {
    /// Maps `length` bytes from `input` to the host memory at `output`, with the largest leaves that sizes and
    /// alignment allow.
    ///
    /// Nothing of the range may be mapped before. A reader sees each leaf either absent or whole, at any moment and
    /// in no certain order; readers that cache absent entries (VT-d CAP.CM) need an invalidation of the range before
    /// they are sure to see it. After an error the table is what it was.
    pub fn map(
        &mut self,
        input: u64,
        output: HostPhysical,
        length: u64,
        attributes: impl Into<Attributes>,
    ) -> Result<(), MapError> {
        let attributes = attributes.into();
        if !self.admits(input, output, length, attributes) {
            return Err(self.refusal(input, output, length, attributes));
        }
        let place = self.place(input, input + (length - 1));
        let size = place.size();
        if (input | output.as_u64() | length) & (size - 1) != 0 || !self.shape.page_sizes.allow(place.level) {
            return self.map_across(place, input, input + length, output, attributes);
        }
        // The common case, leaves of one table.
        let run = place.run(self.frames.words(place.table), input, length);
        if !entry::is_empty(run) {
            return Err(self.overlap(input, input + length));
        }
        entry::fill(run, self.format.leaf(place.level, output, attributes), size);
        if self.needs_flush() {
            self.frames.flush(run);
        }
        let added = run.len() as u16;
        self.add_present(&place, added);
        Ok(())
    }

    /// A mapping of several tables: plans it, takes the frames, fills it in.
    fn map_across(
        &mut self,
        place: Place,
        input: u64,
        end: u64,
        output: HostPhysical,
        attributes: Attributes,
    ) -> Result<(), MapError> {
        let largest = self.largest_leaf(input, output);
        let needed = self
            .plan(place.table, place.present, place.level, input, end, largest)
            .ok_or_else(|| self.overlap(input, end))?;
        let reserve = Reserve::take(&self.frames, needed)?;
        let difference = output.as_u64().wrapping_sub(input);
        let mut filler = Filler { table: self, reserve, attributes, largest, difference };
        let added = filler.fill(place.table, place.level, input, end, false);
        drop(filler);
        self.add_present(&place, added);
        Ok(())
    }

    /// Whether nothing about the request itself stands against it.
    #[inline(always)]
    fn admits(&self, input: u64, output: HostPhysical, length: u64, attributes: Attributes) -> bool {
        let output = output.as_u64();
        // An empty range wraps, or its last address is u64::MAX.
        let (Some(input_last), Some(output_last)) =
            (input.checked_add(length.wrapping_sub(1)), output.checked_add(length.wrapping_sub(1)))
        else {
            return false;
        };
        input_last >> self.shape.input_bits == 0
            && output_last >> self.shape.output_bits == 0
            && (input | output | length) & (PAGE_SIZE - 1) == 0
            && self.format.can_say(attributes.permissions)
            && (self.shape.interrupt_window == InterruptWindow::Ordinary
                || !meets_window(input, length) && !meets_window(output, length))
    }

    /// The first thing that stands against a request that is not admitted.
    #[cold]
    fn refusal(&self, input: u64, output: HostPhysical, length: u64, attributes: Attributes) -> MapError {
        if let Err(error) = self.check_range(input, length) {
            return error.into();
        }
        if !output.is_aligned(PAGE_SIZE) {
            return MapError::OutputMisaligned { output };
        }
        let bits = self.shape.output_bits;
        if output.checked_add(length).is_none_or(|end| end.as_u64() > 1 << bits) {
            return MapError::OutputTooFar { output, length, bits };
        }
        if !self.format.can_say(attributes.permissions) {
            return MapError::Permissions { permissions: attributes.permissions, format: F::NAME };
        }
        let start = if meets_window(input, length) { input } else { output.as_u64() };
        MapError::InterruptWindow { start, length }
    }

    /// The highest level at which leaves may stand when `input` maps to `output`.
    fn largest_leaf(&self, input: u64, output: HostPhysical) -> u8 {
        let difference = input ^ output.as_u64();
        let fits = |level: u8| self.shape.page_sizes.allow(level) && difference & (size(level) - 1) == 0;
        if fits(3) {
            3
        } else if fits(2) {
            2
        } else {
            1
        }
    }

    /// How many tables a mapping of `[start, end)` in the table at `level` needs beside those that are there; `None`
    /// when part of the range is mapped.
    fn plan(&self, table: HostPhysical, present: u16, level: u8, start: u64, end: u64, largest: u8) -> Option<u64> {
        if present == 0 {
            return Some(self.tables_below(level, start, end, largest));
        }
        let words = self.frames.words(table);
        let mut needed = 0;
        let mut at = start;
        while at < end {
            let stop;
            if let Some(leaves) = leaves_end(at, end, level, largest) {
                stop = leaves;
                if !entry::is_empty(entry::run(words, level, at, stop)) {
                    return None;
                }
            } else {
                stop = entry_end(at, level).min(end);
                let link = words[index(at, level)].load(Relaxed);
                needed += if link == 0 {
                    1 + self.tables_below(level - 1, at, stop, largest)
                } else if link & LARGE == 0 {
                    self.plan(child(link), count(link), level - 1, at, stop, largest)?
                } else {
                    return None;
                };
            }
            at = stop;
        }
        Some(needed)
    }

    /// How many tables a mapping of `[start, end)` needs below an empty table at `level`.
    fn tables_below(&self, level: u8, start: u64, end: u64, largest: u8) -> u64 {
        if level == 1 {
            return 0;
        }
        if level == 2 && largest == 1 {
            return ((end - 1) >> entry::shift(2)) - (start >> entry::shift(2)) + 1;
        }
        let mut needed = 0;
        let mut at = start;
        while at < end {
            if let Some(leaves) = leaves_end(at, end, level, largest) {
                at = leaves;
            } else {
                let stop = entry_end(at, level).min(end);
                needed += 1 + self.tables_below(level - 1, at, stop, largest);
                at = stop;
            }
        }
        needed
    }

    #[cold]
    fn overlap(&self, start: u64, end: u64) -> MapError {
        // A leaf of a level above those that the request would use counts as well: `runs_from` starts inside it.
        match self.runs_from(start).next() {
            Some(run) => {
                let first = run.input.max(start);
                MapError::Overlap { start: first, length: (run.input + run.length).min(end) - first }
            }
            None => MapError::Overlap { start, length: end - start },
        }
    }
}

/// One mapping being filled in.
struct Filler<'a, F: Format, M: Frames> {
    table: &'a Table<F, M>,
    reserve: Reserve<'a, M>,
    attributes: Attributes,
    largest: u8,
    /// Output minus input, modulo 2^64.
    difference: u64,
}

impl<F: Format, M: Frames> Filler<'_, F, M> {
    /// Fills `[start, end)` of the table at `level`, of which nothing is mapped; returns how many of its entries
    /// became present. Of a `fresh` table, which no reader can reach yet, the caller flushes the whole.
    fn fill(&mut self, table: HostPhysical, level: u8, start: u64, end: u64, fresh: bool) -> u16 {
        let frames = &self.table.frames;
        let words = frames.words(table);
        let flush = self.table.needs_flush();
        let mut added = 0;
        let mut at = start;
        while at < end {
            let stop;
            if let Some(leaves) = leaves_end(at, end, level, self.largest) {
                stop = leaves;
                let run = entry::run(words, level, at, stop);
                let output = HostPhysical::new(at.wrapping_add(self.difference));
                entry::fill(run, self.table.format.leaf(level, output, self.attributes), size(level));
                if flush && !fresh {
                    frames.flush(run);
                }
                added += run.len() as u16;
            } else {
                stop = entry_end(at, level).min(end);
                let word = &words[index(at, level)];
                let mut link = word.load(Relaxed);
                let new = link == 0;
                if new {
                    link = self.table.format.link(self.reserve.next());
                }
                let below = self.fill(child(link), level - 1, at, stop, new);
                if new && flush {
                    frames.flush(frames.words(child(link)));
                }
                // The child's words come before the link that publishes them.
                word.store(with_more(link, below), Release);
                if new && flush && !fresh {
                    frames.flush(core::slice::from_ref(word));
                }
                added += u16::from(new);
            }
            at = stop;
        }
        added
    }
}
