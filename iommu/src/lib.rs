//! A driver for Intel VT-d (Virtualization Technology for Directed I/O).
//!
//! The crate holds no assembly, no statics and no fixed address: it reaches the machine through the traits of
//! [`door`], so it runs the same in a hypervisor and in an ordinary process.

#![no_std]
#![deny(missing_docs)]
#![deny(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod layout;

pub mod address;
pub mod dmar;
pub mod door;
pub mod driver;
pub mod fault;
pub mod interrupt;
pub mod paging;
pub mod queue;
pub mod registers;
pub mod table;
pub mod unit;

#[cfg(test)]
mod fixture;

pub use dmar::Dmar;
pub use driver::Driver;
