//! Functions with a TLB of their own (PCI Express Base Specification, chapter 10, ATS; VT-d section 4.2): which may use
//! it, and the switch in the function.
//!
//! A function with ATS on sends requests that it calls translated, and the unit believes it. A function that lies then
//! reaches all of memory, so ATS is off unless the configuration says `allow = ["device-tlb"]` for its VM. Where it is
//! on, the driver invalidates the function's TLB after its own caches, and last when the function is detached.

use alloc::vec::Vec;

use iommu::address::PciAddress;
use iommu::dmar::RootPorts;
use passthrough::door::ConfigurationSpace;

use super::FunctionSpace;
use crate::platform::pci::Function;

/// The ATS capability (section 10.5.1).
const ATS: u16 = 0x0f;
/// Its capability register; bits 4:0: how many invalidations the function takes at a time, 0 for 32.
const CAPABILITY: u16 = 4;
const DEPTH: u16 = 0x1f;
/// Its control register; bits 4:0, the smallest translation unit, are 0: 4 KiB.
const CONTROL: u16 = 6;
const ENABLE: u16 = 1 << 15;

/// The TLB of one function.
#[derive(Clone)]
pub(super) struct DeviceTlb<C = FunctionSpace> {
    pub(super) function: PciAddress,
    space: C,
    /// The capability's place.
    at: u16,
    /// How many invalidations it takes at a time, 1 to 32.
    pub(super) depth: u8,
}

impl<C: ConfigurationSpace> DeviceTlb<C> {
    /// That of `function`, if it has one and stands where requests for it are passed on.
    pub(super) fn of(function: &Function, functions: &[Function], ports: &[RootPorts], space: C) -> Option<Self> {
        let at = function.extended_capabilities.iter().find(|found| found.id == ATS)?.offset;
        if !is_served(function, functions, ports) {
            return None;
        }
        let depth = match space.read_u16(at.saturating_add(CAPABILITY)) & DEPTH {
            0 => 32,
            depth => depth as u8,
        };
        Some(Self { function: function.address, space, at, depth })
    }

    /// Lets the function use it. Its context entry says already that it may. A reset of the function keeps this.
    pub(super) fn enable(&self) {
        self.space.write_u16(self.at.saturating_add(CONTROL), ENABLE);
    }

    /// Lets the function use it no longer. What it holds still has to be invalidated.
    pub(super) fn disable(&self) {
        self.space.write_u16(self.at.saturating_add(CONTROL), 0);
    }
}

/// Whether everything between the function and the unit passes on requests for translations: nothing stands there, or
/// PCI Express all the way up to a root port that the DMAR table lists for it (VT-d section 8.5).
fn is_served(function: &Function, functions: &[Function], ports: &[RootPorts]) -> bool {
    let mut top = function;
    // No path is longer than there are functions.
    for _ in functions {
        if top.express.is_none() {
            return false;
        }
        let Some(parent) = top.parent else { break };
        let Some(bridge) = functions.iter().find(|other| other.address == parent) else { return false };
        top = bridge;
    }
    top.address == function.address || ports.iter().any(|ports| lists(ports, top.address))
}

/// Whether an ATSR lists the root port. Root ports stand on root buses, so that their paths have one hop.
fn lists(ports: &RootPorts, port: PciAddress) -> bool {
    let is_named = || {
        ports.scopes.iter().any(|scope| {
            let hops: Vec<_> = scope.path.iter().map(|hop| (hop.device, hop.function)).collect();
            scope.start_bus == port.source.bus() && hops == [(port.source.device(), port.source.function())]
        })
    };
    ports.segment == port.segment && (ports.all || is_named())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::pci::{Express, ExpressKind, ExtendedCapability};

    fn express(bus: u8, device: u8, parent: Option<PciAddress>) -> Function {
        let mut function = Function::bare(PciAddress::new(0, bus, device, 0));
        function.express = Some(Express { kind: ExpressKind::Endpoint, function_level_reset: false });
        function.parent = parent;
        function.extended_capabilities = [ExtendedCapability { id: ATS, version: 1, offset: 0x100 }].into();
        function
    }

    #[test]
    fn requests_for_translations_pass_root_ports_that_the_table_lists_and_no_conventional_bridge() {
        let port = PciAddress::new(0, 0, 3, 0);
        let mut functions = [express(0, 3, None), express(1, 0, Some(port)), express(0, 5, None)];
        let all = |all| RootPorts { segment: 0, all, scopes: Vec::new() };
        assert!(is_served(&functions[1], &functions, &[all(true)]));
        assert!(!is_served(&functions[1], &functions, &[all(false)]));
        assert!(!is_served(&functions[1], &functions, &[RootPorts { segment: 1, ..all(true) }]));
        assert!(!is_served(&functions[1], &functions, &[]));
        assert!(is_served(&functions[2], &functions, &[]), "integrated");
        functions[0].express = None;
        assert!(!is_served(&functions[1], &functions, &[all(true)]));
    }

    #[test]
    fn the_switch_and_the_depth_are_the_functions() {
        let trace = Default::default();
        let space = passthrough::fake::FakeFunction::new("ats", 4096, &trace);
        space.put(0x104, 2, 0x0025, 0);
        space.put(0x106, 2, 0, 0x801f);
        let function = express(0, 5, None);
        let tlb = DeviceTlb::of(&function, &[], &[], space.clone()).unwrap();
        assert_eq!(tlb.depth, 5);
        tlb.enable();
        assert_eq!(space.peek(0x106, 2), 0x8000);
        tlb.disable();
        assert_eq!(space.peek(0x106, 2), 0);
        space.put(0x104, 2, 0x0020, 0);
        assert_eq!(DeviceTlb::of(&function, &[], &[], space).unwrap().depth, 32);
        assert!(DeviceTlb::of(&Function::bare(function.address), &[], &[], FakeNothing).is_none());
    }

    /// A configuration space that must not be looked at.
    struct FakeNothing;

    impl ConfigurationSpace for FakeNothing {
        fn size(&self) -> u16 {
            0
        }
        fn read_u8(&self, _: u16) -> u8 {
            unreachable!()
        }
        fn read_u16(&self, _: u16) -> u16 {
            unreachable!()
        }
        fn read_u32(&self, _: u16) -> u32 {
            unreachable!()
        }
        fn write_u8(&self, _: u16, _: u8) {
            unreachable!()
        }
        fn write_u16(&self, _: u16, _: u16) {
            unreachable!()
        }
        fn write_u32(&self, _: u16, _: u32) {
            unreachable!()
        }
    }
}
