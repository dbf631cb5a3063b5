//! The DMAR parser: it reads inside the slice, ends, and what it accepts is sound.

use iommu::Dmar;
use iommu::address::{HostPhysical, PciAddress};
use iommu::dmar::{BridgeBuses, Buses, Coverage};

/// Every bridge leads to the buses that follow from its number: enough to walk any path.
struct Tree;

impl Buses for Tree {
    fn bridge(&self, function: PciAddress) -> Option<BridgeBuses> {
        let source = function.source;
        let secondary = source.bus().checked_add(1 + source.device() % 4)?;
        (source.function() == 0)
            .then(|| BridgeBuses { secondary, subordinate: secondary.saturating_add(source.device()) })
    }
}

/// Parses `data` as it is, and once more as a table with the signature, length and checksum that let the parser look at
/// the structures.
pub fn dmar(data: &[u8]) {
    look(data);
    let mut sealed = data.to_vec();
    let length = sealed.len() as u32;
    if sealed.len() >= 48 {
        sealed[..4].copy_from_slice(b"DMAR");
        sealed[4..8].copy_from_slice(&length.to_le_bytes());
        sealed[36] = 38;
        sealed[9] = 0;
        sealed[9] = sealed.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte));
        look(&sealed);
    }
}

fn look(bytes: &[u8]) {
    let (mut read, refused) = Dmar::inspect(bytes);
    assert!(!read.to_string().is_empty());
    for (offset, structure) in read.structures() {
        assert!((48..bytes.len()).contains(&offset), "{structure}");
        assert!(structure.scopes().iter().all(|scope| !scope.path.is_empty()));
    }
    if let Some(error) = refused {
        assert!(error.to_string().starts_with("DMAR table refused: "));
        return;
    }
    assert!(!read.units.is_empty());
    for (index, unit) in read.units.iter().enumerate() {
        assert!(unit.base.as_u64() != 0 && unit.base.is_aligned(4096) && unit.last() > unit.base);
        for other in &read.units[index + 1..] {
            assert!(unit.last() < other.base || other.last() < unit.base, "two units share registers");
            assert!(!(unit.includes_all && other.includes_all && unit.segment == other.segment));
        }
    }
    for region in read.reserved_memory.iter().filter(|region| region.defect.is_none()) {
        assert!(region.first < region.last && region.first.is_aligned(4096));
        assert!(read.units.iter().all(|unit| region.last < unit.base || unit.last() < region.first));
    }
    let coverage = Coverage::resolve(&read, &Tree);
    for bus in 0..=u8::MAX {
        let function = PciAddress::new(read.units[0].segment, bus, bus % 32, bus % 8);
        assert!(coverage.unit_of(function).is_none_or(|unit| unit < read.units.len()));
        assert!(coverage.reserved_for(function).count() <= read.reserved_memory.iter().map(|r| r.scopes.len()).sum());
    }
    // Whatever memory map: never a panic, and no usable range in RAM afterwards.
    let is_ram = |first: HostPhysical, _: HostPhysical| first.as_u64() < 1 << 31;
    if read.check_memory(is_ram).is_ok() {
        assert!(
            read.reserved_memory.iter().all(|region| region.defect.is_some() || !is_ram(region.first, region.last))
        );
    }
}
