//! A virtual machine.
pub mod acpi;
pub mod device;
pub mod load;
pub mod map;
pub mod memory;
pub mod pci;
