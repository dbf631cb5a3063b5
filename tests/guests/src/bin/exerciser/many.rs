//! Tests of the local APIC: several processors, and x2APIC mode.

use core::sync::atomic::{AtomicU32, Ordering};

use guest::acpi::Acpi;
use guest::apic::{self, Command};
use guest::instructions::{cpuid, disable_interrupts, enable_interrupts, wait_for_interrupt};
use guest::multiboot::Information;
use guest::{interrupts, processors};

use crate::check::{Check, number};

/// From the first processor to the other, and back.
const QUESTION: u8 = 0x60;
const ANSWER: u8 = 0x61;
/// The vector of exceptions that an NMI has.
const NMI: u8 = 2;

/// Milliseconds for what takes one, on an emulator whose processors may be starved by others for longer than a second.
const PATIENCE: u64 = 10_000;

/// The id of the processor that wants answers.
static ASKER: AtomicU32 = AtomicU32::new(0);

/// What the other processor does: answers every question.
fn answer() {
    let mut seen = interrupts::count(QUESTION);
    loop {
        let now = interrupts::count(QUESTION);
        if now == seen {
            wait_for_interrupt();
        } else {
            seen = now;
            apic::send(ASKER.load(Ordering::SeqCst), Command::Fixed(ANSWER));
        }
    }
}

/// `test=processors`.
pub(crate) fn processors(multiboot: &Information, check: &mut Check<'_>) {
    let Some(clock) = check.clock() else { return };
    apic::enable();
    let own = apic::id();
    ASKER.store(own, Ordering::SeqCst);
    let others = || Acpi::find().into_iter().flat_map(|acpi| acpi.processors()).filter(|id| *id != own);
    check.equal("others", others().count(), 1);
    let Some(other) = others().next() else { return };
    check.that("started", processors::start(other, clock, answer));
    enable_interrupts();

    let count = number(multiboot, "count", 1000);
    let mut answered = 0;
    for asked in 1..=count {
        apic::send(other, Command::Fixed(QUESTION));
        if !clock.await_for(PATIENCE, || interrupts::count(ANSWER) == asked) {
            break;
        }
        answered = asked;
    }
    check.equal("answered", answered, count);
    clock.sleep(50);
    check.equal("asked", interrupts::count(QUESTION), count);
    check.equal("answers", interrupts::count(ANSWER), count);
    check.equal("taken-by", interrupts::last_taken_by(QUESTION).unwrap_or(own), other);

    apic::send(other, Command::Nmi);
    check.that("nmi", clock.await_for(PATIENCE, || interrupts::count(NMI) == 1));
    check.equal("nmi-taken-by", interrupts::last_taken_by(NMI).unwrap_or(own), other);

    // INIT stops it; it does not answer until it is started again.
    disable_interrupts();
    apic::send(other, Command::Init);
    clock.sleep(10);
    enable_interrupts();
    let before = interrupts::count(ANSWER);
    apic::send(other, Command::Fixed(QUESTION));
    clock.sleep(50);
    check.equal("stopped", interrupts::count(ANSWER), before);
    check.that("started-again", processors::start(other, clock, answer));
    apic::send(other, Command::Fixed(QUESTION));
    check.that("answers-again", clock.await_for(PATIENCE, || interrupts::count(ANSWER) == before + 1));
}

/// `test=x2apic`.
pub(crate) fn extended(check: &mut Check<'_>) {
    let Some(clock) = check.clock() else { return };
    apic::enable();
    enable_interrupts();
    let id = apic::id();
    apic::send_self(QUESTION);
    check.that("xapic", clock.await_for(1000, || interrupts::count(QUESTION) == 1));
    check.that("offered", cpuid(1, 0)[2] & 1 << 21 != 0);
    apic::extend();
    check.equal("id", apic::id(), id);
    apic::send_self(QUESTION);
    check.that("interrupt", clock.await_for(1000, || interrupts::count(QUESTION) == 2));
    apic::start_timer(ANSWER, 1_000_000);
    check.that("timer", clock.await_for(1000, || interrupts::count(ANSWER) == 1));
    apic::set_priority(QUESTION >> 4);
    apic::send_self(QUESTION);
    clock.sleep(5);
    let held = interrupts::count(QUESTION) == 2;
    apic::set_priority(0);
    check.that("priority", held && clock.await_for(1000, || interrupts::count(QUESTION) == 3));
}
