//! Switching on what isolates: the ACS services that a function has and that firmware left off.

use iommu::address::PciAddress;

use super::function::{AcsFlags, Function};
use super::quirks;
use crate::config::capability::{ExtendedCapabilities, extended_id};
use crate::door::ConfigurationSpace;

/// Switches on every service of [`AcsFlags::ISOLATION`] that the function at `address` has (PCI Express Base section
/// 7.7.11.3). What was off and is on now; empty where there was nothing to do or no ACS.
///
/// To be done before groups are built: [`Function::read`] reports what is on.
pub fn enable_isolation(address: PciAddress, space: &impl ConfigurationSpace) -> AcsFlags {
    let Some(function) = Function::read(address, space) else { return AcsFlags::empty() };
    let Some(acs) = function.acs else { return AcsFlags::empty() };
    let missing = (AcsFlags::ISOLATION & acs.capability).difference(acs.control);
    let found = ExtendedCapabilities::new(space).find(|found| found.id == extended_id::ACS);
    let Some(capability) = found.filter(|_| !missing.is_empty()) else { return AcsFlags::empty() };
    let wide = quirks::has_wide_acs(function.vendor, function.device, function.kind);
    let control = capability.offset.saturating_add(if wide { 8 } else { 6 });
    // The register's other bits (egress control, reserved ones) stay as they are.
    space.write_u16(control, space.read_u16(control) | missing.bits());
    missing & AcsFlags::from_bits_truncate(space.read_u16(control))
}

#[cfg(test)]
mod tests {
    use core::cell::RefCell;
    use std::vec;
    use std::vec::Vec;

    use super::*;

    struct Bytes(RefCell<Vec<u8>>);

    impl ConfigurationSpace for Bytes {
        fn size(&self) -> u16 {
            4096
        }
        fn read_u8(&self, offset: u16) -> u8 {
            self.0.borrow()[usize::from(offset)]
        }
        fn read_u16(&self, offset: u16) -> u16 {
            u16::from_le_bytes([self.read_u8(offset), self.read_u8(offset + 1)])
        }
        fn read_u32(&self, offset: u16) -> u32 {
            u32::from(self.read_u16(offset)) | u32::from(self.read_u16(offset + 2)) << 16
        }
        fn write_u8(&self, offset: u16, value: u8) {
            self.0.borrow_mut()[usize::from(offset)] = value;
        }
        fn write_u16(&self, offset: u16, value: u16) {
            for (at, byte) in (offset..).zip(value.to_le_bytes()) {
                self.write_u8(at, byte);
            }
        }
        fn write_u32(&self, offset: u16, value: u32) {
            for (at, byte) in (offset..).zip(value.to_le_bytes()) {
                self.write_u8(at, byte);
            }
        }
    }

    /// A root port with ACS `capability` at 0x148, its control register holding `control`.
    fn root_port(device: u16, capability: u32, control: u16) -> Bytes {
        let space = Bytes(RefCell::new(vec![0; 4096]));
        space.write_u16(0x00, 0x8086);
        space.write_u16(0x02, device);
        space.write_u16(0x06, 1 << 4);
        space.write_u8(0x0e, 1);
        space.write_u8(0x34, 0x40);
        space.write_u16(0x40, 0x10);
        space.write_u16(0x42, 0x42);
        space.write_u32(0x100, 0x148 << 20 | 1 << 16 | 0x01);
        space.write_u32(0x148, 1 << 16 | 0x0d);
        space.write_u16(0x14c, capability as u16);
        space.write_u16(0x14e, control);
        space
    }

    const PORT: PciAddress = PciAddress::new(0, 0, 3, 0);

    #[test]
    fn what_the_port_has_is_switched_on_and_the_rest_left_alone() {
        let space = root_port(0x1234, 0x1f, 0x20 | 1);
        let on = enable_isolation(PORT, &space);
        assert_eq!(on, AcsFlags::ISOLATION.difference(AcsFlags::SOURCE_VALIDATION));
        assert_eq!(space.read_u16(0x14e), 0x20 | AcsFlags::ISOLATION.bits());
        assert_eq!(
            Function::read(PORT, &space).unwrap().acs.unwrap().control,
            AcsFlags::ISOLATION | AcsFlags::EGRESS_CONTROL
        );
        assert!(enable_isolation(PORT, &space).is_empty(), "the second time there is nothing to do");
    }

    #[test]
    fn a_service_that_the_port_lacks_is_not_asked_for() {
        let space = root_port(0x1234, 0x01, 0);
        assert_eq!(enable_isolation(PORT, &space), AcsFlags::SOURCE_VALIDATION);
        assert_eq!(space.read_u16(0x14e), 1);
    }

    #[test]
    fn the_wide_registers_of_some_chipsets_are_found() {
        let space = root_port(0xa110, 0x1f, 0);
        enable_isolation(PORT, &space);
        assert_eq!(space.read_u16(0x14e), 0, "the upper half of the capability register");
        assert_eq!(space.read_u16(0x150), AcsFlags::ISOLATION.bits());
    }
}
