//! A virtual machine: built from its configuration, run by its virtual CPUs, given back whole.
//!
//! ```text
//! AddressMap::new         where everything lies (needs the functions' BAR sizes)
//!   -> guest RAM          crate::memory::GuestMemory over AddressMap::memory
//!   -> functions          VirtualFunction, made by `assignment` for that RAM
//!   -> Vm::build          virtual bus, ACPI tables, image
//! Vm::start               the state in which the first virtual CPU begins
//! Vm as vcpu::Platform    ports, registers, memory, the devices' timers (served by the first virtual CPU), the end
//! Vm::ended               why it ended; Restarts says whether it begins again
//! drop                    BARs are taken back; RAM follows when its last holder lets go
//! ```
//!
//! A restart builds everything anew, on the same interrupt bus.

pub mod acpi;
mod counters;
pub mod device;
pub mod host;
mod kernel_host;
pub mod load;
mod machine;
pub mod map;
pub mod memory;
pub mod pci;
mod ports;
pub mod rehearsal;
mod restarts;
pub mod wall_clock;
mod wiring;

pub use self::counters::{Counters, Counts};
pub use self::kernel_host::KernelHost;
pub use self::machine::{BuildError, Image, Parts, Vm};
pub use self::restarts::{Next, Restarts};
