//! How guest RAM is cut: into the largest aligned blocks that the machine has, and at the edges of ROM.

use core::ops::Range;

use iommu::address::{HostPhysical, PAGE_SIZE};

use super::{Access, GuestBlock};

/// The largest block that makes sense: the largest page.
const LARGEST: u64 = 1 << 30;

/// Takes the largest block for guest addresses from `at` on, at most up to `end`, that `allocate(frames, align)` has:
/// a power of two of bytes, aligned to its size on both sides, so that the largest pages map it.
///
/// # Errors
///
/// The allocator's refusal of a single page.
pub(super) fn take<E>(
    at: u64,
    end: u64,
    mut allocate: impl FnMut(usize, u64) -> Result<HostPhysical, E>,
) -> Result<(HostPhysical, u64), E> {
    let mut size = LARGEST;
    while size > PAGE_SIZE && (at & (size - 1) != 0 || end - at < size) {
        size /= 2;
    }
    loop {
        match allocate((size / PAGE_SIZE) as usize, size) {
            Ok(host) => return Ok((host, size)),
            Err(error) if size == PAGE_SIZE => return Err(error),
            Err(_) => size /= 2,
        }
    }
}

/// The pieces of `range` by whether they lie in `rom`, in order.
pub(super) fn cut(range: Range<u64>, rom: &[Range<u64>]) -> impl Iterator<Item = (Range<u64>, Access)> {
    let mut at = range.start;
    core::iter::from_fn(move || {
        if at >= range.end {
            return None;
        }
        let inside = rom.iter().find(|rom| rom.contains(&at));
        let (stop, access) = match inside {
            Some(rom) => (rom.end, Access::ReadOnly),
            None => {
                let next = rom.iter().map(|rom| rom.start).filter(|start| *start > at).min();
                (next.unwrap_or(range.end), Access::ReadWrite)
            }
        };
        let piece = at..stop.min(range.end);
        at = piece.end;
        Some((piece, access))
    })
}

/// Makes `first` cover `next` too where `next` continues it on both sides; whether it did.
pub(super) fn join(next: &mut GuestBlock, first: &mut GuestBlock) -> bool {
    let continues = first.access == next.access
        && first.end() == next.guest.as_u64()
        && first.host.checked_add(first.length) == Some(next.host);
    if continues {
        first.length += next.length;
    }
    continues
}

#[cfg(test)]
mod tests {
    use core::slice::from_ref;

    use super::*;

    const LARGE: u64 = 1 << 21;

    #[test]
    fn the_largest_block_that_alignment_end_and_machine_allow_is_taken() {
        let give_all = |_, _| Ok::<_, ()>(HostPhysical::new(0));
        assert_eq!(take(0, 5 << 30, give_all).unwrap().1, 1 << 30);
        assert_eq!(take(LARGE, 5 << 30, give_all).unwrap().1, LARGE);
        assert_eq!(take(0, 3 * LARGE, give_all).unwrap().1, 2 * LARGE);
        assert_eq!(take(4096, LARGE, give_all).unwrap().1, 4096);
        let mut asked = Vec::new();
        let fragmented = |count: usize, align| {
            asked.push((count, align));
            (align <= LARGE).then_some(HostPhysical::new(0)).ok_or(())
        };
        assert_eq!(take(0, 1 << 23, fragmented).unwrap().1, LARGE);
        assert_eq!(asked, [(2048, 1 << 23), (1024, 1 << 22), (512, LARGE)]);
        assert_eq!(take(0, LARGE, |_, _| Err("none")), Err("none"));
    }

    #[test]
    fn rom_is_cut_out_wherever_it_begins_and_ends() {
        let pieces = |range, rom: &[Range<u64>]| cut(range, rom).collect::<Vec<_>>();
        use Access::{ReadOnly, ReadWrite};
        assert_eq!(pieces(0..100, &[]), [(0..100, ReadWrite)]);
        assert_eq!(pieces(0..100, from_ref(&(20..30))), [(0..20, ReadWrite), (20..30, ReadOnly), (30..100, ReadWrite)]);
        assert_eq!(pieces(25..100, &[90..200, 20..30]), [(25..30, ReadOnly), (30..90, ReadWrite), (90..100, ReadOnly)]);
        assert_eq!(pieces(0..100, from_ref(&(200..300))), [(0..100, ReadWrite)]);
    }
}
