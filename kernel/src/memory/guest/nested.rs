//! The table through which a VM's processors reach its memory, in the format of the engine that enters it.

use core::ops::Range;

use iommu::address::HostPhysical;
use iommu::door::Frames;
use iommu::paging::{
    Attributes, BuildError, ChangeError, Coherence, Ept, InterruptWindow, Levels, MapError, Npt, PageSizes, Shape,
    Table,
};
use raw_cpuid::CpuId;

use crate::memory::GuestPhysical;

/// The entries of a nested table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NestedFormat {
    /// AMD's nested paging.
    Npt,
    /// Intel's extended page tables.
    Ept(Ept),
}

/// What the processor's second level of paging is able to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NestedPaging {
    /// Its entries.
    pub format: NestedFormat,
    /// Its large pages.
    pub page_sizes: PageSizes,
    /// The processor's physical width in bits.
    pub output_bits: u8,
    /// Whether the processor knows accesses to a local APIC by a page that is mapped at its address.
    pub apic_access: bool,
}

impl NestedPaging {
    /// AMD's nested paging on this processor: large pages as for its own tables.
    pub fn npt() -> Self {
        let identity = CpuId::new();
        let has_1_gib =
            identity.get_extended_processor_and_feature_identifiers().is_some_and(|features| features.has_1gib_pages());
        let huge = if has_1_gib { PageSizes::ONE_GIBIBYTE } else { PageSizes::empty() };
        Self {
            format: NestedFormat::Npt,
            page_sizes: PageSizes::TWO_MEBIBYTES | huge,
            output_bits: physical_bits(&identity),
            apic_access: false,
        }
    }

    /// Intel's, by IA32_VMX_EPT_VPID_CAP (SDM volume 3 appendix A.10): bit 16 has 2 MiB pages, bit 17 1 GiB pages.
    pub fn ept(capabilities: u64, entries: Ept) -> Self {
        let mut page_sizes = PageSizes::empty();
        page_sizes.set(PageSizes::TWO_MEBIBYTES, capabilities & 1 << 16 != 0);
        page_sizes.set(PageSizes::ONE_GIBIBYTE, capabilities & 1 << 17 != 0);
        Self {
            format: NestedFormat::Ept(entries),
            page_sizes,
            output_bits: physical_bits(&CpuId::new()),
            apic_access: false,
        }
    }

    fn shape(self) -> Shape {
        Shape {
            levels: Levels::Four,
            page_sizes: self.page_sizes,
            input_bits: Levels::Four.bits(),
            output_bits: self.output_bits,
            coherence: Coherence::Coherent,
            interrupt_window: InterruptWindow::Ordinary,
        }
    }
}

/// Physical address bits; 36 where the processor does not say.
fn physical_bits(identity: &CpuId<raw_cpuid::CpuIdReaderNative>) -> u8 {
    identity.get_processor_capacity_feature_info().map_or(36, |info| info.physical_address_bits()).min(52)
}

/// A table of one format or the other.
pub(super) enum NestedTable<M: Frames> {
    Npt(Table<Npt, M>),
    Ept(Table<Ept, M>),
}

macro_rules! either {
    ($table:expr, $name:ident => $act:expr) => {
        match $table {
            NestedTable::Npt($name) => $act,
            NestedTable::Ept($name) => $act,
        }
    };
}

impl<M: Frames> NestedTable<M> {
    pub(super) fn new(paging: NestedPaging, frames: M) -> Result<Self, BuildError> {
        Ok(match paging.format {
            NestedFormat::Npt => Self::Npt(Table::new(Npt, frames, paging.shape())?),
            NestedFormat::Ept(entries) => Self::Ept(Table::new(entries, frames, paging.shape())?),
        })
    }

    pub(super) fn root(&self) -> HostPhysical {
        either!(self, table => table.root())
    }

    pub(super) fn map(
        &mut self,
        guest: GuestPhysical,
        host: HostPhysical,
        length: u64,
        attributes: Attributes,
    ) -> Result<(), MapError> {
        either!(self, table => table.map(guest.as_u64(), host, length, attributes))
    }

    /// Unmaps, lets `flush` make the processors forget, and frees the tables that emptied.
    pub(super) fn unmap(
        &mut self,
        guest: GuestPhysical,
        length: u64,
        flush: impl FnOnce(Range<u64>),
    ) -> Result<(), ChangeError> {
        either!(self, table => {
            let gathered = table.unmap(guest.as_u64(), length)?;
            if !gathered.is_empty() {
                flush(gathered.range());
            }
            table.release(gathered);
            Ok(())
        })
    }

    #[cfg(test)]
    pub(super) fn translate(&self, guest: u64) -> Option<HostPhysical> {
        either!(self, table => table.translate(guest))
    }

    #[cfg(test)]
    pub(super) fn lookup(&self, guest: u64) -> Option<iommu::paging::Mapping> {
        either!(self, table => table.lookup(guest))
    }
}
