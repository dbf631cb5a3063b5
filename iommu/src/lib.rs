#![doc = include_str!("../README.md")]
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
