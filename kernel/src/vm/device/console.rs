//! The console: the serial port, and how much of what a guest sends may reach the log, so that no guest can flood it.

use super::serial::Serial;

/// What a byte costs; a line's end costs more, because each line is marked with time and name.
const BYTE: u64 = 1;
const LINE_END: u64 = 40;
/// How much may be spent at once, and how much is earned in a second.
const BURST: u64 = 600_000;
const RATE: u64 = 40_000;
/// Nanoseconds in which one unit is earned.
const UNIT: u64 = 1_000_000_000 / RATE;
/// After this many nanoseconds without a byte an unfinished line (a prompt) is shown. A line in the log is whole if it
/// can be: a guest whose processor is kept from it for a moment must not have its lines torn.
const IDLE: u64 = 2_000_000_000;
/// The same while somebody types, who waits for the echo.
const IDLE_WHILE_TYPING: u64 = 50_000_000;
/// How long somebody counts as typing after the last byte (ns).
const TYPING: u64 = 60_000_000_000;
/// How often it is looked whether something was typed (ns).
const LOOK: u64 = 50_000_000;
/// How often it is said at most that bytes were dropped (ns).
const REPORT: u64 = 1_000_000_000;

/// The serial port with what lies behind it.
#[derive(Debug)]
pub struct Console {
    /// The chip.
    pub serial: Serial,
    /// The budget, in nanoseconds that would earn it.
    budget: u64,
    refilled: u64,
    dropped: u64,
    /// When the last byte of an unfinished line came.
    unfinished: Option<u64>,
    /// Until when somebody counts as typing.
    typing: u64,
    next_look: u64,
    next_report: u64,
}

/// What is to be done after [`Console::expire`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// Show the unfinished line.
    pub flush: bool,
    /// Look for input.
    pub look: bool,
    /// Say that so many bytes were dropped; 0: nothing.
    pub dropped: u64,
}

impl Console {
    /// After reset, with the whole burst allowed.
    pub const fn new(now: u64) -> Self {
        Self {
            serial: Serial::new(),
            budget: BURST * UNIT,
            refilled: now,
            dropped: 0,
            unfinished: None,
            typing: 0,
            next_look: now,
            next_report: now,
        }
    }

    /// Whether a byte that the guest sends may be shown.
    pub fn allows(&mut self, byte: u8, now: u64) -> bool {
        let ends = byte == b'\n';
        if !self.spend(if ends { LINE_END } else { BYTE }, 1, now) {
            return false;
        }
        self.unfinished = (!ends).then_some(now);
        true
    }

    /// Whether a whole line may be shown.
    pub fn allows_line(&mut self, length: usize, now: u64) -> bool {
        self.spend((length as u64).saturating_add(LINE_END), length as u64, now)
    }

    /// Somebody typed a byte.
    pub fn typed(&mut self, now: u64) {
        self.typing = now.saturating_add(TYPING);
    }

    /// When an unfinished line is shown.
    fn flush_at(&self) -> Option<u64> {
        let last = self.unfinished?;
        let idle = if last < self.typing { IDLE_WHILE_TYPING } else { IDLE };
        Some(last.saturating_add(idle))
    }

    /// When [`expire`](Self::expire) has something to do next (ns).
    pub fn deadline(&self) -> u64 {
        self.flush_at().map_or(self.next_look, |flush| self.next_look.min(flush))
    }

    /// What is due by now.
    pub fn expire(&mut self, now: u64) -> Due {
        let mut due = Due::default();
        if self.flush_at().is_some_and(|flush| flush <= now) {
            self.unfinished = None;
            due.flush = true;
        }
        if self.next_look <= now {
            self.next_look = now.saturating_add(LOOK);
            due.look = true;
            if self.dropped != 0 && self.next_report <= now {
                self.next_report = now.saturating_add(REPORT);
                due.dropped = core::mem::take(&mut self.dropped);
            }
        }
        due
    }

    fn refill(&mut self, now: u64) {
        self.budget = self.budget.saturating_add(now.saturating_sub(self.refilled)).min(BURST * UNIT);
        self.refilled = now.max(self.refilled);
    }

    fn spend(&mut self, price: u64, bytes: u64, now: u64) -> bool {
        self.refill(now);
        match price.checked_mul(UNIT).and_then(|price| self.budget.checked_sub(price)) {
            Some(left) => self.budget = left,
            None => {
                self.dropped = self.dropped.saturating_add(bytes);
                return false;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_flood_is_dropped_and_counted_once_and_ends_when_time_passes() {
        let mut console = Console::new(0);
        let shown = (0..BURST / LINE_END + 500).filter(|_| console.allows(b'\n', 0)).count() as u64;
        assert_eq!(shown, BURST / LINE_END);
        assert_eq!(console.expire(0).dropped, 500);
        assert!(!console.allows(b'x', 0));
        assert_eq!(console.expire(SECOND - 1).dropped, 0, "said once a second at most");
        assert_eq!(console.expire(SECOND - 1 + LOOK).dropped, 1);
        assert_eq!(console.expire(3 * SECOND).dropped, 0);
        let shown = (0..RATE * 3).filter(|_| console.allows(b'x', 2 * SECOND)).count() as u64;
        assert_eq!(shown, 2 * RATE);
        assert!(!console.allows_line(usize::MAX, 3 * SECOND), "a price beyond counting");
        assert!(console.allows_line(256, 3 * SECOND));
    }

    #[test]
    fn an_unfinished_line_is_shown_after_a_pause() {
        let mut console = Console::new(0);
        console.expire(0);
        assert!(console.allows(b'#', 10));
        assert_eq!(console.deadline(), LOOK.min(10 + IDLE));
        assert!(!console.expire(9 + IDLE).flush);
        assert!(console.expire(10 + IDLE).flush);
        assert!(!console.expire(10 + 2 * IDLE).flush);
        console.allows(b'a', 9 * SECOND);
        console.allows(b'\n', 9 * SECOND);
        assert!(!console.expire(20 * SECOND).flush, "a finished line needs none");
    }

    #[test]
    fn an_echo_is_shown_at_once() {
        let mut console = Console::new(0);
        console.typed(0);
        console.allows(b'l', 10);
        assert!(!console.expire(9 + IDLE_WHILE_TYPING).flush);
        assert!(console.expire(10 + IDLE_WHILE_TYPING).flush);
        console.allows(b'l', TYPING);
        assert!(!console.expire(TYPING + IDLE_WHILE_TYPING).flush, "nobody has typed for long");
    }

    #[test]
    fn input_is_looked_for_regularly() {
        let mut console = Console::new(5);
        assert!(console.expire(5).look);
        assert_eq!(console.deadline(), 5 + LOOK);
        assert!(!console.expire(4 + LOOK).look);
        assert!(console.expire(5 + LOOK).look);
    }
}
