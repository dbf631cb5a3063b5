//! This processor: descriptor tables, local APIC, per-CPU data, bring-up of the other CPUs, clock.
//!
//! A CPU is named by its index: its place among the machine's usable CPUs in the order of the MADT, which is the number
//! that a configuration's `cpus` names.

pub mod apic;
mod backtrace;
pub mod cache;
pub(crate) mod calibration;
pub mod clock;
mod descriptors;
pub mod exchange;
pub mod fault;
pub(crate) mod features;
pub mod interrupts;
pub mod msr;
pub(crate) mod online;
mod per_cpu;
mod start_page;
pub(crate) mod symbols;
pub mod timer;
mod trap;
pub mod vectors;

use iommu::interrupt::posted::Notification;

pub use self::apic::Mode as ApicMode;
pub use self::online::{run_on_each, stop_this_cpu};
pub use self::per_cpu::{MAXIMUM, PerCpu, current, get};

/// How many CPUs are online.
pub fn count() -> u32 {
    per_cpu::count()
}

/// The index of this CPU. It stays the same only as long as the caller stays on this CPU; nothing in the hypervisor
/// moves code between CPUs.
pub fn index() -> u32 {
    current().index()
}

/// The local APIC id of the CPU with this index, or `None` where there is no such CPU.
pub fn apic_id(index: u32) -> Option<u32> {
    get(index).map(PerCpu::apic_id)
}

/// How the local APICs are driven.
pub fn apic_mode() -> ApicMode {
    apic::mode()
}

/// Sends the interrupt `vector` to one CPU, this one too. Nothing happens where there is no such CPU.
pub fn send_interrupt(index: u32, vector: u8) {
    if let Some(target) = get(index) {
        apic::send_fixed(target.apic_id(), vector);
    }
}

/// Sends what a posted-interrupt descriptor says. Those vectors that only make a CPU look again are not sent to this
/// one: it looks before it is in a guest again.
pub fn notify(notification: Notification) {
    let Notification { destination, vector } = notification;
    // The inverse of `DestinationFormat::destination`.
    let apic_id = match apic_mode() {
        ApicMode::XApic => destination >> 8,
        ApicMode::X2Apic => destination,
    };
    if vector == vectors::WAKE_UP || apic_id != current().apic_id() {
        apic::send_fixed(apic_id, vector);
    }
}

/// Makes a CPU leave its guest, or its HLT, and look what there is to do; it does nothing else. This CPU is neither in
/// a guest nor in HLT while it runs the caller, and looks before it is again.
pub fn kick(index: u32) {
    if index != self::index() {
        send_interrupt(index, vectors::KICK);
    }
}
