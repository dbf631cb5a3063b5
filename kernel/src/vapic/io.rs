//! The I/O APIC (82093AA, ICH9 extension for the EOI register left out): 24 pins that become interrupts on the bus.

use super::bus::ApicBus;
use super::message::{DeliveryMode, Destination, Interrupt, Trigger};

/// Pins, and global system interrupts from 0.
pub(super) const PINS: usize = 24;

/// Redirection entry: delivery status, read-only, always idle here.
const DELIVERY_STATUS: u64 = 1 << 12;
/// Redirection entry: a level-triggered interrupt was accepted and not yet ended. Read-only.
const REMOTE_IRR: u64 = 1 << 14;
/// Redirection entry: level-triggered.
const LEVEL: u64 = 1 << 15;
/// Redirection entry: masked.
const MASKED: u64 = 1 << 16;
/// Redirection entry: what a guest may write.
const WRITABLE: u64 = 0xff00_0000_0001_afff;

/// An I/O APIC.
#[derive(Debug)]
pub struct IoApic {
    id: u32,
    select: u32,
    entries: [u64; PINS],
    /// The lines' levels: true is asserted, whatever the polarity (the wiring of a virtual machine knows it).
    lines: [bool; PINS],
}

impl Default for IoApic {
    fn default() -> Self {
        Self::new()
    }
}

impl IoApic {
    /// An I/O APIC after reset: every pin masked, every line low.
    pub const fn new() -> Self {
        Self { id: 0, select: 0, entries: [MASKED; PINS], lines: [false; PINS] }
    }

    /// A 4-byte read at `offset` in the window.
    pub fn read(&self, offset: u64) -> u32 {
        match offset {
            0x00 => self.select,
            0x10 => self.register(),
            _ => 0,
        }
    }

    fn register(&self) -> u32 {
        match self.select {
            // The id and, as arbitration id, the same.
            0x00 | 0x02 => self.id,
            0x01 => 0x11 | (PINS as u32 - 1) << 16,
            select => match self.entries.get(entry_of(select)) {
                Some(entry) if select >= 0x10 => (entry >> (32 * (select & 1))) as u32,
                _ => 0,
            },
        }
    }

    /// A 4-byte write at `offset` in the window. What becomes deliverable by it is sent.
    pub fn write(&mut self, offset: u64, value: u32, bus: &ApicBus) {
        match offset {
            0x00 => self.select = value & 0xff,
            0x10 => self.write_register(value, bus),
            _ => {}
        }
    }

    fn write_register(&mut self, value: u32, bus: &ApicBus) {
        match self.select {
            0x00 => self.id = value & 0x0f00_0000,
            0x10.. => {
                let pin = entry_of(self.select);
                let Some(entry) = self.entries.get_mut(pin) else { return };
                let shift = 32 * (self.select & 1);
                let written = *entry & !(0xffff_ffff << shift) | u64::from(value) << shift;
                *entry = written & WRITABLE | *entry & (REMOTE_IRR | DELIVERY_STATUS);
                if *entry & LEVEL == 0 {
                    // Linux ends a stuck level interrupt by switching the pin to edge and back.
                    *entry &= !REMOTE_IRR;
                }
                self.evaluate_level(pin, bus);
            }
            _ => {}
        }
    }

    /// Sets a line. An edge-triggered pin fires on the rise, a level-triggered one while the line is up and the last
    /// interrupt has ended. Pins that do not exist do nothing.
    pub fn set_pin(&mut self, pin: usize, level: bool, bus: &ApicBus) {
        let (Some(line), Some(entry)) = (self.lines.get_mut(pin), self.entries.get(pin)) else { return };
        let rose = level && !*line;
        *line = level;
        if entry & LEVEL != 0 {
            self.evaluate_level(pin, bus);
        } else if rose && entry & MASKED == 0 {
            send(*entry, bus);
        }
    }

    fn evaluate_level(&mut self, pin: usize, bus: &ApicBus) {
        let (Some(&line), Some(entry)) = (self.lines.get(pin), self.entries.get_mut(pin)) else { return };
        if line && *entry & (LEVEL | MASKED | REMOTE_IRR) == LEVEL && send(*entry, bus) != 0 {
            *entry |= REMOTE_IRR;
        }
    }

    /// A local APIC ended a level-triggered interrupt: pins with this vector may fire again.
    pub fn end_of_interrupt(&mut self, vector: u8, bus: &ApicBus) {
        for pin in 0..PINS {
            let Some(entry) = self.entries.get_mut(pin) else { continue };
            if *entry & (LEVEL | REMOTE_IRR) == LEVEL | REMOTE_IRR && *entry as u8 == vector {
                *entry &= !REMOTE_IRR;
                self.evaluate_level(pin, bus);
            }
        }
    }

    /// Whether `pin` has an accepted level-triggered interrupt that has not ended.
    pub fn is_in_service(&self, pin: usize) -> bool {
        self.entries.get(pin).is_some_and(|entry| entry & REMOTE_IRR != 0)
    }
}

/// The pin whose entry register `select` is half of.
const fn entry_of(select: u32) -> usize {
    (select.saturating_sub(0x10) / 2) as usize
}

/// Sends what an entry describes; the number of virtual CPUs that took it.
fn send(entry: u64, bus: &ApicBus) -> usize {
    let Some(mode) = DeliveryMode::from_bits((entry >> 8) as u8) else { return 0 };
    let destination = (entry >> 56) as u32;
    let interrupt = Interrupt {
        vector: entry as u8,
        mode,
        trigger: if entry & LEVEL == 0 { Trigger::Edge } else { Trigger::Level },
        destination: if entry & 1 << 11 == 0 {
            Destination::Physical(destination)
        } else {
            Destination::Logical(destination)
        },
    };
    bus.send(None, interrupt)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vapic::{Bell, Effect, LocalApic};

    /// A bus with one enabled local APIC.
    fn machine() -> (ApicBus, LocalApic, IoApic) {
        let bus = ApicBus::new(&[0], Bell::silent());
        let mut local = LocalApic::new(0, true, false);
        assert_eq!(local.write(0xf0, 0x1ff, 0, &bus.endpoints()[0]), Effect::Nothing);
        (bus, local, IoApic::new())
    }

    fn program(io: &mut IoApic, pin: u32, entry: u64, bus: &ApicBus) {
        io.write(0, 0x11 + 2 * pin, bus);
        io.write(0x10, (entry >> 32) as u32, bus);
        io.write(0, 0x10 + 2 * pin, bus);
        io.write(0x10, entry as u32, bus);
    }

    fn pending(bus: &ApicBus, local: &mut LocalApic) -> Option<u8> {
        local.drain(&bus.endpoints()[0]);
        local.acknowledge()
    }

    fn end(bus: &ApicBus, local: &mut LocalApic, io: &mut IoApic) {
        if let Effect::EndOfInterrupt(vector) = local.write(0xb0, 0, 0, &bus.endpoints()[0]) {
            io.end_of_interrupt(vector, bus);
        }
    }

    #[test]
    fn an_edge_fires_once() {
        let (bus, mut local, mut io) = machine();
        program(&mut io, 4, 0x34, &bus);
        io.set_pin(4, true, &bus);
        io.set_pin(4, true, &bus);
        assert_eq!(pending(&bus, &mut local), Some(0x34));
        end(&bus, &mut local, &mut io);
        assert_eq!(pending(&bus, &mut local), None);
        io.set_pin(4, false, &bus);
        assert_eq!(pending(&bus, &mut local), None);
        io.set_pin(4, true, &bus);
        assert_eq!(pending(&bus, &mut local), Some(0x34));
    }

    #[test]
    fn a_level_fires_until_the_line_falls() {
        let (bus, mut local, mut io) = machine();
        program(&mut io, 9, LEVEL | 0x39, &bus);
        io.set_pin(9, true, &bus);
        assert_eq!(pending(&bus, &mut local), Some(0x39));
        assert!(io.is_in_service(9));
        io.set_pin(9, true, &bus);
        program(&mut io, 9, LEVEL | 0x39, &bus);
        assert!(!bus.endpoints()[0].has_work(), "not again before its end");
        end(&bus, &mut local, &mut io);
        assert_eq!(pending(&bus, &mut local), Some(0x39), "the line is still up");
        io.set_pin(9, false, &bus);
        end(&bus, &mut local, &mut io);
        assert_eq!(pending(&bus, &mut local), None);
        assert!(!io.is_in_service(9));
    }

    #[test]
    fn a_masked_level_fires_when_it_is_unmasked_and_a_masked_edge_is_lost() {
        let (bus, mut local, mut io) = machine();
        program(&mut io, 9, MASKED | LEVEL | 0x39, &bus);
        program(&mut io, 4, MASKED | 0x34, &bus);
        io.set_pin(9, true, &bus);
        io.set_pin(4, true, &bus);
        assert_eq!(pending(&bus, &mut local), None);
        program(&mut io, 9, LEVEL | 0x39, &bus);
        program(&mut io, 4, 0x34, &bus);
        assert_eq!(pending(&bus, &mut local), Some(0x39));
        assert_eq!(pending(&bus, &mut local), None);
    }

    #[test]
    fn registers_read_back_and_keep_their_read_only_bits() {
        let (bus, _, mut io) = machine();
        io.write(0, 1, &bus);
        assert_eq!(io.read(0x10), 0x0017_0011);
        program(&mut io, 23, u64::MAX, &bus);
        io.write(0, 0x3e, &bus);
        assert_eq!(io.read(0x10), 0x0001_afff);
        io.write(0, 0x3f, &bus);
        assert_eq!(io.read(0x10), 0xff00_0000);
        io.write(0, 0x40, &bus);
        assert_eq!(io.read(0x10), 0);
        io.write(0, 0x05, &bus);
        assert_eq!(io.read(0x10), 0, "a register between the version and the first entry");
        io.set_pin(24, true, &bus);
    }

    #[test]
    fn the_switch_to_edge_ends_a_stuck_level() {
        let (bus, mut local, mut io) = machine();
        program(&mut io, 9, LEVEL | 0x39, &bus);
        io.set_pin(9, true, &bus);
        assert_eq!(pending(&bus, &mut local), Some(0x39));
        program(&mut io, 9, MASKED | 0x39, &bus);
        assert!(!io.is_in_service(9));
        program(&mut io, 9, LEVEL | 0x39, &bus);
        end(&bus, &mut local, &mut io);
        assert_eq!(pending(&bus, &mut local), Some(0x39));
    }
}
