//! From firmware's memory map to the kernel's (UEFI specification, section 7.2, `EFI_MEMORY_TYPE`).
//!
//! Firmware's entries come in any order and, on bad firmware, overlap. The kernel gets them sorted, disjoint and
//! merged; where two overlap, the kind that allows less wins. Nothing here allocates: it runs after the boot services
//! have ended.

use handoff::{MemoryKind, MemoryRegion};

use crate::PAGE_SIZE;

/// The first address that no x86-64 processor has.
const PHYSICAL_LIMIT: u64 = 1 << 52;

/// The output is too short for the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyRegions;

/// What firmware's memory type means once the boot services have ended.
pub const fn kind_of(memory_type: u32) -> MemoryKind {
    match memory_type {
        // Loader code and data.
        1 | 2 => MemoryKind::Loader,
        // Boot services code and data, conventional memory.
        3 | 4 | 7 => MemoryKind::Usable,
        // Runtime services code and data, ACPI NVS.
        5 | 6 | 10 => MemoryKind::Firmware,
        9 => MemoryKind::AcpiTables,
        11 | 12 => MemoryKind::Mmio,
        // Reserved, unusable, PAL code, persistent, unaccepted, and what a later specification may add.
        _ => MemoryKind::Reserved,
    }
}

/// A region of whole pages; `None` where nothing of it can exist. Memory is rounded inwards, the rest outwards.
pub fn region(start: u64, pages: u64, kind: MemoryKind) -> Option<MemoryRegion> {
    let end = pages.checked_mul(PAGE_SIZE).and_then(|length| start.checked_add(length)).unwrap_or(u64::MAX);
    let end = end.min(PHYSICAL_LIMIT);
    let (start, end) = match kind {
        MemoryKind::Usable => (start.checked_next_multiple_of(PAGE_SIZE)?, end / PAGE_SIZE * PAGE_SIZE),
        _ => (start / PAGE_SIZE * PAGE_SIZE, end.checked_next_multiple_of(PAGE_SIZE)?),
    };
    let length = end.checked_sub(start).filter(|length| *length != 0)?;
    Some(MemoryRegion { start, length, kind: kind as u32, reserved: 0 })
}

/// Writes the kernel's map of `entries` to `out` and returns how many regions it has. Takes time in the square of the
/// number of entries, of which firmware has a few hundred.
///
/// # Errors
///
/// [`TooManyRegions`] if `out` is too short; twice the number of entries is always enough.
pub fn normalize(entries: &[MemoryRegion], out: &mut [MemoryRegion]) -> Result<usize, TooManyRegions> {
    let mut count: usize = 0;
    let mut cursor = 0;
    // Each step moves the cursor to the next edge of an entry, so there are at most twice as many steps as entries.
    while let Some(edge) =
        entries.iter().flat_map(|entry| [entry.start, end(entry)]).filter(|edge| *edge > cursor).min()
    {
        let covering = entries.iter().filter(|entry| (entry.start..end(entry)).contains(&cursor));
        if let Some(kind) = covering.map(|entry| entry.kind).max_by_key(|kind| rank(*kind)) {
            let last = count.checked_sub(1).and_then(|last| out.get_mut(last));
            match last {
                Some(last) if last.kind == kind && end(last) == cursor => last.length = edge.saturating_sub(last.start),
                _ => {
                    let slot = out.get_mut(count).ok_or(TooManyRegions)?;
                    *slot = MemoryRegion { start: cursor, length: edge.saturating_sub(cursor), kind, reserved: 0 };
                    count = count.saturating_add(1);
                }
            }
        }
        cursor = edge;
    }
    Ok(count)
}

/// The first address behind the last RAM, of whatever use.
pub fn end_of_ram(entries: &[MemoryRegion]) -> u64 {
    let is_ram = |entry: &&MemoryRegion| {
        !matches!(MemoryKind::from_number(entry.kind), Some(MemoryKind::Mmio | MemoryKind::Reserved) | None)
    };
    entries.iter().filter(is_ram).map(end).max().unwrap_or(0)
}

fn end(region: &MemoryRegion) -> u64 {
    region.start.saturating_add(region.length)
}

/// The kinds by how little may be done with them; what is no kind allows least.
fn rank(kind: u32) -> u32 {
    match MemoryKind::from_number(kind) {
        Some(MemoryKind::Usable) => 0,
        Some(MemoryKind::Loader) => 1,
        Some(MemoryKind::Kernel) => 2,
        Some(MemoryKind::AcpiTables) => 3,
        Some(MemoryKind::Firmware) => 4,
        Some(MemoryKind::Mmio) => 5,
        Some(MemoryKind::Reserved) => 6,
        None => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    const EMPTY: MemoryRegion = MemoryRegion { start: 0, length: 0, kind: 0, reserved: 0 };

    fn entry(first: u64, pages: u64, kind: MemoryKind) -> MemoryRegion {
        region(first * PAGE_SIZE, pages, kind).unwrap()
    }

    fn normalized(entries: &[MemoryRegion]) -> Vec<(u64, u64, MemoryKind)> {
        let mut out = vec![EMPTY; entries.len() * 2];
        let count = normalize(entries, &mut out).unwrap();
        out[..count]
            .iter()
            .map(|region| {
                (region.start / PAGE_SIZE, region.length / PAGE_SIZE, MemoryKind::from_number(region.kind).unwrap())
            })
            .collect()
    }

    #[test]
    fn entries_are_sorted_and_merged() {
        let entries = [
            entry(16, 4, MemoryKind::Usable),
            entry(0, 8, MemoryKind::Usable),
            entry(8, 2, MemoryKind::Usable),
            entry(10, 1, MemoryKind::Firmware),
        ];
        let expected = [(0, 10, MemoryKind::Usable), (10, 1, MemoryKind::Firmware), (16, 4, MemoryKind::Usable)];
        assert_eq!(normalized(&entries), expected);
    }

    #[test]
    fn the_kernel_is_cut_out_of_the_loaders_memory() {
        let entries = [entry(0, 8, MemoryKind::Loader), entry(2, 3, MemoryKind::Kernel)];
        let expected = [(0, 2, MemoryKind::Loader), (2, 3, MemoryKind::Kernel), (5, 3, MemoryKind::Loader)];
        assert_eq!(normalized(&entries), expected);
    }

    #[test]
    fn regions_are_whole_pages_that_exist() {
        let at = |start, pages, kind| region(start, pages, kind).map(|region| (region.start, region.length));
        assert_eq!(at(0x800, 2, MemoryKind::Usable), Some((0x1000, 0x1000)));
        assert_eq!(at(0x800, 2, MemoryKind::Firmware), Some((0, 0x3000)));
        assert_eq!(at(0x1000, 0, MemoryKind::Firmware), None);
        assert_eq!(at(0x1000, u64::MAX, MemoryKind::Mmio), Some((0x1000, PHYSICAL_LIMIT - 0x1000)));
        assert_eq!(at(u64::MAX, 1, MemoryKind::Usable), None);
        assert_eq!(at(PHYSICAL_LIMIT, 1, MemoryKind::Mmio), None);
    }

    #[test]
    fn a_short_output_is_an_error() {
        let entries = [entry(0, 1, MemoryKind::Usable), entry(2, 1, MemoryKind::Usable)];
        assert_eq!(normalize(&entries, &mut [EMPTY; 1]), Err(TooManyRegions));
    }

    #[test]
    fn ram_ends_before_what_is_no_ram() {
        let entries = [
            entry(0, 8, MemoryKind::Usable),
            entry(8, 2, MemoryKind::AcpiTables),
            entry(100, 8, MemoryKind::Mmio),
            entry(200, 8, MemoryKind::Reserved),
        ];
        assert_eq!(end_of_ram(&entries), 10 * PAGE_SIZE);
    }

    proptest! {
        /// Page by page, the result is the least permissive entry that covers the page.
        #[test]
        fn every_page_has_the_kind_that_allows_least(
            raw in proptest::collection::vec((0u64..64, 1u64..32, 1u32..8), 0..12)
        ) {
            let entries: Vec<_> = raw
                .iter()
                .map(|&(first, pages, kind)| entry(first, pages, MemoryKind::from_number(kind).unwrap()))
                .collect();
            let result = normalized(&entries);
            for page in 0..100 {
                let expected = raw
                    .iter()
                    .filter(|(first, pages, _)| (*first..first + pages).contains(&page))
                    .map(|(_, _, kind)| *kind)
                    .max_by_key(|kind| rank(*kind));
                let found: Vec<_> =
                    result.iter().filter(|(first, pages, _)| (*first..first + pages).contains(&page)).collect();
                prop_assert!(found.len() <= 1);
                prop_assert_eq!(found.first().map(|(_, _, kind)| *kind as u32), expected);
            }
            for (before, after) in result.iter().zip(result.iter().skip(1)) {
                prop_assert!(before.0 + before.1 <= after.0);
                prop_assert!(before.2 != after.2 || before.0 + before.1 < after.0);
            }
        }
    }
}
