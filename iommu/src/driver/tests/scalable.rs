//! Scalable mode, and domains of either stage or none.

use super::*;

const SECOND: u64 = ECAP_SMTS | ECAP_SSTS;
const FIRST: u64 = ECAP_SMTS | ECAP_FSTS;
const BOTH: u64 = SECOND | FIRST;

fn domain_of(driver: &Driver<TestMachine>, stage: Stage) -> Result<DomainId, DomainError> {
    driver.create_domain(&DomainRequest { stage, ..DomainRequest::for_devices(&[DEVICE]) })
}

#[test]
fn a_unit_with_scalable_mode_is_brought_up_in_it() {
    let machine = TestMachine::with(0, SECOND);
    let driver = bring_up(&machine);
    assert_eq!(driver.units()[0].mode(), Mode::Scalable);
    let events = machine.unit().events();
    let root = [Event::Shot(SRTP), Event::Tail, taken(1, 1, 0), taken(7, 3, 0), taken(2, 1, 0), Event::On(TE)];
    assert_eq!(events[events.len() - 6..], root);
    assert_eq!(machine.unit().peek(0x20) >> 10 & 3, 1);
    assert_eq!(machine.unit().peek(0x90) & 0x807, 0x801, "descriptors of 256 bits in two pages");
    assert_eq!(read(machine.unit(), DEVICE, 0x1000), Err(0x39), "default deny");
    driver.shut_down().unwrap();
    assert_eq!(machine.memory.in_use(), 0);
    machine.assert_no_violations();
}

#[test]
fn the_mode_follows_from_what_the_unit_has_and_firmware_left() {
    let mode = |extended: u64, status: u32, left: u32, choice: ModeChoice| {
        let machine = TestMachine::with(0, extended);
        machine.unit().set_status(status);
        machine.unit().poke(0x20, left << 10);
        let options = Options { mode: choice, ..Options::default() };
        let driver = Driver::bring_up(machine.clone(), &single_unit_table(), &machine, &options).unwrap();
        let off = machine.unit().events().contains(&Event::Off(TE));
        (driver.units()[0].mode(), off)
    };
    use ModeChoice::{ByCapability, Legacy};
    assert_eq!(mode(0, 0, 0, ByCapability), (Mode::Legacy, false));
    assert_eq!(mode(ECAP_SMTS, 0, 0, ByCapability), (Mode::Legacy, false), "neither stage");
    assert_eq!(mode(SECOND, 0, 0, ByCapability), (Mode::Scalable, false));
    assert_eq!(mode(FIRST, 0, 0, ByCapability), (Mode::Scalable, false));
    assert_eq!(mode(BOTH, 0, 0, Legacy), (Mode::Legacy, false));
    assert_eq!(mode(BOTH, TE | SRTP, 0, ByCapability), (Mode::Legacy, false), "no gap");
    assert_eq!(mode(BOTH, TE | SRTP, 1, Legacy), (Mode::Scalable, false), "no gap");
    assert_eq!(mode(BOTH, TE | SRTP, 3, ByCapability), (Mode::Scalable, true), "all DMA was aborted");
}

#[test]
fn a_unit_without_legacy_tables_is_driven_in_scalable_mode() {
    // SAGAW = 0: no second stage at all.
    let machine = TestMachine::with(0x600, FIRST);
    let driver = bring_up(&machine);
    let domain = domain(&driver);
    driver.map(domain, Iova::new(0), HOST, 0x1000, RW).unwrap();
    driver.attach(domain, DEVICE, &[]).unwrap();
    assert_eq!(read(machine.unit(), DEVICE, 0x123), Ok(0x4000_0123));
    machine.assert_no_violations();
}

/// The life of an attachment: reach, stale caches, release of frames, in every mode and stage.
#[test]
fn a_device_reaches_what_its_domain_maps_in_either_stage() {
    for (capability, extended, stage, denied) in [
        (0, 0, Stage::Second, [1, 6, 5, 2]),
        (0, BOTH, Stage::Second, [0x39, 0x79, 0x79, 0x41]),
        (CAP_CM, BOTH, Stage::Second, [0x39, 0x79, 0x79, 0x41]),
        (0, BOTH | ECAP_C | ECAP_SMPWCS, Stage::Second, [0x39, 0x79, 0x79, 0x41]),
        (0, BOTH, Stage::First, [0x39, 0x71, 0x85, 0x41]),
        (CAP_CM, BOTH | ECAP_SMPWCS, Stage::First, [0x39, 0x71, 0x85, 0x41]),
        (CAP_RWBF, FIRST | ECAP_SC, Stage::Any, [0x39, 0x71, 0x85, 0x41]),
    ] {
        let (machine, driver) = started(capability, extended);
        let unit = machine.unit();
        let before = machine.memory.in_use();
        let id = domain_of(&driver, stage).unwrap();
        let alias = SourceId::new(1, 0x10, 0);
        assert_eq!(read(unit, DEVICE, 0), Err(denied[0]), "nothing is there yet");
        driver.map(id, Iova::new(0), HOST, 0x20_0000, RW).unwrap();
        driver.map(id, Iova::new(0x4000_0000), HOST, 0x1000, Permissions::READ).unwrap();
        driver.attach(id, DEVICE, &[alias]).unwrap();
        assert_eq!(read(unit, DEVICE, 0x1_2345), Ok(0x4001_2345), "{stage:?} {extended:#x}");
        assert_eq!(unit.access(alias.bits(), 0x1_2345, true), Ok(0x4001_2345), "the other half of the bus");
        assert_eq!(read(unit, DEVICE, 0x4000_0000), Ok(0x4000_0000));
        assert_eq!(unit.access(DEVICE.source.bits(), 0x4000_0000, true), Err(denied[2]));
        assert_eq!(read(unit, DEVICE, 0x20_0000), Err(denied[1]));
        assert_eq!(driver.unmap(id, Iova::new(0x1000), 0x1000), Ok(0x1000));
        assert_eq!(read(unit, DEVICE, 0x1000), Err(denied[1]), "nothing stale");
        assert_eq!(read(unit, DEVICE, 0x2000), Ok(0x4000_2000), "the rest of the large page");
        driver.protect(id, Iova::new(0), 0x1000, Permissions::READ).unwrap();
        assert_eq!(unit.access(DEVICE.source.bits(), 0, true), Err(denied[2]));
        driver.detach(DEVICE).unwrap();
        assert_eq!(read(unit, DEVICE, 0), Err(denied[3]));
        assert_eq!(unit.access(alias.bits(), 0, false), Err(denied[3]));
        let other = domain_of(&driver, stage).unwrap();
        driver.attach(other, DEVICE, &[]).unwrap();
        assert_eq!(read(unit, DEVICE, 0), Err(denied[1]), "another domain, nothing of the first");
        driver.detach(DEVICE).unwrap();
        driver.destroy_domain(id).unwrap();
        driver.destroy_domain(other).unwrap();
        let context_tables = if extended & ECAP_SMTS == 0 { 1 } else { 2 };
        assert_eq!(machine.memory.in_use(), before + context_tables, "process directories and tables came back");
        machine.assert_no_violations();
        driver.shut_down().unwrap();
        assert_eq!(machine.memory.in_use(), 0);
    }
}

#[test]
fn detaching_takes_contexts_then_processes_then_translations() {
    let (machine, driver) = started(0, BOTH | ECAP_DT);
    let unit = machine.unit();
    for (stage, kind) in [(Stage::Second, 2), (Stage::First, 6)] {
        let id = domain_of(&driver, stage).unwrap();
        driver.attach_with_device_tlb(id, DEVICE, &[], 8).unwrap();
        driver.map(id, Iova::new(0), HOST, 0x2000, RW).unwrap();
        read(unit, DEVICE, 0).unwrap();
        unit.events();
        driver.unmap(id, Iova::new(0), 0x1000).unwrap();
        let number = id.as_u16();
        let events = unit.events();
        assert_eq!(events[..2], [Event::Tail, taken(kind, 3, number)]);
        assert!(matches!(events[2..], [Event::Taken { kind: 3, .. }]), "{events:?}");
        driver.detach(DEVICE).unwrap();
        let events = unit.events();
        let expected = [Event::Tail, taken(1, 3, number), taken(7, 1, number), taken(kind, 2, number)];
        assert_eq!(events[..4], expected);
        assert!(matches!(events[4..], [Event::Taken { kind: 3, .. }]), "{events:?}");
    }
    machine.assert_no_violations();
}

#[test]
fn the_first_stage_has_the_levels_and_pages_that_the_unit_has() {
    // FS5LP and FS1GP, 57 bits of MGAW.
    let capability = 1 << 60 | 1 << 56 | 0x00_002f_0000 ^ 0x00_0038_0000;
    let (machine, driver) = started(capability, FIRST);
    let wide =
        |bits| DomainRequest { address_bits: bits, stage: Stage::First, devices: &[DEVICE], accessed_dirty: false };
    let id = driver.create_domain(&wide(56)).unwrap();
    assert_eq!(driver.frames_of(id), Some(1));
    driver.map(id, Iova::new(1 << 55), HostPhysical::new(0x4000_0000), 1 << 30, RW).unwrap();
    assert_eq!(driver.frames_of(id), Some(3), "one leaf of 1 GiB at level 3");
    driver.attach(id, DEVICE, &[]).unwrap();
    assert_eq!(read(machine.unit(), DEVICE, (1 << 55) + 0x1234_5678), Ok(0x5234_5678));
    assert_eq!(driver.create_domain(&wide(57)), Err(DomainError::Width { wanted: 57, possible: 56 }));
    let (_, plain) = started(0, FIRST);
    assert_eq!(plain.create_domain(&wide(48)), Err(DomainError::Width { wanted: 48, possible: 47 }));
    let id = plain.create_domain(&wide(0)).unwrap();
    assert!(plain.map(id, Iova::new((1 << 47) - 0x1000), HOST, 0x1000, RW).is_ok());
    assert!(plain.map(id, Iova::new(1 << 47), HOST, 0x1000, RW).is_err(), "not canonical");
    machine.assert_no_violations();
}

#[test]
fn five_levels_of_the_second_stage_where_the_unit_walks_them() {
    for extended in [0, SECOND] {
        // SAGAW has bit 3 too, MGAW 57 bits.
        let (machine, driver) = started(0x0800 | 0x2f_0000 ^ 0x38_0000, extended);
        let request = DomainRequest { address_bits: 57, ..DomainRequest::for_devices(&[DEVICE]) };
        let id = driver.create_domain(&request).unwrap();
        driver.map(id, Iova::new(1 << 56), HOST, 0x1000, RW).unwrap();
        driver.attach(id, DEVICE, &[]).unwrap();
        assert_eq!(read(machine.unit(), DEVICE, 1 << 56), Ok(0x4000_0000));
        assert_eq!(driver.unmap(id, Iova::new(1 << 56), 0x1000), Ok(0x1000));
        assert!(read(machine.unit(), DEVICE, 1 << 56).is_err());
        machine.assert_no_violations();
    }
}

#[test]
fn requests_pass_through_where_that_is_asked_for_by_name() {
    for extended in [0, BOTH] {
        let (machine, driver) = started(0, extended);
        let id = domain_of(&driver, Stage::PassThrough).unwrap();
        driver.attach(id, DEVICE, &[]).unwrap();
        assert_eq!(read(machine.unit(), DEVICE, 0x1234_5678), Ok(0x1234_5678));
        assert_eq!(driver.translate(id, Iova::new(0x5000)), Some(HostPhysical::new(0x5000)));
        let refused = DomainError::PassThrough { domain: id };
        assert_eq!(driver.map(id, Iova::new(0), HOST, 0x1000, RW), Err(refused));
        assert_eq!(driver.unmap(id, Iova::new(0), 0x1000), Err(refused));
        assert_eq!(driver.protect(id, Iova::new(0), 0x1000, RW), Err(refused));
        driver.detach(DEVICE).unwrap();
        assert!(read(machine.unit(), DEVICE, 0x1234_5678).is_err());
        driver.destroy_domain(id).unwrap();
        machine.assert_no_violations();
    }
    let (_, without) = started(0, ECAP_PT);
    assert_eq!(domain_of(&without, Stage::PassThrough), Err(DomainError::Stage { wanted: Stage::PassThrough }));
}

#[test]
fn a_stage_that_a_unit_does_not_walk_is_refused_by_name() {
    let stage = |wanted| Err(DomainError::Stage { wanted });
    let (_, legacy) = started(0, 0);
    assert_eq!(domain_of(&legacy, Stage::First), stage(Stage::First));
    let (_, first) = started(0, FIRST);
    assert_eq!(domain_of(&first, Stage::Second), stage(Stage::Second));
    assert_eq!(
        DomainError::Stage { wanted: Stage::First }.to_string(),
        "a unit of the devices does not walk first-stage tables in its mode; ask for any stage"
    );
    // Units of both modes share second-stage tables, and nothing else.
    let machine = TestMachine::new(&[
        (DEFAULT_CAPABILITY, DEFAULT_EXTENDED),
        (DEFAULT_CAPABILITY, DEFAULT_EXTENDED | SECOND),
        (DEFAULT_CAPABILITY, DEFAULT_EXTENDED | FIRST),
    ]);
    let mut table = single_unit_table();
    let third = PciAddress::new(0, 3, 0, 0);
    for (base, device) in [(0xfed9_1000, OTHER), (0xfed9_2000, third)] {
        let mut unit = table.units[0].clone();
        (unit.base, unit.includes_all, unit.scopes) = (HostPhysical::new(base), false, vec![endpoint(device)]);
        table.units.push(unit);
    }
    let driver = Driver::bring_up(machine.clone(), &table, &machine, &Options::default()).unwrap();
    let modes: Vec<_> = driver.units().iter().map(|unit| unit.mode()).collect();
    assert_eq!(modes, [Mode::Legacy, Mode::Scalable, Mode::Scalable]);
    let both = driver.create_domain(&DomainRequest::for_devices(&[DEVICE, OTHER])).unwrap();
    driver.map(both, Iova::new(0), HOST, 0x1000, RW).unwrap();
    driver.attach(both, DEVICE, &[]).unwrap();
    driver.attach(both, OTHER, &[]).unwrap();
    assert_eq!(read(&machine.units[0], DEVICE, 0), Ok(0x4000_0000));
    assert_eq!(read(&machine.units[1], OTHER, 0), Ok(0x4000_0000));
    assert!(matches!(driver.attach(both, third, &[]), Err(AttachError::Unsuitable { .. })));
    assert_eq!(driver.create_domain(&DomainRequest::default()), stage(Stage::Any));
    driver.unmap(both, Iova::new(0), 0x1000).unwrap();
    assert!(read(&machine.units[0], DEVICE, 0).is_err() && read(&machine.units[1], OTHER, 0).is_err());
    machine.assert_no_violations();
}

#[test]
fn accessed_and_dirty_flags_are_kept_where_every_unit_can() {
    let entry = |extended: u64| {
        let (machine, driver) = started(0, extended);
        let request = DomainRequest { accessed_dirty: true, ..DomainRequest::for_devices(&[DEVICE]) };
        let id = driver.create_domain(&request).unwrap();
        driver.attach(id, DEVICE, &[]).unwrap();
        let _ = read(machine.unit(), DEVICE, 0);
        machine.unit().process_entry(DEVICE.source.bits()).map(|entry| entry[0] >> 9 & 1)
    };
    assert_eq!(entry(SECOND | ECAP_SSADS | ECAP_C | ECAP_SMPWCS), Some(1));
    assert_eq!(entry(SECOND | ECAP_SSADS), Some(0), "the processors would not see them");
    assert_eq!(entry(SECOND | ECAP_C | ECAP_SMPWCS), Some(0));
    assert_eq!(entry(0), None);
}

#[test]
fn snooping_is_forced_by_the_process_entry() {
    for stage in [Stage::Second, Stage::First, Stage::PassThrough] {
        for (control, bit) in [(0, 0), (ECAP_SC, 1)] {
            let (machine, driver) = started(0, BOTH | control);
            let id = domain_of(&driver, stage).unwrap();
            assert_eq!(driver.forces_snoop(id), Some(bit == 1), "{stage:?}");
            driver.attach(id, DEVICE, &[]).unwrap();
            let _ = read(machine.unit(), DEVICE, 0);
            let entry = machine.unit().process_entry(DEVICE.source.bits()).unwrap();
            assert_eq!(entry[1] >> 24 & 1, bit, "{stage:?}");
        }
    }
}

#[test]
fn a_storm_is_silenced_in_scalable_mode_too() {
    let machine = TestMachine::with(0, SECOND);
    let limits = Limits { reports_per_second: 4, faults_per_second: 20 };
    let options = Options { fault_limits: limits, ..Options::default() };
    let driver = Driver::bring_up(machine.clone(), &single_unit_table(), &machine, &options).unwrap();
    let domain = domain(&driver);
    driver.attach(domain, DEVICE, &[]).unwrap();
    for _ in 0..100 {
        assert_eq!(read(machine.unit(), DEVICE, 0), Err(0x79));
        driver.drain_faults(|_| ());
    }
    assert_eq!(driver.faults_of(DEVICE), 20);
    driver.release_device(DEVICE).unwrap();
    let _ = read(machine.unit(), DEVICE, 0);
    assert_eq!(driver.drain_faults(|_| ()).taken, 1);
    machine.assert_no_violations();
}

#[test]
fn every_allocation_of_an_assignment_can_fail_in_scalable_mode() {
    for stage in [Stage::Second, Stage::First] {
        let (machine, driver) = started(0, BOTH);
        let before = machine.memory.in_use();
        for budget in 0.. {
            machine.memory.set_budget(budget);
            let outcome = domain_of(&driver, stage).map_err(|error| error.to_string()).and_then(|id| {
                let done = driver
                    .map(id, Iova::new(0), HOST, 0x1000, RW)
                    .map_err(|error| error.to_string())
                    .and_then(|()| driver.attach(id, DEVICE, &[OTHER.source]).map_err(|error| error.to_string()));
                if done.is_err() {
                    driver.destroy_domain(id).unwrap();
                }
                done
            });
            match outcome {
                Ok(()) => {
                    assert_eq!(budget, 10, "a root, three tables, two context tables, two directories with tables");
                    break;
                }
                Err(message) => assert_eq!(message, "no memory is left for a table"),
            }
            assert_eq!(machine.memory.in_use(), before);
            assert_eq!(read(machine.unit(), DEVICE, 0), Err(0x39));
        }
        machine.assert_no_violations();
    }
}
