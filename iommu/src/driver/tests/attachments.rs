//! Attaching and detaching, aliases, reserved memory, devices with TLBs of their own.

use super::*;

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

#[test]
fn a_device_keeps_its_reserved_memory_until_it_is_given_away() {
    let machine = TestMachine::with(0, 0);
    let table = with_reserved_memory();
    let options = Options { apic_mode: ApicMode::X2Apic, ..Options::default() };
    let driver = Driver::bring_up(machine.clone(), &table, &machine, &options).unwrap();
    assert_eq!(read(machine.unit(), DEVICE, 0x7000_1000), Ok(0x7000_1000));
    assert_eq!(read(machine.unit(), DEVICE, 0x7000_2000), Err(6));
    assert_eq!(driver.reserved_memory(DEVICE).count(), 2);
    let domain = domain(&driver);
    let (first, last) = (HostPhysical::new(0x7000_0000), HostPhysical::new(0x7000_1fff));
    let refused = AttachError::Reserved { device: DEVICE, first, last };
    assert_eq!(driver.attach(domain, DEVICE, &[]), Err(refused));
    assert!(
        refused.to_string().contains("0000:01:00.0 cannot be attached: firmware reserved 0x70000000 to 0x70001fff")
    );
    driver.map(domain, Iova::new(0x7000_0000), first, 0x2000, Permissions::READ).unwrap();
    assert_eq!(driver.attach(domain, DEVICE, &[]), Err(refused), "reading alone is not enough");
    assert_eq!(read(machine.unit(), DEVICE, 0x7000_1000), Ok(0x7000_1000), "it has what it had");
    driver.protect(domain, Iova::new(0x7000_0000), 0x2000, RW).unwrap();
    driver.attach(domain, DEVICE, &[]).unwrap();
    assert_eq!(read(machine.unit(), DEVICE, 0x7000_1000), Ok(0x7000_1000), "the domain has it too");
    driver.detach(DEVICE).unwrap();
    driver.unmap(domain, Iova::new(0), 0x8000_0000).unwrap();
    driver.waive_reserved_memory(DEVICE);
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
fn a_driver_that_is_let_go_leaves_the_units_their_tables() {
    let (machine, driver) = started(0, 0);
    let domain = domain(&driver);
    driver.attach(domain, DEVICE, &[]).unwrap();
    driver.map(domain, Iova::new(0), HOST, 0x1000, RW).unwrap();
    let before = machine.memory.in_use();
    drop(driver);
    assert_eq!(machine.memory.in_use(), before);
    assert_eq!(read(machine.unit(), DEVICE, 0), Ok(0x4000_0000));
}

#[test]
fn ending_the_driver_gives_back_the_tables_of_devices_that_are_still_attached() {
    let (machine, driver) = started(0, 0);
    let domain = domain(&driver);
    driver.attach(domain, DEVICE, &[]).unwrap();
    driver.map(domain, Iova::new(0), HOST, 0x1000, RW).unwrap();
    driver.shut_down().unwrap();
    assert_eq!(machine.memory.in_use(), 0);
}

#[test]
fn a_unit_that_does_not_turn_off_keeps_every_table() {
    let (machine, driver) = started(0, 0);
    domain(&driver);
    let before = machine.memory.in_use();
    machine.unit().set_trouble(Some(Trouble::Stuck(TE)));
    let error = driver.shut_down().unwrap_err();
    assert!(error.to_string().contains("did not turn DMA remapping off"), "{error}");
    assert_eq!(machine.memory.in_use(), before);
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
fn reserved_memory_that_cannot_be_kept_is_not_forgotten() {
    let machine = TestMachine::with(0, 0);
    let mut table = with_reserved_memory();
    // RAM that programs use: mapped, the device would have it.
    table.check_memory(|first, _| first.as_u64() == 0x7000_1000).unwrap();
    let options = Options { apic_mode: ApicMode::X2Apic, ..Options::default() };
    let driver = Driver::bring_up(machine.clone(), &table, &machine, &options).unwrap();
    assert_eq!(read(machine.unit(), DEVICE, 0x7000_0000), Ok(0x7000_0000), "the sound range");
    let domain = domain(&driver);
    driver.map(domain, Iova::new(0x7000_0000), HostPhysical::new(0x7000_0000), 0x2000, RW).unwrap();
    let (first, last) = (HostPhysical::new(0x7000_1000), HostPhysical::new(0x7000_1fff));
    let refused = AttachError::Reserved { device: DEVICE, first, last };
    assert_eq!(driver.attach(domain, DEVICE, &[]), Err(refused), "whatever the domain maps there");
}

/// One range for several devices, one of which is not a PCI function but signs as one (ANDD).
#[test]
fn devices_that_share_a_range_each_keep_it() {
    let machine = TestMachine::with(0, 0);
    let mut table = single_unit_table();
    let platform = PciAddress::new(0, 0, 0x15, 0);
    let named = Scope { kind: ScopeKind::AcpiDevice, enumeration_id: 1, ..endpoint(platform) };
    table.reserved_memory.push(reserved(0x7000_0000, 0x7000_0fff, vec![endpoint(DEVICE), endpoint(OTHER), named]));
    let options = Options { apic_mode: ApicMode::X2Apic, ..Options::default() };
    let driver = Driver::bring_up(machine.clone(), &table, &machine, &options).unwrap();
    for device in [DEVICE, OTHER, platform] {
        assert_eq!(read(machine.unit(), device, 0x7000_0000), Ok(0x7000_0000), "{device}");
        assert_eq!(driver.reserved_memory(device).count(), 1);
    }
    driver.waive_reserved_memory(DEVICE);
    let domain = domain(&driver);
    driver.attach(domain, DEVICE, &[]).unwrap();
    assert_eq!(read(machine.unit(), DEVICE, 0x7000_0000), Err(6));
    assert_eq!(read(machine.unit(), OTHER, 0x7000_0000), Ok(0x7000_0000), "the others are not concerned");
    assert!(driver.attach(domain, OTHER, &[]).is_err(), "nor waived");
}

#[test]
fn a_next_system_finds_the_units_on_and_every_device_blocked() {
    for extended in [0, ECAP_SMTS | ECAP_SSTS] {
        let machine = TestMachine::with(0, extended);
        let table = with_reserved_memory();
        let options = Options { apic_mode: ApicMode::X2Apic, ..Options::default() };
        let driver = Driver::bring_up(machine.clone(), &table, &machine, &options).unwrap();
        let id = driver.create_domain(&DomainRequest::for_devices(&[OTHER])).unwrap();
        driver.map(id, Iova::new(0), HOST, 0x1000, RW).unwrap();
        driver.attach(id, OTHER, &[]).unwrap();
        let handle = driver.interrupts().allocate(Origin::function(OTHER), 1).unwrap();
        let delivery = Delivery::Remapped { destination_apic_id: 0, vector: 0x41, trigger: Trigger::Edge };
        driver.interrupts().program(&handle, 0, delivery).unwrap();
        let message = driver.interrupts().message(&handle, 0).unwrap();
        let send = || machine.unit().interrupt(OTHER.source.bits(), message.address, message.data);
        assert!(read(machine.unit(), OTHER, 0).is_ok() && send().is_ok());
        machine.unit().events();
        driver.leave_denying().unwrap();
        assert!(!machine.unit().events().iter().any(|event| matches!(event, Event::Off(_))), "nothing is turned off");
        assert_eq!(machine.unit().status() & (TE | IRE), TE | IRE);
        assert!(read(machine.unit(), OTHER, 0).is_err());
        assert_eq!(send(), Err(0x22));
        assert_eq!(read(machine.unit(), DEVICE, 0x7000_0000), Ok(0x7000_0000), "it keeps what firmware reserved");
        // The next driver takes over without a gap, in the mode that it finds.
        let next = Driver::bring_up(machine.clone(), &table, &machine, &options).unwrap();
        assert!(!machine.unit().events().contains(&Event::Off(TE)));
        next.shut_down().unwrap();
        machine.assert_no_violations();
    }
}
