//! From bytes to [`Dmar`].

use alloc::string::String;
use alloc::vec::Vec;

use crate::address::{HostPhysical, PAGE_SIZE};
use crate::dmar::error::{DmarError, Problem, Warning};
use crate::dmar::scope::{Scope, ScopeKind, Scopes, Step};
use crate::dmar::structure::StructureKind;
use crate::dmar::{
    AcpiDevice, AddressTranslationCaches, Affinity, Dmar, Flags, ReservedMemory, RootPorts, SpecialDevices,
    UnitDefinition,
};

/// The table's fixed part.
const HEADER: usize = 48;
/// The most bytes of registers that a unit is believed to have. CAP and ECAP can place registers within 32 KiB.
const MAXIMUM_REGISTERS: u64 = 1 << 20;
/// No physical address has more bits.
const PHYSICAL_BITS: u32 = 52;
/// The addresses at which writes are interrupts, not memory.
const INTERRUPT_WINDOW: (u64, u64) = (0xfee0_0000, 0xfeef_ffff);

/// Little-endian reads that cannot leave the slice.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn array<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.0.get(offset..)?.first_chunk().copied()
    }

    fn u8(&self, offset: usize) -> Option<u8> {
        self.0.get(offset).copied()
    }

    fn u16(&self, offset: usize) -> Option<u16> {
        self.array(offset).map(u16::from_le_bytes)
    }

    fn u32(&self, offset: usize) -> Option<u32> {
        self.array(offset).map(u32::from_le_bytes)
    }

    fn u64(&self, offset: usize) -> Option<u64> {
        self.array(offset).map(u64::from_le_bytes)
    }

    fn address(&self, offset: usize) -> Option<HostPhysical> {
        self.u64(offset).map(HostPhysical::new)
    }
}

/// One structure with where it stands.
struct Structure<'a> {
    offset: usize,
    bytes: &'a [u8],
    length: u16,
}

impl<'a> Structure<'a> {
    fn fields(&self) -> Fields<'a> {
        Fields(self.bytes)
    }

    fn after(&self, fixed: usize) -> &'a [u8] {
        self.bytes.get(fixed..).unwrap_or_default()
    }

    fn truncated(&self, needed: usize) -> Problem {
        Problem::StructureTruncated { length: self.length, needed }
    }
}

/// Fills `dmar`, which is empty. After an error it holds what stood before it.
pub(super) fn parse(bytes: &[u8], dmar: &mut Dmar) -> Result<(), DmarError> {
    let table = bounded(bytes)?;
    let fields = Fields(table);
    let truncated = DmarError::Truncated { length: table.len() };
    let bits = u16::from(fields.u8(36).ok_or(truncated)?) + 1;
    if !(12..=64).contains(&bits) {
        return Err(DmarError::HostAddressWidth { bits });
    }
    dmar.revision = fields.u8(8).ok_or(truncated)?;
    dmar.oem = fields.array(10).ok_or(truncated)?;
    dmar.oem_table = fields.array(16).ok_or(truncated)?;
    dmar.host_address_width = bits as u8;
    dmar.flags = Flags::from_bits_truncate(fields.u8(37).ok_or(truncated)?);
    let mut offset = HEADER;
    while offset < table.len() {
        let rest = table.get(offset..).unwrap_or_default();
        let (Some(kind), Some(length)) = (Fields(rest).u16(0), Fields(rest).u16(2)) else {
            return Err(DmarError::TrailingBytes { offset });
        };
        let bytes = match rest.get(..usize::from(length)) {
            Some(bytes) if length >= 4 => bytes,
            _ => return Err(DmarError::StructureLength { offset, kind, length }),
        };
        take(dmar, kind, &Structure { offset, bytes, length })?;
        offset += usize::from(length);
    }
    check_units(dmar)?;
    check_references(dmar)
}

/// The table's own bytes: as many as its header says, summing to 0.
fn bounded(bytes: &[u8]) -> Result<&[u8], DmarError> {
    let fields = Fields(bytes);
    let truncated = DmarError::Truncated { length: bytes.len() };
    let signature = fields.array::<4>(0).ok_or(truncated)?;
    if &signature != b"DMAR" {
        return Err(DmarError::Signature(signature));
    }
    let declared = fields.u32(4).ok_or(truncated)?;
    let table = match usize::try_from(declared).ok().and_then(|length| bytes.get(..length)) {
        Some(table) if table.len() >= HEADER => table,
        _ => return Err(DmarError::Length { declared, given: bytes.len() }),
    };
    match table.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)) {
        0 => Ok(table),
        sum => Err(DmarError::Checksum { sum }),
    }
}

/// Adds one structure to the table, or a warning that says why not.
fn take(dmar: &mut Dmar, kind: u16, structure: &Structure<'_>) -> Result<(), DmarError> {
    let (name, result) = match kind {
        0 => return unit(dmar, structure),
        1 => ("RMRR", reserved_memory(dmar, structure)),
        2 => ("ATSR", root_ports(dmar, structure)),
        3 => ("RHSA", affinity(dmar, structure)),
        4 => ("ANDD", acpi_device(dmar, structure)),
        5 => ("SATC", address_translation_caches(dmar, structure)),
        6 => ("SIDP", special_devices(dmar, structure)),
        _ => ("structure", Err(Problem::UnknownStructure { kind })),
    };
    if let Err(problem) = result {
        dmar.warnings.push(Warning { offset: Some(structure.offset), structure: name, problem });
    }
    Ok(())
}

/// The scopes behind `fixed` bytes. A scope that names nothing usable becomes a warning; one that cannot be stepped
/// over, an error.
fn scopes(
    warnings: &mut Vec<Warning>,
    name: &'static str,
    structure: &Structure<'_>,
    fixed: usize,
) -> Result<Vec<Scope>, Problem> {
    let mut found = Vec::new();
    for step in Scopes::new(structure.after(fixed)) {
        match step? {
            Step::Scope(scope) => found.push(scope),
            Step::Skip(problem) => {
                warnings.push(Warning { offset: Some(structure.offset), structure: name, problem });
            }
        }
    }
    Ok(found)
}

fn unit(dmar: &mut Dmar, structure: &Structure<'_>) -> Result<(), DmarError> {
    let fields = structure.fields();
    let (offset, length) = (structure.offset, structure.length);
    let parts = (fields.u8(4), fields.u8(5), fields.u16(6), fields.address(8));
    let (Some(flags), Some(size), Some(segment), Some(base)) = parts else {
        return Err(DmarError::UnitTruncated { offset, length });
    };
    let size = PAGE_SIZE << (size & 15);
    let last = base.checked_add(size - 1);
    match last {
        Some(last)
            if base.as_u64() != 0
                && base.is_aligned(PAGE_SIZE)
                && last.as_u64() >> PHYSICAL_BITS == 0
                && (last.as_u64() < INTERRUPT_WINDOW.0 || base.as_u64() > INTERRUPT_WINDOW.1) => {}
        _ => return Err(DmarError::RegisterBase { base }),
    }
    if size > MAXIMUM_REGISTERS {
        return Err(DmarError::RegisterSize { base, size });
    }
    let scopes = scopes(&mut dmar.warnings, "DRHD scope", structure, 16)
        .map_err(|problem| DmarError::UnitScopes { offset, problem })?;
    dmar.units.push(UnitDefinition { segment, base, size, includes_all: flags & 1 != 0, scopes });
    dmar.order.push((structure.offset, StructureKind::Unit));
    Ok(())
}

fn reserved_memory(dmar: &mut Dmar, structure: &Structure<'_>) -> Result<(), Problem> {
    let fields = structure.fields();
    let (Some(segment), Some(first), Some(last)) = (fields.u16(6), fields.address(8), fields.address(16)) else {
        return Err(structure.truncated(24));
    };
    let scopes = scopes(&mut dmar.warnings, "RMRR scope", structure, 24)?;
    if scopes.is_empty() {
        return Err(Problem::NoScopes);
    }
    let defect = range_defect(first, last);
    dmar.reserved_memory.push(ReservedMemory { segment, first, last, scopes, defect });
    dmar.order.push((structure.offset, StructureKind::ReservedMemory));
    defect.map_or(Ok(()), Err)
}

fn range_defect(first: HostPhysical, last: HostPhysical) -> Option<Problem> {
    let Some(end) = last.checked_add(1) else {
        return Some(Problem::ReservedMemoryRange { first, last });
    };
    if end <= first || last.as_u64() >> PHYSICAL_BITS != 0 {
        return Some(Problem::ReservedMemoryRange { first, last });
    }
    if !first.is_aligned(PAGE_SIZE) || !end.is_aligned(PAGE_SIZE) {
        return Some(Problem::ReservedMemoryUnaligned { first, last });
    }
    if last.as_u64() >= INTERRUPT_WINDOW.0 && first.as_u64() <= INTERRUPT_WINDOW.1 {
        return Some(Problem::ReservedMemoryOverInterrupts);
    }
    None
}

fn root_ports(dmar: &mut Dmar, structure: &Structure<'_>) -> Result<(), Problem> {
    let fields = structure.fields();
    let (Some(flags), Some(segment)) = (fields.u8(4), fields.u16(6)) else {
        return Err(structure.truncated(8));
    };
    let scopes = scopes(&mut dmar.warnings, "ATSR scope", structure, 8)?;
    if scopes.iter().any(|scope| scope.kind != ScopeKind::Bridge) {
        return Err(Problem::NotABridge);
    }
    dmar.root_ports.push(RootPorts { segment, all: flags & 1 != 0, scopes });
    dmar.order.push((structure.offset, StructureKind::RootPorts));
    Ok(())
}

fn affinity(dmar: &mut Dmar, structure: &Structure<'_>) -> Result<(), Problem> {
    let fields = structure.fields();
    let (Some(base), Some(proximity_domain)) = (fields.address(8), fields.u32(16)) else {
        return Err(structure.truncated(20));
    };
    if proximity_domain == u32::MAX {
        return Err(Problem::NoProximityDomain);
    }
    dmar.affinities.push(Affinity { base, proximity_domain });
    dmar.order.push((structure.offset, StructureKind::Affinity));
    Ok(())
}

fn acpi_device(dmar: &mut Dmar, structure: &Structure<'_>) -> Result<(), Problem> {
    let Some(number) = structure.fields().u8(7) else {
        return Err(structure.truncated(9));
    };
    let name = structure.after(8);
    let name = name.iter().position(|byte| *byte == 0).and_then(|end| name.get(..end)).ok_or(Problem::Name)?;
    if name.is_empty() || !name.iter().all(u8::is_ascii_graphic) {
        return Err(Problem::Name);
    }
    dmar.acpi_devices.push(AcpiDevice { number, name: name.iter().map(|byte| char::from(*byte)).collect::<String>() });
    dmar.order.push((structure.offset, StructureKind::AcpiDevice));
    Ok(())
}

fn address_translation_caches(dmar: &mut Dmar, structure: &Structure<'_>) -> Result<(), Problem> {
    let fields = structure.fields();
    let (Some(flags), Some(segment)) = (fields.u8(4), fields.u16(6)) else {
        return Err(structure.truncated(8));
    };
    let scopes = scopes(&mut dmar.warnings, "SATC scope", structure, 8)?;
    if scopes.is_empty() {
        return Err(Problem::NoScopes);
    }
    dmar.address_translation_caches.push(AddressTranslationCaches { segment, required: flags & 1 != 0, scopes });
    dmar.order.push((structure.offset, StructureKind::AddressTranslationCaches));
    Ok(())
}

fn special_devices(dmar: &mut Dmar, structure: &Structure<'_>) -> Result<(), Problem> {
    let Some(segment) = structure.fields().u16(6) else {
        return Err(structure.truncated(8));
    };
    let scopes = scopes(&mut dmar.warnings, "SIDP scope", structure, 8)?;
    dmar.special_devices.push(SpecialDevices { segment, scopes });
    dmar.order.push((structure.offset, StructureKind::SpecialDevices));
    Ok(())
}

/// What must hold among the units: each has registers of its own, and no device could belong to two.
fn check_units(dmar: &Dmar) -> Result<(), DmarError> {
    if dmar.units.is_empty() {
        return Err(DmarError::NoUnits);
    }
    for (index, unit) in dmar.units.iter().enumerate() {
        for other in dmar.units.iter().skip(index + 1) {
            if unit.base <= other.last() && other.base <= unit.last() {
                return Err(DmarError::RegistersOverlap { first: unit.base, second: other.base });
            }
            if unit.includes_all && other.includes_all && unit.segment == other.segment {
                return Err(DmarError::TwoIncludeAll { segment: unit.segment });
            }
            let io_apics = |unit: &UnitDefinition, id| {
                unit.scopes.iter().any(|scope| scope.kind == ScopeKind::IoApic && scope.enumeration_id == id)
            };
            for scope in unit.scopes.iter().filter(|scope| scope.kind == ScopeKind::IoApic) {
                if io_apics(other, scope.enumeration_id) {
                    return Err(DmarError::IoApicTwice { id: scope.enumeration_id });
                }
            }
        }
    }
    Ok(())
}

/// What refers to units, which may stand before them in the table.
fn check_references(dmar: &mut Dmar) -> Result<(), DmarError> {
    let Dmar { units, reserved_memory, affinities, warnings, order, .. } = dmar;
    let offsets = |kind| order.iter().filter(move |(_, known)| *known == kind).map(|(offset, _)| *offset);
    for (region, offset) in reserved_memory.iter_mut().zip(offsets(StructureKind::ReservedMemory)) {
        if region.defect.is_some() {
            continue;
        }
        let covered = units.iter().find(|unit| region.first <= unit.last() && unit.base <= region.last);
        if let Some(unit) = covered {
            return Err(DmarError::ReservedMemoryOverRegisters { first: region.first, base: unit.base });
        }
        if !units.iter().any(|unit| unit.segment == region.segment) {
            let problem = Problem::SegmentWithoutUnit { segment: region.segment };
            region.defect = Some(problem);
            warnings.push(Warning { offset: Some(offset), structure: "RMRR", problem });
        }
    }
    let mut gone = Vec::new();
    let mut places = offsets(StructureKind::Affinity);
    affinities.retain(|affinity| {
        let known = units.iter().any(|unit| unit.base == affinity.base);
        let offset = places.next();
        if !known {
            let problem = Problem::UnitUnknown { base: affinity.base };
            warnings.push(Warning { offset, structure: "RHSA", problem });
            gone.extend(offset);
        }
        known
    });
    drop(places);
    order.retain(|(offset, _)| !gone.contains(offset));
    warnings.sort_by_key(|warning| warning.offset);
    Ok(())
}
