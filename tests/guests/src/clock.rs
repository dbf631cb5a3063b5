//! Time, from ACPI's PM timer (ACPI 6.5, section 4.8.2.1): 3.579545 MHz, 24 bits that are always there.

use crate::acpi::Acpi;
use crate::instructions::{in32, pause};

/// Ticks a second.
const FREQUENCY: u64 = 3_579_545;
/// The bits that every PM timer has.
const MASK: u32 = 0xFF_FFFF;

/// Pauses between two looks at what is waited for: some ten microseconds.
const BREAK: u32 = 200;

/// The machine's timer.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    port: u16,
}

/// A point in time, reached by looking at it at least every 2 seconds.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    clock: Clock,
    last: u32,
    left: u64,
}

impl Clock {
    /// The timer that the FADT names.
    pub fn find() -> Option<Self> {
        Acpi::find()?.pm_timer().map(|port| Self { port })
    }

    /// The timer's count.
    pub fn ticks(self) -> u32 {
        in32(self.port) & MASK
    }

    /// Ticks since an earlier count, at most 4.6 seconds ago.
    pub fn since(self, earlier: u32) -> u32 {
        self.ticks().wrapping_sub(earlier) & MASK
    }

    /// Microseconds of so many ticks.
    pub fn microseconds(ticks: u32) -> u64 {
        u64::from(ticks) * 1_000_000 / FREQUENCY
    }

    /// So many milliseconds from now.
    pub fn after(self, milliseconds: u64) -> Deadline {
        Deadline { clock: self, last: self.ticks(), left: milliseconds * FREQUENCY / 1000 }
    }

    /// Waits until the condition holds, at most so many milliseconds; says whether it came to hold.
    pub fn await_for(self, milliseconds: u64, mut condition: impl FnMut() -> bool) -> bool {
        let mut deadline = self.after(milliseconds);
        loop {
            if condition() {
                return true;
            }
            if deadline.has_passed() {
                return false;
            }
            // Not at full speed: in an emulator every look at a device takes a lock that the other processors need
            // too, and one that looks without a break can keep them from their interrupts for half a second.
            for _ in 0..BREAK {
                pause();
            }
        }
    }

    /// Waits so long.
    pub fn sleep(self, milliseconds: u64) {
        self.await_for(milliseconds, || false);
    }
}

impl Deadline {
    /// Whether it is over.
    pub fn has_passed(&mut self) -> bool {
        let now = self.clock.ticks();
        let passed = now.wrapping_sub(self.last) & MASK;
        // More than half of the way round is no time passed but a timer that was read a little too early: the latches of
        // some change while they are read. One such look must not end a wait of seconds.
        if passed > MASK / 2 {
            return self.left == 0;
        }
        self.last = now;
        self.left = self.left.saturating_sub(u64::from(passed));
        self.left == 0
    }
}
