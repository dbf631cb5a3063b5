//! One channel of the interval timer: what it counts, and how its bytes are read and written.

/// How a channel counts (8254 data sheet, "mode definitions").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// 0: low until the count ends.
    TerminalCount = 0,
    /// 1: low from a gate's rise until the count ends.
    OneShot = 1,
    /// 2: low for one tick of each period.
    RateGenerator = 2,
    /// 3: half a period high, half low.
    SquareWave = 3,
    /// 4: low for one tick when the count ends.
    SoftwareStrobe = 4,
    /// 5: as 4, from a gate's rise.
    HardwareStrobe = 5,
}

impl Mode {
    /// From the control word's three bits; the highest does not count in modes 2 and 3.
    pub(super) const fn from_bits(bits: u8) -> Self {
        match bits & 7 {
            0 => Self::TerminalCount,
            1 => Self::OneShot,
            2 | 6 => Self::RateGenerator,
            3 | 7 => Self::SquareWave,
            4 => Self::SoftwareStrobe,
            _ => Self::HardwareStrobe,
        }
    }

    const fn is_periodic(self) -> bool {
        matches!(self, Self::RateGenerator | Self::SquareWave)
    }

    const fn needs_trigger(self) -> bool {
        matches!(self, Self::OneShot | Self::HardwareStrobe)
    }
}

/// Which bytes a guest reads and writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Low = 1,
    High = 2,
    LowThenHigh = 3,
}

/// A count that was latched for reading.
#[derive(Clone, Copy, Debug)]
struct Latch {
    count: u16,
    low_was_read: bool,
}

#[derive(Debug)]
pub(super) struct Channel {
    mode: Mode,
    access: Access,
    decimal: bool,
    gate: bool,
    /// The count as ticks, 1 to 65536 (or 10000); `None` until one is written.
    reload: Option<u64>,
    /// Ticks that passed up to `since`.
    before: u64,
    /// The tick at which counting went on; `None` while the gate or a missing trigger holds it.
    since: Option<u64>,
    latch: Option<Latch>,
    status: Option<u8>,
    read_high_next: bool,
    written_low: Option<u8>,
}

impl Channel {
    pub(super) const fn new(gate: bool) -> Self {
        Self {
            mode: Mode::TerminalCount,
            access: Access::LowThenHigh,
            decimal: false,
            gate,
            reload: None,
            before: 0,
            since: None,
            latch: None,
            status: None,
            read_high_next: false,
            written_low: None,
        }
    }

    pub(super) fn gate(&self) -> bool {
        self.gate
    }

    /// A control word: the channel waits for its count.
    pub(super) fn program(&mut self, access: u8, mode: Mode, decimal: bool) {
        let access = match access {
            1 => Access::Low,
            2 => Access::High,
            _ => Access::LowThenHigh,
        };
        *self = Self { mode, access, decimal, ..Self::new(self.gate) };
    }

    /// One byte of the count. True when it was the last and counting begins anew.
    pub(super) fn write(&mut self, value: u8, tick: u64) -> bool {
        let count = match (self.access, self.written_low.take()) {
            (Access::Low, _) => u16::from(value),
            (Access::High, _) => u16::from(value) << 8,
            (Access::LowThenHigh, None) => {
                self.written_low = Some(value);
                return false;
            }
            (Access::LowThenHigh, Some(low)) => u16::from_le_bytes([low, value]),
        };
        self.reload = Some(self.ticks_of(count));
        self.before = 0;
        self.since = (self.gate && !self.mode.needs_trigger()).then_some(tick);
        true
    }

    /// The gate's level. A rise starts periodic modes anew and triggers the modes that wait for it; in the others a
    /// low gate only holds the count.
    pub(super) fn set_gate(&mut self, gate: bool, tick: u64) {
        if gate == self.gate {
            return;
        }
        if gate {
            if self.mode.needs_trigger() || self.mode.is_periodic() {
                self.before = 0;
            }
            self.since = self.reload.map(|_| tick);
        } else if !self.mode.needs_trigger() {
            self.before = self.elapsed(tick);
            self.since = None;
        }
        self.gate = gate;
    }

    /// The next byte that a guest reads: latched status, latched count, or the count as it runs.
    pub(super) fn read(&mut self, tick: u64) -> u8 {
        if let Some(status) = self.status.take() {
            return status;
        }
        if let Some(latch) = self.latch {
            let [low, high] = latch.count.to_le_bytes();
            let (byte, rest) = match (self.access, latch.low_was_read) {
                (Access::Low, _) => (low, None),
                (Access::High, _) | (Access::LowThenHigh, true) => (high, None),
                (Access::LowThenHigh, false) => (low, Some(Latch { low_was_read: true, ..latch })),
            };
            self.latch = rest;
            return byte;
        }
        let [low, high] = self.count(tick).to_le_bytes();
        match self.access {
            Access::Low => low,
            Access::High => high,
            Access::LowThenHigh => {
                self.read_high_next = !self.read_high_next;
                if self.read_high_next { low } else { high }
            }
        }
    }

    /// Holds the count for reading; a second latch before the first is read changes nothing.
    pub(super) fn latch_count(&mut self, tick: u64) {
        if self.latch.is_none() {
            self.latch = Some(Latch { count: self.count(tick), low_was_read: false });
        }
    }

    /// Holds the status for reading: output 7, no count yet 6, access 5:4, mode 3:1, decimal 0.
    pub(super) fn latch_status(&mut self, tick: u64) {
        if self.status.is_none() {
            let output = u8::from(self.output(tick)) << 7;
            let no_count = u8::from(self.reload.is_none()) << 6;
            let access = (self.access as u8) << 4;
            self.status = Some(output | no_count | access | (self.mode as u8) << 1 | u8::from(self.decimal));
        }
    }

    /// The output's level.
    pub(super) fn output(&self, tick: u64) -> bool {
        let Some(reload) = self.reload else {
            return self.mode != Mode::TerminalCount;
        };
        let elapsed = self.elapsed(tick);
        match self.mode {
            Mode::TerminalCount => elapsed >= reload,
            Mode::OneShot => self.since.is_none() || elapsed >= reload,
            Mode::RateGenerator => self.since.is_none() || elapsed % reload != reload - 1,
            Mode::SquareWave => self.since.is_none() || elapsed % reload < reload.div_ceil(2),
            Mode::SoftwareStrobe | Mode::HardwareStrobe => elapsed != reload,
        }
    }

    /// The first tick after `tick` at which the output goes from low to high by counting alone.
    pub(super) fn rising_edge_after(&self, tick: u64) -> Option<u64> {
        let (reload, since) = (self.reload?, self.since?);
        let start = since.saturating_sub(self.before);
        let elapsed = tick.saturating_sub(start);
        let at = match self.mode {
            Mode::TerminalCount | Mode::OneShot => reload,
            Mode::RateGenerator | Mode::SquareWave => (elapsed / reload + 1).checked_mul(reload)?,
            Mode::SoftwareStrobe | Mode::HardwareStrobe => reload + 1,
        };
        (at > elapsed).then(|| start.saturating_add(at))
    }

    /// Ticks between two rising edges, in the modes that have more than one.
    pub(super) fn period(&self) -> Option<u64> {
        self.reload.filter(|_| self.mode.is_periodic())
    }

    fn elapsed(&self, tick: u64) -> u64 {
        self.before + self.since.map_or(0, |since| tick.saturating_sub(since))
    }

    /// The count as the guest reads it. Behind its end a count that does not reload goes on from the top.
    fn count(&self, tick: u64) -> u16 {
        let Some(reload) = self.reload else { return 0 };
        let modulus = if self.decimal { 10_000 } else { 0x1_0000 };
        let elapsed = self.elapsed(tick);
        let count = match self.mode {
            Mode::RateGenerator => reload - elapsed % reload,
            // Counts down in twos, twice a period; an odd count is taken as the even one below.
            Mode::SquareWave => {
                let even = (reload & !1).max(2);
                even - elapsed % even * 2 % even
            }
            _ => (reload % modulus + modulus - elapsed % modulus) % modulus,
        };
        let count = (count % modulus) as u16;
        if self.decimal { to_decimal(count) } else { count }
    }

    fn ticks_of(&self, count: u16) -> u64 {
        match (self.decimal, count) {
            (false, 0) => 0x1_0000,
            (false, count) => u64::from(count),
            (true, count) => match from_decimal(count) {
                0 => 10_000,
                ticks => ticks,
            },
        }
    }
}

/// Four binary-coded digits; a digit above 9 counts as it is, as the chip's adder would.
fn from_decimal(count: u16) -> u64 {
    (0..4).rev().fold(0, |value, digit| value * 10 + u64::from((count >> (digit * 4)) & 15)) % 10_000
}

fn to_decimal(count: u16) -> u16 {
    (0..4).rev().fold(0, |digits, power| (digits << 4) | (count / 10u16.pow(power) % 10))
}
