//! What two VMs cannot both have: a name, a CPU, a device.

use alloc::format;
use alloc::string::String;

use crate::device::Selector;
use crate::position::Placed;
use crate::problem::Rule;
use crate::read::Notes;
use crate::vm::Wishes;

/// Complains of every second claim. A device that is named by its kind claims nothing certain: that it finds one is
/// checked against the machine.
pub(crate) fn report(vms: &[Wishes], notes: &mut Notes<'_>) {
    for (index, vm) in vms.iter().enumerate() {
        let earlier = vms.get(..index).unwrap_or_default();
        if let Some(name) = &vm.name
            && earlier.iter().filter_map(|other| other.name.as_ref()).any(|other| other.value == name.value)
        {
            notes.problem_at(name.position, &vm.thing, Rule::NameTaken(name.value.clone()));
        }
        for (place, cpu) in vm.cpus.hosts().iter().enumerate() {
            if let Some(rule) = taken(vms, (index, place), cpu) {
                notes.problem_at(cpu.position, &format!("{}, cpus", vm.thing), rule);
            }
        }
        for (place, device) in vm.devices.iter().enumerate() {
            let Selector::Address(address) = device.value else { continue };
            if let Some(owner) = owner(vms, (index, place), device, |vm| &vm.devices) {
                let rule = Rule::DeviceTaken { address, owner };
                notes.problem_at(device.position, &format!("{}, devices", vm.thing), rule);
            }
        }
    }
}

/// What stands against this VM's claim to a CPU: an earlier claim, unless both would share it.
fn taken(vms: &[Wishes], at: (usize, usize), cpu: &Placed<u32>) -> Option<Rule> {
    let pins = vms.get(at.0)?.cpus.are_pinned();
    vms.iter().enumerate().find_map(|(index, other)| {
        let same = other.cpus.hosts().iter().position(|host| host.value == cpu.value)?;
        if (index, same) >= at {
            return None;
        }
        let (cpu, owner) = (cpu.value, other.thing.clone());
        match (pins, other.cpus.are_pinned()) {
            (true, true) => Some(Rule::CpuTaken { cpu, owner }),
            (false, true) => Some(Rule::CpuPinned { cpu, owner }),
            (true, false) => Some(Rule::CpuShared { cpu, owner }),
            (false, false) => (index == at.0).then_some(Rule::CpuTwice(cpu)),
        }
    })
}

/// Who wants the same as the wish at `at` (VM and place in its list), and says so earlier in the file.
fn owner<T: PartialEq>(
    vms: &[Wishes],
    at: (usize, usize),
    wish: &Placed<T>,
    list: impl Fn(&Wishes) -> &[Placed<T>],
) -> Option<String> {
    vms.iter().enumerate().find_map(|(index, vm)| {
        let same = list(vm).iter().position(|other| other.value == wish.value)?;
        ((index, same) < at).then(|| vm.thing.clone())
    })
}
