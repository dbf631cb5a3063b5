//! The table as an object: made empty, owns every frame below its root, gives all of them back at its end.

use core::fmt;
use core::sync::atomic::Ordering::Relaxed;

use super::entry::{self, child};
use super::error::{BuildError, RangeError};
use super::format::{Format, LARGE};
use super::gathered::Gathered;
use super::recent::Recent;
use super::shape::{Coherence, PageSizes, Shape};
use crate::address::{HostPhysical, PAGE_SIZE};
use crate::door::Frames;

/// A whole translation from input addresses to host-physical ones, in the entries of `F` and the frames of `M`.
///
/// Hardware may walk it from the moment that its [`root`](Self::root) is programmed; see the
/// [module](crate::paging) for what it may see. Dropping the table frees its frames: before that, the caller takes
/// the root away from every reader and invalidates what they cached.
pub struct Table<F: Format, M: Frames> {
    pub(super) format: F,
    pub(super) frames: M,
    pub(super) shape: Shape,
    pub(super) root: HostPhysical,
    /// The bits below what the root resolves.
    pub(super) top_shift: u32,
    /// How many entries of the root are present.
    pub(super) present: u16,
    /// Where the last translation ended.
    pub(super) recent: Recent,
}

impl<F: Format, M: Frames> Table<F, M> {
    /// An empty table: its root, which translates nothing. Takes one frame.
    pub fn new(format: F, frames: M, shape: Shape) -> Result<Self, BuildError> {
        if shape.levels < F::LEAST_LEVELS {
            return Err(BuildError::Levels { levels: shape.levels, format: F::NAME });
        }
        if shape.input_bits < 13 || shape.output_bits < 13 || shape.output_bits > 52 {
            return Err(BuildError::Width { input_bits: shape.input_bits, output_bits: shape.output_bits });
        }
        let usable = shape.levels.bits() - u8::from(F::CANONICAL);
        // Splitting a 1 GiB page gives 2 MiB pages: a reader without those gets neither.
        let page_sizes =
            if shape.page_sizes.contains(PageSizes::TWO_MEBIBYTES) { shape.page_sizes } else { PageSizes::empty() };
        let shape = Shape { input_bits: shape.input_bits.min(usable), page_sizes, ..shape };
        let root = frames.allocate(1)?;
        if shape.coherence == Coherence::NeedsFlush {
            frames.flush(frames.words(root));
        }
        let top_shift = entry::shift(shape.levels.count());
        Ok(Self { format, frames, shape, root, top_shift, present: 0, recent: Recent::new() })
    }

    /// The root's frame, for the context entry, EPTP or nested CR3. It stays the same for the table's life.
    pub fn root(&self) -> HostPhysical {
        self.root
    }

    /// The facts that the table was made with; `input_bits` is what is usable after levels and format bounded it.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The entry format.
    pub fn format(&self) -> F {
        self.format
    }

    /// Where the table's frames come from.
    pub fn frames(&self) -> &M {
        &self.frames
    }

    /// Whether nothing is mapped.
    pub fn is_empty(&self) -> bool {
        self.present == 0
    }

    /// Frees the tables that a change unlinked.
    ///
    /// The caller has invalidated [`Gathered::range`], cached links included (VT-d: IH = 0), in every reader, and
    /// waited for it: after this call the frames are somebody else's.
    pub fn release(&self, gathered: Gathered) {
        gathered.free_all(&self.frames);
    }

    /// How many frames the table holds, root included.
    pub fn frame_count(&self) -> u64 {
        let mut tables = 0;
        self.for_each_table(self.root, self.levels(), &mut |_| tables += 1);
        tables
    }

    pub(super) fn levels(&self) -> u8 {
        self.shape.levels.count()
    }

    pub(super) fn needs_flush(&self) -> bool {
        self.shape.coherence == Coherence::NeedsFlush
    }

    /// The end of the range, if this table can hold it.
    pub(super) fn check_range(&self, start: u64, length: u64) -> Result<u64, RangeError> {
        if length == 0 {
            return Err(RangeError::Empty { start });
        }
        if (start | length) & (PAGE_SIZE - 1) != 0 {
            return Err(RangeError::Misaligned { start, length });
        }
        let bits = self.shape.input_bits;
        match start.checked_add(length) {
            Some(end) if end <= 1 << bits => Ok(end),
            _ => Err(RangeError::TooFar { start, length, bits }),
        }
    }

    /// Calls `each` with every table from `table` down, children before their parents.
    fn for_each_table(&self, table: HostPhysical, level: u8, each: &mut impl FnMut(HostPhysical)) {
        if level > 1 {
            for word in self.frames.words(table) {
                let link = word.load(Relaxed);
                if link != 0 && link & LARGE == 0 {
                    self.for_each_table(child(link), level - 1, each);
                }
            }
        }
        each(table);
    }

    /// Asserts the module's invariants; for tests.
    #[cfg(test)]
    pub(super) fn assert_sound(&self) {
        self.assert_sound_below(self.root, self.levels(), self.present);
    }

    #[cfg(test)]
    fn assert_sound_below(&self, table: HostPhysical, level: u8, expected: u16) {
        let words = self.frames.words(table);
        assert_eq!(entry::count_present(words), expected, "wrong count of a table at level {level}");
        for word in words {
            let link = word.load(Relaxed);
            if level > 1 && link != 0 && link & LARGE == 0 {
                assert!(entry::count(link) > 0, "an empty table is linked at level {level}");
                self.assert_sound_below(child(link), level - 1, entry::count(link));
            }
        }
    }
}

impl<F: Format, M: Frames> Drop for Table<F, M> {
    fn drop(&mut self) {
        self.for_each_table(self.root, self.levels(), &mut |table| self.frames.free(table, 1));
    }
}

/// The runs of the table, one a line.
impl<F: Format, M: Frames> fmt::Display for Table<F, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} table of {} levels at {}", F::NAME, self.levels(), self.root)?;
        self.runs().try_for_each(|run| writeln!(f, "  {run}"))
    }
}

impl<F: Format, M: Frames> fmt::Debug for Table<F, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
