//! The pair of 8259 interrupt controllers and the interval timer's channel 0, as PC systems used them before APICs
//! (Intel 8259A and 8254 data sheets).

use crate::instructions::{in8, out8};
use crate::interrupts;

/// The first vector of the first controller; the second's follow.
pub const BASE: u8 = 0x20;
/// The timer's vector: line 0.
pub const TIMER: u8 = BASE;
/// The real-time clock's vector: line 8, the first of the second controller.
pub const CLOCK: u8 = BASE + 8;

/// The timer's clock, in Hz.
const FREQUENCY: u32 = 1_193_182;

/// Programs both controllers, with all lines masked but those in `lines`.
pub fn start(lines: u16) {
    // The vectors, the cascade on line 2, and 8086 mode with ends of interrupt by command.
    for (command, data, vector, cascade) in [(0x20, 0x21, BASE, 4), (0xA0, 0xA1, BASE + 8, 2)] {
        out8(command, 0x11);
        for word in [vector, cascade, 1] {
            out8(data, word);
        }
    }
    let cascade = if lines >> 8 != 0 { 1 << 2 } else { 0 };
    out8(0x21, !(lines as u8 | cascade));
    out8(0xA1, !((lines >> 8) as u8));
    interrupts::expect_legacy(BASE);
}

/// Masks all lines.
pub fn stop() {
    interrupts::mask_legacy();
}

/// Lets the timer interrupt so many times a second.
pub fn start_timer(rate: u32) {
    let divisor = (FREQUENCY / rate) as u16;
    // Channel 0, both bytes, rate generator.
    out8(0x43, 0x34);
    out8(0x40, divisor as u8);
    out8(0x40, (divisor >> 8) as u8);
}

/// Lets the real-time clock interrupt 1024 times a second, or not at all (MC146818 registers A, B and C).
pub fn set_clock(interrupts: bool) {
    clock(0x0A, 0x26);
    clock(0x0B, if interrupts { 0x42 } else { 0x02 });
    acknowledge_clock();
}

/// Ends the clock's interrupt: its line falls.
pub fn acknowledge_clock() {
    out8(0x70, 0x0C);
    in8(0x71);
}

fn clock(register: u8, value: u8) {
    out8(0x70, register);
    out8(0x71, value);
}

/// Ends the interrupt of line `line` (0 to 15) at the controllers.
#[cfg_attr(not(target_os = "none"), expect(dead_code, reason = "no interrupt comes to a test on the host"))]
pub(crate) fn end_of_interrupt(line: u8) {
    if line == CLOCK - BASE {
        acknowledge_clock();
    }
    if line >= 8 {
        out8(0xA0, 0x20);
    }
    out8(0x20, 0x20);
}
