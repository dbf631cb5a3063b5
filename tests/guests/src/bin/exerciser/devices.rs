//! Tests with a device: interrupts counted exactly, DMA to memory that comes and goes, resets.

use guest::acpi::Acpi;
use guest::clock::Clock;
use guest::edu::{Direction, Edu};
use guest::instructions::{disable_interrupts, enable_interrupts, pause, wait_for_interrupt};
use guest::memory::{PAGE, Page, Registers};
use guest::multiboot::Information;
use guest::nvme::Nvme;
use guest::power::{self, Reset};
use guest::{apic, hypercall, interrupts, msi, processors};

use crate::check::{Check, number};

const VECTOR: u8 = 0x51;
const OTHER_VECTOR: u8 = 0x52;
/// Keeps a processor that waits from waiting for ever.
const TICK: u8 = 0x40;

/// `test=msi`.
pub(crate) fn msi(multiboot: &Information, check: &mut Check<'_>) {
    let Some((clock, edu)) = edu(check) else { return };
    apic::enable();
    check.that("enabled", msi::enable(edu.function, VECTOR));
    let count = number(multiboot, "count", 500);
    enable_interrupts();
    check.equal("delivered", raised(clock, &edu, count, VECTOR), count);
    clock.sleep(50);
    check.equal("counted", interrupts::count(VECTOR), count);

    // Another vector from here on.
    msi::enable(edu.function, OTHER_VECTOR);
    check.equal("moved", raised(clock, &edu, 10, OTHER_VECTOR), 10);
    check.equal("old-vector", interrupts::count(VECTOR), count);

    // A processor that waits is woken.
    disable_interrupts();
    apic::start_periodic_timer(TICK, 50_000_000);
    let before = interrupts::count(OTHER_VECTOR);
    for _ in 0..10 {
        let seen = interrupts::count(OTHER_VECTOR);
        edu.raise();
        for _ in 0..50 {
            if interrupts::count(OTHER_VECTOR) != seen {
                break;
            }
            wait_for_interrupt();
        }
        edu.acknowledge();
    }
    apic::stop_timer();
    check.equal("woken", interrupts::count(OTHER_VECTOR) - before, 10);
    enable_interrupts();

    // Switched off, nothing comes.
    msi::disable(edu.function);
    let before = interrupts::count(OTHER_VECTOR);
    edu.raise();
    clock.sleep(50);
    edu.acknowledge();
    check.equal("switched-off", interrupts::count(OTHER_VECTOR) - before, 0);
}

/// What the other processor of `directed` does: nothing, on the CPU or off it.
fn spins() {
    enable_interrupts();
    loop {
        pause();
    }
}

fn halts() {
    loop {
        wait_for_interrupt();
    }
}

/// `test=directed`: the device interrupts the other processor, which executes instructions all the time or none at all.
/// Where both share a CPU with others it is preempted, asleep, or on its way elsewhere when the interrupt comes.
pub(crate) fn directed(multiboot: &Information, check: &mut Check<'_>) {
    let Some((clock, edu)) = edu(check) else { return };
    apic::enable();
    let own = apic::id();
    let Some(other) = Acpi::find().into_iter().flat_map(|acpi| acpi.processors()).find(|id| *id != own) else {
        return check.that("other", false);
    };
    let work = if multiboot.option("state") == Some("halt") { halts } else { spins };
    check.that("started", processors::start(other, clock, work));
    let (address, data) = msi::message_to(other, VECTOR);
    check.that("enabled", msi::enable_with(edu.function, address, data));
    enable_interrupts();
    let count = number(multiboot, "count", 200);
    check.equal("delivered", raised(clock, &edu, count, VECTOR), count);
    clock.sleep(50);
    check.equal("counted", interrupts::count(VECTOR), count);
    check.equal("taken-by", interrupts::last_taken_by(VECTOR).unwrap_or(own), other);
}

/// Raises the device's interrupt so often, each time when the last has come; returns how many came.
fn raised(clock: Clock, edu: &Edu, count: u32, vector: u8) -> u32 {
    let first = interrupts::count(vector);
    for _ in 0..count {
        let before = interrupts::count(vector);
        edu.raise();
        let came = clock.await_for(10_000, || interrupts::count(vector) != before);
        edu.acknowledge();
        if !came {
            break;
        }
    }
    interrupts::count(vector) - first
}

/// `test=msix`.
pub(crate) fn msi_x(multiboot: &Information, check: &mut Check<'_>) {
    let Some(clock) = check.clock() else { return };
    apic::enable();
    enable_interrupts();
    let Some(mut nvme) = Nvme::find(clock) else {
        check.that("device", false);
        return;
    };
    check.note("entries", nvme.messages.count);
    // What is written to the table is what is read from it.
    nvme.messages.set(0, VECTOR, true);
    let (address, data) = msi::message(VECTOR);
    check.that("table", nvme.messages.entry(0) == [address, 0, data, 1]);
    nvme.messages.set(0, VECTOR, false);

    let count = number(multiboot, "count", 200);
    let identified = (0..count).take_while(|_| identified(clock, &mut nvme)).count();
    check.equal("identified", identified as u32, count);
    clock.sleep(50);
    check.equal("counted", interrupts::count(VECTOR), count);
    check.note("vendor", format_args!("{:#06x}", nvme.vendor()));

    // A masked entry keeps its message until it is unmasked, and sends it once.
    for (what, all) in [("entry-masked", false), ("function-masked", true)] {
        let before = interrupts::count(VECTOR);
        if all {
            nvme.messages.mask_all(true)
        } else {
            nvme.messages.mask(0, true)
        }
        let completed = nvme.identify();
        clock.sleep(50);
        let held = interrupts::count(VECTOR) - before;
        if all {
            nvme.messages.mask_all(false)
        } else {
            nvme.messages.mask(0, false)
        }
        clock.await_for(1000, || interrupts::count(VECTOR) != before);
        clock.sleep(50);
        check.that(what, completed && held == 0 && interrupts::count(VECTOR) - before == 1);
    }

    // Another vector, set while the entry is masked.
    nvme.messages.set(0, OTHER_VECTOR, false);
    let before = interrupts::count(VECTOR);
    nvme.identify();
    clock.await_for(1000, || interrupts::count(OTHER_VECTOR) == 1);
    check.equal("moved", interrupts::count(OTHER_VECTOR), 1);
    check.equal("old-vector", interrupts::count(VECTOR) - before, 0);
}

/// One command, and its interrupt.
fn identified(clock: Clock, nvme: &mut Nvme) -> bool {
    let before = interrupts::count(VECTOR);
    nvme.identify() && clock.await_for(1000, || interrupts::count(VECTOR) != before)
}

/// `test=stale`: a translation that devices have used is gone when it is taken away.
pub(crate) fn stale(check: &mut Check<'_>) {
    /// Where devices are to reach pages of the guest a second time: far from all RAM, and within 39 bits.
    const WINDOW: u64 = 0x30_0000_0000;
    const SIZE: u64 = PAGE as u64;
    let Some((_, edu)) = edu(check) else { return };
    let (mut buffer, first, second) = (Page::take(), Page::take(), Page::take());
    // What the device's buffer holds is moved there, and moved from there, through the guest's own page.
    let load = |buffer: &mut Page, value: u8| {
        buffer.fill(|offset| offset as u8 ^ value);
        edu.transfer(Direction::Read, buffer.address(), SIZE);
    };
    let holds = |page: &Page, value: u8| page.is(PAGE, |offset| offset as u8 ^ value);

    check.that("mapped", hypercall::map_for_devices(WINDOW, first.address(), SIZE).is_ok());
    load(&mut buffer, 0x11);
    edu.transfer(Direction::Write, WINDOW, SIZE);
    edu.transfer(Direction::Read, WINDOW, SIZE);
    check.that("reached", holds(&first, 0x11));
    check.that("not-twice", hypercall::map_for_devices(WINDOW, second.address(), SIZE).is_err());

    // The way was used in both directions; now it is gone.
    check.that("unmapped", hypercall::unmap_for_devices(WINDOW, SIZE).is_ok());
    load(&mut buffer, 0x22);
    edu.transfer(Direction::Write, WINDOW, SIZE);
    check.that("write-blocked", holds(&first, 0x11));
    load(&mut buffer, 0x44);
    edu.transfer(Direction::Read, WINDOW, SIZE);
    edu.transfer(Direction::Write, buffer.address(), SIZE);
    // Neither what was there before, nor what a write that came through has left.
    check.that("read-blocked", !holds(&buffer, 0x11) && !holds(&buffer, 0x22));
    check.that("not-unmapped-twice", hypercall::unmap_for_devices(WINDOW, SIZE).is_err());

    // The same place leads elsewhere, and nowhere else.
    check.that("mapped-elsewhere", hypercall::map_for_devices(WINDOW, second.address(), SIZE).is_ok());
    load(&mut buffer, 0x33);
    edu.transfer(Direction::Write, WINDOW, SIZE);
    check.that("reached-elsewhere", holds(&second, 0x33) && holds(&first, 0x11));
    check.that("unmapped-elsewhere", hypercall::unmap_for_devices(WINDOW, SIZE).is_ok());

    // What is not the guest's to give is not given.
    for (what, window, address, length) in [
        ("own-memory", first.address(), second.address(), SIZE),
        ("message-addresses", 0xFEE0_0000, first.address(), SIZE),
        ("no-memory", WINDOW, 0x38_0000_0000, SIZE),
        ("read-only", WINDOW, 0xF_0000, SIZE),
        ("part-of-a-page", WINDOW, first.address(), 512),
        ("nothing", WINDOW, first.address(), 0),
        ("everything", 0, 0, u64::MAX),
    ] {
        check.that(what, hypercall::map_for_devices(window, address, length).is_err());
    }
}

/// `test=reset`: nothing of the last life is left, the device works, and the VM ends in the middle of a transfer.
pub(crate) fn reset(multiboot: &Information, check: &mut Check<'_>) {
    let Some((clock, edu)) = edu(check) else { return };
    let upper = multiboot.memory().map_or(0, |(_, upper)| u64::from(upper) << 10);
    // A word near the end of memory, where nothing else of the guest is.
    let mark = Registers::at((1 << 20) + upper - 0x1_0000);
    check.equal("left-over", mark.read32(0), 0);
    mark.write32(0, 0x5AFE_C0DE);

    // The device cannot be reset, so the transfer that the last life began may go on, now to memory of this one.
    check.note("transfer-left-over", !edu.is_idle());
    check.that("idle", clock.await_for(1000, || edu.is_idle()));
    edu.acknowledge();

    apic::enable();
    enable_interrupts();
    check.that("msi", msi::enable(edu.function, VECTOR));
    let mut page = Page::take();
    page.fill(|offset| offset as u8);
    edu.transfer(Direction::Read, page.address(), PAGE as u64);
    page.fill(|_| 0);
    edu.begin(Direction::Write, page.address(), PAGE as u64, true);
    check.that("interrupt", clock.await_for(1000, || interrupts::count(VECTOR) == 1));
    edu.acknowledge();
    check.that("dma", page.is(PAGE, |offset| offset as u8));

    let way = multiboot.option("way").unwrap_or("cf9");
    let Some(reset) = Reset::from_name(way) else {
        check.that("way", false);
        return;
    };
    check.note("resets", way);
    edu.begin(Direction::Write, page.address(), PAGE as u64, true);
    power::reset(reset)
}

fn edu(check: &mut Check<'_>) -> Option<(Clock, Edu)> {
    let clock = check.clock()?;
    let edu = Edu::find(clock).filter(Edu::is_alive);
    check.that("device", edu.is_some());
    Some((clock, edu?))
}
