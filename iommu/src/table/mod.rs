//! The structures that lead a request to its page table (VT-d sections 9.1 to 9.6).
//!
//! [`entry`] is the layout of legacy mode and [`ContextTables`] owns one unit's set of them; [`scalable`] likewise for
//! scalable mode. [`Tables`] is whichever a unit uses.

pub mod entry;
pub mod scalable;
mod tree;

pub use scalable::ScalableTables;
pub use tree::{ContextTables, Occupied};

use crate::address::{HostPhysical, SourceId};
use crate::door::{Frames, OutOfFrames};
use crate::table::entry::{ContextEntry, Translation};

/// What a function's requests are translated by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Walk {
    /// A second-stage table.
    Second {
        /// Its root.
        root: HostPhysical,
        /// 3 to 5.
        levels: u8,
        /// The unit sets accessed and dirty flags. Scalable mode only.
        accessed_dirty: bool,
    },
    /// A first-stage table. Scalable mode only.
    First {
        /// Its root.
        root: HostPhysical,
        /// 4 or 5.
        levels: u8,
        /// The most second-stage levels that the unit walks: what is asked of the field all the same.
        widest: u8,
    },
    /// Nothing: addresses are memory's own.
    PassThrough {
        /// As above.
        widest: u8,
    },
}

/// What becomes of a function's requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// How they are translated.
    pub walk: Walk,
    /// The domain, which tags what is cached.
    pub domain: u16,
    /// The device may have a TLB of its own.
    pub device_tlb: bool,
    /// Its accesses snoop, whatever they ask for. Scalable mode only; in legacy mode leaves say so.
    pub snoop: bool,
}

/// The tables of one unit, in the mode that it is in.
#[derive(Debug)]
pub enum Tables<F> {
    /// Legacy mode.
    Legacy(ContextTables<F>),
    /// Scalable mode.
    Scalable(ScalableTables<F>),
}

impl<F: Frames> Tables<F> {
    /// The root table, for RTADDR.
    pub fn root(&self) -> HostPhysical {
        match self {
            Self::Legacy(tables) => tables.root(),
            Self::Scalable(tables) => tables.root(),
        }
    }

    /// Makes room for entries of `sources`. The caller owes what it owes for the entries that it then fills.
    ///
    /// # Errors
    ///
    /// Too few frames; nothing changed.
    pub fn prepare(&mut self, sources: &[SourceId]) -> Result<(), OutOfFrames> {
        match self {
            Self::Legacy(tables) => tables.prepare(sources.iter().map(|source| source.bus())),
            Self::Scalable(tables) => tables.prepare(sources),
        }
    }

    /// The domain in the entry of `source`; 0 where there is none.
    pub fn domain_of(&self, source: SourceId) -> u16 {
        match self {
            Self::Legacy(tables) => tables.entry(source).domain_id(),
            Self::Scalable(tables) => tables.domain_of(source),
        }
    }

    /// Publishes `target` for `source`, which is [prepared](Self::prepare). See [`ContextTables::fill`] and
    /// [`ScalableTables::fill`] for what is owed.
    pub fn fill(&mut self, source: SourceId, target: &Target) -> Result<(), Occupied> {
        match self {
            Self::Legacy(tables) => tables.fill(source, legacy_entry(target)),
            Self::Scalable(tables) => tables.fill(source, target),
        }
    }

    /// Stops `source`. See [`ContextTables::block`] and [`ScalableTables::block`] for what is owed; then
    /// [`erase`](Self::erase).
    pub fn block(&mut self, source: SourceId) {
        match self {
            Self::Legacy(tables) => drop(tables.block(source)),
            Self::Scalable(tables) => tables.block(source),
        }
    }

    /// Zeroes the blocked entry of `source`, but for FPD. `confirmed`: its unit has confirmed that nothing of the entry
    /// is cached, so that frames below it may be used again.
    pub fn erase(&mut self, source: SourceId, confirmed: bool) {
        match self {
            Self::Legacy(tables) => tables.erase(source),
            Self::Scalable(tables) => {
                tables.erase(source);
                if confirmed {
                    tables.retire(source);
                }
            }
        }
    }

    /// Sets or clears FPD of `source`. False where it has no table. See [`ContextTables::silence`] and
    /// [`ScalableTables::silence`] for what is owed.
    pub fn silence(&mut self, source: SourceId, silent: bool) -> bool {
        match self {
            Self::Legacy(tables) => tables.silence(source, silent),
            Self::Scalable(tables) => tables.silence(source, silent),
        }
    }

    /// Gives the frames back. The unit must not be able to reach them any more.
    pub fn release(self) {
        match self {
            Self::Legacy(tables) => tables.release(),
            Self::Scalable(tables) => tables.release(),
        }
    }
}

/// The entry of legacy mode; an absent one for what only scalable mode has.
fn legacy_entry(target: &Target) -> ContextEntry {
    match target.walk {
        Walk::Second { root, levels, .. } => {
            let translation = if target.device_tlb { Translation::WithDeviceTlb } else { Translation::Untranslated };
            ContextEntry::translating(root, levels, target.domain, translation)
        }
        Walk::PassThrough { widest } => ContextEntry::passing_through(widest, target.domain),
        Walk::First { .. } => ContextEntry::default(),
    }
}
