//! What a change leaves to do: a range to invalidate, and tables that nobody may reuse before that.

use core::ops::Range;
use core::sync::atomic::Ordering::Relaxed;

use crate::address::HostPhysical;
use crate::door::Frames;

/// The consequence of an unmap or a change of permissions.
///
/// First invalidate [`range`](Self::range) in every reader, then hand this to
/// [`Table::release`](super::Table::release). Dropped instead, it keeps its frames from ever being used again: a leak,
/// never a table that hardware walks while somebody else writes to it.
#[must_use = "invalidate the range, then give this to Table::release, or the unlinked tables are lost"]
#[derive(Debug)]
pub struct Gathered {
    /// Unlinked tables in a chain through their first words. The link has bits 11:0 clear, so a reader that still
    /// walks such a table finds an absent entry there.
    first: HostPhysical,
    last: HostPhysical,
    tables: u64,
    start: u64,
    end: u64,
    bytes: u64,
    links_changed: bool,
}

impl Gathered {
    pub(super) const fn new() -> Self {
        let none = HostPhysical::new(0);
        Self { first: none, last: none, tables: 0, start: u64::MAX, end: 0, bytes: 0, links_changed: false }
    }

    /// All of `[start, end)` was unmapped, by leaves alone.
    #[inline(always)]
    pub(super) const fn leaves(start: u64, end: u64) -> Self {
        Self { start, end, bytes: end - start, ..Self::new() }
    }

    /// The input addresses whose translation readers may have cached and must forget. Empty when nothing changed.
    /// It covers the whole of every large page that was split.
    pub fn range(&self) -> Range<u64> {
        self.start.min(self.end)..self.end
    }

    /// Whether no translation changed: nothing to invalidate.
    pub fn is_empty(&self) -> bool {
        self.end == 0
    }

    /// How many bytes were unmapped, or given other permissions.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether links to tables changed, so that readers must forget cached links too (VT-d: IH = 0).
    pub fn links_changed(&self) -> bool {
        self.links_changed
    }

    /// How many tables wait for their release.
    pub fn tables(&self) -> u64 {
        self.tables
    }

    /// Both at once: one invalidation of the joint range serves several changes of one table.
    pub fn merge(&mut self, other: Self, frames: &impl Frames) {
        if other.tables > 0 {
            if self.tables > 0 {
                frames.words(other.last)[0].store(self.first.as_u64(), Relaxed);
            } else {
                self.last = other.last;
            }
            self.first = other.first;
            self.tables += other.tables;
        }
        self.start = self.start.min(other.start);
        self.end = self.end.max(other.end);
        self.bytes += other.bytes;
        self.links_changed |= other.links_changed;
    }

    /// Translations of `[start, end)` changed.
    pub(super) fn touch(&mut self, start: u64, end: u64) {
        self.start = self.start.min(start);
        self.end = self.end.max(end);
    }

    /// `bytes` more were changed.
    pub(super) fn add_bytes(&mut self, bytes: u64) {
        self.bytes += bytes;
    }

    /// A leaf became a link.
    pub(super) fn split(&mut self, start: u64, end: u64) {
        self.touch(start, end);
        self.links_changed = true;
    }

    /// Takes a table that was just unlinked. Its words are not needed any more.
    pub(super) fn push(&mut self, table: HostPhysical, frames: &impl Frames) {
        frames.words(table)[0].store(self.first.as_u64(), Relaxed);
        if self.tables == 0 {
            self.last = table;
        }
        self.first = table;
        self.tables += 1;
        self.links_changed = true;
    }

    pub(super) fn free_all(self, frames: &impl Frames) {
        let mut table = self.first;
        for _ in 0..self.tables {
            let next = HostPhysical::new(frames.words(table)[0].load(Relaxed));
            frames.free(table, 1);
            table = next;
        }
    }
}
