//! A virtual CPU's endpoint: those who post, ask and wait against the virtual CPU that looks, enters and leaves.

use interleavings::{LoomWord, Wire};
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;
use postern_kernel::vapic::{Bell, Endpoint, Requests, Trigger};

loom::lazy_static! {
    /// The kick of each host CPU.
    static ref KICKS: [Wire; 2] = [Wire::default(), Wire::default()];
}

/// Descriptors that nobody placed name host CPU 0 and a vector that is not the wake-up's.
const BELL: Bell = Bell { send: |notification| KICKS[notification.destination as usize].send(0), wake_up: 2, kick: 3 };

fn endpoint(id: u32) -> Arc<Endpoint<LoomWord>> {
    Arc::new(Endpoint::with_words(id, id, BELL))
}

/// Everything that a virtual CPU found.
#[derive(Debug, Default)]
struct Found {
    requests: Vec<Requests>,
    vectors: Vec<(u8, Trigger)>,
}

impl Found {
    fn look(&mut self, endpoint: &Endpoint<LoomWord>) {
        let requests = endpoint.take_requests();
        if !requests.is_empty() {
            self.requests.push(requests);
        }
        if let Some((posted, level)) = endpoint.take_posted() {
            let trigger = |vector| if level.contains(vector) { Trigger::Level } else { Trigger::Edge };
            self.vectors.extend((0..=255).filter(|v| posted.contains(*v)).map(|vector| (vector, trigger(vector))));
        }
    }
}

/// The loop of a virtual CPU that goes into the guest once: it looks until it may enter, and is in the guest when this
/// returns.
fn enter(endpoint: &Endpoint<LoomWord>, found: &mut Found) {
    while !endpoint.enter() {
        found.look(endpoint);
    }
}

/// In the guest for as long as nobody kicks. When nobody does any more, what was asked for must have been found.
fn leave_when_kicked(endpoint: &Endpoint<LoomWord>, found: &mut Found) {
    while KICKS[0].answer(0) {
        endpoint.leave();
        enter(endpoint, found);
    }
}

#[test]
fn a_post_reaches_a_virtual_cpu_that_enters_once_with_its_trigger_mode() {
    for trigger in [Trigger::Edge, Trigger::Level] {
        loom::model(move || {
            let endpoint = endpoint(0);
            let poster = {
                let endpoint = Arc::clone(&endpoint);
                thread::spawn(move || endpoint.post(0x41, trigger))
            };
            let mut found = Found::default();
            enter(&endpoint, &mut found);
            poster.join().unwrap();
            leave_when_kicked(&endpoint, &mut found);
            assert_eq!(found.vectors, [(0x41, trigger)]);
        });
    }
}

#[test]
fn a_request_reaches_a_virtual_cpu_that_enters_once() {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(|| {
        let endpoint = endpoint(0);
        let asks = [Requests::NON_MASKABLE, Requests::TIMER].map(|request| {
            let endpoint = Arc::clone(&endpoint);
            thread::spawn(move || endpoint.request(request))
        });
        let mut found = Found::default();
        enter(&endpoint, &mut found);
        asks.into_iter().for_each(|ask| ask.join().unwrap());
        leave_when_kicked(&endpoint, &mut found);
        for request in [Requests::NON_MASKABLE, Requests::TIMER] {
            let times = found.requests.iter().filter(|found| found.contains(request)).count();
            assert_eq!(times, 1, "{request:?} in {found:?}");
        }
    });
}

#[test]
fn stop_stays_whatever_else_is_asked_and_taken() {
    loom::model(|| {
        let endpoint = endpoint(0);
        let asks = [Requests::STOP, Requests::YIELD].map(|request| {
            let endpoint = Arc::clone(&endpoint);
            thread::spawn(move || endpoint.request(request))
        });
        let first = endpoint.take_requests();
        asks.into_iter().for_each(|ask| ask.join().unwrap());
        assert!(!endpoint.enter(), "the machine has ended");
        let second = endpoint.take_requests();
        assert!(second.contains(Requests::STOP) && endpoint.take_requests() == Requests::STOP);
        assert!(first.contains(Requests::YIELD) != second.contains(Requests::YIELD));
    });
}

#[test]
fn a_start_up_comes_with_its_page() {
    loom::model(|| {
        let endpoint = endpoint(0);
        let starter = {
            let endpoint = Arc::clone(&endpoint);
            thread::spawn(move || endpoint.request_start_up(9))
        };
        if endpoint.take_requests().contains(Requests::START_UP) {
            assert_eq!(endpoint.take_start_page(), 9);
        }
        starter.join().unwrap();
    });
}

/// The guest's memory is a cell that the guest may use only with the translations that it had when it entered. Whoever
/// takes a translation away writes the cell once nobody can use it: `loom` fails on any access at the same time.
#[test]
fn memory_is_not_used_any_more_when_the_wait_for_the_flush_is_over() {
    loom::model(|| {
        let endpoint = endpoint(0);
        let memory = Arc::new(UnsafeCell::new(0));
        let other = {
            let (endpoint, memory) = (Arc::clone(&endpoint), Arc::clone(&memory));
            thread::spawn(move || {
                endpoint.request(Requests::FLUSH);
                endpoint.wait_for_flush(thread::yield_now);
                // SAFETY: nobody uses the memory now; that is what the test is about, and loom checks it.
                memory.with_mut(|memory| unsafe { *memory = 1 });
            })
        };
        let mut has_translation = true;
        for _ in 0..2 {
            if endpoint.enter() {
                if has_translation {
                    // SAFETY: whoever changes the memory waits until this is over; loom checks it.
                    memory.with(|memory| assert_eq!(unsafe { *memory }, 0));
                }
                endpoint.leave();
            } else if endpoint.take_requests().contains(Requests::FLUSH) {
                has_translation = false;
            }
        }
        other.join().unwrap();
    });
}

/// A virtual CPU falls asleep and says whether all are.
fn falls_asleep(endpoints: &[Endpoint<LoomWord>; 2], index: usize) -> bool {
    endpoints[index].set_asleep(true);
    Endpoint::are_asleep(endpoints)
}

fn two() -> Arc<[Endpoint<LoomWord>; 2]> {
    Arc::new([0, 1].map(|id| Endpoint::with_words(id, id, BELL)))
}

#[test]
fn of_two_that_fall_asleep_for_good_one_notices() {
    loom::model(|| {
        let endpoints = two();
        let other = {
            let endpoints = Arc::clone(&endpoints);
            thread::spawn(move || falls_asleep(&endpoints, 1))
        };
        let first = falls_asleep(&endpoints, 0);
        assert!(other.join().unwrap() || first);
    });
}

#[test]
fn a_virtual_cpu_that_was_just_asked_to_wake_is_not_taken_for_asleep() {
    loom::model(|| {
        let endpoints = two();
        endpoints[1].set_asleep(true);
        let sleeper = {
            let endpoints = Arc::clone(&endpoints);
            thread::spawn(move || {
                // As the loop of a virtual CPU does when it is kicked.
                endpoints[1].set_asleep(false);
                !endpoints[1].take_requests().is_empty()
            })
        };
        endpoints[1].request(Requests::NON_MASKABLE);
        assert!(!falls_asleep(&endpoints, 0), "the other one has a request or runs");
        sleeper.join().unwrap();
    });
}
