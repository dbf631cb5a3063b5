//! What the loader says: on firmware's console, and on COM1 where firmware's console is not there already.

use core::fmt::{self, Write};
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU8, Ordering};

use uefi::boot::{OpenProtocolAttributes, OpenProtocolParams, SearchType};
use uefi::proto::console::text::Output;
use uefi::proto::device_path::{DevicePath, DeviceSubType, DeviceType};
use uefi::{Handle, Identify, boot, system};

use super::error::BootError;
use super::serial::Serial;

/// Firmware's console shows on a serial line: COM1 is firmware's.
const FIRMWARE_WITH_SERIAL: u8 = 1;
/// Firmware's console shows elsewhere: COM1 is the loader's.
const FIRMWARE_AND_SERIAL: u8 = 2;
/// Firmware is gone: only COM1 is left.
const SERIAL: u8 = 3;

/// Which of the three; 0 before [`open`].
static STATE: AtomicU8 = AtomicU8::new(0);

/// Prints a line, as `format!` would make it.
macro_rules! say {
    ($($argument:tt)*) => { $crate::application::console::line(format_args!($($argument)*)) };
}
pub(super) use say;

/// Finds out where the console shows.
pub(super) fn open() {
    let state =
        if firmware_has_serial() || Serial::open().is_none() { FIRMWARE_WITH_SERIAL } else { FIRMWARE_AND_SERIAL };
    STATE.store(state, Ordering::Relaxed);
}

/// From here on only COM1 is used, as firmware's console ends with the boot services.
pub(super) fn close() {
    STATE.store(SERIAL, Ordering::Relaxed);
}

/// Prints a line. What cannot be shown is dropped: there is nobody left to tell.
pub(super) fn line(text: fmt::Arguments<'_>) {
    part(format_args!("{text}\n"));
}

/// Prints without a line break.
pub(super) fn part(text: fmt::Arguments<'_>) {
    let state = STATE.load(Ordering::Relaxed);
    if state != SERIAL {
        // The result tells of characters that the screen's font lacks.
        let _ = system::with_stdout(|output| output.write_fmt(text));
    }
    if (state == SERIAL || state == FIRMWARE_AND_SERIAL)
        && let Some(mut serial) = Serial::found()
    {
        let _ = serial.write_fmt(text);
    }
}

/// Says why, and stops the machine for good.
pub(super) fn stop(error: &BootError) -> ! {
    say!("\nPostern does not start.\n{error}\nThe machine has stopped.");
    halt()
}

fn halt() -> ! {
    loop {
        // SAFETY: with interrupts off, the processor waits for a reset; nothing runs that needs it.
        unsafe { core::arch::asm!("cli", "hlt", options(nomem, nostack)) }
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    say!("\nPostern does not start: the loader has a defect. Please report it with this line.\n{info}");
    halt()
}

/// Whether one of the consoles that firmware prints to is at the end of a UART (UEFI specification, 10.3.4.13).
fn firmware_has_serial() -> bool {
    let Ok(handles) = boot::locate_handle_buffer(SearchType::ByProtocol(&Output::GUID)) else { return false };
    handles.iter().any(|handle| is_serial(*handle))
}

fn is_serial(handle: Handle) -> bool {
    let parameters = OpenProtocolParams { handle, agent: boot::image_handle(), controller: None };
    // SAFETY: the device path of a console is only read, and no driver is stopped or started meanwhile.
    let path = unsafe { boot::open_protocol::<DevicePath>(parameters, OpenProtocolAttributes::GetProtocol) };
    path.is_ok_and(|path| {
        path.node_iter().any(|node| node.full_type() == (DeviceType::MESSAGING, DeviceSubType::MESSAGING_UART))
    })
}
