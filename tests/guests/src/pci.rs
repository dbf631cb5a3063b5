//! PCI functions, found and configured through ports 0xCF8 and 0xCFC (PCI Local Bus 3.0, section 3.2.2.3.2).

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::instructions::{in32, out32};
use crate::memory::Registers;

const ADDRESS: u16 = 0xCF8;
const DATA: u16 = 0xCFC;

const COMMAND: u8 = 0x04;
const STATUS: u8 = 0x06;
const HEADER_TYPE: u8 = 0x0E;
const FIRST_BAR: u8 = 0x10;
const SECONDARY_BUS: u8 = 0x19;
const CAPABILITIES: u8 = 0x34;

const COMMAND_MEMORY: u16 = 1 << 1;
const COMMAND_BUS_MASTER: u16 = 1 << 2;
const COMMAND_NO_INTX: u16 = 1 << 10;
const STATUS_CAPABILITIES: u16 = 1 << 4;

/// Where BARs go that firmware has not placed: behind what it may have placed at the window's start.
static NEXT_BAR: AtomicU64 = AtomicU64::new(0xD000_0000);

/// A PCI function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its bus.
    pub bus: u8,
    /// Its device, 0 to 31.
    pub device: u8,
    /// Its number, 0 to 7.
    pub function: u8,
}

impl fmt::Display for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}:{:02x}.{}", self.bus, self.device, self.function)
    }
}

impl Function {
    /// Reads 32 bits at a multiple of 4.
    pub fn read32(self, offset: u8) -> u32 {
        self.select(offset);
        in32(DATA)
    }

    /// Writes 32 bits at a multiple of 4.
    pub fn write32(self, offset: u8, value: u32) {
        self.select(offset);
        out32(DATA, value);
    }

    /// Reads 16 bits at a multiple of 2.
    pub fn read16(self, offset: u8) -> u16 {
        (self.read32(offset & !3) >> ((offset & 2) * 8)) as u16
    }

    /// Writes 16 bits at a multiple of 2.
    pub fn write16(self, offset: u8, value: u16) {
        self.select(offset & !3);
        crate::instructions::out16(DATA + u16::from(offset & 2), value);
    }

    /// Reads a byte.
    pub fn read8(self, offset: u8) -> u8 {
        (self.read32(offset & !3) >> ((offset & 3) * 8)) as u8
    }

    fn select(self, offset: u8) {
        let Self { bus, device, function } = self;
        let place = u32::from(bus) << 16 | u32::from(device) << 11 | u32::from(function) << 8;
        out32(ADDRESS, 1 << 31 | place | u32::from(offset & !3));
    }

    /// Vendor and device id.
    pub fn identity(self) -> (u16, u16) {
        let both = self.read32(0);
        (both as u16, (both >> 16) as u16)
    }

    /// Class, subclass and programming interface, in 24 bits.
    pub fn class(self) -> u32 {
        self.read32(8) >> 8
    }

    /// Where the capability with this id stands.
    pub fn capability(self, id: u8) -> Option<u8> {
        if self.read16(STATUS) & STATUS_CAPABILITIES == 0 {
            return None;
        }
        let mut at = self.read8(CAPABILITIES) & !3;
        // No more than fit, in case of a circle.
        for _ in 0..48 {
            if at == 0 {
                return None;
            }
            if self.read8(at) == id {
                return Some(at);
            }
            at = self.read8(at + 1) & !3;
        }
        None
    }

    /// The registers of a memory BAR, which is placed if firmware has not done so; `None` if it is not one.
    pub fn bar(self, index: u8) -> Option<Registers> {
        let offset = FIRST_BAR + index * 4;
        let low = self.read32(offset);
        if low & 1 != 0 {
            return None;
        }
        let wide = low & 6 == 4;
        let high = if wide { self.read32(offset + 4) } else { 0 };
        let address = u64::from(high) << 32 | u64::from(low & !0xF);
        if address != 0 {
            return Some(Registers::at(address));
        }
        self.write32(offset, u32::MAX);
        let size = u64::from(!(self.read32(offset) & !0xF)) + 1;
        if size > 1 << 28 {
            return None;
        }
        let unit = size.max(4096);
        let end = NEXT_BAR.load(Ordering::Relaxed).next_multiple_of(unit) + unit;
        NEXT_BAR.store(end, Ordering::Relaxed);
        self.write32(offset, (end - unit) as u32);
        if wide {
            self.write32(offset + 4, 0);
        }
        Some(Registers::at(end - unit))
    }

    /// Lets it answer in memory, do DMA, and signal by messages only.
    pub fn enable(self) {
        let command = self.read16(COMMAND);
        self.write16(COMMAND, command | COMMAND_MEMORY | COMMAND_BUS_MASTER | COMMAND_NO_INTX);
    }

    /// Whether the PCI Express capability offers a function-level reset; if so, does it.
    pub fn function_level_reset(self, clock: crate::clock::Clock) -> bool {
        let Some(express) = self.capability(0x10) else { return false };
        if self.read32(express + 4) & 1 << 28 == 0 {
            return false;
        }
        let control = self.read16(express + 8);
        self.write16(express + 8, control | 1 << 15);
        clock.sleep(100);
        true
    }
}

/// Calls `visit` for every function that the firmware's bus numbers lead to.
pub fn visit(visit: &mut dyn FnMut(Function)) {
    visit_bus(0, visit);
}

fn visit_bus(bus: u8, visit: &mut dyn FnMut(Function)) {
    for device in 0..32 {
        let mut functions = 1;
        let mut function = 0;
        while function < functions {
            let found = Function { bus, device, function };
            function += 1;
            if found.identity().0 == 0xFFFF {
                continue;
            }
            let header = found.read8(HEADER_TYPE);
            if header & 0x80 != 0 {
                functions = 8;
            }
            visit(found);
            if header & 0x7F == 1 {
                let secondary = found.read8(SECONDARY_BUS);
                // Bus numbers grow downwards; anything else has no end.
                if secondary > bus {
                    visit_bus(secondary, visit);
                }
            }
        }
    }
}

/// The first function with these ids.
pub fn find(vendor: u16, device: u16) -> Option<Function> {
    first(|function| function.identity() == (vendor, device))
}

/// The first function of this class (class, subclass and programming interface).
pub fn find_class(class: u32) -> Option<Function> {
    first(|function| function.class() == class)
}

fn first(wanted: impl Fn(Function) -> bool) -> Option<Function> {
    let mut found = None;
    visit(&mut |function| {
        if found.is_none() && wanted(function) {
            found = Some(function);
        }
    });
    found
}
