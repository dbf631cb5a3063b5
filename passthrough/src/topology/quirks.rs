//! Functions whose isolation or requester id is not what their configuration space says.
//!
//! The entries are facts about hardware that vendors confirmed to Linux's developers; an entry makes a group smaller
//! only where the vendor says that peer-to-peer traffic does not happen.

use super::function::{Function, Kind, PortType};
use super::isolation::Leak;

const INTEL: u16 = 0x8086;

/// Root ports of Intel chipsets (PCH) from the 5 to the 9 series: no ACS capability, but bits in the chipset
/// (BSPR/UPDCR and the port's MPC register) that switch peer-to-peer traffic off. First and last device id, step.
const CHIPSET_SWITCH: [(u16, u16, u16); 9] = [
    (0x3b42, 0x3b51, 1), // Ibex Peak
    (0x1c10, 0x1c1f, 1), // Cougar Point
    (0x1e10, 0x1e1f, 1), // Panther Point
    (0x8c10, 0x8c1f, 1), // Lynx Point H
    (0x9c10, 0x9c1b, 1), // Lynx Point LP
    (0x9c90, 0x9c9b, 1), // Wildcat Point LP
    (0x1d10, 0x1d1e, 2), // Patsburg
    (0x8d10, 0x8d1f, 1), // Wellsburg
    (0x8c90, 0x8c9e, 2), // Lynx Point, 9 series
];

/// Root ports of Intel chipsets (Sunrise Point, Union Point, 7th and 8th generation mobile) whose ACS capability and
/// control registers are four bytes wide each.
const WIDE_ACS: [(u16, u16); 5] =
    [(0xa110, 0xa11f), (0xa167, 0xa16a), (0xa290, 0xa29f), (0xa2e7, 0xa2ee), (0x9d10, 0x9d1b)];

/// Multifunction endpoints that have no ACS and whose vendors vouch that their functions do not reach one another.
/// Vendor, first and last device id.
const SEPARATE_FUNCTIONS: [(u16, u16, u16); 29] = [
    (0x10df, 0x0720, 0x0720), // Emulex
    (0x1924, 0x0903, 0x0903), // Solarflare
    (0x1924, 0x0923, 0x0923),
    (0x1924, 0x0a03, 0x0a03),
    (INTEL, 0x10c6, 0x10c6), // 82598
    (INTEL, 0x10db, 0x10db),
    (INTEL, 0x10dd, 0x10dd),
    (INTEL, 0x10e1, 0x10e1),
    (INTEL, 0x10f1, 0x10f1),
    (INTEL, 0x10f7, 0x10fc), // 82599
    (INTEL, 0x1507, 0x1507),
    (INTEL, 0x1514, 0x1514),
    (INTEL, 0x151c, 0x151c),
    (INTEL, 0x1529, 0x152a),
    (INTEL, 0x154d, 0x154d),
    (INTEL, 0x154f, 0x154f),
    (INTEL, 0x1551, 0x1551),
    (INTEL, 0x1558, 0x1558),
    (INTEL, 0x1509, 0x1509), // 82580
    (INTEL, 0x150e, 0x1511),
    (INTEL, 0x1516, 0x1516),
    (INTEL, 0x1527, 0x1527),
    (INTEL, 0x10c9, 0x10c9), // 82576
    (INTEL, 0x10e6, 0x10e8),
    (INTEL, 0x150a, 0x150a),
    (INTEL, 0x150d, 0x150d),
    (INTEL, 0x1518, 0x1518),
    (INTEL, 0x1521, 0x1524), // I350
    (INTEL, 0x15b7, 0x15b8), // I219
];

/// Functions that sign with the id of another function of their device. Vendor, device id, that function.
const SIGNS_AS: [(u16, u16, u8); 23] = [
    (0x1180, 0xe832, 0), // Ricoh
    (0x1180, 0xe476, 0),
    (0x1b4b, 0x9120, 1), // Marvell
    (0x1b4b, 0x9123, 1),
    (0x1b4b, 0x9125, 1),
    (0x1b4b, 0x9128, 1),
    (0x1b4b, 0x9130, 1),
    (0x1b4b, 0x9170, 1),
    (0x1b4b, 0x9172, 1),
    (0x1b4b, 0x917a, 1),
    (0x1b4b, 0x9182, 1),
    (0x1b4b, 0x9183, 1),
    (0x1b4b, 0x91a0, 1),
    (0x1b4b, 0x9215, 1),
    (0x1b4b, 0x9220, 1),
    (0x1b4b, 0x9230, 1),
    (0x1b4b, 0x9235, 1),
    (0x1b4b, 0x0642, 1),
    (0x1b4b, 0x0645, 1),
    (0x1103, 0x0642, 1), // HighPoint
    (0x1103, 0x0645, 1),
    (0x197b, 0x2392, 1), // JMicron
    (0x1c28, 0x0122, 1), // Lite-On
];

/// What is known of a function beside what its configuration space says: isolated, or not and why. `None`: nothing.
pub(super) fn isolation(function: &Function) -> Option<Result<(), Leak>> {
    let Function { vendor, device, .. } = *function;
    if is_chipset_switched(function) {
        return Some(if function.chipset_isolation { Ok(()) } else { Err(Leak::ChipsetSwitch) });
    }
    // Intel's integrated endpoints reach peers with translated requests alone (VT-d section 3.16).
    if vendor == INTEL && function.kind == Kind::Express(PortType::RootComplexIntegratedEndpoint) {
        return Some(Ok(()));
    }
    let separate = SEPARATE_FUNCTIONS.iter().any(|&(of, first, last)| {
        of == vendor && (first..=last).contains(&device) && function.kind != Kind::Conventional
    });
    separate.then_some(Ok(()))
}

/// Whether a function is a root port with the chipset's own switch in place of ACS.
pub fn is_chipset_switched(function: &Function) -> bool {
    function.vendor == INTEL
        && function.kind == Kind::Express(PortType::RootPort)
        && CHIPSET_SWITCH.iter().any(|&(first, last, step)| {
            (first..=last).contains(&function.device) && function.device.wrapping_sub(first).is_multiple_of(step)
        })
}

/// Whether the ACS control register stands at offset 8 of the capability instead of 6.
pub fn has_wide_acs(vendor: u16, device: u16, kind: Kind) -> bool {
    vendor == INTEL
        && kind == Kind::Express(PortType::RootPort)
        && WIDE_ACS.iter().any(|&(first, last)| (first..=last).contains(&device))
}

/// The number of the function whose id this one signs with, if it is a known faulty one.
pub(super) fn signs_as_function(vendor: u16, device: u16) -> Option<u8> {
    SIGNS_AS.iter().find(|&&(of, id, _)| of == vendor && id == device).map(|&(_, _, number)| number)
}
