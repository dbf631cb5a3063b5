//! A CPU's own loop: the virtual CPU that it runs, the host's work between, and sleep.

use core::sync::atomic::Ordering;

use log::{error, info};

use super::build::{build, take_apart};
use super::life::Phase;
use super::slot::{Running, Slot};
use super::{Schedule, faults, summary};
use crate::cpu::{self, interrupts};
use crate::vcpu::{End, Stop, Vcpu};
use crate::vm::Next;

/// So many times a VM may begin as quickly as it likes. Each beginning is several lines of log, so a guest that resets
/// for ever would fill it.
const QUICK_RUNS: u32 = 32;
/// How far apart the beginnings are after that, in nanoseconds.
const SLOW_RUN: u64 = 1_000_000_000;

/// Runs what `cpu` has to run, for good. Interrupts are off.
pub(super) fn serve(schedule: &Schedule, cpu: u32) -> ! {
    interrupts::enable();
    match schedule.seat(cpu) {
        Some((slot, 0)) => lead(schedule, slot, cpu),
        Some((slot, vcpu)) => follow(schedule, slot, vcpu, cpu),
        None => {}
    }
    loop {
        sleep_until(schedule, cpu, || false);
    }
}

/// A VM's first CPU: builds it, runs its first virtual CPU, takes it apart, as often as the configuration says.
fn lead(schedule: &Schedule, slot: &Slot, cpu: u32) {
    loop {
        match build(schedule, slot) {
            Ok(()) => {}
            Err(error) => {
                error!("{} does not start: {error}", slot.name());
                take_apart(slot);
                break;
            }
        }
        let running = slot.running.lock().clone();
        let Some(running) = running.filter(|_| slot.life.begin()) else { break };
        info!(
            "{} starts{}: {} virtual CPU(s), {} MiB",
            slot.name(),
            if slot.life.runs() > 1 { " again" } else { "" },
            running.vcpus.len(),
            slot.configuration.memory.value >> 20
        );
        for other in slot.configuration.cpus.iter().skip(1) {
            cpu::kick(other.value);
        }
        let started = cpu::clock::nanoseconds();
        run(schedule, slot, 0, cpu, 0);
        sleep_until(schedule, cpu, || slot.life.is_quiet());
        let end = running.vm.ended();
        drop(running);
        take_apart(slot);
        let Some(end) = end else { break };
        match end {
            End::Crash(_) => error!("{}: {end}", slot.name()),
            _ => info!("{}: {end}", slot.name()),
        }
        if slot.restarts.lock().judge(end) == Next::Over {
            break;
        }
        slot.life.gone(true);
        if slot.life.runs() > QUICK_RUNS {
            sleep_till(schedule, cpu, started.saturating_add(SLOW_RUN));
        }
    }
    slot.life.gone(false);
    summary::of_vm(schedule, slot);
    if schedule.left.fetch_sub(1, Ordering::AcqRel) == 1 {
        schedule.finish();
    }
}

/// The other CPUs of a VM: each runs its virtual CPU in every run.
fn follow(schedule: &Schedule, slot: &Slot, vcpu: usize, cpu: u32) {
    let mut last = 0;
    loop {
        sleep_until(schedule, cpu, || {
            slot.life.phase() == Phase::Over || slot.life.phase() == Phase::Running && slot.life.runs() != last
        });
        if slot.life.phase() == Phase::Over {
            return;
        }
        last = run(schedule, slot, vcpu, cpu, last);
        // The first CPU waits for this.
        if let Some(first) = slot.configuration.cpus.first() {
            cpu::kick(first.value);
        }
    }
}

/// Runs one virtual CPU until its VM ends; gives the run that it was part of.
fn run(schedule: &Schedule, slot: &Slot, index: usize, cpu: u32, last: u32) -> u32 {
    let Some(run) = slot.life.enter(last) else { return last };
    // Held between entering and leaving only: when the last CPU has left, nobody but the first one's holds the VM.
    let running = slot.running.lock().clone();
    if let Some(running) = running
        && let Some(mut vcpu) = running.vcpus.get(index).and_then(|vcpu| vcpu.lock().take())
    {
        enter_and_sleep(schedule, &running, &mut vcpu, cpu);
        slot.count_exits(vcpu.exits());
        if let Some(accesses) = vcpu.accesses() {
            info!("accesses vm={} vcpu={index} {accesses}", slot.name());
        }
    }
    slot.life.end();
    slot.life.leave();
    run
}

fn enter_and_sleep(schedule: &Schedule, running: &Running, vcpu: &mut Vcpu, cpu: u32) {
    loop {
        match vcpu.run(running.vm.as_ref()) {
            Stop::Ended => return,
            Stop::Yielded => work(schedule, cpu),
            Stop::Halted => sleep_until(schedule, cpu, || vcpu.is_ready()),
        }
    }
}

/// Does the host's work and sleeps, until `ready`. Whatever makes it true afterwards interrupts this CPU.
fn sleep_until(schedule: &Schedule, cpu: u32, ready: impl Fn() -> bool) {
    loop {
        work(schedule, cpu);
        interrupts::disable();
        let awake = ready();
        if !awake && !has_work(cpu) {
            interrupts::wait();
        }
        interrupts::enable();
        if awake {
            return;
        }
    }
}

/// Sleeps until a moment of the host's clock. No virtual CPU uses this CPU's timer meanwhile.
fn sleep_till(schedule: &Schedule, cpu: u32, moment: u64) {
    sleep_until(schedule, cpu, || {
        let over = cpu::clock::nanoseconds() >= moment;
        if !over {
            cpu::timer::set_deadline(moment);
        }
        over
    });
}

/// Whether the host has something to do on this CPU. The last CPU is the one that units tell of faults.
fn has_work(cpu: u32) -> bool {
    faults::are_pending() && cpu == faults::cpu()
}

fn work(schedule: &Schedule, cpu: u32) {
    if has_work(cpu) {
        faults::tell(schedule);
    }
}
