//! Where lines go: the serial port and the screen, one line at a time whichever CPU writes it.

use core::fmt::{self, Write};

use handoff::Framebuffer;
use iommu::address::HostPhysical;
use spin::Mutex;

use super::guest::Printable;
use super::line::{self, Source};
use super::screen::Screen;
use super::serial::Serial;
use crate::cpu::{clock, interrupts};
use crate::memory::space;

struct Output {
    serial: Option<Serial>,
    screen: Option<Screen>,
    /// A guest's raw bytes were written last, and their line has no end yet.
    inside_raw: bool,
}

static OUTPUT: Mutex<Output> = Mutex::new(Output { serial: None, screen: None, inside_raw: false });

/// How long a failing CPU waits for the line that another one is writing.
const PATIENCE: u64 = 200_000_000;

impl Write for Output {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if let Some(screen) = &mut self.screen {
            screen.write(text);
        }
        let Some(serial) = &mut self.serial else { return Ok(()) };
        let mut first = true;
        for piece in text.split('\n') {
            if !core::mem::replace(&mut first, false) {
                serial.send(b"\r\n");
            }
            serial.send(piece.as_bytes());
        }
        Ok(())
    }
}

impl Output {
    fn line(&mut self, source: Source<'_>, message: fmt::Arguments<'_>) {
        if core::mem::take(&mut self.inside_raw) {
            let _ = self.write_char('\n');
        }
        line::write(source, clock::nanoseconds(), message, self);
    }
}

struct Log;

static LOG: Log = Log;

impl log::Log for Log {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let source = Source::Room(record.level(), line::room(record.target()));
        interrupts::without(|| OUTPUT.lock().line(source, *record.args()));
    }

    fn flush(&self) {}
}

/// Opens COM1 and takes `log`'s records from here on.
///
/// # Safety
///
/// Called once, on the boot CPU, before anything else drives COM1.
pub(crate) unsafe fn open() {
    // SAFETY: the caller's promise.
    let serial = unsafe { Serial::open() };
    interrupts::without(|| OUTPUT.lock().serial = serial);
    // It fails only where a logger is set already, which is this one.
    let _ = log::set_logger(&LOG);
    log::set_max_level(log::LevelFilter::Info);
}

/// Writes the log on the screen as well, from here on.
pub(crate) fn open_screen(framebuffer: &Framebuffer) {
    if framebuffer.address == 0 {
        return;
    }
    let bytes = u64::from(framebuffer.stride).saturating_mul(u64::from(framebuffer.height)).saturating_mul(4);
    match space::map_screen(HostPhysical::new(framebuffer.address), bytes) {
        Ok(window) => {
            let screen = Screen::new(window, framebuffer);
            if screen.is_none() {
                log::warn!("the screen of {} x {} pixels is too small", framebuffer.width, framebuffer.height);
            }
            interrupts::without(|| OUTPUT.lock().screen = screen);
        }
        Err(error) => log::warn!("the screen stays as firmware left it: {error}"),
    }
}

/// Stops writing on the screen: its memory is somebody else's from here on.
pub(super) fn leave_screen() {
    interrupts::without(|| OUTPUT.lock().screen = None);
}

/// Writes one line of a guest.
pub(super) fn guest_line(name: &str, bytes: &[u8]) {
    let text = Printable(bytes);
    interrupts::without(|| OUTPUT.lock().line(Source::Guest(name), format_args!("{text}")));
}

/// Writes a guest's bytes to the serial port as they are.
pub(super) fn raw(bytes: &[u8]) {
    interrupts::without(|| {
        let mut output = OUTPUT.lock();
        if let Some(serial) = &mut output.serial {
            serial.send(bytes);
        }
        output.inside_raw = bytes.last() != Some(&b'\n');
    });
}

/// Waits, not for long, until the last byte has left the serial port.
pub(crate) fn drain() {
    interrupts::without(|| {
        if let Some(serial) = &mut OUTPUT.lock().serial {
            serial.drain();
        }
    });
}

/// A byte that the serial port received.
pub(super) fn received() -> Option<u8> {
    interrupts::without(|| OUTPUT.lock().serial.as_mut()?.receive())
}

/// Writes lines of a CPU that failed, even where another one holds the console and does not let go.
pub(crate) fn emergency(room: &str, message: fmt::Arguments<'_>) {
    let source = Source::Room(log::Level::Error, room);
    interrupts::without(|| {
        let locked = clock::wait_for(PATIENCE, || OUTPUT.try_lock());
        let mut output = match locked {
            Some(output) => output,
            None => {
                // SAFETY: whoever holds the lock has not written a byte's worth of progress for long; every other CPU
                // is being stopped. A line may come out garbled, which is better than none.
                unsafe { OUTPUT.force_unlock() };
                OUTPUT.lock()
            }
        };
        output.line(source, message);
    });
}
