//! Interrupt remapping: entries of the remapping table, and posted-interrupt descriptors.

pub mod posted;
