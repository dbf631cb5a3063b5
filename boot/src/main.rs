//! Postern's boot loader: a UEFI application at `\EFI\BOOT\BOOTX64.EFI`.
//!
//! It reads the configuration, the kernel and the guests' files from the volume that it was started from, leaves
//! firmware's boot services, and jumps into the kernel with a [`handoff::Handoff`]. Whatever fails is a sentence on
//! the screen and on COM1, and the end.

#![cfg_attr(target_os = "uefi", no_std, no_main)]

#[cfg(target_os = "uefi")]
extern crate alloc;

#[cfg(target_os = "uefi")]
mod application;

/// Elsewhere there is nothing to load.
#[cfg(not(target_os = "uefi"))]
fn main() {
    eprintln!("This is a UEFI application: build it for x86_64-unknown-uefi.");
}
