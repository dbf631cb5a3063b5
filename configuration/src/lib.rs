//! Postern's configuration file: what a person writes in `postern.toml`, read without trust.
//!
//! [`parse`] turns text into a [`Configuration`] or into every [`Problem`] that the text has, not only the first.
//! [`Configuration::check`] adds the problems that only a look at the machine shows. The loader, the kernel and
//! `xtask` call both; the crate reads no file, touches no hardware and depends on nothing else of Postern.
//!
//! Every key is described in `docs/configuration.md`.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod device;
mod image;
mod machine;
mod model;
mod overlap;
mod position;
mod problem;
mod read;
mod size;
mod value;
mod vm;

pub use device::{FunctionAddress, Selector};
pub use machine::{Claim, Function, Machine};
pub use model::{AtEnd, Configuration, Image, LinuxImage, Module, MultibootImage, OnReset, Override, Vm};
pub use position::{Placed, Position};
pub use problem::{PathFault, Problem, Rule};
pub use size::Bytes;

use alloc::vec::Vec;
use toml::de::DeTable;

/// Reads a configuration from TOML text.
///
/// # Errors
///
/// Every problem of the text, in the order of their places in it; never an empty list.
pub fn parse(text: &str) -> Result<Configuration, Vec<Problem>> {
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut notes = read::Notes::new(text);
    for error in &errors {
        notes.syntax(error.span(), error.message());
    }
    let configuration = model::read(table, &mut notes);
    notes.finish(configuration)
}

#[cfg(test)]
mod tests;
