//! What a PC still has from before there were local APICs, put to rest.

use x86_64::instructions::port::Port;

use super::acpi::IoApic;
use crate::memory::{MapMmioError, map_mmio};

/// Where the 8259s' 16 vectors are moved to; see `cpu::vectors`.
const VECTORS: u8 = 0x20;

/// Masks both 8259s, and moves their vectors away from the exceptions': a spurious interrupt comes masked or not.
pub(crate) fn mask_8259s() {
    for (command, data, vectors, cascade) in [(0x20, 0x21, VECTORS, 4), (0xa0, 0xa1, VECTORS + 8, 2)] {
        let (mut command, mut data) = (Port::<u8>::new(command), Port::<u8>::new(data));
        // SAFETY: the ports are the 8259s' on every PC that says it has them, and nobody else drives them. The four
        // initialization words, then the mask.
        unsafe {
            command.write(0x11);
            data.write(vectors);
            data.write(cascade);
            data.write(1);
            data.write(0xff);
        }
    }
}

/// Masks every input of an I/O APIC (82093AA data sheet, section 3).
///
/// # Errors
///
/// Its registers cannot be mapped.
pub(crate) fn mask_io_apic(io_apic: &IoApic) -> Result<(), MapMmioError> {
    const SELECT: u64 = 0;
    const WINDOW: u64 = 0x10;
    const VERSION: u32 = 1;
    const FIRST_ENTRY: u32 = 0x10;
    const MASKED: u32 = 1 << 16;
    let registers = map_mmio(io_apic.address, 0x20)?;
    registers.write_u32(SELECT, VERSION);
    let last = registers.read_u32(WINDOW) >> 16 & 0xff;
    for entry in 0..=last {
        // The low half alone: the mask stays set whatever the high half holds.
        registers.write_u32(SELECT, FIRST_ENTRY + 2 * entry);
        registers.write_u32(WINDOW, MASKED);
    }
    Ok(())
}
