//! The DMAR table: what firmware says about remapping units, reserved memory and devices (VT-d chapter 8).
//!
//! Nothing in it is trusted. [`Dmar::parse`] reads inside the slice only, ends on every input, and sorts what it finds:
//! a unit that cannot be told for sure makes the table worthless (its devices would be uncovered, and nobody could say
//! which), so that is an error; anything else that is wrong is left out with a [`Warning`].
//! [`Coverage`] then answers which unit a device is behind.

#[cfg(test)]
mod corpus;
mod coverage;
mod error;
mod parse;
mod scope;
mod structure;
#[cfg(test)]
mod tests;

use alloc::string::String;
use alloc::vec::Vec;

use bitflags::bitflags;

pub use coverage::{BridgeBuses, Buses, Coverage, Placement, ReservedRange};
pub use error::{DmarError, Problem, Warning};
pub use scope::{Hop, Scope, ScopeKind};
pub use structure::{Structure, StructureKind};

use crate::address::HostPhysical;

bitflags! {
    /// The table's flags.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Flags: u8 {
        /// The platform can remap interrupts. Clear: leave it off, whatever units say.
        const INTERRUPT_REMAPPING = 1 << 0;
        /// Firmware asks to leave x2APIC mode off.
        const X2APIC_OPT_OUT = 1 << 1;
        /// Firmware blocked DMA until now and asks that it stays blocked.
        const DMA_CONTROL_OPT_IN = 1 << 2;
    }
}

/// A parsed table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dmar {
    /// The table's revision. Later ones than this crate knows are read as far as they are known.
    pub revision: u8,
    /// Who made the table (OEM id), as firmware pads it.
    pub oem: [u8; 6],
    /// What it is called there (OEM table id), as firmware pads it.
    pub oem_table: [u8; 8],
    /// The widest physical address that devices use, in bits, 12 to 64. Firmware's word; the processor's is the truth.
    pub host_address_width: u8,
    /// Flags.
    pub flags: Flags,
    /// DRHD: the remapping units, in the table's order. At least one.
    pub units: Vec<UnitDefinition>,
    /// RMRR: memory that firmware keeps devices using.
    pub reserved_memory: Vec<ReservedMemory>,
    /// ATSR: root ports below which devices may have a TLB of their own.
    pub root_ports: Vec<RootPorts>,
    /// RHSA: which NUMA node a unit belongs to.
    pub affinities: Vec<Affinity>,
    /// ANDD: names of devices that are not PCI functions.
    pub acpi_devices: Vec<AcpiDevice>,
    /// SATC: integrated devices with a TLB of their own.
    pub address_translation_caches: Vec<AddressTranslationCaches>,
    /// SIDP: devices with special assignment properties.
    pub special_devices: Vec<SpecialDevices>,
    /// What is wrong with the table and was left out, in the table's order.
    pub warnings: Vec<Warning>,
    /// Where each structure that was kept stands, in the table's order; the n-th of a kind is the n-th of its list.
    pub order: Vec<(usize, StructureKind)>,
}

/// DRHD: one remapping unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitDefinition {
    /// The PCI segment of all its devices.
    pub segment: u16,
    /// Its registers: 4 KiB aligned, not 0.
    pub base: HostPhysical,
    /// Bytes of registers that firmware sets aside, at least 4 KiB.
    pub size: u64,
    /// It covers every function of the segment that no other unit names.
    pub includes_all: bool,
    /// What it covers by name.
    pub scopes: Vec<Scope>,
}

/// RMRR: memory that some devices use on firmware's behalf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReservedMemory {
    /// The segment of its devices.
    pub segment: u16,
    /// The first byte.
    pub first: HostPhysical,
    /// The last byte.
    pub last: HostPhysical,
    /// The devices.
    pub scopes: Vec<Scope>,
    /// Why the range must not be mapped, if so. Its devices still count as devices with reserved memory: they cannot
    /// work as firmware wants, and cannot be given away as if nothing were reserved.
    pub defect: Option<Problem>,
}

/// ATSR.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootPorts {
    /// The segment.
    pub segment: u16,
    /// Every root port of the segment, whatever the scopes say.
    pub all: bool,
    /// The root ports.
    pub scopes: Vec<Scope>,
}

/// RHSA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Affinity {
    /// The unit's registers.
    pub base: HostPhysical,
    /// The proximity domain, as in the SRAT table.
    pub proximity_domain: u32,
}

/// ANDD.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcpiDevice {
    /// The number by which scopes name it.
    pub number: u8,
    /// Its path in the ACPI namespace; printable ASCII.
    pub name: String,
}

/// SATC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressTranslationCaches {
    /// The segment.
    pub segment: u16,
    /// The devices do not work without.
    pub required: bool,
    /// The devices.
    pub scopes: Vec<Scope>,
}

/// SIDP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecialDevices {
    /// The segment.
    pub segment: u16,
    /// The devices; their flags say what is special.
    pub scopes: Vec<Scope>,
}

impl Dmar {
    /// Parses the bytes from the table's signature on; they may go on past the table's end.
    ///
    /// # Errors
    ///
    /// Whatever leaves it unclear which units there are or which devices they cover.
    pub fn parse(bytes: &[u8]) -> Result<Self, DmarError> {
        let (dmar, refused) = Self::inspect(bytes);
        refused.map_or(Ok(dmar), Err)
    }

    /// What can be read of a table, with the reason for which it cannot be used, if there is one. For whoever looks at
    /// a table; a driver takes [`parse`](Self::parse), since what was read before an error covers nobody for sure.
    pub fn inspect(bytes: &[u8]) -> (Self, Option<DmarError>) {
        let mut dmar = Self::default();
        let refused = parse::parse(bytes, &mut dmar).err();
        (dmar, refused)
    }

    /// Holds the table against the memory map. `is_ram` tells whether any byte of `first..=last` is memory that
    /// programs use.
    ///
    /// A reserved range in such memory gets a [`defect`](ReservedMemory::defect) and a warning: mapped, it would give
    /// its device that memory.
    ///
    /// # Errors
    ///
    /// A unit's registers lie in RAM.
    pub fn check_memory(&mut self, is_ram: impl Fn(HostPhysical, HostPhysical) -> bool) -> Result<(), DmarError> {
        for unit in &self.units {
            if is_ram(unit.base, unit.last()) {
                return Err(DmarError::RegistersInRam { base: unit.base });
            }
        }
        for region in &mut self.reserved_memory {
            if region.defect.is_none() && is_ram(region.first, region.last) {
                let problem = Problem::ReservedMemoryInRam { first: region.first, last: region.last };
                region.defect = Some(problem);
                self.warnings.push(Warning { offset: None, structure: "RMRR", problem });
            }
        }
        Ok(())
    }
}

impl UnitDefinition {
    /// The last byte of its registers.
    pub fn last(&self) -> HostPhysical {
        HostPhysical::new(self.base.as_u64().saturating_add(self.size.saturating_sub(1)))
    }
}
