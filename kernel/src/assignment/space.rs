//! The configuration space of one function of the machine, as `passthrough` reaches it.

use alloc::sync::Arc;

use iommu::address::PciAddress;
use passthrough::door::ConfigurationSpace;

use crate::platform::pci::{ConfigurationAccess, Mechanism};

/// Bytes of a PCI Express function's configuration space; what the mechanism does not reach reads all ones.
const SIZE: u16 = 4096;

/// One function's configuration space.
#[derive(Clone)]
pub struct FunctionSpace {
    mechanism: Arc<Mechanism>,
    function: PciAddress,
}

impl FunctionSpace {
    /// The space of `function`. One that does not answer reads all ones.
    pub fn new(mechanism: Arc<Mechanism>, function: PciAddress) -> Self {
        Self { mechanism, function }
    }
}

impl ConfigurationSpace for FunctionSpace {
    fn size(&self) -> u16 {
        SIZE
    }

    fn read_u8(&self, offset: u16) -> u8 {
        self.mechanism.read_u8(self.function, offset)
    }

    fn read_u16(&self, offset: u16) -> u16 {
        self.mechanism.read_u16(self.function, offset)
    }

    fn read_u32(&self, offset: u16) -> u32 {
        self.mechanism.read_u32(self.function, offset)
    }

    fn write_u8(&self, offset: u16, value: u8) {
        self.mechanism.write_u8(self.function, offset, value);
    }

    fn write_u16(&self, offset: u16, value: u16) {
        self.mechanism.write_u16(self.function, offset, value);
    }

    fn write_u32(&self, offset: u16, value: u32) {
        self.mechanism.write_u32(self.function, offset, value);
    }
}
