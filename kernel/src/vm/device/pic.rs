//! The pair of 8259A interrupt controllers (Intel 8259A data sheet) at ports 0x20, 0x21, 0xa0 and 0xa1, with their
//! edge/level registers at 0x4d0 and 0x4d1.
//!
//! Linux programs and masks them and then uses the I/O APIC. Guests that keep to them get their interrupts through
//! the first vCPU's LINT0 in ExtINT mode: [`Pair::pending`] is that pin, [`Pair::acknowledge`] the processor's answer.

/// One controller.
#[derive(Debug)]
struct Controller {
    /// Interrupt lines as they are.
    lines: u8,
    requested: u8,
    in_service: u8,
    masked: u8,
    /// Lines that request for as long as they are high.
    level_triggered: u8,
    base: u8,
    /// Which initialisation word is expected next; 0: none, operation.
    initialization: u8,
    wants_fourth_word: bool,
    automatic_end: bool,
    special_mask: bool,
    rotates: bool,
    /// The line with the lowest priority.
    lowest: u8,
    reads_in_service: bool,
    poll: bool,
}

impl Controller {
    const fn new() -> Self {
        Self {
            lines: 0,
            requested: 0,
            in_service: 0,
            masked: 0,
            level_triggered: 0,
            base: 0,
            initialization: 0,
            wants_fourth_word: false,
            automatic_end: false,
            special_mask: false,
            rotates: false,
            lowest: 7,
            reads_in_service: false,
            poll: false,
        }
    }

    fn set_line(&mut self, line: u8, high: bool) {
        let bit = 1 << (line & 7);
        if high {
            if self.level_triggered & bit != 0 || self.lines & bit == 0 {
                self.requested |= bit;
            }
            self.lines |= bit;
        } else {
            self.lines &= !bit;
            if self.level_triggered & bit != 0 {
                self.requested &= !bit;
            }
        }
    }

    /// The line with the highest priority among `set`, as its distance from the top.
    fn highest(&self, set: u8) -> Option<u8> {
        let rotated = set.rotate_right(u32::from(self.lowest) + 1);
        (rotated != 0).then(|| rotated.trailing_zeros() as u8)
    }

    /// The line that asks for service now.
    fn pending(&self) -> Option<u8> {
        let request = self.highest(self.requested & !self.masked)?;
        let serving = if self.special_mask { self.in_service & !self.masked } else { self.in_service };
        if self.highest(serving).is_some_and(|serving| serving <= request) {
            return None;
        }
        Some((request + self.lowest + 1) & 7)
    }

    fn take(&mut self, line: u8) {
        let bit = 1 << line;
        if self.level_triggered & bit == 0 {
            self.requested &= !bit;
        }
        if !self.automatic_end {
            self.in_service |= bit;
        } else if self.rotates {
            self.lowest = line;
        }
    }

    /// Operation command word 2.
    fn end_of_interrupt(&mut self, value: u8) {
        let line = match (value >> 5) & 7 {
            1 | 5 => match self.highest(self.in_service) {
                Some(distance) => (distance + self.lowest + 1) & 7,
                None => return,
            },
            3 | 7 => value & 7,
            6 => {
                self.lowest = value & 7;
                return;
            }
            rotate => {
                self.rotates = rotate == 4;
                return;
            }
        };
        self.in_service &= !(1 << line);
        if value & 0x80 != 0 {
            self.lowest = line;
        }
    }

    fn write_command(&mut self, value: u8) {
        if value & 0x10 != 0 {
            let (lines, level_triggered) = (self.lines, self.level_triggered);
            *self =
                Self { lines, level_triggered, initialization: 2, wants_fourth_word: value & 1 != 0, ..Self::new() };
        } else if value & 0x08 != 0 {
            if value & 0x02 != 0 {
                self.reads_in_service = value & 0x01 != 0;
            }
            self.poll = value & 0x04 != 0;
            if value & 0x40 != 0 {
                self.special_mask = value & 0x20 != 0;
            }
        } else {
            self.end_of_interrupt(value);
        }
    }

    fn write_data(&mut self, value: u8) {
        match self.initialization {
            2 => {
                self.base = value & 0xf8;
                self.initialization = 3;
            }
            // On a PC the second controller always hangs on line 2.
            3 => self.initialization = if self.wants_fourth_word { 4 } else { 0 },
            4 => {
                self.automatic_end = value & 0x02 != 0;
                self.initialization = 0;
            }
            _ => self.masked = value,
        }
    }

    fn read_command(&mut self) -> u8 {
        if core::mem::take(&mut self.poll) {
            return match self.pending() {
                Some(line) => {
                    self.take(line);
                    0x80 | line
                }
                None => 0,
            };
        }
        if self.reads_in_service { self.in_service } else { self.requested }
    }
}

/// The line of the first controller on which the second hangs.
const CASCADE: u8 = 2;
/// Lines that are always edge triggered: timer, keyboard, cascade; clock and coprocessor on the second.
const EDGE_ONLY: [u8; 2] = [0x07, 0x21];

/// Both controllers.
#[derive(Debug)]
pub struct Pair {
    first: Controller,
    second: Controller,
    /// The output when it was last asked for.
    output: bool,
}

impl Pair {
    /// After reset: nothing requested, nothing masked, vectors from 0.
    pub const fn new() -> Self {
        Self { first: Controller::new(), second: Controller::new(), output: false }
    }

    /// The level of interrupt line `line` (0 to 15).
    pub fn set_line(&mut self, line: u8, high: bool) {
        if line < 8 {
            self.first.set_line(line, high);
        } else {
            self.second.set_line(line - 8, high);
        }
        self.cascade();
    }

    /// Whether the output to the processor is high.
    pub fn pending(&self) -> bool {
        self.first.pending().is_some()
    }

    /// Whether the output has risen since this was asked last; an acknowledgement lets it fall.
    pub fn has_risen(&mut self) -> bool {
        let pending = self.pending();
        let before = core::mem::replace(&mut self.output, pending);
        pending && !before
    }

    /// The processor acknowledges: the vector to take. Without a request the spurious vector of line 7.
    pub fn acknowledge(&mut self) -> u8 {
        self.output = false;
        let Some(line) = self.first.pending() else {
            return self.first.base | 7;
        };
        self.first.take(line);
        if line != CASCADE {
            return self.first.base | line;
        }
        let vector = match self.second.pending() {
            Some(line) => {
                self.second.take(line);
                self.second.base | line
            }
            None => self.second.base | 7,
        };
        // The second controller's output falls with the acknowledgement; a further request is a new edge.
        self.first.set_line(CASCADE, false);
        self.cascade();
        vector
    }

    /// One read of a port; `None` for a port that is not one of theirs.
    pub fn read(&mut self, port: u16) -> Option<u8> {
        let value = match port {
            0x20 => self.first.read_command(),
            0x21 => self.first.masked,
            0xa0 => self.second.read_command(),
            0xa1 => self.second.masked,
            0x4d0 => self.first.level_triggered,
            0x4d1 => self.second.level_triggered,
            _ => return None,
        };
        self.cascade();
        Some(value)
    }

    /// One write of a port; others are ignored.
    pub fn write(&mut self, port: u16, value: u8) {
        match port {
            0x20 => self.first.write_command(value),
            0x21 => self.first.write_data(value),
            0xa0 => self.second.write_command(value),
            0xa1 => self.second.write_data(value),
            0x4d0 => self.first.level_triggered = value & !EDGE_ONLY[0],
            0x4d1 => self.second.level_triggered = value & !EDGE_ONLY[1],
            _ => {}
        }
        self.cascade();
    }

    /// Brings the second controller's output to the first one's line. A request that was taken back while the first
    /// was not serving leaves the line low, so that the next is an edge again.
    fn cascade(&mut self) {
        let pending = self.second.pending().is_some();
        if !pending {
            self.first.requested &= !(1 << CASCADE);
        }
        self.first.set_line(CASCADE, pending);
    }
}

impl Default for Pair {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As PC systems set them up: vectors 0x30 and 0x38, nothing masked.
    fn started(automatic_end: bool) -> Pair {
        let mut pair = Pair::new();
        let last = if automatic_end { 3 } else { 1 };
        for (port, value) in [(0x20, 0x11), (0x21, 0x30), (0x21, 4), (0x21, last)] {
            pair.write(port, value);
        }
        for (port, value) in [(0xa0, 0x11), (0xa1, 0x38), (0xa1, 2), (0xa1, last)] {
            pair.write(port, value);
        }
        pair
    }

    #[test]
    fn the_mask_reads_back() {
        let mut pair = started(false);
        pair.write(0x21, 0xfb);
        pair.write(0xa1, 0xff);
        assert_eq!((pair.read(0x21), pair.read(0xa1)), (Some(0xfb), Some(0xff)));
        assert_eq!(pair.read(0x22), None);
    }

    #[test]
    fn an_edge_is_served_once_and_priority_holds_until_the_end() {
        let mut pair = started(false);
        pair.set_line(4, true);
        assert!(pair.pending());
        assert_eq!(pair.acknowledge(), 0x34);
        assert!(!pair.pending(), "one edge, one interrupt");
        pair.set_line(5, true);
        assert!(!pair.pending(), "below the one in service");
        pair.set_line(0, true);
        assert_eq!(pair.acknowledge(), 0x30, "above it");
        pair.write(0x20, 0x20);
        assert!(!pair.pending());
        pair.write(0x20, 0x64);
        assert_eq!(pair.acknowledge(), 0x35);
    }

    #[test]
    fn the_second_controller_goes_through_line_two() {
        let mut pair = started(false);
        pair.set_line(8, true);
        assert_eq!(pair.acknowledge(), 0x38);
        pair.write(0x20, 0x0b);
        assert_eq!(pair.read(0x20), Some(1 << CASCADE));
        pair.write(0xa0, 0x20);
        pair.write(0x20, 0x20);
        pair.set_line(8, false);
        pair.set_line(8, true);
        assert_eq!(pair.acknowledge(), 0x38, "a second edge is a second interrupt");
    }

    #[test]
    fn a_masked_line_waits() {
        let mut pair = started(true);
        pair.write(0x21, 0x01);
        pair.set_line(0, true);
        assert!(!pair.pending());
        pair.write(0x21, 0x00);
        assert_eq!(pair.acknowledge(), 0x30);
        pair.set_line(0, false);
        pair.set_line(0, true);
        assert_eq!(pair.acknowledge(), 0x30, "automatic end: nothing to acknowledge");
    }

    #[test]
    fn the_output_rises_once_for_each_request() {
        let mut pair = started(false);
        assert!(!pair.has_risen());
        pair.set_line(4, true);
        assert!(pair.has_risen() && !pair.has_risen());
        pair.set_line(5, true);
        assert!(!pair.has_risen(), "it is high already");
        assert_eq!(pair.acknowledge(), 0x34);
        assert!(!pair.has_risen());
        pair.write(0x20, 0x20);
        assert!(pair.has_risen(), "the one below has its turn");
        pair.write(0x21, 0xff);
        assert!(!pair.has_risen());
        pair.write(0x21, 0);
        assert!(pair.has_risen(), "taken back and asked for again");
    }

    #[test]
    fn nothing_pending_is_spurious() {
        assert_eq!(started(false).acknowledge(), 0x37);
    }

    #[test]
    fn a_level_requests_for_as_long_as_it_is_high() {
        let mut pair = started(true);
        pair.write(0x4d1, 0xff);
        assert_eq!(pair.read(0x4d1), Some(0xde), "clock and coprocessor stay edge triggered");
        pair.set_line(9, true);
        assert_eq!(pair.acknowledge(), 0x39);
        assert!(pair.pending());
        pair.set_line(9, false);
        assert!(!pair.pending());
    }

    #[test]
    fn polling_takes_the_request() {
        let mut pair = started(false);
        pair.set_line(3, true);
        pair.write(0x20, 0x0c);
        assert_eq!(pair.read(0x20), Some(0x83));
        pair.write(0x20, 0x0c);
        assert_eq!(pair.read(0x20), Some(0));
    }
}
