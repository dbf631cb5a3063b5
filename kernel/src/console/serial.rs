//! COM1: where the log goes, and where the console's keys come from.

use uart_16550::backend::PioBackend;
use uart_16550::spec::registers::LSR;
use uart_16550::{BaudRate, Config, Uart16550};

use crate::cpu::clock;

/// COM1's first port, as every PC has it.
const PORT: u16 = 0x3f8;
/// The line status register, from the first port.
const LINE_STATUS: u16 = 5;
/// 115200 baud, 8 data bits, no parity, FIFO on.
const CONFIGURATION: Config = Config { baud_rate: BaudRate::Baud115200, ..Config::DEFAULT };
/// How long the port may take until it takes another byte: seven times what 115200 baud need for its FIFO of 16 bytes.
const ROOM: u64 = 10_000_000;

/// The serial port, once it was found to answer.
pub(super) struct Serial {
    port: Uart16550<PioBackend>,
    /// It did not take a byte in time: it is not waited for again, until it takes one.
    stuck: bool,
}

impl Serial {
    /// COM1, 115200 baud, 8 data bits, no parity; `None` where no UART answers.
    ///
    /// # Safety
    ///
    /// Nobody else drives COM1.
    pub(super) unsafe fn open() -> Option<Self> {
        // `init` waits until nothing is being sent, without a bound: that wait is done here, with one.
        sent(10 * ROOM)?;
        // SAFETY: the caller's promise.
        let mut port = unsafe { Uart16550::new_port(PORT) }.ok()?;
        port.init(CONFIGURATION).ok()?;
        Some(Self { port, stuck: false })
    }

    /// Sends bytes, and waits for each no longer than [`ROOM`]. What the port does not take is lost.
    pub(super) fn send(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let limit = if self.stuck { 0 } else { ROOM };
            let sent = clock::wait_for(limit, || Some(self.port.send_bytes(rest)).filter(|sent| *sent > 0));
            self.stuck = sent.is_none();
            rest = rest.get(sent.unwrap_or(rest.len())..).unwrap_or_default();
        }
    }

    /// Waits until the last byte has left, no longer than [`ROOM`].
    pub(super) fn drain(&mut self) {
        sent(ROOM);
    }

    /// A byte that came in, if any.
    pub(super) fn receive(&mut self) -> Option<u8> {
        self.port.try_receive_byte().ok()
    }
}

/// Waits until nothing is being sent; `None` where that takes longer than `nanoseconds`.
fn sent(nanoseconds: u64) -> Option<()> {
    clock::wait_for(nanoseconds, || {
        // SAFETY: reading the status has no effect but clearing its error bits; where no UART is, it gives 0xff.
        let status = unsafe { x86_64::instructions::port::PortReadOnly::<u8>::new(PORT + LINE_STATUS).read() };
        LSR::from_bits_retain(status).contains(LSR::TRANSMITTER_EMPTY).then_some(())
    })
}
