//! The model's side: its memory, its devices' requests, and a second unit over the same memory that caches nothing.

use std::cell::RefCell;
use std::rc::Rc;

use remapping_unit_model::{
    Access, AddressType, Configuration, Interrupt, InterruptOutcome, Memory, Message, Refusal, Request, Unit,
};

use crate::emulator::Direction;
use crate::program::layout::{IMAGE, PASSING};

/// Memory of both units; clones are the same.
#[derive(Clone)]
pub(crate) struct Ram(Rc<RefCell<Vec<u64>>>);

impl Ram {
    pub(crate) fn new(image: Vec<u64>) -> Self {
        Self(Rc::new(RefCell::new(image)))
    }

    pub(crate) fn put(&self, address: u64, value: u64) {
        if let Some(word) = self.0.borrow_mut().get_mut((address / 8) as usize) {
            *word = value;
        }
    }

    pub(crate) fn get(&self, address: u64) -> Option<u64> {
        self.0.borrow().get((address / 8) as usize).copied()
    }
}

// QEMU says that it does not snoop, and does: what is written is seen at once.
impl Memory for Ram {
    fn read(&self, address: u64) -> Option<u64> {
        self.get(address)
    }

    fn read_flushed(&self, address: u64) -> Option<u64> {
        self.get(address)
    }

    fn write_u32(&self, address: u64, value: u32) -> bool {
        let Some(old) = self.get(address & !7) else { return false };
        let shift = address % 8 * 8;
        self.put(address & !7, old & !(0xffff_ffff << shift) | u64::from(value) << shift);
        address < IMAGE
    }

    fn exchange(&self, address: u64, current: u64, new: u64) -> Option<Result<(), u64>> {
        let held = self.get(address)?;
        if held != current {
            return Some(Err(held));
        }
        self.put(address, new);
        Some(Ok(()))
    }
}

/// A fault record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// The page, or the interrupt entry's number in bits 63:48.
    pub(crate) information: u64,
    pub(crate) source: u16,
    pub(crate) reason: u8,
    /// T1. Without meaning for interrupts.
    pub(crate) read: bool,
}

impl Record {
    /// From the two halves of FRCD.
    pub(crate) fn new(low: u64, high: u64) -> Option<Self> {
        let reason = (high >> 32) as u8;
        let interrupt = (0x20..0x30).contains(&reason);
        (high >> 63 != 0).then_some(Self {
            information: low & !0xfff,
            source: high as u16,
            reason,
            read: !interrupt && high >> 62 & 1 != 0,
        })
    }
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Where it went.
    pub(crate) output: Option<u64>,
    /// What was recorded.
    pub(crate) fault: Option<Record>,
}

/// One unit of the model.
pub(crate) struct Modelled {
    pub(crate) unit: Unit<Ram>,
}

impl Modelled {
    pub(crate) fn new(configuration: Configuration, ram: Ram) -> Self {
        Self { unit: Unit::new(configuration, ram) }
    }

    /// The record, which is taken away, and with it every sign of faults.
    fn take_fault(&mut self) -> Option<Record> {
        let record = Record::new(self.unit.read_u64(0x220), self.unit.read_u64(0x228));
        if record.is_some() {
            self.unit.write_u32(0x22c, 1 << 31);
            self.unit.write_u32(0x34, 1);
        }
        record
    }

    pub(crate) fn request(&mut self, source: u16, direction: Direction, address: u64) -> Answer {
        let access = match direction {
            Direction::Read => Access::Read,
            Direction::Write => Access::Write,
        };
        let request = Request { source, address, access, address_type: AddressType::Untranslated };
        let output = self.unit.request(request).map_err(|refusal| assert!(matches!(refusal, Refusal::Fault(_))));
        Answer { output: output.ok(), fault: self.take_fault() }
    }

    pub(crate) fn message(&mut self, source: u16, message: Message) -> (InterruptOutcome, Option<Record>) {
        let outcome = self.unit.interrupt(Interrupt { source, message });
        (outcome, self.take_fault())
    }

    /// Makes a unit whose queue is off forget the contexts that QEMU forgets by this descriptor: all unless a device
    /// is named, and then whatever its domain is.
    pub(crate) fn forget_contexts(&mut self, descriptor: u64) {
        if descriptor >> 4 & 3 != 3 {
            return self.unit.write_u64(0x28, 1 << 63 | 1 << 61);
        }
        let (mask, source) = (descriptor >> 48 & 3, descriptor >> 32 & 0xffff);
        for domain in 0..=PASSING {
            self.unit.write_u64(0x28, 1 << 63 | 3 << 61 | mask << 32 | source << 16 | domain);
        }
    }

    /// The same for all translations.
    pub(crate) fn forget_pages(&mut self) {
        self.unit.write_u64(0xf8, 1 << 63 | 1 << 60);
    }

    /// The same for everything; a new table does it for interrupt entries.
    pub(crate) fn forget(&mut self) {
        self.forget_contexts(1 << 4);
        self.forget_pages();
        let status = self.unit.read_u32(0x1c) & 0x96ff_ffff;
        self.unit.write_u32(0x18, status | 1 << 24);
    }
}
