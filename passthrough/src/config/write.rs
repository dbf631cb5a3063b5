//! Writes of the guest.

use core::ops::Range;

use super::{Changes, VirtualConfiguration, bits, ones, put, register};
use crate::door::{ConfigurationSpace, Width};

impl VirtualConfiguration {
    /// One write of the guest. Past the end it is dropped. Bits that the function answers for are written to it here,
    /// but for bus mastering, decoding, power and messages: those the caller composes and carries out by what the
    /// returned flags say.
    pub fn write(&mut self, space: &impl ConfigurationSpace, offset: u16, width: Width, value: u32) -> Changes {
        let bytes = u16::try_from(width.bytes()).unwrap_or(4).min(4);
        if offset.checked_add(bytes).is_none_or(|end| end > self.size()) {
            return Changes::empty();
        }
        if !offset.is_multiple_of(bytes) {
            // Nobody sends these; take them byte by byte.
            return (0..bytes).zip(value.to_le_bytes()).fold(Changes::empty(), |changes, (index, byte)| {
                changes | self.write_aligned(space, offset.saturating_add(index), 1, u32::from(byte))
            });
        }
        self.write_aligned(space, offset, bytes, value)
    }

    fn write_aligned(&mut self, space: &impl ConfigurationSpace, offset: u16, width: u16, value: u32) -> Changes {
        let command_before = self.command();
        let msi_before = self.msi();
        let msix_before = self.msix();

        let virtual_bits = bits(&self.virtual_bits, offset, width);
        let writable_bits = bits(&self.writable_bits, offset, width);
        let mask = virtual_bits & writable_bits;
        let copy = bits(&self.value, offset, width);
        put(&mut self.value, offset, width, copy & !mask | value & mask);
        write_through(space, offset, width, writable_bits & !virtual_bits, value);

        let touched = offset..offset.saturating_add(width);
        let mut changes = Changes::empty();
        if overlaps(&touched, register::bar(0), 24) || overlaps(&touched, register::ROM, 4) {
            self.settle_bars();
            changes |= Changes::MEMORY | Changes::IO;
        }
        changes |= self.command_changes(command_before);
        if self.msi() != msi_before {
            changes |= Changes::MSI;
        }
        if self.msix() != msix_before {
            changes |= Changes::MSI_X;
        }
        if let Some(at) = self.layout.power.map(|at| at.saturating_add(register::power::CONTROL))
            && touched.contains(&at)
        {
            let shift = u32::from(at.saturating_sub(offset)).saturating_mul(8);
            self.power_request = low_word(value.checked_shr(shift).unwrap_or(0)) & register::power::STATE;
            changes |= Changes::POWER;
        }
        self.write_read_request(space, &touched);
        self.write_vital_product_data(space, &touched, value);
        if self.take_reset_request(space) {
            changes |= Changes::RESET;
        }
        changes
    }

    fn command_changes(&self, before: u16) -> Changes {
        let changed = before ^ self.command();
        const BITS: [(u16, Changes); 4] = [
            (register::command::MEMORY, Changes::MEMORY),
            (register::command::IO, Changes::IO),
            (register::command::BUS_MASTER, Changes::BUS_MASTER),
            (register::command::INTERRUPT_DISABLE, Changes::INTERRUPT_DISABLE),
        ];
        BITS.iter().filter(|(bit, _)| changed & bit != 0).map(|(_, change)| *change).collect()
    }

    /// The size of read requests goes through, but not below the size of payloads, which is the host's.
    fn write_read_request(&self, space: &impl ConfigurationSpace, touched: &Range<u16>) {
        let Some(at) = self.layout.express.map(|at| at.saturating_add(register::express::DEVICE_CONTROL)) else {
            return;
        };
        if !overlaps(touched, at, 2) {
            return;
        }
        let wanted = low_word(self.copy(at, 2)) >> 12 & 0b111;
        let real = space.read_u16(at);
        let payload = real >> 5 & 0b111;
        let request = wanted.max(payload).min(5);
        if real >> 12 & 0b111 != request {
            space.write_u16(at, real & !register::express::READ_REQUEST | request << 12);
        }
    }

    /// Vital product data: an address written with the flag clear makes the function fetch; with the flag set it
    /// would store, which outlives the guest and is dropped. Only whole addresses count.
    fn write_vital_product_data(&self, space: &impl ConfigurationSpace, touched: &Range<u16>, value: u32) {
        let Some(at) = self.layout.vital_product_data.map(|at| at.saturating_add(2)) else { return };
        if touched.start > at || touched.end < at.saturating_add(2) {
            return;
        }
        let shift = u32::from(at.saturating_sub(touched.start)).saturating_mul(8);
        let address = low_word(value.checked_shr(shift).unwrap_or(0));
        if address & 0x8000 == 0 {
            space.write_u16(at, address);
        }
    }

    /// Clears the reset bits in the copy and tells whether one was set that the function can act on.
    fn take_reset_request(&mut self, space: &impl ConfigurationSpace) -> bool {
        let mut is_requested = false;
        if let Some(at) = self.layout.express {
            let control = at.saturating_add(register::express::DEVICE_CONTROL);
            let bit = u32::from(register::express::INITIATE_RESET);
            if self.copy(control, 2) & bit != 0 {
                self.clear_copy(control, 2, bit);
                let capabilities = space.read_u32(at.saturating_add(register::express::DEVICE_CAPABILITIES));
                if capabilities & register::express::FUNCTION_LEVEL_RESET != 0 {
                    is_requested = true;
                }
            }
        }
        if let Some(at) = self.layout.advanced {
            let control = at.saturating_add(register::advanced::CONTROL);
            let bit = u32::from(register::advanced::INITIATE_RESET);
            if self.copy(control, 1) & bit != 0 {
                self.clear_copy(control, 1, bit);
                let can = register::advanced::HAS_RESET | register::advanced::HAS_PENDING;
                if space.read_u8(at.saturating_add(register::advanced::CAPABILITIES)) & can == can {
                    is_requested = true;
                }
            }
        }
        is_requested
    }
}

fn overlaps(touched: &Range<u16>, offset: u16, length: u16) -> bool {
    touched.start < offset.saturating_add(length) && offset < touched.end
}

/// Writes the bits of `mask` to the function, in as few accesses as leave every other byte alone: a neighbour may be
/// a register in which writing back what was read clears it.
fn write_through(space: &impl ConfigurationSpace, offset: u16, width: u16, mask: u32, value: u32) {
    if mask == 0 {
        return;
    }
    let is_whole = mask.to_le_bytes().iter().take(usize::from(width)).all(|&byte| byte != 0);
    if !is_whole && width > 1 {
        let half = width / 2;
        let shift = u32::from(half).saturating_mul(8);
        write_through(space, offset, half, mask & ones(half), value);
        write_through(space, offset.saturating_add(half), half, mask >> shift, value >> shift);
        return;
    }
    match width {
        1 => {
            let [mask, ..] = mask.to_le_bytes();
            let [value, ..] = value.to_le_bytes();
            let before = if mask == u8::MAX { 0 } else { space.read_u8(offset) };
            space.write_u8(offset, before & !mask | value & mask);
        }
        2 => {
            let (mask, value) = (low_word(mask), low_word(value));
            let before = if mask == u16::MAX { 0 } else { space.read_u16(offset) };
            space.write_u16(offset, before & !mask | value & mask);
        }
        _ => {
            let before = if mask == u32::MAX { 0 } else { space.read_u32(offset) };
            space.write_u32(offset, before & !mask | value & mask);
        }
    }
}

fn low_word(value: u32) -> u16 {
    let [low, high, ..] = value.to_le_bytes();
    u16::from_le_bytes([low, high])
}
