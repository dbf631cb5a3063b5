//! Groups in and out of a container: who gets which domain.

use alloc::vec::Vec;
use core::ops::RangeInclusive;

use iommu::address::{PAGE_SIZE, PciAddress, SourceId};

use super::ranges::UsableRanges;
use super::{ALL_PAGE_SIZES, ContainerError, IommuType, Policy, State};
use crate::door::{RemappingError, RemappingHardware, ReservedKind};
use crate::topology::GroupId;

/// A group that wants to join: its functions, each with the requester ids that no earlier one has.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The group.
    pub group: GroupId,
    /// Its functions.
    pub functions: Vec<(PciAddress, Vec<SourceId>)>,
}

/// A group in the container.
#[derive(Debug)]
pub(super) struct Joined<D> {
    candidate: Candidate,
    /// Its domain, once the type is set.
    domain: Option<D>,
}

/// What the functions of the container leave usable.
struct Usable {
    ranges: UsableRanges,
    page_sizes: u64,
}

/// What a container with this policy would refuse `function` for, if memory were mapped at `ranges`. Nothing is taken or
/// changed: a configuration is judged so before any of it is carried out.
///
/// # Errors
///
/// The first rule that is broken.
pub fn check_function<R: RemappingHardware>(
    remapping: &R,
    policy: Policy,
    function: PciAddress,
    ranges: impl IntoIterator<Item = RangeInclusive<u64>>,
) -> Result<(), ContainerError> {
    let mut usable = Usable { ranges: UsableRanges::new(), page_sizes: ALL_PAGE_SIZES };
    admit(remapping, policy, function, &mut usable)?;
    match ranges.into_iter().find(|range| !usable.ranges.contain(range)) {
        Some(existing) => Err(ContainerError::MappingNotUsable { function, existing }),
        None => Ok(()),
    }
}

/// The rules for one function by itself; narrows what is usable by what it cannot reach.
fn admit<R: RemappingHardware>(
    remapping: &R,
    policy: Policy,
    function: PciAddress,
    usable: &mut Usable,
) -> Result<(), ContainerError> {
    let capabilities = remapping
        .capabilities(function)
        .map_err(|source| ContainerError::Remapping { function: Some(function), source })?;
    if !capabilities.interrupt_remapping && !policy.unsafe_interrupts {
        return Err(ContainerError::NoInterruptRemapping(function));
    }
    usable.ranges.end_at(capabilities.last_address);
    usable.page_sizes &= capabilities.page_sizes | PAGE_SIZE;
    for reserved in remapping.reserved(function) {
        match reserved.kind {
            ReservedKind::DirectRelaxable => {}
            ReservedKind::Direct => {
                return Err(ContainerError::RequiredMemory { function, range: reserved.range });
            }
            ReservedKind::Interrupt | ReservedKind::Reserved => usable.ranges.exclude(&reserved.range),
        }
    }
    Ok(())
}

impl<R: RemappingHardware> State<R> {
    pub(super) fn set_type(&mut self, number: u64) -> Result<(), ContainerError> {
        if self.kind.is_some() {
            return Err(ContainerError::TypeIsSet);
        }
        if self.groups.is_empty() {
            return Err(ContainerError::NoGroup);
        }
        let kind = IommuType::from_number(number).ok_or(ContainerError::UnknownType(number))?;
        for index in 0..self.groups.len() {
            if let Err(error) = self.attach(index) {
                for attached in (0..index).rev() {
                    self.detach(attached);
                }
                self.forget_usable();
                return Err(error);
            }
        }
        self.kind = Some(kind);
        Ok(())
    }

    pub(super) fn join(&mut self, candidate: Candidate) -> Result<(), ContainerError> {
        if self.groups.iter().any(|joined| joined.candidate.group == candidate.group) {
            return Err(ContainerError::AlreadyAttached(candidate.group));
        }
        self.groups.push(Joined { candidate, domain: None });
        if self.kind.is_some()
            && let Err(error) = self.attach(self.groups.len().saturating_sub(1))
        {
            self.groups.pop();
            return Err(error);
        }
        Ok(())
    }

    pub(super) fn leave(&mut self, group: GroupId) {
        let Some(index) = self.groups.iter().position(|joined| joined.candidate.group == group) else { return };
        self.detach(index);
        self.groups.remove(index);
        if self.groups.is_empty() {
            // The domains are gone, and with them what was mapped in them.
            self.mappings.clear();
            self.kind = None;
        }
        self.forget_usable();
    }

    /// Checks the group at `index` against the rules and gives it a domain. Fails with nothing changed.
    fn attach(&mut self, index: usize) -> Result<(), ContainerError> {
        let Some(Joined { candidate, domain: None }) = self.groups.get(index) else { return Ok(()) };
        let Some(&(first, _)) = candidate.functions.first() else {
            return Err(ContainerError::NoFunction(candidate.group));
        };
        let mut usable = Usable { ranges: self.ranges.clone(), page_sizes: self.page_sizes };
        for &(function, _) in &candidate.functions {
            self.narrow(function, &mut usable)?;
        }

        let mut chosen = None;
        for &domain in &self.domains {
            match self.attach_to(domain, candidate) {
                Ok(()) => {
                    chosen = Some(domain);
                    break;
                }
                Err(ContainerError::Remapping { source: RemappingError::Incompatible, .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let domain = match chosen {
            Some(domain) => domain,
            None => {
                let domain = self.new_domain(first)?;
                if let Err(error) = self.attach_to(domain, candidate) {
                    self.remapping.destroy_domain(domain);
                    return Err(error);
                }
                self.domains.push(domain);
                domain
            }
        };
        (self.ranges, self.page_sizes) = (usable.ranges, usable.page_sizes);
        if let Some(joined) = self.groups.get_mut(index) {
            joined.domain = Some(domain);
        }
        Ok(())
    }

    /// The rules for one function; narrows what is usable by what it cannot reach.
    fn narrow(&self, function: PciAddress, usable: &mut Usable) -> Result<(), ContainerError> {
        admit(&self.remapping, self.policy, function, usable)?;
        match self.mappings.values().find(|mapping| !usable.ranges.contain(&mapping.range())) {
            Some(mapping) => Err(ContainerError::MappingNotUsable { function, existing: mapping.range() }),
            None => Ok(()),
        }
    }

    /// A domain with every mapping of the container in it, before any function can see it.
    fn new_domain(&self, function: PciAddress) -> Result<R::Domain, ContainerError> {
        let domain = self
            .remapping
            .create_domain(&self.owner, function)
            .map_err(|source| ContainerError::Remapping { function: Some(function), source })?;
        for mapping in self.mappings.values() {
            if let Err(source) = self.remapping.map(domain, mapping.iova, mapping.host, mapping.length, mapping.access)
            {
                self.remapping.destroy_domain(domain);
                return Err(ContainerError::Remapping { function: Some(function), source });
            }
        }
        Ok(domain)
    }

    fn attach_to(&self, domain: R::Domain, candidate: &Candidate) -> Result<(), ContainerError> {
        for (done, (function, ids)) in candidate.functions.iter().enumerate() {
            if let Err(source) = self.remapping.attach(domain, *function, ids) {
                for (function, ids) in candidate.functions.iter().take(done).rev() {
                    self.remapping.detach(domain, *function, ids);
                }
                return Err(ContainerError::Remapping { function: Some(*function), source });
            }
        }
        Ok(())
    }

    /// Blocks the functions of the group at `index`, and ends its domain if nobody else is in it.
    fn detach(&mut self, index: usize) {
        let Some(joined) = self.groups.get_mut(index) else { return };
        let Some(domain) = joined.domain.take() else { return };
        for (function, ids) in joined.candidate.functions.iter().rev() {
            self.remapping.detach(domain, *function, ids);
        }
        if self.groups.iter().all(|joined| joined.domain != Some(domain)) {
            self.domains.retain(|&other| other != domain);
            self.remapping.destroy_domain(domain);
        }
    }

    /// Computes anew what is usable, from the groups that are attached.
    fn forget_usable(&mut self) {
        let mut usable = Usable { ranges: UsableRanges::new(), page_sizes: ALL_PAGE_SIZES };
        let attached = self.groups.iter().filter(|joined| joined.domain.is_some());
        for &(function, _) in attached.flat_map(|joined| &joined.candidate.functions) {
            // They were admitted once; a function that is refused now narrows nothing.
            let _: Result<(), ContainerError> = self.narrow(function, &mut usable);
        }
        (self.ranges, self.page_sizes) = (usable.ranges, usable.page_sizes);
    }
}
