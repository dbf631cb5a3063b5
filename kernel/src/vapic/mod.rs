//! The interrupt controllers of a virtual machine: a local APIC for each virtual CPU (SDM volume 3 chapter 11), the bus
//! between them, and the I/O APIC (82093AA).
//!
//! A local APIC belongs to the thread of its virtual CPU and is touched by nobody else. Whatever wants to interrupt a
//! virtual CPU (a device's host vector, the I/O APIC, another virtual CPU) writes that virtual CPU's [`Endpoint`],
//! which holds the mailbox; the local APIC drains it before every entry and is its only reader. Nothing here touches
//! the machine: how a host CPU is told to look into a mailbox is a [`Bell`] that the bus is given.

mod bus;
mod endpoint;
mod io;
mod local;
mod message;
mod page;
mod timer;
mod vectors;

pub use bus::ApicBus;
pub use endpoint::{ApicAddress, Bell, Endpoint, Requests};
pub use io::IoApic;
pub(crate) use local::APIC_BASE;
pub use local::{Effect, LocalApic, RegisterFault};
pub use message::{DeliveryMode, Destination, Interrupt, MsiMessage, NotAnInterrupt, Trigger};
pub use vectors::VectorSet;
