//! The ids under which a function's requests arrive at its remapping unit.

use alloc::vec::Vec;

use iommu::address::{PciAddress, SourceId};

use super::function::{Function, PortType};
use super::quirks;
use super::tree::Tree;

/// How a bridge signs what comes from below.
pub(super) enum Signature {
    /// With the id that the function below used.
    Unchanged,
    /// With another.
    Own(SourceId),
}

/// How the bridge `bridge` signs requests from below. `above` is the bridge over it.
pub(super) fn signature(bridge: &Function, above: Option<&Function>) -> Signature {
    // What comes from a PCI bus has no id of its own; a bridge to PCI Express signs with the bus below and devfn 0
    // (PCI Express to PCI/PCI-X Bridge specification, section 2.3).
    let below = bridge.bridge.map(|buses| SourceId::new(buses.secondary, 0, 0));
    match bridge.port_type() {
        Some(PortType::ExpressToPciBridge) => below.map_or(Signature::Unchanged, Signature::Own),
        Some(PortType::PciToExpressBridge) => Signature::Own(bridge.address.source),
        Some(_) => Signature::Unchanged,
        None => {
            // A bridge without a PCI Express capability below a PCI Express port is a PCI Express to PCI bridge that
            // hides it.
            let hidden = above.and_then(Function::port_type).is_some_and(|port| port != PortType::ExpressToPciBridge);
            match below {
                Some(below) if hidden => Signature::Own(below),
                _ => Signature::Own(bridge.address.source),
            }
        }
    }
}

/// Every id that the function at `index` may sign with, its own first, each once.
pub(super) fn requester_ids(tree: &Tree<'_>, index: usize) -> Vec<SourceId> {
    let mut ids = Vec::new();
    let Some(function) = tree.get(index) else { return ids };
    let mut add = |id: SourceId| {
        if !ids.contains(&id) {
            ids.push(id);
        }
    };
    if let Some(device) = function.subordinate_to {
        add(device.source);
        return ids;
    }
    add(function.address.source);
    if let Some(neighbour) = neighbour(function) {
        add(neighbour.source);
    }
    for (_, bridge) in tree.bridges_above(function) {
        let above = tree.bridge_above(bridge).map(|(_, above)| above);
        if let Signature::Own(id) = signature(bridge, above) {
            add(id);
        }
    }
    ids
}

/// The neighbour whose id a function of a known faulty kind signs with.
pub(super) fn neighbour(function: &Function) -> Option<PciAddress> {
    let PciAddress { segment, source } = function.address;
    let number = quirks::signs_as_function(function.vendor, function.device)?;
    let neighbour = PciAddress { segment, source: SourceId::new(source.bus(), source.device(), number) };
    (neighbour != function.address).then_some(neighbour)
}
