//! Which vCPU runs where, and the life of each VM.
//!
//! Each host CPU has one loop ([`run`]), which runs virtual CPUs in turn as its [`seat`] decides by the [`board`] that all
//! share; docs/scheduling.md has the whole picture. The CPU where a VM's first virtual CPU begins also leads the VM:
//! builds it and takes it apart. All CPUs share one [`Schedule`], made before the others start and never changed.

pub mod board;
mod build;
mod check;
mod desk;
mod faults;
mod lead;
mod life;
mod member;
mod run;
pub mod seat;
mod slot;
mod summary;

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;
use core::sync::atomic::AtomicUsize;

use configuration::AtEnd;
use iommu::address::PciAddress;
use iommu::driver::InterruptRemapping;
use iommu::interrupt::entry::DestinationFormat;
use iommu::interrupt::posted::placement::Vectors;
use log::{error, info};
use passthrough::door::Owner;
use spin::Once;

use self::board::Board;
use self::check::Fitting;
use self::desk::Desk;
pub use self::life::{Life, Phase};
use self::member::Member;
use self::slot::Slot;
use crate::assignment::{Assignments, Events, Plan};
use crate::cpu::{self, ApicMode, vectors};
use crate::memory::memory_map;
use crate::platform::acpi::{Fadt, NoSoftOff, SoftOff};
use crate::platform::{self, File, Machine, pci};
use crate::vapic::{ApicBus, Bell};
use crate::{start, vcpu};

/// Everything that the CPUs share.
struct Schedule {
    fadt: Fadt,
    soft_off: Result<SoftOff, NoSoftOff>,
    at_end: AtEnd,
    files: Vec<File>,
    slots: Vec<Slot>,
    /// Every virtual CPU of every VM.
    board: Board<Member>,
    /// One for each CPU.
    desks: Vec<Desk>,
    assignments: Assignments,
    /// VMs that are not over.
    left: AtomicUsize,
}

static SCHEDULE: Once<Schedule> = Once::new();

fn schedule() -> Option<&'static Schedule> {
    SCHEDULE.get()
}

impl Schedule {
    /// A virtual CPU by its number on the board, with its VM.
    fn member(&self, number: usize) -> Option<(&Member, &Slot)> {
        let member = self.board.mailbox(number)?;
        Some((member, self.slots.get(member.slot)?))
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
            AtEnd::PowerOff => {
                info!("every VM has ended; the machine switches itself off");
                let reason = platform::switch_off(self.soft_off);
                error!("the machine stays on and does nothing: {reason}");
            }
        }
    }
}

/// Starts the VMs of the configuration on this machine. Called once, on the boot CPU, before the others are started.
pub fn begin(machine: Machine) -> ! {
    // With mistakes, too: the report has them together with what the machine has against the rest.
    let reading = configuration::read(machine.files.configuration);
    let right = reading.configuration().into_iter().flat_map(|right| &right.vms);
    let homes = member::homes(right.map(|vm| &vm.cpus));
    let buses: Vec<_> = homes.iter().map(|homes| bus(homes)).collect();
    let events = Events::keep(buses.clone());
    let plan = Plan {
        dmar: machine.tables.dmar().ok(),
        apic_mode: if machine.has_x2apic() { iommu::driver::ApicMode::X2Apic } else { iommu::driver::ApicMode::XApic },
        physical_bits: vcpu::nested_paging().output_bits,
        touches_memory: |first, last| memory_map().touches_memory(first.as_u64(), last.as_u64().saturating_add(1)),
    };
    let assignments =
        Assignments::new(Arc::new(machine.configuration.clone()), machine.functions.clone(), events, plan);
    machine.start_other_cpus(apic_mode(&assignments));
    log_functions(&assignments);
    // Only now: on a processor that cannot run guests, all that was said so far is still worth reading.
    if let Err(refusal) = vcpu::enable_on_this_cpu() {
        start::stop(&refusal);
    }

    let files = machine.files.named.clone();
    let Fitting { configuration, vms } =
        check::check(reading, &files, &assignments).unwrap_or_else(|problems| refuse(&problems));
    let slots = slots(configuration.vms, vms, homes, buses);
    let board = board(&slots);
    let desks = (0..cpu::count()).map(|_| Desk::new()).collect();
    let (at_end, left) = (configuration.at_end, AtomicUsize::new(slots.len()));
    let (fadt, soft_off) = (machine.fadt, machine.tables.soft_off());
    let shared =
        SCHEDULE.call_once(|| Schedule { fadt, soft_off, at_end, files, slots, board, desks, assignments, left });
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

/// The vectors of posting.
const VECTORS: Vectors = Vectors { notification: vectors::NOTIFICATION, wake_up: vectors::WAKE_UP };

/// A VM's interrupt bus.
fn bus(homes: &[u32]) -> Arc<ApicBus> {
    Arc::new(ApicBus::new(homes, Bell { send: cpu::notify, wake_up: vectors::WAKE_UP, kick: vectors::KICK }))
}

/// The board with every virtual CPU of these VMs. The CPUs that they name exist.
fn board(slots: &[Slot]) -> Board<Member> {
    let format = match cpu::apic_mode() {
        ApicMode::XApic => DestinationFormat::XApic,
        ApicMode::X2Apic => DestinationFormat::X2Apic,
    };
    let destination = |cpu| cpu::apic_id(cpu).and_then(|id| format.destination(id)).unwrap_or_default();
    let kick = |cpu: usize| cpu::kick(u32::try_from(cpu).unwrap_or(u32::MAX));
    let mut board = Board::new((0..cpu::count()).map(destination), VECTORS, Box::new(kick));
    for (number, slot) in slots.iter().enumerate() {
        let hosts = slot.configuration.cpus.hosts().iter();
        let shared: Vec<usize> = hosts.filter_map(|host| usize::try_from(host.value).ok()).collect();
        let pinned = slot.configuration.cpus.are_pinned();
        for (vcpu, &home) in slot.homes.iter().enumerate() {
            let own = usize::try_from(home).unwrap_or(usize::MAX);
            let cpus = if pinned { core::slice::from_ref(&own) } else { &shared };
            if board.add(Member::new(number, vcpu, home, slot.bus.clone()), cpus, pinned).is_none() {
                start::stop(&TooMany);
            }
        }
    }
    board
}

/// There are more virtual CPUs than the board has room for.
struct TooMany;

impl fmt::Display for TooMany {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the VMs have more than {} virtual CPUs together; give them fewer `cpus`", board::MAXIMUM)
    }
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

fn slots(
    vms: Vec<configuration::Vm>,
    owners: Vec<(Owner, Vec<PciAddress>)>,
    homes: Vec<Vec<u32>>,
    buses: Vec<Arc<ApicBus>>,
) -> Vec<Slot> {
    let all = vms.into_iter().zip(owners).zip(homes).zip(buses);
    all.map(|(((vm, (owner, functions)), homes), bus)| Slot::new(owner, vm, homes, functions, bus)).collect()
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
