//! The local APIC (Intel SDM volume 3A, chapter 11), in xAPIC or x2APIC mode.

use core::sync::atomic::{AtomicBool, Ordering};

use crate::instructions::{read_msr, write_msr};
use crate::memory::Registers;

/// The vector of spurious interrupts, which are not acknowledged.
pub const SPURIOUS: u8 = 0xFF;

const APIC_BASE: u32 = 0x1B;
const ENABLED: u64 = 1 << 11;
const EXTENDED: u64 = 1 << 10;
const X2APIC: u32 = 0x800;

/// Register offsets in xAPIC mode; in x2APIC mode the MSR is 0x800 + offset / 16.
const ID: u32 = 0x20;
const TASK_PRIORITY: u32 = 0x80;
const END_OF_INTERRUPT: u32 = 0xB0;
const SPURIOUS_VECTOR: u32 = 0xF0;
const COMMAND_LOW: u32 = 0x300;
const COMMAND_HIGH: u32 = 0x310;
const TIMER: u32 = 0x320;
const TIMER_INITIAL: u32 = 0x380;
const TIMER_CURRENT: u32 = 0x390;
const TIMER_DIVIDE: u32 = 0x3E0;

/// Timer mode, bit 17 of its entry: again and again.
const PERIODIC: u32 = 1 << 17;
const MASKED: u32 = 1 << 16;
/// The divide register's value for 1.
const DIVIDE_BY_1: u32 = 0xB;

/// What an inter-processor interrupt is (bits 10:8 of the command, with the level bit 14).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// An interrupt with this vector.
    Fixed(u8),
    /// An NMI.
    Nmi,
    /// INIT.
    Init,
    /// Start at this page below 1 MiB.
    StartUp(u8),
}

/// Whether the APIC is in x2APIC mode. Remembered, since asking the register is an exit, which a test that counts many
/// interrupts has no time for.
static IS_EXTENDED: AtomicBool = AtomicBool::new(false);
/// Where the registers are after reset, and stay.
const BASE: u64 = 0xFEE0_0000;

fn is_extended() -> bool {
    IS_EXTENDED.load(Ordering::Relaxed)
}

fn registers() -> Registers {
    Registers::at(BASE)
}

fn read(register: u32) -> u32 {
    if is_extended() { read_msr(X2APIC + register / 16) as u32 } else { registers().read32(u64::from(register)) }
}

fn write(register: u32, value: u32) {
    if is_extended() {
        // SAFETY: registers of the local APIC move no memory.
        unsafe { write_msr(X2APIC + register / 16, u64::from(value)) };
    } else {
        registers().write32(u64::from(register), value);
    }
}

/// Switches this processor's APIC on.
pub fn enable() {
    write(TASK_PRIORITY, 0);
    write(SPURIOUS_VECTOR, 1 << 8 | u32::from(SPURIOUS));
}

/// Changes to x2APIC mode, on a machine with this one processor.
pub fn extend() {
    // SAFETY: the mode moves no memory of the guest.
    unsafe { write_msr(APIC_BASE, read_msr(APIC_BASE) | ENABLED | EXTENDED) };
    IS_EXTENDED.store(true, Ordering::Relaxed);
}

/// This processor's id.
pub fn id() -> u32 {
    let id = read(ID);
    if is_extended() { id } else { id >> 24 }
}

/// Acknowledges the interrupt in service.
pub fn end_of_interrupt() {
    write(END_OF_INTERRUPT, 0);
}

/// Sets the task priority: interrupts of vectors below 16 * `class` + 16 wait.
pub fn set_priority(class: u8) {
    write(TASK_PRIORITY, u32::from(class) << 4);
}

/// Sends a command to the processor with this id.
pub fn send(target: u32, command: Command) {
    let low = match command {
        Command::Fixed(vector) => u32::from(vector),
        Command::Nmi => 4 << 8,
        Command::Init => 5 << 8,
        Command::StartUp(page) => 6 << 8 | u32::from(page),
    } | 1 << 14;
    if is_extended() {
        // SAFETY: as in `write`; what a started processor does is up to `processors`.
        unsafe { write_msr(X2APIC + COMMAND_LOW / 16, u64::from(target) << 32 | u64::from(low)) };
    } else {
        write(COMMAND_HIGH, target << 24);
        write(COMMAND_LOW, low);
        // Delivery status; bounded, as a missing target keeps some APICs sending.
        for _ in 0..100_000 {
            if read(COMMAND_LOW) & 1 << 12 == 0 {
                break;
            }
        }
    }
}

/// Sends this processor an interrupt.
pub fn send_self(vector: u8) {
    send(id(), Command::Fixed(vector));
}

/// Lets the timer run from `count` to 0 once.
pub fn start_timer(vector: u8, count: u32) {
    write(TIMER_DIVIDE, DIVIDE_BY_1);
    write(TIMER, u32::from(vector));
    write(TIMER_INITIAL, count);
}

/// Lets the timer run from `count` to 0 again and again.
pub fn start_periodic_timer(vector: u8, count: u32) {
    write(TIMER_DIVIDE, DIVIDE_BY_1);
    write(TIMER, u32::from(vector) | PERIODIC);
    write(TIMER_INITIAL, count);
}

/// Stops the timer and returns what was left.
pub fn stop_timer() -> u32 {
    let left = read(TIMER_CURRENT);
    write(TIMER, MASKED);
    write(TIMER_INITIAL, 0);
    left
}
