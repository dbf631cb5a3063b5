//! `test=legacy`: interrupts as hobby kernels use them, from the 8259s, with the local APIC as firmware left it, and
//! with the local APIC off.

use guest::clock::Clock;
use guest::instructions::{read_msr, wait_for_interrupt, write_msr};
use guest::{interrupts, legacy, println};

use crate::check::Check;

const COUNT: u32 = 50;
const APIC_BASE: u32 = 0x1B;
const ENABLED: u64 = 1 << 11;
/// Lines of the timer and of the clock.
const TIMER_LINE: u16 = 1 << 0;
const CLOCK_LINE: u16 = 1 << 8;

pub(crate) fn run(check: &mut Check<'_>) {
    let Some(clock) = check.clock() else { return };
    legacy::start(TIMER_LINE);
    legacy::start_timer(1000);
    check.that("timer", comes(clock, legacy::TIMER));
    // Masked, it is remembered once and does not come.
    legacy::stop();
    let before = interrupts::count(legacy::TIMER);
    clock.sleep(20);
    check.equal("masked", interrupts::count(legacy::TIMER), before);
    // Through the second controller.
    legacy::start(CLOCK_LINE);
    legacy::set_clock(true);
    check.that("clock", comes(clock, legacy::CLOCK));
    legacy::set_clock(false);
    // A processor without its APIC takes them at its pin.
    // SAFETY: switching the APIC off moves no memory of the guest.
    unsafe { write_msr(APIC_BASE, read_msr(APIC_BASE) & !ENABLED) };
    legacy::start(TIMER_LINE);
    check.that("apic-off", comes(clock, legacy::TIMER));
    legacy::stop();
    println!("result test=legacy counted={}", interrupts::count(legacy::TIMER) + interrupts::count(legacy::CLOCK));
}

/// Whether the vector comes as often as it should, each time to a processor that waits.
fn comes(clock: Clock, vector: u8) -> bool {
    let target = interrupts::count(vector) + COUNT;
    let mut deadline = clock.after(4000);
    while interrupts::count(vector) < target && !deadline.has_passed() {
        wait_for_interrupt();
    }
    interrupts::count(vector) >= target
}
