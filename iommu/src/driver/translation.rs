//! What a domain translates by: a table of either stage, or nothing at all.

use crate::address::{HostPhysical, Iova};
use crate::door::Frames;
use crate::paging::{
    ChangeError, FirstStage, Gathered, MapError, Mapping, Nearest, Permissions, SecondStage, Shape, Table,
};

/// Which stage a domain's table is walked in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// Second where all units of the domain walk it, else first.
    #[default]
    Any,
    /// The second stage: legacy mode, or scalable with ECAP.SSTS.
    Second,
    /// The first stage: scalable mode with ECAP.FSTS.
    First,
    /// No table: devices reach all of memory, every VM's and the hypervisor's own. Only for devices that are trusted as
    /// much as the hypervisor is (needs ECAP.PT).
    PassThrough,
}

/// A domain's translation.
pub(super) enum Translation<F: Frames> {
    Second(Table<SecondStage, F>),
    First(Table<FirstStage, F>),
    PassThrough,
}

/// The same call to a table of either stage.
macro_rules! either {
    ($translation:expr, $table:ident => $call:expr, $without:expr) => {
        match $translation {
            Translation::Second($table) => $call,
            Translation::First($table) => $call,
            Translation::PassThrough => $without,
        }
    };
}

impl<F: Frames> Translation<F> {
    /// `None`: there is no table to map in.
    pub(super) fn map(
        &mut self,
        iova: Iova,
        host: HostPhysical,
        length: u64,
        permissions: Permissions,
    ) -> Option<Result<(), MapError>> {
        either!(self, table => Some(table.map(iova.as_u64(), host, length, permissions)), None)
    }

    pub(super) fn isolate_all(
        &mut self,
        ranges: impl Iterator<Item = (u64, u64)> + Clone,
    ) -> Option<Result<Gathered, ChangeError>> {
        either!(self, table => Some(table.isolate_all(ranges)), None)
    }

    pub(super) fn unmap(&mut self, iova: Iova, length: u64) -> Option<Result<Gathered, ChangeError>> {
        either!(self, table => Some(table.unmap(iova.as_u64(), length)), None)
    }

    pub(super) fn protect(
        &mut self,
        iova: Iova,
        length: u64,
        permissions: Permissions,
    ) -> Option<Result<Gathered, ChangeError>> {
        either!(self, table => Some(table.protect(iova.as_u64(), length, permissions)), None)
    }

    pub(super) fn release(&self, gathered: Gathered) {
        either!(self, table => table.release(gathered), ());
    }

    pub(super) fn translate(&self, iova: Iova) -> Option<HostPhysical> {
        either!(self, table => table.translate(iova.as_u64()), Some(HostPhysical::new(iova.as_u64())))
    }

    pub(super) fn lookup(&self, iova: Iova) -> Option<Mapping> {
        either!(self, table => table.lookup(iova.as_u64()), None)
    }

    pub(super) fn nearest(&self, iova: Iova) -> Nearest {
        let nothing = Nearest { at: None, below: None, above: None };
        either!(self, table => table.nearest(iova.as_u64()), nothing)
    }

    pub(super) fn frame_count(&self) -> u64 {
        either!(self, table => table.frame_count(), 0)
    }

    /// The table's facts, if there is one.
    pub(super) fn shape(&self) -> Option<&Shape> {
        either!(self, table => Some(table.shape()), None)
    }

    /// Whether translations are tagged by process, not by domain alone: those that the first stage made, or that were
    /// passed through in scalable mode.
    pub(super) fn is_second_stage(&self) -> bool {
        matches!(self, Self::Second(_))
    }
}
