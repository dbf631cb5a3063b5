//! The enhanced configuration access mechanism: configuration space as memory (PCI Express Base Specification, section
//! 7.2.2; PCI Firmware Specification, section 4.1.2).

use alloc::vec::Vec;

use iommu::address::PciAddress;

use super::access::ConfigurationAccess;
use crate::memory::Mmio;

/// The machine's configuration space.
#[derive(Clone, Debug, Default)]
pub struct Ecam {
    regions: Vec<Region>,
}

/// The configuration space of some buses of one segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Region {
    pub(super) segment: u16,
    pub(super) first_bus: u8,
    pub(super) last_bus: u8,
    /// Begins with the first bus.
    pub(super) window: Mmio,
}

impl Ecam {
    pub(super) fn new(regions: Vec<Region>) -> Self {
        Self { regions }
    }

    fn place(&self, function: PciAddress, offset: u16) -> Option<(&Mmio, u64)> {
        let bus = function.source.bus();
        let region = self
            .regions
            .iter()
            .find(|region| region.segment == function.segment && (region.first_bus..=region.last_bus).contains(&bus))?;
        if offset >= 4096 {
            return None;
        }
        let bus = u64::from(bus - region.first_bus);
        Some((&region.window, bus << 20 | u64::from(function.source.devfn()) << 12 | u64::from(offset)))
    }
}

impl ConfigurationAccess for Ecam {
    fn read_u8(&self, function: PciAddress, offset: u16) -> u8 {
        self.place(function, offset).map_or(!0, |(window, offset)| window.read_u8(offset))
    }

    fn read_u16(&self, function: PciAddress, offset: u16) -> u16 {
        self.place(function, offset).map_or(!0, |(window, offset)| window.read_u16(offset))
    }

    fn read_u32(&self, function: PciAddress, offset: u16) -> u32 {
        self.place(function, offset).map_or(!0, |(window, offset)| window.read_u32(offset))
    }

    fn write_u8(&self, function: PciAddress, offset: u16, value: u8) {
        if let Some((window, offset)) = self.place(function, offset) {
            window.write_u8(offset, value);
        }
    }

    fn write_u16(&self, function: PciAddress, offset: u16, value: u16) {
        if let Some((window, offset)) = self.place(function, offset) {
            window.write_u16(offset, value);
        }
    }

    fn write_u32(&self, function: PciAddress, offset: u16, value: u32) {
        if let Some((window, offset)) = self.place(function, offset) {
            window.write_u32(offset, value);
        }
    }

    fn segments(&self) -> Vec<(u16, u8, u8)> {
        self.regions.iter().map(|region| (region.segment, region.first_bus, region.last_bus)).collect()
    }
}
