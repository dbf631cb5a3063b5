use core::cell::RefCell;
use std::collections::BTreeSet;
use std::string::ToString;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;

const VECTORS: Vectors = Vectors { notification: 0xf2, wake_up: 0xf1 };
const PROCESSORS: usize = 3;
const VIRTUAL: usize = 5;

/// What the oracle remembers of a virtual processor, with sets and plain words only.
struct Virtual {
    descriptor: PostedInterruptDescriptor,
    placement: RefCell<Placement>,
    /// Posted and not taken yet.
    owed: RefCell<BTreeSet<u8>>,
    woken: RefCell<bool>,
    /// It is in guest mode, not only on the way there.
    inside: RefCell<bool>,
}

/// Processors, virtual processors and the interrupts that are on their way.
struct World {
    processors: Vec<Processor>,
    virtuals: Vec<Virtual>,
    in_flight: RefCell<Vec<Notification>>,
}

impl Notifier for World {
    fn send(&self, notification: Notification) {
        self.in_flight.borrow_mut().push(notification);
    }
}

impl Sleepers for World {
    fn descriptor(&self, slot: usize) -> Option<&PostedInterruptDescriptor> {
        self.virtuals.get(slot.checked_sub(FIRST_SLOT)?).map(|virtual_processor| &virtual_processor.descriptor)
    }

    fn wake(&self, slot: usize) {
        *self.virtuals[slot - FIRST_SLOT].woken.borrow_mut() = true;
    }
}

/// Slots on both sides of a word's end.
const FIRST_SLOT: usize = 62;

fn destination(cpu: usize) -> u32 {
    0x100 + cpu as u32
}

#[derive(Clone, Debug)]
enum Step {
    Post { to: usize, vector: u8, urgent: bool },
    Load { who: usize, cpu: usize },
    Enter(usize),
    Exit(usize),
    Preempt(usize),
    Block(usize),
    Migrate { who: usize, cpu: usize },
    Park(usize),
    Arrive(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (who, cpu) = (0..VIRTUAL, 0..PROCESSORS);
    let post = (who.clone(), prop_oneof![16u8..20, any::<u8>()], prop::bool::weighted(0.1));
    let step = prop_oneof![
        8 => post.prop_map(|(to, vector, urgent)| Step::Post { to, vector, urgent }),
        4 => (who.clone(), cpu.clone()).prop_map(|(who, cpu)| Step::Load { who, cpu }),
        4 => who.clone().prop_map(Step::Enter),
        2 => who.clone().prop_map(Step::Exit),
        2 => who.clone().prop_map(Step::Preempt),
        3 => who.clone().prop_map(Step::Block),
        2 => (who.clone(), cpu).prop_map(|(who, cpu)| Step::Migrate { who, cpu }),
        1 => who.prop_map(Step::Park),
        6 => any::<usize>().prop_map(Step::Arrive),
    ];
    prop::collection::vec(step, 1..600)
}

impl World {
    fn new() -> Self {
        let create = |index| {
            let descriptor = PostedInterruptDescriptor::new();
            let placement = RefCell::new(Placement::new(&descriptor, FIRST_SLOT + index, VECTORS));
            Virtual {
                descriptor,
                placement,
                owed: RefCell::default(),
                woken: RefCell::new(false),
                inside: RefCell::new(false),
            }
        };
        Self {
            processors: (0..PROCESSORS).map(|cpu| Processor::new(destination(cpu))).collect(),
            virtuals: (0..VIRTUAL).map(create).collect(),
            in_flight: RefCell::default(),
        }
    }

    fn state(&self, who: usize) -> State {
        self.virtuals[who].placement.borrow().state()
    }

    /// Takes what the descriptor has: exactly what is owed, or nothing where nothing was announced.
    fn take(&self, who: usize) -> Result<(), TestCaseError> {
        let who = &self.virtuals[who];
        let Some(words) = who.descriptor.take() else { return Ok(()) };
        let taken = (0..=255u8).filter(|v| words[usize::from(v >> 6)] >> (v & 63) & 1 != 0).collect::<BTreeSet<_>>();
        prop_assert_eq!(taken, who.owed.take(), "lost, invented or delivered twice");
        Ok(())
    }

    /// The oldest or any other interrupt on its way reaches its processor.
    fn arrive(&self, choice: usize) -> Result<(), TestCaseError> {
        let count = self.in_flight.borrow().len();
        if count == 0 {
            return Ok(());
        }
        let Notification { destination: to, vector } = self.in_flight.borrow_mut().remove(choice % count);
        let Some(cpu) = (0..PROCESSORS).find(|cpu| destination(*cpu) == to) else {
            prop_assert!(to == 0 && vector == VECTORS.notification, "only urgent posts to the parked go nowhere");
            return Ok(());
        };
        if vector == VECTORS.wake_up {
            self.processors[cpu].wake_up(self);
        } else {
            prop_assert_eq!(vector, VECTORS.notification);
            let inside = |who: &usize| self.state(*who) == State::Running(cpu) && *self.virtuals[*who].inside.borrow();
            if let Some(who) = (0..VIRTUAL).find(inside) {
                self.take(who)?;
            }
        }
        Ok(())
    }

    fn carry_out(&self, step: &Step) -> Result<(), TestCaseError> {
        match *step {
            Step::Post { to, vector, urgent } => {
                self.virtuals[to].owed.borrow_mut().insert(vector);
                if !urgent {
                    post(&self.virtuals[to].descriptor, vector, self);
                } else if let Some(notification) = self.virtuals[to].descriptor.post_by_control(vector, true) {
                    self.send(notification);
                }
            }
            Step::Load { who, cpu } => {
                let occupied = (0..VIRTUAL).any(|other| self.state(other) == State::Running(cpu));
                let running = matches!(self.state(who), State::Running(_));
                if running || !occupied {
                    let it = &self.virtuals[who];
                    let loaded = it.placement.borrow_mut().load(&it.descriptor, &self.processors, cpu);
                    prop_assert_eq!(loaded.is_err(), running);
                    if !running {
                        *it.woken.borrow_mut() = false;
                        prop_assert!(it.owed.borrow().is_empty() || it.descriptor.is_outstanding());
                    }
                }
            }
            Step::Enter(who) if matches!(self.state(who), State::Running(_)) => {
                self.take(who)?;
                prop_assert!(self.virtuals[who].owed.borrow().is_empty(), "entered without an interrupt");
                *self.virtuals[who].inside.borrow_mut() = true;
            }
            Step::Exit(who) => *self.virtuals[who].inside.borrow_mut() = false,
            Step::Enter(_) => {}
            Step::Preempt(who) => {
                let it = &self.virtuals[who];
                let running = matches!(self.state(who), State::Running(_));
                prop_assert_eq!(it.placement.borrow_mut().preempt(&it.descriptor).is_ok(), running);
                *it.inside.borrow_mut() &= !running;
            }
            Step::Block(who) => {
                let it = &self.virtuals[who];
                let running = matches!(self.state(who), State::Running(_));
                *it.inside.borrow_mut() &= !running;
                let slept = it.placement.borrow_mut().block(&it.descriptor, &self.processors);
                prop_assert_eq!(slept.is_ok(), running);
                if let Ok(sleep) = slept {
                    prop_assert_eq!(sleep == Sleep::Sound, it.owed.borrow().is_empty());
                }
            }
            Step::Migrate { who, cpu } => {
                let it = &self.virtuals[who];
                let blocked = matches!(self.state(who), State::Blocked(_));
                let moved = it.placement.borrow_mut().migrate(&it.descriptor, &self.processors, cpu);
                prop_assert_eq!(moved.is_ok(), blocked);
                if let Ok(sleep) = moved {
                    prop_assert_eq!(sleep == Sleep::Sound, it.owed.borrow().is_empty());
                }
            }
            Step::Park(who) => {
                let it = &self.virtuals[who];
                it.placement.borrow_mut().park(&it.descriptor, &self.processors).unwrap();
                (*it.inside.borrow_mut(), *it.woken.borrow_mut()) = (false, false);
            }
            Step::Arrive(choice) => self.arrive(choice)?,
        }
        Ok(())
    }

    /// What holds between any two steps.
    fn check(&self) -> Result<(), TestCaseError> {
        for (who, it) in self.virtuals.iter().enumerate() {
            let control = it.descriptor.control();
            let owes = !it.owed.borrow().is_empty();
            prop_assert!(it.descriptor.is_pending() == owes, "what is owed is seen, nothing else is");
            let on_its_way =
                |cpu, vector| self.in_flight.borrow().contains(&Notification { destination: destination(cpu), vector });
            let (suppressed, vector, lists) = match self.state(who) {
                State::Parked | State::Preempted(_) => (true, VECTORS.notification, None),
                State::Running(cpu) => {
                    prop_assert_eq!(control.destination() as u32, destination(cpu));
                    let told = !*it.inside.borrow() || on_its_way(cpu, VECTORS.notification);
                    prop_assert!(!owes || told, "in the guest with an interrupt that nobody announced");
                    (false, VECTORS.notification, None)
                }
                State::Blocked(cpu) => {
                    prop_assert_eq!(control.destination() as u32, destination(cpu));
                    let told = *it.woken.borrow() || on_its_way(cpu, VECTORS.wake_up);
                    prop_assert!(!owes || told, "asleep with an interrupt that nobody announced");
                    (false, VECTORS.wake_up, Some(cpu))
                }
            };
            prop_assert_eq!(control.suppressed(), suppressed);
            prop_assert_eq!(control.vector() as u8, vector);
            let listed = (0..PROCESSORS).find(|cpu| self.processors[*cpu].lists(FIRST_SLOT + who));
            prop_assert_eq!(listed, lists);
        }
        Ok(())
    }

    /// Lets everything on its way arrive and everybody run once.
    fn settle(&self) -> Result<(), TestCaseError> {
        while !self.in_flight.borrow().is_empty() {
            self.arrive(0)?;
        }
        for (who, it) in self.virtuals.iter().enumerate() {
            if matches!(self.state(who), State::Blocked(_)) {
                prop_assert_eq!(
                    it.owed.borrow().is_empty(),
                    !*it.woken.borrow(),
                    "woken for each interrupt, only then"
                );
            }
            if !matches!(self.state(who), State::Running(_)) {
                it.placement.borrow_mut().load(&it.descriptor, &self.processors, 0).unwrap();
            }
            self.take(who)?;
            prop_assert!(it.owed.borrow().is_empty(), "an interrupt was lost");
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn every_interrupt_is_delivered_once_whatever_the_scheduler_does(steps in steps()) {
        let world = World::new();
        for step in &steps {
            world.carry_out(step)?;
            world.check()?;
        }
        world.settle()?;
    }
}

#[test]
fn what_cannot_be_done_is_refused_by_name() {
    let descriptor = PostedInterruptDescriptor::new();
    let processors: [Processor; 1] = [Processor::new(3)];
    let mut placement = Placement::new(&descriptor, 256, VECTORS);
    let refused = placement.preempt(&descriptor).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "a virtual processor that is parked cannot be preempted: bring it to a state that can first"
    );
    let missing = Misplaced::NoProcessor { cpu: 1, processors: 1 };
    assert_eq!(placement.load(&descriptor, &processors, 1), Err(missing));
    assert_eq!(missing.to_string(), "processor 1 does not exist, there are 1: place it on one of those");
    placement.load(&descriptor, &processors, 0).unwrap();
    let beyond = Misplaced::NoSlot { slot: 256, slots: 256 };
    assert_eq!(placement.block(&descriptor, &processors), Err(beyond));
    assert_eq!(placement.state(), State::Running(0));
    assert!(beyond.to_string().starts_with("slot 256 is beyond the 256 of a processor's wake-up list"));
}
