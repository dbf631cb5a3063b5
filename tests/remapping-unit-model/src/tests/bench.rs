//! A unit with one device (00:01.0) in domain 5, whose page 0x1000 leads to 0x9000_0000.

use alloc::collections::BTreeMap;
use core::cell::RefCell;
use std::rc::Rc;
use std::vec::Vec;

use crate::*;

pub(super) const ROOT: u64 = 0x1000;
pub(super) const CONTEXT: u64 = 0x2080;
pub(super) const LEAF: u64 = 0x6008;
pub(super) const QUEUE: u64 = 0x8000;
pub(super) const INTERRUPTS: u64 = 0xa000;
pub(super) const DESCRIPTOR: u64 = 0xc000;
pub(super) const DEVICE: u16 = 8;

#[derive(Clone, Default, Debug)]
pub(super) struct Ram(Rc<RefCell<(Words, Words)>>);

/// What lies in memory by address, as written and as flushed.
type Words = BTreeMap<u64, u64>;

impl Ram {
    pub(super) fn put(&self, address: u64, value: u64) {
        self.0.borrow_mut().0.insert(address, value);
        self.flush(address);
    }

    pub(super) fn put_unflushed(&self, address: u64, value: u64) {
        self.0.borrow_mut().0.insert(address, value);
    }

    pub(super) fn flush(&self, address: u64) {
        let mut views = self.0.borrow_mut();
        if let Some(value) = views.0.get(&address).copied() {
            views.1.insert(address, value);
        }
    }
}

impl Memory for Ram {
    fn read(&self, address: u64) -> Option<u64> {
        (address < 0x10_0000).then(|| self.0.borrow().0.get(&address).copied().unwrap_or(0))
    }

    fn read_flushed(&self, address: u64) -> Option<u64> {
        (address < 0x10_0000).then(|| self.0.borrow().1.get(&address).copied().unwrap_or(0))
    }

    fn write_u32(&self, address: u64, value: u32) -> bool {
        let old = self.read(address & !7).unwrap_or(0);
        let shift = address % 8 * 8;
        self.put(address & !7, old & !(0xffff_ffff << shift) | u64::from(value) << shift);
        true
    }

    fn exchange(&self, address: u64, current: u64, new: u64) -> Option<Result<(), u64>> {
        let held = self.read(address)?;
        if held != current {
            return Some(Err(held));
        }
        self.put(address, new);
        Some(Ok(()))
    }
}

pub(super) struct Bench {
    pub(super) unit: Unit<Ram>,
    pub(super) ram: Ram,
    pub(super) tail: u64,
}

impl Bench {
    pub(super) fn new(configuration: Configuration) -> Self {
        let ram = Ram::default();
        ram.put(ROOT, 0x2001);
        ram.put(CONTEXT, 0x3001);
        ram.put(CONTEXT + 8, 5 << 8 | 2);
        ram.put(0x3000, 0x4003);
        ram.put(0x4000, 0x5003);
        ram.put(0x5000, 0x6003);
        ram.put(LEAF, 0x9000_0003);
        let mut unit = Unit::new(configuration, ram.clone());
        unit.write_u64(0x88, 0);
        unit.write_u64(0x90, QUEUE);
        let mut bench = Self { unit, ram, tail: 0 };
        bench.command(1 << 26);
        bench.unit.write_u64(0xb8, INTERRUPTS | 7);
        bench.command(1 << 24);
        bench.submit(4, 0);
        bench.command(1 << 25);
        bench.unit.write_u64(0x20, ROOT);
        bench.command(1 << 30);
        bench.submit(1 | 1 << 4, 0);
        bench.submit(2 | 1 << 4, 0);
        bench.command(1 << 31);
        bench
    }

    pub(super) fn command(&mut self, bit: u32) {
        let status = self.unit.read_u32(0x1c) & 0x96ff_ffff;
        self.unit.write_u32(0x18, status ^ bit);
        for _ in 0..=self.unit.configuration().delay {
            self.unit.read_u32(0x1c);
        }
    }

    pub(super) fn submit(&mut self, low: u64, high: u64) {
        self.ram.put(QUEUE + self.tail, low);
        self.ram.put(QUEUE + self.tail + 8, high);
        self.tail = (self.tail + 16) % 4096;
        self.unit.write_u64(0x88, self.tail);
    }

    pub(super) fn read(&mut self, address: u64) -> Result<u64, Refusal> {
        let address_type = AddressType::Untranslated;
        self.unit.request(Request { source: DEVICE, address, access: Access::Read, address_type })
    }

    pub(super) fn violations(&self) -> Vec<Violation> {
        self.unit.violations().to_vec()
    }

    pub(super) fn forget_page(&mut self) {
        self.submit(2 | 3 << 4 | 5 << 16, 0x1000);
    }

    pub(super) fn send(&mut self, data: u32) -> InterruptOutcome {
        self.unit.interrupt(Interrupt { source: DEVICE, message: Message { address: 0xfee0_0018, data } })
    }
}

pub(super) fn coherent() -> Configuration {
    Configuration { coherent: true, ..Configuration::default() }
}
