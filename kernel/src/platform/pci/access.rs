//! How configuration space is reached.

use iommu::address::PciAddress;

/// The configuration space of every function of a machine, or of a make-believe machine in tests. What does not answer
/// reads as all ones. `offset` is below 4096 and a multiple of the access's size.
pub trait ConfigurationAccess {
    /// One 1-byte read.
    fn read_u8(&self, function: PciAddress, offset: u16) -> u8;
    /// One 2-byte read.
    fn read_u16(&self, function: PciAddress, offset: u16) -> u16;
    /// One 4-byte read.
    fn read_u32(&self, function: PciAddress, offset: u16) -> u32;
    /// One 1-byte write.
    fn write_u8(&self, function: PciAddress, offset: u16, value: u8);
    /// One 2-byte write.
    fn write_u16(&self, function: PciAddress, offset: u16, value: u16);
    /// One 4-byte write.
    fn write_u32(&self, function: PciAddress, offset: u16, value: u32);
    /// The buses that can be reached at all, by segment: (segment, first bus, last bus).
    fn segments(&self) -> alloc::vec::Vec<(u16, u8, u8)>;
}
