//! Which vCPU runs where, and the life of each VM.
//!
//! Every virtual CPU has a host CPU of its own, which the configuration names; a VM's first CPU also builds the VM and
//! takes it apart. All CPUs share one [`Schedule`], made before the others start and never changed.

mod build;
mod check;
mod faults;
mod life;
mod run;
mod slot;
mod summary;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::AtomicUsize;

use configuration::AtEnd;
use iommu::address::PciAddress;
use iommu::driver::InterruptRemapping;
use iommu::interrupt::entry::DestinationFormat;
use log::{error, info};
use passthrough::door::Owner;
use spin::Once;

use self::check::Fitting;
pub use self::life::{Life, Phase};
use self::slot::Slot;
use crate::assignment::{Assignments, Events, Plan};
use crate::cpu::{self, ApicMode};
use crate::memory::memory_map;
use crate::platform::acpi::Fadt;
use crate::platform::{self, File, Machine, pci};
use crate::vapic::ApicBus;
use crate::{start, vcpu};

/// Everything that the CPUs share.
struct Schedule {
    fadt: Fadt,
    at_end: AtEnd,
    files: Vec<File>,
    slots: Vec<Slot>,
    assignments: Assignments,
    /// VMs that are not over.
    left: AtomicUsize,
}

static SCHEDULE: Once<Schedule> = Once::new();

fn schedule() -> Option<&'static Schedule> {
    SCHEDULE.get()
}

impl Schedule {
    /// What a host CPU runs: a VM, and which of its virtual CPUs.
    fn seat(&self, cpu: u32) -> Option<(&Slot, usize)> {
        self.slots.iter().find_map(|slot| {
            let vcpu = slot.configuration.cpus.iter().position(|claimed| claimed.value == cpu)?;
            Some((slot, vcpu))
        })
    }

    /// Every VM is over.
    fn finish(&self) {
        crate::assignment::faults::tell_all_losses();
        start::log_memory();
        match self.at_end {
            AtEnd::Halt => info!("every VM has ended; the machine stays on and does nothing"),
            AtEnd::Reset => {
                info!("every VM has ended; the machine resets");
                platform::reset(&self.fadt);
            }
        }
    }
}

/// Starts the VMs of the configuration on this machine. Called once, on the boot CPU, before the others are started.
pub fn begin(machine: Machine) -> ! {
    // With mistakes, too: the report has them together with what the machine has against the rest.
    let reading = configuration::read(machine.files.configuration);
    let buses: Vec<_> = reading.configuration().iter().flat_map(|right| &right.vms).map(bus).collect();
    let events = Events::keep(buses.clone());
    let plan = Plan {
        dmar: machine.tables.dmar().ok(),
        apic_mode: if machine.has_x2apic() { iommu::driver::ApicMode::X2Apic } else { iommu::driver::ApicMode::XApic },
        physical_bits: vcpu::nested_paging().output_bits,
        touches_memory: |first, last| memory_map().touches_memory(first.as_u64(), last.as_u64().saturating_add(1)),
    };
    let assignments = Assignments::new(Arc::new(machine.ecam.clone()), machine.functions.clone(), events, plan);
    machine.start_other_cpus(apic_mode(&assignments));
    log_functions(&assignments);
    // Only now: on a processor that cannot run guests, all that was said so far is still worth reading.
    if let Err(refusal) = vcpu::enable_on_this_cpu() {
        start::stop(&refusal);
    }

    let files = machine.files.named.clone();
    let Fitting { configuration, vms } =
        check::check(reading, &files, &assignments).unwrap_or_else(|problems| refuse(&problems));
    let slots = slots(configuration.vms, vms, buses);
    let (at_end, left) = (configuration.at_end, AtomicUsize::new(slots.len()));
    let fadt = machine.fadt;
    let shared = SCHEDULE.call_once(|| Schedule { fadt, at_end, files, slots, assignments, left });
    faults::listen(shared);
    start::log_memory();
    log_hypervisor_memory();
    cpu::run_on_each(|cpu| {
        if cpu != 0
            && let Err(refusal) = vcpu::enable_on_this_cpu()
        {
            error!("CPU {cpu} runs no guest: {refusal}");
            cpu::stop_this_cpu();
        }
        match schedule() {
            Some(schedule) => run::serve(schedule, cpu),
            None => cpu::stop_this_cpu(),
        }
    })
}

/// A VM's interrupt bus.
fn bus(vm: &configuration::Vm) -> Arc<ApicBus> {
    let cpus: Vec<u32> = vm.cpus.iter().map(|cpu| cpu.value).collect();
    Arc::new(ApicBus::new(&cpus, cpu::kick))
}

/// x2APIC mode where the units can name ids of 32 bits; it is no use to be in it where they cannot.
fn apic_mode(assignments: &Assignments) -> ApicMode {
    match assignments.remapping().map(|remapping| remapping.driver().interrupt_remapping()) {
        Ok(InterruptRemapping::On { format: DestinationFormat::X2Apic, .. }) => ApicMode::X2Apic,
        _ => ApicMode::XApic,
    }
}

/// Says every problem of the configuration, and stops.
fn refuse(problems: &[configuration::Problem]) -> ! {
    error!(target: "config", "postern.toml has {} problem(s):", problems.len());
    for problem in problems {
        error!(target: "config", "  {problem}");
    }
    error!(target: "config", "No guest was started. Correct the file and start again.");
    start::stop(&"the configuration cannot be carried out on this machine; the lines above say what to change")
}

fn slots(vms: Vec<configuration::Vm>, owners: Vec<(Owner, Vec<PciAddress>)>, buses: Vec<Arc<ApicBus>>) -> Vec<Slot> {
    let all = vms.into_iter().zip(owners).zip(buses);
    all.map(|((vm, (owner, functions)), bus)| Slot::new(owner, vm, functions, bus)).collect()
}

/// The functions of the machine as a tree, each with its group.
fn log_functions(assignments: &Assignments) {
    for line in pci::tree::lines(assignments.functions()) {
        match assignments.group_of(line.function().address) {
            Some(group) => info!(target: "pci", "group {:>3}  {line}", group.0),
            None => info!(target: "pci", "           {line}"),
        }
    }
}

/// The RAM that is the hypervisor's own, for those who watch that nobody else reaches it.
fn log_hypervisor_memory() {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for region in memory_map().regions().filter(|region| region.is_ours()) {
        let (start, end) = (region.first().as_u64(), region.first().as_u64().saturating_add(region.length()));
        match ranges.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => ranges.push(start..end),
        }
    }
    for Range { start, end } in ranges {
        info!(target: "memory", "memory vm=hypervisor start={start:#x} end={end:#x}");
    }
}
