//! Message-signalled interrupts (PCI Express 6.0, section 7.7).

use crate::apic;
use crate::memory::Registers;
use crate::pci::Function;

const MSI: u8 = 0x05;
const MSI_X: u8 = 0x11;

const ENABLE: u16 = 1 << 0;
const WIDE_ADDRESS: u16 = 1 << 7;
const EXTENDED_ENABLE: u16 = 1 << 15;
const EXTENDED_MASK: u16 = 1 << 14;

/// The message that brings `vector` to the processor that asks.
pub fn message(vector: u8) -> (u32, u32) {
    message_to(apic::id(), vector)
}

/// The message that brings `vector` to the processor with this local APIC id, at most 254.
pub fn message_to(id: u32, vector: u8) -> (u32, u32) {
    (0xFEE0_0000 | id << 12, u32::from(vector))
}

/// Switches MSI on with one message, which brings `vector`. `false` without the capability.
pub fn enable(function: Function, vector: u8) -> bool {
    let (address, data) = message(vector);
    enable_with(function, address, data)
}

/// Switches MSI on with one message, whatever it means. `false` without the capability.
pub fn enable_with(function: Function, address: u32, data: u32) -> bool {
    let Some(at) = function.capability(MSI) else { return false };
    let control = function.read16(at + 2);
    function.write32(at + 4, address);
    let data_at = if control & WIDE_ADDRESS != 0 {
        function.write32(at + 8, 0);
        at + 12
    } else {
        at + 8
    };
    function.write16(data_at, data as u16);
    // One message of those that it is capable of.
    function.write16(at + 2, control & !(7 << 4) | ENABLE);
    true
}

/// Switches MSI off.
pub fn disable(function: Function) {
    if let Some(at) = function.capability(MSI) {
        function.write16(at + 2, function.read16(at + 2) & !ENABLE);
    }
}

/// A function's MSI-X table.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    function: Function,
    capability: u8,
    entries: Registers,
    /// How many entries it has.
    pub count: u16,
}

impl Table {
    /// The table of a function that has one.
    pub fn of(function: Function) -> Option<Self> {
        let capability = function.capability(MSI_X)?;
        let place = function.read32(capability + 4);
        let bar = function.bar((place & 7) as u8)?;
        let count = (function.read16(capability + 2) & 0x7FF) + 1;
        Some(Self { function, capability, entries: Registers::at(bar.address() + u64::from(place & !7)), count })
    }

    /// Programs an entry, unmasked or masked.
    pub fn set(&self, index: u16, vector: u8, masked: bool) {
        let (address, data) = message(vector);
        let at = u64::from(index) * 16;
        self.entries.write32(at + 12, 1);
        self.entries.write32(at, address);
        self.entries.write32(at + 4, 0);
        self.entries.write32(at + 8, data);
        self.entries.write32(at + 12, u32::from(masked));
    }

    /// Masks or unmasks an entry.
    pub fn mask(&self, index: u16, masked: bool) {
        self.entries.write32(u64::from(index) * 16 + 12, u32::from(masked));
    }

    /// What an entry holds: address, upper address, data, control.
    pub fn entry(&self, index: u16) -> [u32; 4] {
        [0, 4, 8, 12].map(|offset| self.entries.read32(u64::from(index) * 16 + offset))
    }

    /// Switches MSI-X on.
    pub fn enable(&self) {
        let control = self.function.read16(self.capability + 2);
        self.function.write16(self.capability + 2, control & !EXTENDED_MASK | EXTENDED_ENABLE);
    }

    /// Masks or unmasks all entries at once.
    pub fn mask_all(&self, masked: bool) {
        let control = self.function.read16(self.capability + 2) & !EXTENDED_MASK;
        self.function.write16(self.capability + 2, control | if masked { EXTENDED_MASK } else { 0 });
    }
}
