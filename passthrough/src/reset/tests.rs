use core::cell::Cell;

use super::*;
use crate::fake::{FakeClock, FakeFunction, Trace, offset};

const ADDRESS: PciAddress = PciAddress::new(0, 1, 0, 0);

fn layout() -> Layout {
    Layout {
        power: Some(offset::POWER),
        msi: Some(offset::MSI),
        msix: Some(offset::MSI_X),
        express: Some(offset::EXPRESS),
        advanced: Some(offset::ADVANCED),
        vital_product_data: None,
    }
}

fn resetter<'a>(space: &'a FakeFunction, clock: &'a FakeClock) -> Resetter<'a, FakeFunction, FakeClock> {
    static OVERDUE: AtomicBool = AtomicBool::new(false);
    Resetter { address: ADDRESS, space, layout: layout(), clock, overdue: &OVERDUE }
}

fn milliseconds(clock: &FakeClock) -> u64 {
    clock.nanoseconds() / MILLISECOND
}

#[test]
fn a_reset_waits_for_the_function_and_no_longer() {
    let (function, clock) = (FakeFunction::endpoint(&Trace::default()), FakeClock::default());
    function.set_silence(2000);
    resetter(&function, &clock).reset_alone(Method::FunctionLevel).unwrap();
    let took = milliseconds(&clock);
    assert!((2100..2300).contains(&took), "{took} ms");
}

#[test]
fn outstanding_requests_are_waited_for_with_a_bound() {
    let (function, clock) = (FakeFunction::endpoint(&Trace::default()), FakeClock::default());
    function.put(offset::EXPRESS + 10, 2, 0x20, 0);
    resetter(&function, &clock).reset_alone(Method::FunctionLevel).unwrap();
    let took = milliseconds(&clock);
    assert!((1100..1300).contains(&took), "{took} ms");
}

#[test]
fn no_answer_is_an_error_after_sixty_seconds() {
    let (function, clock) = (FakeFunction::endpoint(&Trace::default()), FakeClock::default());
    function.set_silence(u32::MAX);
    for method in [Method::FunctionLevel, Method::AdvancedFeatures] {
        let function = FakeFunction::endpoint(&Trace::default());
        function.set_silence(u32::MAX);
        let before = milliseconds(&clock);
        let error = resetter(&function, &clock).reset_alone(method).unwrap_err();
        assert_eq!(error, ResetError::NoAnswer { function: ADDRESS, method });
        let took = milliseconds(&clock) - before;
        assert!((60_000..61_000).contains(&took), "{took} ms");
    }
    assert_eq!(function.resets(), 0);
}

#[test]
fn the_retry_status_is_no_answer() {
    let (function, clock) = (FakeFunction::endpoint(&Trace::default()), FakeClock::default());
    function.poke(0, 2, 0x0001);
    let error = resetter(&function, &clock).await_answer(Method::Bus).unwrap_err();
    assert_eq!(error, ResetError::NoAnswer { function: ADDRESS, method: Method::Bus });
}

#[test]
fn a_saved_state_comes_back_with_the_command_register_last() {
    let function = FakeFunction::endpoint(&Trace::default());
    function.poke(0x04, 2, 0x0146);
    function.poke(offset::EXPRESS + 8, 2, 0x2810);
    function.poke(offset::MSI + 16, 4, 0x5);
    let state = SavedState::save(&function);
    function.write_u16(offset::EXPRESS + 8, 0x8000);
    assert_eq!(function.resets(), 1);
    function.set_silence(0);
    while function.read_u16(0) == 0xffff {}
    function.take_writes();
    let mut later = state.clone();
    later.refresh(&function);
    assert_ne!(later, state, "the reset shows");
    state.restore(&function);
    assert_eq!(SavedState::save(&function), state);
    later.refresh(&function);
    assert_eq!(later, state);
    assert_eq!(function.peek(0x10, 4), 0xfe00_0004);
    assert_eq!(function.peek(offset::MSI + 16, 4), 0x5);
    let writes = function.take_writes();
    assert_eq!(writes.last(), Some(&(0x04, 2, 0x0146)));
    assert_eq!(function.resets(), 1, "restoring resets nothing");
}

#[test]
fn the_clock_is_looked_at_between_tries() {
    let (function, clock) = (FakeFunction::endpoint(&Trace::default()), FakeClock::default());
    let looks = Cell::new(0);
    let done = resetter(&function, &clock).wait_until(10 * MILLISECOND, || {
        looks.set(looks.get() + 1);
        looks.get() == 4
    });
    assert!(done);
    assert_eq!(looks.get(), 4);
    assert!(!resetter(&function, &clock).wait_until(10 * MILLISECOND, || false));
}
