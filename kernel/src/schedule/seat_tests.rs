use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};

use iommu::interrupt::posted::placement::{State, Vectors};
use iommu::interrupt::posted::{Notification, PostedInterruptDescriptor};
use proptest::prelude::*;

use super::super::board::Board;
use super::*;
use crate::vapic::{Bell, Endpoint, Requests, Trigger};

const VECTORS: Vectors = Vectors { notification: 0xe1, wake_up: 0xe2 };
const KICK: u8 = 0xe0;

std::thread_local! {
    /// Interrupts between CPUs that are on their way; CPU n has the address n.
    static IN_FLIGHT: RefCell<VecDeque<Notification>> = RefCell::default();
}

fn send(notification: Notification) {
    IN_FLIGHT.with_borrow_mut(|all| all.push_back(notification));
}

struct Member(Endpoint);

impl Mailbox<core::sync::atomic::AtomicU64> for Member {
    fn mailbox(&self) -> Option<&PostedInterruptDescriptor> {
        Some(self.0.mailbox())
    }
}

/// What a host CPU does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    /// Its loop is between turns.
    Decides,
    /// A virtual CPU's turn: in the guest, or out of it for a moment.
    Plays { turn: Turn, inside: bool },
    /// HLT.
    Sleeps,
}

/// What the oracle knows of a virtual CPU.
#[derive(Debug, Default)]
struct Known {
    /// Posted and not taken.
    owed: BTreeSet<u8>,
    /// Asked for and not taken.
    asked: bool,
    /// When its timer is due; it was not looked at since.
    deadline: Option<u64>,
    turns: u64,
    /// When it was last played, and for how long all in all.
    began: u64,
    played: u64,
}

/// Host CPUs, each with its loop, and virtual CPUs that do what they are told.
struct World {
    board: Board<Member>,
    seats: Vec<Seat>,
    doing: Vec<Doing>,
    known: Vec<Known>,
    now: u64,
}

impl World {
    /// `vcpus` are the CPUs of each virtual CPU, and whether it is pinned.
    fn new(cpus: usize, vcpus: &[(&[usize], bool)]) -> Self {
        IN_FLIGHT.with_borrow_mut(VecDeque::clear);
        let kick = |cpu: usize| send(Notification { destination: cpu as u32, vector: KICK });
        let mut board = Board::new(0..cpus as u32, VECTORS, Box::new(kick));
        for (number, (cpus, pinned)) in vcpus.iter().enumerate() {
            let bell = Bell { send, wake_up: VECTORS.wake_up, kick: KICK };
            assert_eq!(board.add(Member(Endpoint::new(0, 0, bell)), cpus, *pinned), Some(number));
        }
        (0..cpus).for_each(|cpu| board.open(cpu));
        for (number, (cpus, _)) in vcpus.iter().enumerate() {
            board.get_in_line(number, cpus[0]);
        }
        let known = vcpus.iter().map(|_| Known::default()).collect();
        Self { board, seats: (0..cpus).map(Seat::new).collect(), doing: vec![Doing::Decides; cpus], known, now: 1 }
    }

    fn endpoint(&self, vcpu: usize) -> &Endpoint {
        &self.board.mailbox(vcpu).unwrap().0
    }

    fn post(&mut self, vcpu: usize, vector: u8) {
        self.known[vcpu].owed.insert(vector);
        self.endpoint(vcpu).post(vector, Trigger::Edge);
    }

    fn ask(&mut self, vcpu: usize) {
        self.known[vcpu].asked = true;
        self.endpoint(vcpu).request(Requests::NON_MASKABLE);
    }

    /// The virtual CPU looks before it enters, as its loop does. Whether it was asked to yield.
    fn attend(&mut self, vcpu: usize) -> bool {
        let requests = self.endpoint(vcpu).take_requests();
        let known = &mut self.known[vcpu];
        assert_eq!(requests.contains(Requests::NON_MASKABLE), known.asked, "a request is lost or invented");
        known.asked = false;
        let taken = self.endpoint(vcpu).take_posted();
        let known = &mut self.known[vcpu];
        let taken: BTreeSet<u8> =
            taken.map_or_else(BTreeSet::new, |(set, _)| (0..=255).filter(|vector| set.contains(*vector)).collect());
        assert_eq!(taken, core::mem::take(&mut known.owed), "lost, invented or delivered twice");
        if known.deadline.is_some_and(|deadline| deadline <= self.now) {
            known.deadline = None;
        }
        requests.contains(Requests::YIELD)
    }

    /// One step of a CPU's loop: it decides, or its guest looks and enters.
    fn step(&mut self, cpu: usize) {
        match self.doing[cpu] {
            Doing::Decides => {
                self.doing[cpu] = match self.seats[cpu].next(&self.board, self.now) {
                    Some(turn) => {
                        let known = &mut self.known[turn.vcpu];
                        known.turns += 1;
                        known.began = self.now;
                        // As whenever a virtual CPU is run: it looks first.
                        if self.attend(turn.vcpu) || self.board.has_woken(cpu) {
                            self.seats[cpu].yielded(&self.board, turn, self.now);
                            Doing::Decides
                        } else {
                            Doing::Plays { turn, inside: false }
                        }
                    }
                    None if self.seats[cpu].has_news(&self.board, self.now) => Doing::Decides,
                    None => Doing::Sleeps,
                }
            }
            Doing::Plays { turn, inside: false } => {
                if self.endpoint(turn.vcpu).enter() {
                    self.doing[cpu] = Doing::Plays { turn, inside: true };
                } else if self.attend(turn.vcpu) {
                    self.comes_back(cpu, turn);
                    self.seats[cpu].yielded(&self.board, turn, self.now);
                }
            }
            Doing::Plays { inside: true, .. } | Doing::Sleeps => {}
        }
    }

    fn comes_back(&mut self, cpu: usize, turn: Turn) {
        self.doing[cpu] = Doing::Decides;
        let known = &mut self.known[turn.vcpu];
        known.played += self.now - known.began;
    }

    /// The guest on a CPU executes HLT: it looks once more, and sleeps. `timer`: until when, in nanoseconds from now.
    fn halt(&mut self, cpu: usize, timer: Option<u64>) {
        let Doing::Plays { turn, inside: true } = self.doing[cpu] else { return };
        self.endpoint(turn.vcpu).leave();
        let yields = self.attend(turn.vcpu);
        self.comes_back(cpu, turn);
        if yields {
            return self.seats[cpu].yielded(&self.board, turn, self.now);
        }
        let deadline = timer.map(|timer| self.now + timer);
        self.known[turn.vcpu].deadline = deadline;
        let (board, now) = (&self.board, self.now);
        let is_ready = || board.mailbox(turn.vcpu).unwrap().0.has_work();
        self.seats[cpu].halted(board, turn, deadline, now, is_ready);
    }

    /// Something makes the CPU leave its guest or its HLT.
    fn interrupt(&mut self, cpu: usize) {
        match &mut self.doing[cpu] {
            Doing::Plays { turn, inside } => {
                *inside = false;
                self.board.mailbox(turn.vcpu).unwrap().0.leave();
            }
            doing @ Doing::Sleeps => *doing = Doing::Decides,
            Doing::Decides => {}
        }
    }

    /// An interrupt between CPUs arrives.
    fn arrive(&mut self, choice: usize) {
        let Some(Notification { destination, vector }) = IN_FLIGHT.with_borrow_mut(|all| {
            let count = all.len();
            choice.checked_rem(count).and_then(|place| all.remove(place))
        }) else {
            return;
        };
        let cpu = destination as usize;
        if vector == VECTORS.wake_up
            && self.board.wake_up(cpu)
            && let Doing::Plays { turn, .. } = self.doing[cpu]
        {
            self.endpoint(turn.vcpu).note(Requests::YIELD);
        }
        self.interrupt(cpu);
    }

    /// Time goes by, and timers fire.
    fn pass(&mut self, time: u64) {
        self.now += time;
        for cpu in 0..self.doing.len() {
            let slice = match self.doing[cpu] {
                Doing::Plays { turn, .. } => turn.until,
                _ => u64::MAX,
            };
            if self.seats[cpu].alarm().min(slice) <= self.now {
                if let Doing::Plays { turn, .. } = self.doing[cpu] {
                    self.endpoint(turn.vcpu).note(Requests::YIELD);
                }
                self.interrupt(cpu);
            }
        }
    }

    /// What holds whatever happens.
    fn check(&self) {
        for (vcpu, known) in self.known.iter().enumerate() {
            let sent = |cpu: usize, vector| {
                IN_FLIGHT.with_borrow(|all| all.contains(&Notification { destination: cpu as u32, vector }))
            };
            let wants = !known.owed.is_empty() || known.asked;
            match self.board.state(vcpu).unwrap() {
                State::Running(cpu) => {
                    let inside = matches!(self.doing[cpu], Doing::Plays { turn, inside: true } if turn.vcpu == vcpu);
                    let told = sent(cpu, VECTORS.notification) || sent(cpu, KICK);
                    assert!(!wants || !inside || told, "{vcpu} is in the guest with {known:?}, and nobody was told");
                }
                State::Blocked(cpu) => {
                    let told = sent(cpu, VECTORS.wake_up) || self.board.has_woken(cpu) || self.is_in_line(vcpu);
                    assert!(!wants || told, "{vcpu} sleeps with {known:?}, and nobody was told");
                }
                State::Parked | State::Preempted(_) => assert!(self.is_in_line(vcpu), "{vcpu} is nowhere"),
            }
        }
        for (cpu, doing) in self.doing.iter().enumerate() {
            let kicked = || IN_FLIGHT.with_borrow(|all| all.iter().any(|one| one.destination == cpu as u32));
            let idle = *doing == Doing::Sleeps && !kicked();
            assert!(!idle || !self.seats[cpu].has_news(&self.board, self.now), "CPU {cpu} sleeps over news");
        }
    }

    fn is_in_line(&self, vcpu: usize) -> bool {
        (0..self.doing.len()).any(|cpu| self.board.waits(cpu, vcpu))
    }

    /// Everything arrives, and every virtual CPU runs until it has nothing to do.
    fn settle(&mut self) {
        for round in 0..10_000 {
            let quiet = IN_FLIGHT.with_borrow(VecDeque::is_empty);
            if quiet && self.doing.iter().all(|doing| *doing == Doing::Sleeps) {
                break;
            }
            assert!(round < 9_999, "it does not come to rest: {:?}", self.doing);
            self.arrive(0);
            for cpu in 0..self.doing.len() {
                self.step(cpu);
                self.halt(cpu, None);
            }
            self.pass(1000);
            self.check();
        }
        for (vcpu, known) in self.known.iter().enumerate() {
            assert!(known.owed.is_empty() && !known.asked, "{vcpu} was not given {known:?}");
        }
    }

    /// Lets every CPU play for so long, with guests that never halt.
    fn play(&mut self, time: u64) {
        let end = self.now + time;
        while self.now < end {
            while IN_FLIGHT.with_borrow(|all| !all.is_empty()) {
                self.arrive(0);
            }
            for cpu in 0..self.doing.len() {
                self.step(cpu);
            }
            self.check();
            self.pass(SLICE / 50);
        }
    }

    fn played(&self) -> Vec<f64> {
        self.known.iter().map(|known| known.played as f64 / self.now as f64).collect()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Post(usize, u8),
    Ask(usize),
    Arrive(usize),
    Loop(usize),
    Exit(usize),
    Halt(usize, Option<u64>),
    Pass(u64),
}

/// Three CPUs: one has a pinned virtual CPU, the other two are shared by four, of which one keeps to the last.
const SHAPE: [(&[usize], bool); 5] =
    [(&[0], true), (&[1, 2], false), (&[2, 1], false), (&[1, 2], false), (&[2], false)];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (vcpu, cpu) = (0..SHAPE.len(), 0..3usize);
    let step = prop_oneof![
        5 => (vcpu.clone(), prop_oneof![30u8..34, any::<u8>()]).prop_map(|(vcpu, vector)| Step::Post(vcpu, vector)),
        2 => vcpu.prop_map(Step::Ask),
        6 => any::<usize>().prop_map(Step::Arrive),
        12 => cpu.clone().prop_map(Step::Loop),
        2 => cpu.clone().prop_map(Step::Exit),
        4 => (cpu, prop::option::of(1..3 * SLICE)).prop_map(|(cpu, timer)| Step::Halt(cpu, timer)),
        2 => (1..2 * SLICE).prop_map(Step::Pass),
    ];
    prop::collection::vec(step, 1..800)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn every_interrupt_and_request_is_delivered_once_wherever_its_virtual_cpu_is(steps in steps()) {
        let mut world = World::new(3, &SHAPE);
        for step in steps {
            match step {
                Step::Post(vcpu, vector) => world.post(vcpu, vector),
                Step::Ask(vcpu) => world.ask(vcpu),
                Step::Arrive(choice) => world.arrive(choice),
                Step::Loop(cpu) => world.step(cpu),
                Step::Exit(cpu) => {
                    if matches!(world.doing[cpu], Doing::Plays { .. }) {
                        world.interrupt(cpu);
                    }
                }
                Step::Halt(cpu, timer) => world.halt(cpu, timer),
                Step::Pass(time) => world.pass(time),
            }
            world.check();
        }
        world.settle();
    }
}

#[test]
fn those_who_share_a_cpu_have_equal_parts_of_it() {
    let mut world = World::new(1, &[(&[0][..], false); 4]);
    world.play(100 * SLICE);
    for part in world.played() {
        assert!((0.23..0.27).contains(&part), "{:?}", world.played());
    }
}

#[test]
fn three_on_two_cpus_have_two_thirds_each_and_move() {
    let mut world = World::new(2, &[(&[0, 1][..], false); 3]);
    world.play(300 * SLICE);
    for part in world.played() {
        assert!((0.63..0.70).contains(&part), "{:?}", world.played());
    }
}

#[test]
fn a_pinned_one_is_never_descheduled() {
    let mut world = World::new(2, &[(&[0], true), (&[1], false), (&[1], false)]);
    world.play(100 * SLICE);
    assert_eq!(world.known[0].turns, 1);
    assert_eq!(world.board.state(0), Some(State::Running(0)));
    assert!(world.known[1].turns > 40 && world.known[2].turns > 40);
}

#[test]
fn one_that_wakes_while_another_cpu_is_idle_runs_there_at_once() {
    let mut world = World::new(2, &[(&[0, 1], false), (&[0], false)]);
    // The first runs on CPU 0 and halts there; then the second runs there.
    world.step(0);
    world.step(0);
    world.halt(0, None);
    world.step(0);
    world.step(0);
    world.step(1);
    assert_eq!(world.board.state(0), Some(State::Blocked(0)));
    assert_eq!(world.doing[1], Doing::Sleeps);
    world.post(0, 0x40);
    world.arrive(0);
    // CPU 0 yields to its duties, puts the woken one in the other line and kicks that CPU.
    world.step(0);
    world.step(0);
    world.arrive(0);
    world.step(1);
    assert_eq!(world.board.state(0), Some(State::Running(1)));
    assert_eq!(world.board.state(1), Some(State::Running(0)), "nobody was pushed aside");
    world.settle();
}

#[test]
fn a_sleeper_s_timer_brings_it_back() {
    let mut world = World::new(1, &[(&[0][..], false); 2]);
    world.step(0);
    world.step(0);
    world.halt(0, Some(SLICE / 2));
    world.step(0);
    assert_eq!(world.board.state(0), Some(State::Blocked(0)));
    assert_eq!(world.seats[0].alarm(), world.now + SLICE / 2);
    world.play(SLICE * 2);
    assert_eq!(world.known[0].deadline, None, "it looked at its timer");
    assert!(world.known[0].turns >= 2);
}
