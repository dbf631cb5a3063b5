//! What a guest prints, cut into lines of bounded length at a bounded rate, so that no guest can flood the log.

use arrayvec::ArrayVec;

/// The most bytes of one line; a longer one is cut in several.
pub const LINE_MAXIMUM: usize = 256;
/// How many lines a guest may print at once before the rate counts.
const BURST: u64 = 3000;
/// How many lines a second a guest may print for long.
const RATE: u64 = 300;
/// After this many nanoseconds of silence an unfinished line (a prompt) is given out.
const IDLE: u64 = 50_000_000;

/// One line, without its end.
pub type Line = ArrayVec<u8, LINE_MAXIMUM>;

/// Collects bytes to lines.
#[derive(Debug)]
pub struct Lines {
    line: Line,
    /// When the last byte came; counts only while `line` holds something.
    last: u64,
    /// Lines that may still be printed, in units of 1/[`RATE`] seconds times nanoseconds.
    budget: u64,
    refilled: u64,
    dropped: u64,
}

/// Nanoseconds that earn one more line.
const PRICE: u64 = 1_000_000_000 / RATE;

impl Lines {
    /// Empty, with the whole burst allowed.
    pub const fn new() -> Self {
        Self { line: Line::new_const(), last: 0, budget: BURST * PRICE, refilled: 0, dropped: 0 }
    }

    /// One more byte. Gives the line that it completes, unless the guest has used up its rate.
    pub fn push(&mut self, byte: u8, now: u64) -> Option<Line> {
        match byte {
            b'\n' => return self.take(now),
            b'\r' => return None,
            _ => {}
        }
        let full = if self.line.is_full() { self.take(now) } else { None };
        self.last = now;
        // Not full any more: `take` empties it.
        let _ = self.line.try_push(byte);
        full
    }

    /// When an unfinished line is due.
    pub fn deadline(&self) -> Option<u64> {
        (!self.line.is_empty()).then(|| self.last.saturating_add(IDLE))
    }

    /// Gives out an unfinished line that is due.
    pub fn expire(&mut self, now: u64) -> Option<Line> {
        if self.deadline()? > now {
            return None;
        }
        self.take(now)
    }

    /// Gives out what is left, whether due or not: the VM ends.
    pub fn finish(&mut self, now: u64) -> Option<Line> {
        if self.line.is_empty() { None } else { self.take(now) }
    }

    /// How many lines were dropped since the last call; for one line in the log that says so.
    pub fn take_dropped(&mut self) -> u64 {
        core::mem::take(&mut self.dropped)
    }

    fn take(&mut self, now: u64) -> Option<Line> {
        let line = core::mem::replace(&mut self.line, Line::new_const());
        self.budget = self.budget.saturating_add(now.saturating_sub(self.refilled)).min(BURST * PRICE);
        self.refilled = now.max(self.refilled);
        match self.budget.checked_sub(PRICE) {
            Some(left) => {
                self.budget = left;
                Some(line)
            }
            None => {
                self.dropped = self.dropped.saturating_add(1);
                None
            }
        }
    }
}

impl Default for Lines {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(lines: &mut Lines, text: &[u8], now: u64) -> Vec<Vec<u8>> {
        text.iter().filter_map(|byte| lines.push(*byte, now)).map(|line| line.to_vec()).collect()
    }

    #[test]
    fn a_line_ends_at_its_newline_and_loses_the_carriage_return() {
        let mut lines = Lines::new();
        assert_eq!(print(&mut lines, b"one\r\ntw", 0), [b"one".to_vec()]);
        assert_eq!(print(&mut lines, b"o\n\n", 0), [b"two".to_vec(), b"".to_vec()]);
    }

    #[test]
    fn a_prompt_appears_after_a_pause() {
        let mut lines = Lines::new();
        assert!(print(&mut lines, b"login: ", 1000).is_empty());
        assert_eq!(lines.deadline(), Some(1000 + IDLE));
        assert_eq!(lines.expire(1000 + IDLE - 1), None);
        assert_eq!(lines.expire(1000 + IDLE).as_deref(), Some(&b"login: "[..]));
        assert_eq!(lines.deadline(), None);
    }

    #[test]
    fn an_endless_line_is_cut() {
        let mut lines = Lines::new();
        let given = print(&mut lines, &[b'x'; 3 * LINE_MAXIMUM + 1], 0);
        assert_eq!(given.iter().map(Vec::len).collect::<Vec<_>>(), [LINE_MAXIMUM; 3]);
        assert_eq!(lines.finish(0).as_deref(), Some(&b"x"[..]));
    }

    #[test]
    fn a_flood_is_dropped_and_counted_and_stops_when_time_passes() {
        let mut lines = Lines::new();
        let given = print(&mut lines, &b"a\n".repeat(BURST as usize + 500), 0);
        assert_eq!(given.len() as u64, BURST);
        assert_eq!(lines.take_dropped(), 500);
        assert_eq!(lines.take_dropped(), 0);
        let given = print(&mut lines, &b"a\n".repeat(2 * RATE as usize), 1_000_000_000);
        assert_eq!(given.len() as u64, RATE);
    }
}
