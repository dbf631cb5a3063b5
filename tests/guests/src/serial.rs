//! COM1: what the guest prints.

use core::fmt;

use crate::instructions::{in8, out8};

const DATA: u16 = 0x3F8;
const LINE_STATUS: u16 = DATA + 5;
const TRANSMITTER_EMPTY: u8 = 1 << 5;
/// Reads of the line status before a character is sent all the same.
const PATIENCE: u32 = 100_000;

/// The console; a UART as the machine starts it, which every virtual one understands.
pub struct Serial;

impl fmt::Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            for _ in 0..PATIENCE {
                if in8(LINE_STATUS) & TRANSMITTER_EMPTY != 0 {
                    break;
                }
            }
            out8(DATA, byte);
        }
        Ok(())
    }
}

/// Prints a line; see [`println!`](crate::println).
pub fn line(text: fmt::Arguments<'_>) {
    use fmt::Write;
    // Serial never fails.
    let _ = Serial.write_fmt(text);
    let _ = Serial.write_str("\r\n");
}

/// Prints a line to COM1.
#[macro_export]
macro_rules! println {
    ($($argument:tt)*) => { $crate::serial::line(format_args!($($argument)*)) };
}
