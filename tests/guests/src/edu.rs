//! QEMU's educational device (QEMU, docs/specs/edu): a small DMA engine that asks no questions.

use crate::clock::Clock;
use crate::memory::Registers;
use crate::pci::{self, Function};

/// Vendor and device id.
const IDENTITY: (u16, u16) = (0x1234, 0x11E8);

const IDENTIFICATION: u64 = 0x00;
const LIVENESS: u64 = 0x04;
const INTERRUPT_STATUS: u64 = 0x24;
const RAISE: u64 = 0x60;
const ACKNOWLEDGE: u64 = 0x64;
const SOURCE: u64 = 0x80;
const DESTINATION: u64 = 0x88;
const COUNT: u64 = 0x90;
const COMMAND: u64 = 0x98;

const START: u64 = 1 << 0;
const TO_MEMORY: u64 = 1 << 1;
const INTERRUPT: u64 = 1 << 2;

/// Where the device's own buffer lies in its DMA addresses.
const BUFFER: u64 = 0x4_0000;
/// Bytes of the buffer.
pub const BUFFER_SIZE: u64 = 4096;
/// Milliseconds that a transfer may take: ten times what it does.
const PATIENCE: u64 = 1000;

/// The device.
#[derive(Clone, Copy, Debug)]
pub struct Edu {
    /// Its function.
    pub function: Function,
    registers: Registers,
    clock: Clock,
}

/// Which way a transfer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The device reads memory into its buffer.
    Read,
    /// The device writes memory from its buffer.
    Write,
}

impl Edu {
    /// The first such device, enabled.
    pub fn find(clock: Clock) -> Option<Self> {
        let function = pci::find(IDENTITY.0, IDENTITY.1)?;
        let registers = function.bar(0)?;
        function.enable();
        Some(Self { function, registers, clock })
    }

    /// Whether it answers as it should.
    pub fn is_alive(&self) -> bool {
        self.registers.write32(LIVENESS, 0x1234_5678);
        self.registers.read32(IDENTIFICATION) & 0xFF == 0xED && self.registers.read32(LIVENESS) == !0x1234_5678
    }

    /// Moves `length` bytes (at most 4096) between `address` and the start of the buffer. `false` if the device does
    /// not say that it has finished, which it does however the transfer went.
    pub fn transfer(&self, direction: Direction, address: u64, length: u64) -> bool {
        // While a transfer runs the device ignores what it is told of the next: one that was late, as it is where the
        // emulator is kept from its timers, would silence those behind it.
        if !self.clock.await_for(PATIENCE, || self.is_idle()) {
            return false;
        }
        self.begin(direction, address, length, false);
        self.clock.await_for(PATIENCE, || self.is_idle())
    }

    /// Begins a transfer, with an interrupt at its end if wanted. None may be under way.
    pub fn begin(&self, direction: Direction, address: u64, length: u64, interrupt: bool) {
        let (source, destination, way) = match direction {
            Direction::Read => (address, BUFFER, 0),
            Direction::Write => (BUFFER, address, TO_MEMORY),
        };
        self.registers.write64(SOURCE, source);
        self.registers.write64(DESTINATION, destination);
        self.registers.write64(COUNT, length.min(BUFFER_SIZE));
        let interrupt = if interrupt { INTERRUPT } else { 0 };
        self.registers.write64(COMMAND, START | way | interrupt);
    }

    /// Whether no transfer runs.
    pub fn is_idle(&self) -> bool {
        self.registers.read64(COMMAND) & START == 0
    }

    /// Raises its interrupt.
    pub fn raise(&self) {
        self.registers.write32(RAISE, 1);
    }

    /// Takes its interrupt back; returns what had raised it.
    pub fn acknowledge(&self) -> u32 {
        let status = self.registers.read32(INTERRUPT_STATUS);
        self.registers.write32(ACKNOWLEDGE, status);
        status
    }
}
