//! A virtual machine.
pub mod device;
pub mod map;
