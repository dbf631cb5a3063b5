//! The structures that lead a request to its page table: root and context tables (VT-d section 9.1 and 9.3).
//!
//! [`entry`] is their layout, [`ContextTables`] owns one unit's set of them.

pub mod entry;
mod tree;

pub use tree::{ContextTables, Occupied};
