//! The functions as a tree for the log: a line a function, behind its bridge.

use alloc::vec::Vec;
use core::fmt;

use iommu::address::PciAddress;

use super::function::{Class, ExpressKind, Function, capability};

/// One line of the tree.
pub struct Line<'f> {
    function: &'f Function,
    depth: usize,
}

/// The tree's lines: each bridge, then what is behind it. Takes time in the product of functions and bridges.
pub fn lines(functions: &[Function]) -> Vec<Line<'_>> {
    let mut lines = Vec::new();
    // What still has to be written, the next one last.
    let mut waiting: Vec<Line<'_>> = children(functions, None, 0);
    while let Some(line) = waiting.pop() {
        if line.function.bridge.is_some() {
            waiting.append(&mut children(functions, Some(line.function.address), line.depth + 1));
        }
        lines.push(line);
    }
    lines
}

/// The functions right behind `parent`, the last one first.
fn children(functions: &[Function], parent: Option<PciAddress>, depth: usize) -> Vec<Line<'_>> {
    let behind = functions.iter().rev().filter(|function| function.parent == parent);
    behind.map(|function| Line { function, depth }).collect()
}

impl Line<'_> {
    /// The function that the line is about.
    pub fn function(&self) -> &Function {
        self.function
    }
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let function = self.function;
        write!(f, "{:indent$}", "", indent = self.depth * 2)?;
        write!(f, "{} {:04x}:{:04x} {}", function.address, function.vendor, function.device, function.class)?;
        if let Some(express) = function.express.filter(|express| express.kind != ExpressKind::Endpoint) {
            write!(f, ", {}", express.kind)?;
        }
        if let Some(buses) = function.bridge {
            write!(f, ", buses {:02x}-{:02x}", buses.secondary, buses.subordinate)?;
        }
        for (id, name) in [(capability::MSI, "MSI"), (capability::MSI_X, "MSI-X")] {
            if function.capability(id).is_some() {
                write!(f, ", {name}")?;
            }
        }
        if function.express.is_some_and(|express| express.function_level_reset) {
            f.write_str(", FLR")?;
        }
        if function.acs.is_some() {
            f.write_str(", ACS")?;
        }
        if let Some(count) = function.virtual_functions {
            write!(f, ", SR-IOV {count} VFs")?;
        }
        if function.was_bus_master {
            f.write_str(", was bus master")?;
        }
        Ok(())
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match (self.base, self.sub, self.interface) {
            (0x01, 0x01, _) => "IDE controller",
            (0x01, 0x06, _) => "SATA controller",
            (0x01, 0x08, 0x02) => "NVMe controller",
            (0x01, ..) => "storage controller",
            (0x02, 0x00, _) => "Ethernet controller",
            (0x02, ..) => "network controller",
            (0x03, ..) => "display controller",
            (0x04, ..) => "multimedia device",
            (0x05, ..) => "memory controller",
            (0x06, 0x00, _) => "host bridge",
            (0x06, 0x01, _) => "ISA bridge",
            (0x06, 0x04, _) => "PCI bridge",
            (0x06, ..) => "bridge",
            (0x07, ..) => "communication controller",
            (0x08, 0x06, _) => "IOMMU",
            (0x08, ..) => "system peripheral",
            (0x0c, 0x03, 0x30) => "xHCI USB controller",
            (0x0c, 0x03, _) => "USB controller",
            (0x0c, 0x05, _) => "SMBus",
            (0x0c, ..) => "serial bus controller",
            (0x12, ..) => "processing accelerator",
            _ => return write!(f, "class {:02x}{:02x}{:02x}", self.base, self.sub, self.interface),
        };
        f.write_str(name)
    }
}

#[cfg(test)]
mod tests {
    use super::super::function::{Acs, Buses, Capability, Express};
    use super::*;

    fn function(bus: u8, device: u8, parent: Option<PciAddress>) -> Function {
        Function {
            vendor: 0x1b36,
            device: 0x10,
            class: Class { base: 1, sub: 8, interface: 2, revision: 0 },
            capabilities: vec![Capability { id: capability::MSI_X, offset: 0x40 }],
            express: Some(Express { kind: ExpressKind::Endpoint, function_level_reset: true }),
            parent,
            virtual_functions: Some(4),
            was_bus_master: true,
            ..Function::bare(PciAddress::new(0, bus, device, 0))
        }
    }

    #[test]
    fn the_tree_is_indented_by_bridges() {
        let root = Function {
            class: Class { base: 6, sub: 4, interface: 0, revision: 0 },
            express: Some(Express { kind: ExpressKind::RootPort, function_level_reset: false }),
            bridge: Some(Buses { primary: 0, secondary: 1, subordinate: 2 }),
            acs: Some(Acs { offset: 0x100, capability: 0, control: 0 }),
            virtual_functions: None,
            was_bus_master: false,
            capabilities: vec![],
            ..function(0, 3, None)
        };
        let address = root.address;
        let tree = [root, function(0, 4, None), function(1, 0, Some(address))];
        let text: Vec<_> = lines(&tree).iter().map(|line| line.to_string()).collect();
        assert_eq!(
            text,
            [
                "0000:00:03.0 1b36:0010 PCI bridge, root port, buses 01-02, ACS",
                "  0000:01:00.0 1b36:0010 NVMe controller, MSI-X, FLR, SR-IOV 4 VFs, was bus master",
                "0000:00:04.0 1b36:0010 NVMe controller, MSI-X, FLR, SR-IOV 4 VFs, was bus master"
            ]
        );
    }
}
