//! The machine around the processors: what the loader handed over, ACPI, PCI, and what is left of the first PC.

pub mod acpi;
pub(crate) mod handed_over;
pub(crate) mod legacy;
pub mod pci;
mod power;
mod reset;

use alloc::vec::Vec;

use self::acpi::{Fadt, Madt, NoSoftOff, SoftOff, Tables};
pub use self::handed_over::{File, Files, HandoffError};
use self::pci::{Function, Mechanism};
pub use self::power::StillOn;
use crate::cpu::features::Features;
use crate::cpu::online::{self, LeftOut};
use crate::cpu::{self, ApicMode};

/// The machine as the hypervisor found it.
#[derive(Debug)]
pub struct Machine {
    /// What the loader read from the boot volume.
    pub files: Files,
    /// Firmware's tables.
    pub tables: Tables,
    /// CPUs and I/O APICs.
    pub madt: Madt,
    /// The reset register.
    pub fadt: Fadt,
    /// The way to configuration space.
    pub configuration: Mechanism,
    /// Every PCI function, a bridge before what is behind it; bus mastering is off in all that are no bridges.
    pub functions: Vec<Function>,
    pub(crate) features: Features,
}

impl Machine {
    /// Starts the other CPUs, which then wait for [`cpu::run_on_each`]. Called once. `wanted` is
    /// [`ApicMode::X2Apic`] where interrupt remapping can name ids of 32 bits (extended interrupt mode) and is on or
    /// about to be; that is obeyed only where the processor has x2APIC. Firmware's choice of x2APIC is kept in any case.
    pub fn start_other_cpus(&self, wanted: ApicMode) {
        let possible = if self.features.x2apic { wanted } else { ApicMode::XApic };
        match online::set_up_boot_cpu(possible, &self.features) {
            Ok(ApicMode::XApic) => log::info!(target: CPU, "local APICs are driven in xAPIC mode"),
            Ok(ApicMode::X2Apic) => log::info!(target: CPU, "local APICs are driven in x2APIC mode"),
            Err(error) => log::error!(target: CPU, "local APICs stay as they are: {error}"),
        }
        let report = |left_out: LeftOut| log::warn!(target: CPU, "{left_out}");
        online::start(self.madt.processors.iter().copied(), report);
        log::info!(target: CPU, "{} of {} CPUs are online", cpu::count(), self.madt.processors.len().max(1));
    }

    /// Whether the processor's local APIC has x2APIC mode.
    pub fn has_x2apic(&self) -> bool {
        self.features.x2apic
    }
}

/// Resets the machine, by the register that its FADT names and by every other way that a PC knows.
pub fn reset(fadt: &Fadt) -> ! {
    reset::reset(fadt.reset)
}

/// Switches the machine off, as its firmware's tables say. Returns only where that fails.
pub fn switch_off(soft_off: Result<SoftOff, NoSoftOff>) -> StillOn {
    power::off(soft_off)
}

/// The room that lines about CPUs name.
const CPU: &str = "cpu";
