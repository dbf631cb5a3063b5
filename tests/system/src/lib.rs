//! Whole boots of Postern in emulated machines, and what they must show.
//!
//! `xtask` finds the tools, builds what boots and hands both over as [`tools::Tools`]; here is what a machine is made
//! of ([`machine`]), what lies on its volume ([`volume`]) and how its log is read ([`log_line`]).

#![forbid(unsafe_code)]

pub mod attack;
pub mod bochs;
pub mod boot_files;
pub mod case;
pub mod cases;
pub mod child;
pub mod demo;
pub mod disk;
pub mod disk_image;
pub mod ending;
mod in_use;
pub mod initramfs;
pub mod log_line;
pub mod machine;
pub mod summary;
pub mod tools;
pub mod volume;
