//! The enhanced configuration access mechanism: configuration space as memory (PCI Express Base Specification, section
//! 7.2.2; PCI Firmware Specification, section 4.1.2).

use alloc::vec::Vec;
use core::ops::Range;

use iommu::address::{HostPhysical, PciAddress};

use super::access::ConfigurationAccess;
use crate::memory::{MapMmioError, Mmio, map_mmio};
use crate::platform::acpi::EcamRegion;

/// The machine's configuration space.
#[derive(Clone, Debug, Default)]
pub struct Ecam {
    regions: Vec<Region>,
}

/// The configuration space of some buses of one segment.
#[derive(Clone, Copy, Debug)]
struct Region {
    segment: u16,
    first_bus: u8,
    last_bus: u8,
    base: HostPhysical,
    /// Begins with the first bus.
    window: Mmio,
}

impl Ecam {
    /// The physical addresses that it takes: the first of each part, and behind the last.
    pub fn ranges(&self) -> impl Iterator<Item = Range<u64>> {
        self.regions.iter().map(|region| {
            let start = region.base.as_u64();
            start..start.saturating_add(region.window.length())
        })
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

/// Maps the configuration spaces that firmware lists. Those that cannot be mapped are left out, with the reason.
pub fn map(regions: &[EcamRegion]) -> (Ecam, Vec<(EcamRegion, MapMmioError)>) {
    let (mut mapped, mut failed) = (Vec::new(), Vec::new());
    for region in regions {
        match map_mmio(region.first(), region.length()) {
            Ok(window) => mapped.push(Region {
                segment: region.segment,
                first_bus: region.first_bus,
                last_bus: region.last_bus,
                base: region.first(),
                window,
            }),
            Err(error) => failed.push((*region, error)),
        }
    }
    (Ecam { regions: mapped }, failed)
}

#[cfg(test)]
mod tests {
    use core::ptr::NonNull;

    use super::*;

    #[test]
    fn a_function_has_its_own_4096_bytes() {
        let memory = Box::leak(vec![0u64; (2 << 20) / 8].into_boxed_slice());
        // SAFETY: leaked, aligned, and only reached through the window.
        let window = unsafe { Mmio::new(NonNull::from(memory).cast(), 2 << 20) };
        let ecam = Ecam {
            regions: vec![Region { segment: 3, first_bus: 0x10, last_bus: 0x11, base: HostPhysical::new(0), window }],
        };
        let function = PciAddress::new(3, 0x11, 2, 5);
        ecam.write_u32(function, 0x104, 0xdead_beef);
        assert_eq!(window.read_u32(1 << 20 | 2 << 15 | 5 << 12 | 0x104), 0xdead_beef);
        assert_eq!(ecam.read_u8(function, 0x105), 0xbe);
        for (wrong, offset) in [
            (PciAddress::new(0, 0x11, 2, 5), 0x104),
            (PciAddress::new(3, 0x12, 2, 5), 0x104),
            (PciAddress::new(3, 0x0f, 2, 5), 0x104),
            (function, 0x1104),
            (function, 0x106),
        ] {
            assert_eq!(ecam.read_u32(wrong, offset), u32::MAX);
        }
    }
}
