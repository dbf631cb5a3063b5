//! VFIO's container, group and device as objects of a hypervisor.
//!
//! The objects follow the life cycle, the rules and the errors of Linux's VFIO: a [`container::Container`] holds the
//! mappings of one virtual machine, a [`group::Group`] is what can be isolated, a [`device::Device`] is one function
//! with a virtual configuration space. What VFIO calls an eventfd is here an opaque [`door::Event`].
//!
//! The crate knows no processor and no memory: it reaches the machine through the traits of [`door`], so it runs the
//! same in a hypervisor and in an ordinary process.

#![no_std]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

extern crate alloc;
#[cfg(any(test, feature = "fake"))]
extern crate std;

pub mod config;
pub mod container;
pub mod device;
pub mod door;
pub mod errno;
#[cfg(any(test, feature = "fake"))]
#[doc(hidden)]
pub mod fake;
pub mod group;
pub mod interrupt;
#[cfg(test)]
mod recorded;
pub mod region;
pub mod reset;
pub mod topology;
pub mod uapi;
