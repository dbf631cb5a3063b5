//! The driver against the test unit: what it does, in which order, and what a device can reach at every moment.

use std::string::{String, ToString};
use std::vec;
use std::vec::Vec;

use super::*;
use crate::address::{HostPhysical, Iova, SourceId};
use crate::dmar::{Hop, ReservedMemory, Scope, ScopeKind};
use crate::fault::{Limits, Place};
use crate::fixture::{
    DEFAULT_CAPABILITY, DEFAULT_EXTENDED, Event, Memory, TestMachine, TestUnit, Trouble, single_unit_table,
};
use crate::interrupt::entry::{Source, Trigger};
use crate::paging::Permissions;
use crate::unit::UnitError;

const TE: u32 = 1 << 31;
const SRTP: u32 = 1 << 30;
const WBF: u32 = 1 << 27;
const QIE: u32 = 1 << 26;
const IRE: u32 = 1 << 25;
const SIRTP: u32 = 1 << 24;
const CAP_RWBF: u64 = 1 << 4;
const CAP_CM: u64 = 1 << 7;
const CAP_PI: u64 = 1 << 59;
const ECAP_C: u64 = 1 << 0;
const ECAP_QI: u64 = 1 << 1;
const ECAP_DT: u64 = 1 << 2;
const ECAP_IR: u64 = 1 << 3;
const ECAP_EIM: u64 = 1 << 4;
const ECAP_SC: u64 = 1 << 7;

const DEVICE: PciAddress = PciAddress::new(0, 1, 0, 0);
const OTHER: PciAddress = PciAddress::new(0, 2, 0, 0);
const RW: Permissions = Permissions::READ_WRITE;
const HOST: HostPhysical = HostPhysical::new(0x4000_0000);

fn taken(kind: u8, granularity: u8, subject: u16) -> Event {
    Event::Taken { kind, granularity, subject }
}

fn bring_up(machine: &TestMachine) -> Driver<TestMachine> {
    let options = Options { apic_mode: ApicMode::X2Apic, interrupt_order: 8, ..Options::default() };
    Driver::bring_up(machine.clone(), &single_unit_table(), machine, &options).unwrap()
}

fn started(capability: u64, extended: u64) -> (TestMachine, Driver<TestMachine>) {
    let machine = TestMachine::with(capability, extended);
    let driver = bring_up(&machine);
    machine.unit().events();
    (machine, driver)
}

fn domain(driver: &Driver<TestMachine>) -> DomainId {
    driver.create_domain(&DomainRequest::for_devices(&[DEVICE])).unwrap()
}

fn read(unit: &TestUnit, device: PciAddress, address: u64) -> Result<u64, u8> {
    unit.access(device.source.bits(), address, false)
}

#[test]
fn a_cold_unit_is_brought_up_in_the_manuals_order() {
    let machine = TestMachine::with(0, 0);
    let driver = bring_up(&machine);
    let events = [
        Event::On(QIE),
        Event::Shot(SIRTP),
        Event::Tail,
        taken(4, 0, 0),
        Event::On(IRE),
        Event::Shot(SRTP),
        Event::Tail,
        taken(1, 1, 0),
        taken(2, 1, 0),
        Event::On(TE),
    ];
    assert_eq!(machine.unit().events(), events);
    assert_eq!(machine.unit().peek(0xb8) & 0x80f, 1 << 11 | 7, "EIME, and 2^8 entries");
    assert_eq!(read(machine.unit(), DEVICE, 0x1000), Err(1), "default deny");
    machine.assert_no_violations();
    driver.shut_down().unwrap();
    assert_eq!(machine.unit().status() & (TE | QIE | IRE), 0);
    assert_eq!(machine.memory.in_use(), 0);
    machine.assert_no_violations();
}

#[test]
fn a_unit_with_a_write_buffer_has_it_flushed_before_each_table() {
    let machine = TestMachine::with(CAP_RWBF, 0);
    let _driver = bring_up(&machine);
    let commands: Vec<_> =
        machine.unit().events().into_iter().filter(|event| matches!(event, Event::Shot(_))).collect();
    assert_eq!(commands, [Event::Shot(WBF), Event::Shot(SIRTP), Event::Shot(WBF), Event::Shot(SRTP)]);
    machine.assert_no_violations();
}

#[test]
fn what_firmware_left_on_is_taken_over_without_a_gap() {
    let machine = TestMachine::with(0, 0);
    let unit = machine.unit();
    unit.set_status(TE | QIE | IRE | SRTP | SIRTP | 1 << 23);
    unit.poke(0xb8, 1 << 11);
    let _driver = bring_up(&machine);
    let events = unit.events();
    assert_eq!(events[..2], [Event::Off(QIE), Event::On(QIE)]);
    assert!(!events.contains(&Event::Off(TE)) && !events.contains(&Event::Off(IRE)), "{events:?}");
    assert!(events.contains(&Event::Off(1 << 23)), "compatibility format off");
    assert_eq!(unit.status() & (TE | QIE | IRE | 1 << 23), TE | QIE | IRE);
    assert_eq!(read(unit, DEVICE, 0x1000), Err(1));
    machine.assert_no_violations();
}

#[test]
fn what_cannot_change_while_on_is_turned_off_first() {
    let machine = TestMachine::with(0, 0);
    let unit = machine.unit();
    unit.set_status(TE | QIE | IRE);
    // Destinations of 8 bits, and a root table of scalable mode.
    unit.poke(0xb8, 0);
    unit.poke(0x20, 1 << 10);
    let _driver = bring_up(&machine);
    let events = unit.events();
    assert_eq!(events[..4], [Event::Off(IRE), Event::Off(QIE), Event::Off(TE), Event::On(QIE)]);
    machine.assert_no_violations();
}

#[test]
fn protected_memory_ends_when_the_tables_protect() {
    let machine = TestMachine::with(1 << 5, 0);
    machine.unit().poke(0x64, 1 << 31 | 1);
    let _driver = bring_up(&machine);
    let events = machine.unit().events();
    assert_eq!(events[events.len() - 2..], [Event::On(TE), Event::Protected(0)]);
}

#[test]
fn units_that_cannot_be_used_are_refused_by_name() {
    let refusal = |machine: &TestMachine| {
        let error = Driver::bring_up(machine.clone(), &single_unit_table(), machine, &Options::default()).unwrap_err();
        assert_eq!(machine.memory.in_use(), 0);
        assert!(machine.unit().events().is_empty(), "nothing was touched");
        assert!(error.to_string().starts_with("remapping unit 0xfed90000: "), "{error}");
        error.error
    };
    assert_eq!(refusal(&TestMachine::with(1, 0)), UnitError::DomainIds);
    assert_eq!(refusal(&TestMachine::with(0, ECAP_QI)), UnitError::NoQueue);
    assert_eq!(refusal(&TestMachine::with(0x600, 0)), UnitError::Widths { sagaw: 0, width: 48 });
    assert_eq!(refusal(&TestMachine::new(&[(u64::MAX, DEFAULT_EXTENDED)])), UnitError::Gone);
    assert_eq!(refusal(&TestMachine::new(&[(DEFAULT_CAPABILITY, u64::MAX)])), UnitError::Gone);
    let far = DEFAULT_CAPABILITY | 0xff << 24;
    assert!(matches!(refusal(&TestMachine::new(&[(far | 0x3 << 32, DEFAULT_EXTENDED)])), UnitError::Window { .. }));
}

#[test]
fn without_interrupt_remapping_dma_is_still_denied_and_no_interrupt_is_given() {
    let (machine, driver) = started(0, ECAP_IR);
    let base = HostPhysical::new(0xfed9_0000);
    let reason = NoInterruptRemapping::Unit { base };
    assert_eq!(driver.interrupt_remapping(), InterruptRemapping::Off(reason));
    assert_eq!(driver.interrupts().allocate(Origin::function(DEVICE), 1), Err(InterruptError::Off(reason)));
    assert_eq!(machine.unit().status() & (TE | IRE), TE);
}

#[test]
fn a_command_that_never_ends_stops_the_bring_up_and_keeps_what_hardware_knows() {
    for bit in [QIE, SIRTP, IRE, SRTP, TE] {
        let machine = TestMachine::with(0, 0);
        machine.unit().set_trouble(Some(Trouble::Stuck(bit)));
        let error = Driver::bring_up(machine.clone(), &single_unit_table(), &machine, &Options::default()).unwrap_err();
        assert!(matches!(error.error, UnitError::Command(_)), "{error}");
        assert_ne!(machine.memory.in_use(), 0, "the unit was told of its tables");
    }
}

#[test]
fn every_allocation_of_a_bring_up_can_fail() {
    for budget in 0.. {
        let machine = TestMachine::with(0, 0);
        machine.memory.set_budget(budget);
        match Driver::bring_up(machine.clone(), &single_unit_table(), &machine, &Options::default()) {
            Ok(_) => return assert!(budget >= 3),
            Err(error) => assert_eq!(error.error, UnitError::OutOfFrames),
        }
        assert_eq!(machine.memory.in_use(), 0);
        assert!(machine.unit().events().is_empty());
    }
}

#[test]
fn a_device_reaches_what_its_domain_maps_and_nothing_else() {
    let (machine, driver) = started(0, 0);
    let unit = machine.unit();
    let domain = domain(&driver);
    driver.map(domain, Iova::new(0), HOST, 0x20_0000, RW).unwrap();
    driver.map(domain, Iova::new(0x40_0000), HOST, 0x1000, Permissions::READ).unwrap();
    assert_eq!(unit.events(), [], "mapping announces nothing");
    driver.attach(domain, DEVICE, &[]).unwrap();
    assert_eq!(unit.events(), [], "nor does attaching");
    assert_eq!(read(unit, DEVICE, 0x1_2345), Ok(0x4001_2345));
    assert_eq!(unit.access(0x100, 0x1_2345, true), Ok(0x4001_2345));
    assert_eq!(read(unit, DEVICE, 0x40_0000), Ok(0x4000_0000));
    assert_eq!(unit.access(0x100, 0x40_0000, true), Err(5));
    assert_eq!(read(unit, DEVICE, 0x20_0000), Err(6));
    assert_eq!(read(unit, DEVICE, 1 << 48), Err(4));
    assert_eq!(read(unit, OTHER, 0), Err(1));
    assert_eq!(driver.translate(domain, Iova::new(0x1_2345)), Some(HostPhysical::new(0x4001_2345)));
    assert_eq!(driver.domain_of(DEVICE), Some(domain));
    assert_eq!(driver.domain_of(OTHER), None);
    machine.assert_no_violations();
}

#[test]
fn unmapping_is_one_submission_and_nothing_stale_stays() {
    let (machine, driver) = started(0, 0);
    let unit = machine.unit();
    let domain = domain(&driver);
    driver.attach(domain, DEVICE, &[]).unwrap();
    driver.map(domain, Iova::new(0x10_0000), HOST, 0x3000, RW).unwrap();
    driver.map(domain, Iova::new(0x8000_0000), HOST, 0x1000, RW).unwrap();
    for page in [0x10_0000, 0x10_1000, 0x10_2000, 0x8000_0000] {
        read(unit, DEVICE, page).unwrap();
    }
    unit.events();
    let before = machine.memory.in_use();
    assert_eq!(driver.unmap(domain, Iova::new(0x10_0000), 0x3000), Ok(0x3000));
    assert_eq!(unit.events(), [Event::Tail, taken(2, 3, domain.as_u16())]);
    assert!(machine.memory.in_use() < before, "empty tables came back");
    for page in [0x10_0000, 0x10_1000, 0x10_2000] {
        assert_eq!(read(unit, DEVICE, page), Err(6));
    }
    assert_eq!(read(unit, DEVICE, 0x8000_0000), Ok(0x4000_0000));
    assert_eq!(driver.unmap(domain, Iova::new(0x10_0000), 0x3000), Ok(0));
    assert_eq!(unit.events(), [], "nothing was mapped, nothing to tell");
    machine.assert_no_violations();
}

#[test]
fn scattered_ranges_go_in_one_submission() {
    let (machine, driver) = started(0, 0);
    let domain = domain(&driver);
    driver.attach(domain, DEVICE, &[]).unwrap();
    let ranges: Vec<_> = (0..64).map(|page| (Iova::new(page * 0x10_0000), 0x1000)).collect();
    for (iova, length) in &ranges {
        driver.map(domain, *iova, HOST, *length, RW).unwrap();
        read(machine.unit(), DEVICE, iova.as_u64()).unwrap();
    }
    machine.unit().events();
    assert_eq!(driver.unmap_ranges(domain, &ranges), Ok(64 * 0x1000));
    let events = machine.unit().events();
    assert_eq!(events.iter().filter(|event| **event == Event::Tail).count(), 1);
    assert_eq!(events.len(), 65);
    assert!(ranges.iter().all(|(iova, _)| read(machine.unit(), DEVICE, iova.as_u64()) == Err(6)));
    machine.assert_no_violations();
}

#[test]
fn taking_writes_away_is_invalidated() {
    let (machine, driver) = started(0, 0);
    let domain = domain(&driver);
    driver.attach(domain, DEVICE, &[]).unwrap();
    driver.map(domain, Iova::new(0), HOST, 0x1000, RW).unwrap();
    machine.unit().access(0x100, 0, true).unwrap();
    driver.protect(domain, Iova::new(0), 0x1000, Permissions::READ).unwrap();
    assert_eq!(machine.unit().access(0x100, 0, true), Err(5));
    assert_eq!(read(machine.unit(), DEVICE, 0), Ok(0x4000_0000));
}

#[test]
fn detaching_blocks_then_invalidates_contexts_before_translations() {
    let (machine, driver) = started(0, 0);
    let unit = machine.unit();
    let domain = domain(&driver);
    let alias = SourceId::new(1, 0, 1);
    driver.attach(domain, DEVICE, &[alias, DEVICE.source]).unwrap();
    driver.map(domain, Iova::new(0), HOST, 0x1000, RW).unwrap();
    read(unit, DEVICE, 0).unwrap();
    unit.access(alias.bits(), 0, false).unwrap();
    unit.events();
    assert_eq!(driver.destroy_domain(domain), Err(DomainError::InUse { domain, device: DEVICE }));
    driver.detach(DEVICE).unwrap();
    let id = domain.as_u16();
    assert_eq!(unit.events(), [Event::Tail, taken(1, 3, id), taken(1, 3, id), taken(2, 2, id)]);
    assert_eq!(read(unit, DEVICE, 0), Err(2));
    assert_eq!(unit.access(alias.bits(), 0, false), Err(2));
    assert_eq!(driver.detach(DEVICE), Err(AttachError::Detached { device: DEVICE }));
    driver.destroy_domain(domain).unwrap();
    assert_eq!(driver.destroy_domain(domain), Err(DomainError::Unknown { domain }));
    machine.assert_no_violations();
}

#[test]
fn a_unit_that_caches_absence_is_told_of_every_change() {
    let (machine, driver) = started(CAP_CM, 0);
    let unit = machine.unit();
    assert_eq!(read(unit, DEVICE, 0), Err(1));
    let domain = domain(&driver);
    driver.attach(domain, DEVICE, &[]).unwrap();
    assert_eq!(unit.events(), [Event::Tail, taken(1, 3, 0), taken(2, 2, domain.as_u16())]);
    assert_eq!(read(unit, DEVICE, 0), Err(6));
    driver.map(domain, Iova::new(0), HOST, 0x1000, RW).unwrap();
    assert_eq!(unit.events(), [Event::Tail, taken(2, 3, domain.as_u16())]);
    assert_eq!(read(unit, DEVICE, 0), Ok(0x4000_0000));
    let handle = driver.interrupts().allocate(Origin::function(DEVICE), 1).unwrap();
    let delivery = Delivery::Remapped { destination_apic_id: 0, vector: 0x40, trigger: Trigger::Edge };
    driver.interrupts().program(&handle, 0, delivery).unwrap();
    assert_eq!(unit.events(), [Event::Tail, taken(4, 1, handle.first())]);
    driver.interrupts().free(handle).unwrap();
    machine.assert_no_violations();
}

#[test]
fn a_write_buffer_is_flushed_after_each_addition() {
    let (machine, driver) = started(CAP_RWBF, 0);
    let domain = domain(&driver);
    driver.attach(domain, DEVICE, &[]).unwrap();
    assert_eq!(machine.unit().events(), [Event::Shot(WBF)]);
    driver.map(domain, Iova::new(0), HOST, 0x1000, RW).unwrap();
    assert_eq!(machine.unit().events(), [Event::Shot(WBF)]);
    machine.assert_no_violations();
}

#[test]
fn devices_that_sign_alike_go_together() {
    let (machine, driver) = started(0, 0);
    let (first, second) = (domain(&driver), domain(&driver));
    let bridge = SourceId::new(3, 0, 0);
    driver.attach(first, DEVICE, &[bridge]).unwrap();
    let refused = AttachError::Occupied { device: OTHER, source: bridge, domain: first };
    assert_eq!(driver.attach(second, OTHER, &[bridge]), Err(refused));
    assert_eq!(read(machine.unit(), OTHER, 0), Err(1), "nothing of the refused attachment stays");
    driver.attach(first, OTHER, &[bridge]).unwrap();
    driver.map(first, Iova::new(0), HOST, 0x1000, RW).unwrap();
    driver.detach(DEVICE).unwrap();
    assert_eq!(machine.unit().access(bridge.bits(), 0, false), Ok(0x4000_0000), "the other still signs with it");
    driver.detach(OTHER).unwrap();
    assert_eq!(machine.unit().access(bridge.bits(), 0, false), Err(2));
    assert_eq!(driver.attach(first, DEVICE, &[]), Ok(()));
    assert_eq!(driver.attach(first, DEVICE, &[]), Err(AttachError::Attached { device: DEVICE }));
    machine.assert_no_violations();
}

#[test]
fn every_allocation_of_an_assignment_can_fail_and_leaves_nothing() {
    let (machine, driver) = started(0, 0);
    let before = machine.memory.in_use();
    for budget in 0.. {
        machine.memory.set_budget(budget);
        let outcome = (|| {
            let id = driver.create_domain(&DomainRequest::for_devices(&[DEVICE])).map_err(|error| error.to_string())?;
            let attached = driver
                .map(id, Iova::new(0), HOST, 0x1000, RW)
                .map_err(|error| error.to_string())
                .and_then(|()| driver.attach(id, DEVICE, &[OTHER.source]).map_err(|error| error.to_string()));
            if attached.is_err() {
                driver.destroy_domain(id).unwrap();
            }
            attached
        })();
        match outcome {
            Ok(()) => return assert_eq!(budget, 6, "a root, three tables, two context tables"),
            Err(message) => assert_eq!(message, "no memory is left for a table"),
        }
        assert_eq!(machine.memory.in_use(), before);
        assert_eq!(read(machine.unit(), DEVICE, 0), Err(1));
    }
    machine.assert_no_violations();
}

#[test]
fn the_table_is_as_wide_as_the_units_allow() {
    let level = |capability, extended, bits| {
        let (machine, driver) = started(capability, extended);
        let domain = driver.create_domain(&DomainRequest { devices: &[DEVICE], address_bits: bits })?;
        let last = |bits: u32| driver.map(domain, Iova::new((1 << bits) - 0x1000), HOST, 0x1000, RW).is_ok();
        let widest = (30..64).filter(|bits| last(*bits)).max().unwrap();
        driver.attach(domain, DEVICE, &[]).unwrap();
        assert_eq!(read(machine.unit(), DEVICE, (1 << widest) - 0x1000), Ok(0x4000_0000));
        Ok::<u32, DomainError>(widest)
    };
    assert_eq!(level(0, 0, 0), Ok(48));
    assert_eq!(level(0, 0, 39), Ok(39));
    assert_eq!(level(0, 0, 40), Ok(48));
    assert_eq!(level(0, 0, 49), Err(DomainError::Width { wanted: 49, possible: 48 }));
    // As with aw-bits=39: SAGAW has 3 levels, MGAW 39 bits.
    let narrow = 0x222f_0606 ^ 0x2226_0206;
    assert_eq!(level(narrow, 0, 0), Ok(39));
    assert_eq!(level(narrow, 0, 40), Err(DomainError::Width { wanted: 40, possible: 39 }));
}

#[test]
fn a_domain_suits_all_its_units_or_is_refused() {
    let machine = TestMachine::new(&[
        (DEFAULT_CAPABILITY, DEFAULT_EXTENDED | ECAP_SC | ECAP_C),
        (DEFAULT_CAPABILITY & !(0xf << 34), DEFAULT_EXTENDED),
    ]);
    let mut table = single_unit_table();
    let mut second = table.units[0].clone();
    second.base = HostPhysical::new(0xfed9_1000);
    second.includes_all = false;
    second.scopes = vec![endpoint(OTHER)];
    table.units.push(second);
    let driver = Driver::bring_up(machine.clone(), &table, &machine, &Options::default()).unwrap();
    let alone = domain(&driver);
    assert_eq!(driver.forces_snoop(alone), Some(true));
    let refused = driver.attach(alone, OTHER, &[]).unwrap_err();
    assert!(matches!(refused, AttachError::Unsuitable { device: OTHER, .. }), "{refused}");
    let both = driver.create_domain(&DomainRequest::for_devices(&[DEVICE, OTHER])).unwrap();
    assert_eq!(driver.forces_snoop(both), Some(false));
    driver.map(both, Iova::new(0), HOST, 0x20_0000, RW).unwrap();
    driver.attach(both, OTHER, &[]).unwrap();
    driver.attach(both, DEVICE, &[]).unwrap();
    for (unit, device) in machine.units.iter().zip([DEVICE, OTHER]) {
        assert_eq!(read(unit, device, 0x1000), Ok(0x4000_1000));
        unit.events();
    }
    driver.unmap(both, Iova::new(0), 0x20_0000).unwrap();
    for (unit, device) in machine.units.iter().zip([DEVICE, OTHER]) {
        assert_eq!(unit.events(), [Event::Tail, taken(2, 3, both.as_u16())]);
        assert_eq!(read(unit, device, 0x1000), Err(6));
    }
    machine.assert_no_violations();
}

fn endpoint(device: PciAddress) -> Scope {
    let source = device.source;
    let path = vec![Hop { device: source.device(), function: source.function() }];
    Scope { kind: ScopeKind::Endpoint, flags: 0, enumeration_id: 0, start_bus: source.bus(), path }
}

#[test]
fn a_device_keeps_its_reserved_memory_until_it_is_given_away() {
    let machine = TestMachine::with(0, 0);
    let mut table = single_unit_table();
    table.reserved_memory.push(ReservedMemory {
        segment: 0,
        first: HostPhysical::new(0x7000_0000),
        last: HostPhysical::new(0x7000_1fff),
        scopes: vec![endpoint(DEVICE)],
        defect: None,
    });
    let options = Options { apic_mode: ApicMode::X2Apic, ..Options::default() };
    let driver = Driver::bring_up(machine.clone(), &table, &machine, &options).unwrap();
    assert_eq!(read(machine.unit(), DEVICE, 0x7000_1000), Ok(0x7000_1000));
    assert_eq!(read(machine.unit(), DEVICE, 0x7000_2000), Err(6));
    assert_eq!(driver.reserved_memory(DEVICE).count(), 1);
    let domain = domain(&driver);
    driver.attach(domain, DEVICE, &[]).unwrap();
    assert_eq!(read(machine.unit(), DEVICE, 0x7000_1000), Err(6));
    driver.detach(DEVICE).unwrap();
    assert_eq!(read(machine.unit(), DEVICE, 0x7000_1000), Err(2));

    let machine = TestMachine::with(0, 0);
    let options = Options { honour_reserved_memory: false, ..options };
    let _driver = Driver::bring_up(machine.clone(), &table, &machine, &options).unwrap();
    assert_eq!(read(machine.unit(), DEVICE, 0x7000_1000), Err(1));
}

#[test]
fn a_dead_unit_costs_one_wait_and_no_memory_is_used_again() {
    let (machine, driver) = started(0, 0);
    let domain = domain(&driver);
    driver.attach(domain, DEVICE, &[]).unwrap();
    driver.map(domain, Iova::new(0), HOST, 0x1000, RW).unwrap();
    let before = machine.memory.in_use();
    machine.unit().set_trouble(Some(Trouble::DeadQueue));
    let error = driver.unmap(domain, Iova::new(0), 0x1000).unwrap_err();
    assert!(matches!(error, DomainError::Invalidation(_)), "{error}");
    let waited = machine.nanoseconds();
    assert!(driver.detach(DEVICE).is_err());
    assert!(machine.nanoseconds() - waited < 100_000, "the second time nothing is awaited");
    driver.destroy_domain(domain).unwrap();
    assert_eq!(machine.memory.in_use(), before);
}

#[test]
fn a_device_with_a_tlb_of_its_own_is_invalidated_last() {
    let (machine, driver) = started(0, ECAP_DT);
    let unit = machine.unit();
    let domain = domain(&driver);
    driver.attach_with_device_tlb(domain, DEVICE, &[], 8).unwrap();
    driver.map(domain, Iova::new(0), HOST, 0x1000, RW).unwrap();
    unit.events();
    driver.unmap(domain, Iova::new(0), 0x1000).unwrap();
    let kinds = |events: Vec<Event>| -> Vec<u8> {
        events
            .iter()
            .filter_map(|event| if let Event::Taken { kind, .. } = event { Some(*kind) } else { None })
            .collect()
    };
    assert_eq!(kinds(unit.events()), [2, 3]);
    for trouble in [Trouble::SilentDevice, Trouble::WrongDevice] {
        driver.map(domain, Iova::new(0), HOST, 0x1000, RW).unwrap();
        read(unit, DEVICE, 0).unwrap();
        unit.events();
        unit.set_trouble(Some(trouble));
        let error = driver.unmap(domain, Iova::new(0), 0x1000).unwrap_err();
        assert!(error.to_string().contains("01:00.0"), "{error}");
        unit.set_trouble(None);
        assert_eq!(read(unit, DEVICE, 0), Err(6), "the unit itself is clean");
    }
    unit.events();
    driver.detach(DEVICE).unwrap();
    assert_eq!(kinds(unit.events()), [1, 2, 3]);
    let (_, plain) = started(0, 0);
    let domain = plain.create_domain(&DomainRequest::default()).unwrap();
    let refused = plain.attach_with_device_tlb(domain, DEVICE, &[], 8).unwrap_err();
    assert!(matches!(refused, AttachError::Unsuitable { .. }));
    machine.assert_no_violations();
}

#[test]
fn interrupts_go_where_they_are_sent_and_only_for_their_owner() {
    for exchange in [true, false] {
        let (machine, driver) = started(CAP_PI, 0);
        machine.memory.set_exchange(exchange);
        let (unit, interrupts) = (machine.unit(), driver.interrupts());
        let handle = interrupts.allocate(Origin::function(DEVICE), 3).unwrap();
        let message = |index| interrupts.message(&handle, index).unwrap();
        let send = |device: PciAddress, index| {
            unit.interrupt(device.source.bits(), message(index).address, message(index).data)
        };
        assert_eq!(send(DEVICE, 1), Err(0x22), "absent until it is programmed");
        let deliver = |vector| Delivery::Remapped { destination_apic_id: 3, vector, trigger: Trigger::Edge };
        interrupts.program(&handle, 1, deliver(0x51)).unwrap();
        assert_eq!(send(DEVICE, 1).map(|entry| (entry >> 16 & 0xff, entry >> 32 & 0xffff_ffff)), Ok((0x51, 3)));
        assert_eq!(send(OTHER, 1), Err(0x26), "another device's message");
        assert_eq!(send(DEVICE, 2), Err(0x22));
        unit.events();
        interrupts.program(&handle, 1, deliver(0x52)).unwrap();
        assert_eq!(unit.events(), [Event::Tail, taken(4, 1, handle.first() + 1)]);
        assert_eq!(send(DEVICE, 1).map(|entry| entry >> 16 & 0xff), Ok(0x52));
        let descriptor = HostPhysical::new(0x12_3456_7fc0);
        interrupts.program(&handle, 1, Delivery::Posted { descriptor, vector: 0x53, urgent: false }).unwrap();
        assert_eq!(send(DEVICE, 1).map(|entry| (entry >> 15 & 1, entry >> 96)), Ok((1, 0x12)));
        interrupts.mask(&handle, 1).unwrap();
        assert_eq!(send(DEVICE, 1), Err(0x22));
        interrupts.program(&handle, 0, deliver(0x50)).unwrap();
        let address = message(0);
        interrupts.free(handle).unwrap();
        assert_eq!(unit.interrupt(DEVICE.source.bits(), address.address, address.data), Err(0x22));
        machine.assert_no_violations();
    }
}

#[test]
fn interrupts_that_cannot_be_are_refused_by_name() {
    let (_, driver) = started(0, ECAP_EIM);
    let interrupts = driver.interrupts();
    let handle = interrupts.allocate(Origin::function(DEVICE), 2).unwrap();
    let remapped =
        |destination_apic_id, vector| Delivery::Remapped { destination_apic_id, vector, trigger: Trigger::Edge };
    let posted = |address| Delivery::Posted { descriptor: HostPhysical::new(address), vector: 0x40, urgent: false };
    let cases = [
        (0, remapped(255, 0x40), InterruptError::Destination { apic_id: 255 }),
        (0, remapped(0, 15), InterruptError::Vector { vector: 15 }),
        (0, posted(0x1000), InterruptError::NoPosting { base: HostPhysical::new(0xfed9_0000) }),
        (2, remapped(0, 0x40), InterruptError::Index { index: 2, count: 2 }),
    ];
    for (index, delivery, error) in cases {
        assert_eq!(interrupts.program(&handle, index, delivery), Err(error));
    }
    assert_eq!(interrupts.message(&handle, 2), Err(InterruptError::Index { index: 2, count: 2 }));
    assert_eq!(interrupts.allocate(Origin::function(DEVICE), 300), Err(InterruptError::Full { count: 300 }));
    assert_eq!(interrupts.allocate(Origin::IoApic(9), 1), Err(InterruptError::UnknownIoApic { id: 9 }));
    assert_eq!(interrupts.allocate(Origin::Hpet(0), 1), Err(InterruptError::UnknownHpet { number: 0 }));
    let foreign = PciAddress::new(1, 0, 0, 0);
    assert_eq!(interrupts.allocate(Origin::function(foreign), 1), Err(InterruptError::Uncovered { device: foreign }));
    interrupts.free(handle).unwrap();
    let (_, posting) = started(CAP_PI, 0);
    let handle = posting.interrupts().allocate(Origin::IoApic(0), 1).unwrap();
    let refused = posting.interrupts().program(&handle, 0, posted(0x1020));
    assert_eq!(refused, Err(InterruptError::Misaligned { descriptor: HostPhysical::new(0x1020) }));
    posting.interrupts().free(handle).unwrap();
}

#[test]
fn an_io_apic_signs_with_the_id_of_its_scope() {
    let (machine, driver) = started(0, 0);
    let interrupts = driver.interrupts();
    let handle = interrupts.allocate(Origin::IoApic(0), 24).unwrap();
    let level = Delivery::Remapped { destination_apic_id: 1, vector: 0x30, trigger: Trigger::Level };
    interrupts.program(&handle, 4, level).unwrap();
    let message = interrupts.message(&handle, 4).unwrap();
    assert!(machine.unit().interrupt(0xff00, message.address, message.data).is_ok());
    assert_eq!(machine.unit().interrupt(0x00f8, message.address, message.data), Err(0x26));
    let entry = interrupts.redirection(&handle, 4, 0x30, true, true).unwrap();
    assert_eq!(entry.index_low(), u64::from(handle.first() + 4));
    interrupts.free(handle).unwrap();
}

#[test]
fn faults_are_attributed_and_cleared() {
    let (machine, driver) = started(0, 0);
    let domain = domain(&driver);
    driver.attach(domain, DEVICE, &[]).unwrap();
    assert_eq!(machine.unit().access(0x100, 0x1234_5678, true), Err(5));
    assert_eq!(read(machine.unit(), OTHER, 0x1000), Err(1));
    let mut lines = Vec::new();
    let drained = driver.drain_faults(|report| {
        lines.push((report.device, report.domain, report.fault.place, report.fault.to_string()));
    });
    assert_eq!(drained, Drained { taken: 2, overflows: 0, more: false });
    let first = "write of 0x12345000 by 01:00.0: writing there is not permitted (reason 0x05)".to_string();
    assert_eq!(lines[0], (DEVICE, Some(domain), Place::Memory(0x1234_5000), first));
    assert_eq!((lines[1].0, lines[1].1), (OTHER, None));
    assert_eq!(driver.drain_faults(|_| panic!("all were taken")).taken, 0);
    for _ in 0..10 {
        let _ = read(machine.unit(), OTHER, 0);
    }
    let drained = driver.drain_faults(|_| ());
    assert_eq!((drained.taken, drained.overflows), (4, 1));
    assert_eq!(driver.drain_faults(|_| ()).overflows, 0);
    assert_eq!(driver.faults_of(OTHER), 5);
}

#[test]
fn a_storm_is_silenced_and_its_device_locked_out_until_it_is_released() {
    let machine = TestMachine::with(0, 0);
    let limits = Limits { reports_per_second: 4, faults_per_second: 20 };
    let options = Options { fault_limits: limits, ..Options::default() };
    let driver = Driver::bring_up(machine.clone(), &single_unit_table(), &machine, &options).unwrap();
    let domain = domain(&driver);
    driver.attach(domain, DEVICE, &[]).unwrap();
    let (mut reports, mut silenced) = (0, 0);
    for _ in 0..100 {
        assert_eq!(read(machine.unit(), DEVICE, 0), Err(6));
        driver.drain_faults(|report| {
            reports += 1;
            silenced += u32::from(report.silenced);
        });
    }
    assert_eq!((reports, silenced), (5, 1));
    assert_eq!(driver.faults_of(DEVICE), 20, "the unit records no more of its faults");
    driver.detach(DEVICE).unwrap();
    assert_eq!(driver.attach(domain, DEVICE, &[]), Err(AttachError::Quarantined { device: DEVICE, faults: 20 }));
    driver.release_device(DEVICE).unwrap();
    driver.attach(domain, DEVICE, &[]).unwrap();
    let _ = read(machine.unit(), DEVICE, 0);
    assert_eq!(driver.drain_faults(|_| ()).taken, 1, "its faults are heard again");
    machine.assert_no_violations();
}

#[test]
fn the_fault_message_names_a_processor() {
    let (machine, driver) = started(0, 0);
    driver.set_fault_interrupt(0x12_0305, 0x45).unwrap();
    let unit = machine.unit();
    assert_eq!((unit.peek(0x3c), unit.peek(0x40), unit.peek(0x44)), (0x45, 0xfee0_5000, 0x12_0300));
    assert_eq!(unit.peek(0x38) >> 31, 0, "unmasked");
    let (_, narrow) = started(0, ECAP_EIM);
    let refused = narrow.set_fault_interrupt(0x100, 0x45).unwrap_err();
    assert_eq!(refused.error, UnitError::FaultDestination { apic_id: 0x100 });
}

#[test]
fn a_source_for_a_bridge_is_a_range_of_buses() {
    let (_, driver) = started(0, 0);
    let signs = Source::Buses { first: 2, last: 4 };
    let handle = driver.interrupts().allocate(Origin::Function { device: DEVICE, signs }, 1).unwrap();
    driver.interrupts().free(handle).unwrap();
}

#[test]
fn domain_ids_come_back_late_and_never_include_zero() {
    // 16 ids.
    let (_, driver) = started(6, 0);
    let request = DomainRequest::for_devices(&[DEVICE]);
    let ids: Vec<_> = (0..15).map(|_| driver.create_domain(&request).unwrap().as_u16()).collect();
    assert_eq!(ids, (1..16).collect::<Vec<u16>>());
    assert_eq!(driver.create_domain(&request), Err(DomainError::OutOfIds { limit: 15 }));
    driver.destroy_domain(DomainId(3)).unwrap();
    driver.destroy_domain(DomainId(9)).unwrap();
    assert_eq!(driver.create_domain(&request), Ok(DomainId(3)));
    assert_eq!(driver.create_domain(&request), Ok(DomainId(9)));
}

/// Sentences that name the thing, the rule and the remedy; none is empty or a bare number.
#[test]
fn errors_are_sentences() {
    let errors: [String; 4] = [
        AttachError::Uncovered { device: DEVICE }.to_string(),
        AttachError::Quarantined { device: DEVICE, faults: 7 }.to_string(),
        DomainError::OutOfIds { limit: 15 }.to_string(),
        InterruptError::Full { count: 4 }.to_string(),
    ];
    assert_eq!(
        errors,
        [
            "0000:01:00.0 is behind no remapping unit of the DMAR table, so nothing can isolate it; use another slot",
            "0000:01:00.0 was silenced after 7 faults; release it explicitly once it is trusted again",
            "all 15 domain ids are in use; end a VM first",
            "the interrupt-remapping table has no 4 entries in a row left; use fewer vectors",
        ]
    );
}

#[test]
fn the_driver_can_be_shared_between_processors() {
    fn is_sync<T: Sync>() {}
    fn check<M: crate::door::Machine<Frames = Memory, Registers = TestUnit> + Sync>() {
        is_sync::<Driver<M>>();
    }
    let _ = check::<SyncMachine>;
}

/// Only for its type.
struct SyncMachine(Memory);

impl crate::door::Machine for SyncMachine {
    type Frames = Memory;
    type Registers = TestUnit;

    fn frames(&self) -> &Memory {
        &self.0
    }

    fn registers(&self, _: HostPhysical, _: u64) -> Result<TestUnit, crate::door::RegistersUnreachable> {
        Err(crate::door::RegistersUnreachable)
    }

    fn nanoseconds(&self) -> u64 {
        0
    }

    fn without_interrupts<T>(&self, critical: impl FnOnce() -> T) -> T {
        critical()
    }
}
