//! The machine's functions, its groups, and the units that keep them apart: what assignments are made from.

use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use iommu::Dmar;
use iommu::address::{HostPhysical, PciAddress};
use iommu::dmar::{self, BridgeBuses, Buses, RootPorts};
use iommu::driver::{ApicMode, Driver, InterruptRemapping, Options};
use log::{error, info, warn};
use passthrough::group::Registry;
use passthrough::topology::{self, GroupId, Groups};

use super::device_tlb::DeviceTlb;
use super::territory::{self, Conflict, Holder};
use super::{Events, FunctionSpace, KernelMachine, Remapping, Signature};
use crate::cpu;
use crate::platform::pci::{Class, Function, Mechanism};

/// What the units are brought up with.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// The DMAR table, if firmware has one.
    pub dmar: Option<&'a [u8]>,
    /// The mode that the local APICs will be in, where the units can name their ids and firmware does not ask otherwise.
    pub apic_mode: ApicMode,
    /// Bits of a physical address.
    pub physical_bits: u8,
    /// Whether any byte from the first to the last address is RAM.
    pub touches_memory: fn(HostPhysical, HostPhysical) -> bool,
}

/// Everything that can be assigned, and by what right.
#[derive(Debug)]
pub struct Assignments {
    configuration: Arc<Mechanism>,
    functions: Vec<Function>,
    registry: Registry,
    remapping: Result<Remapping, String>,
}

impl Assignments {
    /// Switches isolation on in every port, builds the groups, and takes the remapping units in hand. Every function's
    /// bus mastering is off by now.
    ///
    /// Without remapping there is nothing to assign with; the reason is kept for whoever asks.
    pub fn new(
        configuration: Arc<Mechanism>,
        functions: Vec<Function>,
        events: &'static Events,
        plan: Plan<'_>,
    ) -> Self {
        let space = |address| FunctionSpace::new(configuration.clone(), address);
        for function in &functions {
            let on = topology::enable_isolation(function.address, &space(function.address));
            if !on.is_empty() {
                let names: Vec<_> = on.iter_names().map(|(name, _)| name.to_lowercase().replace('_', " ")).collect();
                info!("{}: access control switched on: {}", function.address, names.join(", "));
            }
        }
        let read = |function: &Function| topology::Function::read(function.address, &space(function.address));
        let groups = Groups::build(&functions.iter().filter_map(read).collect::<Vec<_>>());
        let registry = Registry::new(groups);
        let remapping = drive(&functions, plan).map(|(driver, ports)| {
            let outgrown = outgrown(&functions, driver);
            let tlb = |function: &Function| DeviceTlb::of(function, &functions, &ports, space(function.address));
            let tlbs = functions.iter().filter_map(tlb).collect();
            Remapping::new(driver, events, registry.clone(), outgrown, tlbs)
        });
        if let Err(reason) = &remapping {
            error!("no device can be assigned: {reason}");
        }
        Self { configuration, functions, registry, remapping }
    }

    /// The remapping units.
    ///
    /// # Errors
    ///
    /// Why there are none, as a clause.
    pub fn remapping(&self) -> Result<&Remapping, &str> {
        self.remapping.as_ref().map_err(String::as_str)
    }

    /// The way to configuration space.
    pub fn configuration(&self) -> &Arc<Mechanism> {
        &self.configuration
    }

    /// Every function of the machine.
    pub fn functions(&self) -> &[Function] {
        &self.functions
    }

    /// One function of the machine.
    pub fn function(&self, address: PciAddress) -> Option<&Function> {
        self.functions.iter().find(|function| function.address == address)
    }

    /// Who holds what.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Whether a request that `sender` signed may be `function`'s.
    pub fn signs_as(&self, function: PciAddress, sender: PciAddress) -> bool {
        Signature::of(function, self.registry.groups()).covers(sender)
    }

    /// The first BAR of `function` that is not its own alone.
    pub fn conflict(&self, function: &Function) -> Option<Conflict> {
        let units = self.remapping.iter().flat_map(|remapping| remapping.driver().units());
        let mut platform: Vec<_> = units
            .map(|unit| {
                (
                    unit.base().as_u64()..unit.base().as_u64().saturating_add(unit.registers_size()),
                    Holder::RemappingUnit,
                )
            })
            .collect();
        platform.extend(self.configuration.ranges().map(|range| (range, Holder::ConfigurationSpace)));
        territory::conflict(function, &self.functions, &platform)
    }

    /// The group of a function.
    pub fn group_of(&self, function: PciAddress) -> Option<GroupId> {
        self.registry.groups().of(function).map(|group| group.id)
    }
}

/// The buses below bridges, for the scopes of the DMAR table.
struct Bridges<'a>(&'a [Function]);

impl Buses for Bridges<'_> {
    fn bridge(&self, function: PciAddress) -> Option<BridgeBuses> {
        let found = self.0.iter().find(|candidate| candidate.address == function)?;
        found.bridge.map(|buses| BridgeBuses { secondary: buses.secondary, subordinate: buses.subordinate })
    }
}

/// The functions that need the memory which firmware reserved for them only until the operating system takes over: USB
/// controllers (a keyboard in firmware's setup) and graphics (its screen), as Linux' VFIO has it.
fn outgrown(functions: &[Function], driver: &Driver<KernelMachine>) -> Vec<PciAddress> {
    let mut outgrown = Vec::new();
    for function in functions.iter().filter(|function| is_outgrowing(function.class)) {
        if driver.reserved_memory(function.address).next().is_some() {
            info!("{}: what firmware reserved for it does not keep it from a VM", function.address);
            driver.waive_reserved_memory(function.address);
            outgrown.push(function.address);
        }
    }
    outgrown
}

fn is_outgrowing(class: Class) -> bool {
    matches!((class.base, class.sub), (0x03, _) | (0x0c, 0x03))
}

/// The mode to use: firmware may ask to leave x2APIC off (VT-d section 8.1, X2APIC_OPT_OUT), unless it is on already.
fn obeyed(flags: dmar::Flags, wanted: ApicMode, now: cpu::ApicMode) -> ApicMode {
    let opts_out = flags.contains(dmar::Flags::X2APIC_OPT_OUT);
    if opts_out && now == cpu::ApicMode::XApic { ApicMode::XApic } else { wanted }
}

/// Brings the units up; with the root ports below which devices may have a TLB of their own. The driver lives as long as
/// the hypervisor.
fn drive(functions: &[Function], plan: Plan<'_>) -> Result<(&'static Driver<KernelMachine>, Vec<RootPorts>), String> {
    let table = plan.dmar.ok_or("the firmware has no DMAR table: the machine has no VT-d, or it is switched off")?;
    let mut dmar = Dmar::parse(table).map_err(|error| error.to_string())?;
    dmar.check_memory(plan.touches_memory).map_err(|error| error.to_string())?;
    for warning in &dmar.warnings {
        warn!("DMAR table: {warning}");
    }
    let options = Options {
        apic_mode: obeyed(dmar.flags, plan.apic_mode, cpu::apic_mode()),
        physical_bits: plan.physical_bits,
        ..Options::default()
    };
    let driver = Driver::bring_up(KernelMachine::new(), &dmar, &Bridges(functions), &options)
        .map_err(|error| error.to_string())?;
    match driver.interrupt_remapping() {
        InterruptRemapping::On { .. } => info!("DMA and interrupts are remapped; no device may do anything yet"),
        InterruptRemapping::Off(reason) => warn!("DMA is remapped, interrupts are not: {reason}"),
    }
    Ok((alloc::boxed::Box::leak(alloc::boxed::Box::new(driver)), dmar.root_ports))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_usb_and_graphics_outgrow_their_reserved_memory() {
        let class = |base, sub| Class { base, sub, interface: 0, revision: 0 };
        assert!(
            is_outgrowing(class(0x03, 0x00)) && is_outgrowing(class(0x03, 0x80)) && is_outgrowing(class(0x0c, 0x03))
        );
        assert!(
            !is_outgrowing(class(0x02, 0x00)) && !is_outgrowing(class(0x0c, 0x05)) && !is_outgrowing(class(0x01, 0x08))
        );
    }

    #[test]
    fn firmware_that_asks_for_xapic_gets_it_unless_it_has_switched_x2apic_on() {
        let asks = dmar::Flags::X2APIC_OPT_OUT;
        assert_eq!(obeyed(asks, ApicMode::X2Apic, cpu::ApicMode::XApic), ApicMode::XApic);
        assert_eq!(obeyed(asks, ApicMode::X2Apic, cpu::ApicMode::X2Apic), ApicMode::X2Apic);
        assert_eq!(obeyed(dmar::Flags::empty(), ApicMode::X2Apic, cpu::ApicMode::XApic), ApicMode::X2Apic);
    }
}
