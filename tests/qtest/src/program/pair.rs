//! QEMU's unit and the model, told the same.

use anyhow::{Result, ensure};
use remapping_unit_model::{Configuration, Memory};

use crate::emulator::{DEVICES, Direction, Emulator};
use crate::program::layout::{self, BUFFERS, IMAGE, INTERRUPTS, QUEUE, ROOTS, STATUS};
use crate::program::modelled::{Modelled, Ram, Record};

pub(crate) const TRANSLATION: u32 = 1 << 31;
pub(crate) const SET_ROOT: u32 = 1 << 30;
pub(crate) const QUEUE_ON: u32 = 1 << 26;
pub(crate) const INTERRUPTS_ON: u32 = 1 << 25;
pub(crate) const SET_INTERRUPTS: u32 = 1 << 24;
/// Bytes of each device's buffer that programs use.
pub(crate) const BUFFER: u64 = 1024;
/// Where the buffers are emptied to.
const EMPTIED: u64 = BUFFERS + 0x8000;

/// Both, over memories of the same content.
pub(crate) struct Pair<'a> {
    pub(crate) emulator: &'a mut Emulator,
    pub(crate) ram: Ram,
    pub(crate) model: Modelled,
    /// Looks everything up at every request.
    pub(crate) forgetful: Modelled,
    /// Remembers contexts alone.
    pub(crate) half_forgetful: Modelled,
    tail: u64,
}

impl<'a> Pair<'a> {
    /// Both with the same memory, and remapping on.
    pub(crate) fn new(emulator: &'a mut Emulator, configuration: &Configuration, levels: u64) -> Result<Self> {
        let image = layout::image(levels);
        for (word, value) in (0..).zip(&image) {
            emulator.memory().write(word * 8, *value);
        }
        for device in 0..DEVICES.len() {
            emulator.transfer(device, Direction::Read, BUFFERS + device as u64 * 4096, 0, BUFFER)?;
        }
        let ram = Ram::new(image);
        let forgetful =
            Configuration { interrupt_table_invalidates: true, caching_mode: false, queue: true, ..*configuration };
        let mut pair = Self {
            emulator,
            model: Modelled::new(*configuration, ram.clone()),
            forgetful: Modelled::new(forgetful, ram.clone()),
            half_forgetful: Modelled::new(forgetful, ram.clone()),
            ram,
            tail: 0,
        };
        pair.bring_up(configuration.extended_interrupts)?;
        Ok(pair)
    }

    fn bring_up(&mut self, extended: bool) -> Result<()> {
        let table = INTERRUPTS | u64::from(extended) << 11 | 7;
        self.write_u64(0x88, 0)?;
        self.write_u64(0x90, QUEUE)?;
        self.command(QUEUE_ON)?;
        self.write_u64(0xb8, table)?;
        self.command(SET_INTERRUPTS)?;
        self.submit(&[(4, 0)], 1)?;
        self.command(INTERRUPTS_ON)?;
        for other in [&mut self.forgetful, &mut self.half_forgetful] {
            other.unit.write_u64(0xb8, table);
            other.unit.write_u32(0x18, SET_INTERRUPTS);
            other.unit.write_u32(0x18, INTERRUPTS_ON);
        }
        self.set_root(ROOTS[0])?;
        self.submit(&[(1 | 1 << 4, 0), (2 | 1 << 4, 0)], 2)?;
        self.command(TRANSLATION)?;
        for other in [&mut self.forgetful, &mut self.half_forgetful] {
            other.unit.write_u32(0x18, TRANSLATION | INTERRUPTS_ON);
        }
        Ok(())
    }

    /// Takes remapping down, and gives what the devices hold.
    pub(crate) fn end(&mut self) -> Result<Vec<Vec<u64>>> {
        // QEMU turns the queue off after a wait alone.
        self.submit(&[], u32::MAX)?;
        for switch in [TRANSLATION, INTERRUPTS_ON, QUEUE_ON] {
            self.command(switch)?;
        }
        let mut buffers = Vec::new();
        for device in 0..DEVICES.len() {
            let at = EMPTIED + device as u64 * 4096;
            self.emulator.transfer(device, Direction::Write, at, 0, BUFFER)?;
            let words = (0..BUFFER / 8).map(|word| self.emulator.memory().read(at + word * 8).unwrap_or(0));
            buffers.push(words.collect());
        }
        Ok(buffers)
    }

    /// The first word of memory that differs, outside the buffers: address, QEMU's, the model's.
    pub(crate) fn difference(&self) -> Option<(u64, u64, u64)> {
        let emptied = EMPTIED..EMPTIED + DEVICES.len() as u64 * 4096;
        (0..IMAGE).step_by(8).filter(|address| !emptied.contains(address)).find_map(|address| {
            let (theirs, ours) = (self.emulator.memory().read(address)?, self.ram.get(address)?);
            (theirs != ours).then_some((address, theirs, ours))
        })
    }

    /// Writes memory of both.
    pub(crate) fn put(&self, address: u64, value: u64) {
        self.emulator.memory().write(address, value);
        self.ram.put(address, value);
    }

    pub(crate) fn write_u32(&mut self, offset: u64, value: u32) -> Result<()> {
        self.model.unit.write_u32(offset, value);
        self.emulator.write_u32(offset, value)
    }

    pub(crate) fn write_u64(&mut self, offset: u64, value: u64) -> Result<()> {
        self.model.unit.write_u64(offset, value);
        self.emulator.write_u64(offset, value)
    }

    /// GCMD: turns one bit over, or does one thing.
    pub(crate) fn command(&mut self, bit: u32) -> Result<()> {
        let status = self.emulator.read_u32(0x1c)? & 0x96ff_ffff;
        self.write_u32(0x18, status ^ bit)?;
        let (theirs, ours) = (self.emulator.read_u32(0x1c)?, self.model.unit.read_u32(0x1c));
        // What was done once shows for ever, and QEMU was not reset before this program.
        let shown = 0x96ff_ffff | bit;
        ensure!((theirs ^ ours) & shown == 0, "GSTS after command {bit:#x}: QEMU {theirs:#x}, the model {ours:#x}");
        Ok(())
    }

    /// RTADDR and SRTP.
    pub(crate) fn set_root(&mut self, root: u64) -> Result<()> {
        self.write_u64(0x20, root)?;
        self.command(SET_ROOT)?;
        for other in [&mut self.forgetful, &mut self.half_forgetful] {
            other.unit.write_u64(0x20, root);
            let status = other.unit.read_u32(0x1c) & 0x96ff_ffff;
            other.unit.write_u32(0x18, status | SET_ROOT);
        }
        // As QEMU does.
        self.half_forgetful.forget();
        Ok(())
    }

    fn append(&mut self, low: u64, high: u64) {
        self.put(QUEUE + self.tail, low);
        self.put(QUEUE + self.tail + 8, high);
        self.tail = (self.tail + 16) % 4096;
    }

    /// Descriptors that both must take, and a wait that writes a number.
    pub(crate) fn submit(&mut self, descriptors: &[(u64, u64)], number: u32) -> Result<()> {
        for (low, high) in descriptors {
            self.append(*low, *high);
        }
        self.append(5 | 1 << 5 | u64::from(number) << 32, STATUS);
        self.write_u64(0x88, self.tail)?;
        let (theirs, ours) = (self.emulator.read_u64(0x80)?, self.model.unit.read_u64(0x80));
        let tail = self.tail;
        ensure!(theirs == tail && ours == tail, "{descriptors:x?}: IQH of QEMU {theirs:#x}, of the model {ours:#x}");
        let (theirs, ours) = (self.emulator.memory().read(STATUS), self.ram.read(STATUS));
        ensure!(theirs == ours, "wait {number}: QEMU wrote {theirs:x?}, the model {ours:x?}");
        Ok(())
    }

    /// One descriptor. Whether QEMU and the model took it.
    pub(crate) fn try_submit(&mut self, low: u64, high: u64) -> Result<(bool, bool)> {
        let head = self.tail;
        self.append(low, high);
        self.write_u64(0x88, self.tail)?;
        let (theirs, ours) = (self.emulator.read_u64(0x80)?, self.model.unit.read_u64(0x80));
        if theirs == self.tail && ours == self.tail {
            return Ok((true, true));
        }
        let signs = (self.emulator.read_u32(0x34)?, self.model.unit.read_u32(0x34));
        for (what, at, sign) in [("QEMU", theirs, signs.0), ("the model", ours, signs.1)] {
            let stands = at == head && sign & 1 << 4 != 0;
            ensure!(stands || at == self.tail, "{what}: IQH {at:#x}, FSTS {sign:#x} at a descriptor at {head:#x}");
        }
        // In its place a wait that does no harm.
        self.put(QUEUE + head, 5 | 1 << 5);
        self.put(QUEUE + head + 8, STATUS + 64);
        self.write_u32(0x34, 1 << 4)?;
        self.write_u64(0x88, self.tail)?;
        let (again, too) = (self.emulator.read_u64(0x80)?, self.model.unit.read_u64(0x80));
        ensure!(again == self.tail && too == self.tail, "after IQE: IQH of QEMU {again:#x}, of the model {too:#x}");
        Ok((theirs == self.tail, ours == self.tail))
    }

    /// QEMU's fault record, which is taken away.
    pub(crate) fn take_fault(&mut self) -> Result<Option<Record>> {
        let status = self.emulator.read_u32(0x34)?;
        if status & 2 == 0 {
            return Ok(None);
        }
        let high = self.emulator.read_u64(0x228)?;
        let record = Record::new(self.emulator.read_u64(0x220)?, high);
        ensure!(record.is_some(), "QEMU's FSTS is {status:#x}, and FRCD {high:#x}");
        self.emulator.write_u32(0x22c, 1 << 31)?;
        self.emulator.write_u32(0x34, 1)?;
        Ok(record)
    }
}
