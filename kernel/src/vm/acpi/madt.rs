//! The multiple APIC description table (ACPI 6.5, section 5.2.12).

use acpi_tables::Aml;
use acpi_tables::madt::{EnabledStatus, IoApic, ProcessorLocalApic};
use acpi_tables::sdt::Sdt;

use super::{OEM, OEM_REVISION, OEM_TABLE};
use crate::vm::device::power;
use crate::vm::map::{IO_APIC, LOCAL_APIC};

/// Bytes of the header with the two fields behind it.
const HEAD: u32 = 44;
const REVISION: u8 = 5;
/// There is a pair of 8259s.
const PCAT_COMPAT: u32 = 1 << 0;

/// Interrupt source override: an ISA interrupt that is not what ISA says.
const OVERRIDE: u8 = 2;
/// Local APIC NMI.
const LOCAL_NMI: u8 = 4;
/// Flags of an override: as the bus has it; active high and level triggered.
const CONFORMS: u16 = 0;
const HIGH_LEVEL: u16 = 1 | 3 << 2;

/// The table for APIC ids 0 to `cpus` - 1.
pub(super) fn build(cpus: u8) -> Sdt {
    let mut table = Sdt::new(*b"APIC", HEAD, REVISION, OEM, OEM_TABLE, OEM_REVISION);
    table.write_u32(36, LOCAL_APIC.start as u32);
    table.write_u32(40, PCAT_COMPAT);
    for id in 0..cpus {
        add(&mut table, &ProcessorLocalApic::new(id, id, EnabledStatus::Enabled));
    }
    // The I/O APIC's own id: the first behind those of the local APICs that fits its four bits.
    add(&mut table, &IoApic::new(cpus.min(15), IO_APIC.start as u32, 0));
    // The timer hangs on pin 2, the system control interrupt is a level.
    let power = power::SYSTEM_CONTROL_INTERRUPT;
    for (source, pin, flags) in [(0, 2, CONFORMS), (power, power, HIGH_LEVEL)] {
        let [flags_low, flags_high] = flags.to_le_bytes();
        table.append_slice(&[OVERRIDE, 10, 0, source, pin, 0, 0, 0, flags_low, flags_high]);
    }
    // LINT1 of every processor.
    table.append_slice(&[LOCAL_NMI, 6, 0xff, 0, 0, 1]);
    table
}

fn add(table: &mut Sdt, structure: &dyn Aml) {
    table.append_slice(&super::bytes_of(structure));
}
