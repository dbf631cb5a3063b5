//! Bringing units up: the order of steps, what firmware left, refusals.

use super::*;

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
fn what_cannot_change_while_on_is_bridged_by_the_protected_ranges() {
    let machine = TestMachine::with(1 << 5 | 1 << 6, 0);
    let unit = machine.unit();
    unit.set_status(TE);
    // All DMA aborted.
    unit.poke(0x20, 3 << 10);
    let _driver = bring_up(&machine);
    let events: Vec<_> = unit
        .events()
        .into_iter()
        .filter(|event| matches!(event, Event::Protected(_) | Event::On(TE) | Event::Off(TE)))
        .collect();
    let on = 1 << 31;
    let expected = [Event::Protected(0), Event::Protected(on), Event::Off(TE), Event::On(TE), Event::Protected(0)];
    assert_eq!(events, expected);
    let registers = [0x68, 0x6c, 0x70, 0x74, 0x78, 0x7c].map(|offset| unit.peek(offset));
    assert_eq!(registers, [0, u32::MAX, 0, 1, u32::MAX, u32::MAX], "0 to 4 GiB, and 4 GiB to the end");
    machine.assert_no_violations();
}

#[test]
fn a_platform_that_forbids_gaps_gets_none() {
    let mut table = single_unit_table();
    table.flags |= Flags::DMA_CONTROL_OPT_IN;
    let take_over = |machine: &TestMachine| {
        machine.unit().set_status(TE | QIE);
        machine.unit().poke(0x20, 1 << 10);
        Driver::bring_up(machine.clone(), &table, machine, &Options::default())
    };
    let machine = TestMachine::with(0, 0);
    let refused = take_over(&machine).unwrap_err();
    assert_eq!(refused.error, UnitError::Gap { mode: 1 });
    assert_eq!((machine.unit().events(), machine.unit().status()), (vec![], TE | QIE), "nothing was touched");
    assert_eq!(machine.memory.in_use(), 0);
    assert!(take_over(&TestMachine::with(1 << 5 | 1 << 6, 0)).is_ok(), "its ranges bridge the gap");
}

#[test]
fn a_device_keeps_its_reserved_memory_while_the_root_table_is_replaced() {
    let machine = TestMachine::with(0, 0);
    machine.unit().set_status(TE | SRTP);
    machine.unit().watch(DEVICE.source.bits(), 0x7000_1000);
    let table = with_reserved_memory();
    let _driver = Driver::bring_up(machine.clone(), &table, &machine, &Options::default()).unwrap();
    let events = machine.unit().events();
    assert!(events.contains(&Event::Watched(true)), "{events:?}");
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
    let newer = TestMachine::with(0, ECAP_QI);
    newer.unit().poke(0, 0x60);
    assert_eq!(refusal(&newer), UnitError::NoQueue);
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
