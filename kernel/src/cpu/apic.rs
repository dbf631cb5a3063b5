//! The local APIC of this CPU (SDM volume 3 chapter 11), memory-mapped or as MSRs.

use core::fmt;
use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use spin::Once;

use super::features::Features;
use super::{clock, interrupts, msr, vectors};
use crate::memory::{HostPhysical, MapMmioError, Mmio, map_mmio};

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
    Version = 0x30,
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
static ERRORS: AtomicU32 = AtomicU32::new(0);

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

/// Whether the interrupt being handled is one that the local APIC delivered and waits for the EOI of.
pub(super) fn is_in_service(vector: u8) -> bool {
    in_service(vector >> 5) & 1 << (vector & 31) != 0
}

/// One of the eight in-service registers, which follow each other: 32 vectors.
fn in_service(word: u8) -> u32 {
    let offset = Register::InService as u16 + u16::from(word & 7) * 0x10;
    match mode() {
        Mode::XApic => WINDOW.get().map_or(0, |window| window.read_u32(u64::from(offset))),
        // SAFETY: as in `read`.
        Mode::X2Apic => unsafe { msr::read(msr::X2APIC + u32::from(offset) / 16) as u32 },
    }
}

/// Counts what the local APIC calls an error (SDM volume 3 section 11.5.3).
pub(super) fn note_error() {
    write(Register::ErrorStatus, 0);
    ERRORS.fetch_or(read(Register::ErrorStatus), Ordering::Relaxed);
}

/// The errors that any local APIC reported: bits of the error status register.
pub fn errors() -> u32 {
    ERRORS.load(Ordering::Relaxed)
}

/// Bits of IA32_APIC_BASE.
const BASE_X2APIC: u64 = 1 << 10;
const BASE_ENABLE: u64 = 1 << 11;
const BASE_ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// The local APIC cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ApicError {
    /// Its registers cannot be mapped.
    Window(MapMmioError),
    /// x2APIC mode is wanted on a processor that has none.
    NoX2Apic,
}

impl fmt::Display for ApicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Window(error) => write!(f, "the local APIC cannot be reached: {error}"),
            Self::NoX2Apic => f.write_str("x2APIC mode is asked for, but this processor has no x2APIC"),
        }
    }
}

impl core::error::Error for ApicError {}

/// Chooses how the local APICs are driven and switches this CPU's, the boot CPU's, on. Called before other CPUs start. Firmware's choice of x2APIC is kept even where xAPIC is wanted: some processors cannot go back.
pub(super) fn choose(wanted: Mode, features: &Features) -> Result<Mode, ApicError> {
    // SAFETY: the register is on every processor with a local APIC, which `features::detect` made sure of.
    let base = unsafe { msr::read(msr::APIC_BASE) };
    let firmware = base & (BASE_ENABLE | BASE_X2APIC) == BASE_ENABLE | BASE_X2APIC;
    let chosen = if firmware { Mode::X2Apic } else { wanted };
    match chosen {
        Mode::X2Apic if !features.x2apic => return Err(ApicError::NoX2Apic),
        Mode::X2Apic => {}
        Mode::XApic => {
            let window = map_mmio(HostPhysical::new(base & BASE_ADDRESS), 4096).map_err(ApicError::Window)?;
            WINDOW.call_once(|| window);
        }
    }
    MODE.store(if chosen == Mode::X2Apic { MODE_X2APIC } else { 0 }, Ordering::Relaxed);
    switch_on();
    Ok(chosen)
}

/// Switches this CPU's local APIC on in the chosen mode, with every local interrupt masked.
pub(super) fn switch_on() {
    // SAFETY: the register is on every processor with a local APIC. Enabling goes from disabled by xAPIC to x2APIC, as
    // the manual's state diagram asks (SDM volume 3 section 11.12.5); the base address stays.
    unsafe {
        let base = msr::read(msr::APIC_BASE);
        if base & BASE_ENABLE == 0 {
            msr::write(msr::APIC_BASE, base | BASE_ENABLE);
        }
        if mode() == Mode::X2Apic {
            msr::write(msr::APIC_BASE, base | BASE_ENABLE | BASE_X2APIC);
        }
    }
    write(Register::SpuriousInterrupt, SOFTWARE_ENABLE | u32::from(vectors::SPURIOUS));
    for register in [Register::Timer, Register::LocalInterrupt0, Register::LocalInterrupt1] {
        write(register, MASKED);
    }
    // The registers from 0x2f0 to 0x340 are there as the version register counts them.
    let entries = (read(Register::Version) >> 16 & 0xff) + 1;
    for (register, needs) in
        [(Register::PerformanceCounter, 5), (Register::Thermal, 6), (Register::CorrectedMachineCheck, 7)]
    {
        if entries >= needs {
            write(register, MASKED);
        }
    }
    write(Register::Error, u32::from(vectors::APIC_ERROR));
    write(Register::ErrorStatus, 0);
    write(Register::TaskPriority, 0);
    // What firmware left in service would keep later interrupts waiting.
    for _ in 0..256 {
        if (0..8).all(|word| in_service(word) == 0) {
            break;
        }
        end_of_interrupt();
    }
    if mode() == Mode::XApic {
        // Flat logical ids are used by nobody; a destination format left by firmware would still be looked at.
        write(Register::DestinationFormat, u32::MAX);
        write(Register::LogicalDestination, 0);
    }
}

/// How the timer counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timer {
    /// Down from a count, once.
    OneShot,
    /// Up to a value of the TSC.
    TscDeadline,
}

/// Sets this CPU's timer up; it does not run yet.
pub(super) fn set_timer(timer: Timer) {
    let kind = if timer == Timer::TscDeadline { TIMER_TSC_DEADLINE } else { 0 };
    write(Register::TimerDivide, TIMER_DIVIDE_BY_1);
    write(Register::Timer, kind | u32::from(vectors::TIMER));
}

/// What is left of the timer's count.
pub(super) fn timer_count() -> u32 {
    read(Register::TimerCurrentCount)
}
