//! A remapping unit of Intel VT-d in software: an oracle for drivers.
//!
//! It is written from the specification alone and shares no code with the `iommu` crate. Its caches are as stale as
//! hardware's may be: what was fetched stays until the right invalidation comes, and where the unit does not snoop, it
//! sees what was flushed and nothing newer. Where software breaks a rule, the unit does what hardware would and adds a
//! named [`Violation`]; a test asserts that there are none.
//!
//! ```
//! use remapping_unit_model::{Configuration, Memory, Unit};
//!
//! struct Nothing;
//! impl Memory for Nothing {
//!     fn read(&self, _: u64) -> Option<u64> { None }
//!     fn read_flushed(&self, _: u64) -> Option<u64> { None }
//!     fn write_u32(&self, _: u64, _: u32) -> bool { false }
//!     fn exchange(&self, _: u64, _: u64, _: u64) -> Option<Result<(), u64>> { None }
//! }
//!
//! let mut unit = Unit::new(Configuration::default(), Nothing);
//! unit.write_u32(0x18, 1 << 31 | 1 << 26);
//! assert_eq!(unit.violations().len(), 2, "two commands at once, and translation without a root table");
//! ```

#![no_std]
#![deny(missing_docs)]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod audit;
mod cache;
mod command;
mod configuration;
mod fault;
mod first_stage;
mod interrupt;
mod invalidation;
mod memory;
mod pasid_invalidation;
mod posting;
mod queue;
pub mod reason;
mod register;
mod scalable;
mod translation;
mod unit;
mod violation;
mod walk;

#[cfg(test)]
mod tests;

pub use configuration::{Configuration, Scalable};
pub use interrupt::{Interrupt, InterruptOutcome, Message};
pub use memory::Memory;
pub use posting::Notification;
pub use translation::{Access, AddressType, Refusal, Request};
pub use unit::Unit;
pub use violation::{Structure, Violation};
