//! From the loader's jump to a machine that is known: the order in which the rooms wake up.

use core::fmt;

use handoff::Handoff;
use spin::Mutex;

use crate::console::output;
use crate::cpu::features::Features;
use crate::cpu::online::{install_boot_cpu, name_boot_cpu, set_up_boot_cpu};
use crate::cpu::{self, ApicMode, calibration, clock, features, symbols};
use crate::memory::takeover::{self, Prepared};
use crate::memory::{Owner, frames, heap_use, memory_map};
use crate::platform::acpi::{AcpiFault, Fadt, Madt, PmTimer, Tables, parse_mcfg};
use crate::platform::pci::{ConfigurationAccess, Mechanism, Ports};
use crate::platform::{Machine, handed_over, legacy, pci};

/// What goes from one stack to the other.
static ON_THE_WAY: Mutex<Option<OnTheWay>> = Mutex::new(None);

struct OnTheWay {
    handoff: Handoff,
    features: Features,
    prepared: Prepared,
    then: fn(Machine) -> !,
}

/// Takes the machine over from the loader, and gives what it found to `then`, on the boot CPU, interrupts off, with the
/// other CPUs not started yet.
///
/// # Safety
///
/// Called once, by the loader's jump, with what the crate `handoff` promises.
pub unsafe fn start(handoff: *const Handoff, then: fn(Machine) -> !) -> ! {
    clock::begin();
    // SAFETY: this is the boot CPU, and nobody drives COM1 any more.
    unsafe {
        name_boot_cpu();
        output::open();
    }
    if handoff.is_null() || !handoff.is_aligned() {
        stop(&handed_over::HandoffError::NoHandoff);
    }
    // SAFETY: the loader's promise; the structure lies in RAM that is mapped at its own address.
    let handoff = unsafe { *handoff };
    handed_over::check(&handoff).unwrap_or_else(|error| stop(&error));
    let features = features::detect().unwrap_or_else(|error| stop(&error));
    // SAFETY: the loader's tables are valid with execute-disable and write protection on.
    unsafe { features::set_control_registers() };
    // SAFETY: the loader's tables map RAM below 4 GiB at its own address, and nothing was allocated yet.
    let prepared = unsafe { takeover::prepare(&handoff, features.gigabyte_pages) }.unwrap_or_else(|error| stop(&error));
    let root = prepared.root();
    *ON_THE_WAY.lock() = Some(OnTheWay { handoff, features, prepared, then });
    // SAFETY: the new tables map the image as it is mapped now, and the new stack; nothing of the old stack is needed
    // by `explore`.
    unsafe {
        core::arch::asm!(
            "mov cr3, {root}",
            "mov rsp, {stack}",
            "xor ebp, ebp",
            "call {explore}",
            "ud2",
            root = in(reg) root,
            stack = in(reg) takeover::boot_stack_top(),
            explore = sym explore,
            options(noreturn)
        )
    }
}

/// On the hypervisor's own tables and stack.
extern "C" fn explore() -> ! {
    let Some(OnTheWay { handoff, features, prepared, then }) = ON_THE_WAY.lock().take() else { cpu::fault::halt() };
    // SAFETY: `start` switched to these tables and this stack, once, on the boot CPU.
    unsafe {
        install_boot_cpu();
        takeover::finish(prepared, &handoff);
    }
    output::open_screen(&handoff.framebuffer);
    let files = handed_over::files(&handoff).unwrap_or_else(|error| stop(&error));
    symbols::set_file(files.kernel);
    log::info!(target: "kernel", "Postern {}", env!("CARGO_PKG_VERSION"));
    let map = memory_map();
    for entry in map.refused() {
        log::warn!(
            target: "memory",
            "the memory map's entry at {:#x} ({:#x} bytes, kind {}) overlaps another or is wild; it is not used",
            entry.start, entry.length, entry.kind
        );
    }
    log::info!(target: "memory", "{} MiB of RAM, {} MiB free", map.memory() >> 20, frames().totals().free >> 8);

    let tables = Tables::new(handoff.rsdp).unwrap_or_else(|error| stop(&error));
    let fadt = tables.fadt().map(Fadt::parse).unwrap_or_else(|error| {
        log::warn!(target: "acpi", "{error}: the machine can be reset by chipset registers only");
        Fadt::default()
    });
    set_up_boot_cpu(ApicMode::XApic, &features).unwrap_or_else(|error| stop(&error));
    let reference = calibration::calibrate(&features, PmTimer::new(&fadt)).unwrap_or_else(|error| stop(&error));
    let kilohertz = clock::frequency() / 1000;
    log::info!(target: "cpu", "the TSC runs at {}.{:03} MHz by {reference}", kilohertz / 1000, kilohertz % 1000);
    if !features.invariant_tsc {
        log::debug!(target: "cpu", "the TSC is not called invariant: times may drift");
    }
    let madt = interrupt_controllers(&tables);
    let (configuration, functions) = functions(&tables);
    then(Machine { files, tables, madt, fadt, configuration, functions, features })
}

/// Reads the MADT, and masks what delivered interrupts before.
fn interrupt_controllers(tables: &Tables) -> Madt {
    let madt = match tables.madt() {
        Ok(table) => Madt::parse(table),
        Err(error) => {
            log::warn!(target: "acpi", "{error}: this CPU is the only one that is used");
            Madt { has_8259s: true, ..Madt::default() }
        }
    };
    for problem in &madt.problems {
        log::warn!(target: "acpi", "{problem}");
    }
    if madt.has_8259s {
        legacy::mask_8259s();
    }
    for io_apic in &madt.io_apics {
        if let Err(error) = legacy::mask_io_apic(io_apic) {
            log::warn!(target: "cpu", "I/O APIC {} is left as firmware had it: {error}", io_apic.id);
        }
    }
    madt
}

/// Finds the PCI functions.
fn functions(tables: &Tables) -> (Mechanism, alloc::vec::Vec<pci::Function>) {
    let mechanism = mechanism(tables);
    let pci::Enumeration { functions, problems } = pci::enumerate(&mechanism);
    for problem in problems {
        log::warn!(target: "pci", "{problem}");
    }
    let masters = functions.iter().filter(|function| function.was_bus_master).count();
    log::info!(
        target: "pci",
        "{} functions; bus mastering was on in {masters} that are no bridges, and is off now",
        functions.len()
    );
    (mechanism, functions)
}

/// The enhanced mechanism where firmware's table leads to it, else the ports.
fn mechanism(tables: &Tables) -> Mechanism {
    let regions = match tables.mcfg() {
        Ok(table) => {
            let (regions, problems) = parse_mcfg(table);
            for problem in problems {
                log::warn!(target: "acpi", "{problem}");
            }
            regions
        }
        Err(AcpiFault::Missing(_)) => alloc::vec::Vec::new(),
        Err(error) => stop(&error),
    };
    let (ecam, failed) = pci::map(&regions);
    for (region, error) in failed {
        log::warn!(target: "pci", "configuration space of segment {:04x} is out of reach: {error}", region.segment);
    }
    if !ecam.segments().is_empty() {
        return Mechanism::Enhanced(ecam);
    }
    match Ports::find() {
        Some(ports) => {
            log::warn!(
                target: "pci",
                "no ACPI table MCFG leads to configuration space: it is reached by ports 0xcf8 and 0xcfc, without \
                 extended capabilities"
            );
            Mechanism::Ports(ports)
        }
        None => {
            log::warn!(
                target: "pci",
                "no PCI function can be reached: there is neither an ACPI table MCFG that leads to configuration space \
                 nor a host bridge at port 0xcf8"
            );
            Mechanism::Enhanced(ecam)
        }
    }
}

/// One line that says where memory went.
pub fn log_memory() {
    let (totals, heap) = (frames().totals(), heap_use());
    let vms: usize = (0..Owner::VMS).map(|number| frames().in_use(Owner::Vm(number))).sum();
    log::info!(
        target: "memory",
        "in use: hypervisor {} KiB (heap {} of {} KiB), remapping units {} KiB, VMs {} KiB; free {} KiB",
        frames().in_use(Owner::Hypervisor) * 4,
        heap.used / 1024,
        heap.mapped / 1024,
        frames().in_use(Owner::RemappingUnits) * 4,
        vms * 4,
        totals.free * 4
    );
}

/// Says why the hypervisor cannot go on, and stops.
pub fn stop(error: &dyn fmt::Display) -> ! {
    log::error!(target: "kernel", "{error}");
    log::error!(target: "kernel", "the machine is halted: nothing was started");
    cpu::fault::halt()
}
