//! Where configuration space is mapped (PCI Firmware Specification section 4.1.2).

use alloc::vec::Vec;
use core::fmt;

use iommu::address::HostPhysical;

use super::bytes::{u8_at, u16_at, u64_at};

/// Where the entries begin, and how long each is.
const HEADER: usize = 44;
const ENTRY: usize = 16;

/// Configuration space of some buses of one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EcamRegion {
    /// Where bus 0 of the segment would be, whether it belongs to the region or not.
    pub base: HostPhysical,
    /// The segment.
    pub segment: u16,
    /// The first bus.
    pub first_bus: u8,
    /// The last bus, included.
    pub last_bus: u8,
}

impl EcamRegion {
    /// The address of the first bus.
    pub fn first(&self) -> HostPhysical {
        // `parse` made sure that the whole region has addresses.
        HostPhysical::new(self.base.as_u64() + (u64::from(self.first_bus) << 20))
    }

    /// Bytes: 1 MiB a bus.
    pub fn length(&self) -> u64 {
        (u64::from(self.last_bus - self.first_bus) + 1) << 20
    }
}

/// Why an entry is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum McfgProblem {
    /// The last bus lies before the first.
    Backwards(EcamRegion),
    /// The base is 0, not a multiple of 1 MiB, or so high that the region has no addresses.
    BadBase(EcamRegion),
    /// Another entry has some of these buses already.
    Overlap(EcamRegion),
    /// The table holds no whole entry.
    Empty,
}

impl fmt::Display for McfgProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (region, why) = match self {
            Self::Empty => return f.write_str("the ACPI table MCFG has no entry"),
            Self::Backwards(region) => (region, "its last bus lies before its first"),
            Self::BadBase(region) => (region, "nothing can be mapped there"),
            Self::Overlap(region) => (region, "an entry before it has some of these buses"),
        };
        write!(
            f,
            "the entry of the ACPI table MCFG for segment {:04x}, buses {:02x} to {:02x} at {} is not used: {why}",
            region.segment, region.first_bus, region.last_bus, region.base
        )
    }
}

/// Reads a table, whose header and checksum are good: the regions that can be used, and what is wrong with the others.
/// Bytes behind the last whole entry are ignored.
pub fn parse(table: &[u8]) -> (Vec<EcamRegion>, Vec<McfgProblem>) {
    let (mut regions, mut problems): (Vec<EcamRegion>, _) = (Vec::new(), Vec::new());
    let entries = table.get(HEADER..).unwrap_or_default();
    for region in entries.chunks_exact(ENTRY).filter_map(entry) {
        let base = region.base.as_u64();
        let top = base.checked_add(256 << 20).filter(|top| *top <= 1 << 52);
        if region.last_bus < region.first_bus {
            problems.push(McfgProblem::Backwards(region));
        } else if base == 0 || base % (1 << 20) != 0 || top.is_none() {
            problems.push(McfgProblem::BadBase(region));
        } else if regions.iter().any(|other| {
            other.segment == region.segment && other.first_bus <= region.last_bus && region.first_bus <= other.last_bus
        }) {
            problems.push(McfgProblem::Overlap(region));
        } else {
            regions.push(region);
        }
    }
    if entries.len() < ENTRY {
        problems.push(McfgProblem::Empty);
    }
    (regions, problems)
}

fn entry(bytes: &[u8]) -> Option<EcamRegion> {
    Some(EcamRegion {
        base: HostPhysical::new(u64_at(bytes, 0)?),
        segment: u16_at(bytes, 8)?,
        first_bus: u8_at(bytes, 10)?,
        last_bus: u8_at(bytes, 11)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(entries: &[(u64, u16, u8, u8)], trailing: usize) -> Vec<u8> {
        let mut table = vec![0; HEADER];
        for (base, segment, first, last) in entries {
            table.extend_from_slice(&base.to_le_bytes());
            table.extend_from_slice(&segment.to_le_bytes());
            table.extend_from_slice(&[*first, *last, 0, 0, 0, 0]);
        }
        table.extend(vec![0xff; trailing]);
        table
    }

    #[test]
    fn good_regions_are_used_and_others_named() {
        let (regions, problems) = parse(&table(
            &[
                (0xe000_0000, 0, 0, 0x7f),
                (0xd000_0000, 0, 0x7f, 0xff),
                (0x1_0000_0000, 1, 0x10, 0xff),
                (0x2_0000_0000, 2, 5, 4),
                (0, 3, 0, 0),
                (0x2_0008_0000, 3, 0, 0),
                (u64::MAX - 0xf_ffff, 3, 0, 0),
            ],
            15,
        ));
        assert_eq!(regions.len(), 2);
        assert_eq!(regions[1].first(), HostPhysical::new(0x1_0100_0000));
        assert_eq!(regions[1].length(), 0xf0 << 20);
        use McfgProblem::*;
        assert!(matches!(problems[..], [Overlap(_), Backwards(_), BadBase(_), BadBase(_), BadBase(_)]), "{problems:?}");
        assert_eq!(parse(&table(&[], 15)), (vec![], vec![Empty]));
        assert_eq!(parse(&[]), (vec![], vec![Empty]));
    }
}
