//! The console: a 16550A at port 0x3f8, interrupt 4 (National Semiconductor PC16550D data sheet, section 8).
//!
//! The transmitter is infinitely fast: a byte written is out at once. The receiver holds one FIFO; the host keeps
//! what does not fit and offers it again.

use arrayvec::ArrayVec;
use bitflags::bitflags;

/// How many bytes the receiver holds.
const FIFO: usize = 16;

bitflags! {
    /// Interrupt enable register: all other bits read 0, which is how guests tell a 16550A from later chips.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct InterruptEnable: u8 {
        const RECEIVED = 1 << 0;
        const TRANSMITTER_EMPTY = 1 << 1;
        const LINE_STATUS = 1 << 2;
        const MODEM_STATUS = 1 << 3;
    }
}

bitflags! {
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct ModemControl: u8 {
        const TERMINAL_READY = 1 << 0;
        const REQUEST_TO_SEND = 1 << 1;
        const OUT1 = 1 << 2;
        /// On a PC this output connects the chip to its interrupt line.
        const OUT2 = 1 << 3;
        const LOOPBACK = 1 << 4;
    }
}

bitflags! {
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct LineStatus: u8 {
        const DATA_READY = 1 << 0;
        const OVERRUN = 1 << 1;
        const TRANSMITTER_EMPTY = 1 << 5;
        const TRANSMITTER_IDLE = 1 << 6;
    }
}

/// Line control: the first two registers are the divisor.
const DIVISOR_ACCESS: u8 = 1 << 7;
/// FIFO control: FIFOs on.
const FIFO_ENABLE: u8 = 1 << 0;
/// FIFO control: empty the receiver.
const FIFO_CLEAR_RECEIVER: u8 = 1 << 1;
/// Interrupt identification, FIFOs on.
const IDENTIFIED_FIFO: u8 = 0xc0;
/// Modem status of a terminal that is always there: clear to send, data set ready, carrier.
const TERMINAL_PRESENT: u8 = 0xb0;

/// Interrupt identification, bits 3:0 (data sheet, table IV), highest priority first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    LineStatus = 0x6,
    Received = 0x4,
    /// Bytes wait below the trigger level and no more came.
    Timeout = 0xc,
    TransmitterEmpty = 0x2,
    ModemStatus = 0x0,
    None = 0x1,
}

/// What a write did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// A byte left for the terminal.
    pub sent: Option<u8>,
    /// The interrupt line went low for a moment even if it is high now: an edge-triggered input must see that.
    pub dipped: bool,
}

/// The chip.
#[derive(Debug)]
pub struct Serial {
    interrupt_enable: InterruptEnable,
    fifo_control: u8,
    line_control: u8,
    modem_control: ModemControl,
    scratch: u8,
    divisor: [u8; 2],
    received: ArrayVec<u8, FIFO>,
    overrun: bool,
    transmitter_interrupt: bool,
    /// Deltas of the modem status register, which only loopback can cause.
    modem_deltas: u8,
}

impl Serial {
    /// After reset: 9600 baud, no FIFO, no interrupts.
    pub const fn new() -> Self {
        Self {
            interrupt_enable: InterruptEnable::empty(),
            fifo_control: 0,
            line_control: 0,
            modem_control: ModemControl::empty(),
            scratch: 0,
            divisor: [12, 0],
            received: ArrayVec::new_const(),
            overrun: false,
            transmitter_interrupt: false,
            modem_deltas: 0,
        }
    }

    /// Whether the interrupt line is high.
    pub fn interrupt(&self) -> bool {
        self.modem_control.contains(ModemControl::OUT2)
            && !self.modem_control.contains(ModemControl::LOOPBACK)
            && self.cause() != Cause::None
    }

    /// How many more bytes the receiver takes.
    pub fn room(&self) -> usize {
        self.capacity().saturating_sub(self.received.len())
    }

    /// A byte from the terminal. False, and not taken, when the receiver is full or the line loops back.
    pub fn receive(&mut self, byte: u8) -> bool {
        if self.room() == 0 || self.modem_control.contains(ModemControl::LOOPBACK) {
            return false;
        }
        self.received.try_push(byte).is_ok()
    }

    /// One read of register `offset` (0 to 7).
    pub fn read(&mut self, offset: u8) -> u8 {
        match (offset & 7, self.line_control & DIVISOR_ACCESS != 0) {
            (0, true) => self.divisor[0],
            (1, true) => self.divisor[1],
            (0, false) => self.received.pop_at(0).unwrap_or(0),
            (1, false) => self.interrupt_enable.bits(),
            (2, _) => self.identify(),
            (3, _) => self.line_control,
            (4, _) => self.modem_control.bits(),
            (5, _) => self.line_status().bits() & self.clear_overrun(),
            (6, _) => self.modem_status() | core::mem::take(&mut self.modem_deltas),
            _ => self.scratch,
        }
    }

    /// One write of register `offset` (0 to 7).
    pub fn write(&mut self, offset: u8, value: u8) -> Written {
        match (offset & 7, self.line_control & DIVISOR_ACCESS != 0) {
            (0, true) => self.divisor[0] = value,
            (1, true) => self.divisor[1] = value,
            (0, false) => return self.transmit(value),
            (1, false) => {
                let enabled = InterruptEnable::from_bits_truncate(value);
                // Enabling the transmitter's interrupt while the transmitter is empty, as it always is, raises it.
                if enabled.difference(self.interrupt_enable).contains(InterruptEnable::TRANSMITTER_EMPTY) {
                    self.transmitter_interrupt = true;
                }
                self.interrupt_enable = enabled;
            }
            (2, _) => {
                if (value ^ self.fifo_control) & FIFO_ENABLE != 0 || value & FIFO_CLEAR_RECEIVER != 0 {
                    self.received.clear();
                }
                self.fifo_control = value & (FIFO_ENABLE | 0xc0);
            }
            (3, _) => self.line_control = value,
            (4, _) => {
                let before = self.modem_status();
                self.modem_control = ModemControl::from_bits_truncate(value);
                if self.modem_control.contains(ModemControl::LOOPBACK) {
                    self.modem_deltas |= (before ^ self.modem_status()) >> 4;
                }
            }
            (7, _) => self.scratch = value,
            _ => {}
        }
        Written::default()
    }

    fn transmit(&mut self, byte: u8) -> Written {
        self.transmitter_interrupt = true;
        let dipped = matches!(self.cause(), Cause::TransmitterEmpty);
        if !self.modem_control.contains(ModemControl::LOOPBACK) {
            return Written { sent: Some(byte), dipped };
        }
        if self.room() == 0 || self.received.try_push(byte).is_err() {
            self.overrun = true;
        }
        Written { sent: None, dipped }
    }

    fn capacity(&self) -> usize {
        if self.fifo_control & FIFO_ENABLE != 0 { FIFO } else { 1 }
    }

    /// How many bytes must wait for the interrupt "received".
    fn trigger(&self) -> usize {
        if self.fifo_control & FIFO_ENABLE == 0 {
            return 1;
        }
        [1, 4, 8, 14][usize::from(self.fifo_control >> 6)]
    }

    fn cause(&self) -> Cause {
        let enabled = |interrupt| self.interrupt_enable.contains(interrupt);
        if self.overrun && enabled(InterruptEnable::LINE_STATUS) {
            Cause::LineStatus
        } else if !self.received.is_empty() && enabled(InterruptEnable::RECEIVED) {
            if self.received.len() >= self.trigger() { Cause::Received } else { Cause::Timeout }
        } else if self.transmitter_interrupt && enabled(InterruptEnable::TRANSMITTER_EMPTY) {
            Cause::TransmitterEmpty
        } else if self.modem_deltas != 0 && enabled(InterruptEnable::MODEM_STATUS) {
            Cause::ModemStatus
        } else {
            Cause::None
        }
    }

    /// Reading the identification acknowledges the transmitter's interrupt, and no other.
    fn identify(&mut self) -> u8 {
        let cause = self.cause();
        if cause == Cause::TransmitterEmpty {
            self.transmitter_interrupt = false;
        }
        let fifo = if self.fifo_control & FIFO_ENABLE != 0 { IDENTIFIED_FIFO } else { 0 };
        cause as u8 | fifo
    }

    fn line_status(&self) -> LineStatus {
        let mut status = LineStatus::TRANSMITTER_EMPTY | LineStatus::TRANSMITTER_IDLE;
        status.set(LineStatus::DATA_READY, !self.received.is_empty());
        status.set(LineStatus::OVERRUN, self.overrun);
        status
    }

    /// Reading the line status clears its error bits afterwards.
    fn clear_overrun(&mut self) -> u8 {
        self.overrun = false;
        0xff
    }

    fn modem_status(&self) -> u8 {
        if !self.modem_control.contains(ModemControl::LOOPBACK) {
            return TERMINAL_PRESENT;
        }
        // In loopback the outputs DTR, RTS, OUT1, OUT2 are the inputs DSR, CTS, RI, DCD.
        let mut status = 0;
        for (output, input) in [
            (ModemControl::TERMINAL_READY, 1 << 5),
            (ModemControl::REQUEST_TO_SEND, 1 << 4),
            (ModemControl::OUT1, 1 << 6),
            (ModemControl::OUT2, 1 << 7),
        ] {
            if self.modem_control.contains(output) {
                status |= input;
            }
        }
        status
    }
}

impl Default for Serial {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATA: u8 = 0;
    const IER: u8 = 1;
    const IIR: u8 = 2;
    const FCR: u8 = 2;
    const LCR: u8 = 3;
    const MCR: u8 = 4;
    const LSR: u8 = 5;
    const MSR: u8 = 6;
    const SCR: u8 = 7;

    /// As a driver leaves it: FIFOs on with trigger 8, interrupt line connected.
    fn started() -> Serial {
        let mut serial = Serial::new();
        serial.write(FCR, 0x81);
        serial.write(MCR, 0x0b);
        serial
    }

    #[test]
    fn a_driver_finds_a_16550a() {
        let mut serial = Serial::new();
        serial.write(IER, 0);
        assert_eq!(serial.read(IER), 0);
        serial.write(IER, 0xff);
        assert_eq!(serial.read(IER), 0x0f, "no bits of later chips");
        serial.write(IER, 0);
        serial.write(FCR, 1);
        assert_eq!(serial.read(IIR) >> 6, 3, "16550A");
        serial.write(FCR, 0x21);
        assert_eq!(serial.read(IIR) >> 5, 6, "no 64-byte FIFO");
        serial.write(LCR, 0xbf);
        assert_ne!(serial.read(IIR), 0, "no enhanced feature register");
        serial.write(LCR, 0x03);
        serial.write(SCR, 0xa5);
        assert_eq!(serial.read(SCR), 0xa5);
    }

    #[test]
    fn the_divisor_hides_behind_its_bit() {
        let mut serial = Serial::new();
        serial.write(LCR, 0x83);
        assert_eq!(serial.write(DATA, 1), Written::default(), "a divisor is not sent");
        serial.write(IER, 2);
        assert_eq!((serial.read(DATA), serial.read(IER)), (1, 2));
        serial.write(LCR, 0x03);
        assert_eq!(serial.read(IER), 0);
    }

    #[test]
    fn enabling_the_transmitter_interrupt_raises_it_every_time() {
        let mut serial = started();
        for _ in 0..2 {
            serial.write(IER, 0x02);
            assert!(serial.interrupt());
            assert_eq!(serial.read(IIR), 0xc2);
            assert_eq!(serial.read(IIR), 0xc1, "reading acknowledged it");
            assert!(!serial.interrupt());
            serial.write(IER, 0);
        }
    }

    #[test]
    fn a_byte_written_is_sent_and_interrupts_again() {
        let mut serial = started();
        serial.write(IER, 0x02);
        serial.read(IIR);
        assert_eq!(serial.write(DATA, b'x').sent, Some(b'x'));
        assert!(serial.interrupt());
        assert!(serial.write(DATA, b'y').dipped, "the second byte of a burst is an edge of its own");
        assert_eq!(serial.read(LSR), 0x60);
    }

    #[test]
    fn input_interrupts_until_it_is_read() {
        let mut serial = started();
        serial.write(IER, 0x01);
        assert!(!serial.interrupt());
        assert!(serial.receive(b'a'));
        assert!(serial.interrupt());
        assert_eq!(serial.read(IIR), 0xcc, "below the trigger level: timeout");
        for byte in *b"bcdefgh" {
            assert!(serial.receive(byte));
        }
        assert_eq!(serial.read(IIR), 0xc4);
        assert_eq!(serial.read(LSR), 0x61);
        let read: Vec<u8> = (0..8).map(|_| serial.read(DATA)).collect();
        assert_eq!(read, b"abcdefgh");
        assert_eq!(serial.read(LSR), 0x60);
        assert!(!serial.interrupt());
    }

    #[test]
    fn a_full_receiver_leaves_the_byte_to_the_host() {
        let mut serial = started();
        let taken = (0..100).take_while(|byte| serial.receive(*byte)).count();
        assert_eq!(taken, FIFO);
        assert_eq!(serial.read(LSR) & 2, 0, "nothing was lost");
        serial.read(DATA);
        assert_eq!(serial.room(), 1);
        let mut without_fifo = Serial::new();
        assert!(without_fifo.receive(1));
        assert!(!without_fifo.receive(2));
    }

    #[test]
    fn the_interrupt_line_needs_out2() {
        let mut serial = Serial::new();
        serial.write(IER, 0x02);
        assert!(!serial.interrupt());
        serial.write(MCR, 0x08);
        assert!(serial.interrupt());
    }

    #[test]
    fn loopback_turns_outputs_into_inputs() {
        let mut serial = Serial::new();
        serial.write(MCR, 0x1a);
        assert_eq!(serial.read(MSR) & 0xf0, 0x90, "RTS is CTS, OUT2 is DCD");
        assert_eq!(serial.write(DATA, 0x55).sent, None);
        assert_eq!(serial.read(DATA), 0x55);
        serial.write(DATA, 1);
        serial.write(DATA, 2);
        assert_eq!(serial.read(LSR) & 3, 3, "one byte waits, one was lost");
        assert_eq!(serial.read(LSR) & 3, 1, "the error is reported once");
        serial.write(MCR, 0x0b);
        assert_eq!(serial.read(MSR) & 0xf0, 0xb0);
    }
}
