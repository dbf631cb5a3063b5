//! The ACPI tables of a VM (ACPI 6.5): what the address map and the devices are, said to the guest.
//!
//! Legacy hardware model with everything enabled from the start: no SMI command port, ACPI mode always on. All tables
//! lie in the ROM area, root pointer first, where guests without a boot parameter for it search.

mod dsdt;
mod fadt;
mod madt;

use alloc::vec::Vec;
use core::fmt;

use acpi_tables::Aml;
use acpi_tables::facs::FACS;
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::xsdt::XSDT;

use super::map::{ACPI_TABLES, AddressMap};
use super::memory::GuestMemory;
use crate::memory::GuestPhysical;
use crate::vcpu::NotMemory;

/// Who made the tables.
const OEM: [u8; 6] = *b"PSTERN";
/// Which product's tables they are.
const OEM_TABLE: [u8; 8] = *b"POSTERN ";
const OEM_REVISION: u32 = 1;
/// Each table starts at a multiple of this: what the FACS needs, more than the others do.
const ALIGNMENT: u64 = 64;

/// Why no tables can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcpiError {
    /// They do not fit into the ROM area.
    TooLong {
        /// Bytes that they need.
        needed: u64,
    },
    /// The ROM area is not RAM.
    NotMemory,
}

impl fmt::Display for AcpiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { needed } => write!(
                f,
                "the VM's ACPI tables need {needed:#x} bytes, and the ROM area {ACPI_TABLES} is shorter; give the VM \
                 fewer virtual CPUs"
            ),
            Self::NotMemory => NotMemory.fmt(f),
        }
    }
}

impl core::error::Error for AcpiError {}

/// Builds the tables of a VM with `cpus` virtual CPUs (APIC ids from 0) and writes them; gives the root pointer's
/// address.
///
/// # Errors
/// [`AcpiError`] when they do not fit.
pub fn write(map: &AddressMap, cpus: u8, memory: &dyn GuestMemory) -> Result<GuestPhysical, AcpiError> {
    let mut area = Area { memory, next: ACPI_TABLES.start };
    // The root pointer is written last and lies first.
    let root_pointer = area.reserve(Rsdp::len() as u64)?;
    let facs = area.table(&FACS::new())?;
    let dsdt = area.table(&dsdt::build(map))?;
    let fadt = area.table(&fadt::build(facs, dsdt))?;
    let madt = area.table(&madt::build(cpus))?;
    let mut mcfg = MCFG::new(OEM, OEM_TABLE, OEM_REVISION);
    mcfg.add_ecam(map.configuration().start, 0, 0, map.last_bus());
    let mcfg = area.table(&mcfg)?;
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    for table in [fadt, madt, mcfg] {
        xsdt.add_entry(table);
    }
    let xsdt = area.table(&xsdt)?;
    area.write(root_pointer, &bytes_of(&Rsdp::new(OEM, xsdt)))?;
    Ok(GuestPhysical::new(root_pointer))
}

/// The ROM area, filled from its start.
struct Area<'a> {
    memory: &'a dyn GuestMemory,
    next: u64,
}

impl Area<'_> {
    fn reserve(&mut self, length: u64) -> Result<u64, AcpiError> {
        let at = self.next;
        self.next = (at + length).next_multiple_of(ALIGNMENT);
        if self.next > ACPI_TABLES.end() {
            return Err(AcpiError::TooLong { needed: self.next - ACPI_TABLES.start });
        }
        Ok(at)
    }

    fn table(&mut self, table: &dyn Aml) -> Result<u64, AcpiError> {
        let bytes = bytes_of(table);
        let at = self.reserve(bytes.len() as u64)?;
        self.write(at, &bytes)?;
        Ok(at)
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Result<(), AcpiError> {
        self.memory.load(GuestPhysical::new(at), bytes).map_err(|NotMemory| AcpiError::NotMemory)
    }
}

fn bytes_of(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests;
