//! The order of events, and what they add up to.

use core::fmt;

use guest::clock::Clock;
use guest::edu::{Direction, Edu};
use guest::memory::{PAGE, Page};
use guest::multiboot::Information;
use guest::{apic, interrupts, msi, println};

/// The vector of the device's own interrupt.
pub(crate) const VECTOR: u8 = 0x50;

/// An attack that runs.
pub(crate) struct Attack<'m> {
    pub(crate) multiboot: &'m Information,
    pub(crate) clock: Clock,
    pub(crate) edu: Edu,
    /// A page of the guest's own that the device may reach.
    pub(crate) own: Page,
    pub(crate) counts: Counts,
}

/// What the tries added up to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) reads: u32,
    pub(crate) writes: u32,
    pub(crate) messages: u32,
    /// Reads that brought data, writes that changed memory of the guest's own that is read-only, and interrupts that
    /// the guest did not ask for.
    pub(crate) leaks: u32,
}

impl<'m> Attack<'m> {
    pub(crate) fn new(multiboot: &'m Information, clock: Clock, edu: Edu) -> Self {
        Self { multiboot, clock, edu, own: Page::take(), counts: Counts::default() }
    }

    /// Attacks; returns how much went wrong: a leak, or a device that does not work where it should.
    pub(crate) fn run(mut self) -> u32 {
        let mut failures = u32::from(!self.own_transfers("before"));
        for _ in 0..self.number("rounds", 1) {
            self.attack_memory();
            self.attack_interrupts();
        }
        // A hypervisor may have taken the device away by now; then it does nothing at all.
        self.own_transfers("afterwards");
        failures += self.counts.leaks;
        let Counts { reads, writes, messages, leaks } = self.counts;
        println!(
            "result ended=intruder tries={} reads={reads} writes={writes} messages={messages} leaks={leaks}",
            reads + writes + messages
        );
        failures
    }

    /// A decimal number of the command line.
    pub(crate) fn number(&self, key: &str, default: u32) -> u32 {
        self.multiboot.option(key).and_then(|text| text.parse().ok()).unwrap_or(default)
    }

    /// Says what is tried next, after a pause for the neighbour to be at work.
    pub(crate) fn begin(&self, name: &str, kind: &str, target: fmt::Arguments<'_>) {
        self.clock.sleep(u64::from(self.number("pause", 0)));
        println!("attack name={name} kind={kind} {target}");
    }

    /// The device's DMA to the guest's own memory, there and back, with an interrupt at the end: whether it works.
    fn own_transfers(&mut self, when: &str) -> bool {
        apic::enable();
        guest::instructions::enable_interrupts();
        let has_messages = msi::enable(self.edu.function, VECTOR);
        self.own.fill(pattern);
        let finished = self.edu.transfer(Direction::Read, self.own.address(), PAGE as u64);
        self.own.fill(|_| 0);
        let before = interrupts::count(VECTOR);
        self.edu.begin(Direction::Write, self.own.address(), PAGE as u64, true);
        let interrupted = self.clock.await_for(1000, || interrupts::count(VECTOR) != before);
        self.edu.acknowledge();
        let moved = self.own.is(PAGE, pattern);
        println!(
            "result own-dma={when} finished={finished} data={} msi={}",
            if moved { "moved" } else { "lost" },
            if !has_messages {
                "absent"
            } else if interrupted {
                "arrived"
            } else {
                "lost"
            }
        );
        finished && moved && interrupted
    }
}

/// What the guest's own data looks like.
pub(crate) fn pattern(offset: usize) -> u8 {
    (offset as u8).wrapping_mul(37).wrapping_add((offset >> 8) as u8) ^ 0x5A
}
