//! Interrupts: entries, messages, refusals.

use std::boxed::Box;
use std::sync::{Arc, Mutex};

use super::*;

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
        (0, posted(0x1000), InterruptError::NoPosting(NoPosting::Unit { base: HostPhysical::new(0xfed9_0000) })),
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
fn a_source_for_a_bridge_is_a_range_of_buses() {
    let (_, driver) = started(0, 0);
    let signs = Source::Buses { first: 2, last: 4 };
    let handle = driver.interrupts().allocate(Origin::Function { device: DEVICE, signs }, 1).unwrap();
    driver.interrupts().free(handle).unwrap();
}

#[test]
fn a_block_is_given_back_with_one_submission() {
    let (machine, driver) = started(0, 0);
    let interrupts = driver.interrupts();
    let handle = interrupts.allocate(Origin::function(DEVICE), 32).unwrap();
    let first = handle.first();
    assert_eq!(first % 32, 0, "a function counts its messages up in the low bits");
    let messages: Vec<_> = (0..32).map(|index| interrupts.message(&handle, index).unwrap()).collect();
    for (index, message) in (0..).zip(&messages) {
        let delivery =
            Delivery::Remapped { destination_apic_id: 0, vector: 0x40 + index as u8, trigger: Trigger::Edge };
        interrupts.program(&handle, index, delivery).unwrap();
        machine.unit().interrupt(DEVICE.source.bits(), message.address, message.data).unwrap();
    }
    machine.unit().events();
    interrupts.free(handle).unwrap();
    assert_eq!(machine.unit().events(), [Event::Tail, taken(4, 1, first)]);
    for message in &messages {
        assert_eq!(machine.unit().interrupt(DEVICE.source.bits(), message.address, message.data), Err(0x22));
    }
    let handle = interrupts.allocate(Origin::function(DEVICE), 32).unwrap();
    assert_eq!(handle.first(), first);
    machine.unit().events();
    interrupts.free(handle).unwrap();
    assert_eq!(machine.unit().events(), [], "nothing was present, nothing to tell");
    machine.assert_no_violations();
}

/// Processors without posting beside units with it, and the other way round.
#[test]
fn posting_is_off_by_name_where_either_side_cannot() {
    let posting = |capability, processors_post| {
        let machine = TestMachine::with(capability, 0);
        let options = Options { processors_post, ..Options::default() };
        let driver = Driver::bring_up(machine.clone(), &single_unit_table(), &machine, &options).unwrap();
        let handle = driver.interrupts().allocate(Origin::function(DEVICE), 1).unwrap();
        let delivery = Delivery::Posted { descriptor: HostPhysical::new(0x1000), vector: 0x40, urgent: false };
        let programmed = driver.interrupts().program(&handle, 0, delivery);
        driver.interrupts().free(handle).unwrap();
        let InterruptRemapping::On { posting, .. } = driver.interrupt_remapping() else { panic!() };
        assert_eq!(
            programmed.err(),
            if let Posting::Off(why) = posting { Some(InterruptError::NoPosting(why)) } else { None }
        );
        posting
    };
    assert_eq!(posting(CAP_PI, true), Posting::On);
    assert_eq!(posting(CAP_PI, false), Posting::Off(NoPosting::Processors));
    let base = HostPhysical::new(0xfed9_0000);
    assert_eq!(posting(0, true), Posting::Off(NoPosting::Unit { base }));
    let refused = InterruptError::NoPosting(NoPosting::Unit { base }).to_string();
    assert!(refused.contains("CAP.PI = 0") && refused.contains("host vector"), "{refused}");
}

/// An entry goes from a host vector to a descriptor and back while its device sends at every moment that the unit could
/// see: each interrupt goes one way or the other, whole. Without an exchange of 16 bytes it may also find no entry.
#[test]
fn no_interrupt_is_lost_or_torn_while_its_entry_changes() {
    for exchange in [true, false] {
        let (machine, driver) = started(CAP_PI, 0);
        machine.memory.set_exchange(exchange);
        let interrupts = driver.interrupts();
        let handle = interrupts.allocate(Origin::function(DEVICE), 1).unwrap();
        let descriptor = HostPhysical::new(0x12_3456_7fc0);
        let ways = [
            Delivery::Remapped { destination_apic_id: 3, vector: 0x51, trigger: Trigger::Edge },
            Delivery::Posted { descriptor, vector: 0x61, urgent: false },
            Delivery::Remapped { destination_apic_id: 0x1234, vector: 0x52, trigger: Trigger::Edge },
            Delivery::Posted { descriptor, vector: 0x62, urgent: true },
        ];
        let message = interrupts.message(&handle, 0).unwrap();
        let unit = machine.unit().clone();
        let send = move || unit.interrupt(DEVICE.source.bits(), message.address, message.data);
        let mut forms = Vec::new();
        for way in ways {
            interrupts.program(&handle, 0, way).unwrap();
            forms.push(send().unwrap());
        }
        let arrived = Arc::new(Mutex::new(Vec::new()));
        for turn in 0..12 {
            let (before, after) = (forms[(turn + 3) % 4], forms[turn % 4]);
            let (seen, sends) = (arrived.clone(), send.clone());
            machine.memory.after_flush(Some(Box::new(move || seen.lock().unwrap().push(sends()))));
            interrupts.program(&handle, 0, ways[turn % 4]).unwrap();
            machine.memory.after_flush(None);
            let arrived = core::mem::take(&mut *arrived.lock().unwrap());
            assert!(!arrived.is_empty());
            for outcome in arrived {
                let whole = outcome == Ok(before) || outcome == Ok(after);
                assert!(whole || !exchange && outcome == Err(0x22), "{outcome:x?} between {before:x} and {after:x}");
            }
            assert_eq!(send(), Ok(after));
        }
        interrupts.free(handle).unwrap();
        machine.assert_no_violations();
    }
}
