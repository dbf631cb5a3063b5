//! COM1, for what must be said where firmware does not show its console there (16550 data sheet).

use core::arch::asm;
use core::fmt;

const BASE: u16 = 0x3F8;
const DATA: u16 = BASE;
const INTERRUPT_ENABLE: u16 = BASE + 1;
const FIFO_CONTROL: u16 = BASE + 2;
const LINE_CONTROL: u16 = BASE + 3;
const MODEM_CONTROL: u16 = BASE + 4;
const LINE_STATUS: u16 = BASE + 5;
const SCRATCH: u16 = BASE + 7;

const LINE_STATUS_EMPTY: u8 = 1 << 5;
/// Reads of the line status before a character is given up: at 115200 baud one takes 87 microseconds, and no port
/// read is faster than 50 nanoseconds.
const PATIENCE: u32 = 100_000;

/// A UART at COM1's ports.
#[derive(Clone, Copy)]
pub(super) struct Serial;

impl Serial {
    /// Sets 115200 baud, 8 data bits, no parity, one stop bit. `None` if nothing answers there.
    pub(super) fn open() -> Option<Self> {
        write(SCRATCH, 0x5A);
        if read(SCRATCH) != 0x5A {
            return None;
        }
        write(INTERRUPT_ENABLE, 0);
        write(LINE_CONTROL, 0x80);
        write(DATA, 1);
        write(INTERRUPT_ENABLE, 0);
        write(LINE_CONTROL, 0x03);
        write(FIFO_CONTROL, 0x07);
        write(MODEM_CONTROL, 0x03);
        Some(Self)
    }

    /// The UART as firmware left it; `None` if nothing answers there.
    pub(super) fn found() -> Option<Self> {
        write(SCRATCH, 0x5A);
        (read(SCRATCH) == 0x5A).then_some(Self)
    }

    fn put(self, byte: u8) {
        for _ in 0..PATIENCE {
            if read(LINE_STATUS) & LINE_STATUS_EMPTY != 0 {
                break;
            }
        }
        write(DATA, byte);
    }
}

impl fmt::Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                self.put(b'\r');
            }
            self.put(byte);
        }
        Ok(())
    }
}

fn read(port: u16) -> u8 {
    let value;
    // SAFETY: the ports belong to COM1 or to nothing; reading them changes no memory.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags)) }
    value
}

fn write(port: u16, value: u8) {
    // SAFETY: the ports belong to COM1 or to nothing; a UART without DMA changes no memory.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags)) }
}
