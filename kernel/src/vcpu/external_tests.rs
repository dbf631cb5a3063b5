use std::sync::Arc;

use super::*;
use crate::vapic::Requests;
use crate::vcpu::Stop;
use crate::vcpu::engine::Exit;
use crate::vcpu::state::{Exception, SystemRegister};
use crate::vcpu::testing::{FakeEngine, FakeMachine, body};

const VECTOR: u8 = 0x20;

fn asked(flags: u64) -> (Box<Body<FakeEngine>>, FakeMachine) {
    let (mut body, machine) = (body(), FakeMachine::new(0x4000));
    body.engine.set_flags(bits::FLAGS_ONE | flags);
    machine.external.lock().unwrap().push_back(VECTOR);
    body.bus.endpoints()[0].request(Requests::EXTERNAL);
    (body, machine)
}

fn after(body: &mut Body<FakeEngine>, machine: &FakeMachine, exits: &[Exit]) -> Stop {
    body.engine.exits = exits.iter().copied().collect();
    body.run(machine)
}

#[test]
fn it_passes_the_virtual_wire_whatever_cr8_says() {
    let (mut body, machine) = asked(bits::FLAGS_IF);
    body.engine.set_system(SystemRegister::Cr8, 0xf);
    after(&mut body, &machine, &[Exit::HostEvent]);
    assert_eq!(body.engine.delivered, [Event::Interrupt(VECTOR)]);
    assert!(!body.engine.external_window, "they ask again for the next");
}

#[test]
fn it_waits_for_the_interrupt_flag_and_the_window_tells() {
    let (mut body, machine) = asked(0);
    after(&mut body, &machine, &[Exit::HostEvent]);
    assert!(body.engine.delivered.is_empty() && body.engine.external_window);
    body.engine.set_flags(bits::FLAGS_ONE | bits::FLAGS_IF);
    after(&mut body, &machine, &[Exit::InterruptWindow, Exit::HostEvent]);
    assert_eq!(body.engine.delivered, [Event::Interrupt(VECTOR)]);
}

#[test]
fn a_masked_lint0_holds_it_and_does_not_lose_it() {
    let (mut body, machine) = asked(bits::FLAGS_IF);
    let bus = Arc::clone(&body.bus);
    let endpoint = &bus.endpoints()[0];
    let _ = body.apic.write(0x350, 0x1_0700, 0, endpoint);
    after(&mut body, &machine, &[Exit::HostEvent]);
    assert!(body.engine.delivered.is_empty() && !body.engine.external_window);
    let _ = body.apic.write(0x350, 0x700, 0, endpoint);
    after(&mut body, &machine, &[Exit::HostEvent]);
    assert_eq!(body.engine.delivered, [Event::Interrupt(VECTOR)]);
}

#[test]
fn an_apic_that_is_off_lets_it_through() {
    let (mut body, machine) = asked(bits::FLAGS_IF);
    let bus = Arc::clone(&body.bus);
    body.apic.set_base(body.apic.base() & !(1 << 11), &bus.endpoints()[0]).unwrap();
    after(&mut body, &machine, &[Exit::HostEvent]);
    assert_eq!(body.engine.delivered, [Event::Interrupt(VECTOR)]);
}

#[test]
fn it_wakes_a_halted_processor() {
    let (mut body, machine) = asked(bits::FLAGS_IF);
    machine.put(0x1000, &[0xf4]);
    machine.external.lock().unwrap().clear();
    after(&mut body, &machine, &[Exit::Halt]);
    assert_eq!(body.run(&machine), Stop::Halted);
    machine.external.lock().unwrap().push_back(VECTOR);
    body.bus.endpoints()[0].request(Requests::EXTERNAL);
    assert_eq!(body.run(&machine), Stop::Ended);
    assert_eq!(body.engine.delivered, [Event::Interrupt(VECTOR)]);
}

#[test]
fn one_that_gave_way_to_an_exception_comes_after_it_and_not_through_the_apic() {
    let (mut body, machine) = asked(bits::FLAGS_IF);
    after(&mut body, &machine, &[]);
    // The processor could not deliver it; what it met becomes an exception of the guest's.
    body.external.injected = Some(VECTOR);
    body.engine.delivered.clear();
    body.engine.inject(Event::Interrupt(VECTOR));
    let _ = body.raise(Exception::GENERAL_PROTECTION, &machine);
    after(&mut body, &machine, &[Exit::InterruptWindow, Exit::HostEvent]);
    let expected = [Event::Exception(Exception::GENERAL_PROTECTION), Event::Interrupt(VECTOR)];
    assert_eq!(body.engine.delivered, expected);
    assert_eq!(body.apic.read(0x200 + 0x10, 0), 0, "the local APIC does not know of it");
}
