//! What the interrupt handlers of a CPU know of its loop: whom it runs, and what its one timer is wanted for.
//!
//! The timer serves the guest that runs there and the loop itself, and is set to whichever is earlier. Written by its own
//! CPU alone, by the loop and by handlers that interrupt it.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use spin::Mutex;

use super::{Schedule, schedule};
use crate::cpu::{self, clock, interrupts, timer};
use crate::vapic::Requests;
use crate::vcpu::{HostTimer, TimerHandler};

/// Never.
const NEVER: u64 = u64::MAX;
/// The loop runs nobody.
const NOBODY: usize = usize::MAX;

/// One CPU's.
#[derive(Debug)]
pub(super) struct Desk {
    /// The number of the virtual CPU that runs.
    current: AtomicUsize,
    /// When the guest's timer is due, and when the loop wants to be asked, in nanoseconds of the clock.
    guest: AtomicU64,
    own: AtomicU64,
    /// What the guest's timer calls. Locked with interrupts off only, so that nobody ever waits for it.
    handler: Mutex<Option<TimerHandler>>,
}

impl Desk {
    pub(super) const fn new() -> Self {
        Self {
            current: AtomicUsize::new(NOBODY),
            guest: AtomicU64::new(NEVER),
            own: AtomicU64::new(NEVER),
            handler: Mutex::new(None),
        }
    }

    /// The loop is about to run this virtual CPU: whatever a handler wants of the loop from now on makes it yield.
    pub(super) fn set_current(&self, vcpu: Option<usize>) {
        self.current.store(vcpu.unwrap_or(NOBODY), Ordering::Relaxed);
    }

    /// Asks whoever runs on this CPU, which executes the caller, to yield. If nobody does, the loop looks anyway before
    /// it runs anybody or sleeps.
    pub(super) fn ask_to_yield(&self, schedule: &Schedule) {
        let current = schedule.board.mailbox(self.current.load(Ordering::Relaxed));
        if let Some(endpoint) = current.and_then(|member| member.endpoint()) {
            endpoint.note(Requests::YIELD);
        }
    }

    /// The loop wants to be asked at this moment; `u64::MAX`: not at all.
    pub(super) fn set_alarm(&self, moment: u64) {
        interrupts::without(|| {
            self.own.store(moment, Ordering::Relaxed);
            self.arm();
        });
    }

    /// Sets the timer to what is due first. Interrupts are off. A timer that is set to an earlier moment fires for
    /// nothing, which costs less than setting it again.
    fn arm(&self) {
        let first = self.guest.load(Ordering::Relaxed).min(self.own.load(Ordering::Relaxed));
        let set = timer::deadline().filter(|set| *set > clock::nanoseconds());
        if first != NEVER && set.is_none_or(|set| set > first) {
            timer::set_deadline(first);
        }
    }

    fn fired(&self, schedule: &Schedule) {
        let now = clock::nanoseconds();
        if self.guest.load(Ordering::Relaxed) <= now {
            self.guest.store(NEVER, Ordering::Relaxed);
            let handler = *self.handler.lock();
            if let Some((function, argument)) = handler {
                function(argument);
            }
        }
        if self.own.load(Ordering::Relaxed) <= now {
            self.own.store(NEVER, Ordering::Relaxed);
            self.ask_to_yield(schedule);
        }
        self.arm();
    }
}

/// The timer as virtual CPUs use it: their part of the CPU's.
pub(super) const HOST_TIMER: HostTimer =
    HostTimer { nanoseconds: clock::nanoseconds, set_deadline: set_guest_deadline, set_handler: set_guest_handler };

fn mine() -> Option<(&'static Schedule, &'static Desk)> {
    let schedule = schedule()?;
    Some((schedule, schedule.desks.get(usize::try_from(cpu::index()).ok()?)?))
}

fn set_guest_deadline(moment: u64) {
    if let Some((_, desk)) = mine() {
        interrupts::without(|| {
            desk.guest.store(moment, Ordering::Relaxed);
            desk.arm();
        });
    }
}

fn set_guest_handler(handler: Option<TimerHandler>) {
    if let Some((_, desk)) = mine() {
        interrupts::without(|| {
            // What the virtual CPU before had set is over.
            desk.guest.store(NEVER, Ordering::Relaxed);
            *desk.handler.lock() = handler;
        });
    }
}

/// Makes this CPU's interrupts work for its desk.
pub(super) fn open() {
    timer::set_handler(Some((timer_fired, 0)));
    cpu::vectors::set_wake_up(wake_up);
}

/// The timer's interrupt.
fn timer_fired(_: usize) {
    if let Some((schedule, desk)) = mine() {
        desk.fired(schedule);
    }
}

/// The wake-up vector's interrupt: those who woke have to get in line, on a CPU where it is short.
fn wake_up() {
    if let Some((schedule, desk)) = mine()
        && schedule.board.wake_up(usize::try_from(cpu::index()).unwrap_or(usize::MAX))
    {
        desk.ask_to_yield(schedule);
    }
}
