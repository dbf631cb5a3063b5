//! `test=smoke`: what every Multiboot guest relies on.

use guest::acpi::Acpi;
use guest::clock::Clock;
use guest::fault::{Fault, attempt};
use guest::instructions::{cpuid, enable_interrupts, in_postern, in8, read_msr, wait_for_interrupt};
use guest::memory::Registers;
use guest::multiboot::Information;
use guest::{apic, interrupts, println};

use crate::check::Check;

const VECTOR: u8 = 0x40;
const PERIODIC_VECTOR: u8 = 0x41;
const HIGHER_VECTOR: u8 = 0x52;

pub(crate) fn run(multiboot: &Information, check: &mut Check<'_>) {
    loader(multiboot, check);
    let Some(acpi) = Acpi::find() else {
        check.that("acpi", false);
        return;
    };
    check.that("acpi", acpi.table(b"FACP").is_some() && acpi.table(b"APIC").is_some());
    println!("result test=smoke processors={}", acpi.processors().count());
    let Some(clock) = check.clock() else { return };
    exceptions(check);
    holes(check);
    timers(clock, check);
}

/// Command line, modules and memory map.
fn loader(multiboot: &Information, check: &mut Check<'_>) {
    println!("result test=smoke cmdline=\"{}\"", multiboot.command_line());
    for module in multiboot.modules() {
        let sum = module.data.iter().fold(0u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
        println!("result test=smoke module=\"{}\" bytes={} sum={sum:#x}", module.text, module.data.len());
    }
    let mut free = 0;
    let mut last = 0;
    let mut sorted = true;
    for region in multiboot.map() {
        println!("result test=smoke region={:#x} length={:#x} kind={}", region.start, region.length, region.kind);
        sorted &= region.start >= last;
        last = region.start + region.length;
        if region.kind == 1 {
            free += region.length;
        }
    }
    check.that("memory-map", sorted && free != 0);
    let upper = multiboot.memory().map(|(_, upper)| u64::from(upper) << 10);
    let map = multiboot.map().find(|region| region.start <= 1 << 20 && region.start + region.length > 1 << 20);
    check.that("memory-sizes", upper == map.map(|region| region.start + region.length - (1 << 20)));
    // The end of the memory above 1 MiB is there.
    if let Some(region) = map {
        let last = Registers::at(region.start + region.length - 8);
        last.write64(0, 0x0123_4567_89AB_CDEF);
        check.that("memory-end", last.read64(0) == 0x0123_4567_89AB_CDEF);
    }
}

/// Exceptions reach the guest's own handlers.
fn exceptions(check: &mut Check<'_>) {
    let vector = |result: Result<(), Fault>| result.err().map(|fault| fault.vector);
    let undefined = attempt(|| {
        // SAFETY: the exception comes back to `attempt`, as do those below.
        unsafe { core::arch::asm!("ud2") }
    });
    check.that("undefined-instruction", vector(undefined) == Some(Fault::UNDEFINED));
    let page = attempt(|| {
        // SAFETY: an address that no table maps.
        let _ = unsafe { (0x6000_0000_0000u64 as *const u8).read_volatile() };
    });
    check.that("page-fault", page.is_err_and(|fault| fault.vector == Fault::PAGE && fault.address == 0x6000_0000_0000));
    if in_postern() {
        let register = attempt(|| read_msr(0xC001_FFFF)).map(drop);
        check.that("unknown-msr", vector(register) == Some(Fault::PROTECTION));
    }
    check.that("cpuid", cpuid(0, 0)[0] >= 1 && cpuid(0x8000_0001, 0)[3] & 1 << 29 != 0);
}

/// Where nothing is, all ones are read, and writes are lost.
fn holes(check: &mut Check<'_>) {
    let nothing = Registers::at(0xFD00_0000);
    nothing.write32(0, 0);
    if in_postern() {
        check.equal("empty-memory", nothing.read32(0), u32::MAX);
    }
    check.equal("empty-port", in8(0x2F8 + 7), 0xFF);
}

/// The local APIC's timer, once and again and again, while the processor waits.
fn timers(clock: Clock, check: &mut Check<'_>) {
    apic::enable();
    let before = clock.ticks();
    apic::start_timer(VECTOR, 2_000_000);
    let mut deadline = clock.after(2000);
    while interrupts::count(VECTOR) == 0 && !deadline.has_passed() {
        wait_for_interrupt();
    }
    println!("result test=smoke timer-microseconds={}", Clock::microseconds(clock.since(before)));
    check.equal("timer", interrupts::count(VECTOR), 1);
    apic::start_periodic_timer(PERIODIC_VECTOR, 2_000_000);
    let mut deadline = clock.after(4000);
    while interrupts::count(PERIODIC_VECTOR) < 20 && !deadline.has_passed() {
        wait_for_interrupt();
    }
    apic::stop_timer();
    enable_interrupts();
    check.that("periodic-timer", interrupts::count(PERIODIC_VECTOR) >= 20);
    check.equal("timer-once", interrupts::count(VECTOR), 1);
    // The same while the processor runs.
    let before = interrupts::count(VECTOR);
    apic::start_timer(VECTOR, 2_000_000);
    check.that("timer-while-running", clock.await_for(2000, || interrupts::count(VECTOR) == before + 1));
    // A vector of a low priority waits until the priority is lowered.
    apic::set_priority(VECTOR >> 4);
    apic::send_self(VECTOR);
    clock.sleep(1);
    let held = interrupts::count(VECTOR);
    apic::set_priority(0);
    clock.await_for(100, || interrupts::count(VECTOR) == 3);
    check.that("priority", held == 2 && interrupts::count(VECTOR) == 3);
    // The same by the register CR8. A vector of the same class waits, one of a higher class does not.
    set_cr8(VECTOR >> 4);
    apic::send_self(VECTOR);
    apic::send_self(HIGHER_VECTOR);
    clock.await_for(100, || interrupts::count(HIGHER_VECTOR) == 1);
    clock.sleep(1);
    let held = interrupts::count(VECTOR) == 3 && interrupts::count(HIGHER_VECTOR) == 1;
    set_cr8((VECTOR >> 4) - 1);
    clock.await_for(100, || interrupts::count(VECTOR) == 4);
    check.that("priority-by-cr8", held && interrupts::count(VECTOR) == 4);
    set_cr8(0);
}

fn set_cr8(class: u8) {
    // SAFETY: the task priority only holds interrupts back.
    unsafe { core::arch::asm!("mov cr8, {}", in(reg) u64::from(class), options(nomem, nostack)) }
}
