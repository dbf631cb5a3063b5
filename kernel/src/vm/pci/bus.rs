//! The bus: configuration accesses by port and by memory, and the functions' BARs in the VM's address space.
//!
//! Locks, in the order in which they may be taken: `registers` (held while functions are told to move, so that two
//! virtual CPUs cannot tell them different things), then a function's own, then `placements` (never held while a
//! function is called).

use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

use spin::{Mutex, RwLock};

use super::placement::{self, Placement};
use super::registers::{BARS_END, BarRegisters, COMMAND, DECODE_MEMORY, DECODE_PORTS, FIRST_BAR, ROM};
use super::{BarKind, PciError, SLOTS, VirtualFunction, host_bridge};
use crate::vm::map::AddressMap;

/// The address port: configuration accesses are on.
const ENABLE: u32 = 1 << 31;
/// The header type's register, and its bit for further functions in the slot.
const HEADER_TYPE: u16 = 0x0e;
const MULTIFUNCTION: u32 = 0x80;

/// One function's configuration register.
#[derive(Clone, Copy, Debug)]
struct Register {
    /// The device on bus 0.
    slot: u8,
    offset: u16,
}

/// The bus with its functions: the first in slot 1, the next in slot 2, and so on.
pub struct VirtualPciBus {
    map: AddressMap,
    functions: Vec<Arc<dyn VirtualFunction>>,
    address: AtomicU32,
    registers: Mutex<Vec<BarRegisters>>,
    placements: RwLock<Vec<Placement>>,
}

impl VirtualPciBus {
    /// How many bytes the functions' 64-bit BARs have in all: what [`AddressMap::new`] asks for.
    pub fn bytes_64(functions: &[Arc<dyn VirtualFunction>]) -> u64 {
        let bars = functions.iter().flat_map(|function| function.bars()).flatten();
        bars.filter(|bar| bar.kind == BarKind::Memory64).fold(0, |sum: u64, bar| sum.saturating_add(bar.size.max(4096)))
    }

    /// A bus on which every BAR has an address. Nothing is decoded before [`activate`](Self::activate).
    ///
    /// # Errors
    /// [`PciError`] when there is no room for a function or a BAR.
    pub fn new(map: AddressMap, functions: Vec<Arc<dyn VirtualFunction>>) -> Result<Self, PciError> {
        if functions.len() >= usize::from(SLOTS) {
            return Err(PciError::TooManyFunctions { count: functions.len() });
        }
        let placements = placement::all(functions.iter().map(AsRef::as_ref))?;
        let mut registers: Vec<_> = functions.iter().map(|function| BarRegisters::new(function.bars())).collect();
        let name = |index: usize| {
            functions.get(index).map_or_else(alloc::string::String::new, |function| function.name().to_string())
        };
        for (placement, address) in placement::first_addresses(&placements, &map, name)? {
            if let Some(registers) = registers.get_mut(placement.function) {
                registers.set(placement.index, address);
            }
        }
        Ok(Self {
            map,
            functions,
            address: AtomicU32::new(0),
            registers: Mutex::new(registers),
            placements: RwLock::new(placements),
        })
    }

    /// Switches decoding on in every function, as firmware leaves it, and so places the BARs.
    pub fn activate(&self) {
        for (index, function) in self.functions.iter().enumerate() {
            let mut decode = 0;
            for bar in function.bars().into_iter().flatten() {
                decode |= if bar.kind == BarKind::Ports { DECODE_PORTS } else { DECODE_MEMORY };
            }
            let command = function.config_read(COMMAND, 2) & 0xffff;
            self.write_command(index, COMMAND, 2, command | decode);
        }
    }

    /// Takes every BAR back: the VM has ended.
    pub fn deactivate(&self) {
        let _registers = self.registers.lock();
        let count = self.placements.read().len();
        for index in 0..count {
            self.move_bar(index, None);
        }
    }

    /// The functions, in slot order from slot 1 on.
    pub fn functions(&self) -> &[Arc<dyn VirtualFunction>] {
        &self.functions
    }

    /// A read of ports 0xcf8 to 0xcff. `None`: not one of the bus's.
    pub fn port_read(&self, port: u16, size: u8) -> Option<u32> {
        match (port, size) {
            (super::ADDRESS_PORT, 4) => Some(self.address.load(Ordering::Relaxed)),
            (super::DATA_PORT..0xd00, _) => Some(match self.addressed(port) {
                Some(register) => self.read(register, size),
                None => ones(size),
            }),
            _ => None,
        }
    }

    /// A write of ports 0xcf8 to 0xcff. False: not one of the bus's.
    pub fn port_write(&self, port: u16, size: u8, value: u32) -> bool {
        match (port, size) {
            (super::ADDRESS_PORT, 4) => self.address.store(value & 0x80ff_fffc, Ordering::Relaxed),
            (super::DATA_PORT..0xd00, _) => {
                if let Some(register) = self.addressed(port) {
                    self.write(register, size, value);
                }
            }
            _ => return false,
        }
        true
    }

    /// A read at `offset` in the memory-mapped configuration space.
    pub fn memory_read(&self, offset: u64, size: u8) -> u64 {
        if size == 8 {
            let high = offset.checked_add(4).map_or(u64::from(u32::MAX), |high| self.memory_read(high, 4));
            return self.memory_read(offset, 4) | high << 32;
        }
        match mapped(offset) {
            Some(register) => self.read(register, size).into(),
            None => ones(size).into(),
        }
    }

    /// A write at `offset` in the memory-mapped configuration space.
    pub fn memory_write(&self, offset: u64, size: u8, value: u64) {
        if size == 8 {
            self.memory_write(offset, 4, value & 0xffff_ffff);
            if let Some(high) = offset.checked_add(4) {
                self.memory_write(high, 4, value >> 32);
            }
        } else if let Some(register) = mapped(offset) {
            self.write(register, size, value as u32);
        }
    }

    /// A read in a PCI window (or, with `ports`, of a port). `None`: no BAR is there.
    pub fn window_read(&self, ports: bool, address: u64, size: u8) -> Option<u64> {
        let (function, index, offset) = self.find(ports, address, size)?;
        Some(function.bar_read(index, offset, size))
    }

    /// A write in a PCI window (or, with `ports`, of a port). False: no BAR is there.
    pub fn window_write(&self, ports: bool, address: u64, size: u8, value: u64) -> bool {
        match self.find(ports, address, size) {
            Some((function, index, offset)) => function.bar_write(index, offset, size, value),
            None => return false,
        }
        true
    }

    /// The BAR at an address: its function, its index, the offset in it.
    fn find(&self, ports: bool, address: u64, size: u8) -> Option<(&dyn VirtualFunction, usize, u64)> {
        let (placement, offset) = self
            .placements
            .read()
            .iter()
            .find_map(|placement| Some((*placement, placement.offset_of(ports, address, size)?)))?;
        Some((self.functions.get(placement.function)?.as_ref(), placement.index, offset))
    }

    /// What the address port and the byte of the data port name.
    fn addressed(&self, port: u16) -> Option<Register> {
        let address = self.address.load(Ordering::Relaxed);
        // Bus 0, function 0 of each device: nothing else exists.
        if address & ENABLE == 0 || address >> 16 & 0xff != 0 || address >> 8 & 7 != 0 {
            return None;
        }
        let offset = (address & 0xfc) as u16 | port & 3;
        Some(Register { slot: (address >> 11 & 31) as u8, offset })
    }

    fn read(&self, register: Register, size: u8) -> u32 {
        let Register { slot, offset } = register;
        if offset & 3 > 4 - u16::from(size.clamp(1, 4)) {
            return ones(size);
        }
        let Some(index) = usize::from(slot).checked_sub(1) else {
            return host_bridge::read(offset, size);
        };
        let Some(function) = self.functions.get(index) else { return ones(size) };
        match offset & !3 {
            FIRST_BAR..BARS_END => {
                let value = self.registers.lock().get(index).map_or(0, |bars| bars.read(bar_index(offset)));
                value >> ((offset & 3) * 8) & ones(size)
            }
            ROM => 0,
            // Each function stands alone in its slot, whatever it was in the machine.
            word if word == HEADER_TYPE & !3 => {
                let header_type = MULTIFUNCTION << 16 >> ((offset & 3) * 8);
                function.config_read(offset, size) & ones(size) & !header_type
            }
            _ => function.config_read(offset, size) & ones(size),
        }
    }

    fn write(&self, register: Register, size: u8, value: u32) {
        let Register { slot, offset } = register;
        if offset & 3 > 4 - u16::from(size.clamp(1, 4)) {
            return;
        }
        let Some(index) = usize::from(slot).checked_sub(1) else { return };
        let Some(function) = self.functions.get(index) else { return };
        match offset & !3 {
            FIRST_BAR..BARS_END => {
                let shift = (offset & 3) * 8;
                let mut registers = self.registers.lock();
                if let Some(bars) = registers.get_mut(index) {
                    bars.write(bar_index(offset), value << shift, ones(size) << shift);
                }
                self.settle(&registers);
            }
            ROM => {}
            COMMAND => self.write_command(index, offset, size, value),
            _ => function.config_write(offset, size, value),
        }
    }

    fn write_command(&self, index: usize, offset: u16, size: u8, value: u32) {
        let registers = self.registers.lock();
        if let Some(function) = self.functions.get(index) {
            function.config_write(offset, size, value);
        }
        self.settle(&registers);
    }

    /// Brings the BARs to where the registers want them: first away from where they were, then to where they go. One
    /// that would cover another stays nowhere until that one leaves.
    fn settle(&self, registers: &[BarRegisters]) {
        let count = self.placements.read().len();
        for arriving in [false, true] {
            for index in 0..count {
                let (placement, wanted) = {
                    let placements = self.placements.read();
                    let Some(placement) = placements.get(index).copied() else { continue };
                    let wanted = self.wanted(&placement, registers);
                    (placement, wanted.filter(|at| !placement::is_taken(&placements, &placement, *at)))
                };
                match (arriving, placement.at) {
                    (false, Some(at)) if wanted != Some(at) => self.move_bar(index, None),
                    (true, None) if wanted.is_some() => self.move_bar(index, wanted),
                    _ => {}
                }
            }
        }
    }

    fn wanted(&self, placement: &Placement, registers: &[BarRegisters]) -> Option<u64> {
        let function = self.functions.get(placement.function)?;
        let command = function.config_read(COMMAND, 2);
        placement::wanted(placement, registers.get(placement.function)?, command, &self.map)
    }

    /// Moves one BAR. Trapped accesses find it only while the function knows that it is there.
    fn move_bar(&self, index: usize, at: Option<u64>) {
        let Some(placement) = self.placements.read().get(index).copied() else { return };
        if placement.at == at {
            return;
        }
        let Some(function) = self.functions.get(placement.function) else { return };
        let set = |at| {
            if let Some(placement) = self.placements.write().get_mut(index) {
                placement.at = at;
            }
        };
        if at.is_none() {
            set(None);
            function.place(placement.index, None);
        } else {
            function.place(placement.index, at);
            set(at);
        }
    }
}

/// What an offset in the memory-mapped configuration space names; `None` beside bus 0 and function 0.
fn mapped(offset: u64) -> Option<Register> {
    let (function, slot) = (offset >> 12 & 7, offset >> 15 & 31);
    (offset >> 20 == 0 && function == 0).then_some(Register { slot: slot as u8, offset: (offset & 0xfff) as u16 })
}

fn bar_index(offset: u16) -> usize {
    usize::from(offset.saturating_sub(FIRST_BAR) / 4)
}

/// All ones in `size` bytes.
fn ones(size: u8) -> u32 {
    match size {
        1 => 0xff,
        2 => 0xffff,
        _ => 0xffff_ffff,
    }
}

#[cfg(test)]
#[path = "bus_tests.rs"]
mod tests;
