//! The programmable interval timer (Intel 8254 data sheet) at ports 0x40 to 0x43, and port 0x61 that holds the gate
//! and shows the output of its channel 2.
//!
//! Channel 0 drives interrupt 0; channel 2 is what guests measure other clocks against. Channel 1 once refreshed
//! memory; it counts and nobody listens.

mod channel;

use self::channel::{Channel, Mode};

/// The timer's clock, in Hz.
pub const FREQUENCY: u64 = 1_193_182;
/// Interrupt 0 comes at most this often (in ticks, about 100 us): a guest that asks for more gets fewer, so that it
/// cannot spend its processor on the host's timer alone.
const EDGE_MINIMUM: u64 = 119;
/// Interrupts that came too late are made up for at this distance (in ticks, about 25 us): a guest that counts them to
/// keep time, or to see whether the timer works at all, gets them even on a machine that is slow to serve it. Short,
/// because the guest's end of the last interrupt is when the next is looked for, with no need of the host's timer.
const CATCH_UP: u64 = 30;
/// Periods below this (in ticks, about 1 ms) are not made up for: the guest would be interrupted without a pause.
const CATCH_UP_PERIOD: u64 = 1193;
/// As many are owed at most.
const OWED_MAXIMUM: u64 = 50;

/// Port 0x61: gate of channel 2.
const GATE: u8 = 1 << 0;
/// Port 0x61: the speaker listens to channel 2. Kept, not heard.
const SPEAKER: u8 = 1 << 1;
/// Port 0x61: changes with every refresh of memory, once in about 15 us.
const REFRESH: u8 = 1 << 4;
/// Port 0x61: output of channel 2.
const OUTPUT: u8 = 1 << 5;
/// Ticks between two refreshes.
const REFRESH_TICKS: u64 = 18;

/// The timer.
#[derive(Debug)]
pub struct Timer {
    channels: [Channel; 3],
    speaker: bool,
    /// The tick of channel 0's next rising edge.
    next_edge: Option<u64>,
    /// Rising edges that passed and did not interrupt yet.
    owed: u64,
    /// The tick of the next interrupt: when an edge comes, or when one is made up for.
    next_interrupt: Option<u64>,
}

impl Timer {
    /// After reset: nothing counts; the gate of channel 2 is closed.
    pub const fn new() -> Self {
        Self {
            channels: [Channel::new(true), Channel::new(true), Channel::new(false)],
            speaker: false,
            next_edge: None,
            owed: 0,
            next_interrupt: None,
        }
    }

    /// One read of port 0x40 + `offset` (0 to 3) at time `now` (ns).
    pub fn read(&mut self, offset: u16, now: u64) -> u8 {
        match self.channels.get_mut(usize::from(offset)) {
            Some(channel) => channel.read(tick(now)),
            None => 0xff,
        }
    }

    /// One write of port 0x40 + `offset` (0 to 3) at time `now` (ns).
    pub fn write(&mut self, offset: u16, value: u8, now: u64) {
        let tick = tick(now);
        match self.channels.get_mut(usize::from(offset)) {
            Some(channel) => {
                if channel.write(value, tick) && offset == 0 {
                    let edge = channel.rising_edge_after(tick);
                    self.restart(edge);
                }
            }
            None => self.command(value, tick),
        }
    }

    /// One read of port 0x61.
    pub fn read_gate(&self, now: u64) -> u8 {
        let tick = tick(now);
        let [_, _, channel] = &self.channels;
        let mut value = 0;
        for (bit, set) in [
            (GATE, channel.gate()),
            (SPEAKER, self.speaker),
            (REFRESH, tick / REFRESH_TICKS % 2 == 1),
            (OUTPUT, channel.output(tick)),
        ] {
            if set {
                value |= bit;
            }
        }
        value
    }

    /// One write of port 0x61.
    pub fn write_gate(&mut self, value: u8, now: u64) {
        let [_, _, channel] = &mut self.channels;
        channel.set_gate(value & GATE != 0, tick(now));
        self.speaker = value & SPEAKER != 0;
    }

    /// When interrupt 0 is due next (ns).
    pub fn deadline(&self) -> Option<u64> {
        self.next_interrupt.map(|tick| super::nanoseconds(tick, FREQUENCY))
    }

    /// Whether interrupt 0 is raised now. Edges that passed unserved are made up for one by one.
    pub fn expire(&mut self, now: u64) -> bool {
        let tick = tick(now);
        if self.next_interrupt.is_none_or(|due| due > tick) {
            return false;
        }
        let [channel, ..] = &self.channels;
        if let Some(late) = self.next_edge.and_then(|edge| tick.checked_sub(edge)) {
            let period = channel.period().filter(|period| *period >= CATCH_UP_PERIOD);
            let passed = period.map_or(1, |period| (late / period).saturating_add(1));
            self.owed = self.owed.saturating_add(passed).min(OWED_MAXIMUM);
            self.next_edge = channel.rising_edge_after(tick);
        }
        let Some(left) = self.owed.checked_sub(1) else {
            self.next_interrupt = self.next_edge;
            return false;
        };
        self.owed = left;
        self.next_interrupt = match left {
            0 => self.next_edge.map(|edge| edge.max(tick.saturating_add(EDGE_MINIMUM))),
            _ => Some(tick.saturating_add(CATCH_UP)),
        };
        true
    }

    /// Channel 0 was programmed: its next edge is this, and nothing of before is owed.
    fn restart(&mut self, edge: Option<u64>) {
        self.next_edge = edge;
        self.next_interrupt = edge;
        self.owed = 0;
    }

    /// A write of the control word register (data sheet, "control word format").
    fn command(&mut self, value: u8, tick: u64) {
        let selected = value >> 6;
        if selected == 3 {
            return self.read_back(value, tick);
        }
        let Some(channel) = self.channels.get_mut(usize::from(selected)) else { return };
        match (value >> 4) & 3 {
            0 => channel.latch_count(tick),
            access => {
                channel.program(access, Mode::from_bits((value >> 1) & 7), value & 1 != 0);
                if selected == 0 {
                    self.restart(None);
                }
            }
        }
    }

    /// The read-back command: bits 5 and 4 clear latch count and status of the channels in bits 3:1.
    fn read_back(&mut self, value: u8, tick: u64) {
        for (index, channel) in self.channels.iter_mut().enumerate() {
            if value & (2 << index) == 0 {
                continue;
            }
            if value & (1 << 5) == 0 {
                channel.latch_count(tick);
            }
            if value & (1 << 4) == 0 {
                channel.latch_status(tick);
            }
        }
    }
}

impl Default for Timer {
    fn default() -> Self {
        Self::new()
    }
}

fn tick(now: u64) -> u64 {
    super::ticks(now, FREQUENCY)
}

#[cfg(test)]
mod tests;
