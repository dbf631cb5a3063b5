//! Domains: one second-stage table each, and what must be invalidated when it changes.
//!
//! - Mapping: nothing, unless a unit caches absent entries (CM: the range) or has a write buffer (RWBF: a flush).
//! - Unmapping and taking permissions away: the range in every unit with an attached device, the devices' own TLBs
//!   after it, one submission a unit; only then is the memory free.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use log::{error, info};
use spin::Mutex;

use crate::address::{HostPhysical, Iova, PciAddress, SourceId};
use crate::door::Machine;
use crate::driver::{DomainError, Driver, InvalidationError};
use crate::paging::{
    Coherence, Gathered, InterruptWindow, Levels, Nearest, PageSizes, Permissions, SecondStage, Shape, Table,
};
use crate::queue::{Block, Descriptor};
use crate::unit::Unit;
use crate::unit::probe::{ALL_LEVELS, page_sizes};

/// A domain's id (DID), 1 to 65535.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomainId(pub(super) u16);

impl DomainId {
    /// The number, as context entries hold it.
    pub const fn as_u16(self) -> u16 {
        self.0
    }
}

impl fmt::Display for DomainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for DomainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DomainId({})", self.0)
    }
}

/// What a new domain has to suit.
#[derive(Clone, Copy, Debug, Default)]
pub struct DomainRequest<'a> {
    /// The devices that will be attached. Their units decide the table's levels, page sizes, coherence and snooping.
    /// None: every unit of the machine.
    pub devices: &'a [PciAddress],
    /// Address bits that the table must translate, up to 57. 0: as many as the units have, with 4 levels at most.
    pub address_bits: u8,
}

impl<'a> DomainRequest<'a> {
    /// For these devices, as wide as their units allow.
    pub const fn for_devices(devices: &'a [PciAddress]) -> Self {
        Self { devices, address_bits: 0 }
    }
}

/// A device's own TLB, which a domain has to invalidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DeviceTlb {
    pub(super) unit: usize,
    pub(super) source: SourceId,
    pub(super) depth: u8,
}

/// One domain. Under its own lock.
pub(super) struct Domain<M: Machine> {
    pub(super) id: DomainId,
    /// Always there but for a distrusted domain's end.
    pub(super) table: Option<Table<SecondStage, M::Frames>>,
    /// The units that have attached devices, with how many context entries each.
    pub(super) units: Vec<(usize, usize)>,
    pub(super) device_tlbs: Vec<DeviceTlb>,
    /// A cache may hold something of this domain that was taken back: its tables are never given back.
    distrusted: bool,
}

impl<M: Machine> Domain<M> {
    fn new(id: DomainId, table: Table<SecondStage, M::Frames>) -> Self {
        Self { id, table: Some(table), units: Vec::new(), device_tlbs: Vec::new(), distrusted: false }
    }

    /// Remembers that hardware may still use the tables.
    pub(super) fn distrust(&mut self) {
        self.distrusted = true;
    }

    /// One more context entry of `unit` leads here.
    pub(super) fn enter(&mut self, unit: usize) {
        match self.units.iter_mut().find(|(index, _)| *index == unit) {
            Some((_, entries)) => *entries += 1,
            None => self.units.push((unit, 1)),
        }
    }

    /// One less.
    pub(super) fn leave(&mut self, unit: usize) {
        if let Some((_, entries)) = self.units.iter_mut().find(|(index, _)| *index == unit) {
            *entries = entries.saturating_sub(1);
        }
        self.units.retain(|(_, entries)| *entries > 0);
    }
}

/// The tables of a distrusted domain stay where hardware may find them.
impl<M: Machine> Drop for Domain<M> {
    fn drop(&mut self) {
        if self.distrusted {
            error!("domain {}: its tables are kept, since a unit may still use them", self.id);
            core::mem::forget(self.table.take());
        }
    }
}

/// What the units of a domain have in common.
fn common_shape<'a, M: Machine + 'a>(
    units: impl Iterator<Item = &'a Unit<M>> + Clone,
    address_bits: u8,
    output_bits: u8,
) -> Result<(Shape, SecondStage), DomainError> {
    let capabilities = || units.clone().map(|unit| unit.capability());
    let width = capabilities().map(|capability| capability.maximum_width()).min().unwrap_or(0);
    let walked = |levels: &&Levels| capabilities().all(|capability| capability.walks_levels(levels.count()));
    let reached = |levels: Levels| levels.bits().min(width);
    let levels = if address_bits == 0 {
        // Five levels only where nothing less is walked: each level costs every walk.
        let usual = ALL_LEVELS.iter().filter(|levels| levels.count() <= 4).find(walked);
        usual.or_else(|| ALL_LEVELS.iter().find(walked))
    } else {
        ALL_LEVELS.iter().rev().filter(walked).find(|levels| reached(**levels) >= address_bits)
    };
    let Some(&levels) = levels else {
        let possible = ALL_LEVELS.iter().find(walked).map_or(0, |levels| reached(*levels));
        return Err(DomainError::Width { wanted: address_bits, possible });
    };
    let page_sizes = capabilities().map(page_sizes).fold(PageSizes::all(), |common, sizes| common & sizes);
    let coherent = units.clone().all(|unit| unit.extended().coherent());
    let shape = Shape {
        levels,
        page_sizes,
        input_bits: reached(levels),
        output_bits,
        coherence: if coherent { Coherence::Coherent } else { Coherence::NeedsFlush },
        interrupt_window: InterruptWindow::Refused,
    };
    Ok((shape, SecondStage::with_snoop_control(units.clone().all(|unit| unit.extended().snoop_control()))))
}

impl<M: Machine> Driver<M> {
    /// Makes a domain with nothing mapped and nobody attached. Its tables are the driver's own memory.
    pub fn create_domain(&self, request: &DomainRequest<'_>) -> Result<DomainId, DomainError> {
        self.create_domain_in(request, self.machine.frames().clone())
    }

    /// As [`create_domain`](Self::create_domain), with the tables in memory of `frames`: so that whoever the domain is
    /// for is charged for it.
    pub fn create_domain_in(&self, request: &DomainRequest<'_>, frames: M::Frames) -> Result<DomainId, DomainError> {
        self.machine.without_interrupts(|| {
            let mut wanted = Vec::new();
            for &device in request.devices {
                wanted.push(self.coverage.unit_of(device).ok_or(DomainError::Uncovered { device })?);
            }
            let concerned = || {
                let units = self.units.iter().enumerate();
                units.filter(|(index, _)| wanted.is_empty() || wanted.contains(index)).map(|(_, unit)| unit)
            };
            let (shape, format) = common_shape(concerned(), request.address_bits, self.output_bits)?;
            let mut registry = self.registry.lock();
            let id = registry.free_id().ok_or(DomainError::OutOfIds { limit: registry.limit() })?;
            let table = Table::new(format, frames, shape).map_err(DomainError::Build)?;
            info!(
                "domain {id}: {} levels for {} address bits, pages of 4K{}{}, {}, {}",
                shape.levels.count(),
                table.shape().input_bits,
                if shape.page_sizes.contains(PageSizes::TWO_MEBIBYTES) { " 2M" } else { "" },
                if shape.page_sizes.contains(PageSizes::ONE_GIBIBYTE) { " 1G" } else { "" },
                if shape.coherence == Coherence::Coherent { "coherent" } else { "flushed" },
                if format.forces_snoop() { "devices forced to snoop" } else { "snooping left to devices" }
            );
            registry.insert(id, Domain::new(id, table));
            Ok(id)
        })
    }

    /// Ends a domain that nobody is attached to and gives its tables back.
    pub fn destroy_domain(&self, domain: DomainId) -> Result<(), DomainError> {
        self.machine.without_interrupts(|| {
            let mut registry = self.registry.lock();
            if let Some(device) = registry.attached(domain) {
                return Err(DomainError::InUse { domain, device });
            }
            registry.remove(domain).map(drop).ok_or(DomainError::Unknown { domain })
        })
    }

    /// Lets the devices of `domain` reach `length` bytes of memory at `host` under the addresses from `iova` on.
    ///
    /// # Errors
    ///
    /// After any, nothing of the range is mapped that was not before.
    pub fn map(
        &self,
        domain: DomainId,
        iova: Iova,
        host: HostPhysical,
        length: u64,
        permissions: Permissions,
    ) -> Result<(), DomainError> {
        self.with_domain(domain, |this| {
            let Some(table) = &mut this.table else { return Err(DomainError::Unknown { domain }) };
            table.map(iova.as_u64(), host, length, permissions).map_err(DomainError::Map)?;
            if let Err(error) = self.announce(this, iova, length) {
                // Nobody is told that the range is mapped. What a unit saw of it already, it may keep.
                this.distrust();
                if let Some(table) = &mut this.table {
                    table.unmap(iova.as_u64(), length).map(drop).map_err(DomainError::Change)?;
                }
                return Err(error);
            }
            Ok(())
        })
    }

    /// Takes the addresses `iova..iova + length` from the devices of `domain`; gaps are fine. Gives the number of
    /// bytes that were mapped. When this returns, no device reaches them.
    pub fn unmap(&self, domain: DomainId, iova: Iova, length: u64) -> Result<u64, DomainError> {
        self.unmap_ranges(domain, &[(iova, length)])
    }

    /// [`unmap`](Self::unmap) of several ranges, with one submission for all of them.
    pub fn unmap_ranges(&self, domain: DomainId, ranges: &[(Iova, u64)]) -> Result<u64, DomainError> {
        self.with_domain(domain, |this| {
            let Some(table) = &mut this.table else { return Err(DomainError::Unknown { domain }) };
            let mut taken: Option<Gathered> = None;
            let mut changed = Vec::with_capacity(ranges.len());
            let mut refused = Ok(());
            for (iova, length) in ranges {
                match table.unmap(iova.as_u64(), *length) {
                    Ok(gathered) => {
                        if !gathered.is_empty() {
                            changed.push((gathered.range(), gathered.links_changed()));
                        }
                        match &mut taken {
                            Some(taken) => taken.merge(gathered, self.machine.frames()),
                            None => taken = Some(gathered),
                        }
                    }
                    // What went before is taken back all the same.
                    Err(error) => {
                        refused = Err(DomainError::Change(error));
                        break;
                    }
                }
            }
            let Some(taken) = taken else { return refused.map(|()| 0) };
            let bytes = taken.bytes();
            let ranges = changed.iter().map(|(range, links)| (Iova::new(range.start), range.end - range.start, *links));
            self.forget(this, ranges)?;
            if let Some(table) = &this.table {
                table.release(taken);
            }
            refused.map(|()| bytes)
        })
    }

    /// Changes what the devices of `domain` may do in a range that is mapped. When this returns, no device may do more.
    pub fn protect(
        &self,
        domain: DomainId,
        iova: Iova,
        length: u64,
        permissions: Permissions,
    ) -> Result<(), DomainError> {
        self.with_domain(domain, |this| {
            let Some(table) = &mut this.table else { return Err(DomainError::Unknown { domain }) };
            let changed = table.protect(iova.as_u64(), length, permissions).map_err(DomainError::Change)?;
            if !changed.is_empty() {
                let (range, links) = (changed.range(), changed.links_changed());
                self.forget(this, [(Iova::new(range.start), range.end - range.start, links)].into_iter())?;
            }
            if let Some(table) = &this.table {
                table.release(changed);
            }
            Ok(())
        })
    }

    /// Where `iova` leads in `domain`.
    pub fn translate(&self, domain: DomainId, iova: Iova) -> Option<HostPhysical> {
        self.look(domain, |table| table.translate(iova.as_u64())).flatten()
    }

    /// What is mapped at and around `iova` in `domain`.
    pub fn nearest(&self, domain: DomainId, iova: Iova) -> Option<Nearest> {
        self.look(domain, |table| table.nearest(iova.as_u64()))
    }

    /// How many frames the tables of `domain` fill.
    pub fn frames_of(&self, domain: DomainId) -> Option<u64> {
        self.look(domain, Table::frame_count)
    }

    /// Whether the tables of `domain` force devices to snoop, so that even requests that ask not to are coherent.
    pub fn forces_snoop(&self, domain: DomainId) -> Option<bool> {
        self.look(domain, |table| table.format().forces_snoop())
    }

    fn look<T>(&self, domain: DomainId, look: impl FnOnce(&Table<SecondStage, M::Frames>) -> T) -> Option<T> {
        self.machine.without_interrupts(|| {
            let domain = self.registry.lock().domain(domain)?;
            let domain = domain.lock();
            domain.table.as_ref().map(look)
        })
    }

    fn with_domain<T>(
        &self,
        domain: DomainId,
        work: impl FnOnce(&mut Domain<M>) -> Result<T, DomainError>,
    ) -> Result<T, DomainError> {
        self.machine.without_interrupts(|| {
            let found: Option<Arc<Mutex<Domain<M>>>> = self.registry.lock().domain(domain);
            work(&mut found.ok_or(DomainError::Unknown { domain })?.lock())
        })
    }

    /// Something absent became present.
    fn announce(&self, domain: &Domain<M>, iova: Iova, length: u64) -> Result<(), DomainError> {
        for unit in domain.units.iter().filter_map(|(unit, _)| self.units.get(*unit)) {
            let done = if unit.capability().caching_mode() {
                let cover = unit.abilities().cover(domain.id.0, iova, length, false);
                unit.invalidate(&self.machine, [cover].into_iter())
            } else {
                unit.publish(&self.machine)
            };
            done.map_err(|error| DomainError::Invalidation(InvalidationError { base: unit.base(), error }))?;
        }
        Ok(())
    }

    /// Something present went away or may do less: out of every cache. A failure distrusts the domain, whose tables and
    /// memory somebody may still reach.
    fn forget(
        &self,
        domain: &mut Domain<M>,
        ranges: impl Iterator<Item = (Iova, u64, bool)> + Clone,
    ) -> Result<(), DomainError> {
        let mut result = Ok(());
        for &(index, _) in &domain.units {
            let Some(unit) = self.units.get(index) else { continue };
            let abilities = unit.abilities();
            let id = domain.id.0;
            let whole = ranges.clone().nth(abilities.domain_from - 1).is_some();
            let pages = ranges
                .clone()
                .filter(|_| !whole)
                .map(|(first, length, links)| abilities.cover(id, first, length, !links))
                .chain(whole.then_some(Descriptor::Domain { domain: id }));
            let tlbs = domain.device_tlbs.iter().filter(|tlb| tlb.unit == index);
            let everything = whole.then_some((Iova::new(0), u64::MAX, true));
            let device_pages = ranges.clone().filter(|_| !whole).chain(everything).flat_map(|(first, length, _)| {
                tlbs.clone().filter_map(move |tlb| {
                    let block = Block::covering(first, length)?;
                    let DeviceTlb { source, depth, .. } = *tlb;
                    Some(Descriptor::DeviceTlb { source, depth, first: block.first, mask: block.mask })
                })
            });
            if let Err(error) = unit.invalidate(&self.machine, pages.chain(device_pages)) {
                result = result.and(Err((unit.base(), error)));
            }
        }
        result.map_err(|(base, error)| {
            domain.distrust();
            DomainError::Invalidation(InvalidationError { base, error })
        })
    }
}
