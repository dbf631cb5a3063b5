//! Page tables that devices and processors walk: one algorithm, many entry formats.
//!
//! A [`Format`] encodes and decodes single entries ([`SecondStage`], [`FirstStage`] for devices, [`Ept`], [`Npt`] for
//! processors); [`Table`] walks, fills, splits, empties and frees, the same for all of them. Callers: the driver's
//! domains, and the owner of a guest's memory for the processor's tables.
//!
//! # What hardware may do meanwhile
//!
//! Hardware reads a live table at any moment, caches what it read, and may set accessed and dirty bits. So:
//!
//! - every entry changes by one 8-byte store (or locked operation), and each value it ever holds is valid;
//! - a table is filled, flushed where the walk is not coherent, and only then linked;
//! - a large page is split by one store that replaces the leaf by a complete table of the same translation;
//! - a table that emptied is unlinked at once and freed only by [`Table::release`], which the caller calls after the
//!   invalidation: until then hardware may still walk it.
//!
//! # Invariants
//!
//! - Only the root may be empty: a table without a present entry is unlinked by the call that emptied it.
//! - An entry that links a table carries in bits 61:52, which hardware ignores there in every format, how many
//!   entries of that table are present. That is what makes emptiness known without a scan.
//! - Links grant everything; permissions stand in the leaves.
//! - A failed call has changed nothing: it allocates all it will need before its first store.

mod attributes;
mod change;
mod entry;
mod error;
pub mod format;
mod gathered;
mod map;
mod place;
mod query;
mod recent;
mod reserve;
mod shape;
mod table;
#[cfg(test)]
mod tests;
mod unmap;

pub use attributes::{Attributes, MemoryType, Permissions};
pub use error::{BuildError, ChangeError, MapError, RangeError};
pub use format::{Ept, FirstStage, Format, Npt, SecondStage};
pub use gathered::Gathered;
pub use query::{Mapping, Nearest, Runs};
pub use shape::{Coherence, InterruptWindow, Levels, PageSizes, Shape};
pub use table::Table;
