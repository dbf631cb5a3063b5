//! Resetting the machine: every way that a PC knows, the mildest first.

use x86_64::instructions::port::Port;
use x86_64::structures::DescriptorTablePointer;

use super::acpi::{AddressSpace, GenericAddress};
use crate::cpu::{clock, interrupts};
use crate::memory::{HostPhysical, map_mmio};

/// How long each way is given.
const PATIENCE: u64 = 50_000_000;

/// Resets the machine. `register` is what the FADT names for it, and the value.
pub(crate) fn reset(register: Option<(GenericAddress, u8)>) -> ! {
    interrupts::disable();
    if let Some((register, value)) = register {
        by_register(register, value);
        clock::delay(PATIENCE);
    }
    let mut control = Port::<u8>::new(0xcf9);
    let mut keyboard = Port::<u8>::new(0x64);
    // SAFETY: the machine is to be reset, whatever it was doing: these are the chipset's reset control register (full
    // reset), and the keyboard controller's command to pulse the processor's reset line.
    unsafe {
        control.write(0x02);
        control.write(0x06);
        clock::delay(PATIENCE);
        keyboard.write(0xfe);
        clock::delay(PATIENCE);
    }
    loop {
        // SAFETY: without gates, an exception becomes a triple fault, which resets the machine.
        unsafe {
            x86_64::instructions::tables::lidt(&DescriptorTablePointer { limit: 0, base: x86_64::VirtAddr::zero() });
            core::arch::asm!("ud2", options(nomem, nostack));
        }
    }
}

fn by_register(register: GenericAddress, value: u8) {
    match register.space {
        AddressSpace::Memory => {
            if let Ok(window) = map_mmio(HostPhysical::new(register.address), 1) {
                window.write_u8(0, value);
            }
        }
        AddressSpace::Port => {
            if let Ok(port) = u16::try_from(register.address) {
                // SAFETY: firmware names this port for resetting the machine.
                unsafe { Port::new(port).write(value) };
            }
        }
        AddressSpace::Configuration => {
            let [offset, function, device, _] =
                [0, 16, 32, 48].map(|shift| (register.address >> shift) as u32 & 0xffff);
            let (mut select, mut data) = (Port::<u32>::new(0xcf8), Port::<u8>::new(0xcfc + (offset & 3) as u16));
            // SAFETY: firmware names this register, on bus 0, for resetting the machine.
            unsafe {
                select.write(1 << 31 | (device & 31) << 11 | (function & 7) << 8 | offset & 0xfc);
                data.write(value);
            }
        }
    }
}
