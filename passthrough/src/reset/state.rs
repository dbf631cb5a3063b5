//! What of a function's configuration must survive a reset.

use alloc::vec::Vec;

use crate::config::capability::{Capabilities, ExtendedCapabilities, extended_id, id};
use crate::config::register::{self, express, msi};
use crate::door::ConfigurationSpace;

/// One register to write back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Saved {
    offset: u16,
    width: u16,
    value: u32,
}

/// The configuration of a function at one moment, as far as software sets it. Messages are not in it: who
/// programmed them does so again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SavedState {
    /// In the order of writing back: what sizes and links depend on first, the command register last.
    registers: Vec<Saved>,
}

impl SavedState {
    /// Reads what there is to save.
    pub fn save(space: &impl ConfigurationSpace) -> Self {
        let mut state = Self::default();
        for found in Capabilities::new(space) {
            let at = |offset: u16| found.offset.saturating_add(offset);
            match found.id {
                id::PCI_EXPRESS => {
                    state.word(space, at(express::DEVICE_CONTROL));
                    let flags = space.read_u16(at(2));
                    if flags >> 4 & 0xf != 9 {
                        state.word(space, at(express::LINK_CONTROL));
                    }
                    if flags & 0xf >= 2 {
                        state.word(space, at(express::DEVICE_CONTROL_2));
                        state.word(space, at(express::LINK_CONTROL_2));
                    }
                }
                id::PCI_X => state.word(space, at(2)),
                id::MSI => {
                    let control = space.read_u16(at(msi::CONTROL));
                    if control & msi::MASKABLE != 0 {
                        state.double(space, at(if control & msi::WIDE != 0 { 16 } else { 12 }));
                    }
                }
                _ => {}
            }
        }
        for found in ExtendedCapabilities::new(space) {
            let at = |offset: u16| found.offset.saturating_add(offset);
            match found.id {
                extended_id::ACS => state.word(space, at(6)),
                // On where the owner of the remapping unit has switched it on; a reset switches it off.
                extended_id::ATS => state.word(space, at(6)),
                extended_id::LATENCY_TOLERANCE => state.double(space, at(4)),
                extended_id::ERROR_REPORTING => {
                    for offset in [0x08, 0x0c, 0x14, 0x18] {
                        state.double(space, at(offset));
                    }
                }
                extended_id::RESIZABLE_BAR => {
                    let bars = space.read_u32(at(8)) >> 5 & 0b111;
                    for offset in (8..).step_by(8).take(usize::try_from(bars).unwrap_or(0)) {
                        state.double(space, at(offset));
                    }
                }
                _ => {}
            }
        }
        for index in 0..6 {
            state.double(space, register::bar(index));
        }
        state.double(space, register::ROM);
        state.word(space, 0x0c);
        state.byte(space, register::INTERRUPT_LINE);
        state.word(space, register::COMMAND);
        state
    }

    /// Reads the same registers anew, without taking memory: a guest can cause this.
    pub fn refresh(&mut self, space: &impl ConfigurationSpace) {
        for saved in &mut self.registers {
            saved.value = match saved.width {
                1 => u32::from(space.read_u8(saved.offset)),
                2 => u32::from(space.read_u16(saved.offset)),
                _ => space.read_u32(saved.offset),
            };
        }
    }

    /// Writes it back. Reset bits and write-one-to-clear bits are not among what is written.
    pub fn restore(&self, space: &impl ConfigurationSpace) {
        for saved in &self.registers {
            let [a, b, c, d] = saved.value.to_le_bytes();
            match saved.width {
                1 => space.write_u8(saved.offset, a),
                2 => space.write_u16(saved.offset, u16::from_le_bytes([a, b])),
                _ => space.write_u32(saved.offset, u32::from_le_bytes([a, b, c, d])),
            }
        }
    }

    /// Lets `command` be what is written back to the command register.
    pub fn set_command(&mut self, command: u16) {
        for saved in &mut self.registers {
            if saved.offset == register::COMMAND {
                saved.value = u32::from(command);
            }
        }
    }

    fn byte(&mut self, space: &impl ConfigurationSpace, offset: u16) {
        self.registers.push(Saved { offset, width: 1, value: u32::from(space.read_u8(offset)) });
    }

    fn word(&mut self, space: &impl ConfigurationSpace, offset: u16) {
        self.registers.push(Saved { offset, width: 2, value: u32::from(space.read_u16(offset)) });
    }

    fn double(&mut self, space: &impl ConfigurationSpace, offset: u16) {
        self.registers.push(Saved { offset, width: 4, value: space.read_u32(offset) });
    }
}
