//! The local APIC of this CPU (SDM volume 3 chapter 11), memory-mapped or as MSRs.

use core::sync::atomic::{AtomicU8, Ordering};

use spin::Once;

use super::{clock, interrupts, msr};
use crate::memory::Mmio;

/// How the local APICs are driven; the same on every CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// By memory-mapped registers; ids have 8 bits.
    XApic,
    /// By MSRs; ids have 32 bits.
    X2Apic,
}

/// Registers by their xAPIC offset (SDM volume 3 table 11-1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
enum Register {
    Id = 0x20,
    TaskPriority = 0x80,
    EndOfInterrupt = 0xb0,
    LogicalDestination = 0xd0,
    DestinationFormat = 0xe0,
    SpuriousInterrupt = 0xf0,
    InService = 0x100,
    ErrorStatus = 0x280,
    CorrectedMachineCheck = 0x2f0,
    InterruptCommand = 0x300,
    InterruptCommandHigh = 0x310,
    Timer = 0x320,
    Thermal = 0x330,
    PerformanceCounter = 0x340,
    LocalInterrupt0 = 0x350,
    LocalInterrupt1 = 0x360,
    Error = 0x370,
    TimerInitialCount = 0x380,
    TimerCurrentCount = 0x390,
    TimerDivide = 0x3e0,
}

/// What an interrupt command asks for (SDM volume 3 section 11.6.1, bits 10:8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Delivery {
    Fixed = 0 << 8,
    NonMaskable = 4 << 8,
    Init = 5 << 8,
    StartUp = 6 << 8,
}

const MASKED: u32 = 1 << 16;
const COMMAND_PENDING: u32 = 1 << 12;
const LEVEL_ASSERT: u32 = 1 << 14;
const SOFTWARE_ENABLE: u32 = 1 << 8;
const TIMER_TSC_DEADLINE: u32 = 2 << 17;
/// Divide by 1.
const TIMER_DIVIDE_BY_1: u32 = 0b1011;

const MODE_X2APIC: u8 = 1;
static MODE: AtomicU8 = AtomicU8::new(0);
static WINDOW: Once<Mmio> = Once::new();

/// How the local APICs are driven.
pub fn mode() -> Mode {
    if MODE.load(Ordering::Relaxed) == MODE_X2APIC { Mode::X2Apic } else { Mode::XApic }
}

fn read(register: Register) -> u32 {
    match mode() {
        Mode::XApic => WINDOW.get().map_or(0, |window| window.read_u32(u64::from(register as u16))),
        // SAFETY: in x2APIC mode the register is there as an MSR; none of those read here has a side effect.
        Mode::X2Apic => unsafe { msr::read(msr::X2APIC + u32::from(register as u16) / 16) as u32 },
    }
}

fn write(register: Register, value: u32) {
    match mode() {
        Mode::XApic => {
            if let Some(window) = WINDOW.get() {
                window.write_u32(u64::from(register as u16), value);
            }
        }
        // SAFETY: in x2APIC mode the register is there as an MSR, and this module writes only what each one takes.
        Mode::X2Apic => unsafe { msr::write(msr::X2APIC + u32::from(register as u16) / 16, u64::from(value)) },
    }
}

/// Says that the interrupt being handled is done.
pub(super) fn end_of_interrupt() {
    write(Register::EndOfInterrupt, 0);
}

/// This CPU's id.
pub(super) fn id() -> u32 {
    match mode() {
        Mode::XApic => read(Register::Id) >> 24,
        Mode::X2Apic => read(Register::Id),
    }
}

/// Sends `vector` as a fixed interrupt to the CPU with this local APIC id.
pub(super) fn send_fixed(id: u32, vector: u8) {
    command(id, Delivery::Fixed, vector);
}

/// Sends an interrupt command to one CPU.
pub(super) fn command(id: u32, delivery: Delivery, vector: u8) {
    let low = delivery as u32 | u32::from(vector) | LEVEL_ASSERT;
    match mode() {
        Mode::XApic => interrupts::without(|| {
            // The command before must have left; hardware takes microseconds, and a command that never leaves would
            // be lost in any case.
            let _ =
                clock::wait_for(100_000, || (read(Register::InterruptCommand) & COMMAND_PENDING == 0).then_some(()));
            write(Register::InterruptCommandHigh, id << 24);
            write(Register::InterruptCommand, low);
        }),
        Mode::X2Apic => {
            // What the target is to see was stored before: WRMSR to an x2APIC register does not order stores itself
            // (SDM volume 3 section 11.12.3).
            // SAFETY: the fences are on every x86-64 processor; ICR takes this value in x2APIC mode.
            unsafe {
                core::arch::x86_64::_mm_mfence();
                core::arch::x86_64::_mm_lfence();
                msr::write(msr::X2APIC + Register::InterruptCommand as u32 / 16, u64::from(id) << 32 | u64::from(low));
            }
        }
    }
}

/// Starts the timer's counter, or stops it with 0.
pub(super) fn set_timer_count(count: u32) {
    write(Register::TimerInitialCount, count);
}
