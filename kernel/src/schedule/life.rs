//! The life of a VM as its CPUs agree on it: begun, running, ending, gone, and begun again.
//!
//! One CPU builds it and takes it apart ([`lead`](super::lead)); its vCPUs enter each run and leave it. The rule that
//! makes giving back safe stands here: nothing is taken apart before the last vCPU has left ([`Life::is_quiet`]), and
//! none enters a run that has begun to end.

use spin::Mutex;

/// Shared by the CPUs of one VM. A lock and not a word: it is taken between turns, never on an exit.
#[derive(Debug)]
pub struct Life {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// Counts the runs, from 1.
    run: u32,
    /// Virtual CPUs that have entered this run and not left it.
    inside: u32,
}

/// Where in its life a VM is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not built, or taken apart and perhaps built again soon.
    Absent,
    /// Built: its virtual CPUs may enter.
    Running,
    /// None enters any more; those inside leave.
    Ending,
    /// Taken apart for good.
    Over,
}

impl Life {
    /// A VM that was never built.
    pub const fn new() -> Self {
        Self { state: Mutex::new(State { phase: Phase::Absent, run: 0, inside: 0 }) }
    }

    /// Where it is.
    pub fn phase(&self) -> Phase {
        self.state.lock().phase
    }

    /// How many runs have begun.
    pub fn runs(&self) -> u32 {
        self.state.lock().run
    }

    /// The VM is built: its next run begins. False when it was not [`Phase::Absent`].
    #[must_use]
    pub fn begin(&self) -> bool {
        let mut state = self.state.lock();
        if state.phase != Phase::Absent {
            return false;
        }
        state.phase = Phase::Running;
        state.run = state.run.saturating_add(1);
        true
    }

    /// A virtual CPU enters the run after `last`, the one that it was in before (0: none). The run, or `None` when there is
    /// none to enter.
    pub fn enter(&self, last: u32) -> Option<u32> {
        let mut state = self.state.lock();
        if state.phase != Phase::Running || state.run == last {
            return None;
        }
        state.inside = state.inside.saturating_add(1);
        Some(state.run)
    }

    /// Whether [`enter`](Self::enter) would give a run.
    pub fn admits(&self, last: u32) -> bool {
        let state = self.state.lock();
        state.phase == Phase::Running && state.run != last
    }

    /// The run ends: nobody enters it any more. Calling it again changes nothing.
    pub fn end(&self) {
        let mut state = self.state.lock();
        if state.phase == Phase::Running {
            state.phase = Phase::Ending;
        }
    }

    /// A virtual CPU leaves the run that it entered, and touches nothing of the VM from here on.
    pub fn leave(&self) {
        let mut state = self.state.lock();
        state.inside = state.inside.saturating_sub(1);
    }

    /// Whether the run is ending and the last virtual CPU has left it.
    pub fn is_quiet(&self) -> bool {
        let state = self.state.lock();
        state.phase == Phase::Ending && state.inside == 0
    }

    /// Everything was given back. `again`: the VM may be built once more.
    pub fn gone(&self, again: bool) {
        let mut state = self.state.lock();
        state.phase = if again { Phase::Absent } else { Phase::Over };
    }
}

impl Default for Life {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_enters_an_ending_run_and_nothing_is_quiet_before_the_last_left() {
        let life = Life::new();
        assert_eq!(life.enter(0), None, "nothing is built yet");
        assert!(life.begin());
        assert!(!life.begin(), "a running VM is not begun twice");
        let first = life.enter(0).unwrap();
        assert_eq!(life.enter(first), None, "a CPU enters each run once");
        let second = life.enter(0).unwrap();
        assert_eq!((first, second), (1, 1));
        assert!(!life.is_quiet());
        life.end();
        assert_eq!(life.enter(0), None, "a third CPU comes too late");
        life.leave();
        assert!(!life.is_quiet());
        life.leave();
        assert!(life.is_quiet());
        life.gone(true);
        assert!(!life.is_quiet());
        assert!(life.begin());
        assert_eq!(life.enter(first), Some(2));
    }

    #[test]
    fn a_vm_that_is_over_stays_so() {
        let life = Life::new();
        assert!(life.begin());
        life.end();
        life.gone(false);
        assert_eq!(life.phase(), Phase::Over);
        assert!(!life.begin());
    }
}
