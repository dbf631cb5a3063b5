//! The machine around the processors: ACPI, PCI, serial port.

pub mod acpi;
pub mod pci;
