//! Which domains there are, and who is attached to which.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use spin::Mutex;

use crate::address::PciAddress;
use crate::door::Machine;
use crate::driver::domain::{Domain, DomainId};

/// A device that was attached.
#[derive(Clone, Debug)]
pub(super) struct Attachment {
    pub(super) domain: DomainId,
    pub(super) unit: usize,
    /// The ids whose context entries it uses, its own first.
    pub(super) sources: Vec<PciAddress>,
    /// Its own TLB, with how many invalidations that takes at a time.
    pub(super) device_tlb: Option<u8>,
}

/// A context entry in use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) domain: DomainId,
    /// How many attached devices sign with this id.
    pub(super) users: usize,
}

/// All domains and attachments. Under the driver's registry lock.
pub(super) struct Registry<M: Machine> {
    domains: BTreeMap<DomainId, Arc<Mutex<Domain<M>>>>,
    pub(super) attachments: BTreeMap<PciAddress, Attachment>,
    pub(super) entries: BTreeMap<PciAddress, Entry>,
    /// Domains that hold nothing but firmware's reserved memory.
    pub(super) reserved: Vec<DomainId>,
    /// Devices that are known not to need their reserved memory any more.
    pub(super) waived: Vec<PciAddress>,
    /// Ids go from 1 to below this: 0 tags absent entries of units that cache those.
    limit: u32,
    next: u32,
}

impl<M: Machine> Registry<M> {
    /// Empty, for units that tell at least `limit` domains apart.
    pub(super) fn new(limit: u32) -> Self {
        Self {
            domains: BTreeMap::new(),
            attachments: BTreeMap::new(),
            entries: BTreeMap::new(),
            reserved: Vec::new(),
            waived: Vec::new(),
            limit,
            next: 1,
        }
    }

    /// How many domains there can be.
    pub(super) fn limit(&self) -> u32 {
        self.limit.saturating_sub(1)
    }

    /// An id that no domain has. Ids are given out round and round, so that one comes back as late as possible.
    pub(super) fn free_id(&self) -> Option<DomainId> {
        let around = (self.next..self.limit).chain(1..self.next.min(self.limit));
        around.filter_map(|id| u16::try_from(id).ok().map(DomainId)).find(|id| !self.domains.contains_key(id))
    }

    pub(super) fn insert(&mut self, id: DomainId, domain: Domain<M>) {
        self.next = u32::from(id.0) + 1;
        self.domains.insert(id, Arc::new(Mutex::new(domain)));
    }

    pub(super) fn domain(&self, id: DomainId) -> Option<Arc<Mutex<Domain<M>>>> {
        self.domains.get(&id).cloned()
    }

    pub(super) fn remove(&mut self, id: DomainId) -> Option<Arc<Mutex<Domain<M>>>> {
        self.reserved.retain(|reserved| *reserved != id);
        self.domains.remove(&id)
    }

    /// Whether `id` holds nothing but firmware's reserved memory.
    pub(super) fn is_reserved(&self, id: DomainId) -> bool {
        self.reserved.contains(&id)
    }

    /// Some device that is attached to `id`.
    pub(super) fn attached(&self, id: DomainId) -> Option<PciAddress> {
        self.attachments.iter().find(|(_, attachment)| attachment.domain == id).map(|(device, _)| *device)
    }

    /// The domain whose entry the id `source` uses.
    pub(super) fn domain_of(&self, source: PciAddress) -> Option<DomainId> {
        self.entries.get(&source).map(|entry| entry.domain)
    }

    /// Ends all domains. Their tables are given back only where the hardware is `off`.
    pub(super) fn dissolve(mut self, off: bool) {
        if off {
            drop(core::mem::take(&mut self.domains));
        }
    }
}

/// Whoever lets go of a driver without turning the units off leaves them their tables.
impl<M: Machine> Drop for Registry<M> {
    fn drop(&mut self) {
        self.domains.values().for_each(|domain| domain.lock().distrust());
    }
}
