//! The hypervisor around a VM, as this kernel has it.

use alloc::string::String;

use spin::Mutex;

use super::host::Host;
use crate::assignment::{DmaWindows, Remapping};
use crate::console::{self, GuestConsole};
use crate::cpu::clock;

/// [`Host`] by the kernel's clock and console.
#[derive(Debug)]
pub struct KernelHost {
    name: String,
    console: Mutex<GuestConsole>,
    windows: Option<DmaWindows<Remapping>>,
}

impl KernelHost {
    /// For the VM with this name, which may open these windows for its devices.
    pub fn new(name: &str, windows: Option<DmaWindows<Remapping>>) -> Self {
        Self { name: String::from(name), console: Mutex::new(GuestConsole::new(name)), windows }
    }
}

impl Host for KernelHost {
    fn nanoseconds(&self) -> u64 {
        clock::nanoseconds()
    }

    fn console_write(&self, byte: u8) {
        self.console.lock().write(byte);
    }

    fn console_flush(&self) {
        self.console.lock().flush();
    }

    fn console_read(&self) -> Option<u8> {
        console::poll();
        self.console.lock().read()
    }

    fn console_line(&self, line: &[u8]) {
        console::guest_line(&self.name, line);
    }

    fn console_dropped(&self, bytes: u64) {
        log::warn!(target: "vm", "{} printed faster than it may: {bytes} bytes of it were dropped", self.name);
    }

    fn hypercall(&self, number: u64, arguments: [u64; 3]) -> Option<u64> {
        self.windows.as_ref()?.call(number, arguments)
    }
}
