//! The machine's devices: several of QEMU's edu, a DMA engine that moves up to 4 KiB between memory and a buffer of
//! its own and sends one message-signalled interrupt (QEMU, docs/specs/edu).

use std::process::Command;

use anyhow::{Result, bail};

use super::Emulator;

/// Their source ids: three functions of one device, another device, and one behind a root port.
pub(crate) const DEVICES: [u16; 5] = [0x20, 0x21, 0x27, 0x28, 0x100];
/// The root port.
const PORT: u16 = 0x30;

/// The first device's registers; the next ones' follow.
const REGISTERS: u64 = 0xe000_0000;
const SPACING: u64 = 1 << 20;

const RAISE: u64 = 0x60;
const ACKNOWLEDGE: u64 = 0x64;
const SOURCE: u64 = 0x80;
const DESTINATION: u64 = 0x88;
const COUNT: u64 = 0x90;
const COMMAND: u64 = 0x98;
/// Where the device's own buffer lies in its DMA addresses.
const BUFFER: u64 = 0x4_0000;
/// Looks at a running transfer before it counts as hung; each takes a step of virtual time.
const PATIENCE: u32 = 1_000_000;

/// Configuration space: command, BAR 0, a bridge's buses and window, and edu's MSI capability.
const CONTROL: u16 = 0x04;
const BAR: u16 = 0x10;
const BUSES: u16 = 0x18;
const WINDOW: u16 = 0x20;
const CAPABILITIES: u16 = 0x34;
const MEMORY_AND_MASTER: u32 = 6;

/// Which way a transfer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From memory into the buffer.
    Read,
    /// From the buffer into memory.
    Write,
}

/// Adds the devices to QEMU's arguments.
pub(super) fn add(command: &mut Command) {
    let edu = "edu,dma_mask=0xffffffffffffffff";
    for source in DEVICES.into_iter().filter(|source| source >> 8 == 0) {
        let several = if source >> 3 == 4 { ",multifunction=on" } else { "" };
        let place = format!("{edu},addr={:x}.{:x}{several}", source >> 3, source & 7);
        command.args(["-device", &place]);
    }
    command.args(["-device", &format!("pcie-root-port,id=bridge,chassis=1,slot=1,addr={:x}", PORT >> 3)]);
    command.args(["-device", &format!("{edu},bus=bridge")]);
}

fn registers(device: usize) -> u64 {
    REGISTERS + device as u64 * SPACING
}

impl Emulator {
    /// Gives every device its place, and switches it on, as firmware would.
    pub(super) fn place_devices(&mut self) -> Result<()> {
        let last = registers(DEVICES.len() - 1);
        let window = (last >> 16) as u32 & 0xfff0;
        self.configure(PORT, BUSES, 0x0001_0100)?;
        self.configure(PORT, WINDOW, window << 16 | window)?;
        self.configure(PORT, CONTROL, MEMORY_AND_MASTER)?;
        for (device, source) in DEVICES.into_iter().enumerate() {
            let found = self.configuration(source, 0)?;
            if found != 0x11e8_1234 {
                bail!("no edu at {source:#x}, but {found:#x}");
            }
            self.configure(source, BAR, registers(device) as u32)?;
            self.configure(source, CONTROL, MEMORY_AND_MASTER)?;
        }
        self.settle()
    }

    fn select(&mut self, source: u16, register: u16) -> Result<()> {
        let address = 1 << 31 | u32::from(source) << 8 | u32::from(register);
        self.protocol.tell(format_args!("outl 0xcf8 {address:#x}"))
    }

    fn configuration(&mut self, source: u16, register: u16) -> Result<u32> {
        self.select(source, register)?;
        Ok(self.protocol.ask("inl 0xcfc")? as u32)
    }

    fn configure(&mut self, source: u16, register: u16, value: u32) -> Result<()> {
        self.select(source, register)?;
        self.protocol.tell(format_args!("outl 0xcfc {value:#x}"))
    }

    /// Moves `length` bytes between memory at `address` and the device's buffer at `place`, and waits for the end,
    /// which comes however the transfer went.
    pub(crate) fn transfer(
        &mut self,
        device: usize,
        direction: Direction,
        address: u64,
        place: u64,
        length: u64,
    ) -> Result<()> {
        let base = registers(device);
        let (source, destination, way) = match direction {
            Direction::Read => (address, BUFFER + place, 0),
            Direction::Write => (BUFFER + place, address, 2),
        };
        self.protocol.tell(format_args!("writeq {:#x} {source:#x}", base + SOURCE))?;
        self.protocol.tell(format_args!("writeq {:#x} {destination:#x}", base + DESTINATION))?;
        self.protocol.tell(format_args!("writeq {:#x} {length:#x}", base + COUNT))?;
        self.protocol.tell(format_args!("writeq {:#x} {:#x}", base + COMMAND, way | 1))?;
        for _ in 0..PATIENCE {
            if self.protocol.ask(format_args!("readq {:#x}", base + COMMAND))? & 1 == 0 {
                return Ok(());
            }
        }
        bail!("the transfer of device {device} does not end")
    }

    /// The device sends this message as its interrupt.
    pub(crate) fn send_message(&mut self, device: usize, address: u64, data: u32) -> Result<()> {
        let source = DEVICES[device];
        let capability = (self.configuration(source, CAPABILITIES)? & 0xfc) as u16;
        self.configure(source, capability + 4, address as u32)?;
        self.configure(source, capability + 8, (address >> 32) as u32)?;
        self.configure(source, capability + 12, data)?;
        // MSI on, one vector, 64-bit address.
        let control = self.configuration(source, capability)?;
        self.configure(source, capability, control | 1 << 16)?;
        self.protocol.tell(format_args!("writel {:#x} 0x1", registers(device) + RAISE))?;
        self.protocol.tell(format_args!("writel {:#x} 0x1", registers(device) + ACKNOWLEDGE))?;
        self.settle()
    }
}
