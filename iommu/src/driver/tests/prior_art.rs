//! Defects that other published drivers for VT-d had when their sources were read: each would fail here.

use super::*;

/// A new root table whose predecessor's entries stay cached, because the unit does not flush by itself (ESRTPS = 0).
#[test]
fn a_new_root_table_is_followed_by_an_invalidation() {
    for root_table_set_invalidates in [0, 1 << 63] {
        let machine = TestMachine::with(root_table_set_invalidates, 0);
        let _driver = bring_up(&machine);
        let events = machine.unit().events();
        let set = events.iter().position(|event| *event == Event::Shot(SRTP)).unwrap();
        assert_eq!(events[set + 1..set + 4], [Event::Tail, taken(1, 1, 0), taken(2, 1, 0)]);
    }
}

/// The same of the interrupt table (ESIRTPS = 0).
#[test]
fn a_new_interrupt_table_is_followed_by_an_invalidation() {
    for interrupt_table_set_invalidates in [0, 1 << 62] {
        let machine = TestMachine::with(interrupt_table_set_invalidates, 0);
        let _driver = bring_up(&machine);
        let events = machine.unit().events();
        let set = events.iter().position(|event| *event == Event::Shot(SIRTP)).unwrap();
        assert_eq!(events[set + 1..set + 4], [Event::Tail, taken(4, 0, 0), Event::On(IRE)]);
    }
}

/// EIME set without asking ECAP.EIM.
#[test]
fn destinations_are_wide_only_where_every_unit_has_them() {
    for (extended, wide) in [(0, true), (ECAP_EIM, false)] {
        let (machine, driver) = started(0, extended);
        assert_eq!(machine.unit().peek(0xb8) >> 11 & 1 == 1, wide);
        let handle = driver.interrupts().allocate(Origin::function(DEVICE), 1).unwrap();
        let delivery = Delivery::Remapped { destination_apic_id: 0x105, vector: 0x41, trigger: Trigger::Edge };
        assert_eq!(driver.interrupts().program(&handle, 0, delivery).is_ok(), wide);
        driver.interrupts().free(handle).unwrap();
    }
}

/// Entries that anybody may name (SVT = 0).
#[test]
fn no_device_names_the_entry_of_another() {
    let (machine, driver) = started(0, 0);
    let handle = driver.interrupts().allocate(Origin::function(DEVICE), 1).unwrap();
    let delivery = Delivery::Remapped { destination_apic_id: 0, vector: 0x41, trigger: Trigger::Edge };
    driver.interrupts().program(&handle, 0, delivery).unwrap();
    let message = driver.interrupts().message(&handle, 0).unwrap();
    let send = |device: PciAddress| machine.unit().interrupt(device.source.bits(), message.address, message.data);
    assert!(send(DEVICE).is_ok());
    assert_eq!(send(OTHER), Err(0x26));
    driver.interrupts().free(handle).unwrap();
}

/// Zeros written to bits that only ones clear: records that fill up once and for all.
#[test]
fn fault_records_are_cleared_by_writing_ones() {
    let (machine, driver) = started(0, 0);
    for _ in 0..50 {
        assert!(read(machine.unit(), DEVICE, 0x1000).is_err());
        assert_eq!(driver.drain_faults(|_| ()).taken, 1);
        assert_eq!(machine.unit().read_u64(0x228), 0, "the record is free");
    }
}

/// A tail that equals the queue's size for a moment.
#[test]
fn the_tail_never_points_behind_the_queue() {
    for extended in [0, ECAP_SMTS | ECAP_SSTS] {
        let (machine, driver) = started(0, extended);
        let domain = domain(&driver);
        driver.attach(domain, DEVICE, &[]).unwrap();
        let size = 4096 << (machine.unit().peek(0x90) & 7);
        for _ in 0..300 {
            driver.map(domain, Iova::new(0), HOST, 0x1000, RW).unwrap();
            driver.unmap(domain, Iova::new(0), 0x1000).unwrap();
            assert!(machine.unit().peek(0x88) < size);
        }
        machine.assert_no_violations();
    }
}

/// Unmapping without an invalidation, or under the id of somebody else.
#[test]
fn what_is_unmapped_or_detached_is_gone_at_once() {
    let (machine, driver) = started(0, 0);
    // Ids and owners differ.
    let (_, domain) = (domain(&driver), domain(&driver));
    driver.attach(domain, DEVICE, &[]).unwrap();
    driver.map(domain, Iova::new(0), HOST, 0x2000, RW).unwrap();
    read(machine.unit(), DEVICE, 0).unwrap();
    read(machine.unit(), DEVICE, 0x1000).unwrap();
    driver.unmap(domain, Iova::new(0), 0x1000).unwrap();
    assert_eq!(read(machine.unit(), DEVICE, 0), Err(6));
    driver.detach(DEVICE).unwrap();
    assert_eq!(read(machine.unit(), DEVICE, 0x1000), Err(2));
}

/// The fault message unmasked before it names a vector.
#[test]
fn the_fault_message_is_masked_until_it_has_somewhere_to_go() {
    let (machine, driver) = started(0, 0);
    assert_eq!(machine.unit().peek(0x38) >> 31, 1);
    driver.set_fault_interrupt(1, 0x45).unwrap();
    assert_eq!((machine.unit().peek(0x38) >> 31, machine.unit().peek(0x3c)), (0, 0x45));
}

/// A write buffer that is printed and never flushed (RWBF = 1).
#[test]
fn a_write_buffer_is_flushed_before_the_unit_is_counted_on() {
    let (machine, driver) = started(CAP_RWBF, 0);
    driver.attach(domain(&driver), DEVICE, &[]).unwrap();
    assert_eq!(machine.unit().events(), [Event::Shot(WBF)]);
}

/// One unit driven, the first or the last of the table.
#[test]
fn every_unit_of_the_table_is_driven() {
    let machine = TestMachine::new(&[(DEFAULT_CAPABILITY, DEFAULT_EXTENDED); 3]);
    let mut table = single_unit_table();
    for (base, segment) in [(0xfed9_1000, 1), (0xfed9_2000, 2)] {
        let mut unit = table.units[0].clone();
        (unit.base, unit.segment, unit.scopes) = (HostPhysical::new(base), segment, Vec::new());
        table.units.push(unit);
    }
    let driver = Driver::bring_up(machine.clone(), &table, &machine, &Options::default()).unwrap();
    for (segment, unit) in (0..).zip(&machine.units) {
        assert_eq!(unit.status() & (TE | QIE | IRE), TE | QIE | IRE);
        let device = PciAddress::new(segment, 1, 0, 0);
        assert_eq!(driver.unit_of(device), Some(usize::from(segment)));
        let domain = driver.create_domain(&DomainRequest::for_devices(&[device])).unwrap();
        driver.map(domain, Iova::new(0), HOST, 0x1000, RW).unwrap();
        driver.attach(domain, device, &[]).unwrap();
        assert_eq!(read(unit, device, 0), Ok(0x4000_0000));
    }
    machine.assert_no_violations();
}

/// Large pages that the unit does not take (SLLPS = 0).
#[test]
fn pages_are_as_large_as_the_unit_takes_them() {
    for (capability, tables) in [(0, 3), (0xf << 34, 4)] {
        let (_, driver) = started(DEFAULT_CAPABILITY & capability, 0);
        let domain = domain(&driver);
        driver.map(domain, Iova::new(0), HOST, 0x20_0000, RW).unwrap();
        assert_eq!(driver.frames_of(domain), Some(tables));
    }
}

/// Reserved memory ignored on laptops, on units of three levels alone.
#[test]
fn reserved_memory_is_kept_on_a_unit_of_three_levels() {
    let machine = TestMachine::with(0x222f_0606 ^ 0x2226_0206, 0);
    let driver = Driver::bring_up(machine.clone(), &with_reserved_memory(), &machine, &Options::default()).unwrap();
    assert_eq!(read(machine.unit(), DEVICE, 0x7000_1000), Ok(0x7000_1000));
    assert_eq!(driver.drain_faults(|_| ()).taken, 0);
}
