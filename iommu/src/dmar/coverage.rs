//! Which unit a device is behind (VT-d sections 8.3.1 and 8.4).
//!
//! Scopes name devices by paths through bridges, whose bus numbers only the machine knows. [`Coverage`] walks the paths
//! once; build it again when buses are renumbered.

use alloc::vec::Vec;

use crate::address::{HostPhysical, PciAddress, SourceId};
use crate::dmar::{Dmar, Scope, ScopeKind};

/// The buses below a bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BridgeBuses {
    /// The bus right below (configuration space 0x19).
    pub secondary: u8,
    /// The last bus below (0x1a).
    pub subordinate: u8,
}

/// What resolving scopes asks of the machine's PCI tree.
pub trait Buses {
    /// The buses below `function`; `None` where it is absent or no bridge.
    fn bridge(&self, function: PciAddress) -> Option<BridgeBuses>;
}

/// Where a block that is not a PCI function signs its interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The unit's index in [`Dmar::units`].
    pub unit: usize,
    /// The id that it signs with.
    pub source: PciAddress,
}

/// What one scope covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// One id.
    Function(SourceId),
    /// A bridge, and every id on its buses.
    Below { bridge: SourceId, buses: BridgeBuses },
}

impl Reach {
    /// How many buses it reaches to: the fewer, the more it is about this very device. `None`: it does not cover it.
    fn covers(self, source: SourceId) -> Option<u16> {
        match self {
            Self::Function(function) if function == source => Some(0),
            Self::Below { bridge, .. } if bridge == source => Some(0),
            Self::Below { buses, .. } if (buses.secondary..=buses.subordinate).contains(&source.bus()) => {
                Some(u16::from(buses.subordinate - buses.secondary) + 1)
            }
            _ => None,
        }
    }
}

#[derive(Clone, Debug)]
struct Covered {
    unit: usize,
    segment: u16,
    reach: Reach,
}

#[derive(Clone, Debug)]
struct Region {
    segment: u16,
    reach: Reach,
    first: HostPhysical,
    last: HostPhysical,
    usable: bool,
}

/// Reserved memory as it concerns one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReservedRange {
    /// The first byte.
    pub first: HostPhysical,
    /// The last byte.
    pub last: HostPhysical,
    /// Whether it may be mapped. If not, the device cannot have what firmware reserved for it.
    pub usable: bool,
}

/// The scopes of all structures with their paths walked.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    /// What units name.
    covered: Vec<Covered>,
    /// Units that take the rest of a segment.
    rest: Vec<(u16, usize)>,
    io_apics: Vec<(u8, Placement)>,
    hpets: Vec<(u8, Placement)>,
    regions: Vec<Region>,
    caches: Vec<(u16, Reach, bool)>,
    root_ports: Vec<(u16, Option<Reach>)>,
    unresolved: usize,
}

impl Coverage {
    /// Walks every scope's path through the machine's bridges.
    pub fn resolve(dmar: &Dmar, buses: &impl Buses) -> Self {
        let mut coverage = Self::default();
        for (index, unit) in dmar.units.iter().enumerate() {
            if unit.includes_all {
                coverage.rest.push((unit.segment, index));
            }
            for scope in &unit.scopes {
                coverage.unit_scope(index, unit.segment, scope, buses);
            }
        }
        for region in &dmar.reserved_memory {
            for scope in &region.scopes {
                if let Some(reach) = coverage.walk(region.segment, scope, buses) {
                    coverage.regions.push(Region {
                        segment: region.segment,
                        reach,
                        first: region.first,
                        last: region.last,
                        usable: region.defect.is_none(),
                    });
                }
            }
        }
        for caches in &dmar.address_translation_caches {
            for scope in &caches.scopes {
                if let Some(reach) = coverage.walk(caches.segment, scope, buses) {
                    coverage.caches.push((caches.segment, reach, caches.required));
                }
            }
        }
        for ports in &dmar.root_ports {
            if ports.all {
                coverage.root_ports.push((ports.segment, None));
            }
            for scope in &ports.scopes {
                if let Some(reach) = coverage.walk(ports.segment, scope, buses) {
                    coverage.root_ports.push((ports.segment, Some(reach)));
                }
            }
        }
        coverage
    }

    fn unit_scope(&mut self, unit: usize, segment: u16, scope: &Scope, buses: &impl Buses) {
        let Some(reach) = self.walk(segment, scope, buses) else { return };
        let (Reach::Function(source) | Reach::Below { bridge: source, .. }) = reach;
        let placement = Placement { unit, source: PciAddress { segment, source } };
        match scope.kind {
            ScopeKind::Endpoint | ScopeKind::Bridge | ScopeKind::AcpiDevice => {
                self.covered.push(Covered { unit, segment, reach });
            }
            // Not PCI functions: their ids may well be those of functions that exist, behind another unit.
            ScopeKind::IoApic => self.io_apics.push((scope.enumeration_id, placement)),
            ScopeKind::Hpet => self.hpets.push((scope.enumeration_id, placement)),
        }
    }

    /// Follows a path. `None`, counted, where a bridge on it is absent.
    fn walk(&mut self, segment: u16, scope: &Scope, buses: &impl Buses) -> Option<Reach> {
        let (target, bridges) = scope.path.split_last()?;
        let mut bus = scope.start_bus;
        for hop in bridges {
            match below(buses, PciAddress::new(segment, bus, hop.device, hop.function)) {
                Some(found) => bus = found.secondary,
                None => {
                    self.unresolved += 1;
                    return None;
                }
            }
        }
        let source = SourceId::new(bus, target.device, target.function);
        let under = match scope.kind {
            ScopeKind::Bridge => below(buses, PciAddress { segment, source }),
            _ => None,
        };
        Some(under.map_or(Reach::Function(source), |buses| Reach::Below { bridge: source, buses }))
    }

    /// The unit (its index in [`Dmar::units`]) that a function is behind: the one that names it or a bridge above it,
    /// else the one that takes the rest of its segment. `None`: no unit stands between it and memory.
    ///
    /// A virtual function is looked up by its physical function.
    pub fn unit_of(&self, function: PciAddress) -> Option<usize> {
        let named = self
            .covered
            .iter()
            .filter(|covered| covered.segment == function.segment)
            .filter_map(|covered| covered.reach.covers(function.source).map(|buses| (buses, covered.unit)))
            .min();
        let rest = || self.rest.iter().find(|(segment, _)| *segment == function.segment).map(|(_, unit)| *unit);
        named.map(|(_, unit)| unit).or_else(rest)
    }

    /// Where the I/O APIC with this MADT id signs its interrupts.
    pub fn io_apic(&self, id: u8) -> Option<Placement> {
        self.io_apics.iter().find(|(known, _)| *known == id).map(|(_, placement)| *placement)
    }

    /// Where the HPET with this number signs its MSIs.
    pub fn hpet(&self, number: u8) -> Option<Placement> {
        self.hpets.iter().find(|(known, _)| *known == number).map(|(_, placement)| *placement)
    }

    /// The memory that firmware reserved for a function.
    pub fn reserved_for(&self, function: PciAddress) -> impl Iterator<Item = ReservedRange> {
        self.regions
            .iter()
            .filter(move |region| region.segment == function.segment && region.reach.covers(function.source).is_some())
            .map(|region| ReservedRange { first: region.first, last: region.last, usable: region.usable })
    }

    /// The single functions that have usable reserved memory. Reserved memory for all that is below a bridge is found
    /// through [`reserved_for`](Self::reserved_for) alone.
    pub fn with_reserved_memory(&self) -> Vec<PciAddress> {
        let mut functions: Vec<_> = self
            .regions
            .iter()
            .filter(|region| region.usable)
            .map(|region| {
                let (Reach::Function(source) | Reach::Below { bridge: source, .. }) = region.reach;
                PciAddress { segment: region.segment, source }
            })
            .collect();
        functions.sort_unstable();
        functions.dedup();
        functions
    }

    /// Whether the function is an integrated device with a TLB of its own; and if so, whether it needs it.
    pub fn address_translation_cache(&self, function: PciAddress) -> Option<bool> {
        self.caches
            .iter()
            .find(|(segment, reach, _)| *segment == function.segment && reach.covers(function.source).is_some())
            .map(|(_, _, required)| *required)
    }

    /// Whether devices below the root port that leads to `function` may have a TLB of their own.
    pub fn below_translating_root_port(&self, function: PciAddress) -> bool {
        self.root_ports.iter().any(|(segment, reach)| {
            *segment == function.segment && reach.is_none_or(|reach| reach.covers(function.source).is_some())
        })
    }

    /// Scopes whose path leads through a bridge that the machine does not have.
    pub fn unresolved(&self) -> usize {
        self.unresolved
    }
}

/// The buses below a bridge, where its registers make sense: below means a higher number.
fn below(buses: &impl Buses, bridge: PciAddress) -> Option<BridgeBuses> {
    buses.bridge(bridge).filter(|buses| {
        buses.secondary > bridge.source.bus() && buses.subordinate >= buses.secondary && buses.secondary != 0xff
    })
}
