//! The virtual configuration space of an assigned function.

pub mod capability;
