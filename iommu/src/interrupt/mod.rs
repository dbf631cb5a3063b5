//! Interrupt remapping: entries of the remapping table, the messages that name them, and posted-interrupt descriptors.

pub mod entry;
pub mod message;
pub mod posted;
pub mod table;
