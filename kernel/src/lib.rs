//! The hypervisor, as a library: everything but the entry point, so that its logic builds and is tested as an ordinary
//! process too. What executes privileged instructions compiles there and is not called.

#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod assignment;
pub mod console;
pub mod cpu;
pub mod memory;
pub mod platform;
pub mod schedule;
pub mod start;
pub mod vapic;
pub mod vcpu;
pub mod vm;
