//! Asking a table: what an address means, what is mapped around it, everything there is.

use core::fmt;
use core::sync::atomic::Ordering::Relaxed;

use super::attributes::Attributes;
use super::entry::{child, entry_end, index, output, size};
use super::format::{Format, LARGE};
use super::table::Table;
use crate::address::HostPhysical;
use crate::door::Frames;

/// A piece of translation: one leaf, or leaves that continue each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The first input address.
    pub input: u64,
    /// Where it points.
    pub output: HostPhysical,
    /// How many bytes.
    pub length: u64,
    /// What else the leaves say.
    pub attributes: Attributes,
}

impl Mapping {
    /// The first input address behind it.
    pub fn end(&self) -> u64 {
        self.input + self.length
    }

    fn is_continued_by(&self, next: &Self) -> bool {
        next.input == self.end()
            && next.output.as_u64() == self.output.as_u64() + self.length
            && next.attributes == self.attributes
    }
}

impl fmt::Display for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = self.input + (self.length - 1);
        write!(f, "{:#x}..{last:#x} -> {} {}", self.input, self.output, self.attributes.permissions)?;
        match self.attributes.memory_type {
            super::MemoryType::WriteBack => Ok(()),
            super::MemoryType::Uncached => f.write_str(" uncached"),
        }
    }
}

/// The leaves around an address; see [`Table::nearest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nearest {
    /// The leaf that maps the address.
    pub at: Option<Mapping>,
    /// The last leaf that ends at or below the address.
    pub below: Option<Mapping>,
    /// The first leaf that starts above the address.
    pub above: Option<Mapping>,
}

impl<F: Format, M: Frames> Table<F, M> {
    /// The leaf that maps `input`.
    pub fn lookup(&self, input: u64) -> Option<Mapping> {
        self.first_from(input).filter(|leaf| leaf.input <= input)
    }

    /// What is mapped at `input` and nearest to it on both sides; for reports of faults. Bounded work: a few tables
    /// are searched, whatever the size of the whole.
    pub fn nearest(&self, input: u64) -> Nearest {
        let at = self.lookup(input);
        let (start, end) = match at {
            Some(leaf) => (leaf.input, Some(leaf.end())),
            None => (input, Some(input)),
        };
        Nearest { at, below: self.last_below(start), above: end.and_then(|end| self.first_from(end)) }
    }

    /// Everything that is mapped, in order, as the longest runs of one attribute that continue each other.
    pub fn runs(&self) -> Runs<'_, F, M> {
        self.runs_from(0)
    }

    /// As [`runs`](Self::runs), starting with the leaf that maps `input` or the next one.
    pub fn runs_from(&self, input: u64) -> Runs<'_, F, M> {
        Runs { table: self, next: self.first_from(input) }
    }

    /// The leaf that maps `input`, or the next above.
    fn first_from(&self, input: u64) -> Option<Mapping> {
        if input >> self.shape.input_bits != 0 {
            return None;
        }
        self.first_in(self.root, self.levels(), 0, input)
    }

    /// The first leaf that ends behind `from`, in the table at `level` whose first entry covers `base`.
    fn first_in(&self, table: HostPhysical, level: u8, base: u64, from: u64) -> Option<Mapping> {
        let words = self.frames.words(table);
        let first = if from > base { index(from, level) } else { 0 };
        (first..words.len()).find_map(|place| {
            let entry = words[place].load(Relaxed);
            let input = base + ((place as u64) << super::entry::shift(level));
            match self.leaf(level, input, entry) {
                None if entry != 0 => self.first_in(child(entry), level - 1, input, from),
                leaf => leaf,
            }
        })
    }

    /// The last leaf that starts below `bound`.
    fn last_below(&self, bound: u64) -> Option<Mapping> {
        let last = bound.checked_sub(1)?.min((1 << self.shape.input_bits) - 1);
        self.last_in(self.root, self.levels(), 0, last)
    }

    /// The last leaf that starts at or below `last`, in the table at `level` whose first entry covers `base`.
    fn last_in(&self, table: HostPhysical, level: u8, base: u64, last: u64) -> Option<Mapping> {
        let words = self.frames.words(table);
        let from = if last < entry_end(base, level + 1) { index(last, level) } else { words.len() - 1 };
        (0..=from).rev().find_map(|place| {
            let entry = words[place].load(Relaxed);
            let input = base + ((place as u64) << super::entry::shift(level));
            match self.leaf(level, input, entry) {
                None if entry != 0 => self.last_in(child(entry), level - 1, input, last),
                leaf => leaf,
            }
        })
    }

    fn leaf(&self, level: u8, input: u64, entry: u64) -> Option<Mapping> {
        (entry & F::PRESENT != 0 && (level == 1 || entry & LARGE != 0)).then(|| Mapping {
            input,
            output: HostPhysical::new(output(entry, level)),
            length: size(level),
            attributes: self.format.attributes(level, entry),
        })
    }
}

/// The runs of a table; see [`Table::runs`].
pub struct Runs<'a, F: Format, M: Frames> {
    table: &'a Table<F, M>,
    next: Option<Mapping>,
}

impl<F: Format, M: Frames> Iterator for Runs<'_, F, M> {
    type Item = Mapping;

    fn next(&mut self) -> Option<Mapping> {
        let mut run = self.next.take()?;
        loop {
            match self.table.first_from(run.end()) {
                Some(next) if run.is_continued_by(&next) => run.length += next.length,
                next => {
                    self.next = next;
                    return Some(run);
                }
            }
        }
    }
}
