//! Which device answers at which I/O port. What nobody claims reads all ones and ignores writes.
//!
//! | ports | device |
//! |---|---|
//! | 0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1 | 8259 pair |
//! | 0x40 to 0x43, 0x61 | interval timer |
//! | 0x60, 0x64 | keyboard controller: nothing but its reset |
//! | 0x70, 0x71 | clock |
//! | 0x80 | power-on self-test display: ignored |
//! | 0x92 | A20 gate (always on) and fast reset |
//! | 0xf4 to 0xf7 | debug exit, where configured |
//! | 0x3f8 to 0x3ff | console |
//! | 0x600 to 0x60b | power management |
//! | 0xcf8 to 0xcff | PCI configuration, and the reset register in the middle |
//! | 0xc000 to 0xefff | I/O BARs |

use super::device::power;
use super::host::Host;
use super::map::PCI_PORTS;
use super::pci::VirtualPciBus;
use super::wiring::Wiring;
use crate::vcpu::{End, ResetCause};

const SERIAL: u16 = 0x3f8;
const DEBUG_EXIT: u16 = 0xf4;
const KEYBOARD_COMMAND: u16 = 0x64;
/// The keyboard controller's command that pulses the reset line.
const PULSE_RESET: u8 = 0xfe;
/// Port 0x92: the A20 gate is open, as always.
const A20: u8 = 1 << 1;
/// Port 0x92: reset.
const FAST_RESET: u8 = 1 << 0;

/// The I/O ports of one VM.
pub(super) struct Ports<'a> {
    pub(super) wiring: &'a Wiring,
    pub(super) pci: &'a VirtualPciBus,
    pub(super) host: &'a dyn Host,
    pub(super) debug_exit: bool,
}

impl Ports<'_> {
    pub(super) fn read(&self, port: u16, size: u8) -> u32 {
        if let power::BLOCK..power::BLOCK_END = port {
            return self.wiring.power_read(port - power::BLOCK, size, self.host.nanoseconds());
        }
        if let Some(value) = self.pci.port_read(port, size) {
            return value;
        }
        if is_window(port) {
            return self.pci.window_read(true, port.into(), size).unwrap_or(u64::MAX) as u32;
        }
        // The other devices are a byte wide: a wider access is one of each port.
        (0..u16::from(size.min(4)))
            .rev()
            .fold(0, |value, at| value << 8 | u32::from(port.checked_add(at).map_or(0xff, |port| self.read_byte(port))))
    }

    /// A write; how it ends the VM, if it does.
    pub(super) fn write(&self, port: u16, size: u8, value: u32) -> Option<End> {
        if let power::BLOCK..power::BLOCK_END = port {
            let request = self.wiring.power_write(port - power::BLOCK, size, value, self.host.nanoseconds());
            return (request == power::Request::PowerOff).then_some(End::PowerOff);
        }
        if self.debug_exit && (DEBUG_EXIT..DEBUG_EXIT + 4).contains(&port) {
            return Some(End::DebugExit(value));
        }
        if self.pci.port_write(port, size, value) {
            return None;
        }
        if is_window(port) {
            self.pci.window_write(true, port.into(), size, value.into());
            return None;
        }
        let bytes = value.to_le_bytes().into_iter().take(size.into());
        (port..=u16::MAX).zip(bytes).fold(None, |end, (port, byte)| end.or(self.write_byte(port, byte)))
    }

    fn read_byte(&self, port: u16) -> u8 {
        match port {
            0x40..=0x43 => self.wiring.timer_read(port - 0x40, self.host.nanoseconds()),
            0x61 => self.wiring.gate_read(self.host.nanoseconds()),
            // Nothing typed, ready for commands.
            0x60 | KEYBOARD_COMMAND => 0,
            0x70 | 0x71 => self.wiring.clock_read(port - 0x70, self.host.nanoseconds()),
            0x92 => A20,
            SERIAL..=0x3ff => self.wiring.serial_read((port - SERIAL) as u8),
            power::RESET_REGISTER => 0,
            _ => self.wiring.pair_read(port).unwrap_or(0xff),
        }
    }

    fn write_byte(&self, port: u16, value: u8) -> Option<End> {
        match port {
            0x40..=0x43 => self.wiring.timer_write(port - 0x40, value, self.host.nanoseconds()),
            0x61 => self.wiring.gate_write(value, self.host.nanoseconds()),
            KEYBOARD_COMMAND if value == PULSE_RESET => return Some(End::Reset(ResetCause::KeyboardController)),
            0x70 | 0x71 => self.wiring.clock_write(port - 0x70, value, self.host.nanoseconds()),
            0x92 if value & FAST_RESET != 0 => return Some(End::Reset(ResetCause::ResetControl)),
            SERIAL..=0x3ff => {
                let now = || self.host.nanoseconds();
                if let Some(byte) = self.wiring.serial_write((port - SERIAL) as u8, value, now) {
                    self.host.console_write(byte);
                }
            }
            power::RESET_REGISTER if power::is_reset(value) => return Some(End::Reset(ResetCause::ResetRegister)),
            _ => self.wiring.pair_write(port, value),
        }
        None
    }
}

fn is_window(port: u16) -> bool {
    PCI_PORTS.contains(port.into(), 1)
}
