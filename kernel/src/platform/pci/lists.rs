//! Lists of capabilities (PCI Local Bus Specification section 6.7; PCI Express Base Specification section 7.6.2).

use alloc::vec::Vec;

use iommu::address::PciAddress;

use super::access::ConfigurationAccess;
use super::function::{Capability, ExtendedCapability};
use super::scan::PciProblem;

const STATUS: u16 = 0x06;
const STATUS_HAS_LIST: u16 = 1 << 4;
const FIRST: u16 = 0x34;
/// Where capabilities can begin.
const LOWEST: u8 = 0x40;
const EXTENDED: u16 = 0x100;

/// The capabilities in the first 256 bytes.
pub(super) fn capabilities(
    access: &impl ConfigurationAccess,
    function: PciAddress,
    problems: &mut Vec<PciProblem>,
) -> Vec<Capability> {
    let mut found: Vec<Capability> = Vec::new();
    if access.read_u16(function, STATUS) & STATUS_HAS_LIST == 0 {
        return found;
    }
    // The two lowest bits are reserved.
    let mut offset = access.read_u8(function, FIRST) & !3;
    while offset != 0 {
        if offset < LOWEST || found.iter().any(|before| before.offset == offset) {
            problems.push(PciProblem::BadList { function, offset: offset.into() });
            break;
        }
        let [id, next] = access.read_u16(function, offset.into()).to_le_bytes();
        if id == 0xff {
            problems.push(PciProblem::BadList { function, offset: offset.into() });
            break;
        }
        found.push(Capability { id, offset });
        offset = next & !3;
    }
    found
}

/// The capabilities in the rest of a PCI Express function's 4096 bytes.
pub(super) fn extended_capabilities(
    access: &impl ConfigurationAccess,
    function: PciAddress,
    problems: &mut Vec<PciProblem>,
) -> Vec<ExtendedCapability> {
    let mut found: Vec<ExtendedCapability> = Vec::new();
    let mut offset = EXTENDED;
    while offset != 0 {
        let bad = PciProblem::BadList { function, offset };
        if offset < EXTENDED || found.iter().any(|before| before.offset == offset) {
            problems.push(bad);
            break;
        }
        let header = access.read_u32(function, offset);
        if header == u32::MAX {
            // All ones in the first place is how a function says that it has none at all.
            if offset != EXTENDED {
                problems.push(bad);
            }
            break;
        }
        // Id 0, version 0, next 0: the list is empty. Id 0 with a next is a place that was emptied.
        if header != 0 {
            found.push(ExtendedCapability { id: header as u16, version: (header >> 16 & 0xf) as u8, offset });
        }
        offset = (header >> 20) as u16 & !3;
    }
    found
}
