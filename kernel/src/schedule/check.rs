//! The configuration against this machine, before anything of it is carried out: every problem at once, or the
//! configuration with the functions that it gives away.
//!
//! Four sources, one list in the order of the file: the text's own problems; what the machine lacks (CPUs, memory,
//! files, devices); what `assignment` has against giving a function away; what `vm` has against building the VM.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ops::RangeInclusive;

use configuration::{Configuration, FunctionAddress, Key, Override, Problem, Reading, Wishes};
use iommu::address::PciAddress;
use passthrough::door::Owner;
use passthrough::group::GroupError;

use super::build::{Files, bytes_64, image};
use crate::assignment::{AssignError, Assignments, Wanted, shown_bars};
use crate::cpu;
use crate::memory::{NestedPaging, frames};
use crate::platform::{File, pci};
use crate::vm::map::AddressMap;
use crate::vm::rehearsal;

/// What the tables of a VM may take beside its RAM, as a part of that: a table of 4 KiB for each 2 MiB, once for its
/// processors and once for its devices, where nothing larger than a page fits.
const TABLES: u64 = 256;
/// What a VM may take beside RAM and the lowest tables.
const FIXED: u64 = 1 << 20;

/// A configuration that this machine can carry out.
pub(super) struct Fitting {
    pub(super) configuration: Configuration,
    /// For each VM its number and name, and the functions that it gets. They are claimed in the registry.
    pub(super) vms: Vec<(Owner, Vec<PciAddress>)>,
}

/// Holds what was read against the machine.
///
/// # Errors
///
/// Every problem, in the order of the file.
pub(super) fn check(reading: Reading, files: &[File], assignments: &Assignments) -> Result<Fitting, Vec<Problem>> {
    let functions: Vec<_> = assignments.functions().iter().map(described).collect();
    let paths: Vec<&str> = files.iter().map(|file| file.path).collect();
    let free = (frames().totals().free_for_vms as u64).saturating_mul(4096);
    // No more tables than all of memory needs, so that the report does not belittle what is left.
    let wanted = |vm: &Wishes| vm.memory.map_or(0, |memory| memory.value.min(free) / TABLES + FIXED);
    let tables = reading.vms().iter().map(wanted).fold(0, u64::saturating_add);
    let free = free.saturating_sub(tables);
    let mut found = reading.check(&configuration::Machine {
        cpus: Some(cpu::count()),
        free_memory: Some(free),
        files: Some(&paths),
        functions: Some(&functions),
    });
    let (claims, _) = reading.claims(&functions);
    let vms: Vec<Vm<'_>> = (0u16..)
        .zip(reading.vms())
        .map(|(number, wishes)| {
            let owner = Owner::new(number, wishes.name.as_ref().map_or(&wishes.thing, |name| &name.value));
            let mine = claims.iter().filter(|claim| claim.vm == usize::from(number));
            Vm { wishes, owner, functions: mine.map(|claim| (claim.selector, place(claim.address))).collect() }
        })
        .collect();
    // Everybody's claims first: whether a group is whole depends on all of them.
    for (index, vm) in vms.iter().enumerate() {
        for &(selector, function) in &vm.functions {
            if let Err(source) = claim(assignments, function, &vm.owner) {
                let error = AssignError::Group { function, source };
                found.push(reading.refusal(index, Key::Device(selector), error.to_string()));
            }
        }
    }
    for (index, vm) in vms.iter().enumerate() {
        found.extend(vm.check(files, assignments).map(|(key, reason)| reading.refusal(index, key, reason)));
    }
    let vms = vms
        .into_iter()
        .map(|vm| (vm.owner, vm.functions.into_iter().map(|(_, function)| function).collect()))
        .collect();
    reading.finish(found).map(|configuration| Fitting { configuration, vms })
}

/// What is known of one VM, be its part of the configuration complete or not.
struct Vm<'a> {
    wishes: &'a Wishes,
    owner: Owner,
    /// Each with its place in `devices`.
    functions: Vec<(usize, PciAddress)>,
}

impl Vm<'_> {
    /// What stands against this VM, each with the key that it concerns.
    fn check(&self, files: &[File], assignments: &Assignments) -> impl Iterator<Item = (Key, String)> {
        let mut found = Vec::new();
        let known = || self.functions.iter().filter_map(|(_, function)| assignments.function(*function));
        let map = self.wishes.memory.map(|memory| {
            AddressMap::new(memory.value, bytes_64(known())).and_then(|map| {
                map.check_width(NestedPaging::npt().output_bits)?;
                Ok(map)
            })
        });
        let map = match map {
            Some(Err(error)) => {
                found.push((Key::Memory, error.to_string()));
                None
            }
            Some(Ok(map)) => Some(map),
            None => None,
        };
        let memory: Vec<RangeInclusive<u64>> =
            map.iter().flat_map(AddressMap::memory).map(|range| range.start..=range.end().saturating_sub(1)).collect();
        for &(selector, function) in &self.functions {
            if assignments.function(function).is_some_and(pci::Function::is_bridge) {
                continue;
            }
            let wanted = Wanted {
                owner: &self.owner,
                function,
                memory: &memory,
                unsafe_interrupts: self.wishes.allow.contains(&Override::UnsafeInterrupts),
            };
            let refusals = assignments.check(&wanted).into_iter();
            found.extend(refusals.map(|refusal| (Key::Device(selector), refusal.to_string())));
        }
        if let Some(map) = &map {
            let functions = known().map(|function| (function.address, shown_bars(function)));
            if let Err(error) = rehearsal::check_bus(map, functions) {
                let first = self.functions.first().map_or(0, |(selector, _)| *selector);
                found.push((Key::Device(first), error.to_string()));
            }
            // A file that is absent is reported as such.
            let mut modules = Vec::new();
            if let Some(wanted) = &self.wishes.image
                && let Ok(image) = image(Files(files), &wanted.value, &mut modules)
                && let Err(error) = rehearsal::check_image(map, self.wishes.cpus.count().max(1), image)
            {
                found.push((Key::Image, error.to_string()));
            }
        }
        found.into_iter()
    }
}

/// Notes whose a function is to be. A bridge is nobody's.
fn claim(assignments: &Assignments, function: PciAddress, owner: &Owner) -> Result<(), GroupError> {
    if assignments.function(function).is_some_and(pci::Function::is_bridge) {
        return Err(GroupError::IsBridge(function));
    }
    assignments.registry().claim(function, owner)
}

fn described(function: &pci::Function) -> configuration::Function {
    let address = FunctionAddress {
        segment: function.address.segment,
        bus: function.address.source.bus(),
        device: function.address.source.device(),
        function: function.address.source.function(),
    };
    configuration::Function { address, vendor: function.vendor, device: function.device }
}

fn place(address: FunctionAddress) -> PciAddress {
    PciAddress::new(address.segment, address.bus, address.device, address.function)
}
