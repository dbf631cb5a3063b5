//! The kernel's side of the doors of `iommu` and `passthrough`: a function on a VM's virtual bus, its interrupts and
//! its faults.

mod assigned;
mod assignments;
mod check;
mod complaints;
mod device_tlb;
mod direct;
mod dma_windows;
mod doubt;
mod entries;
mod event;
mod events;
pub mod faults;
mod function;
mod guarded;
mod machine;
mod remapping;
mod route;
mod signature;
mod space;
mod territory;
mod windows;

pub use assigned::{AssignError, Assigned, Recipient};
pub use assignments::{Assignments, Plan};
pub use check::Wanted;
pub use complaints::Complaints;
pub use direct::{Direct, Receiver};
pub use dma_windows::{DmaWindows, WindowError};
pub use doubt::{Doubt, Kept};
pub use entries::Entries;
pub use event::Target;
pub use events::Events;
pub use function::{AssignedFunction, Doors, shown_bars};
pub use machine::KernelMachine;
pub use remapping::{Liberties, Line, Messages, Remapping};
pub use route::Mailbox;
pub use signature::Signature;
pub use space::FunctionSpace;
pub use territory::{Conflict, Holder};
pub use windows::FunctionWindows;
