//! A machine whose one remapping unit is the model, and whose memory knows what was flushed.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

use iommu::address::{HostPhysical, PAGE_SIZE, PciAddress};
use iommu::dmar::{BridgeBuses, Buses, Dmar, Flags, UnitDefinition};
use iommu::door::{Exchange, Frames, Machine, OutOfFrames, Registers, RegistersUnreachable};
use iommu::driver::{ApicMode, Options};
use iommu::fault::Limits;
use remapping_unit_model::{Configuration, Memory, Unit, Violation};

const BASE: u64 = 0x10_0000;
const FRAMES: usize = 1024;

type Words = [AtomicU64; 512];

struct Store {
    frames: Vec<Box<Words>>,
    flushed: Vec<Box<Words>>,
    taken: RefCell<Vec<bool>>,
    exchange: Cell<bool>,
    unit: RefCell<Option<Rc<RefCell<Unit<Ram>>>>>,
}

/// Memory; clones are the same.
#[derive(Clone)]
pub(crate) struct Ram(Rc<Store>);

fn place(address: u64) -> Option<(usize, usize)> {
    let offset = address.checked_sub(BASE)?;
    let frame = (offset / PAGE_SIZE) as usize;
    (frame < FRAMES).then_some((frame, (offset % PAGE_SIZE / 8) as usize))
}

impl Ram {
    fn new() -> Self {
        let zeroed = || (0..FRAMES).map(|_| Box::new([const { AtomicU64::new(0) }; 512])).collect();
        Self(Rc::new(Store {
            frames: zeroed(),
            flushed: zeroed(),
            taken: RefCell::new(vec![false; FRAMES]),
            exchange: Cell::new(true),
            unit: RefCell::new(None),
        }))
    }

    pub(crate) fn in_use(&self) -> usize {
        self.0.taken.borrow().iter().filter(|taken| **taken).count()
    }

    /// Whether the processor can exchange 16 bytes.
    pub(crate) fn set_exchange(&self, can: bool) {
        self.0.exchange.set(can);
    }

    fn with_unit(&self, work: impl FnOnce(&mut Unit<Ram>)) {
        let unit = self.0.unit.borrow().clone();
        if let Some(unit) = unit {
            work(&mut unit.borrow_mut());
        }
    }
}

impl Memory for Ram {
    fn read(&self, address: u64) -> Option<u64> {
        place(address).map(|(frame, word)| self.0.frames[frame][word].load(Ordering::Acquire))
    }

    fn read_flushed(&self, address: u64) -> Option<u64> {
        place(address).map(|(frame, word)| self.0.flushed[frame][word].load(Ordering::Acquire))
    }

    fn write_u32(&self, address: u64, value: u32) -> bool {
        let Some((frame, word)) = place(address) else { return false };
        let shift = address % 8 * 8;
        let old = self.0.frames[frame][word].load(Ordering::Acquire);
        let new = old & !(0xffff_ffff << shift) | u64::from(value) << shift;
        self.0.frames[frame][word].store(new, Ordering::Release);
        true
    }

    fn exchange(&self, address: u64, current: u64, new: u64) -> Option<Result<(), u64>> {
        let (frame, word) = place(address)?;
        let word = &self.0.frames[frame][word];
        Some(word.compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire).map(drop))
    }
}

// SAFETY: frames live as long as the memory, are given to one owner at a time, and are reached through atomics alone;
// an address that was never given panics.
#[expect(unsafe_code, reason = "a door of the tests")]
unsafe impl Frames for Ram {
    fn allocate(&self, count: usize) -> Result<HostPhysical, OutOfFrames> {
        let mut taken = self.0.taken.borrow_mut();
        let first = (0..FRAMES).step_by(count).find(|first| taken[*first..first + count].iter().all(|taken| !taken));
        let first = first.ok_or(OutOfFrames)?;
        for index in first..first + count {
            taken[index] = true;
            for word in 0..512 {
                self.0.frames[index][word].store(0, Ordering::Relaxed);
                // What was there before is still in memory.
                self.0.flushed[index][word].store(0xdead_dead_dead_dead, Ordering::Relaxed);
            }
        }
        Ok(HostPhysical::new(BASE + first as u64 * PAGE_SIZE))
    }

    fn free(&self, first: HostPhysical, count: usize) {
        self.with_unit(|unit| unit.frame_freed(first.as_u64(), count as u64));
        let (frame, _) = place(first.as_u64()).unwrap();
        for taken in &mut self.0.taken.borrow_mut()[frame..frame + count] {
            assert!(std::mem::replace(taken, false), "freed twice");
        }
    }

    fn words(&self, frame: HostPhysical) -> &Words {
        &self.0.frames[place(frame.as_u64()).unwrap().0]
    }

    fn flush(&self, words: &[AtomicU64]) {
        let start = words.as_ptr() as usize;
        let inside = |(index, frame): (usize, &Words)| {
            let offset = start.checked_sub(frame.as_ptr() as usize)? / 8;
            (offset < 512).then_some((index, offset))
        };
        let (frame, first) =
            self.0.frames.iter().map(|frame| &**frame).enumerate().find_map(inside).expect("only frames are flushed");
        for (offset, word) in words.iter().enumerate() {
            self.0.flushed[frame][first + offset].store(word.load(Ordering::Acquire), Ordering::Release);
        }
        self.with_unit(Unit::observe);
    }

    fn exchange_u128(&self, pair: &[AtomicU64; 2], current: u128, new: u128) -> Exchange {
        if !self.0.exchange.get() {
            return Exchange::Unsupported;
        }
        let held = u128::from(pair[1].load(Ordering::Acquire)) << 64 | u128::from(pair[0].load(Ordering::Acquire));
        if held != current {
            return Exchange::Differs(held);
        }
        pair[0].store(new as u64, Ordering::Release);
        pair[1].store((new >> 64) as u64, Ordering::Release);
        self.with_unit(Unit::observe);
        Exchange::Done
    }
}

/// The unit's registers.
pub(crate) struct Window {
    unit: Rc<RefCell<Unit<Ram>>>,
    size: u64,
}

impl Registers for Window {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_u32(&self, offset: u64) -> u32 {
        self.unit.borrow_mut().read_u32(offset)
    }

    fn read_u64(&self, offset: u64) -> u64 {
        self.unit.borrow_mut().read_u64(offset)
    }

    fn write_u32(&self, offset: u64, value: u32) {
        self.unit.borrow_mut().write_u32(offset, value);
    }

    fn write_u64(&self, offset: u64, value: u64) {
        self.unit.borrow_mut().write_u64(offset, value);
    }
}

/// The machine; clones are the same.
#[derive(Clone)]
pub(crate) struct Board {
    pub(crate) ram: Ram,
    pub(crate) unit: Rc<RefCell<Unit<Ram>>>,
    now: Rc<Cell<u64>>,
}

impl Board {
    pub(crate) fn new(configuration: Configuration) -> Self {
        let ram = Ram::new();
        let unit = Rc::new(RefCell::new(Unit::new(configuration, ram.clone())));
        *ram.0.unit.borrow_mut() = Some(unit.clone());
        Self { ram, unit, now: Rc::default() }
    }

    /// Nothing that software changed is cached, and no rule is broken.
    pub(crate) fn assert_clean(&self, after: &str) {
        self.unit.borrow_mut().audit();
        assert_eq!(self.unit.borrow().violations(), [] as [Violation; 0], "after {after}");
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        // The memory and the unit hold each other; the last board lets go.
        if Rc::strong_count(&self.now) == 1 {
            *self.ram.0.unit.borrow_mut() = None;
        }
    }
}

impl Machine for Board {
    type Frames = Ram;
    type Registers = Window;

    fn frames(&self) -> &Ram {
        &self.ram
    }

    fn registers(&self, _: HostPhysical, size: u64) -> Result<Window, RegistersUnreachable> {
        Ok(Window { unit: self.unit.clone(), size })
    }

    fn nanoseconds(&self) -> u64 {
        self.now.set(self.now.get() + 1000);
        self.now.get()
    }

    fn without_interrupts<T>(&self, critical: impl FnOnce() -> T) -> T {
        critical()
    }
}

/// No bridges.
impl Buses for Board {
    fn bridge(&self, _: PciAddress) -> Option<BridgeBuses> {
        None
    }
}

/// One unit for all of segment 0.
pub(crate) fn table() -> Dmar {
    let unit = UnitDefinition {
        segment: 0,
        base: HostPhysical::new(0xfed9_0000),
        size: 0x1000,
        includes_all: true,
        scopes: Vec::new(),
    };
    Dmar { host_address_width: 46, flags: Flags::INTERRUPT_REMAPPING, units: vec![unit], ..Dmar::default() }
}

/// Small tables, and no device is ever silenced.
pub(crate) fn options(apic_mode: ApicMode) -> Options {
    let fault_limits = Limits { reports_per_second: u32::MAX, faults_per_second: u32::MAX };
    Options { apic_mode, interrupt_order: 8, fault_limits, ..Options::default() }
}
