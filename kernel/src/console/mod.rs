//! The console: the log, the guests' consoles, and the keys. Output goes to COM1 and to the screen, input comes from
//! COM1, which is polled.

mod focus;
mod guest;
mod keys;
mod line;
pub(crate) mod output;
mod screen;
mod serial;

pub use self::guest::GuestConsole;

/// Writes one line of a guest's console, marked with the VM's name. What could disturb a terminal is taken out.
pub fn guest_line(name: &str, bytes: &[u8]) {
    output::guest_line(name, bytes);
}

/// Looks whether something was typed, and obeys the keys that are for the hypervisor. To be called often: the serial
/// port holds 16 bytes.
pub fn poll() {
    focus::poll();
}

/// The next typed byte, for the guest that holds the focus; see [`GuestConsole::read`].
pub fn take_input() -> Option<u8> {
    focus::take_any()
}

/// Stops writing on the screen: its function is about to be given away.
pub fn leave_screen() {
    output::leave_screen();
}
