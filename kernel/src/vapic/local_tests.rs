use proptest::prelude::*;

use super::*;
use crate::vapic::{ApicBus, Bell};

fn enabled() -> (ApicBus, LocalApic) {
    let bus = ApicBus::new(&[0], Bell::silent());
    let mut apic = LocalApic::new(0, true, true);
    assert_eq!(apic.write(0xf0, 0x1ff, 0, &bus.endpoints()[0]), Effect::Nothing);
    (bus, apic)
}

fn command(apic: &mut LocalApic, bus: &ApicBus, low: u32, destination: u8) -> Effect {
    assert_eq!(apic.write(0x310, u32::from(destination) << 24, 0, &bus.endpoints()[0]), Effect::Nothing);
    apic.write(0x300, low, 0, &bus.endpoints()[0])
}

#[test]
fn reset_values_are_the_manuals() {
    let mut apic = LocalApic::new(3, false, false);
    for (offset, value) in [
        (0x20, 3 << 24),
        (0x30, 0x0005_0014),
        (0x80, 0),
        (0xd0, 0),
        (0xe0, u32::MAX),
        (0xf0, 0xff),
        (0x320, 0x1_0000),
        (0x370, 0x1_0000),
        (0x380, 0),
    ] {
        assert_eq!(apic.read(offset, 0), value, "register {offset:#x}");
    }
    assert_eq!(apic.base(), 0xfee0_0800);
    assert_eq!(LocalApic::new(0, true, false).base(), 0xfee0_0900);
}

#[test]
fn a_software_disabled_apic_takes_nothing_and_masks_its_table() {
    let (bus, mut apic) = enabled();
    let endpoint = &bus.endpoints()[0];
    assert_eq!(apic.write(0x350, 0x41, 0, endpoint), Effect::Nothing);
    assert_eq!(apic.write(0xf0, 0xff, 0, endpoint), Effect::Nothing);
    assert_eq!(apic.read(0x350, 0), 0x1_0041);
    assert_eq!(apic.write(0x350, 0x41, 0, endpoint), Effect::Nothing);
    assert_eq!(apic.read(0x350, 0), 0x1_0041, "the mask cannot be taken away");
    endpoint.post(0x60, Trigger::Edge);
    apic.drain(endpoint);
    assert_eq!(apic.deliverable(), None);
    assert!(!endpoint.address().enabled);
}

#[test]
fn a_higher_class_interrupts_a_lower_one() {
    let (bus, mut apic) = enabled();
    let endpoint = &bus.endpoints()[0];
    endpoint.post(0x45, Trigger::Edge);
    apic.drain(endpoint);
    assert_eq!(apic.acknowledge(), Some(0x45));
    endpoint.post(0x4f, Trigger::Edge);
    apic.drain(endpoint);
    assert_eq!((apic.deliverable(), apic.waiting()), (None, None), "same class");
    endpoint.post(0x51, Trigger::Level);
    apic.drain(endpoint);
    assert_eq!(apic.acknowledge(), Some(0x51));
    assert_eq!(apic.read(0xa0, 0), 0x50);
    assert_eq!(apic.write(0xb0, 0, 0, endpoint), Effect::EndOfInterrupt(0x51));
    assert_eq!(apic.deliverable(), None);
    assert_eq!(apic.write(0xb0, 0, 0, endpoint), Effect::Nothing);
    assert_eq!(apic.acknowledge(), Some(0x4f));
}

#[test]
fn task_priority_holds_back_its_class() {
    let (bus, mut apic) = enabled();
    let endpoint = &bus.endpoints()[0];
    endpoint.post(0x45, Trigger::Edge);
    assert_eq!(apic.write(0x80, 0x40, 0, endpoint), Effect::Nothing);
    apic.drain(endpoint);
    assert_eq!((apic.deliverable(), apic.waiting()), (None, Some(0x45)));
    assert_eq!(apic.write(0x80, 0x3f, 0, endpoint), Effect::Nothing);
    assert_eq!(apic.deliverable(), Some(0x45));
}

#[test]
fn commands_become_interrupts() {
    let (bus, mut apic) = enabled();
    let fixed = |destination, vector| {
        Effect::Send(Interrupt { vector, mode: DeliveryMode::Fixed, trigger: Trigger::Edge, destination })
    };
    assert_eq!(command(&mut apic, &bus, 0x40fd, 1), fixed(Destination::Physical(1), 0xfd));
    assert_eq!(command(&mut apic, &bus, 0x48fd, 2), fixed(Destination::Logical(2), 0xfd));
    assert_eq!(command(&mut apic, &bus, 0x4_40fb, 0), fixed(Destination::Myself, 0xfb));
    assert_eq!(command(&mut apic, &bus, 0xc_40fb, 0), fixed(Destination::Others, 0xfb));
    let Effect::Send(init) = command(&mut apic, &bus, 0xc500, 1) else { panic!("INIT assert is sent") };
    assert_eq!(init.mode, DeliveryMode::Init);
    assert_eq!(command(&mut apic, &bus, 0x8500, 1), Effect::Nothing, "INIT de-assert");
    assert_eq!(command(&mut apic, &bus, 0x4300, 1), Effect::Nothing, "reserved mode");
}

#[test]
fn illegal_vectors_show_in_the_error_status() {
    let (bus, mut apic) = enabled();
    let endpoint = &bus.endpoints()[0];
    assert_eq!(command(&mut apic, &bus, 0x4005, 0), Effect::Nothing);
    assert_eq!(apic.read(0x280, 0), 0, "only a write latches");
    assert_eq!(apic.write(0x280, 0, 0, endpoint), Effect::Nothing);
    assert_eq!(apic.read(0x280, 0), ERROR_SEND_VECTOR);
    assert_eq!(apic.write(0x280, 0, 0, endpoint), Effect::Nothing);
    assert_eq!(apic.read(0x280, 0), 0);
    assert_eq!(apic.read(0x3f0, 0), 0);
    assert_eq!(apic.write(0x280, 0, 0, endpoint), Effect::Nothing);
    assert_eq!(apic.read(0x280, 0), ERROR_REGISTER);
}

#[test]
fn the_timer_raises_its_vector_unless_masked() {
    let (bus, mut apic) = enabled();
    let endpoint = &bus.endpoints()[0];
    assert_eq!(apic.write(0x3e0, 0xb, 0, endpoint), Effect::Timer);
    assert_eq!(apic.write(0x320, 0xec, 0, endpoint), Effect::Timer);
    assert_eq!(apic.write(0x380, 100, 0, endpoint), Effect::Timer);
    assert_eq!(apic.deadline(), Some(100));
    assert_eq!(apic.read(0x390, 40), 60);
    assert!(!apic.tick(99));
    assert!(apic.tick(100));
    assert_eq!((apic.acknowledge(), apic.deadline()), (Some(0xec), None));
    assert_eq!(apic.write(0x320, 0x1_00ec, 0, endpoint), Effect::Timer);
    assert_eq!(apic.write(0x380, 100, 100, endpoint), Effect::Timer);
    assert_eq!(apic.write(0xb0, 0, 0, endpoint), Effect::Nothing);
    assert!(apic.tick(200));
    assert_eq!(apic.deliverable(), None);
}

#[test]
fn mode_switches_follow_the_manuals_figure() {
    let bus = ApicBus::new(&[0], Bell::silent());
    let endpoint = &bus.endpoints()[0];
    let mut plain = LocalApic::new(0, true, false);
    assert_eq!(plain.set_base(0xfee0_0d00, endpoint), Err(RegisterFault), "x2APIC is not offered");
    let mut apic = LocalApic::new(0, true, true);
    assert_eq!(apic.set_base(0xfee0_0500, endpoint), Err(RegisterFault), "x2APIC without enable");
    assert_eq!(apic.set_base(0xfee0_0d00, endpoint), Ok(()));
    assert!(apic.is_x2apic() && endpoint.address().x2apic);
    assert_eq!(apic.set_base(0xfee0_0900, endpoint), Err(RegisterFault), "x2APIC back to xAPIC");
    assert_eq!(apic.set_base(0xfee0_0100, endpoint), Ok(()));
    assert_eq!(apic.set_base(0xfee0_0d00, endpoint), Err(RegisterFault), "off to x2APIC");
    assert_eq!(apic.set_base(0xfee0_0900, endpoint), Ok(()));
    for wild in [0xfee0_1900, 0xfee0_0901, 1 << 40 | 0xfee0_0900, u64::MAX] {
        assert_eq!(apic.set_base(wild, endpoint), Err(RegisterFault), "{wild:#x}");
    }
}

#[test]
fn x2apic_registers_fault_as_the_manual_says() {
    let (bus, mut apic) = enabled();
    let endpoint = &bus.endpoints()[0];
    assert_eq!(apic.read_msr(2, 0), Err(RegisterFault), "not in xAPIC mode");
    apic.set_base(0xfee0_0d00, endpoint).unwrap();
    assert_eq!(apic.read_msr(2, 0), Ok(0));
    assert_eq!(apic.read_msr(0xd, 0), Ok(1), "logical id of APIC 0");
    for (index, value) in [(0xb, 1), (0x28, 1), (0x8, 0x100), (0xf, 0x400), (0x32, 1 << 20), (0x3f, 0x100)] {
        assert_eq!(apic.write_msr(index, value, 0, endpoint), Err(RegisterFault), "{index:#x}");
    }
    for index in [0x2, 0x3, 0xd, 0xe, 0x31, 0x39, 0x3d, 0xff] {
        assert_eq!(apic.write_msr(index, 0, 0, endpoint), Err(RegisterFault), "{index:#x}");
    }
    for index in [0x0, 0xe, 0x31, 0x3f, 0x40, 0xff] {
        assert_eq!(apic.read_msr(index, 0), Err(RegisterFault), "{index:#x}");
    }
    assert_eq!(apic.write_msr(0x3f, 0x77, 0, endpoint), Ok(Effect::Nothing));
    assert_eq!(apic.acknowledge(), Some(0x77));
    assert_eq!(
        apic.write_msr(0x30, 1 << 32 | 0x40fd, 0, endpoint),
        Ok(Effect::Send(Interrupt {
            vector: 0xfd,
            mode: DeliveryMode::Fixed,
            trigger: Trigger::Edge,
            destination: Destination::Physical(1)
        }))
    );
}

#[test]
fn init_keeps_identity_and_drops_interrupts() {
    let (bus, mut apic) = enabled();
    let endpoint = &bus.endpoints()[0];
    endpoint.post(0x50, Trigger::Edge);
    apic.drain(endpoint);
    endpoint.post(0x51, Trigger::Edge);
    apic.init(endpoint);
    assert_eq!(apic.write(0xf0, 0x1ff, 0, endpoint), Effect::Nothing);
    apic.drain(endpoint);
    assert_eq!((apic.deliverable(), apic.base()), (None, 0xfee0_0900));
}

/// What can happen to a local APIC.
#[derive(Clone, Debug)]
enum Step {
    Post(u8, Trigger),
    Drain,
    Acknowledge,
    End,
    TaskPriority(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (16u8.., prop::sample::select(vec![Trigger::Edge, Trigger::Level]))
            .prop_map(|(vector, trigger)| Step::Post(vector, trigger)),
        3 => Just(Step::Drain),
        4 => Just(Step::Acknowledge),
        3 => Just(Step::End),
        1 => any::<u8>().prop_map(Step::TaskPriority),
    ]
}

/// The same by lists and searches, straight from the manual's words.
#[derive(Default)]
struct Oracle {
    posted: Vec<u8>,
    /// How each vector was posted last, and how when it was drained last.
    triggers: std::collections::BTreeMap<u8, (Trigger, Trigger)>,
    requested: Vec<u8>,
    in_service: Vec<u8>,
    task_priority: u8,
}

impl Oracle {
    fn deliverable(&self) -> Option<u8> {
        let vector = *self.requested.iter().max()?;
        let serviced = self.in_service.iter().max().map_or(0, |vector| vector / 16);
        (vector / 16 > serviced.max(self.task_priority / 16)).then_some(vector)
    }
}

proptest! {
    /// No interrupt lost, none invented, none out of order.
    #[test]
    fn behaves_like_the_oracle(steps in proptest::collection::vec(step(), 1..400)) {
        let (bus, mut apic) = enabled();
        let endpoint = &bus.endpoints()[0];
        let mut oracle = Oracle::default();
        for step in steps {
            match step {
                Step::Post(vector, trigger) => {
                    endpoint.post(vector, trigger);
                    oracle.posted.push(vector);
                    oracle.triggers.entry(vector).or_insert((trigger, trigger)).0 = trigger;
                }
                Step::Drain => {
                    apic.drain(endpoint);
                    let posted = core::mem::take(&mut oracle.posted);
                    for vector in &posted {
                        let (last, drained) = oracle.triggers.get_mut(vector).unwrap();
                        *drained = *last;
                    }
                    oracle.requested.extend(posted);
                    oracle.requested.sort_unstable();
                    oracle.requested.dedup();
                }
                Step::Acknowledge => {
                    let expected = oracle.deliverable();
                    prop_assert_eq!(apic.acknowledge(), expected);
                    if let Some(vector) = expected {
                        oracle.requested.retain(|requested| *requested != vector);
                        oracle.in_service.push(vector);
                    }
                }
                Step::End => {
                    oracle.in_service.sort_unstable();
                    let expected = match oracle.in_service.pop() {
                        Some(vector) if oracle.triggers[&vector].1 == Trigger::Level => Effect::EndOfInterrupt(vector),
                        _ => Effect::Nothing,
                    };
                    prop_assert_eq!(apic.write(0xb0, 0, 0, endpoint), expected);
                }
                Step::TaskPriority(priority) => {
                    prop_assert_eq!(apic.write(0x80, u32::from(priority), 0, endpoint), Effect::Nothing);
                    oracle.task_priority = priority;
                }
            }
            prop_assert_eq!(apic.deliverable(), oracle.deliverable());
            let mut requested = VectorSet::new();
            oracle.requested.iter().for_each(|vector| requested.insert(*vector));
            for index in 0..8 {
                prop_assert_eq!(apic.read(0x200 + 16 * index, 0), requested.register(index as usize));
            }
        }
    }
}
