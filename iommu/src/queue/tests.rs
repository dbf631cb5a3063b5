//! The queue against the test unit: batches, and what goes wrong.

use std::cell::Cell;
use std::string::ToString;
use std::vec::Vec;

use super::*;
use crate::address::Iova;
use crate::fixture::{DEFAULT_CAPABILITY, DEFAULT_EXTENDED, Event, Memory, TestUnit, Trouble};
use crate::registers::capability::{Capability, ExtendedCapability};

struct Ticks(Cell<u64>);

impl Clock for Ticks {
    fn nanoseconds(&self) -> u64 {
        self.0.set(self.0.get() + 1000);
        self.0.get()
    }
}

struct Bench {
    memory: Memory,
    unit: TestUnit,
    window: Window<TestUnit>,
    clock: Ticks,
    queue: Queue<Memory>,
}

fn bench() -> Bench {
    bench_of(false)
}

fn bench_of(wide: bool) -> Bench {
    let memory = Memory::new(8);
    // SMTS, which descriptors of 256 bits need.
    let unit = TestUnit::new(memory.clone(), DEFAULT_CAPABILITY, DEFAULT_EXTENDED | 1 << 43);
    let window = Window::new(unit.clone());
    let clock = Ticks(Cell::new(0));
    let abilities =
        Abilities::of(Capability::from_bits(DEFAULT_CAPABILITY), ExtendedCapability::from_bits(DEFAULT_EXTENDED));
    let mut queue = Queue::new(memory.clone(), abilities, wide).unwrap();
    queue.enable(&window, &clock, &mut Commander::new()).unwrap();
    unit.events();
    Bench { memory, unit, window, clock, queue }
}

impl Bench {
    fn submit(&mut self, descriptors: &[Descriptor]) -> Result<(), QueueError> {
        self.queue.submit(&self.window, &self.clock, descriptors.iter().copied())
    }

    fn tails(&self) -> usize {
        self.unit.events().iter().filter(|event| **event == Event::Tail).count()
    }
}

fn domain(domain: u16) -> Descriptor {
    Descriptor::Domain { domain }
}

const DEVICE: SourceId = SourceId::new(7, 0, 1);

fn device_tlb() -> Descriptor {
    Descriptor::DeviceTlb { source: DEVICE, depth: 1, first: Iova::new(0), mask: 0 }
}

#[test]
fn a_batch_is_one_write_of_the_tail_and_an_empty_one_none() {
    let mut bench = bench();
    bench.submit(&[]).unwrap();
    assert_eq!(bench.tails(), 0);
    let batch: Vec<_> = (0..CHUNK as u16).map(domain).collect();
    bench.submit(&batch).unwrap();
    let events = bench.unit.events();
    assert_eq!(events.iter().filter(|event| **event == Event::Tail).count(), 1);
    assert_eq!(events.len(), CHUNK + 1);
    assert_eq!(bench.unit.violations().len(), 0);
}

#[test]
fn a_batch_larger_than_the_queue_goes_in_pieces_in_order() {
    let mut bench = bench();
    let batch: Vec<_> = (0..1000).map(domain).collect();
    bench.submit(&batch).unwrap();
    let subjects: Vec<_> = bench
        .unit
        .events()
        .into_iter()
        .filter_map(|event| if let Event::Taken { subject, .. } = event { Some(subject) } else { None })
        .collect();
    assert_eq!(subjects, (0..1000).collect::<Vec<u16>>());
}

#[test]
fn the_ring_goes_round_many_times() {
    let mut bench = bench();
    for turn in 0..1000 {
        bench.submit(&[domain(turn), domain(turn)]).unwrap();
    }
    assert_eq!(bench.tails(), 1000);
}

/// Descriptors of 256 bits: the ring has two pages, and the status word lies behind them.
#[test]
fn a_wide_ring_goes_round_and_recovers_as_a_narrow_one() {
    let mut bench = bench_of(true);
    let batch: Vec<_> = (0..1000).map(domain).collect();
    bench.submit(&batch).unwrap();
    bench.unit.set_trouble(Some(Trouble::Refuse(4)));
    for _ in 0..200 {
        let refused = QueueError::Refused { descriptor: 4, reason: InvalidDescriptor::Kind };
        assert_eq!(bench.submit(&[domain(1), Descriptor::AllInterrupts, domain(2)]), Err(refused));
    }
    bench.unit.set_trouble(None);
    bench.submit(&[Descriptor::Process { domain: 7, process: 0 }]).unwrap();
    assert_eq!(bench.unit.events().last(), Some(&Event::Taken { kind: 7, granularity: 1, subject: 7 }));
    bench.queue.disable(&bench.window, &bench.clock, &mut Commander::new()).unwrap();
    assert_eq!(bench.unit.violations(), Vec::<std::string::String>::new());
    bench.queue.release();
    assert_eq!(bench.memory.in_use(), 0);
}

#[test]
fn a_unit_that_does_not_answer_is_given_up_once() {
    let mut bench = bench();
    bench.unit.set_trouble(Some(Trouble::DeadQueue));
    let error = bench.submit(&[domain(1)]).unwrap_err();
    assert!(matches!(error, QueueError::Expired { .. }), "{error}");
    assert!(error.to_string().contains("no answer within 2000 ms"), "{error}");
    let now = bench.clock.0.get();
    assert_eq!(bench.submit(&[domain(1)]), Err(QueueError::Dead));
    assert_eq!(bench.clock.0.get(), now);
}

#[test]
fn a_refused_descriptor_is_named_and_the_rest_is_done() {
    let mut bench = bench();
    bench.unit.set_trouble(Some(Trouble::Refuse(4)));
    let batch = [domain(1), Descriptor::AllInterrupts, domain(2), Descriptor::AllInterrupts];
    let refused = QueueError::Refused { descriptor: 4, reason: InvalidDescriptor::Kind };
    assert_eq!(bench.submit(&batch), Err(refused));
    let taken: Vec<_> = bench.unit.events().into_iter().filter(|event| *event != Event::Tail).collect();
    let expected = |subject| Event::Taken { kind: 2, granularity: 2, subject };
    assert_eq!(taken, [expected(1), expected(2)]);
    assert_eq!(
        refused.to_string(),
        "the unit refused the invalidation descriptor 0x00000000000000000000000000000004: its kind is not known"
    );
    bench.submit(&[domain(3)]).unwrap();
}

#[test]
fn a_unit_that_refuses_even_the_wait_is_given_up() {
    let mut bench = bench();
    bench.unit.set_trouble(Some(Trouble::Refuse(5)));
    assert!(matches!(bench.submit(&[domain(1)]), Err(QueueError::Refused { .. })));
    assert_eq!(bench.submit(&[domain(1)]), Err(QueueError::Dead));
}

#[test]
fn a_silent_device_is_named_and_everything_else_done_again() {
    let mut bench = bench();
    bench.unit.set_trouble(Some(Trouble::SilentDevice));
    let silent = QueueError::DeviceSilent { source: DEVICE };
    assert_eq!(bench.submit(&[domain(1), device_tlb()]), Err(silent));
    assert!(silent.is_of_a_device());
    let taken: Vec<_> = bench.unit.events();
    let again = Event::Taken { kind: 2, granularity: 2, subject: 1 };
    assert_eq!(taken.iter().filter(|event| **event == again).count(), 2, "{taken:?}");
    bench.unit.set_trouble(None);
    bench.submit(&[domain(1), device_tlb()]).unwrap();
}

#[test]
fn a_wrong_answer_is_named() {
    let mut bench = bench();
    bench.unit.set_trouble(Some(Trouble::WrongDevice));
    assert_eq!(bench.submit(&[device_tlb()]), Err(QueueError::DeviceWrong { source: DEVICE }));
    bench.unit.set_trouble(None);
    bench.submit(&[device_tlb()]).unwrap();
}

#[test]
fn the_queue_is_turned_off_empty_and_gives_its_memory_back() {
    let mut bench = bench();
    bench.submit(&[domain(1)]).unwrap();
    bench.queue.disable(&bench.window, &bench.clock, &mut Commander::new()).unwrap();
    assert_eq!(bench.unit.status(), 0);
    assert_eq!(bench.unit.violations().len(), 0);
    bench.queue.release();
    assert_eq!(bench.memory.in_use(), 0);
}
