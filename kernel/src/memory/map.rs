//! Firmware's memory map, as the loader handed it over: sorted, without overlap. What breaks that is left out, so that
//! nothing is used that two entries claim.

use handoff::{MemoryKind, MemoryRegion};
use iommu::address::{HostPhysical, PAGE_SIZE};

/// No x86-64 processor has physical addresses from here on.
const LIMIT: u64 = 1 << 52;

/// The machine's memory map.
#[derive(Clone, Copy, Debug)]
pub struct MemoryMap {
    entries: &'static [MemoryRegion],
}

/// A part of the physical address space of one kind. The numbers are addresses in bytes, multiples of 4096.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// The first byte.
    pub start: u64,
    /// The first byte behind it.
    pub end: u64,
    /// What lies there.
    pub kind: MemoryKind,
}

impl Region {
    /// The first byte as an address.
    pub fn first(&self) -> HostPhysical {
        HostPhysical::new(self.start)
    }

    /// Bytes.
    pub fn length(&self) -> u64 {
        self.end - self.start
    }

    /// It is RAM that the hypervisor may write: free, or its own.
    pub fn is_ours(&self) -> bool {
        matches!(self.kind, MemoryKind::Usable | MemoryKind::Loader | MemoryKind::Kernel)
    }

    /// It is RAM that firmware left something in, to be read.
    pub fn is_firmware(&self) -> bool {
        matches!(self.kind, MemoryKind::AcpiTables | MemoryKind::Firmware)
    }
}

impl MemoryMap {
    /// The map with these entries.
    pub const fn new(entries: &'static [MemoryRegion]) -> Self {
        Self { entries }
    }

    /// The good entries in the order of their addresses.
    pub fn regions(&self) -> impl Iterator<Item = Region> + use<> {
        let mut end = 0;
        self.entries.iter().filter_map(move |entry| {
            let region = good(entry, end)?;
            end = region.end;
            Some(region)
        })
    }

    /// The entries that are left out.
    pub fn refused(&self) -> impl Iterator<Item = MemoryRegion> + use<> {
        let mut end = 0;
        self.entries.iter().filter_map(move |entry| match good(entry, end) {
            Some(region) => {
                end = region.end;
                None
            }
            None if entry.length == 0 => None,
            None => Some(*entry),
        })
    }

    /// The end of the highest RAM.
    pub fn end_of_memory(&self) -> HostPhysical {
        let regions = self.regions().filter(|region| region.is_ours() || region.is_firmware());
        HostPhysical::new(regions.map(|region| region.end).max().unwrap_or(0))
    }

    /// Bytes of RAM that the hypervisor and its guests can have, what the loader holds included.
    pub fn memory(&self) -> u64 {
        self.regions().filter(Region::is_ours).map(|region| region.length()).sum()
    }

    /// Whether any byte of the range lies in RAM that the hypervisor or its guests can have.
    pub fn touches_memory(&self, start: u64, end: u64) -> bool {
        self.regions().any(|region| region.is_ours() && region.start < end && start < region.end)
    }

    /// Whether every byte of the range lies in regions for which `fits` holds.
    pub fn covers(&self, start: u64, end: u64, fits: impl Fn(&Region) -> bool) -> bool {
        let mut next = start;
        for region in self.regions().filter(|region| fits(region)) {
            if region.start <= next && next < region.end {
                next = region.end;
            }
        }
        start < end && next >= end
    }
}

fn good(entry: &MemoryRegion, behind: u64) -> Option<Region> {
    let kind = MemoryKind::from_number(entry.kind)?;
    let end = entry.start.checked_add(entry.length)?;
    let aligned = entry.start.is_multiple_of(PAGE_SIZE) && end % PAGE_SIZE == 0;
    (aligned && entry.start >= behind && entry.start < end && end <= LIMIT).then_some(Region {
        start: entry.start,
        end,
        kind,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(entries: &[(u64, u64, u32)]) -> MemoryMap {
        let entries: Vec<_> = entries
            .iter()
            .map(|(start, length, kind)| MemoryRegion { start: *start, length: *length, kind: *kind, reserved: 0 })
            .collect();
        MemoryMap::new(entries.leak())
    }

    #[test]
    fn good_entries_stay_and_wild_ones_go() {
        let map = map(&[
            (0x1000, 0x9_e000, 1),
            (0x9_e000, 0x2000, 7),             // overlaps the one before
            (0x10_0000, 0x10_0800, 1),         // half a page
            (0x10_0000, 0x10_0000, 2),         //
            (0x30_0000, u64::MAX - 0x1000, 1), // wraps
            (0x30_0000, 1 << 52, 1),           // no such addresses
            (0x30_0000, 0x1000, 99),           // no such kind
            (0x30_0000, 0, 1),                 // nothing
            (0x30_0000, 0x1000, 4),            //
            (0x1_0000_0000, 0x4000_0000, 1),   //
            (0x20_0000, 0x1000, 1),            // not in order
            (0x2_0000_0000, 0x1000_0000, 6),
        ]);
        let starts: Vec<_> = map.regions().map(|region| (region.start, region.end)).collect();
        assert_eq!(
            starts,
            [
                (0x1000, 0x9_f000),
                (0x10_0000, 0x20_0000),
                (0x30_0000, 0x30_1000),
                (0x1_0000_0000, 0x1_4000_0000),
                (0x2_0000_0000, 0x2_1000_0000)
            ]
        );
        assert_eq!(map.refused().count(), 6);
        assert_eq!(map.end_of_memory(), HostPhysical::new(0x1_4000_0000));
        assert_eq!(map.memory(), 0x9_e000 + 0x10_0000 + 0x4000_0000);
    }

    #[test]
    fn ranges_are_looked_up() {
        let map = map(&[(0x1000, 0x1000, 4), (0x2000, 0x1000, 5), (0x4000, 0x1000, 4), (0x5000, 0x1000, 1)]);
        assert!(map.covers(0x1800, 0x2fff, Region::is_firmware));
        assert!(!map.covers(0x1800, 0x3001, Region::is_firmware));
        assert!(!map.covers(0x1800, 0x4800, Region::is_firmware), "a hole between");
        assert!(!map.covers(0x1800, 0x1800, Region::is_firmware), "nothing is not covered");
        assert!(!map.covers(0x4000, 0x5001, Region::is_firmware));
        assert!(map.touches_memory(0x4fff, 0x5001));
        assert!(!map.touches_memory(0x4fff, 0x5000));
    }
}
