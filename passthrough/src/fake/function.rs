//! A function with a configuration space that behaves: sizing, write-one-to-clear, resets, power states.

use std::format;
use std::sync::{Arc, Mutex};
use std::vec;
use std::vec::Vec;

use super::Trace;
use crate::config::register::{self, express, power};
use crate::door::ConfigurationSpace;

/// Where the capabilities of [`FakeFunction::endpoint`] stand.
pub mod offset {
    pub const POWER: u16 = 0x40;
    pub const MSI: u16 = 0x50;
    pub const HIDDEN: u16 = 0x6c;
    pub const EXPRESS: u16 = 0x70;
    pub const MSI_X: u16 = 0xb0;
    pub const ADVANCED: u16 = 0xc0;
    pub const VENDOR: u16 = 0xd0;
    pub const ERRORS: u16 = 0x100;
    pub const PASID: u16 = 0x150;
    pub const SERIAL: u16 = 0x160;
}

#[derive(Debug)]
struct State {
    name: &'static str,
    bytes: Vec<u8>,
    /// What the bytes are after a reset.
    initial: Vec<u8>,
    /// Bits that a write changes.
    writable: Vec<u8>,
    /// Bits that a write of 1 clears.
    clearing: Vec<u8>,
    /// Reads of the vendor id that find nobody, after a reset.
    silence: u32,
    /// Silence that each reset brings.
    silence_after_reset: u32,
    /// Resets that happened.
    resets: u32,
    secondary: Vec<FakeFunction>,
    writes: Vec<(u16, u8, u32)>,
}

#[derive(Clone, Debug)]
pub struct FakeFunction {
    state: Arc<Mutex<State>>,
    pub trace: Trace,
}

impl FakeFunction {
    pub fn new(name: &'static str, size: usize, trace: &Trace) -> Self {
        let state = State {
            name,
            bytes: vec![0; size],
            initial: vec![0; size],
            writable: vec![0; size],
            clearing: vec![0; size],
            silence: 0,
            silence_after_reset: 5,
            resets: 0,
            secondary: Vec::new(),
            writes: Vec::new(),
        };
        let function = Self { state: Arc::new(Mutex::new(state)), trace: trace.clone() };
        function.put(0x00, 4, 0x5678_1234, 0);
        function.put(0x08, 4, 0x0108_0200, 0);
        function.put(register::COMMAND, 2, 0, 0x0547);
        function.put(register::STATUS, 2, 0x0010, 0);
        function.clearing(register::STATUS, 2, 0xf900);
        function.put(0x0c, 4, 0, 0xff);
        function.put(0x34, 1, 0, 0);
        function.put(0x3c, 1, 0, 0xff);
        function
    }

    /// An endpoint with every capability that this crate handles. BAR 0: 16 KiB of 64-bit memory with the MSI-X table
    /// at 0x2200 and the pending bits at 0x3000; BAR 2: 32 ports; BAR 4: 1 KiB of 32-bit memory; a 64 KiB ROM.
    pub fn endpoint(trace: &Trace) -> Self {
        let function = Self::new("endpoint", 4096, trace);
        function.put(0x10, 4, 0xfe00_0004, 0xffff_c000);
        function.put(0x14, 4, 0, u32::MAX);
        function.put(0x18, 4, 0xc001, 0xffe0);
        function.put(0x20, 4, 0xfe01_0000, 0xffff_fc00);
        function.put(0x30, 4, 0xfe02_0000, 0xffff_0001);
        function.put(0x3d, 1, 1, 0);
        function.put(0x34, 1, u32::from(offset::POWER), 0);
        function.capability(offset::POWER, 0x01, offset::MSI, 0xfe03);
        function.put(offset::POWER + 4, 2, 0x0000, 0x0103);
        function.clearing(offset::POWER + 4, 2, 0x8000);
        // 64-bit, maskable, 8 messages wanted.
        function.capability(offset::MSI, 0x05, offset::HIDDEN, 0x0186);
        function.writable(offset::MSI + 2, 2, 0x0071);
        function.writable(offset::MSI + 4, 4, 0xffff_fffc);
        function.writable(offset::MSI + 8, 4, u32::MAX);
        function.writable(offset::MSI + 12, 4, 0xffff);
        function.writable(offset::MSI + 16, 4, 0xff);
        function.capability(offset::HIDDEN, 0x0d, offset::EXPRESS, 0);
        function.capability(offset::EXPRESS, 0x10, offset::MSI_X, 0x0002);
        function.put(offset::EXPRESS + 4, 4, express::FUNCTION_LEVEL_RESET | 0x8002, 0);
        function.put(offset::EXPRESS + 8, 2, 0x2810, 0x7fff);
        function.clearing(offset::EXPRESS + 10, 2, 0x000f);
        function.writable(offset::EXPRESS + 16, 2, 0x0fff);
        function.writable(offset::EXPRESS + 40, 2, 0xffff);
        function.capability(offset::MSI_X, 0x11, offset::ADVANCED, 0x0040);
        function.writable(offset::MSI_X + 2, 2, 0xc000);
        function.put(offset::MSI_X + 4, 4, 0x2200, 0);
        function.put(offset::MSI_X + 8, 4, 0x3000, 0);
        function.capability(offset::ADVANCED, 0x13, offset::VENDOR, 0x0306);
        function.capability(offset::VENDOR, 0x09, 0, 0x0010);
        function.writable(offset::VENDOR + 4, 4, u32::MAX);
        function.writable(0xf0, 4, u32::MAX);
        function.put(offset::ERRORS, 4, 0x1501_0001, 0);
        function.writable(offset::ERRORS + 8, 4, u32::MAX);
        function.clearing(offset::ERRORS + 4, 4, u32::MAX);
        function.put(offset::PASID, 4, 0x1601_001b, 0);
        function.writable(offset::PASID + 6, 2, 7);
        function.put(offset::SERIAL, 4, 0x0001_0003, 0);
        function.put(offset::SERIAL + 4, 4, 0xcafe_f00d, 0);
        function
    }

    /// A function with these bytes, whose BARs (and ROM, the seventh) have these sizes; 0 for none. Command register
    /// and messages can be written.
    pub fn recorded(bytes: &[u8], sizes: &[u64], trace: &Trace) -> Self {
        let function = Self::new("recorded", bytes.len(), trace);
        {
            let mut state = function.state.lock().unwrap();
            state.bytes.copy_from_slice(bytes);
            state.initial.copy_from_slice(bytes);
        }
        let places = [0x10, 0x14, 0x18, 0x1c, 0x20, 0x24, register::ROM];
        for (place, size) in places.into_iter().zip(sizes).filter(|(_, size)| **size > 0) {
            let mask = !(size - 1);
            function.writable(place, 4, mask as u32 & if place == register::ROM { u32::MAX << 11 | 1 } else { !0xf });
            if place != register::ROM && function.peek(place, 1) & 0b111 == 0b100 {
                function.writable(place + 4, 4, (mask >> 32) as u32);
            }
        }
        for found in crate::config::capability::Capabilities::new(&function) {
            match found.id {
                crate::config::capability::id::MSI => {
                    function.writable(found.offset + 2, 2, 0x0071);
                    function.writable(found.offset + 4, 4, u32::MAX);
                }
                crate::config::capability::id::MSI_X => function.writable(found.offset + 2, 2, 0xc000),
                _ => {}
            }
        }
        function
    }

    /// A root port above one bus.
    pub fn bridge(trace: &Trace, below: &[FakeFunction]) -> Self {
        let function = Self::new("bridge", 4096, trace);
        function.put(0x0e, 1, 1, 0);
        function.put(register::BRIDGE_CONTROL, 2, 0, 0xffff);
        function.state.lock().unwrap().secondary = below.to_vec();
        function
    }

    fn capability(&self, at: u16, id: u32, next: u16, word: u32) {
        self.put(at, 4, id | u32::from(next) << 8 | word << 16, 0);
    }

    /// Sets bytes, now and for every reset, and their writable bits.
    pub fn put(&self, at: u16, width: u16, value: u32, writable: u32) {
        let mut state = self.state.lock().unwrap();
        for (index, byte) in (0..width).zip(value.to_le_bytes()) {
            state.bytes[usize::from(at + index)] = byte;
            state.initial[usize::from(at + index)] = byte;
        }
        drop(state);
        self.writable(at, width, writable);
    }

    pub fn writable(&self, at: u16, width: u16, mask: u32) {
        let mut state = self.state.lock().unwrap();
        for (index, byte) in (0..width).zip(mask.to_le_bytes()) {
            state.writable[usize::from(at + index)] = byte;
        }
    }

    fn clearing(&self, at: u16, width: u16, mask: u32) {
        let mut state = self.state.lock().unwrap();
        for (index, byte) in (0..width).zip(mask.to_le_bytes()) {
            state.clearing[usize::from(at + index)] = byte;
        }
    }

    /// The bits as they are, seen by nobody.
    pub fn peek(&self, at: u16, width: u16) -> u32 {
        let state = self.state.lock().unwrap();
        (0..width).fold(0, |value, index| value | u32::from(state.bytes[usize::from(at + index)]) << (index * 8))
    }

    /// Sets bits by themselves, as a function does.
    pub fn poke(&self, at: u16, width: u16, value: u32) {
        let mut state = self.state.lock().unwrap();
        for (index, byte) in (0..width).zip(value.to_le_bytes()) {
            state.bytes[usize::from(at + index)] = byte;
        }
    }

    pub fn resets(&self) -> u32 {
        self.state.lock().unwrap().resets
    }

    /// After the next reset so many looks find nobody.
    pub fn set_silence(&self, reads: u32) {
        self.state.lock().unwrap().silence_after_reset = reads;
    }

    pub fn command(&self) -> u16 {
        self.peek(register::COMMAND, 2) as u16
    }

    /// The writes since the last call: offset, width, value.
    pub fn take_writes(&self) -> Vec<(u16, u8, u32)> {
        core::mem::take(&mut self.state.lock().unwrap().writes)
    }

    fn reset(&self) {
        let mut state = self.state.lock().unwrap();
        state.bytes = state.initial.clone();
        for offset in 0x10..0x34 {
            // A reset takes addresses and decoding away, and keeps what is wired.
            let wired = !state.writable[offset];
            state.bytes[offset] &= wired;
        }
        state.resets += 1;
        state.silence = state.silence_after_reset;
        self.trace.lock().unwrap().push(format!("{} reset", state.name));
    }

    fn read(&self, offset: u16, width: u16) -> u32 {
        let mut state = self.state.lock().unwrap();
        if state.silence > 0 {
            state.silence -= 1;
            return u32::MAX;
        }
        drop(state);
        if usize::from(offset + width) > usize::from(self.size()) { u32::MAX } else { self.peek(offset, width) }
    }

    fn write(&self, offset: u16, width: u16, value: u32) {
        assert!(offset.is_multiple_of(width));
        let mut state = self.state.lock().unwrap();
        state.writes.push((offset, width as u8, value));
        if offset == register::COMMAND {
            let text = format!("{} command {:#x}", state.name, value & 0xffff);
            self.trace.lock().unwrap().push(text);
        }
        if offset == offset::MSI_X + 2 && state.name == "endpoint" {
            self.trace.lock().unwrap().push(format!("endpoint msix {:#x}", value & 0xffff));
        }
        let before = state.bytes.clone();
        for (index, byte) in (0..width).zip(value.to_le_bytes()) {
            let at = usize::from(offset + index);
            let (mask, clearing) = (state.writable[at], state.clearing[at]);
            state.bytes[at] = (state.bytes[at] & !mask | byte & mask) & !(byte & clearing);
        }
        let covers = |at: u16| offset <= at && at < offset + width;
        let byte_at = |at: u16| value.to_le_bytes()[usize::from(at - offset)];
        let mut is_reset = false;
        if state.name == "endpoint" {
            is_reset |= covers(offset::EXPRESS + 9) && byte_at(offset::EXPRESS + 9) & 0x80 != 0;
            is_reset |= covers(offset::ADVANCED + 4) && byte_at(offset::ADVANCED + 4) & 1 != 0;
            let control = usize::from(offset::POWER + power::CONTROL);
            let woke = before[control] & 3 == 3 && state.bytes[control] & 3 == 0;
            is_reset |= woke && state.bytes[control] & power::NO_SOFT_RESET as u8 == 0;
        }
        let released = state.name == "bridge"
            && covers(register::BRIDGE_CONTROL)
            && before[usize::from(register::BRIDGE_CONTROL)] & 0x40 != 0
            && byte_at(register::BRIDGE_CONTROL) & 0x40 == 0;
        let below = if released { state.secondary.clone() } else { Vec::new() };
        drop(state);
        if is_reset {
            self.reset();
        }
        below.iter().for_each(FakeFunction::reset);
    }
}

impl ConfigurationSpace for FakeFunction {
    fn size(&self) -> u16 {
        self.state.lock().unwrap().bytes.len() as u16
    }
    fn read_u8(&self, offset: u16) -> u8 {
        self.read(offset, 1) as u8
    }
    fn read_u16(&self, offset: u16) -> u16 {
        self.read(offset, 2) as u16
    }
    fn read_u32(&self, offset: u16) -> u32 {
        self.read(offset, 4)
    }
    fn write_u8(&self, offset: u16, value: u8) {
        self.write(offset, 1, u32::from(value));
    }
    fn write_u16(&self, offset: u16, value: u16) {
        self.write(offset, 2, u32::from(value));
    }
    fn write_u32(&self, offset: u16, value: u32) {
        self.write(offset, 4, value);
    }
}
