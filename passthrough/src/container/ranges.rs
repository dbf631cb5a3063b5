//! The device addresses that a container may map.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::RangeInclusive;

/// First and last address of the window in which a write is an interrupt message (SDM volume 3 section 12.11.1).
pub const INTERRUPT_WINDOW: RangeInclusive<u64> = 0xfee0_0000..=0xfeef_ffff;

/// Sorted ranges that do not touch the reserved ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UsableRanges(Vec<RangeInclusive<u64>>);

impl UsableRanges {
    /// Everything but the interrupt window.
    pub(super) fn new() -> Self {
        let mut ranges = Self(vec![0..=u64::MAX]);
        ranges.exclude(&INTERRUPT_WINDOW);
        ranges
    }

    /// Takes a range out.
    pub(super) fn exclude(&mut self, hole: &RangeInclusive<u64>) {
        if hole.is_empty() {
            return;
        }
        let mut left = Vec::with_capacity(self.0.len().saturating_add(1));
        for range in &self.0 {
            if range.end() < hole.start() || hole.end() < range.start() {
                left.push(range.clone());
                continue;
            }
            if let Some(last) = hole.start().checked_sub(1)
                && last >= *range.start()
            {
                left.push(*range.start()..=last);
            }
            if let Some(first) = hole.end().checked_add(1)
                && first <= *range.end()
            {
                left.push(first..=*range.end());
            }
        }
        self.0 = left;
    }

    /// Takes out everything behind `last`.
    pub(super) fn end_at(&mut self, last: u64) {
        if let Some(first) = last.checked_add(1) {
            self.exclude(&(first..=u64::MAX));
        }
    }

    /// Whether one range holds all of this one.
    pub(super) fn contain(&self, range: &RangeInclusive<u64>) -> bool {
        self.0.iter().any(|usable| usable.contains(range.start()) && usable.contains(range.end()))
    }

    pub(super) fn as_slice(&self) -> &[RangeInclusive<u64>] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interrupt_window_is_a_hole() {
        let ranges = UsableRanges::new();
        assert_eq!(ranges.as_slice(), [0..=0xfedf_ffff, 0xfef0_0000..=u64::MAX]);
        assert!(ranges.contain(&(0..=0xfedf_ffff)));
        assert!(!ranges.contain(&(0..=0xfee0_0000)));
        assert!(!ranges.contain(&(0xfedf_f000..=0xfef0_0000)), "both ends usable, the middle not");
    }

    #[test]
    fn holes_at_both_ends_and_over_everything() {
        let mut ranges = UsableRanges::new();
        ranges.exclude(&(0..=0xfff));
        ranges.end_at((1 << 39) - 1);
        assert_eq!(ranges.as_slice(), [0x1000..=0xfedf_ffff, 0xfef0_0000..=(1 << 39) - 1]);
        ranges.end_at(u64::MAX);
        assert_eq!(ranges.as_slice().len(), 2);
        ranges.exclude(&(0..=u64::MAX));
        assert!(ranges.as_slice().is_empty());
    }
}
