//! The clock and its battery-backed memory (Motorola MC146818 data sheet) at ports 0x70 and 0x71, interrupt 8.
//!
//! The clock runs on the host's: it starts with the wall time that the VM was built with and keeps what a guest sets.

pub(in crate::vm) mod calendar;

use self::calendar::Calendar;

/// Nanoseconds in a second.
const SECOND: u64 = 1_000_000_000;
/// How long before a second ends the update flag warns (data sheet: 244 us, plus the update of 1984 us).
const UPDATE: u64 = 2_228_000;

/// Register A: update in progress.
const UPDATING: u8 = 1 << 7;
/// Register B: time is being set, the clock stands.
const SETTING: u8 = 1 << 7;
/// Registers B and C: periodic interrupt.
const PERIODIC: u8 = 1 << 6;
/// Registers B and C: alarm.
const ALARM: u8 = 1 << 5;
/// Registers B and C: a second ended.
const UPDATED: u8 = 1 << 4;
/// Register C: any of the enabled ones.
const REQUEST: u8 = 1 << 7;
/// Register B: binary, not decimal digits.
const BINARY: u8 = 1 << 2;
/// Register B: hours 0 to 23.
const HOURS_24: u8 = 1 << 1;
/// Register D: memory and time are valid.
const VALID: u8 = 1 << 7;
/// Afternoon, in hours 1 to 12.
const AFTERNOON: u8 = 1 << 7;
/// An alarm field that matches anything has both bits.
const ANY: u8 = 0xc0;

/// Where the century is kept, as the FADT tells guests.
pub const CENTURY: u8 = 0x32;
/// Bytes of memory.
const MEMORY: usize = 128;

/// The chip.
#[derive(Debug)]
pub struct Cmos {
    index: u8,
    /// Everything but the time: alarm, registers A and B, free memory.
    memory: [u8; MEMORY],
    flags: u8,
    /// The chip's time in seconds since 1970 minus the host clock's seconds.
    offset: i64,
    /// While time is set: the time as it stood, with what was written.
    standing: Option<Calendar>,
    /// Host nanoseconds up to which flags are up to date.
    updated: u64,
}

impl Cmos {
    /// A clock that shows `wall` (seconds since 1970, UTC) at host time `now` (ns).
    pub fn new(wall: i64, now: u64) -> Self {
        let mut memory = [0; MEMORY];
        memory[0x0a] = 0x26;
        memory[0x0b] = HOURS_24;
        Self {
            index: 0,
            memory,
            flags: 0,
            offset: wall.saturating_sub((now / SECOND) as i64),
            standing: None,
            updated: now,
        }
    }

    /// One read of port 0x70 + `offset` (0 or 1) at time `now` (ns).
    pub fn read(&mut self, offset: u16, now: u64) -> u8 {
        if offset == 0 {
            return 0xff;
        }
        self.update(now);
        match self.index {
            0x0a => {
                let updating = self.standing.is_none() && now % SECOND >= SECOND - UPDATE;
                self.memory[0x0a] & !UPDATING | if updating { UPDATING } else { 0 }
            }
            0x0c => core::mem::take(&mut self.flags),
            0x0d => VALID,
            register => match self.field(register, now) {
                Some(value) => self.encode(register, value),
                None => self.memory.get(usize::from(register)).copied().unwrap_or(0xff),
            },
        }
    }

    /// One write of port 0x70 + `offset` (0 or 1) at time `now` (ns).
    pub fn write(&mut self, offset: u16, value: u8, now: u64) {
        if offset == 0 {
            // The highest bit masked NMI once; there is none to mask.
            self.index = value & 0x7f;
            return;
        }
        self.update(now);
        match self.index {
            0x0a => self.memory[0x0a] = value & !UPDATING,
            0x0b => {
                match (value & SETTING != 0, self.standing.take()) {
                    (true, standing) => self.standing = Some(standing.unwrap_or_else(|| self.calendar(now))),
                    (false, Some(standing)) => self.set(standing, now),
                    (false, None) => {}
                }
                self.memory[0x0b] = value;
            }
            0x0c | 0x0d => {}
            register if self.field(register, now).is_some() => {
                let value = self.decode(register, value);
                let mut calendar = self.standing.unwrap_or_else(|| self.calendar(now));
                match register {
                    0x00 => calendar.second = value,
                    0x02 => calendar.minute = value,
                    0x04 => calendar.hour = value,
                    0x06 => {}
                    0x07 => calendar.day = value,
                    0x08 => calendar.month = value,
                    0x09 => calendar.year = calendar.year / 100 * 100 + u16::from(value % 100),
                    _ => calendar.year = u16::from(value % 100) * 100 + calendar.year % 100,
                }
                match self.standing {
                    Some(_) => self.standing = Some(calendar),
                    None => self.set(calendar, now),
                }
            }
            register => {
                if let Some(byte) = self.memory.get_mut(usize::from(register)) {
                    *byte = value;
                }
            }
        }
    }

    /// Whether interrupt 8 is asserted.
    pub fn interrupt(&self) -> bool {
        self.flags & REQUEST != 0
    }

    /// When the next enabled event is due (ns); none while one waits to be acknowledged.
    pub fn deadline(&self) -> Option<u64> {
        if self.flags & REQUEST != 0 {
            return None;
        }
        let enabled = self.memory[0x0b];
        let second = (enabled & (ALARM | UPDATED) != 0 && self.standing.is_none())
            .then(|| (self.updated / SECOND + 1).saturating_mul(SECOND));
        let period = self.period().filter(|_| enabled & PERIODIC != 0);
        let periodic = period.map(|period| (self.updated / period + 1).saturating_mul(period));
        match (second, periodic) {
            (Some(second), Some(periodic)) => Some(second.min(periodic)),
            (second, periodic) => second.or(periodic),
        }
    }

    /// Sets the flags of what happened up to `now` (ns).
    pub fn update(&mut self, now: u64) {
        if now <= self.updated {
            return;
        }
        if self.period().is_some_and(|period| now / period != self.updated / period) {
            self.flags |= PERIODIC;
        }
        let (last, this) = (self.updated / SECOND, now / SECOND);
        if last != this && self.standing.is_none() {
            self.flags |= UPDATED;
            // A day back covers every alarm; each second in between is looked at, but not more than a day's.
            let first = (last + 1).max(this.saturating_sub(86_400));
            if self.memory[0x0b] & ALARM != 0 && (first..=this).any(|second| self.alarm_matches(second)) {
                self.flags |= ALARM;
            }
        }
        if self.flags & self.memory[0x0b] & (PERIODIC | ALARM | UPDATED) != 0 {
            self.flags |= REQUEST;
        }
        self.updated = now;
    }

    /// The periodic interrupt's distance in ns, from register A's rate: 2^(rate - 1) of a 32768 Hz clock; the rates 1
    /// and 2 stand for 8 and 9.
    fn period(&self) -> Option<u64> {
        let rate = match self.memory[0x0a] & 15 {
            0 => return None,
            rate @ (1 | 2) => rate + 7,
            rate => rate,
        };
        Some(super::nanoseconds(1 << (rate - 1), 32_768))
    }

    fn alarm_matches(&self, host_second: u64) -> bool {
        let calendar = Calendar::from_seconds((host_second as i64).saturating_add(self.offset));
        [(1, calendar.second), (3, calendar.minute), (5, calendar.hour)].into_iter().all(|(register, value)| {
            let alarm = self.memory[usize::from(register)];
            alarm & ANY == ANY || self.decode(register - 1, alarm) == value
        })
    }

    fn calendar(&self, now: u64) -> Calendar {
        Calendar::from_seconds(((now / SECOND) as i64).saturating_add(self.offset))
    }

    fn set(&mut self, calendar: Calendar, now: u64) {
        self.offset = calendar.to_seconds().saturating_sub((now / SECOND) as i64);
    }

    /// The time that a register shows; `None` for registers that show none.
    fn field(&self, register: u8, now: u64) -> Option<u8> {
        if !matches!(register, 0x00 | 0x02 | 0x04 | 0x06..=0x09 | CENTURY) {
            return None;
        }
        let calendar = self.standing.unwrap_or_else(|| self.calendar(now));
        Some(match register {
            0x00 => calendar.second,
            0x02 => calendar.minute,
            0x04 => calendar.hour,
            0x06 => calendar.weekday(),
            0x07 => calendar.day,
            0x08 => calendar.month,
            0x09 => (calendar.year % 100) as u8,
            _ => (calendar.year / 100) as u8,
        })
    }

    fn encode(&self, register: u8, value: u8) -> u8 {
        let mode = self.memory[0x0b];
        let digits = |value: u8| if mode & BINARY != 0 { value } else { ((value / 10) << 4) | (value % 10) };
        if register == 0x04 && mode & HOURS_24 == 0 {
            let hour = (value + 11) % 12 + 1;
            return digits(hour) | if value >= 12 { AFTERNOON } else { 0 };
        }
        digits(value)
    }

    fn decode(&self, register: u8, value: u8) -> u8 {
        let mode = self.memory[0x0b];
        let number = |value: u8| if mode & BINARY != 0 { value } else { (value >> 4) * 10 + (value & 15) };
        if register == 0x04 && mode & HOURS_24 == 0 {
            let hour = number(value & !AFTERNOON) % 12;
            return if value & AFTERNOON != 0 { hour + 12 } else { hour };
        }
        number(value)
    }
}

#[cfg(test)]
mod tests;
