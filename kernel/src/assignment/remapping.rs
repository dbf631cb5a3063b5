//! DMA and interrupt remapping as `passthrough` reaches it: the driver over this machine's units, and the events that
//! lead to its VMs.

use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use iommu::address::{HostPhysical, Iova, PciAddress, SourceId};
use iommu::door::Machine;
use iommu::driver::{AttachError, DomainError, DomainId, DomainRequest, Driver, InterruptRemapping};
use iommu::paging::Permissions;
use log::{info, warn};
use passthrough::door::{
    Access, Event, InterruptError, Message, Owner, RemappingCapabilities, RemappingError, RemappingHardware, Reserved,
    ReservedKind,
};
use passthrough::group::Registry;

use super::complaints::Complaints;
use super::device_tlb::DeviceTlb;
use super::direct::Direct;
use super::doubt::Doubt;
use super::entries::Entries;
use super::events::Events;
use super::machine::KernelMachine;
use super::signature::Signature;
use crate::memory::{self, KernelFrames};

/// A handle on the machine's remapping units.
pub struct Remapping<M: Machine + 'static = KernelMachine> {
    driver: &'static Driver<M>,
    events: &'static Events,
    registry: Registry,
    /// The functions that no longer need the memory which firmware reserved for them.
    outgrown: Arc<[PciAddress]>,
    doubt: Doubt,
    complaints: Complaints,
    /// The functions that could use a TLB of their own.
    tlbs: Arc<[DeviceTlb]>,
    liberties: Liberties,
}

/// What the configuration allows a VM's devices beyond what is safe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Liberties {
    /// They may interrupt although nothing checks whom (`unsafe-interrupts`).
    pub unsafe_interrupts: bool,
    /// They may translate addresses by themselves (`device-tlb`).
    pub device_tlb: bool,
}

impl<M: Machine> Clone for Remapping<M> {
    fn clone(&self) -> Self {
        Self {
            driver: self.driver,
            events: self.events,
            registry: self.registry.clone(),
            outgrown: self.outgrown.clone(),
            doubt: self.doubt.clone(),
            complaints: self.complaints.clone(),
            tlbs: self.tlbs.clone(),
            liberties: self.liberties,
        }
    }
}

impl<M: Machine> fmt::Debug for Remapping<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remapping").field("driver", &self.driver).finish_non_exhaustive()
    }
}

/// Interrupts of one function.
#[derive(Debug)]
pub enum Messages {
    /// They go through entries that only the function may use.
    Remapped(Entries),
    /// Nothing remaps them.
    Direct {
        /// The function.
        function: PciAddress,
        /// The vectors that it raises.
        vectors: Direct,
    },
}

impl<M: Machine> Remapping<M> {
    /// The units that `driver` drives, for the functions of `registry`, with interrupts delivered to `events`.
    /// Those of `outgrown` do not need the memory any more that firmware reserved for them; those of `tlbs` could use a
    /// TLB of their own.
    pub(super) fn new(
        driver: &'static Driver<M>,
        events: &'static Events,
        registry: Registry,
        outgrown: Vec<PciAddress>,
        tlbs: Vec<DeviceTlb>,
    ) -> Self {
        let (outgrown, tlbs) = (outgrown.into(), tlbs.into());
        let (doubt, complaints, liberties) = (Doubt::default(), Complaints::default(), Liberties::default());
        Self { driver, events, registry, outgrown, doubt, complaints, tlbs, liberties }
    }

    /// The same units for one VM in one of its runs, which a doubt that is raised concerns alone. What goes wrong is said
    /// on the account of `complaints`.
    pub fn for_a_run(&self, complaints: Complaints, liberties: Liberties) -> Self {
        Self { doubt: Doubt::default(), complaints, liberties, ..self.clone() }
    }

    /// The function's own TLB, if it has one and its unit serves it.
    fn tlb(&self, function: PciAddress) -> Option<&DeviceTlb> {
        let unit = self.driver.unit_of(function).and_then(|unit| self.driver.units().get(unit));
        unit.filter(|unit| unit.extended().device_tlb())?;
        self.tlbs.iter().find(|tlb| tlb.function == function)
    }

    /// Whether messages of functions go through entries.
    pub fn remaps_interrupts(&self) -> bool {
        matches!(self.driver.interrupt_remapping(), InterruptRemapping::On { .. })
    }

    /// The driver's refusal in `passthrough`'s words; the reason that those cannot carry goes to the log.
    fn domain_refused(&self, what: &str, refusal: DomainError) -> RemappingError {
        match refusal {
            DomainError::OutOfIds { .. } => RemappingError::OutOfDomains,
            DomainError::Uncovered { .. } => RemappingError::NoUnit,
            other => {
                self.complaints.error(format_args!("{what}: {other}"));
                RemappingError::Unit("changing a domain; the line above says why")
            }
        }
    }

    /// Vectors for unremapped messages of `function`, on the CPU of the VM's first vCPU.
    fn direct(&self, owner: &Owner, function: PciAddress, count: u16, block: bool) -> Result<Messages, InterruptError> {
        let cpu = self.events.bus(owner.id).and_then(|bus| bus.endpoint(0)).map(|endpoint| endpoint.host_cpu());
        let place =
            cpu.filter(|_| self.liberties.unsafe_interrupts).and_then(|cpu| Some((cpu, crate::cpu::apic_id(cpu)?)));
        let (cpu, apic_id) = place.ok_or(InterruptError::TooFew { available: 0 })?;
        let vectors = Direct::allocate(cpu, apic_id, count, block).inspect_err(|refusal| {
            self.complaints.error(format_args!("{function}: no vectors for unremapped interrupts: {refusal}"));
        })?;
        Ok(Messages::Direct { function, vectors })
    }

    /// Raised when a unit does not confirm that this VM's devices have lost what they had.
    pub fn doubt(&self) -> &Doubt {
        &self.doubt
    }

    /// The driver.
    pub fn driver(&self) -> &'static Driver<M> {
        self.driver
    }

    /// How `function` signs its requests.
    pub fn signature(&self, function: PciAddress) -> Signature {
        Signature::of(function, self.registry.groups())
    }

    /// How often requests of `function` were blocked since the start, by the id that they were signed with. What is
    /// signed with an id of a bridge may be that of any function behind it: it is counted for each.
    pub fn faults_of(&self, function: PciAddress) -> Vec<(PciAddress, u64)> {
        self.signature(function).ids().map(|sender| (sender, self.driver.faults_ever(sender))).collect()
    }

    /// The mailboxes.
    pub fn events(&self) -> &'static Events {
        self.events
    }
}

/// The wire of a function. There is none yet: [`Remapping::connect_line`] always refuses.
#[derive(Clone, Copy, Debug)]
pub enum Line {}

impl<M: Machine<Frames = KernelFrames>> RemappingHardware for Remapping<M> {
    type Domain = DomainId;
    type Interrupts = Messages;
    type Line = Line;

    fn capabilities(&self, function: PciAddress) -> Result<RemappingCapabilities, RemappingError> {
        let unit = self.driver.unit_of(function).and_then(|unit| self.driver.units().get(unit));
        let unit = unit.ok_or(RemappingError::NoUnit)?;
        let (capability, extended) = (unit.capability(), unit.extended());
        // As the driver makes domains: four levels or three, five where nothing less is walked.
        let levels = [(4, 48), (3, 39)].into_iter().find(|(levels, _)| capability.walks_levels(*levels));
        let width = u32::from(capability.maximum_width().clamp(12, levels.map_or(57, |(_, bits)| bits)));
        Ok(RemappingCapabilities {
            interrupt_remapping: self.remaps_interrupts(),
            // 4 KiB always; SLLPS bit 0 is 2 MiB, bit 1 is 1 GiB.
            page_sizes: 1 << 12 | (capability.large_pages() & 1) << 21 | (capability.large_pages() >> 1 & 1) << 30,
            last_address: (1u64 << width) - 1,
            snoop_control: extended.snoop_control(),
        })
    }

    fn reserved(&self, function: PciAddress) -> Vec<Reserved> {
        let kind = match self.outgrown.contains(&function) {
            true => ReservedKind::DirectRelaxable,
            false => ReservedKind::Direct,
        };
        self.driver
            .reserved_memory(function)
            .map(|reserved| Reserved { range: reserved.first.as_u64()..=reserved.last.as_u64(), kind })
            .collect()
    }

    fn create_domain(&self, owner: &Owner, function: PciAddress) -> Result<DomainId, RemappingError> {
        let frames = KernelFrames::new(memory::Owner::Vm(owner.id));
        let made = self.driver.create_domain_in(&DomainRequest::for_devices(&[function]), frames);
        made.map_err(|refusal| self.domain_refused(&format!("a domain for {owner}"), refusal))
    }

    fn destroy_domain(&self, domain: DomainId) {
        if let Err(refusal) = self.driver.destroy_domain(domain) {
            self.doubt.raise();
            self.complaints.error(format_args!("domain {domain} stays: {refusal}"));
        }
    }

    fn enforces_snoop(&self, domain: DomainId) -> bool {
        self.driver.forces_snoop(domain).unwrap_or(false)
    }

    fn attach(&self, domain: DomainId, function: PciAddress, requester_ids: &[SourceId]) -> Result<(), RemappingError> {
        let tlb = self.tlb(function);
        let used = tlb.filter(|_| self.liberties.device_tlb);
        let attached = match used {
            Some(tlb) => self.driver.attach_with_device_tlb(domain, function, requester_ids, tlb.depth),
            None => self.driver.attach(domain, function, requester_ids),
        };
        match (&attached, tlb, used) {
            (Ok(()), _, Some(tlb)) => {
                tlb.enable();
                warn!(
                    "{function} translates addresses by itself (ATS), as device-tlb allows: the unit believes what it says"
                );
            }
            (Ok(()), Some(tlb), None) => {
                // Firmware may have left it on.
                tlb.disable();
                info!(
                    "{function} could translate addresses by itself (ATS), and the unit would believe it: ATS stays off"
                );
            }
            _ => {}
        }
        attached.map_err(|refusal| match refusal {
            AttachError::Unsuitable { .. } => RemappingError::Incompatible,
            AttachError::OutOfFrames => RemappingError::OutOfMemory,
            AttachError::Uncovered { .. } => RemappingError::NoUnit,
            other => {
                if let AttachError::Invalidation(_) = other {
                    self.doubt.raise();
                }
                self.complaints.error(format_args!("{function} is not attached: {other}"));
                RemappingError::Unit("attaching the function to its domain; the line above says why")
            }
        })
    }

    fn detach(&self, _domain: DomainId, function: PciAddress, _requester_ids: &[SourceId]) {
        if let Some(tlb) = self.tlb(function).filter(|_| self.liberties.device_tlb) {
            tlb.disable();
        }
        // The driver remembers the ids that it attached the function under.
        if let Err(refusal) = self.driver.detach(function) {
            self.doubt.raise();
            self.complaints.error(format_args!("{function} is not cleanly detached: {refusal}"));
        }
    }

    fn map(
        &self,
        domain: DomainId,
        iova: Iova,
        host: HostPhysical,
        length: u64,
        access: Access,
    ) -> Result<(), RemappingError> {
        let mut permissions = Permissions::empty();
        permissions.set(Permissions::READ, access.read);
        permissions.set(Permissions::WRITE, access.write);
        self.driver
            .map(domain, iova, host, length, permissions)
            .map_err(|refusal| self.domain_refused(&format!("mapping {length:#x} bytes at {iova}"), refusal))
    }

    fn unmap(&self, domain: DomainId, iova: Iova, length: u64) {
        if let Err(refusal) = self.driver.unmap(domain, iova, length) {
            self.doubt.raise();
            self.complaints.error(format_args!(
                "domain {domain}: {length:#x} bytes at {iova} are not cleanly unmapped: {refusal}"
            ));
        }
    }

    fn allocate_interrupts(
        &self,
        owner: &Owner,
        function: PciAddress,
        count: u16,
        block: bool,
    ) -> Result<Messages, InterruptError> {
        // The driver aligns a run whose length is a power of two, which a block's is.
        let count = if block { count.checked_next_power_of_two().unwrap_or(count) } else { count };
        if !self.remaps_interrupts() {
            return self.direct(owner, function, count, block);
        }
        let signature = self.signature(function);
        Entries::allocate(self.driver, function, &signature, count, self.complaints.clone()).map(Messages::Remapped)
    }

    fn message(&self, interrupts: &Messages, index: u16) -> Message {
        match interrupts {
            Messages::Remapped(entries) => entries.message(self.driver, index),
            Messages::Direct { vectors, .. } => vectors.message(index),
        }
    }

    fn bind(&self, interrupts: &Messages, index: u16, event: Event) -> Result<(), InterruptError> {
        match interrupts {
            Messages::Remapped(entries) => entries.bind(self.driver, self.events, index, event),
            Messages::Direct { function, vectors } => {
                let receiver = self.events.receiver(*function, event).ok_or(InterruptError::UnknownEvent(event))?;
                vectors.bind(index, receiver)
            }
        }
    }

    fn unbind(&self, interrupts: &Messages, index: u16) {
        match interrupts {
            Messages::Remapped(entries) => entries.unbind(self.driver, index),
            Messages::Direct { vectors, .. } => vectors.unbind(index),
        }
    }

    fn free_interrupts(&self, interrupts: Messages) {
        match interrupts {
            Messages::Remapped(entries) => entries.free(self.driver),
            Messages::Direct { vectors, .. } => drop(vectors),
        }
    }

    fn connect_line(
        &self,
        _owner: &Owner,
        _function: PciAddress,
        _pin: u8,
        _event: Option<Event>,
    ) -> Result<Line, InterruptError> {
        Err(InterruptError::NoLine)
    }

    fn mask_line(&self, line: &Line, _masked: bool) {
        match *line {}
    }

    fn retarget_line(&self, line: &Line, _event: Option<Event>) -> Result<(), InterruptError> {
        match *line {}
    }

    fn disconnect_line(&self, line: Line) {
        match line {}
    }

    fn signal(&self, event: Event) {
        if !self.events.signal(event) {
            self.complaints.error(format_args!("event {:#x} leads to no virtual CPU", event.0));
        }
    }
}

#[cfg(test)]
#[path = "remapping_tests.rs"]
mod tests;
