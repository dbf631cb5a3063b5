//! Which functions keep requests apart, and whom a function must share its group with.

use core::fmt;

use super::alias::{self, Signature};
use super::function::{AcsFlags, Function, PortType};
use super::tree::Tree;
use super::{Reason, quirks};

/// What a function lacks to be isolated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leak {
    /// It is a conventional PCI function: no ACS there.
    Conventional,
    /// It is a bridge between PCI Express and PCI, or an event collector, which do not isolate by kind.
    Kind(PortType),
    /// It has no ACS capability, and its kind needs one.
    NoAcs,
    /// Its ACS could do this, but it is switched off.
    Off(AcsFlags),
    /// It is a root port of a chipset whose own peer-to-peer switch is still on.
    ChipsetSwitch,
}

impl fmt::Display for Leak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Conventional => f.write_str("is conventional PCI, which has no access control (ACS)"),
            Self::Kind(PortType::RootComplexEventCollector) => {
                f.write_str("is an event collector, which isolates nothing")
            }
            Self::Kind(_) => f.write_str("is a bridge to or from conventional PCI, which isolates nothing"),
            Self::NoAcs => f.write_str("has no access control (ACS)"),
            Self::ChipsetSwitch => f.write_str("has no ACS, and the chipset's own peer-to-peer switch is on"),
            Self::Off(missing) => {
                f.write_str("has these access controls (ACS) switched off:")?;
                const NAMES: [(AcsFlags, &str); 4] = [
                    (AcsFlags::SOURCE_VALIDATION, " source validation (SV)"),
                    (AcsFlags::REQUEST_REDIRECT, " request redirect (RR)"),
                    (AcsFlags::COMPLETION_REDIRECT, " completion redirect (CR)"),
                    (AcsFlags::UPSTREAM_FORWARDING, " upstream forwarding (UF)"),
                ];
                NAMES.iter().filter(|(flag, _)| missing.contains(*flag)).try_for_each(|(_, name)| f.write_str(name))
            }
        }
    }
}

/// Whether `function` keeps its requests, and those from below it, away from its peers.
pub(super) fn leak(function: &Function) -> Option<Leak> {
    if let Some(verdict) = quirks::isolation(function) {
        return verdict.err();
    }
    let Some(port) = function.port_type() else { return Some(Leak::Conventional) };
    match port {
        PortType::ExpressToPciBridge | PortType::PciToExpressBridge | PortType::RootComplexEventCollector => {
            Some(Leak::Kind(port))
        }
        PortType::RootPort | PortType::DownstreamPort => acs_leak(function),
        PortType::Endpoint
        | PortType::LegacyEndpoint
        | PortType::UpstreamPort
        | PortType::RootComplexIntegratedEndpoint => {
            if function.multifunction {
                acs_leak(function)
            } else {
                None
            }
        }
        // What nobody knows is not trusted.
        PortType::Unknown(_) => Some(Leak::Kind(port)),
    }
}

fn acs_leak(function: &Function) -> Option<Leak> {
    let Some(acs) = function.acs else { return Some(Leak::NoAcs) };
    // What the port cannot do, it need not be kept from doing.
    let missing = (AcsFlags::ISOLATION & acs.capability) - acs.control;
    (!missing.is_empty()).then_some(Leak::Off(missing))
}

/// The function whose group the function at `index` joins, and why; `None` when it starts one.
pub(super) fn joins(tree: &Tree<'_>, index: usize) -> Option<(usize, Reason)> {
    let function = tree.get(index)?;
    if let Some(device) = function.subordinate_to
        && let Some(other) = tree.find(device)
    {
        return Some((other, Reason::SubordinateTo { device }));
    }
    if let Some(neighbour) = alias::neighbour(function)
        && let Some(other) = tree.find(neighbour)
    {
        return Some((other, Reason::NeighbourAlias { neighbour }));
    }
    // The nearest bridge that signs for the function: whoever is below it is one to the remapping unit.
    if let Some((bridge_index, bridge)) = tree.bridges_above(function).find(|(_, bridge)| {
        let above = tree.bridge_above(bridge).map(|(_, above)| above);
        matches!(alias::signature(bridge, above), Signature::Own(_))
    }) {
        return Some((bridge_index, Reason::Alias { bridge: bridge.address }));
    }
    // A bridge is isolated only if everything from it up to the root is. The nearest bridge tells: what leaks above
    // it, it has joined itself.
    if let Some((bridge_index, bridge)) = tree.bridge_above(function) {
        let way_up = core::iter::once(bridge).chain(tree.bridges_above(bridge).map(|(_, above)| above));
        if let Some((at, leak)) = way_up.filter_map(|above| Some((above, leak(above)?))).next() {
            return Some((bridge_index, Reason::NotIsolated { bridge: bridge.address, at: at.address, leak }));
        }
    }
    if function.multifunction
        && let Some(leak) = leak(function)
        && let Some((sibling_index, sibling)) =
            tree.siblings(function).find(|(_, sibling)| self::leak(sibling).is_some())
    {
        return Some((sibling_index, Reason::Multifunction { sibling: sibling.address, leak }));
    }
    None
}
