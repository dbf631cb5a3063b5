//! The register file: who may read and write what, and with which width (VT-d sections 11.2 and 11.4).

use crate::configuration::{FAULT_RECORDS, INVALIDATION_REGISTERS};
use crate::{Memory, Unit, Violation};

const IOTLB: u64 = INVALIDATION_REGISTERS + 8;

/// Registers of 4 bytes at an address where an access of 8 could start.
const SINGLE: [u64; 12] = [0x00, 0x18, 0x30, 0x38, 0x40, 0x60, 0x68, 0x98, 0xa0, 0xa8, 0xd8, 0xe0];

impl<M: Memory> Unit<M> {
    /// One 4-byte read.
    pub fn read_u32(&mut self, offset: u64) -> u32 {
        if !self.takes(offset, 4) {
            return u32::MAX;
        }
        self.observe();
        self.tick();
        self.read_half(offset)
    }

    /// One 8-byte read.
    pub fn read_u64(&mut self, offset: u64) -> u64 {
        if !self.takes(offset, 8) {
            return u64::MAX;
        }
        self.observe();
        self.tick();
        u64::from(self.read_half(offset + 4)) << 32 | u64::from(self.read_half(offset))
    }

    /// One 4-byte write.
    pub fn write_u32(&mut self, offset: u64, value: u32) {
        if self.takes(offset, 4) {
            self.observe();
            self.write_half(offset, value);
        }
    }

    /// One 8-byte write.
    pub fn write_u64(&mut self, offset: u64, value: u64) {
        if self.takes(offset, 8) {
            self.observe();
            // A command in the upper half finds the lower one in place; a tail needs the lower one only.
            self.write_half(offset, value as u32);
            self.write_half(offset + 4, (value >> 32) as u32);
        }
    }

    fn takes(&mut self, offset: u64, size: u64) -> bool {
        if offset.checked_add(size).is_none_or(|end| end > self.configuration.window()) {
            self.complain(Violation::OutsideWindow { offset });
            return false;
        }
        if !offset.is_multiple_of(size) || size == 8 && SINGLE.contains(&offset) {
            self.complain(Violation::AccessWidth { offset });
            return false;
        }
        true
    }

    /// Both halves of a register without behaviour of its own.
    pub(crate) fn plain(&self, offset: u64) -> u64 {
        let half = |offset| u64::from(self.registers.get(&offset).copied().unwrap_or(0));
        half(offset + 4) << 32 | half(offset)
    }

    fn read_half(&mut self, offset: u64) -> u32 {
        let half = |word: u64| if offset & 4 == 0 { word as u32 } else { (word >> 32) as u32 };
        match offset {
            0x00 => u32::from(self.configuration.version) << 4,
            0x08 | 0x0c => half(self.configuration.capability()),
            0x10 | 0x14 => half(self.configuration.extended_capability()),
            0x18 => {
                self.complain(Violation::WriteOnly { offset });
                0
            }
            0x1c => self.status,
            0x34 => self.faults.status(),
            0x38 => self.faults.control.bits(),
            0x80 | 0x84 => half(self.queue.head),
            0x9c => u32::from(self.queue.wait_completed),
            0xa0 => self.queue.control.bits(),
            0xb0 | 0xb4 => half(self.queue.error_record),
            _ if offset >= FAULT_RECORDS => self.faults.read_half(offset - FAULT_RECORDS),
            _ => self.registers.get(&offset).copied().unwrap_or(0),
        }
    }

    fn write_half(&mut self, offset: u64, value: u32) {
        match offset {
            0x00..0x18 | 0x1c | 0x80 | 0x84 | 0xb0 | 0xb4 => self.complain(Violation::ReadOnly { offset }),
            0x18 => self.command(value),
            0x34 => self.clear_fault_status(value),
            0x38 => {
                let event = self.faults.control.write(value);
                self.announce_fault(event);
            }
            0x9c => {
                self.queue.wait_completed &= value & 1 == 0;
                if !self.queue.wait_completed {
                    self.queue.control.withdraw();
                }
            }
            0xa0 => {
                let event = self.queue.control.write(value);
                self.announce_wait(event);
            }
            0x64 => {
                // PRS follows EPM.
                self.store(offset, value & 1 << 31 | value >> 31);
            }
            0x20 | 0x24 if self.is_pending(1 << 30) => self.complain(Violation::CommandPending { offset: 0x20 }),
            0xb8 | 0xbc if self.is_pending(1 << 24) => self.complain(Violation::CommandPending { offset: 0xb8 }),
            0x20 => {
                let mode = if self.configuration.scalable.is_some() { 1 << 10 } else { 0 };
                self.store_checked(0x20, value, 0xfff & !mode);
            }
            0xb8 => {
                let extended = if self.configuration.extended_interrupts { 0 } else { 1 << 11 };
                self.store_checked(0xb8, value, 0x7f0 | extended);
            }
            0x88 => {
                self.store(offset, value);
                self.write_tail(value);
            }
            0x90 | 0x94 if self.status & 1 << 26 != 0 || self.is_pending(1 << 26) => {
                self.complain(Violation::WrittenWhileOn { offset: 0x90 });
            }
            0x90 => {
                let wide = if self.configuration.scalable.is_some() { 1 << 11 } else { 0 };
                self.store_checked(offset, value, 0xff8 & !wide);
                self.queue.head = 0;
                self.store(0x88, 0);
            }
            0x28 | 0x2c if self.pending_contexts.is_some() => {
                self.complain(Violation::CommandPending { offset: 0x28 });
            }
            0x2c => {
                self.store(offset, value);
                if value & 1 << 31 != 0 {
                    self.invalidate_contexts_by_register();
                }
            }
            IOTLB | 0xfc | INVALIDATION_REGISTERS | 0xf4 if self.pending_pages.is_some() => {
                self.complain(Violation::CommandPending { offset: IOTLB });
            }
            0xfc => {
                self.store(offset, value);
                if value & 1 << 31 != 0 {
                    self.invalidate_pages_by_register();
                }
            }
            _ if offset >= FAULT_RECORDS => {
                if !self.faults.write_half(offset - FAULT_RECORDS, value) {
                    self.complain(Violation::ReadOnly { offset });
                }
            }
            _ => self.store(offset, value),
        }
    }

    pub(crate) fn store(&mut self, offset: u64, value: u32) {
        self.registers.insert(offset, value);
    }

    fn store_checked(&mut self, offset: u64, value: u32, reserved: u32) {
        if value & reserved != 0 {
            self.complain(Violation::ReservedInRegister { offset, bits: u64::from(value & reserved) });
        }
        self.store(offset, value & !reserved);
    }
}
