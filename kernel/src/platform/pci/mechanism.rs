//! Which of the two ways to configuration space this machine has.

use alloc::vec::Vec;
use core::ops::Range;

use iommu::address::PciAddress;

use super::access::ConfigurationAccess;
use super::{Ecam, Ports};

/// The machine's way to configuration space.
#[derive(Clone, Debug)]
pub enum Mechanism {
    /// The enhanced one: memory.
    Enhanced(Ecam),
    /// The old one: two ports. Extended capabilities are out of its reach and read as absent.
    Ports(Ports),
}

impl Mechanism {
    /// The physical addresses that it takes: the first of each part, and behind the last.
    pub fn ranges(&self) -> impl Iterator<Item = Range<u64>> {
        let ecam = match self {
            Self::Enhanced(ecam) => Some(ecam),
            Self::Ports(_) => None,
        };
        ecam.into_iter().flat_map(Ecam::ranges)
    }
}

macro_rules! delegate {
    ($($name:ident($($argument:ident: $kind:ty),*) -> $result:ty;)*) => {
        $(fn $name(&self, $($argument: $kind),*) -> $result {
            match self {
                Self::Enhanced(ecam) => ecam.$name($($argument),*),
                Self::Ports(ports) => ports.$name($($argument),*),
            }
        })*
    };
}

impl ConfigurationAccess for Mechanism {
    delegate! {
        read_u8(function: PciAddress, offset: u16) -> u8;
        read_u16(function: PciAddress, offset: u16) -> u16;
        read_u32(function: PciAddress, offset: u16) -> u32;
        write_u8(function: PciAddress, offset: u16, value: u8) -> ();
        write_u16(function: PciAddress, offset: u16, value: u16) -> ();
        write_u32(function: PciAddress, offset: u16, value: u32) -> ();
        segments() -> Vec<(u16, u8, u8)>;
    }
}
