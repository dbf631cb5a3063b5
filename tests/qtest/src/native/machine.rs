//! The doors of the `iommu` crate, on a machine of QEMU.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use iommu::address::{HostPhysical, PAGE_SIZE, PciAddress};
use iommu::dmar::{BridgeBuses, Buses, Dmar, Flags, UnitDefinition};
use iommu::door::{Exchange, Frames, Machine, OutOfFrames, Registers, RegistersUnreachable};

use crate::emulator::{Emulator, Shared, UNIT};

/// Memory below is the firmware's.
const FIRST: usize = 256;
/// Memory from here on is the devices'.
const END: usize = 0x1ff;

/// Frames of the machine's memory; clones are the same.
#[derive(Clone)]
pub(crate) struct Memory {
    shared: Arc<Shared>,
    taken: Rc<RefCell<Vec<bool>>>,
}

impl Memory {
    pub(crate) fn in_use(&self) -> usize {
        self.taken.borrow().iter().filter(|taken| **taken).count()
    }

    pub(crate) fn word(&self, address: u64) -> &AtomicU64 {
        &self.shared.frames()[(address / PAGE_SIZE) as usize][(address % PAGE_SIZE / 8) as usize]
    }
}

// SAFETY: frames are given to one owner at a time and reached through atomics alone; they live as long as the memory,
// which every clone holds; an address outside panics.
#[expect(unsafe_code, reason = "vouches for memory that the emulator shares")]
unsafe impl Frames for Memory {
    fn allocate(&self, count: usize) -> Result<HostPhysical, OutOfFrames> {
        let mut taken = self.taken.borrow_mut();
        let end = taken.len();
        let first = (FIRST.next_multiple_of(count)..end)
            .step_by(count)
            .find(|first| first + count <= end && taken[*first..first + count].iter().all(|taken| !taken))
            .ok_or(OutOfFrames)?;
        for index in first..first + count {
            taken[index] = true;
            self.shared.frames()[index].iter().for_each(|word| word.store(0, Ordering::Relaxed));
        }
        Ok(HostPhysical::new(first as u64 * PAGE_SIZE))
    }

    fn free(&self, first: HostPhysical, count: usize) {
        let first = (first.as_u64() / PAGE_SIZE) as usize;
        for taken in &mut self.taken.borrow_mut()[first..first + count] {
            assert!(std::mem::replace(taken, false), "freed twice");
        }
    }

    fn words(&self, frame: HostPhysical) -> &[AtomicU64; 512] {
        &self.shared.frames()[(frame.as_u64() / PAGE_SIZE) as usize]
    }

    // QEMU sees what is written, whatever it says of itself.
    fn flush(&self, _: &[AtomicU64]) {}

    fn exchange_u128(&self, pair: &[AtomicU64; 2], current: u128, new: u128) -> Exchange {
        // QEMU reads entries only while it is told something: never between these.
        let held = u128::from(pair[1].load(Ordering::Acquire)) << 64 | u128::from(pair[0].load(Ordering::Acquire));
        if held != current {
            return Exchange::Differs(held);
        }
        pair[0].store(new as u64, Ordering::Release);
        pair[1].store((new >> 64) as u64, Ordering::Release);
        Exchange::Done
    }
}

/// The unit's registers. Losing the emulator ends the test.
pub(crate) struct Window {
    emulator: Rc<RefCell<Emulator>>,
    size: u64,
}

impl Registers for Window {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_u32(&self, offset: u64) -> u32 {
        self.emulator.borrow_mut().read_u32(offset).expect("QEMU answers")
    }

    fn read_u64(&self, offset: u64) -> u64 {
        self.emulator.borrow_mut().read_u64(offset).expect("QEMU answers")
    }

    fn write_u32(&self, offset: u64, value: u32) {
        let mut emulator = self.emulator.borrow_mut();
        emulator.write_u32(offset, value).and_then(|()| emulator.settle()).expect("QEMU answers");
    }

    fn write_u64(&self, offset: u64, value: u64) {
        let mut emulator = self.emulator.borrow_mut();
        emulator.write_u64(offset, value).and_then(|()| emulator.settle()).expect("QEMU answers");
    }
}

/// The machine; clones are the same.
#[derive(Clone)]
pub(crate) struct Board {
    pub(crate) emulator: Rc<RefCell<Emulator>>,
    pub(crate) memory: Memory,
    started: Instant,
}

impl Board {
    pub(crate) fn new(emulator: Emulator) -> Self {
        let shared = emulator.memory().clone();
        let taken = Rc::new(RefCell::new(vec![false; END]));
        let memory = Memory { shared, taken };
        Self { emulator: Rc::new(RefCell::new(emulator)), memory, started: Instant::now() }
    }
}

impl Machine for Board {
    type Frames = Memory;
    type Registers = Window;

    fn frames(&self) -> &Memory {
        &self.memory
    }

    fn registers(&self, _: HostPhysical, size: u64) -> Result<Window, RegistersUnreachable> {
        Ok(Window { emulator: self.emulator.clone(), size })
    }

    fn nanoseconds(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    fn without_interrupts<T>(&self, critical: impl FnOnce() -> T) -> T {
        critical()
    }
}

/// One unit takes all of segment 0: which bridges there are does not matter.
impl Buses for Board {
    fn bridge(&self, _: PciAddress) -> Option<BridgeBuses> {
        None
    }
}

/// What firmware would say of the machine.
pub(crate) fn table() -> Dmar {
    let unit = UnitDefinition {
        segment: 0,
        base: HostPhysical::new(UNIT),
        size: 0x1000,
        includes_all: true,
        scopes: Vec::new(),
    };
    Dmar { host_address_width: 39, flags: Flags::INTERRUPT_REMAPPING, units: vec![unit], ..Dmar::default() }
}
