//! Each transition of a virtual processor's place against those who post and against the wake-up handler.

use interleavings::{LoomWord, Wire};
use iommu::interrupt::posted::placement::{Notifier, Placement, Processor, Sleep, Sleepers, State, Vectors, post};
use iommu::interrupt::posted::{Notification, PostedInterruptDescriptor};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

const VECTORS: Vectors = Vectors { notification: 1, wake_up: 2 };
const SLOT: usize = 3;
const VECTOR: u8 = 0x41;

/// Two processors with one word of sleepers, one virtual processor.
struct World {
    descriptor: PostedInterruptDescriptor<LoomWord>,
    processors: [Processor<LoomWord, 1>; 2],
    wires: [Wire; 2],
    wakes: AtomicUsize,
}

impl Notifier for World {
    fn send(&self, notification: Notification) {
        self.wires[notification.destination as usize].send(notification.vector);
    }
}

impl Sleepers<LoomWord> for World {
    fn descriptor(&self, slot: usize) -> Option<&PostedInterruptDescriptor<LoomWord>> {
        (slot == SLOT).then_some(&self.descriptor)
    }

    fn wake(&self, _slot: usize) {
        self.wakes.fetch_add(1, Ordering::AcqRel);
    }
}

impl World {
    fn new() -> (Arc<Self>, Placement) {
        let world = Self {
            descriptor: PostedInterruptDescriptor::default(),
            processors: [Processor::new(0), Processor::new(1)],
            wires: [Wire::default(), Wire::default()],
            wakes: AtomicUsize::new(0),
        };
        let placement = Placement::new(&world.descriptor, SLOT, VECTORS);
        (Arc::new(world), placement)
    }

    fn running() -> (Arc<Self>, Placement) {
        let (world, mut placement) = Self::new();
        placement.load(&world.descriptor, &world.processors, 0).unwrap();
        (world, placement)
    }

    fn blocked() -> (Arc<Self>, Placement) {
        let (world, mut placement) = Self::running();
        assert_eq!(placement.block(&world.descriptor, &world.processors), Ok(Sleep::Sound));
        (world, placement)
    }

    /// The wake-up handler of a processor, if its interrupt is pending.
    fn handle_wake_up(&self, cpu: usize) {
        if self.wires[cpu].answer(VECTORS.wake_up) {
            self.processors[cpu].wake_up(self);
        }
    }

    /// How often the vector is taken now.
    fn take(&self) -> u32 {
        self.descriptor.take().map_or(0, |words| {
            assert_eq!(words[1] & !(1 << (VECTOR & 63)) | words[0] | words[2] | words[3], 0, "invented");
            words[1].count_ones()
        })
    }

    /// The virtual processor is in the guest on this processor: what notifies it is taken.
    fn take_if_notified(&self, cpu: usize) -> u32 {
        if self.wires[cpu].answer(VECTORS.notification) { self.take() } else { 0 }
    }
}

fn poster(world: &Arc<World>) -> thread::JoinHandle<()> {
    let world = Arc::clone(world);
    thread::spawn(move || post(&world.descriptor, VECTOR, &*world))
}

/// Loads on `cpu` and enters, then is notified of what comes later: the interrupt is taken once.
fn loads_against_a_poster(world: Arc<World>, mut placement: Placement, cpu: usize) {
    let poster = poster(&world);
    placement.load(&world.descriptor, &world.processors, cpu).unwrap();
    let mut taken = world.take();
    poster.join().unwrap();
    taken += world.take_if_notified(cpu);
    assert_eq!(taken, 1);
    assert!(!world.descriptor.has_requests() && !world.processors[0].lists(SLOT) && !world.processors[1].lists(SLOT));
}

#[test]
fn a_first_load_loses_nothing() {
    loom::model(|| {
        let (world, placement) = World::new();
        loads_against_a_poster(world, placement, 0);
    });
}

#[test]
fn a_preempted_one_is_loaded_on_the_same_processor_and_on_another() {
    for cpu in [0, 1] {
        loom::model(move || {
            let (world, mut placement) = World::running();
            placement.preempt(&world.descriptor).unwrap();
            loads_against_a_poster(world, placement, cpu);
        });
    }
}

#[test]
fn a_blocked_one_is_loaded_on_the_same_processor_and_on_another() {
    for cpu in [0, 1] {
        loom::model(move || {
            let (world, placement) = World::blocked();
            loads_against_a_poster(world, placement, cpu);
        });
    }
}

#[test]
fn what_comes_around_a_preemption_is_found_at_the_next_load() {
    loom::model(|| {
        let (world, mut placement) = World::running();
        let poster = poster(&world);
        placement.preempt(&world.descriptor).unwrap();
        poster.join().unwrap();
        assert!(world.descriptor.is_pending());
        placement.load(&world.descriptor, &world.processors, 1).unwrap();
        assert_eq!(world.take(), 1);
    });
}

#[test]
fn two_posters_around_a_preemption_and_a_load_elsewhere() {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(|| {
        let (world, mut placement) = World::running();
        let first = poster(&world);
        let second = {
            let world = Arc::clone(&world);
            thread::spawn(move || post(&world.descriptor, VECTOR ^ 1, &*world))
        };
        let mut seen = [0; 4];
        let mut add = |taken: Option<[u64; 4]>| {
            for (seen, taken) in seen.iter_mut().zip(taken.unwrap_or_default()) {
                assert_eq!(*seen & taken, 0, "delivered twice");
                *seen |= taken;
            }
        };
        placement.preempt(&world.descriptor).unwrap();
        placement.load(&world.descriptor, &world.processors, 1).unwrap();
        add(world.descriptor.take());
        first.join().unwrap();
        second.join().unwrap();
        if world.wires[1].answer(VECTORS.notification) {
            add(world.descriptor.take());
        }
        assert_eq!(seen, [0, 0b11, 0, 0]);
    });
}

#[test]
fn a_virtual_processor_that_blocks_is_woken_or_does_not_sleep() {
    loom::model(|| {
        let (world, mut placement) = World::running();
        let poster = poster(&world);
        // In the guest until now: what notified it meanwhile was taken.
        let mut taken = world.take_if_notified(0);
        if placement.block(&world.descriptor, &world.processors).unwrap() == Sleep::Pending {
            assert_eq!(placement.state(), State::Running(0));
            taken += world.take();
            poster.join().unwrap();
            assert_eq!(taken, 1, "an interrupt that keeps it awake is there");
            return;
        }
        world.handle_wake_up(0);
        poster.join().unwrap();
        world.handle_wake_up(0);
        let woken = world.wakes.load(Ordering::Acquire);
        assert_eq!((woken, taken), if taken == 0 { (1, 0) } else { (0, 1) }, "a lost or an idle wake-up");
        placement.load(&world.descriptor, &world.processors, 1).unwrap();
        assert_eq!(taken + world.take(), 1);
    });
}

/// The wake-up handler runs as soon as its interrupt is there, also in the middle of a transition.
fn poster_and_handlers(world: &Arc<World>) -> thread::JoinHandle<()> {
    let world = Arc::clone(world);
    thread::spawn(move || {
        post(&world.descriptor, VECTOR, &*world);
        world.handle_wake_up(0);
        world.handle_wake_up(1);
    })
}

#[test]
fn a_handler_in_the_middle_of_a_block_finds_the_sleeper() {
    loom::model(|| {
        let (world, mut placement) = World::running();
        let poster = poster_and_handlers(&world);
        let sleep = placement.block(&world.descriptor, &world.processors).unwrap();
        poster.join().unwrap();
        let notified = world.wires[0].answer(VECTORS.notification);
        assert_eq!(notified, sleep == Sleep::Pending);
        assert_eq!(world.wakes.load(Ordering::Acquire), usize::from(sleep == Sleep::Sound), "a lost wake-up");
    });
}

#[test]
fn a_handler_in_the_middle_of_a_migration_finds_the_sleeper() {
    loom::model(|| {
        let (world, mut placement) = World::blocked();
        let poster = poster_and_handlers(&world);
        let _told = placement.migrate(&world.descriptor, &world.processors, 1).unwrap();
        poster.join().unwrap();
        assert!(world.wakes.load(Ordering::Acquire) >= 1, "a lost wake-up");
    });
}

#[test]
fn a_sleeper_that_migrates_is_woken_by_one_of_the_two() {
    loom::model(|| {
        let (world, mut placement) = World::blocked();
        let poster = poster(&world);
        let old = {
            let world = Arc::clone(&world);
            thread::spawn(move || world.handle_wake_up(0))
        };
        let moved = placement.migrate(&world.descriptor, &world.processors, 1).unwrap();
        poster.join().unwrap();
        old.join().unwrap();
        // The old processor's handler runs late, too.
        world.handle_wake_up(0);
        world.handle_wake_up(1);
        assert_eq!(placement.state(), State::Blocked(usize::from(moved == Sleep::Sound)));
        assert!(world.processors[1].lists(SLOT) == (moved == Sleep::Sound));
        assert!(world.wakes.load(Ordering::Acquire) >= 1, "a lost wake-up");
        placement.load(&world.descriptor, &world.processors, 1).unwrap();
        assert_eq!(world.take(), 1);
    });
}

/// The handler of the processor that listed it looks at the list while the virtual processor, awake for another reason,
/// runs elsewhere and sleeps again there.
#[test]
fn a_handler_that_is_late_takes_nothing_from_the_next_sleep() {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(|| {
        let (world, mut placement) = World::blocked();
        post(&world.descriptor, VECTOR, &*world);
        let handler = {
            let world = Arc::clone(&world);
            thread::spawn(move || world.handle_wake_up(0))
        };
        placement.load(&world.descriptor, &world.processors, 1).unwrap();
        assert_eq!(world.take(), 1);
        assert_eq!(placement.block(&world.descriptor, &world.processors), Ok(Sleep::Sound));
        assert_eq!(placement.migrate(&world.descriptor, &world.processors, 0), Ok(Sleep::Sound));
        let poster = poster(&world);
        poster.join().unwrap();
        handler.join().unwrap();
        let before = world.wakes.load(Ordering::Acquire);
        let pending = world.wires[0].answer(VECTORS.wake_up);
        let served = pending && world.processors[0].wake_up(&*world) == 1;
        assert!(served || before >= 1, "the second sleep was not woken");
        placement.load(&world.descriptor, &world.processors, 0).unwrap();
        assert_eq!(world.take(), 1);
    });
}

#[test]
fn what_comes_around_parking_waits() {
    loom::model(|| {
        let (world, mut placement) = World::blocked();
        let poster = poster(&world);
        placement.park(&world.descriptor, &world.processors).unwrap();
        poster.join().unwrap();
        world.handle_wake_up(0);
        assert_eq!(world.wakes.load(Ordering::Acquire), 0, "nobody wakes what is parked");
        assert!(world.descriptor.is_pending());
        placement.load(&world.descriptor, &world.processors, 0).unwrap();
        assert_eq!(world.take(), 1);
    });
}
