//! The kernel's side of the doors of `iommu` and `passthrough`: a function on a VM's virtual bus, its interrupts and
//! its faults.

mod binding;
mod event;
mod space;
mod windows;

pub use binding::{Binding, post};
pub use event::Target;
pub use space::FunctionSpace;
pub use windows::FunctionWindows;
