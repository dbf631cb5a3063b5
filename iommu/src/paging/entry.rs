//! The words of one table: indices, counts in links, and whole runs of entries at a time.
//!
//! The loops over runs go sixteen words at a time because each word is an atomic, which a compiler neither joins nor
//! unrolls by itself.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::format::{ADDRESS, LARGE};
use crate::address::HostPhysical;

/// The words of one frame.
pub(super) type Words = [AtomicU64; 512];

/// The entries of a table.
pub(super) const ENTRIES: u16 = 512;

/// Where a link keeps the number of present entries of its table: bits 61:52, ignored by hardware.
const COUNT_SHIFT: u32 = 52;
const COUNT: u64 = 0x3ff << COUNT_SHIFT;

/// The bits below the part of an address that `level` resolves.
pub(super) const fn shift(level: u8) -> u32 {
    12 + 9 * (level as u32 - 1)
}

/// The bytes that one entry at `level` covers.
pub(super) const fn size(level: u8) -> u64 {
    1 << shift(level)
}

/// Which entry at `level` covers `address`; 0 to 511.
pub(super) const fn index(address: u64, level: u8) -> usize {
    (address >> shift(level)) as usize & 511
}

/// Where the entry at `level` that covers `address` ends.
pub(super) const fn entry_end(address: u64, level: u8) -> u64 {
    (address | (size(level) - 1)) + 1
}

/// Whether an entry above level 1 links a table. Links grant reading, in every format by bit 0.
pub(super) const fn is_link(entry: u64) -> bool {
    entry & (LARGE | 1) == 1
}

/// The table that a link names.
pub(super) const fn child(link: u64) -> HostPhysical {
    HostPhysical::new(link & ADDRESS)
}

/// Where a leaf at `level` points.
pub(super) const fn output(leaf: u64, level: u8) -> u64 {
    leaf & ADDRESS & !(size(level) - 1)
}

/// How many entries of its table are present, as a link says.
pub(super) const fn count(link: u64) -> u16 {
    ((link & COUNT) >> COUNT_SHIFT) as u16
}

/// The link with another count.
pub(super) const fn with_count(link: u64, count: u16) -> u64 {
    link & !COUNT | (count as u64) << COUNT_SHIFT
}

/// The link with `added` more present entries; the table has room for them.
pub(super) const fn with_more(link: u64, added: u16) -> u64 {
    link.wrapping_add((added as u64) << COUNT_SHIFT)
}

/// The part of a table for the entries from that of `start` up to, not with, that of `end`; both lie in this table
/// or `end` is its end.
pub(super) fn run(words: &Words, level: u8, start: u64, end: u64) -> &[AtomicU64] {
    let first = index(start, level);
    let length = ((end - start) >> shift(level)) as usize;
    words.get(first..first + length).unwrap_or(&[])
}

/// Stores `first`, `first + step`, ... .
#[inline(always)]
pub(super) fn fill(run: &[AtomicU64], first: u64, step: u64) {
    match run {
        [word] => word.store(first, Relaxed),
        _ => fill_many(run, first, step),
    }
}

#[inline(never)]
fn fill_many(run: &[AtomicU64], first: u64, step: u64) {
    fold(run, first, |entry, word| {
        word.store(entry, Relaxed);
        entry.wrapping_add(step)
    });
}

/// Stores "not present" everywhere.
#[inline(always)]
pub(super) fn clear(run: &[AtomicU64]) {
    match run {
        [word] => word.store(0, Relaxed),
        _ => clear_many(run),
    }
}

#[inline(never)]
fn clear_many(run: &[AtomicU64]) {
    fold(run, (), |(), word| word.store(0, Relaxed));
}

/// How many words are not zero.
#[inline(never)]
pub(super) fn count_present(run: &[AtomicU64]) -> u16 {
    fold(run, 0, |present, word| present + u16::from(word.load(Relaxed) != 0))
}

/// Whether every word is zero.
#[inline(always)]
pub(super) fn is_empty(run: &[AtomicU64]) -> bool {
    match run {
        [word] => word.load(Relaxed) == 0,
        _ => is_empty_many(run),
    }
}

#[inline(never)]
fn is_empty_many(run: &[AtomicU64]) -> bool {
    fold(run, 0, |any, word| any | word.load(Relaxed)) == 0
}

/// The bits that every word has. Cheaper than [`count_present`], and as good where the answer is not zero: no word
/// is.
#[inline(always)]
pub(super) fn common_bits(run: &[AtomicU64]) -> u64 {
    match run {
        [word] => word.load(Relaxed),
        _ => common_bits_many(run),
    }
}

#[inline(never)]
fn common_bits_many(run: &[AtomicU64]) -> u64 {
    fold(run, u64::MAX, |all, word| all & word.load(Relaxed))
}

/// Folds the words, in chunks of sixteen.
#[inline(always)]
fn fold<T>(run: &[AtomicU64], start: T, mut each: impl FnMut(T, &AtomicU64) -> T) -> T {
    let mut value = start;
    let (chunks, rest) = run.as_chunks::<16>();
    for chunk in chunks {
        for word in chunk {
            value = each(value, word);
        }
    }
    for word in rest {
        value = each(value, word);
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn words(values: impl IntoIterator<Item = u64>) -> Vec<AtomicU64> {
        values.into_iter().map(AtomicU64::new).collect()
    }

    #[test]
    fn runs_of_every_length_are_filled_counted_and_cleared_to_their_last_word() {
        for length in 0..40 {
            let run = words((0..length + 1).map(|_| 0));
            let (part, beyond) = run.split_at(length as usize);
            assert!(is_empty(part));
            fill(part, 0x1003, 0x1000);
            for (place, word) in part.iter().enumerate() {
                assert_eq!(word.load(Relaxed), 0x1003 + 0x1000 * place as u64);
            }
            assert_eq!(beyond[0].load(Relaxed), 0, "the word behind the run changed");
            assert_eq!(count_present(part), length as u16);
            assert_eq!(is_empty(part), length == 0);
            assert_ne!(common_bits(part) & 3, 0);
            clear(part);
            assert_eq!(count_present(part), 0);
        }
    }

    #[test]
    fn one_word_anywhere_is_seen() {
        for place in 0..20 {
            let run = words((0..20).map(|at| u64::from(at == place) << 40));
            assert!(!is_empty(&run));
            assert_eq!(count_present(&run), 1);
            assert_eq!(common_bits(&run), 0);
        }
    }

    #[test]
    fn a_count_lives_in_bits_61_to_52_alone() {
        for present in [0, 1, 511, 512] {
            let link = with_count(0xffff_ffff_ffff_ffff, present);
            assert_eq!(count(link), present);
            assert_eq!(link & !(0x3ff << 52), 0xc00f_ffff_ffff_ffff);
            assert_eq!(child(link), HostPhysical::new(0xf_ffff_ffff_f000));
        }
    }

    #[test]
    fn indices_and_ends_follow_nine_bits_a_level() {
        let address = (3 << 48) | (5 << 39) | (7 << 30) | (11 << 21) | (13 << 12);
        assert_eq!([5, 4, 3, 2, 1].map(|level| index(address, level)), [3, 5, 7, 11, 13]);
        assert_eq!(entry_end(address, 1), address + 0x1000);
        assert_eq!(entry_end(0x20_0000, 2), 0x40_0000);
        assert_eq!(output(0x8000_0000_4020_1087, 2), 0x4020_0000);
    }
}
