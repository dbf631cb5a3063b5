//! Runs one program on both.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use remapping_unit_model::Configuration;

use crate::emulator::{DEVICES, Emulator};
use crate::program::divergence::Divergence;
use crate::program::layout::{self, CONTEXTS, INTERRUPTS, ROOTS, SLOTS, STATUS, TABLES};
use crate::program::operation::{Check, Flaw, Invalidation, Operation, Program, Target};
use crate::program::pair::Pair;

/// Counts over programs.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) programs: u64,
    pub(crate) transfers: u64,
    pub(crate) faults: u64,
    /// Answers of both that memory alone would not have given.
    pub(crate) stale: u64,
    pub(crate) interrupts: u64,
    pub(crate) divergences: BTreeMap<Divergence, u64>,
}

/// One program under way.
pub(crate) struct Run<'a> {
    pub(crate) pair: Pair<'a>,
    pub(crate) careful: bool,
    pub(crate) caching_mode: bool,
    pub(crate) tally: &'a mut Tally,
    /// Where each device's pages have led since all translations were invalidated: what QEMU may remember.
    pub(crate) history: BTreeSet<(usize, u64, u64)>,
    /// The devices whose context entries have said pass-through.
    pub(crate) passed: BTreeSet<usize>,
    /// What transfers may have put into the devices' buffers.
    pub(crate) reads: Vec<super::transfer::Reading>,
    /// The place in every buffer that the next transfer uses.
    pub(crate) place: u64,
    waits: u32,
}

/// Runs `program`.
///
/// # Errors
/// The first difference that has no explanation.
pub(crate) fn run(
    emulator: &mut Emulator,
    configuration: &Configuration,
    program: &Program,
    tally: &mut Tally,
) -> Result<()> {
    let pair = Pair::new(emulator, configuration, program.levels)?;
    let mut run = Run {
        pair,
        careful: program.careful,
        caching_mode: configuration.caching_mode,
        tally,
        history: BTreeSet::new(),
        passed: BTreeSet::new(),
        reads: Vec::new(),
        place: 0,
        waits: 0,
    };
    run.tally.programs += 1;
    for (index, operation) in program.operations.iter().enumerate() {
        run.step(*operation).with_context(|| format!("operation {index}, {operation:?}"))?;
    }
    run.finish()
}

impl Run<'_> {
    fn finish(&mut self) -> Result<()> {
        let buffers = self.pair.end()?;
        for reading in std::mem::take(&mut self.reads) {
            self.judge_reading(&reading, &buffers)?;
        }
        if let Some((address, theirs, ours)) = self.pair.difference() {
            anyhow::bail!("memory at {address:#x}: QEMU {theirs:#x}, the model {ours:#x}");
        }
        Ok(())
    }

    fn step(&mut self, operation: Operation) -> Result<()> {
        match operation {
            Operation::Root { root, bus, context, flaw } => {
                let (low, high) = flawed(CONTEXTS[context] | 1, 0, flaw, 0b1111_1111_1111);
                self.put_pair(ROOTS[root] + bus * 16, low, high);
                self.heal(&[Invalidation::Contexts, Invalidation::Pages])
            }
            Operation::Context { device, levels, table, kind, flaw } => {
                let (low, high) = layout::context(levels, table, kind);
                // A careful program's domain ids stand for one table each.
                let flaw = flaw.filter(|bit| !self.careful || !(72..88).contains(bit));
                let (low, high) = flawed(low, high, flaw, 0xfff);
                let at = CONTEXTS[usize::from(DEVICES[device] >> 8)] + u64::from(DEVICES[device] & 0xff) * 16;
                let old = self.pair.ram.get(at + 8).unwrap_or(0) >> 8 & 0xffff;
                self.put_pair(at, low, high);
                if low >> 2 & 3 == 2 {
                    self.passed.insert(device);
                }
                let mut owed = vec![Invalidation::Context { domain: old, device, mask: 0 }];
                if self.caching_mode {
                    owed.push(Invalidation::Context { domain: 0, device, mask: 0 });
                    owed.push(Invalidation::PagesOf { domain: high >> 8 & 0xffff });
                }
                owed.push(Invalidation::PagesOf { domain: old });
                self.heal(&owed)
            }
            Operation::Entry { level, table, slot, to, permissions, flaw } => {
                let tables = TABLES[level - 1];
                let value = match to {
                    Target::Nowhere => 0,
                    Target::Table(next) if level > 1 => {
                        let lower = TABLES[level - 2];
                        lower[next % lower.len()] | permissions
                    }
                    Target::Table(choice) => layout::page(1, choice as u8) | permissions,
                    Target::Page(choice) => layout::page(level, choice) | permissions | u64::from(level > 1) << 7,
                };
                let (value, _) = flawed(value, 0, flaw.map(|bit| bit % 64), 0xfff);
                self.pair.put(tables[table % tables.len()] + SLOTS[slot] * 8, value);
                self.heal_pages(level, slot)
            }
            Operation::Interrupt { index, destination, source, flaw } => {
                let source = match source {
                    Check::None => 0,
                    Check::Device { device, qualifier } => 1 << 18 | qualifier << 16 | u64::from(DEVICES[device]),
                    // QEMU takes the high byte for the end: only ranges of one bus mean the same.
                    Check::Bus(bus) => 2 << 18 | bus << 8 | bus,
                };
                let extended = self.pair.model.unit.configuration().extended_interrupts;
                let destination = if extended { destination } else { destination & 0xff00 };
                let low = destination << 32 | u64::from(self.pair.emulator.new_vector()) << 16 | 1;
                // No delivery modes that would stop or reset the processor.
                let (low, source) = flawed(low, source, flaw, !0xc0);
                self.put_pair(INTERRUPTS + index * 16, low, source);
                self.heal(&[Invalidation::Interrupt { index, mask: 0 }])
            }
            Operation::SetRoot { root } => {
                self.pair.set_root(ROOTS[root])?;
                self.history.clear();
                self.heal(&[Invalidation::Contexts, Invalidation::Pages])
            }
            Operation::Invalidate(invalidation) => self.invalidate(&[invalidation]),
            Operation::Descriptor { kind, low, high } => self.descriptor(kind, low, high),
            Operation::Transfer { device, write, slots, offset, beyond } => {
                let beyond = if beyond == 0 { 0 } else { 1 << beyond };
                self.transfer(device, write, layout::address(slots, offset) | beyond)
            }
            Operation::Message { device, index, subhandle, compatible, flaw } => {
                self.message(device, index, subhandle, compatible, flaw)
            }
        }
    }

    /// Both halves of an entry.
    fn put_pair(&self, at: u64, low: u64, high: u64) {
        self.pair.put(at, low);
        self.pair.put(at + 8, high);
    }

    /// In a careful program, what a change owes.
    fn heal(&mut self, owed: &[Invalidation]) -> Result<()> {
        if self.careful { self.invalidate(owed) } else { Ok(()) }
    }

    /// What a change of a page table owes: for leaves of 4 KiB one page at a time, for others in other ways.
    fn heal_pages(&mut self, level: usize, slot: usize) -> Result<()> {
        let mut owed = Vec::new();
        match level {
            1 => {
                for domain in 1..=4 {
                    for upper in 0..8u8 {
                        let slots = [upper >> 2 & 1, upper >> 1 & 1, upper & 1, slot as u8];
                        owed.push(Invalidation::Page { domain, slots, mask: 0, leaves_only: true });
                    }
                }
            }
            2 => {
                for domain in 1..=4 {
                    for upper in 0..4u8 {
                        let slots = [upper >> 1 & 1, upper & 1, slot as u8, 0];
                        owed.push(Invalidation::Page { domain, slots, mask: 9, leaves_only: false });
                    }
                }
            }
            3 => owed.extend((1..=4).map(|domain| Invalidation::PagesOf { domain })),
            _ => owed.push(Invalidation::Pages),
        }
        self.heal(&owed)
    }

    fn invalidate(&mut self, invalidations: &[Invalidation]) -> Result<()> {
        let descriptors: Vec<_> = invalidations.iter().map(|invalidation| descriptor(*invalidation)).collect();
        for (low, _) in &descriptors {
            match low & 15 {
                1 => self.pair.half_forgetful.forget_contexts(*low),
                2 if low >> 4 & 3 == 1 => self.history.clear(),
                _ => {}
            }
        }
        self.waits += 1;
        self.pair.submit(&descriptors, self.waits)
    }
    /// A descriptor that is nearly well-formed.
    fn descriptor(&mut self, kind: u64, low: u64, high: u64) -> Result<()> {
        let odd = low >> 60;
        let low = kind | 1 << (4 + low % 2) | 1 << (low >> 8 & 63);
        let high = if odd < 4 { 1 << (high & 63) } else { 0 };
        let (low, high) = match kind {
            // QEMU ends with a failed assertion where both kinds of a wait are asked for.
            5 => (low & !(1 << 4) | 1 << 5, if odd < 8 { STATUS + 128 + (high & 3) } else { STATUS + 128 }),
            _ => (low, high),
        };
        let taken = self.pair.try_submit(low, high)?;
        self.judge_descriptor(low, high, taken)
    }
}

/// An entry with one bit turned over, unless it is one of those outside `allowed` in the low half, or leads to
/// another table or another domain's.
fn flawed(low: u64, high: u64, flaw: Flaw, allowed: u64) -> (u64, u64) {
    // Bits 45:12 lead to other frames.
    let allowed = allowed | 0xffff_c000_0000_0000;
    match flaw {
        Some(bit @ 0..64) if allowed >> bit & 1 != 0 => (low ^ 1 << bit, high),
        Some(bit @ 64..128) => (low, high ^ 1 << (bit - 64)),
        _ => (low, high),
    }
}

/// What goes into the queue.
fn descriptor(invalidation: Invalidation) -> (u64, u64) {
    let source = |device: usize| u64::from(DEVICES[device]) << 32;
    match invalidation {
        Invalidation::Contexts => (1 | 1 << 4, 0),
        Invalidation::ContextsOf { domain } => (1 | 2 << 4 | domain << 16, 0),
        Invalidation::Context { domain, device, mask } => (1 | 3 << 4 | domain << 16 | source(device) | mask << 48, 0),
        Invalidation::Pages => (2 | 1 << 4, 0),
        Invalidation::PagesOf { domain } => (2 | 2 << 4 | domain << 16, 0),
        Invalidation::Page { domain, slots, mask, leaves_only } => {
            let address = layout::address(slots, 0) >> (12 + mask) << (12 + mask);
            (2 | 3 << 4 | domain << 16, address | u64::from(leaves_only) << 6 | mask)
        }
        Invalidation::Interrupts => (4, 0),
        Invalidation::Interrupt { index, mask } => (4 | 1 << 4 | mask << 27 | (index >> mask << mask) << 32, 0),
    }
}
