//! A VM's function behind a modelled unit, the driver over it as on a machine, and a unit that stops to confirm.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Mutex;

use iommu::dmar::{BridgeBuses, Buses, Dmar, Flags, UnitDefinition};
use iommu::door::{Frames, Machine, Registers, RegistersUnreachable};
use iommu::driver::Options;
use passthrough::container::{Container, Mapping, Policy};
use passthrough::fake::bench::{Bench, ENDPOINT};
use passthrough::group::Group;
use remapping_unit_model::{Configuration, Memory, Unit};

use super::*;
use crate::assignment::Kept;
use crate::memory::{GuestMemory, NestedFormat, NestedPaging, frames};

/// The tail of the invalidation queue (VT-d section 11.4.9.2).
const QUEUE_TAIL: u64 = 0x88;

/// The frames of this process, as the unit reads them.
struct Arena;

impl Arena {
    fn word(address: u64) -> &'static AtomicU64 {
        let page = HostPhysical::new(address & !0xfff);
        // Leaked, as the words of a frame live as long as the process.
        let frames: &'static KernelFrames = Box::leak(Box::new(KernelFrames::new(memory::Owner::RemappingUnits)));
        &frames.words(page)[(address % 4096 / 8) as usize]
    }
}

impl Memory for Arena {
    fn read(&self, address: u64) -> Option<u64> {
        Some(Self::word(address).load(Ordering::Acquire))
    }

    fn read_flushed(&self, address: u64) -> Option<u64> {
        self.read(address)
    }

    fn write_u32(&self, address: u64, value: u32) -> bool {
        let (word, shift) = (Self::word(address & !7), address % 8 * 8);
        let old = word.load(Ordering::Acquire);
        word.store(old & !(0xffff_ffff << shift) | u64::from(value) << shift, Ordering::Release);
        true
    }

    fn exchange(&self, address: u64, current: u64, new: u64) -> Option<Result<(), u64>> {
        let exchanged = Self::word(address).compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire);
        Some(exchanged.map(drop))
    }
}

/// A machine with one unit.
#[derive(Clone)]
struct Board {
    frames: KernelFrames,
    unit: Arc<Mutex<Unit<Arena>>>,
    /// The unit takes no descriptor any more.
    dead: Arc<AtomicBool>,
    now: Arc<AtomicU64>,
}

struct Window(Board);

impl Registers for Window {
    fn size(&self) -> u64 {
        0x1000
    }

    fn read_u32(&self, offset: u64) -> u32 {
        self.0.unit.lock().unwrap().read_u32(offset)
    }

    fn read_u64(&self, offset: u64) -> u64 {
        self.0.unit.lock().unwrap().read_u64(offset)
    }

    fn write_u32(&self, offset: u64, value: u32) {
        if offset != QUEUE_TAIL || !self.0.dead.load(Ordering::Relaxed) {
            self.0.unit.lock().unwrap().write_u32(offset, value);
        }
    }

    fn write_u64(&self, offset: u64, value: u64) {
        if offset != QUEUE_TAIL || !self.0.dead.load(Ordering::Relaxed) {
            self.0.unit.lock().unwrap().write_u64(offset, value);
        }
    }
}

impl Machine for Board {
    type Frames = KernelFrames;
    type Registers = Window;

    fn frames(&self) -> &KernelFrames {
        &self.frames
    }

    fn registers(&self, _: HostPhysical, _: u64) -> Result<Window, RegistersUnreachable> {
        Ok(Window(self.clone()))
    }

    fn nanoseconds(&self) -> u64 {
        self.now.fetch_add(1_000_000, Ordering::Relaxed)
    }

    fn without_interrupts<T>(&self, critical: impl FnOnce() -> T) -> T {
        critical()
    }
}

impl Buses for Board {
    fn bridge(&self, _: PciAddress) -> Option<BridgeBuses> {
        None
    }
}

fn board() -> Board {
    Board {
        frames: KernelFrames::new(memory::Owner::RemappingUnits),
        unit: Arc::new(Mutex::new(Unit::new(Configuration { coherent: true, ..Configuration::default() }, Arena))),
        dead: Arc::default(),
        now: Arc::default(),
    }
}

fn driver(board: &Board) -> &'static Driver<Board> {
    let unit = UnitDefinition {
        segment: 0,
        base: HostPhysical::new(0xfed9_0000),
        size: 0x1000,
        includes_all: true,
        scopes: Vec::new(),
    };
    let dmar =
        Dmar { host_address_width: 46, flags: Flags::INTERRUPT_REMAPPING, units: [unit].into(), ..Dmar::default() };
    Box::leak(Box::new(Driver::bring_up(board.clone(), &dmar, board, &Options::default()).unwrap()))
}

/// The frames that a VM had, and those that it still has when its function was given back, with its unit alive or dead by
/// then.
fn given_back(vm: u16, dies: bool) -> (usize, usize) {
    let (board, bench) = (board(), Bench::new());
    let events = Events::keep(Vec::new());
    let driver = driver(&board);
    let remapping = Remapping::new(driver, events, bench.registry.clone(), Vec::new(), Vec::new())
        .for_a_run(Complaints::default(), Liberties::default());
    let paging = NestedPaging {
        format: NestedFormat::Npt,
        page_sizes: iommu::paging::PageSizes::all(),
        output_bits: 46,
        apic_access: false,
    };
    let ram = Arc::new(GuestMemory::new(vm, core::iter::once(0..2 << 20), &[], paging).unwrap());
    let kept = Kept::new(ram.clone(), bench.owner.clone(), remapping.doubt().clone());
    let owner = Owner::new(vm, "guest");
    let registry = Registry::new(bench.registry.groups().clone());
    registry.claim(ENDPOINT, &owner).unwrap();
    let id = registry.groups().of(ENDPOINT).unwrap().id;
    let group = Group::open(&registry, id, &owner).unwrap();
    let container = Container::new(remapping, owner, Policy::default());
    group.set_container(&container).unwrap();
    container.set_type(3).unwrap();
    for block in ram.blocks() {
        let iova = Iova::new(block.guest.as_u64());
        container.map(Mapping { iova, host: block.host, length: block.length, access: Access::READ_WRITE }).unwrap();
    }
    assert!(driver.domain_of(ENDPOINT).is_some());
    let had = frames().in_use(memory::Owner::Vm(vm));
    board.dead.store(dies, Ordering::Relaxed);
    drop((ram, group));
    drop(container);
    drop(kept);
    assert_eq!(driver.domain_of(ENDPOINT), None, "nothing leads there, whatever the unit says");
    (had, frames().in_use(memory::Owner::Vm(vm)))
}

#[test]
fn a_unit_that_does_not_confirm_keeps_tables_and_ram_from_everybody() {
    let (had, left) = given_back(46, false);
    assert!(had > 512 && left == 0, "{had} {left}");
    let (had, left) = given_back(47, true);
    assert_eq!(had, left);
}
