//! The time of day, from the machine's own clock chip: what a VM's clock starts with. The chip is taken to run in UTC.

use spin::Mutex;
use x86_64::instructions::port::Port;

use super::device::cmos::calendar::Calendar;

/// Register A: update in progress.
const UPDATING: u8 = 1 << 7;
/// Register B: binary digits; hours 0 to 23.
const BINARY: u8 = 1 << 2;
const HOURS_24: u8 = 1 << 1;
/// Afternoon, in hours 1 to 12.
const AFTERNOON: u8 = 1 << 7;
/// Reads before the chip is given up: an update takes 2 ms, and a read of a port about 1 us.
const READS: usize = 20_000;
/// A year of two digits below this is one of the next century.
const PIVOT: u16 = 70;

/// The chip's ports hold one address for all processors.
static PORTS: Mutex<()> = Mutex::new(());

/// Seconds since 1970 by the machine's clock; `None` where there is none that works.
pub fn read() -> Option<i64> {
    let _ports = PORTS.lock();
    seconds(|register| {
        let (mut address, mut data) = (Port::<u8>::new(0x70), Port::<u8>::new(0x71));
        // SAFETY: the clock's ports on every PC; reading a time or status register below 0x0c changes nothing. The
        // lock keeps others of this module out, and nobody else in the hypervisor uses them.
        unsafe {
            address.write(register);
            data.read()
        }
    })
}

/// Reads the time twice until it is the same, never while it is updated.
fn seconds(mut read: impl FnMut(u8) -> u8) -> Option<i64> {
    let mut last = None;
    for _ in 0..READS {
        if read(0x0a) & UPDATING != 0 {
            last = None;
            continue;
        }
        let mode = read(0x0b);
        let fields = [0x00, 0x02, 0x04, 0x07, 0x08, 0x09].map(&mut read);
        if last == Some(fields) {
            return calendar(mode, fields).map(Calendar::to_seconds);
        }
        last = Some(fields);
    }
    None
}

/// `None` for fields that no working clock shows.
fn calendar(mode: u8, fields: [u8; 6]) -> Option<Calendar> {
    let number = |value: u8| match mode & BINARY {
        0 if value >> 4 <= 9 && value & 15 <= 9 => Some((value >> 4) * 10 + (value & 15)),
        0 => None,
        _ => Some(value),
    };
    let [second, minute, hour, day, month, year] = fields;
    let hour = if mode & HOURS_24 != 0 {
        number(hour)?
    } else {
        number(hour & !AFTERNOON)? % 12 + if hour & AFTERNOON != 0 { 12 } else { 0 }
    };
    let year = u16::from(number(year)?);
    let calendar = Calendar {
        year: year + if year < PIVOT { 2000 } else { 1900 },
        month: number(month)?,
        day: number(day)?,
        hour,
        minute: number(minute)?,
        second: number(second)?,
    };
    let fits = (1..=12).contains(&calendar.month)
        && (1..=31).contains(&calendar.day)
        && calendar.hour < 24
        && calendar.minute < 60
        && calendar.second < 60;
    fits.then_some(calendar)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::device::cmos::Cmos;

    /// 2026-01-02 15:04:05 UTC.
    const WALL: i64 = 1_767_366_245;

    /// A chip whose time passes by 100 us with each read.
    fn chip(mode: u8, start: u64) -> impl FnMut(u8) -> u8 {
        let mut chip = Cmos::new(WALL, 0);
        chip.write(0, 0x0b, 0);
        chip.write(1, mode, 0);
        let mut now = start;
        move |register| {
            now += 100_000;
            chip.write(0, register, now);
            chip.read(1, now)
        }
    }

    #[test]
    fn every_mode_gives_the_same_time() {
        for mode in [0, BINARY, HOURS_24, BINARY | HOURS_24] {
            assert_eq!(seconds(chip(mode, 0)), Some(WALL), "mode {mode}");
        }
    }

    #[test]
    fn a_time_that_changes_meanwhile_is_read_again() {
        assert_eq!(seconds(chip(HOURS_24, 999_000_000)), Some(WALL + 1));
    }

    #[test]
    fn no_clock_gives_no_time() {
        assert_eq!(seconds(|_| 0xff), None);
        assert_eq!(seconds(|register| if register == 0x0a { 0 } else { 0x7f }), None);
        let mut changing = 0u8;
        let never_the_same = |register| {
            changing = changing.wrapping_add(1);
            if register == 0x0a { 0 } else { changing }
        };
        assert_eq!(seconds(never_the_same), None);
    }
}
