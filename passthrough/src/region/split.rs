//! Accesses of any size and place as naturally aligned ones.

use crate::door::Width;

/// The naturally aligned accesses, the widest that fit, that `length` bytes at `offset` consist of: each with its
/// offset, its distance from the start, and its width. None reaches past the end of the address space.
pub(crate) fn aligned_parts(offset: u64, length: u64) -> impl Iterator<Item = (u64, u64, Width)> {
    let mut done = 0;
    core::iter::from_fn(move || {
        let at = offset.checked_add(done)?;
        let left = length.checked_sub(done).filter(|&left| left > 0)?;
        let width = [Width::Quad, Width::Double, Width::Word, Width::Byte]
            .into_iter()
            .find(|width| width.bytes() <= left && at.is_multiple_of(width.bytes()))?;
        let part = (at, done, width);
        done = done.checked_add(width.bytes())?;
        Some(part)
    })
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    #[test]
    fn parts_cover_every_byte_once_and_are_aligned() {
        for offset in 0..24 {
            for length in 0..24 {
                let mut next = offset;
                for (at, distance, width) in aligned_parts(offset, length) {
                    assert_eq!(at, next);
                    assert_eq!(distance, at - offset);
                    assert!(at.is_multiple_of(width.bytes()));
                    next += width.bytes();
                }
                assert_eq!(next, offset + length);
            }
        }
        let parts: Vec<_> = aligned_parts(3, 8).map(|(at, _, width)| (at, width)).collect();
        assert_eq!(parts, [(3, Width::Byte), (4, Width::Double), (8, Width::Word), (10, Width::Byte)]);
        assert_eq!(aligned_parts(u64::MAX, 4).count(), 1);
    }
}
