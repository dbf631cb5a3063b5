//! Faults: attribution, storms, the message.

use super::*;

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
    let reasons: Vec<_> =
        driver.fault_reasons(DEVICE).into_iter().map(|(reason, times)| (reason.code(), times)).collect();
    assert_eq!(reasons, [(5, 1)]);
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
    assert!(driver.is_silenced(DEVICE) && !driver.is_silenced(OTHER));
    driver.release_device(DEVICE).unwrap();
    assert!(!driver.is_silenced(DEVICE));
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
