//! The end of the guest.

use crate::acpi::Acpi;
use crate::instructions::{disable_interrupts, in8, out8, out16, out32};

/// The debug exit device.
const DEBUG_EXIT: u16 = 0xF4;
/// The chipset's reset control, and its value for a full reset.
const RESET_CONTROL: (u16, u8) = (0xCF9, 0x06);
/// The keyboard controller's command port, and its pulse of the reset line.
const KEYBOARD_CONTROLLER: (u16, u8) = (0x64, 0xFE);

/// Ends the VM: through the debug exit device with this number, and if there is none, as [`acpi_off`].
pub fn exit(value: u32) -> ! {
    out32(DEBUG_EXIT, value);
    acpi_off()
}

/// Ends the VM, all being well.
pub fn off() -> ! {
    exit(0)
}

/// Switches the machine off as ACPI has it: \_S5 in the PM1a control register.
pub fn acpi_off() -> ! {
    let control = Acpi::find().and_then(|acpi| acpi.pm1a_control().zip(acpi.soft_off()));
    if let Some((port, sleep_type)) = control {
        out16(port, (sleep_type & 7) << 10 | 1 << 13);
    }
    crate::println!("result power=still-on");
    stop()
}

/// How to reset the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// Port 0xCF9.
    Control,
    /// The keyboard controller.
    Keyboard,
    /// The register that the FADT names.
    Acpi,
    /// A triple fault.
    TripleFault,
}

impl Reset {
    /// The way with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "cf9" => Self::Control,
            "keyboard" => Self::Keyboard,
            "acpi" => Self::Acpi,
            "triple-fault" => Self::TripleFault,
            _ => return None,
        })
    }
}

/// Resets the machine.
pub fn reset(way: Reset) -> ! {
    disable_interrupts();
    match way {
        Reset::Control => out8(RESET_CONTROL.0, RESET_CONTROL.1),
        Reset::Keyboard => out8(KEYBOARD_CONTROLLER.0, KEYBOARD_CONTROLLER.1),
        Reset::Acpi => {
            if let Some((port, value)) = Acpi::find().and_then(|acpi| acpi.reset_register()) {
                out8(port, value);
            }
        }
        Reset::TripleFault => {
            // SAFETY: with an empty descriptor table no handler is found, nor one for that fault, and so on: the
            // machine resets, and nothing of Rust runs any more.
            unsafe { core::arch::asm!("lidt [{}]", "int3", in(reg) &[0u64; 2], options(nostack)) }
        }
    }
    // The reset may take effect a little later than the next instruction.
    for _ in 0..1_000_000 {
        let _ = in8(0x80);
    }
    crate::println!("result reset=without-effect");
    stop()
}

/// Stops this processor for good.
pub fn stop() -> ! {
    loop {
        // SAFETY: with interrupts off nothing runs any more.
        unsafe { core::arch::asm!("cli", "hlt", options(nomem, nostack)) }
    }
}
