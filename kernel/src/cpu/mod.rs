//! This processor: descriptor tables, local APIC, per-CPU data, bring-up of the other CPUs, clock.
//!
//! A CPU is named by its index: its place among the machine's usable CPUs in the order of the MADT, which is the number
//! that a configuration's `cpus` names.

pub mod apic;
pub mod cache;
pub mod clock;
pub mod interrupts;
pub mod msr;
mod per_cpu;
pub mod timer;
pub mod vectors;

pub use self::apic::Mode as ApicMode;
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

/// Makes a CPU leave its guest, or its HLT, and look what there is to do; it does nothing else.
pub fn kick(index: u32) {
    send_interrupt(index, vectors::KICK);
}
