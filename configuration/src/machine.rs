//! What only a look at the machine shows.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use crate::device::{FunctionAddress, Selector};
use crate::position::Placed;
use crate::problem::{Problem, Rule};
use crate::reading::Reading;
use crate::size::Bytes;
use crate::vm::Wishes;

/// What is known of the machine. What is `None` is not checked: the loader knows the files before the kernel knows
/// the devices.
#[derive(Clone, Copy, Debug, Default)]
pub struct Machine<'a> {
    /// How many CPUs it has.
    pub cpus: Option<u32>,
    /// Bytes of RAM that VMs can have, all together.
    pub free_memory: Option<u64>,
    /// The files of the boot volume, as a configuration spells them, or at least those that the configuration names.
    pub files: Option<&'a [&'a str]>,
    /// Its PCI functions, in the order in which `vendor:device` finds them.
    pub functions: Option<&'a [Function]>,
}

/// A PCI function of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function {
    /// Where it is.
    pub address: FunctionAddress,
    /// Its vendor id.
    pub vendor: u16,
    /// Its device id.
    pub device: u16,
}

/// A function that the configuration gives to a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The VM: an index into [`Reading::vms`].
    pub vm: usize,
    /// The selector: an index into that VM's [`Wishes::devices`].
    pub selector: usize,
    /// The function that it names.
    pub address: FunctionAddress,
}

impl Reading {
    /// Every problem that these wishes have on this machine, in the order of the file; none: they fit.
    pub fn check(&self, machine: &Machine<'_>) -> Vec<Problem> {
        let mut problems = Vec::new();
        if let Some(cpus) = machine.cpus {
            self.check_cpus(cpus, &mut problems);
        }
        if let Some(free) = machine.free_memory {
            self.check_memory(free, &mut problems);
        }
        if let Some(files) = machine.files {
            self.check_files(files, &mut problems);
        }
        if let Some(functions) = machine.functions {
            problems.extend(self.claims(functions).1);
        }
        problems.sort_by_key(|problem| (problem.line, problem.column));
        problems
    }

    /// Which function each selector names, in the order of the file. Places are claimed first, in all VMs, and kinds
    /// then take the first function in the order of `functions` that is left. The second list has what is absent.
    pub fn claims(&self, functions: &[Function]) -> (Vec<Claim>, Vec<Problem>) {
        let mut free: Vec<bool> = vec![true; functions.len()];
        let mut claims = Vec::new();
        let mut problems = Vec::new();
        for places in [true, false] {
            for (vm_index, vm) in self.vms().iter().enumerate() {
                for (selector_index, selector) in vm.devices.iter().enumerate() {
                    if matches!(selector.value, Selector::Address(_)) != places {
                        continue;
                    }
                    let found = functions
                        .iter()
                        .zip(free.iter_mut())
                        .find(|(function, free)| **free && selector.value.names(function));
                    match found {
                        Some((function, free)) => {
                            *free = false;
                            claims.push(Claim { vm: vm_index, selector: selector_index, address: function.address });
                        }
                        None => problems.push(absent(vm, selector, functions)),
                    }
                }
            }
        }
        claims.sort_by_key(|claim| (claim.vm, claim.selector));
        problems.sort_by_key(|problem| (problem.line, problem.column));
        (claims, problems)
    }

    fn check_cpus(&self, cpus: u32, problems: &mut Vec<Problem>) {
        for vm in self.vms() {
            for cpu in vm.cpus.hosts().iter().filter(|cpu| cpu.value >= cpus) {
                problems.push(problem(vm, "cpus", cpu, Rule::NoSuchCpu { cpu: cpu.value, cpus }));
            }
        }
    }

    fn check_memory(&self, free: u64, problems: &mut Vec<Problem>) {
        let mut left = free;
        for vm in self.vms() {
            let Some(memory) = &vm.memory else { continue };
            match left.checked_sub(memory.value) {
                Some(rest) => left = rest,
                None => {
                    let rule = Rule::MemoryExhausted { wanted: Bytes(memory.value), left: Bytes(left).whole() };
                    problems.push(problem(vm, "memory", memory, rule));
                }
            }
        }
    }

    fn check_files(&self, files: &[&str], problems: &mut Vec<Problem>) {
        for vm in self.vms() {
            let named = vm.image.iter().flat_map(|image| image.files());
            for path in named.filter(|path| !files.contains(&path.as_str())) {
                problems.push(problem(vm, "image", path, Rule::NoSuchFile(path.value.clone())));
            }
        }
    }
}

impl Selector {
    /// Whether it can mean this function.
    fn names(self, function: &Function) -> bool {
        match self {
            Self::Address(address) => address == function.address,
            Self::Identity { vendor, device } => (vendor, device) == (function.vendor, function.device),
        }
    }
}

/// Why a selector found nothing. Two VMs cannot name one place, so a place that is not free does not exist.
fn absent(vm: &Wishes, selector: &Placed<Selector>, functions: &[Function]) -> Problem {
    let present = functions.iter().filter(|function| selector.value.names(function)).count();
    let rule = match present {
        0 => Rule::NoSuchDevice(selector.value),
        _ => Rule::TooFewDevices { selector: selector.value, present },
    };
    problem(vm, "devices", selector, rule)
}

pub(crate) fn problem<T>(vm: &Wishes, key: &str, place: &Placed<T>, rule: Rule) -> Problem {
    let thing: String = format!("{}, {key}", vm.thing);
    Problem::new(place.position, thing, rule)
}
