//! Postern's configuration file: what a person writes in `postern.toml`, read without trust.
//!
//! [`read`] gives a [`Reading`]: what could be read of a text, and every [`Problem`] that it has, not only the first.
//! [`Reading::check`] adds the problems that only a look at the machine shows, also where the text has problems of its
//! own, so that one report has all of them. The loader finds the files to bring with it, the kernel checks and
//! reports; [`parse`] is for those who want a [`Configuration`] or nothing. The crate reads no file, touches no
//! hardware and depends on nothing else of Postern.
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
mod reading;
mod size;
mod value;
mod vm;

pub use device::{FunctionAddress, Selector};
pub use machine::{Claim, Function, Machine};
pub use model::{AtEnd, Configuration, Cpus, Image, LinuxImage, Module, MultibootImage, OnReset, Override, Vm};
pub use position::{Placed, Position};
pub use problem::{PathFault, Problem, Rule};
pub use reading::{Key, Reading};
pub use size::Bytes;
pub use vm::Wishes;

use alloc::vec::Vec;
use toml::de::DeTable;

/// Reads a configuration from TOML text, as far as that is possible.
pub fn read(text: &str) -> Reading {
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut notes = read::Notes::new(text);
    for error in &errors {
        notes.syntax(error.span(), error.message());
    }
    let (wishes, configuration) = model::read(table, &mut notes);
    let is_toml = notes.is_toml();
    Reading::new(wishes, is_toml, notes.finish(configuration))
}

/// Reads a configuration from TOML text.
///
/// # Errors
///
/// Every problem of the text, in the order of their places in it; never an empty list.
pub fn parse(text: &str) -> Result<Configuration, Vec<Problem>> {
    read(text).finish(Vec::new())
}

#[cfg(test)]
mod tests;
