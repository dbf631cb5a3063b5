//! A driver that finds units on, as firmware or a system before it left them: after every single write to a register, a
//! device that was blocked is blocked, and one with reserved memory has it.

mod board;

use std::cell::RefCell;
use std::rc::Rc;

use board::{Board, Ram};
use iommu::Driver;
use iommu::address::{HostPhysical, Iova, PciAddress};
use iommu::dmar::{BridgeBuses, Buses, Dmar, Hop, ReservedMemory, Scope, ScopeKind};
use iommu::door::{Machine, Registers, RegistersUnreachable};
use iommu::driver::{ApicMode, DomainRequest};
use iommu::paging::Permissions;
use remapping_unit_model::{Access, AddressType, Configuration, Request, Scalable};

/// Firmware keeps this one using memory at [`RESERVED`].
const KEPT: PciAddress = PciAddress::new(0, 0, 0x14, 0);
/// The system before gave this one a page.
const GIVEN: PciAddress = PciAddress::new(0, 1, 0, 0);
/// Nobody gave this one anything.
const BLOCKED: PciAddress = PciAddress::new(0, 2, 0, 0);
const RESERVED: u64 = 0x7000_0000;

/// The board, with a look at its devices after every write to a register.
#[derive(Clone)]
struct Watched {
    board: Board,
    seen: Rc<RefCell<Vec<(bool, bool)>>>,
}

struct Window {
    registers: board::Window,
    machine: Watched,
}

impl Watched {
    fn look(&self) {
        let reach = |device, address| reaches(&self.board, device, address);
        self.seen.borrow_mut().push((reach(KEPT, RESERVED), reach(BLOCKED, 0) || reach(BLOCKED, RESERVED)));
    }
}

fn reaches(board: &Board, device: PciAddress, address: u64) -> bool {
    let (source, address_type) = (device.source.bits(), AddressType::Untranslated);
    let request = Request { source, address, access: Access::Write, address_type };
    board.unit.borrow_mut().request(request) == Ok(address)
}

impl Registers for Window {
    fn size(&self) -> u64 {
        self.registers.size()
    }

    fn read_u32(&self, offset: u64) -> u32 {
        self.registers.read_u32(offset)
    }

    fn read_u64(&self, offset: u64) -> u64 {
        self.registers.read_u64(offset)
    }

    fn write_u32(&self, offset: u64, value: u32) {
        self.registers.write_u32(offset, value);
        self.machine.look();
    }

    fn write_u64(&self, offset: u64, value: u64) {
        self.registers.write_u64(offset, value);
        self.machine.look();
    }
}

impl Machine for Watched {
    type Frames = Ram;
    type Registers = Window;

    fn frames(&self) -> &Ram {
        self.board.frames()
    }

    fn registers(&self, base: HostPhysical, size: u64) -> Result<Window, RegistersUnreachable> {
        Ok(Window { registers: self.board.registers(base, size)?, machine: self.clone() })
    }

    fn nanoseconds(&self) -> u64 {
        self.board.nanoseconds()
    }

    fn without_interrupts<T>(&self, critical: impl FnOnce() -> T) -> T {
        critical()
    }
}

impl Buses for Watched {
    fn bridge(&self, _: PciAddress) -> Option<BridgeBuses> {
        None
    }
}

fn table() -> Dmar {
    let path = vec![Hop { device: KEPT.source.device(), function: KEPT.source.function() }];
    let scope = Scope { kind: ScopeKind::Endpoint, flags: 0, enumeration_id: 0, start_bus: 0, path };
    let mut table = board::table();
    table.reserved_memory.push(ReservedMemory {
        segment: 0,
        first: HostPhysical::new(RESERVED),
        last: HostPhysical::new(RESERVED + 0xfff),
        scopes: vec![scope],
        defect: None,
    });
    table
}

fn configurations() -> impl Iterator<Item = Configuration> {
    (0..192u32).map(|flags| {
        let flag = |bit: u32| flags >> bit & 1 != 0;
        Configuration {
            coherent: flag(0),
            caching_mode: flag(1),
            write_buffer: flag(2),
            root_invalidates: flag(3),
            interrupt_table_invalidates: flag(3),
            protected_low: flag(4),
            protected_high: flag(4),
            queue: flag(5),
            device_tlb: flag(5),
            delay: flags % 3,
            // Legacy mode, second stage, first stage.
            scalable: match flags >> 6 {
                stage @ 1..3 if flag(5) => Some(Scalable {
                    second_stage: stage == 1,
                    first_stage: stage == 2,
                    coherent: flag(0),
                    ..Scalable::default()
                }),
                _ => None,
            },
            ..Configuration::default()
        }
    })
}

#[test]
fn nothing_becomes_free_and_reserved_memory_stays_at_every_write() {
    for configuration in configurations() {
        let board = Board::new(configuration);
        board.ram.set_exchange(configuration.coherent);
        // The system before: it gave a page away, and was let go with everything on.
        let before = Driver::bring_up(board.clone(), &table(), &board, &board::options(ApicMode::XApic)).unwrap();
        let domain = before.create_domain(&DomainRequest::default()).unwrap();
        before.map(domain, Iova::new(0), HostPhysical::new(0), 0x1000, Permissions::READ_WRITE).unwrap();
        before.attach(domain, GIVEN, &[]).unwrap();
        assert!(reaches(&board, GIVEN, 0) && reaches(&board, KEPT, RESERVED) && !reaches(&board, BLOCKED, 0));
        drop(before);

        let watched = Watched { board: board.clone(), seen: Rc::default() };
        let driver = Driver::bring_up(watched.clone(), &table(), &watched, &board::options(ApicMode::XApic)).unwrap();
        let seen = watched.seen.take();
        assert!(seen.len() > 4, "{configuration:?}: the unit was not even told of the new tables");
        for (write, (kept, freed)) in seen.into_iter().enumerate() {
            assert!(kept, "{configuration:?}: reserved memory is lost at write {write}");
            assert!(!freed, "{configuration:?}: a blocked device is free at write {write}");
        }
        assert!(!reaches(&board, GIVEN, 0), "{configuration:?}: what the system before gave away is taken");
        assert!(driver.drain_faults(|_| ()).taken > 0);
        board.assert_clean("taking over");
        let left = board.ram.in_use();
        driver.shut_down().unwrap();
        assert!(board.ram.in_use() < left, "its own tables come back, those of the system before do not");
    }
}
