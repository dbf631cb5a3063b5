//! The virtual configuration space of an assigned function.
//!
//! Each bit is answered for by one table (in `permission.rs`): the function itself, or a copy that the guest may or may
//! not change. BARs and messages are the guest's alone; whoever runs the machine learns from [`Changes`] what a write
//! has changed and carries it out.

mod bars;
pub mod capability;
mod permission;
pub mod register;
mod shown;
#[cfg(test)]
mod tests;
mod views;
mod write;

use alloc::boxed::Box;
use alloc::vec;

pub use bars::Placement;
use bitflags::bitflags;
use capability::{Capabilities, EXTENDED_START, ExtendedCapabilities, Found, extended_id, id};
use permission::Field;
use shown::Shown;
pub use views::{MsiView, MsixView};

use crate::door::{ConfigurationSpace, Width};
use crate::region::Bars;

bitflags! {
    /// What a write of the guest has changed. Details are asked of the device.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Changes: u16 {
        /// Whether the function answers to memory, or where: map or unmap its BARs.
        const MEMORY = 1 << 0;
        /// Whether the function answers to I/O, or where.
        const IO = 1 << 1;
        /// Whether the function may send requests.
        const BUS_MASTER = 1 << 2;
        /// The interrupt-disable bit of the command register.
        const INTERRUPT_DISABLE = 1 << 3;
        /// MSI: enable, number, address or data.
        const MSI = 1 << 4;
        /// MSI-X: enable or mask-all.
        const MSI_X = 1 << 5;
        /// The guest asked for a reset of the function.
        const RESET = 1 << 6;
        /// The power state.
        const POWER = 1 << 7;
    }
}

/// Where the capabilities that this crate handles stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) power: Option<u16>,
    pub(crate) msi: Option<u16>,
    pub(crate) msix: Option<u16>,
    pub(crate) express: Option<u16>,
    pub(crate) advanced: Option<u16>,
    pub(crate) vital_product_data: Option<u16>,
}

/// A virtual configuration space.
#[derive(Debug)]
pub struct VirtualConfiguration {
    value: Box<[u8]>,
    virtual_bits: Box<[u8]>,
    writable_bits: Box<[u8]>,
    layout: Layout,
    bars: Bars,
    interrupt_pin: u8,
    /// The power state that the guest asked for last.
    power_request: u16,
}

impl VirtualConfiguration {
    /// Reads the function and lays the tables over it. BARs start without an address, memory, I/O and bus mastering
    /// off, messages off. `interrupt_pin` is what the guest sees: 0 where the wire cannot be used.
    pub fn new(space: &impl ConfigurationSpace, bars: Bars, interrupt_pin: u8) -> Self {
        // Only PCI Express, and PCI-X of its second version, have more than 256 bytes; what may stand behind them where
        // others are asked is nobody's.
        let is_extended = Capabilities::new(space).any(|found| matches!(found.id, id::PCI_EXPRESS | id::PCI_X));
        let bytes = if is_extended { space.size() } else { space.size().min(EXTENDED_START) };
        let size = usize::from(bytes);
        let mut configuration = Self {
            value: (0..bytes).map(|offset| space.read_u8(offset)).collect(),
            virtual_bits: vec![0; size].into(),
            writable_bits: vec![0; size].into(),
            layout: Layout::default(),
            bars,
            interrupt_pin,
            power_request: 0,
        };
        // Between the capabilities a function may have registers that only its driver knows: they are the guest's.
        configuration.set_writable(0x40..bytes);
        configuration.apply(0, permission::HEADER);
        configuration.show_capabilities(space);
        if is_extended {
            configuration.show_extended(space);
        }
        configuration.reset();
        configuration
    }

    /// Bytes of the space.
    pub fn size(&self) -> u16 {
        u16::try_from(self.value.len()).unwrap_or(u16::MAX)
    }

    pub(crate) fn layout(&self) -> Layout {
        self.layout
    }

    /// The power state that the guest asked for last, 0 (D0) to 3 (D3hot).
    pub(crate) fn power_request(&self) -> u16 {
        self.power_request
    }

    /// Brings the copy to what a function shows after a reset.
    pub(crate) fn reset(&mut self) {
        self.power_request = 0;
        self.set_copy(register::COMMAND, 2, 0);
        self.set_copy(register::HEADER_TYPE, 1, 0);
        self.set_copy(register::INTERRUPT_PIN, 1, u32::from(self.interrupt_pin));
        self.set_copy(register::INTERRUPT_LINE, 1, 0);
        for index in 0..6 {
            self.set_copy(register::bar(index), 4, 0);
        }
        self.set_copy(register::ROM, 4, 0);
        self.settle_bars();
        let Layout { power, msi, msix, .. } = self.layout;
        if let Some(at) = power {
            // Which states can wake the machine, and that one did.
            self.clear_copy(at.saturating_add(2), 2, 0xf800);
            self.clear_copy(at.saturating_add(register::power::CONTROL), 2, 0x8100);
        }
        if let Some(at) = msi {
            let wide = self.copy(at.saturating_add(register::msi::CONTROL), 2) & u32::from(register::msi::WIDE) != 0;
            self.clear_copy(at.saturating_add(register::msi::CONTROL), 2, 0x0071);
            self.set_copy(at.saturating_add(register::msi::ADDRESS), 4, 0);
            if wide {
                self.set_copy(at.saturating_add(register::msi::ADDRESS_HIGH), 4, 0);
            }
            self.set_copy(at.saturating_add(if wide { 12 } else { 8 }), 2, 0);
        }
        if let Some(at) = msix {
            self.clear_copy(at.saturating_add(register::msix::CONTROL), 2, 0xc000);
        }
    }

    /// One read of the guest. Past the end it is all ones, as where no function answers.
    pub fn read(&self, space: &impl ConfigurationSpace, offset: u16, width: Width) -> u32 {
        match width {
            Width::Byte => u32::from(self.read_u8(space, offset)),
            Width::Word if offset.is_multiple_of(2) => self.read_aligned(space, offset, 2),
            Width::Double if offset.is_multiple_of(4) => self.read_aligned(space, offset, 4),
            // Nobody sends these; answer byte by byte.
            _ => (0..4).take(usize::try_from(width.bytes()).unwrap_or(4)).fold(0, |value, index| {
                let byte = self.read_u8(space, offset.saturating_add(index));
                value | u32::from(byte) << (u32::from(index) * 8)
            }),
        }
    }

    fn read_u8(&self, space: &impl ConfigurationSpace, offset: u16) -> u8 {
        u8::try_from(self.read_aligned(space, offset, 1) & 0xff).unwrap_or(u8::MAX)
    }

    fn read_aligned(&self, space: &impl ConfigurationSpace, offset: u16, width: u16) -> u32 {
        let mask = ones(width);
        if offset.checked_add(width).is_none_or(|end| end > self.size()) {
            return mask;
        }
        let virtual_bits = bits(&self.virtual_bits, offset, width);
        let copy = bits(&self.value, offset, width);
        if virtual_bits == mask {
            return copy;
        }
        let real = match width {
            1 => u32::from(space.read_u8(offset)),
            2 => u32::from(space.read_u16(offset)),
            _ => space.read_u32(offset),
        };
        (real & !virtual_bits) | (copy & virtual_bits)
    }

    fn show_capabilities(&mut self, space: &impl ConfigurationSpace) {
        // Where the last pointer stands; it is filled in when the next capability is known.
        let mut pointer = register::CAPABILITY_POINTER;
        self.set_copy(pointer, 1, 0);
        let mut is_first = true;
        for found in Capabilities::new(space) {
            let Some(shown) = shown::shown(space, found) else { continue };
            self.set_copy(pointer, 1, u32::from(found.offset));
            pointer = found.offset.saturating_add(1);
            is_first = false;
            self.lay(found, &shown, 2);
            self.set_copy(pointer, 1, 0);
            let slot = match found.id {
                id::POWER_MANAGEMENT => &mut self.layout.power,
                id::MSI => &mut self.layout.msi,
                id::MSI_X => &mut self.layout.msix,
                id::PCI_EXPRESS => &mut self.layout.express,
                id::ADVANCED_FEATURES => &mut self.layout.advanced,
                id::VITAL_PRODUCT_DATA => &mut self.layout.vital_product_data,
                _ => continue,
            };
            slot.get_or_insert(found.offset);
        }
        let status = if is_first { 0 } else { u32::from(register::status::CAPABILITIES) };
        self.set_copy(register::STATUS, 2, status);
    }

    fn show_extended(&mut self, space: &impl ConfigurationSpace) {
        let mut previous: Option<u16> = None;
        for found in ExtendedCapabilities::new(space) {
            let header = match shown::shown_extended(space, found) {
                Some(shown) => {
                    self.lay(found, &shown, 4);
                    u32::from(found.id) | u32::from(found.version) << 16
                }
                // The chain starts at a fixed place: a hidden first capability stays as an anchor without an id.
                None if found.offset == EXTENDED_START => {
                    self.protect(found.offset, 4);
                    0
                }
                None => {
                    // Enabling it would make the function send what no domain answers to.
                    if found.id == extended_id::PASID {
                        self.protect(found.offset, 8);
                    }
                    continue;
                }
            };
            self.set_virtual(found.offset, 4);
            self.set_copy(found.offset, 4, header);
            if let Some(previous) = previous {
                let before = self.copy(previous, 4);
                self.set_copy(previous, 4, before & 0x000f_ffff | u32::from(found.offset) << 20);
            }
            previous = Some(found.offset);
        }
    }

    /// Lays the tables of a capability over its bytes; the first `header` bytes are the copy's.
    fn lay(&mut self, found: Found, shown: &Shown, header: u16) {
        if !shown.raw {
            self.protect(found.offset, shown.length.max(header));
        }
        for fields in shown.fields {
            self.apply(found.offset, fields);
        }
        self.protect(found.offset, header);
        self.set_virtual(found.offset, header);
    }

    fn apply(&mut self, base: u16, fields: &[Field]) {
        for field in fields {
            let at = base.saturating_add(field.offset);
            put(&mut self.virtual_bits, at, field.width, field.virtual_bits);
            put(&mut self.writable_bits, at, field.width, field.writable_bits);
        }
    }

    fn protect(&mut self, offset: u16, length: u16) {
        for at in offset..offset.saturating_add(length) {
            put(&mut self.writable_bits, at, 1, 0);
        }
    }

    fn set_writable(&mut self, range: core::ops::Range<u16>) {
        for at in range {
            put(&mut self.writable_bits, at, 1, 0xff);
        }
    }

    fn set_virtual(&mut self, offset: u16, length: u16) {
        for at in offset..offset.saturating_add(length) {
            put(&mut self.virtual_bits, at, 1, 0xff);
        }
    }

    /// The copy's bits, whoever answers for them.
    pub(crate) fn copy(&self, offset: u16, width: u16) -> u32 {
        bits(&self.value, offset, width)
    }

    pub(crate) fn set_copy(&mut self, offset: u16, width: u16, value: u32) {
        put(&mut self.value, offset, width, value);
    }

    fn clear_copy(&mut self, offset: u16, width: u16, mask: u32) {
        let value = self.copy(offset, width);
        self.set_copy(offset, width, value & !mask);
    }
}

/// All ones in so many bytes, at most 4.
const fn ones(width: u16) -> u32 {
    match width {
        1 => 0xff,
        2 => 0xffff,
        _ => u32::MAX,
    }
}

/// The little-endian number of `width` bytes at `offset`; bytes past the end are 0.
fn bits(bytes: &[u8], offset: u16, width: u16) -> u32 {
    (0..width).fold(0, |value, index| {
        let byte = bytes.get(usize::from(offset.saturating_add(index))).copied().unwrap_or(0);
        value | u32::from(byte) << (index * 8)
    })
}

/// Puts the low `width` bytes of `value` at `offset`; bytes past the end are dropped.
fn put(bytes: &mut [u8], offset: u16, width: u16, value: u32) {
    for (index, byte) in (0..width).zip(value.to_le_bytes()) {
        if let Some(slot) = bytes.get_mut(usize::from(offset.saturating_add(index))) {
            *slot = byte;
        }
    }
}
