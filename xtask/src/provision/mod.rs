//! The tools that Postern is built and run with: found where they are good enough, else fetched into the cache folder.
//!
//! Nothing is installed: Debian's packages are downloaded with apt's own client under a private state and unpacked
//! beside the system. Each unpacked folder appears under its name only when it is complete.

mod bochs;
mod cache;
mod debian;
mod guest;
mod qemu;
mod sysroot;
mod toolchain;

use anyhow::{Result, bail};

pub(crate) use bochs::find as bochs;
pub(crate) use guest::find as linux;
pub(crate) use qemu::find as qemu;
pub(crate) use toolchain::Toolchain;

use crate::command_line::Offline;

/// The targets that boot: the kernel and the guests, and the loader.
pub(crate) const TARGETS: [&str; 2] = ["x86_64-unknown-none", "x86_64-unknown-uefi"];

/// `cargo xtask setup`: finds or fetches everything and says where it is.
pub(crate) fn setup(options: &Offline) -> Result<()> {
    find_all(options, |what, place| println!("{what:16} {place}"))
}

/// Finds or fetches everything.
///
/// # Errors
/// One sentence for each thing that is missing, all at once.
pub(crate) fn find_all(options: &Offline, show: impl Fn(&str, String)) -> Result<()> {
    let found = [
        ("bare-metal Rust", Toolchain::find(options).map(|found| found.describe())),
        ("QEMU and OVMF", qemu::find(options).map(|found| qemu::describe(&found))),
        ("Bochs and OVMF", bochs::find(options).map(|found| bochs::describe(&found))),
        ("Linux guest", guest::find(options).map(|found| guest::describe(&found))),
    ];
    let mut missing = Vec::new();
    for (what, found) in found {
        match found {
            Ok(place) => show(what, place),
            Err(error) => missing.push(format!("{error:#}")),
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    bail!("{}", missing.join("\nerror: "))
}
