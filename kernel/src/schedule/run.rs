//! A CPU's own loop: duties of the host, the virtual CPUs whose turn it is, and sleep.

use alloc::vec::Vec;

use log::info;

use super::desk::{self, Desk};
use super::lead::Lead;
use super::seat::{Seat, Turn};
use super::{Schedule, faults};
use crate::cpu::{self, interrupts};
use crate::vcpu::{Stop, Vcpu};

/// One CPU, to its loop.
struct Host<'a> {
    schedule: &'a Schedule,
    cpu: u32,
    desk: &'a Desk,
    seat: Seat,
    /// The VMs that this CPU leads.
    leads: Vec<Lead<'a>>,
    /// The virtual CPUs that this CPU lets into each run.
    members: Vec<usize>,
}

/// Runs what `cpu` has to run, for good. Interrupts are off.
pub(super) fn serve(schedule: &Schedule, cpu: u32) -> ! {
    let place = usize::try_from(cpu).unwrap_or(usize::MAX);
    let Some(desk) = schedule.desks.get(place) else { cpu::stop_this_cpu() };
    let leads = schedule.slots.iter().filter(|slot| slot.homes.first() == Some(&cpu)).map(Lead::new).collect();
    let homed = |number: &usize| schedule.board.mailbox(*number).is_some_and(|member| member.home == cpu);
    let members = (0..schedule.board.count()).filter(homed).collect();
    let mut host = Host { schedule, cpu, desk, seat: Seat::new(place), leads, members };
    desk::open();
    schedule.board.open(place);
    interrupts::enable();
    loop {
        host.do_duties();
        match host.seat.next(&schedule.board, cpu::clock::nanoseconds()) {
            Some(turn) => host.play(turn),
            None => host.sleep(),
        }
    }
}

impl Host<'_> {
    fn do_duties(&mut self) {
        if has_work(self.cpu) {
            faults::tell(self.schedule);
        }
        for lead in &mut self.leads {
            lead.step(self.schedule, cpu::clock::nanoseconds());
        }
        for &number in &self.members {
            if let Some((member, slot)) = self.schedule.member(number)
                && member.enter(slot)
            {
                self.schedule.board.get_in_line(number, self.seat.cpu());
            }
        }
    }

    /// Whether there are duties. Whatever makes it true interrupts this CPU, but the clock.
    fn has_duties(&self) -> bool {
        let can_enter =
            |number: &usize| self.schedule.member(*number).is_some_and(|(member, slot)| member.can_enter(slot));
        let now = cpu::clock::nanoseconds();
        has_work(self.cpu) || self.leads.iter().any(|lead| lead.has_duty(now)) || self.members.iter().any(can_enter)
    }

    /// When somebody wants something by the clock.
    fn alarm(&self) -> u64 {
        self.leads.iter().map(Lead::alarm).fold(self.seat.alarm(), u64::min)
    }

    /// Sleeps until an interrupt comes, unless there is something to do.
    fn sleep(&mut self) {
        self.desk.set_alarm(self.alarm());
        interrupts::disable();
        if !self.has_duties() && !self.seat.has_news(&self.schedule.board, cpu::clock::nanoseconds()) {
            interrupts::wait();
        }
        interrupts::enable();
    }

    /// Runs a virtual CPU until it comes back.
    fn play(&mut self, turn: Turn) {
        let board = &self.schedule.board;
        let Some((member, slot)) = self.schedule.member(turn.vcpu) else { return };
        let (Some(running), Some(endpoint)) = (member.running(), member.endpoint()) else {
            return self.seat.left(board, turn);
        };
        endpoint.set_host_cpu(self.cpu);
        let Some(vcpu) = running.vcpus.get(member.vcpu) else { return self.seat.left(board, turn) };
        let mut held = vcpu.lock();
        let stop = match held.as_mut() {
            None => Stop::Ended,
            Some(vcpu) => {
                // From here on a handler that wants something makes the virtual CPU yield; what it wanted before is seen
                // by the look that follows.
                self.desk.set_current(Some(turn.vcpu));
                self.desk.set_alarm(self.alarm().min(turn.until));
                let stop = if board.has_woken(self.seat.cpu()) || has_work(self.cpu) {
                    Stop::Yielded
                } else {
                    vcpu.run(running.vm.as_ref())
                };
                self.desk.set_current(None);
                stop
            }
        };
        let now = cpu::clock::nanoseconds();
        match (stop, held.as_ref()) {
            (Stop::Halted, Some(vcpu)) => {
                self.seat.halted(board, turn, vcpu.deadline(), now, || vcpu.is_ready());
            }
            (Stop::Yielded, Some(_)) => {
                drop(held);
                self.seat.yielded(board, turn, now);
            }
            (_, vcpu) => {
                if let Some(accesses) = vcpu.and_then(Vcpu::accesses) {
                    info!("accesses vm={} vcpu={} {accesses}", slot.name(), member.vcpu);
                }
                slot.count_exits(vcpu.into_iter().flat_map(Vcpu::exits));
                *held = None;
                drop(held);
                drop(running);
                member.leave();
                self.seat.left(board, turn);
                slot.life.end();
                slot.life.leave();
                // The leader waits for this.
                if let Some(leader) = slot.homes.first() {
                    cpu::kick(*leader);
                }
            }
        }
    }
}

/// Whether the host has something to do on this CPU. The last CPU is the one that units tell of faults.
fn has_work(cpu: u32) -> bool {
    faults::are_pending() && cpu == faults::cpu()
}
