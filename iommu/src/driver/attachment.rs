//! Attaching a device to a domain and detaching it: context entries and what their change owes (VT-d section 6.5.3).
//!
//! - Attaching: entries are published; nothing more, unless a unit caches absence (CM: the entries under domain 0, then
//!   the domain's translations) or has a write buffer (RWBF: a flush).
//! - Detaching: P is cleared; the entries under their old domain, the domain's translations, the device's own TLB, in
//!   this order and in one submission; then the rest of the entries is zeroed.

use alloc::vec::Vec;

use log::{info, warn};

use crate::address::{Iova, PciAddress, SourceId};
use crate::dmar::ReservedRange;
use crate::door::Machine;
use crate::driver::domain::{DeviceTlb, Domain};
use crate::driver::registry::{Attachment, Entry, Registry};
use crate::driver::translation::Translation as Translated;
use crate::driver::{AttachError, DomainId, Driver, InvalidationError, Mode};
use crate::paging::{Coherence, PageSizes, Permissions};
use crate::queue::Descriptor;
use crate::table::{Occupied, Target, Walk};
use crate::unit::Unit;
use crate::unit::probe::{ALL_LEVELS, first_stage_sizes, page_sizes};

impl<M: Machine> Driver<M> {
    /// Gives `device` what `domain` maps. `aliases` are further ids with which its requests may arrive (those of
    /// bridges above it, phantom functions); they share its bus segment and go with it. Its own TLB stays unused: ATS
    /// is off in the function.
    ///
    /// A device that firmware reserved memory for must find all of it in `domain`, at the same addresses and to read
    /// and write, or be known [not to need it any more](Self::waive_reserved_memory).
    ///
    /// # Errors
    ///
    /// After any, the device reaches nothing that it did not reach before.
    pub fn attach(&self, domain: DomainId, device: PciAddress, aliases: &[SourceId]) -> Result<(), AttachError> {
        self.attach_with(domain, device, aliases, None)
    }

    /// As [`attach`](Self::attach), for a device that will use a TLB of its own, which takes `depth` (1 to 32)
    /// invalidations at a time. ATS is enabled in the function after this call, and disabled before
    /// [`detach`](Self::detach).
    pub fn attach_with_device_tlb(
        &self,
        domain: DomainId,
        device: PciAddress,
        aliases: &[SourceId],
        depth: u8,
    ) -> Result<(), AttachError> {
        self.attach_with(domain, device, aliases, Some(depth))
    }

    fn attach_with(
        &self,
        id: DomainId,
        device: PciAddress,
        aliases: &[SourceId],
        device_tlb: Option<u8>,
    ) -> Result<(), AttachError> {
        self.machine.without_interrupts(|| {
            let index = self.coverage.unit_of(device).ok_or(AttachError::Uncovered { device })?;
            let unit = self.units.get(index).ok_or(AttachError::Uncovered { device })?;
            {
                let ledger = self.ledger.lock();
                if ledger.is_silenced(device) {
                    return Err(AttachError::Quarantined { device, faults: ledger.total(device) });
                }
            }
            let mut registry = self.registry.lock();
            let domain = registry.domain(id).ok_or(AttachError::Unknown { domain: id })?;
            let mut domain = domain.lock();
            let target = suitable(unit, &domain, device, device_tlb.is_some())?;
            if !registry.waived.contains(&device) && !registry.is_reserved(id) {
                check_reserved(&domain, device, self.coverage.reserved_for(device))?;
            }
            self.leave_reserved(&mut registry, device, id)?;
            let sources = sources_of(device, aliases);
            check_free(&registry, device, &sources, id)?;

            let new: Vec<SourceId> = sources
                .iter()
                .filter(|source| registry.domain_of(**source).is_none())
                .map(|source| source.source)
                .collect();
            self.publish_entries(unit, &new, &target, domain.whole(unit))?;
            for source in &sources {
                registry.entries.entry(*source).or_insert(Entry { domain: id, users: 0 }).users += 1;
                domain.enter(index);
            }
            if let Some(depth) = device_tlb {
                domain.device_tlbs.push(DeviceTlb { unit: index, source: device.source, depth });
            }
            registry.attachments.insert(device, Attachment { domain: id, unit: index, sources, device_tlb });
            info!(
                "{device} attached to domain {id} on unit {}{}",
                unit.base(),
                if device_tlb.is_some() { ", with a TLB of its own" } else { "" }
            );
            Ok(())
        })
    }

    /// Takes everything from `device`. Its bus mastering, and ATS if it was on, are off by now.
    ///
    /// # Errors
    ///
    /// [`AttachError::Invalidation`]: the device is detached in memory, but its unit did not confirm it (or the device
    /// not its own TLB); the domain's memory must not be used again before a reset of the machine (or the device).
    pub fn detach(&self, device: PciAddress) -> Result<(), AttachError> {
        self.machine.without_interrupts(|| {
            let mut registry = self.registry.lock();
            self.detach_locked(&mut registry, device)
        })
    }

    /// Lets `device` be attached to domains without the memory that firmware reserved for it. For devices that need it
    /// only until the operating system takes over, such as USB controllers and graphics; any other may write there at
    /// any time, and fails when it cannot.
    pub fn waive_reserved_memory(&self, device: PciAddress) {
        self.machine.without_interrupts(|| {
            let mut registry = self.registry.lock();
            if !registry.waived.contains(&device) {
                registry.waived.push(device);
            }
        });
    }

    /// The domain that `device` is attached to.
    pub fn domain_of(&self, device: PciAddress) -> Option<DomainId> {
        self.machine.without_interrupts(|| self.registry.lock().domain_of(device))
    }

    fn detach_locked(&self, registry: &mut Registry<M>, device: PciAddress) -> Result<(), AttachError> {
        let attachment = registry.attachments.remove(&device).ok_or(AttachError::Detached { device })?;
        let (Some(unit), Some(domain)) = (self.units.get(attachment.unit), registry.domain(attachment.domain)) else {
            return Err(AttachError::Detached { device });
        };
        let mut domain = domain.lock();
        let mut last = Vec::with_capacity(attachment.sources.len());
        for source in &attachment.sources {
            domain.leave(attachment.unit);
            if let Some(entry) = registry.entries.get_mut(source) {
                entry.users = entry.users.saturating_sub(1);
                if entry.users == 0 {
                    registry.entries.remove(source);
                    last.push(source.source);
                }
            }
        }
        let result = self.withdraw_entries(unit, &last, attachment.domain.0, domain.whole(unit), attachment.device_tlb);
        domain.device_tlbs.retain(|tlb| tlb.unit != attachment.unit || tlb.source != device.source);
        match result {
            Ok(()) => {
                info!("{device} detached from domain {}", attachment.domain);
                Ok(())
            }
            Err(error) => {
                domain.distrust();
                warn!("{device} detached from domain {}, but {error}", attachment.domain);
                Err(AttachError::Invalidation(error))
            }
        }
    }

    /// A device that firmware's reserved memory is kept for is free for any other domain.
    fn leave_reserved(
        &self,
        registry: &mut Registry<M>,
        device: PciAddress,
        wanted: DomainId,
    ) -> Result<(), AttachError> {
        let Some(current) = registry.attachments.get(&device).map(|attachment| attachment.domain) else {
            return Ok(());
        };
        if current == wanted || !registry.is_reserved(current) {
            return Err(AttachError::Attached { device });
        }
        self.detach_locked(registry, device)?;
        info!("{device} loses the memory that firmware reserved for it");
        if registry.attached(current).is_none() {
            registry.remove(current);
        }
        Ok(())
    }

    /// Publishes `target` for all `sources`, or for none. `whole` is all that the unit may hold of the domain.
    fn publish_entries(
        &self,
        unit: &Unit<M>,
        sources: &[SourceId],
        target: &Target,
        whole: Descriptor,
    ) -> Result<(), AttachError> {
        let mut contexts = unit.contexts.lock();
        contexts.prepare(sources)?;
        for (index, source) in sources.iter().enumerate() {
            if let Err(Occupied { source, domain }) = contexts.fill(*source, target) {
                for filled in sources.iter().take(index) {
                    contexts.block(*filled);
                    contexts.erase(*filled, false);
                }
                let device = PciAddress { segment: unit.segment(), source };
                return Err(AttachError::Occupied { device, source, domain: DomainId(domain) });
            }
        }
        let done = if unit.capability().caching_mode() {
            // Absent entries are tagged with domain 0.
            let entries = sources.iter().map(|source| Descriptor::Context { domain: 0, source: *source });
            let process = unit.process_entry(target.domain);
            let untagged = process.map(|_| Descriptor::Domain { domain: 0 });
            unit.invalidate(&self.machine, entries.chain(process).chain(untagged).chain([whole]))
        } else {
            unit.publish(&self.machine)
        };
        done.map_err(|error| {
            for source in sources {
                contexts.block(*source);
                contexts.erase(*source, false);
            }
            AttachError::Invalidation(InvalidationError { base: unit.base(), error })
        })
    }

    /// Takes back the entries of `sources`, and with them all that is cached of the domain (`whole`).
    fn withdraw_entries(
        &self,
        unit: &Unit<M>,
        sources: &[SourceId],
        domain: u16,
        whole: Descriptor,
        device_tlb: Option<u8>,
    ) -> Result<(), InvalidationError> {
        let mut contexts = unit.contexts.lock();
        for source in sources {
            contexts.block(*source);
        }
        let entries = sources.iter().map(|source| Descriptor::Context { domain, source: *source });
        let process = unit.process_entry(domain).filter(|_| !sources.is_empty());
        let translations = (!sources.is_empty()).then_some(whole);
        let own = device_tlb.and_then(|depth| {
            let first = Iova::new(0);
            sources.first().map(|source| Descriptor::DeviceTlb { source: *source, depth, first, mask: 52 })
        });
        let result = unit.invalidate(&self.machine, entries.chain(process).chain(translations).chain(own));
        for source in sources {
            contexts.erase(*source, result.is_ok());
        }
        result.map_err(|error| InvalidationError { base: unit.base(), error })
    }
}

/// The ids of a device, each once, its own first.
fn sources_of(device: PciAddress, aliases: &[SourceId]) -> Vec<PciAddress> {
    let mut sources = Vec::with_capacity(1 + aliases.len());
    sources.push(device);
    for &source in aliases {
        let alias = PciAddress { segment: device.segment, source };
        if !sources.contains(&alias) {
            sources.push(alias);
        }
    }
    sources
}

/// No id of the device is in another domain.
fn check_free<M: Machine>(
    registry: &Registry<M>,
    device: PciAddress,
    sources: &[PciAddress],
    wanted: DomainId,
) -> Result<(), AttachError> {
    for source in sources {
        match registry.domain_of(*source) {
            Some(domain) if domain != wanted => {
                return Err(AttachError::Occupied { device, source: source.source, domain });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Everything that firmware reserved for the device is in the domain where the device expects it.
fn check_reserved<M: Machine>(
    domain: &Domain<M>,
    device: PciAddress,
    reserved: impl Iterator<Item = ReservedRange>,
) -> Result<(), AttachError> {
    if matches!(domain.table, Some(Translated::PassThrough)) {
        return Ok(());
    }
    for ReservedRange { first, last, usable } in reserved {
        let refused = AttachError::Reserved { device, first, last };
        if !usable {
            return Err(refused);
        }
        let mut at = first.as_u64();
        while at <= last.as_u64() {
            let leaf = domain.table.as_ref().and_then(|table| table.lookup(Iova::new(at))).ok_or(refused)?;
            let same = leaf.output.as_u64() == leaf.input;
            if !same || !leaf.attributes.permissions.contains(Permissions::READ_WRITE) {
                return Err(refused);
            }
            at = leaf.end();
        }
    }
    Ok(())
}

/// What leads the device's requests to the domain's table, if its unit can walk that.
fn suitable<M: Machine>(
    unit: &Unit<M>,
    domain: &Domain<M>,
    device: PciAddress,
    device_tlb: bool,
) -> Result<Target, AttachError> {
    let unsuitable = |lacks| Err(AttachError::Unsuitable { device, lacks });
    let Some(table) = &domain.table else { return Err(AttachError::Unknown { domain: domain.id }) };
    let (capability, extended) = (unit.capability(), unit.extended());
    let widest =
        ALL_LEVELS.iter().find(|levels| capability.walks_levels(levels.count())).map_or(4, |most| most.count());
    let (walk, sizes) = match table {
        Translated::Second(table) => {
            let levels = table.shape().levels.count();
            if !unit.walks_second_stage() || !capability.walks_levels(levels) {
                return unsuitable("does not walk tables of as many levels");
            }
            if table.format().forces_snoop() && !extended.snoop_control() {
                return unsuitable("cannot force devices to snoop");
            }
            let accessed_dirty = domain.accessed_dirty;
            if accessed_dirty && !(unit.mode() == Mode::Scalable && extended.second_stage_accessed_dirty()) {
                return unsuitable("sets no accessed and dirty flags");
            }
            (Walk::Second { root: table.root(), levels, accessed_dirty }, page_sizes(capability))
        }
        Translated::First(table) => {
            let levels = table.shape().levels.count();
            if !unit.walks_first_stage() || levels == 5 && !capability.first_stage_5_levels() {
                return unsuitable("does not walk first-stage tables of as many levels");
            }
            (Walk::First { root: table.root(), levels, widest }, first_stage_sizes(capability))
        }
        Translated::PassThrough if !extended.pass_through() => return unsuitable("cannot pass requests through"),
        Translated::PassThrough => (Walk::PassThrough { widest }, PageSizes::all()),
    };
    if let Some(shape) = table.shape() {
        if capability.maximum_width() < shape.input_bits {
            return unsuitable("does not take addresses as wide");
        }
        if !sizes.contains(shape.page_sizes) {
            return unsuitable("does not take pages as large");
        }
        if shape.coherence == Coherence::Coherent && !unit.walks_coherently() {
            return unsuitable("reads its tables past the caches");
        }
    }
    if domain.snoop && !extended.snoop_control() {
        return unsuitable("cannot force devices to snoop");
    }
    if device_tlb && !(extended.device_tlb() && extended.queued_invalidation()) {
        return unsuitable("serves no device TLBs");
    }
    Ok(Target { walk, domain: domain.id.0, device_tlb, snoop: domain.snoop })
}
