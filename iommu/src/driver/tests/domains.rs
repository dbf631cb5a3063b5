//! Domains: what devices reach, and what each change announces.

use super::*;

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

/// Whatever the number of ranges, the tail is written once; so many that they would not fit are one domain.
#[test]
fn many_scattered_ranges_are_one_invalidation_of_the_domain() {
    let (machine, driver) = started(0, ECAP_DT);
    let domain = domain(&driver);
    driver.attach_with_device_tlb(domain, DEVICE, &[], 8).unwrap();
    let ranges: Vec<_> = (0..400).map(|page| (Iova::new(page * 0x10_0000), 0x1000)).collect();
    for (iova, length) in &ranges {
        driver.map(domain, *iova, HOST, *length, RW).unwrap();
        read(machine.unit(), DEVICE, iova.as_u64()).unwrap();
    }
    machine.unit().events();
    assert_eq!(driver.unmap_ranges(domain, &ranges), Ok(400 * 0x1000));
    let id = domain.as_u16();
    let events = machine.unit().events();
    assert!(
        matches!(events[..], [Event::Tail, whole, Event::Taken { kind: 3, .. }] if whole == taken(2, 2, id)),
        "{events:?}"
    );
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
fn the_table_is_as_wide_as_the_units_allow() {
    let level = |capability, extended, bits| {
        let (machine, driver) = started(capability, extended);
        let domain =
            driver.create_domain(&DomainRequest { address_bits: bits, ..DomainRequest::for_devices(&[DEVICE]) })?;
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
