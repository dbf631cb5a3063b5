//! Finding every function: every bus behind every bridge, and buses that no bridge leads to. Nothing that a function
//! says can make this loop or leave the buses that firmware gave.

use alloc::vec::Vec;
use core::fmt;

use iommu::address::{PciAddress, SourceId};

use super::access::ConfigurationAccess;
use super::function::{Acs, Buses, Class, Express, ExpressKind, Function, capability};
use super::{bars, lists};

pub(super) const VENDOR: u16 = 0x00;
pub(super) const COMMAND: u16 = 0x04;
const CLASS: u16 = 0x08;
const HEADER_TYPE: u16 = 0x0e;
const SUBSYSTEM: u16 = 0x2c;
const INTERRUPT_PIN: u16 = 0x3d;
const BUS_NUMBERS: u16 = 0x18;

/// Bits of the command register.
pub(super) const COMMAND_PORTS: u16 = 1 << 0;
pub(super) const COMMAND_MEMORY: u16 = 1 << 1;
const COMMAND_BUS_MASTER: u16 = 1 << 2;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Enumeration {
    /// Every function, a bridge before what is behind it.
    pub functions: Vec<Function>,
    /// What is wrong with some of them.
    pub problems: Vec<PciProblem>,
}

/// What is wrong with a function. It is listed all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PciProblem {
    /// A bridge leads to a bus that something else leads to, or to one that cannot be reached.
    BadBus {
        /// The bridge.
        bridge: PciAddress,
        /// The bus.
        bus: u8,
    },
    /// A list of capabilities comes back to itself or leaves configuration space; what was found until then counts.
    BadList {
        /// The function.
        function: PciAddress,
        /// Where the list goes wrong.
        offset: u16,
    },
}

impl fmt::Display for PciProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadBus { bridge, bus } => write!(
                f,
                "bridge {bridge} says that bus {bus:02x} is behind it, but another bridge leads there or no \
                 configuration space does; what is behind it is not used"
            ),
            Self::BadList { function, offset } => write!(
                f,
                "the capability list of {function} goes wrong at {offset:#x}; capabilities behind that are not used"
            ),
        }
    }
}

/// Finds every function, switches bus mastering off for all that are no bridges, and learns the sizes of their BARs.
/// To be called before anything uses a function.
pub fn enumerate(access: &impl ConfigurationAccess) -> Enumeration {
    let mut found = Enumeration::default();
    for (segment, first, last) in access.segments() {
        let mut seen = [false; 256];
        // The first bus is a root bus; after it and what is behind it, each bus that was not reached may be one.
        for root in first..=last {
            let mut waiting = Vec::new();
            if mark(&mut seen, root) {
                waiting.push((root, None));
            }
            while let Some((bus, parent)) = waiting.pop() {
                let begin = found.functions.len();
                scan_bus(access, segment, bus, parent, &mut found);
                let bridges = found.functions.get(begin..).unwrap_or_default();
                // The last bridge is scanned first otherwise: the list is a stack.
                for (bridge, buses) in bridges.iter().rev().filter_map(|found| Some((found.address, found.bridge?))) {
                    let bus = buses.secondary;
                    if bus == 0 {
                        continue; // Firmware gave it no bus: nothing behind it answers.
                    }
                    if (first..=last).contains(&bus) && mark(&mut seen, bus) {
                        waiting.push((bus, Some(bridge)));
                    } else {
                        found.problems.push(PciProblem::BadBus { bridge, bus });
                    }
                }
            }
        }
    }
    found
}

/// Marks a bus as seen; false where it was already.
fn mark(seen: &mut [bool; 256], bus: u8) -> bool {
    seen.get_mut(usize::from(bus)).is_some_and(|seen| !core::mem::replace(seen, true))
}

fn scan_bus(
    access: &impl ConfigurationAccess,
    segment: u16,
    bus: u8,
    parent: Option<PciAddress>,
    found: &mut Enumeration,
) {
    for device in 0..32 {
        let address = |function| PciAddress { segment, source: SourceId::new(bus, device, function) };
        let absent = |address| matches!(access.read_u16(address, VENDOR), 0 | 0xffff);
        if absent(address(0)) {
            continue;
        }
        let multifunction = access.read_u8(address(0), HEADER_TYPE) & 0x80 != 0;
        for function in 0..if multifunction { 8 } else { 1 } {
            let address = address(function);
            if !absent(address) {
                let function = read(access, address, multifunction, parent, &mut found.problems);
                found.functions.push(function);
            }
        }
    }
}

fn read(
    access: &impl ConfigurationAccess,
    address: PciAddress,
    multifunction: bool,
    parent: Option<PciAddress>,
    problems: &mut Vec<PciProblem>,
) -> Function {
    let header_type = access.read_u8(address, HEADER_TYPE) & 0x7f;
    let class = access.read_u32(address, CLASS).to_le_bytes();
    let [revision, interface, sub, base] = class;
    let subsystem = (header_type == 0)
        .then(|| (access.read_u16(address, SUBSYSTEM), access.read_u16(address, SUBSYSTEM + 2)))
        .filter(|(vendor, _)| !matches!(vendor, 0 | 0xffff));
    let capabilities = lists::capabilities(access, address, problems);
    let express_at = capabilities.iter().find(|found| found.id == capability::EXPRESS).map(|found| found.offset);
    let express = express_at.map(u16::from).map(|at| Express {
        kind: ExpressKind::from_bits((access.read_u16(address, at + 2) >> 4 & 0xf) as u8),
        function_level_reset: access.read_u32(address, at + 4) & 1 << 28 != 0,
    });
    // A conventional function may repeat its first 256 bytes up there.
    let extended_capabilities =
        express.map(|_| lists::extended_capabilities(access, address, problems)).unwrap_or_default();
    let extended = |id| extended_capabilities.iter().find(|found| found.id == id).map(|found| found.offset);
    let mut function = Function {
        address,
        vendor: access.read_u16(address, VENDOR),
        device: access.read_u16(address, VENDOR + 2),
        class: Class { base, sub, interface, revision },
        header_type,
        multifunction,
        subsystem,
        interrupt_pin: access.read_u8(address, INTERRUPT_PIN),
        bars: [None; 6],
        rom: None,
        express,
        bridge: matches!(header_type, 1 | 2).then(|| {
            let [primary, secondary, subordinate, _] = access.read_u32(address, BUS_NUMBERS).to_le_bytes();
            Buses { primary, secondary, subordinate }
        }),
        parent,
        acs: extended(capability::ACCESS_CONTROL).map(|offset| Acs {
            offset,
            capability: access.read_u16(address, offset.saturating_add(4)),
            control: access.read_u16(address, offset.saturating_add(6)),
        }),
        virtual_functions: extended(capability::SINGLE_ROOT_IO_VIRTUALIZATION)
            .map(|offset| access.read_u16(address, offset.saturating_add(0xe))),
        was_bus_master: false,
        capabilities,
        extended_capabilities,
    };
    if !function.is_bridge() {
        let command = access.read_u16(address, COMMAND);
        function.was_bus_master = command & COMMAND_BUS_MASTER != 0;
        if function.was_bus_master {
            access.write_u16(address, COMMAND, command & !COMMAND_BUS_MASTER);
        }
    }
    bars::size(access, &mut function);
    function
}

#[cfg(test)]
#[path = "scan_tests.rs"]
mod tests;
