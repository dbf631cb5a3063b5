//! Tests against QEMU's remapping unit, an implementation that nobody here wrote, driven without any guest: this
//! process writes the machine's memory and registers, and tells its devices what to do.
//!
//! Two things are compared with it: the remapping-unit model, by random programs on both, and the `iommu` crate's
//! driver. `cargo xtask test qtest [NAME]` runs it; it prints a line for each test as Rust's own test programs do.

#![deny(unsafe_code)]

mod cases;
mod emulator;
mod native;
mod program;
mod tools;

use std::process::ExitCode;

fn main() -> ExitCode {
    let name = std::env::args().nth(1);
    match cases::run(name.as_deref()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
