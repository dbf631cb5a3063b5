//! The life of one VM, as the CPU that leads it carries it out: build, run, take apart, begin again. One step at a time,
//! between the turns of the virtual CPUs that the CPU runs.

use core::sync::atomic::Ordering;

use log::{error, info};

use super::build::{build, take_apart};
use super::slot::Slot;
use super::{Schedule, summary};
use crate::cpu;
use crate::vcpu::End;
use crate::vm::Next;

/// So many times a VM may begin as quickly as it likes. Each beginning is several lines of log, so a guest that resets
/// for ever would fill it.
const QUICK_RUNS: u32 = 32;
/// How far apart the beginnings are after that, in nanoseconds.
const SLOW_RUN: u64 = 1_000_000_000;

/// What is to be done next.
#[derive(Clone, Copy, Debug)]
enum Stage {
    /// To be built, not before this moment.
    Build { not_before: u64 },
    /// It runs since this moment; to be taken apart when the last virtual CPU has left.
    Run { since: u64 },
    /// Nothing.
    Over,
}

/// A VM that a CPU leads.
pub(super) struct Lead<'a> {
    slot: &'a Slot,
    stage: Stage,
}

impl<'a> Lead<'a> {
    pub(super) const fn new(slot: &'a Slot) -> Self {
        Self { slot, stage: Stage::Build { not_before: 0 } }
    }

    /// Whether [`step`](Self::step) would do something. Whatever makes it true interrupts the CPU, but the clock.
    pub(super) fn has_duty(&self, now: u64) -> bool {
        match self.stage {
            Stage::Build { not_before } => not_before <= now,
            Stage::Run { .. } => self.slot.life.is_quiet(),
            Stage::Over => false,
        }
    }

    /// When there is something to do by the clock; `u64::MAX`: never.
    pub(super) const fn alarm(&self) -> u64 {
        match self.stage {
            Stage::Build { not_before } => not_before,
            Stage::Run { .. } | Stage::Over => u64::MAX,
        }
    }

    /// Does what there is to do.
    pub(super) fn step(&mut self, schedule: &Schedule, now: u64) {
        if !self.has_duty(now) {
            return;
        }
        self.stage = match self.stage {
            Stage::Build { .. } => self.begin(schedule),
            Stage::Run { since } => self.end(since),
            Stage::Over => Stage::Over,
        };
        if matches!(self.stage, Stage::Over) {
            self.slot.life.gone(false);
            summary::of_vm(schedule, self.slot);
            if schedule.left.fetch_sub(1, Ordering::AcqRel) == 1 {
                schedule.finish();
            }
        }
    }

    fn begin(&self, schedule: &Schedule) -> Stage {
        let slot = self.slot;
        if let Err(error) = build(schedule, slot) {
            error!("{} does not start: {error}", slot.name());
            take_apart(slot);
            return Stage::Over;
        }
        let count = slot.running.lock().as_ref().map_or(0, |running| running.vcpus.len());
        if !slot.life.begin() {
            return Stage::Over;
        }
        info!(
            "{} starts{}: {count} virtual CPU(s), {} MiB",
            slot.name(),
            if slot.life.runs() > 1 { " again" } else { "" },
            slot.configuration.memory.value >> 20
        );
        let since = cpu::clock::nanoseconds();
        for home in &slot.homes {
            cpu::kick(*home);
        }
        Stage::Run { since }
    }

    fn end(&self, since: u64) -> Stage {
        let slot = self.slot;
        let end = slot.running.lock().as_ref().and_then(|running| running.vm.ended());
        take_apart(slot);
        let Some(end) = end else { return Stage::Over };
        match end {
            End::Crash(_) => error!("{}: {end}", slot.name()),
            _ => info!("{}: {end}", slot.name()),
        }
        if slot.restarts.lock().judge(end) == Next::Over {
            return Stage::Over;
        }
        slot.life.gone(true);
        let slow = slot.life.runs() > QUICK_RUNS;
        Stage::Build { not_before: if slow { since.saturating_add(SLOW_RUN) } else { 0 } }
    }
}
