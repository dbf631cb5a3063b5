//! What one CPU's loop decides: whose turn it is, how long it lasts, and who sleeps here.
//!
//! Owned by the loop ([`run`](super::run)), so that nothing here needs a lock. It keeps the turn that is being played and
//! the virtual CPUs that sleep on this CPU, each with the moment at which its timer wants it.

use alloc::vec::Vec;

use iommu::interrupt::posted::placement::Sleep;
use iommu::interrupt::posted::word::AtomicWord;

use super::board::{Board, Mailbox};

/// How long a virtual CPU runs before whoever waits has his turn, in nanoseconds. An interrupt for one that waits is
/// late by so much for each before it; a switch costs a few microseconds.
pub const SLICE: u64 = 5_000_000;

/// A virtual CPU's turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Whose it is.
    pub vcpu: usize,
    /// When it is over, in nanoseconds of the clock; `u64::MAX` for a pinned one: never.
    pub until: u64,
}

#[derive(Clone, Copy, Debug)]
struct Sleeper {
    vcpu: usize,
    /// When its timer wants it; `u64::MAX`: never.
    deadline: u64,
}

/// One CPU's decisions.
#[derive(Debug)]
pub struct Seat {
    cpu: usize,
    /// A turn that was interrupted and goes on.
    rest: Option<Turn>,
    sleepers: Vec<Sleeper>,
}

impl Seat {
    /// The loop of the CPU with this index. Nobody is there yet.
    pub const fn new(cpu: usize) -> Self {
        Self { cpu, rest: None, sleepers: Vec::new() }
    }

    /// Which CPU it is.
    pub const fn cpu(&self) -> usize {
        self.cpu
    }

    /// Whose turn it is now: the rest of the one that yielded, or that of the first in line, who is loaded. Those who
    /// woke, or whose time has come, get in line first.
    pub fn next<M: Mailbox<W>, W: AtomicWord, const WORDS: usize>(
        &mut self,
        board: &Board<M, W, WORDS>,
        now: u64,
    ) -> Option<Turn> {
        self.collect(board, now);
        if let Some(turn) = self.rest.take() {
            return Some(turn);
        }
        let vcpu = board.first_in_line(self.cpu)?;
        if let Err(misplaced) = board.load_on(vcpu, self.cpu) {
            // Whoever is in line does not run, and its CPUs exist.
            log::error!("virtual CPU {vcpu} cannot run: {misplaced}; this is a defect of Postern");
            return None;
        }
        board.set_busy(self.cpu, true);
        let until = if board.is_pinned(vcpu) { u64::MAX } else { now.saturating_add(SLICE) };
        Some(Turn { vcpu, until })
    }

    /// Those who woke, and those whose time has come, get in line.
    fn collect<M: Mailbox<W>, W: AtomicWord, const WORDS: usize>(&mut self, board: &Board<M, W, WORDS>, now: u64) {
        let Self { cpu, sleepers, .. } = self;
        board.take_woken(*cpu, |vcpu| {
            // One that sleeps here no more was woken by a handler that came late.
            if let Some(place) = sleepers.iter().position(|sleeper| sleeper.vcpu == vcpu) {
                sleepers.remove(place);
                board.get_in_line(vcpu, *cpu);
            }
        });
        sleepers.retain(|sleeper| {
            let sleeps = sleeper.deadline > now;
            if !sleeps {
                board.get_in_line(sleeper.vcpu, *cpu);
            }
            sleeps
        });
    }

    /// The virtual CPU was asked to yield: its turn goes on after the CPU's duties, or ends with its slice.
    pub fn yielded<M: Mailbox<W>, W: AtomicWord, const WORDS: usize>(
        &mut self,
        board: &Board<M, W, WORDS>,
        turn: Turn,
        now: u64,
    ) {
        if now < turn.until {
            self.rest = Some(turn);
            return;
        }
        board.set_busy(self.cpu, false);
        match board.preempt(turn.vcpu) {
            Ok(()) => board.take_turns(turn.vcpu, self.cpu),
            Err(misplaced) => log::error!("virtual CPU {}: {misplaced}; this is a defect of Postern", turn.vcpu),
        }
    }

    /// The virtual CPU has nothing to do until an interrupt comes, or until `deadline`. `is_ready` tells whether it has
    /// something to do after all; it is asked after the virtual CPU was put where posters wake it.
    pub fn halted<M: Mailbox<W>, W: AtomicWord, const WORDS: usize>(
        &mut self,
        board: &Board<M, W, WORDS>,
        turn: Turn,
        deadline: Option<u64>,
        now: u64,
        is_ready: impl FnOnce() -> bool,
    ) {
        match board.block(turn.vcpu) {
            Ok(Sleep::Sound) => {}
            Ok(Sleep::Pending) => return self.yielded(board, turn, now),
            Err(misplaced) => {
                log::error!("virtual CPU {} cannot sleep: {misplaced}; this is a defect of Postern", turn.vcpu);
                return self.yielded(board, turn, now);
            }
        }
        board.set_busy(self.cpu, false);
        if is_ready() {
            board.get_in_line(turn.vcpu, self.cpu);
        } else {
            self.sleepers.push(Sleeper { vcpu: turn.vcpu, deadline: deadline.unwrap_or(u64::MAX) });
        }
    }

    /// The virtual CPU runs no more.
    pub fn left<M: Mailbox<W>, W: AtomicWord, const WORDS: usize>(&mut self, board: &Board<M, W, WORDS>, turn: Turn) {
        board.set_busy(self.cpu, false);
        if let Err(misplaced) = board.park(turn.vcpu) {
            log::error!("virtual CPU {}: {misplaced}; this is a defect of Postern", turn.vcpu);
        }
    }

    /// When the first of those who sleep here wants to run, in nanoseconds of the clock; `u64::MAX`: none does.
    pub fn alarm(&self) -> u64 {
        self.sleepers.iter().map(|sleeper| sleeper.deadline).min().unwrap_or(u64::MAX)
    }

    /// Whether [`next`](Self::next) would find something new. To be asked with interrupts off before HLT: what makes it
    /// true from then on also ends HLT.
    pub fn has_news<M: Mailbox<W>, W: AtomicWord, const WORDS: usize>(
        &self,
        board: &Board<M, W, WORDS>,
        now: u64,
    ) -> bool {
        self.rest.is_some() || board.has_woken(self.cpu) || self.alarm() <= now || board.has_line(self.cpu)
    }
}

#[cfg(test)]
#[path = "seat_tests.rs"]
mod tests;
