//! The page tables that the kernel starts on: 4 levels, large pages where they fit (Intel SDM volume 3A, section 5.5;
//! AMD64 manual volume 2, section 5.3).
//!
//! They are built once, below a root that no processor uses yet, and only ever gain entries. So nothing is
//! invalidated, and an entry that is in the way is a mistake of the caller.

use core::fmt;

use crate::PAGE_SIZE;

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
/// Bits 51:12, the address of a table or page.
const ADDRESS: u64 = 0x000F_FFFF_FFFF_F000;

/// What may be done with a page. No page can be both written and executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permissions {
    /// Only read.
    ReadOnly,
    /// Read and written.
    ReadWrite,
    /// Read and executed.
    ReadExecute,
}

impl Permissions {
    const fn bits(self) -> u64 {
        match self {
            Self::ReadOnly => NO_EXECUTE,
            Self::ReadWrite => WRITABLE | NO_EXECUTE,
            Self::ReadExecute => 0,
        }
    }
}

/// Where tables come from, and the only way to their entries.
pub trait TablePool {
    /// A page of zeroes, aligned to 4 KiB, below 2^52; `None` if there is no more memory.
    fn allocate(&mut self) -> Option<u64>;
    /// The entry of a table that this pool gave; `index` is below 512.
    fn read(&self, table: u64, index: usize) -> u64;
    /// Sets the entry of a table that this pool gave; `index` is below 512.
    fn write(&mut self, table: u64, index: usize, entry: u64);
}

/// Why a range cannot be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// There is no memory for a table.
    OutOfMemory,
    /// The range is not made of whole pages, or its addresses do not exist.
    BadRange(u64),
    /// A part of the range is mapped already.
    Overlap(u64),
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfMemory => f.write_str("no memory is left for page tables"),
            Self::BadRange(address) => write!(f, "the range at {address:#x} is not made of whole pages that exist"),
            Self::Overlap(address) => write!(f, "the page at {address:#x} is mapped already"),
        }
    }
}

impl core::error::Error for MapError {}

/// An address space under construction.
pub struct AddressSpace<P> {
    pool: P,
    root: u64,
    /// Whether the processor knows pages of 1 GiB.
    gigabyte_pages: bool,
}

impl<P: TablePool> AddressSpace<P> {
    /// An empty one.
    ///
    /// # Errors
    ///
    /// [`MapError::OutOfMemory`] without memory for the root.
    pub fn new(mut pool: P, gigabyte_pages: bool) -> Result<Self, MapError> {
        let root = pool.allocate().ok_or(MapError::OutOfMemory)?;
        Ok(Self { pool, root, gigabyte_pages })
    }

    /// The address of the top table, for CR3.
    pub fn root(&self) -> u64 {
        self.root
    }

    /// Maps `length` bytes at `address` to `physical`, with the largest pages that fit. All three are multiples of
    /// 4 KiB; an empty range is no range.
    ///
    /// # Errors
    ///
    /// After an error the range may be mapped in part.
    pub fn map(
        &mut self,
        mut address: u64,
        mut physical: u64,
        length: u64,
        permissions: Permissions,
    ) -> Result<(), MapError> {
        let bad = MapError::BadRange(address);
        if !(address | physical | length).is_multiple_of(PAGE_SIZE)
            || physical.checked_add(length).is_none_or(|end| end > 1 << 52)
        {
            return Err(bad);
        }
        // The last byte, as the end of the last page of the address space is not a number.
        let last = length.checked_sub(1).and_then(|length| address.checked_add(length)).ok_or(bad)?;
        if !is_canonical(address) || !is_canonical(last) || address >> 47 != last >> 47 {
            return Err(bad);
        }
        let mut left = length;
        while left != 0 {
            let level = self.level_of(address | physical, left);
            self.set(address, level, physical | permissions.bits() | PRESENT)?;
            let size = page_size(level);
            left = left.saturating_sub(size);
            address = address.wrapping_add(size);
            physical = physical.saturating_add(size);
        }
        Ok(())
    }

    /// The level of the largest page that these addresses and so many bytes allow: 1 (4 KiB), 2 (2 MiB), 3 (1 GiB).
    fn level_of(&self, addresses: u64, length: u64) -> u32 {
        let fits = |level: &u32| addresses.is_multiple_of(page_size(*level)) && length >= page_size(*level);
        let largest = if self.gigabyte_pages { 3 } else { 2 };
        (2..=largest).rev().find(fits).unwrap_or(1)
    }

    /// Sets the leaf for `address` at `level`, making the tables above it.
    fn set(&mut self, address: u64, level: u32, leaf: u64) -> Result<(), MapError> {
        let mut table = self.root;
        for above in (level.saturating_add(1)..=4).rev() {
            let index = index_of(address, above);
            let entry = self.pool.read(table, index);
            table = if entry & PRESENT == 0 {
                let new = self.pool.allocate().ok_or(MapError::OutOfMemory)?;
                self.pool.write(table, index, new | WRITABLE | PRESENT);
                new
            } else if entry & LARGE != 0 {
                return Err(MapError::Overlap(address));
            } else {
                entry & ADDRESS
            };
        }
        let index = index_of(address, level);
        if self.pool.read(table, index) & PRESENT != 0 {
            return Err(MapError::Overlap(address));
        }
        let size = if level > 1 { LARGE } else { 0 };
        self.pool.write(table, index, leaf | size);
        Ok(())
    }
}

fn is_canonical(address: u64) -> bool {
    matches!(address >> 47, 0 | 0x1_FFFF)
}

/// The bytes of a page that an entry at this level maps; levels are 1 to 3.
fn page_size(level: u32) -> u64 {
    PAGE_SIZE << (9 * (level - 1))
}

/// The place of the entry for an address in a table of this level.
fn index_of(address: u64, level: u32) -> usize {
    ((address >> (12 + 9 * (level - 1))) & 511) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    /// Tables at 4 KiB, 8 KiB ... of an imagined memory.
    struct Tables {
        tables: Vec<[u64; 512]>,
        limit: usize,
    }

    impl TablePool for Tables {
        fn allocate(&mut self) -> Option<u64> {
            (self.tables.len() < self.limit).then(|| {
                self.tables.push([0; 512]);
                self.tables.len() as u64 * PAGE_SIZE
            })
        }

        fn read(&self, table: u64, index: usize) -> u64 {
            self.tables[(table / PAGE_SIZE) as usize - 1][index]
        }

        fn write(&mut self, table: u64, index: usize, entry: u64) {
            self.tables[(table / PAGE_SIZE) as usize - 1][index] = entry;
        }
    }

    fn space(limit: usize, gigabyte_pages: bool) -> AddressSpace<Tables> {
        AddressSpace::new(Tables { tables: vec![], limit }, gigabyte_pages).unwrap()
    }

    /// What a processor makes of an address: physical address, permission bits, size of the page.
    fn walk(space: &AddressSpace<Tables>, address: u64) -> Option<(u64, u64, u64)> {
        let mut table = space.root();
        for level in (1..=4).rev() {
            let entry = space.pool.read(table, index_of(address, level));
            if entry & PRESENT == 0 {
                return None;
            }
            if level == 1 || entry & LARGE != 0 {
                let size = page_size(level);
                let physical = (entry & ADDRESS) / size * size + address % size;
                return Some((physical, entry & (WRITABLE | NO_EXECUTE), size));
            }
            assert_eq!(entry & NO_EXECUTE, 0, "a table forbids nothing");
            table = entry & ADDRESS;
        }
        unreachable!()
    }

    const RW: Permissions = Permissions::ReadWrite;

    #[test]
    fn the_largest_pages_that_fit_are_used() {
        for (gigabyte_pages, size) in [(true, 1 << 30), (false, 2 << 20)] {
            let mut space = space(64, gigabyte_pages);
            space.map(0, 0, 4 << 30, RW).unwrap();
            assert_eq!(walk(&space, 0xFEE0_0123), Some((0xFEE0_0123, WRITABLE | NO_EXECUTE, size)));
            assert_eq!(walk(&space, 4 << 30), None);
            let tables = if gigabyte_pages { 2 } else { 6 };
            assert_eq!(space.pool.tables.len(), tables);
        }
    }

    #[test]
    fn one_page_with_other_permissions_splits_what_is_around_it() {
        let mut space = space(64, true);
        let page = 0x7123_4000;
        space.map(0, 0, page, RW).unwrap();
        space.map(page, page, PAGE_SIZE, Permissions::ReadExecute).unwrap();
        space.map(page + PAGE_SIZE, page + PAGE_SIZE, (4 << 30) - page - PAGE_SIZE, RW).unwrap();
        assert_eq!(walk(&space, page - 1), Some((page - 1, WRITABLE | NO_EXECUTE, 4096)));
        assert_eq!(walk(&space, page + 5), Some((page + 5, 0, 4096)));
        assert_eq!(walk(&space, page + 4096), Some((page + 4096, WRITABLE | NO_EXECUTE, 4096)));
        assert_eq!(walk(&space, 0x7000_0000), Some((0x7000_0000, WRITABLE | NO_EXECUTE, 2 << 20)));
        assert_eq!(walk(&space, 0xC000_0000), Some((0xC000_0000, WRITABLE | NO_EXECUTE, 1 << 30)));
    }

    #[test]
    fn the_end_of_the_address_space_can_be_mapped() {
        let mut space = space(8, true);
        space.map(0xFFFF_FFFF_FFFF_F000, 0x5000, 4096, Permissions::ReadOnly).unwrap();
        assert_eq!(walk(&space, u64::MAX), Some((0x5FFF, NO_EXECUTE, 4096)));
    }

    #[test]
    fn bad_ranges_are_refused() {
        let mut space = space(64, true);
        let bad = [
            (1, 0, 4096),
            (0, 1, 4096),
            (0, 0, 1),
            (0, 0, 0),
            (1 << 47, 0, 4096),
            ((1 << 47) - 4096, 0, 8192),
            (0xFFFF_FFFF_FFFF_F000, 0, 8192),
            (0, (1 << 52) - 4096, 8192),
            (0, !4095, 8192),
        ];
        for (address, physical, length) in bad {
            assert_eq!(space.map(address, physical, length, RW), Err(MapError::BadRange(address)));
        }
        assert_eq!(space.pool.tables.len(), 1);
    }

    #[test]
    fn nothing_is_mapped_twice() {
        let mut space = space(64, true);
        space.map(0, 0, 2 << 20, RW).unwrap();
        assert_eq!(space.map(0x1000, 0, 4096, RW), Err(MapError::Overlap(0x1000)));
        assert_eq!(space.map(0, 0, 2 << 20, RW), Err(MapError::Overlap(0)));
        assert_eq!(space.map(0, 0, 1 << 30, RW), Err(MapError::Overlap(0)));
    }

    #[test]
    fn every_missing_table_is_an_error() {
        for limit in 1..4 {
            assert_eq!(space(limit, true).map(0x1000, 0, 4096, RW), Err(MapError::OutOfMemory));
        }
        assert_eq!(space(4, true).map(0x1000, 0, 4096, RW), Ok(()));
        assert!(AddressSpace::new(Tables { tables: vec![], limit: 0 }, true).is_err());
    }

    proptest! {
        /// Any list of disjoint ranges translates as a list of pages would.
        #[test]
        fn ranges_translate_page_by_page(
            gaps in proptest::collection::vec((0u64..600, 1u64..1200, 0u64..600, 0usize..3), 1..8),
            gigabyte_pages: bool,
        ) {
            let permissions = [Permissions::ReadOnly, RW, Permissions::ReadExecute];
            let mut space = space(4096, gigabyte_pages);
            let mut expected = Vec::new();
            let mut next = 0x3FF0_0000 / PAGE_SIZE;
            for (gap, pages, shift, kind) in gaps {
                let first = next + gap;
                space.map(first * PAGE_SIZE, (first + shift) * PAGE_SIZE, pages * PAGE_SIZE, permissions[kind]).unwrap();
                expected.extend((first..first + pages).map(|page| (page, page + shift, permissions[kind])));
                next = first + pages;
            }
            for page in 0x3FF00..next + 4 {
                let found = walk(&space, page * PAGE_SIZE).map(|(physical, bits, _)| (physical, bits));
                let wanted = expected.iter().find(|(mapped, ..)| *mapped == page);
                prop_assert_eq!(found, wanted.map(|(_, physical, kind)| (physical * PAGE_SIZE, kind.bits())));
            }
        }
    }
}
