//! Domains: one table each, of either stage, or none where requests pass through; and what must be invalidated when it changes.
//!
//! - Mapping: nothing, unless a unit caches absent entries (CM: the range) or has a write buffer (RWBF: a flush).
//! - Unmapping and taking permissions away: the range in every unit with an attached device, the devices' own TLBs
//!   after it, one submission a unit; only then is the memory free.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use log::{error, info, warn};
use spin::Mutex;

use crate::address::{HostPhysical, Iova, PciAddress, SourceId};
use crate::door::{Frames, Machine};
use crate::driver::translation::{Stage, Translation};
use crate::driver::{DomainError, Driver, InvalidationError, Mode};
use crate::paging::{
    Coherence, FirstStage, Gathered, InterruptWindow, Levels, Nearest, PageSizes, Permissions, SecondStage, Shape,
    Table,
};
use crate::queue::{Block, Descriptor};
use crate::registers::capability::Capability;
use crate::unit::Unit;
use crate::unit::probe::{ALL_LEVELS, first_stage_sizes, page_sizes};

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
    /// The stage that the table is walked in.
    pub stage: Stage,
    /// The units set accessed and dirty flags in the table, where each can (ECAP.SSADS in scalable mode; the first
    /// stage's are set from the start). Each costs the unit a write at the first use.
    pub accessed_dirty: bool,
}

impl<'a> DomainRequest<'a> {
    /// For these devices, as wide as their units allow.
    pub const fn for_devices(devices: &'a [PciAddress]) -> Self {
        Self { devices, address_bits: 0, stage: Stage::Any, accessed_dirty: false }
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
    pub(super) table: Option<Translation<M::Frames>>,
    /// The devices' accesses snoop, whatever they ask for.
    pub(super) snoop: bool,
    /// The units set accessed and dirty flags.
    pub(super) accessed_dirty: bool,
    /// The units that have attached devices, with how many context entries each.
    pub(super) units: Vec<(usize, usize)>,
    pub(super) device_tlbs: Vec<DeviceTlb>,
    /// A cache may hold something of this domain that was taken back: its tables are never given back.
    distrusted: bool,
}

impl<M: Machine> Domain<M> {
    fn new(id: DomainId, plan: Plan, table: Translation<M::Frames>) -> Self {
        let Plan { snoop, accessed_dirty, .. } = plan;
        let (units, device_tlbs) = (Vec::new(), Vec::new());
        Self { id, table: Some(table), snoop, accessed_dirty, units, device_tlbs, distrusted: false }
    }

    /// The invalidation of all that `unit` may hold of its translations.
    pub(super) fn whole(&self, unit: &Unit<M>) -> Descriptor {
        unit.whole_domain(self.id.0, self.table.as_ref().is_none_or(Translation::is_second_stage))
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

/// What a new domain will be.
#[derive(Clone, Copy)]
struct Plan {
    /// Never [`Stage::Any`].
    stage: Stage,
    shape: Shape,
    snoop: bool,
    accessed_dirty: bool,
}

/// What the units of a domain have in common.
fn plan<'a, M: Machine + 'a>(
    units: impl Iterator<Item = &'a Unit<M>> + Clone,
    request: &DomainRequest<'_>,
    output_bits: u8,
) -> Result<Plan, DomainError> {
    let all = |can: fn(&Unit<M>) -> bool| units.clone().all(can);
    let stage = match request.stage {
        Stage::Any if all(Unit::walks_second_stage) => Stage::Second,
        Stage::Any => Stage::First,
        stage => stage,
    };
    let possible = match stage {
        Stage::PassThrough => all(|unit| unit.extended().pass_through()),
        Stage::First => all(Unit::walks_first_stage),
        _ => all(Unit::walks_second_stage),
    };
    if !possible {
        return Err(DomainError::Stage { wanted: request.stage });
    }
    let levels = levels(units.clone(), stage, request.address_bits)?;
    let capabilities = || units.clone().map(|unit| unit.capability());
    let sizes = |capability| if stage == Stage::First { first_stage_sizes(capability) } else { page_sizes(capability) };
    let page_sizes = capabilities().map(sizes).fold(PageSizes::all(), |common, sizes| common & sizes);
    let coherent = all(Unit::walks_coherently);
    let shape = Shape {
        levels,
        page_sizes,
        input_bits: levels.bits().min(width(units.clone())),
        output_bits,
        coherence: if coherent { Coherence::Coherent } else { Coherence::NeedsFlush },
        interrupt_window: InterruptWindow::Refused,
    };
    let scalable: fn(&Unit<M>) -> bool = |unit| unit.mode() == Mode::Scalable;
    // In legacy mode leaves force snooping, and there are none where requests pass through.
    let snoop = all(|unit| unit.extended().snoop_control()) && (stage != Stage::PassThrough || all(scalable));
    // The unit's writes to the flags must be seen by the processors.
    let flags = stage == Stage::Second
        && coherent
        && all(scalable)
        && all(|unit| unit.extended().second_stage_accessed_dirty());
    Ok(Plan { stage, shape, snoop, accessed_dirty: request.accessed_dirty && flags })
}

/// The widest address that devices of all `units` may send.
fn width<'a, M: Machine + 'a>(units: impl Iterator<Item = &'a Unit<M>>) -> u8 {
    units.map(|unit| unit.capability().maximum_width()).min().unwrap_or(0)
}

/// The number of levels of a new table.
fn levels<'a, M: Machine + 'a>(
    units: impl Iterator<Item = &'a Unit<M>> + Clone,
    stage: Stage,
    address_bits: u8,
) -> Result<Levels, DomainError> {
    let width = width(units.clone());
    let walks = |capability: Capability, levels: Levels| match (stage, levels) {
        (Stage::First, Levels::Four) | (Stage::PassThrough, _) => true,
        (Stage::First, Levels::Five) => capability.first_stage_5_levels(),
        (Stage::First, Levels::Three) => false,
        _ => capability.walks_levels(levels.count()),
    };
    let walked = |levels: &&Levels| units.clone().all(|unit| walks(unit.capability(), **levels));
    // Half of what the first stage's levels resolve is not canonical.
    let reached = |levels: Levels| (levels.bits() - u8::from(stage == Stage::First)).min(width);
    let levels = if address_bits == 0 {
        // Five levels only where nothing less is walked: each level costs every walk.
        let usual = ALL_LEVELS.iter().filter(|levels| levels.count() <= 4).find(walked);
        usual.or_else(|| ALL_LEVELS.iter().find(walked))
    } else {
        ALL_LEVELS.iter().rev().filter(walked).find(|levels| reached(**levels) >= address_bits)
    };
    levels.copied().ok_or_else(|| {
        let possible = ALL_LEVELS.iter().find(walked).map_or(0, |levels| reached(*levels));
        DomainError::Width { wanted: address_bits, possible }
    })
}

/// Says what a new domain is.
fn describe<F: Frames>(id: DomainId, plan: &Plan, table: &Translation<F>) {
    let snooping = if plan.snoop { "devices forced to snoop" } else { "snooping left to devices" };
    let Some(shape) = table.shape() else {
        return warn!("domain {id}: passes requests through, so that its devices reach all of memory; {snooping}");
    };
    info!(
        "domain {id}: {} stage, {} levels for {} address bits, pages of 4K{}{}, {}{}, {snooping}",
        if plan.stage == Stage::First { "first" } else { "second" },
        shape.levels.count(),
        shape.input_bits,
        if shape.page_sizes.contains(PageSizes::TWO_MEBIBYTES) { " 2M" } else { "" },
        if shape.page_sizes.contains(PageSizes::ONE_GIBIBYTE) { " 1G" } else { "" },
        if shape.coherence == Coherence::Coherent { "coherent" } else { "flushed" },
        if plan.accessed_dirty { ", accessed and dirty flags" } else { "" },
    );
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
            let plan = plan(concerned(), request, self.output_bits)?;
            let mut registry = self.registry.lock();
            let id = registry.free_id().ok_or(DomainError::OutOfIds { limit: registry.limit() })?;
            let shape = plan.shape;
            let table = match plan.stage {
                Stage::PassThrough => Translation::PassThrough,
                Stage::First => Translation::First(Table::new(FirstStage, frames, shape).map_err(DomainError::Build)?),
                _ => {
                    let format = SecondStage::with_snoop_control(plan.snoop);
                    Translation::Second(Table::new(format, frames, shape).map_err(DomainError::Build)?)
                }
            };
            describe(id, &plan, &table);
            registry.insert(id, Domain::new(id, plan, table));
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
            let mapped = table.map(iova, host, length, permissions).ok_or(DomainError::PassThrough { domain })?;
            mapped.map_err(DomainError::Map)?;
            if let Err(error) = self.announce(this, iova, length) {
                // Nobody is told that the range is mapped. What a unit saw of it already, it may keep.
                this.distrust();
                if let Some(Err(failed)) = this.table.as_mut().and_then(|table| table.unmap(iova, length)) {
                    return Err(DomainError::Change(failed));
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

    /// [`unmap`](Self::unmap) of several ranges, with one submission for all of them. After a refusal, all of them are
    /// mapped as before.
    pub fn unmap_ranges(&self, domain: DomainId, ranges: &[(Iova, u64)]) -> Result<u64, DomainError> {
        self.with_domain(domain, |this| {
            let frames = self.machine.frames();
            let Some(table) = &mut this.table else { return Err(DomainError::Unknown { domain }) };
            let whole = DomainError::PassThrough { domain };
            let mut changed = Vec::with_capacity(1 + ranges.len());
            // One range takes what it needs by itself; for several, everything that can fail comes first.
            let mut taken: Option<Gathered> = None;
            let mut take = |gathered: Gathered| {
                if !gathered.is_empty() {
                    changed.push((gathered.range(), gathered.links_changed()));
                }
                match &mut taken {
                    Some(taken) => taken.merge(gathered, frames),
                    None => taken = Some(gathered),
                }
            };
            if ranges.len() > 1 {
                let wanted = ranges.iter().map(|(iova, length)| (iova.as_u64(), *length));
                take(table.isolate_all(wanted).ok_or(whole)?.map_err(DomainError::Change)?);
            }
            let mut refused = Ok(());
            for (iova, length) in ranges {
                match table.unmap(*iova, *length).ok_or(whole)? {
                    Ok(gathered) => take(gathered),
                    // Only the first of one range can get here; what went before is taken back all the same.
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
            let changed = table.protect(iova, length, permissions).ok_or(DomainError::PassThrough { domain })?;
            let changed = changed.map_err(DomainError::Change)?;
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
        self.look(domain, |domain| domain.table.as_ref()?.translate(iova)).flatten()
    }

    /// What is mapped at and around `iova` in `domain`.
    pub fn nearest(&self, domain: DomainId, iova: Iova) -> Option<Nearest> {
        self.look(domain, |domain| domain.table.as_ref().map(|table| table.nearest(iova))).flatten()
    }

    /// How many frames the tables of `domain` fill.
    pub fn frames_of(&self, domain: DomainId) -> Option<u64> {
        self.look(domain, |domain| domain.table.as_ref().map(Translation::frame_count)).flatten()
    }

    /// Whether the tables of `domain` force devices to snoop, so that even requests that ask not to are coherent.
    pub fn forces_snoop(&self, domain: DomainId) -> Option<bool> {
        self.look(domain, |domain| domain.snoop)
    }

    fn look<T>(&self, domain: DomainId, look: impl FnOnce(&Domain<M>) -> T) -> Option<T> {
        self.machine.without_interrupts(|| {
            let domain = self.registry.lock().domain(domain)?;
            let domain = domain.lock();
            Some(look(&domain))
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
            let absence_is_cached = domain.table.as_ref().is_none_or(Translation::is_second_stage);
            let done = if unit.capability().caching_mode() && absence_is_cached {
                let cover = unit.abilities().cover(domain.whole(unit), iova, length, false);
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
            let everything_here = domain.whole(unit);
            let whole = ranges.clone().nth(abilities.domain_from - 1).is_some();
            let pages = ranges
                .clone()
                .filter(|_| !whole)
                .map(|(first, length, links)| abilities.cover(everything_here, first, length, !links))
                .chain(whole.then_some(everything_here));
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
