//! The hypervisor's own page tables: 4 levels, one set for all CPUs. A page once mapped stays as it is, with one
//! exception, the page that other CPUs start in; so no CPU ever has to flush what another one changed.

use core::fmt;

use x86_64::structures::paging::mapper::{MapToError, MapperFlush, TranslateResult};
use x86_64::structures::paging::{
    FrameAllocator, Mapper, OffsetPageTable, Page, PageSize, PageTable, PageTableFlags, PhysFrame, Size1GiB, Size2MiB,
    Size4KiB, Translate,
};
use x86_64::{PhysAddr, VirtAddr};

/// What may be done with a page. Nothing can be both written and executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    ReadWrite,
    Execute,
}

/// How a page is cached. The flags choose from the PAT that `cpu::features` sets on every CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caching {
    WriteBack,
    WriteCombining,
    Uncached,
}

fn flags(access: Access, caching: Caching) -> PageTableFlags {
    let access = match access {
        Access::Read => PageTableFlags::NO_EXECUTE,
        Access::ReadWrite => PageTableFlags::NO_EXECUTE | PageTableFlags::WRITABLE,
        Access::Execute => PageTableFlags::empty(),
    };
    let caching = match caching {
        Caching::WriteBack => PageTableFlags::empty(),
        Caching::WriteCombining => PageTableFlags::WRITE_THROUGH,
        Caching::Uncached => PageTableFlags::WRITE_THROUGH | PageTableFlags::NO_CACHE,
    };
    PageTableFlags::PRESENT | access | caching
}

/// Why a page is not mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MapError {
    /// No frame is left for a table.
    OutOfMemory,
    /// Something else is mapped there.
    Occupied {
        /// Where.
        address: usize,
    },
    /// The address or the length is no multiple of 4 KiB, or no address at all.
    BadRange {
        /// Where.
        address: usize,
    },
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfMemory => f.write_str("no memory is left for the hypervisor's page tables"),
            Self::Occupied { address } => write!(f, "something else is mapped at {address:#x} already"),
            Self::BadRange { address } => write!(f, "the range at {address:#x} is not made of whole pages"),
        }
    }
}

impl core::error::Error for MapError {}

/// A set of page tables.
pub(crate) struct PageTables {
    mapper: OffsetPageTable<'static>,
    root: u64,
    gigabyte_pages: bool,
}

impl PageTables {
    /// The tables below the root at physical address `root`.
    ///
    /// # Safety
    ///
    /// The root is a table, zeroed or with entries that this type made; it is nobody else's; RAM that tables lie in
    /// is mapped at `offset` + its physical address as long as this value is used.
    pub(crate) unsafe fn new(root: u64, offset: usize, gigabyte_pages: bool) -> Self {
        let table: *mut PageTable = core::ptr::with_exposed_provenance_mut((root as usize).wrapping_add(offset));
        // SAFETY: the caller's promises.
        let mapper = unsafe { OffsetPageTable::new(&mut *table, VirtAddr::new_truncate(offset as u64)) };
        Self { mapper, root, gigabyte_pages }
    }

    /// The root's physical address: CR3.
    pub(crate) fn root(&self) -> u64 {
        self.root
    }

    /// Whether 1 GiB pages are used.
    pub(crate) fn has_gigabyte_pages(&self) -> bool {
        self.gigabyte_pages
    }

    /// Maps `length` bytes with the largest pages that fit. `fresh`: nothing may be mapped there yet; else what is
    /// mapped already stays as it is.
    ///
    /// # Safety
    ///
    /// The mapping breaks no aliasing rule: nobody relies on the frames being out of reach at that address or being
    /// read-only.
    pub(crate) unsafe fn map(
        &mut self,
        at: usize,
        physical: u64,
        length: u64,
        (access, caching): (Access, Caching),
        fresh: bool,
        frames: &mut impl FrameAllocator<Size4KiB>,
    ) -> Result<(), MapError> {
        let bad = MapError::BadRange { address: at };
        if !(at as u64 | physical | length).is_multiple_of(Size4KiB::SIZE)
            || (at as u64).checked_add(length).is_none_or(|end| end == 0)
            || physical.checked_add(length).is_none_or(|end| end > 1 << 52)
        {
            return Err(bad);
        }
        let flags = flags(access, caching);
        let mut done = 0;
        while done < length {
            let (at, physical, left) = (at as u64 + done, physical + done, length - done);
            let address = VirtAddr::try_new(at).map_err(|_| bad)?;
            if !fresh && let TranslateResult::Mapped { frame, offset, .. } = self.mapper.translate(address) {
                done += frame.size() - offset;
                continue;
            }
            let fits = |size: u64| (at | physical) % size == 0 && left >= size;
            // A large page does not fit where smaller ones are mapped already: then the next smaller size is tried.
            let sizes = [
                (Size1GiB::SIZE, self.gigabyte_pages && fits(Size1GiB::SIZE)),
                (Size2MiB::SIZE, fits(Size2MiB::SIZE)),
                (Size4KiB::SIZE, true),
            ];
            let mut result = Err(MapError::Occupied { address: at as usize });
            for (size, _) in sizes.iter().filter(|(_, fits)| *fits) {
                // SAFETY: the caller's promise.
                result = unsafe {
                    match *size {
                        Size1GiB::SIZE => self.one::<Size1GiB>(address, physical, flags, frames),
                        Size2MiB::SIZE => self.one::<Size2MiB>(address, physical, flags, frames),
                        _ => self.one::<Size4KiB>(address, physical, flags, frames),
                    }
                };
                if !matches!(result, Err(MapError::Occupied { .. })) || fresh {
                    break;
                }
            }
            done += match result? {
                Size4KiB::SIZE => Size4KiB::SIZE + self.fill(address, physical, left, flags),
                size => size,
            };
        }
        Ok(())
    }

    /// Goes on behind the 4 KiB page that was just mapped at `at`, in the same table, up to the first page that is
    /// mapped already; gives how many more bytes are mapped. A walk from the root for each page would be most of what
    /// the direct map costs.
    fn fill(&mut self, at: VirtAddr, physical: u64, length: u64, flags: PageTableFlags) -> u64 {
        let first = usize::from(at.p1_index());
        let count = (length / Size4KiB::SIZE) as usize;
        let mut filled = 0;
        if let Some(table) = self.leaf_table(at) {
            for entry in table.iter_mut().skip(first).take(count).skip(1).take_while(|entry| entry.is_unused()) {
                filled += Size4KiB::SIZE;
                entry.set_addr(PhysAddr::new_truncate(physical + filled), flags);
            }
        }
        filled
    }

    /// The table that holds the entry of the 4 KiB page at `at`.
    fn leaf_table(&mut self, at: VirtAddr) -> Option<&mut PageTable> {
        let offset = self.mapper.phys_offset();
        let mut table = self.mapper.level_4_table_mut();
        for index in [at.p4_index(), at.p3_index(), at.p2_index()] {
            let entry = &table[index];
            if !entry.flags().contains(PageTableFlags::PRESENT) || entry.flags().contains(PageTableFlags::HUGE_PAGE) {
                return None;
            }
            let next: *mut PageTable = (offset + entry.addr().as_u64()).as_mut_ptr();
            // SAFETY: a present entry that is no page leads to a table that `map_to` made; tables are reached through
            // `self` only, and the borrow of the table before ends here.
            table = unsafe { &mut *next };
        }
        Some(table)
    }

    /// Maps one page of size `S`; gives its size.
    ///
    /// # Safety
    ///
    /// As for [`map`](Self::map).
    unsafe fn one<S: PageSize + fmt::Debug>(
        &mut self,
        at: VirtAddr,
        physical: u64,
        flags: PageTableFlags,
        frames: &mut impl FrameAllocator<Size4KiB>,
    ) -> Result<u64, MapError>
    where
        OffsetPageTable<'static>: Mapper<S>,
    {
        let page = Page::<S>::containing_address(at);
        let frame = PhysFrame::<S>::containing_address(PhysAddr::new_truncate(physical));
        // SAFETY: the caller's promise.
        match unsafe { self.mapper.map_to(page, frame, flags, frames) } {
            Ok(fresh) => {
                // Nothing was mapped there, and absent entries are not cached.
                MapperFlush::ignore(fresh);
                Ok(S::SIZE)
            }
            Err(MapToError::FrameAllocationFailed) => Err(MapError::OutOfMemory),
            Err(MapToError::ParentEntryHugePage | MapToError::PageAlreadyMapped(_)) => {
                Err(MapError::Occupied { address: at.as_u64() as usize })
            }
        }
    }

    /// Takes one 4 KiB page away again. The caller sees to it that no CPU has it in its TLB.
    ///
    /// # Safety
    ///
    /// Nobody uses the page any more.
    pub(crate) unsafe fn unmap_page(&mut self, at: usize) {
        if let Ok(address) = VirtAddr::try_new(at as u64)
            && let Ok((_, flush)) = self.mapper.unmap(Page::<Size4KiB>::containing_address(address))
        {
            flush.flush();
        }
    }

    /// Where `at` leads, and whether it may be written and executed; for reports and tests.
    pub(crate) fn look_up(&self, at: usize) -> Option<(u64, Access)> {
        let address = VirtAddr::try_new(at as u64).ok()?;
        let TranslateResult::Mapped { frame, offset, flags } = self.mapper.translate(address) else { return None };
        let access = match (flags.contains(PageTableFlags::WRITABLE), flags.contains(PageTableFlags::NO_EXECUTE)) {
            (true, _) => Access::ReadWrite,
            (false, true) => Access::Read,
            (false, false) => Access::Execute,
        };
        Some((frame.start_address().as_u64() + offset, access))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::memory::{Owner, frames, to_pointer};

    struct Source;

    // SAFETY: the frames are fresh.
    unsafe impl FrameAllocator<Size4KiB> for Source {
        fn allocate_frame(&mut self) -> Option<PhysFrame> {
            let frame = frames().allocate(Owner::Hypervisor, 1, 4096).ok()?;
            Some(PhysFrame::containing_address(PhysAddr::new(frame.as_u64())))
        }
    }

    fn tables(gigabyte_pages: bool) -> PageTables {
        let root = frames().allocate_zeroed(Owner::Hypervisor, 1, 4096).unwrap();
        let offset = to_pointer(root).expose_provenance().wrapping_sub(root.as_u64() as usize);
        // SAFETY: fresh and zeroed; the arena stays.
        unsafe { PageTables::new(root.as_u64(), offset, gigabyte_pages) }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

        /// Whatever is mapped first stays, and every page asked for is mapped where it should be.
        #[test]
        fn ranges_map_whole_and_keep_what_is_there(
            requests in prop::collection::vec((0..3000u64, 1..1500u64), 1..6),
            gigabyte_pages: bool,
        ) {
            let mut tables = tables(gigabyte_pages);
            let base = 0xffff_a000_0000_0000usize;
            let mut mapped = std::collections::BTreeSet::new();
            for (page, count) in requests {
                let physical = (1 << 30) - (1500 << 12) + (page << 12);
                let (at, length) = (base + physical as usize, count << 12);
                // SAFETY: nobody uses these tables.
                unsafe {
                    tables.map(at, physical, length, (Access::ReadWrite, Caching::Uncached), false, &mut Source)
                }.unwrap();
                mapped.extend((0..count).map(|index| physical + (index << 12)));
            }
            for page in (1 << 30) - (1501 << 12)..(1 << 30) + (3002 << 12) {
                if page % 4096 != 0 { continue }
                let expected = mapped.contains(&page).then_some((page, Access::ReadWrite));
                prop_assert_eq!(tables.look_up(base + page as usize), expected);
            }
        }
    }

    #[test]
    fn fresh_mappings_refuse_what_is_taken_and_bad_ranges() {
        let mut tables = tables(true);
        let mut map = |at: usize, physical: u64, length: u64, access| {
            // SAFETY: nobody uses these tables.
            unsafe { tables.map(at, physical, length, (access, Caching::WriteBack), true, &mut Source) }
        };
        let base = 0xffff_8000_0000_0000;
        map(base, 0, 2 << 30, Access::ReadWrite).unwrap();
        map(base + (3 << 30), 3 << 30, 0x20_3000, Access::Execute).unwrap();
        assert_eq!(
            map(base + 0x1000, 0x1000, 0x1000, Access::Read),
            Err(MapError::Occupied { address: base + 0x1000 })
        );
        assert_eq!(map(base + 1, 0, 0x1000, Access::Read), Err(MapError::BadRange { address: base + 1 }));
        assert_eq!(
            map(usize::MAX - 0xfff, 0, 0x2000, Access::Read),
            Err(MapError::BadRange { address: usize::MAX - 0xfff })
        );
        assert_eq!(map(1 << 47, 0, 0x1000, Access::Read), Err(MapError::BadRange { address: 1 << 47 }));
        assert_eq!(
            map(base + (4 << 30), (1 << 52) - 0x1000, 0x2000, Access::Read).unwrap_err(),
            MapError::BadRange { address: base + (4 << 30) }
        );
        let taken = base + (5 << 30) + 0x3000;
        map(taken, 0x7000, 0x1000, Access::Read).unwrap();
        let behind = map(base + (5 << 30), 5 << 30, 0x8000, Access::ReadWrite);
        assert_eq!(behind, Err(MapError::Occupied { address: taken }), "a run stops at what is mapped already");
        assert_eq!(tables.look_up(taken), Some((0x7000, Access::Read)));
        assert_eq!(tables.look_up(base + 0x1234), Some((0x1234, Access::ReadWrite)));
        assert_eq!(tables.look_up(base + (3 << 30) + 0x20_2fff), Some(((3 << 30) + 0x20_2fff, Access::Execute)));
        assert_eq!(tables.look_up(base + (3 << 30) + 0x20_3000), None);
    }
}
