//! Switching the machine off by ACPI's soft-off state.

use core::fmt;

use x86_64::instructions::port::Port;

use super::acpi::{NoSoftOff, SoftOff};
use crate::console::output;
use crate::cpu::{clock, interrupts};

/// Bits of a control register: firmware handed the ACPI registers over; which state; go there.
const ENABLED: u16 = 1 << 0;
const SLEEP_TYPE: u32 = 10;
const SLEEP_TYPE_MASK: u16 = 7 << SLEEP_TYPE;
const SLEEP: u16 = 1 << 13;

/// How long firmware may take to hand the registers over, and the machine to go off afterwards.
const PATIENCE: u64 = 1_000_000_000;

/// Why the machine is still on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StillOn {
    /// It is not known how to switch it off.
    Unknown(NoSoftOff),
    /// Firmware does not hand the registers over.
    NotHandedOver,
    /// The registers were written, and nothing happened.
    NothingHappened,
}

impl fmt::Display for StillOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(reason) => reason.fmt(f),
            Self::NotHandedOver => f.write_str("firmware does not hand over the ACPI registers"),
            Self::NothingHappened => f.write_str("it was told to go off by ACPI and stayed on"),
        }
    }
}

impl core::error::Error for StillOn {}

/// Switches the machine off. Returns only where that fails.
pub(crate) fn off(soft_off: Result<SoftOff, NoSoftOff>) -> StillOn {
    let SoftOff { first, second, enable } = match soft_off {
        Ok(soft_off) => soft_off,
        Err(reason) => return StillOn::Unknown(reason),
    };
    // What was said last is still on its way out of the serial port.
    output::drain();
    interrupts::without(|| {
        let enabled = || (read(first.0) & ENABLED != 0).then_some(());
        if let (None, Some((command, value))) = (enabled(), enable) {
            // SAFETY: firmware names this port and value for handing its ACPI registers over.
            unsafe { Port::<u8>::new(command).write(value) };
            if clock::wait_for(PATIENCE, enabled).is_none() {
                return StillOn::NotHandedOver;
            }
        }
        for (port, sleep_type) in [Some(first), second].into_iter().flatten() {
            let value = read(port) & !(SLEEP_TYPE_MASK | SLEEP) | u16::from(sleep_type) << SLEEP_TYPE | SLEEP;
            // SAFETY: firmware names this port for putting the machine to sleep, and this type for switching it off.
            unsafe { Port::<u16>::new(port).write(value) };
        }
        clock::delay(PATIENCE);
        StillOn::NothingHappened
    })
}

fn read(port: u16) -> u16 {
    // SAFETY: firmware names the port as this control register's; reading it has no effect.
    unsafe { Port::<u16>::new(port).read() }
}
