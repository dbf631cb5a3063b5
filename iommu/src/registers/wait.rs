//! The one bounded wait that everything on this unit's hardware goes through.

use core::fmt;

use crate::door::Clock;

/// A bound in nanoseconds for something that hardware does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    bound: u64,
}

/// The bound passed before hardware answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitExpired {
    /// How long was waited, in nanoseconds.
    pub waited: u64,
}

impl Wait {
    /// What a global command may take: hardware needs microseconds, so a second means that it never will.
    pub const COMMAND: Self = Self { bound: 1_000_000_000 };
    /// What a batch of invalidations may take. A device may hold back the completion of a device-TLB invalidation for
    /// a minute by the PCI Express rules; units give up (ITE) well before, and so does this.
    pub const INVALIDATION: Self = Self { bound: 2_000_000_000 };

    /// A bound of so many nanoseconds.
    pub const fn nanoseconds(bound: u64) -> Self {
        Self { bound }
    }

    /// Calls `poll` until it gives something; at least once after the bound has passed, so that a processor that was
    /// held up in between does not call healthy hardware dead.
    pub fn until<T>(self, clock: &impl Clock, mut poll: impl FnMut() -> Option<T>) -> Result<T, WaitExpired> {
        let start = clock.nanoseconds();
        loop {
            let waited = clock.nanoseconds().saturating_sub(start);
            if let Some(found) = poll() {
                return Ok(found);
            }
            if waited >= self.bound {
                return Err(WaitExpired { waited });
            }
            core::hint::spin_loop();
        }
    }
}

impl fmt::Display for WaitExpired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no answer within {} ms", self.waited / 1_000_000)
    }
}

impl core::error::Error for WaitExpired {}

#[cfg(test)]
mod tests {
    use core::cell::Cell;

    use super::*;

    struct Ticks(Cell<u64>);

    impl Clock for Ticks {
        fn nanoseconds(&self) -> u64 {
            self.0.set(self.0.get() + 10);
            self.0.get()
        }
    }

    #[test]
    fn a_wait_ends_with_the_answer_or_at_its_bound() {
        let clock = Ticks(Cell::new(0));
        let mut polls = 0;
        let answer = Wait::nanoseconds(1000).until(&clock, || {
            polls += 1;
            (polls == 5).then_some(polls)
        });
        assert_eq!(answer, Ok(5));
        let expired = Wait::nanoseconds(1000).until(&clock, || None::<()>);
        assert_eq!(expired, Err(WaitExpired { waited: 1000 }));
    }

    #[test]
    fn a_poll_follows_even_a_wait_that_was_held_up() {
        let clock = Ticks(Cell::new(0));
        assert_eq!(Wait::nanoseconds(5).until(&clock, || Some(1)), Ok(1), "10 ns passed before the first poll");
    }
}
