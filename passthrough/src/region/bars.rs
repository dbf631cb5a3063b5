//! Base address registers: what a function decodes (PCI 3.0 section 6.2.5).

use crate::config::register;
use crate::door::ConfigurationSpace;

/// What a BAR decodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarKind {
    /// I/O ports.
    Io,
    /// Memory below 4 GiB.
    Memory32 {
        /// Reads have no side effects.
        prefetchable: bool,
    },
    /// Memory anywhere; the register after this one holds the upper half.
    Memory64 {
        /// Reads have no side effects.
        prefetchable: bool,
    },
}

impl BarKind {
    /// Bits 3:0 of the register (1:0 for I/O), read only.
    pub const fn flags(self) -> u32 {
        match self {
            Self::Io => 1,
            Self::Memory32 { prefetchable } => (prefetchable as u32) << 3,
            Self::Memory64 { prefetchable } => 1 << 2 | (prefetchable as u32) << 3,
        }
    }

    /// The bits of the register that hold no address.
    const fn flag_mask(self) -> u32 {
        match self {
            Self::Io => 0b11,
            _ => 0b1111,
        }
    }
}

/// One BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// What it decodes.
    pub kind: BarKind,
    /// Where it decodes on the host.
    pub address: u64,
    /// So many bytes, a power of two.
    pub size: u64,
}

/// The expansion ROM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rom {
    /// Where it decodes on the host, once enabled.
    pub address: u64,
    /// So many bytes, a power of two.
    pub size: u64,
}

/// The BARs of a function. The slot after a 64-bit BAR is empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bars {
    /// BAR 0 to 5.
    pub bars: [Option<Bar>; 6],
    /// The expansion ROM.
    pub rom: Option<Rom>,
}

impl Bars {
    /// Finds kinds and sizes by writing all ones. Decoding is off meanwhile, so the function must be idle; all
    /// registers have their old values afterwards.
    pub fn probe(space: &impl ConfigurationSpace) -> Self {
        let command = space.read_u16(register::COMMAND);
        space.write_u16(register::COMMAND, command & !(register::command::MEMORY | register::command::IO));
        let mut found = Self::default();
        let mut index = 0usize;
        while let Some(slot) = found.bars.get_mut(index) {
            let (bar, registers) = probe_bar(space, index);
            *slot = bar;
            index = index.saturating_add(registers);
        }
        found.rom = probe_rom(space);
        space.write_u16(register::COMMAND, command);
        found
    }

    /// BAR `index`, if the function has it.
    pub fn get(&self, index: u8) -> Option<&Bar> {
        self.bars.get(usize::from(index))?.as_ref()
    }
}

/// The register's value before, and what it holds of all ones.
fn size_mask(space: &impl ConfigurationSpace, offset: u16, ones: u32) -> (u32, u32) {
    let before = space.read_u32(offset);
    space.write_u32(offset, ones);
    let mask = space.read_u32(offset);
    space.write_u32(offset, before);
    (before, mask)
}

fn probe_bar(space: &impl ConfigurationSpace, index: usize) -> (Option<Bar>, usize) {
    let offset = register::bar(index);
    let (low, low_mask) = size_mask(space, offset, u32::MAX);
    let kind = if low & 1 != 0 {
        BarKind::Io
    } else if low & 0b110 == 0b100 && index < 5 {
        BarKind::Memory64 { prefetchable: low & 8 != 0 }
    } else {
        BarKind::Memory32 { prefetchable: low & 8 != 0 }
    };
    let address_low = u64::from(low & !kind.flag_mask());
    let mask_low = low_mask & !kind.flag_mask();
    let (address, mask, registers) = match kind {
        BarKind::Memory64 { .. } => {
            let (high, high_mask) = size_mask(space, offset.saturating_add(4), u32::MAX);
            (address_low | u64::from(high) << 32, u64::from(mask_low) | u64::from(high_mask) << 32, 2)
        }
        // An I/O BAR may leave the upper half out.
        BarKind::Io => (address_low, u64::from(mask_low) | !0xffff, 1),
        BarKind::Memory32 { .. } => (address_low, u64::from(mask_low) | !0xffff_ffff, 1),
    };
    let is_present = mask_low != 0 || registers == 2 && mask != 0;
    // The lowest address bit that holds is the size.
    let size = mask & mask.wrapping_neg();
    ((is_present && size != 0).then_some(Bar { kind, address, size }), registers)
}

fn probe_rom(space: &impl ConfigurationSpace) -> Option<Rom> {
    let (before, mask) = size_mask(space, register::ROM, register::ROM_ADDRESS);
    let mask = mask & register::ROM_ADDRESS;
    (mask != 0).then(|| Rom {
        address: u64::from(before & register::ROM_ADDRESS),
        size: u64::from(mask & mask.wrapping_neg()),
    })
}
