//! The container: what the devices of one virtual machine see of memory.
//!
//! Life cycle (VFIO's): a container starts empty; the first group joins; the IOMMU type is set, which gives every
//! group's functions a domain; mappings come and go and hold for every domain; when the last group leaves, domains
//! and mappings go and the container is empty again.

mod attach;
mod error;
#[cfg(test)]
mod model;
mod ranges;
#[cfg(test)]
mod tests;

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::RangeInclusive;

use attach::Joined;
pub use attach::{Candidate, check_function};
pub use error::ContainerError;
use iommu::address::{HostPhysical, Iova, PAGE_SIZE};
pub use ranges::INTERRUPT_WINDOW;
use ranges::UsableRanges;
use spin::Mutex;

use crate::door::{Access, Owner, RemappingHardware};

/// The two flavours of VFIO's type1 driver; they differ in unmapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IommuType {
    /// Unmapping may start or end inside a mapping: what starts inside is left, what ends inside goes whole.
    Type1,
    /// Unmapping takes whole mappings or is refused.
    Type1V2,
}

impl IommuType {
    /// From the number in SET_IOMMU.
    pub const fn from_number(number: u64) -> Option<Self> {
        match number {
            1 => Some(Self::Type1),
            3 => Some(Self::Type1V2),
            _ => None,
        }
    }
}

/// What the configuration decided for a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Functions whose interrupts are not remapped are let in all the same.
    pub unsafe_interrupts: bool,
    /// So many mappings may live at once.
    pub mappings: u32,
}

impl Default for Policy {
    /// Safe, and VFIO's limit of 65,535 mappings.
    fn default() -> Self {
        Self { unsafe_interrupts: false, mappings: 65_535 }
    }
}

/// One mapping of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Where devices see it.
    pub iova: Iova,
    /// Where it is.
    pub host: HostPhysical,
    /// Bytes; a multiple of 4 KiB, not 0.
    pub length: u64,
    /// What devices may do.
    pub access: Access,
}

/// What nothing has narrowed: every size from the smallest page up.
const ALL_PAGE_SIZES: u64 = !(PAGE_SIZE - 1);

/// What IOMMU_GET_INFO tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Information {
    /// The page sizes that mappings may be multiples of, one bit each.
    pub page_sizes: u64,
    /// First and last address of each range that can be mapped.
    pub ranges: Vec<RangeInclusive<u64>>,
    /// How many more mappings may be made.
    pub available: u32,
}

/// The address space of one virtual machine's devices. A clone is another handle on the same container.
#[derive(Debug)]
pub struct Container<R: RemappingHardware>(Arc<Mutex<State<R>>>);

impl<R: RemappingHardware> Clone for Container<R> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

#[derive(Debug)]
struct State<R: RemappingHardware> {
    remapping: R,
    owner: Owner,
    policy: Policy,
    kind: Option<IommuType>,
    groups: Vec<Joined<R::Domain>>,
    domains: Vec<R::Domain>,
    /// By their first address. They never overlap.
    mappings: BTreeMap<u64, Mapping>,
    ranges: UsableRanges,
    page_sizes: u64,
}

impl<R: RemappingHardware> Container<R> {
    /// An empty container. What it causes is charged to `owner`.
    pub fn new(remapping: R, owner: Owner, policy: Policy) -> Self {
        Self(Arc::new(Mutex::new(State {
            remapping,
            owner,
            policy,
            kind: None,
            groups: Vec::new(),
            domains: Vec::new(),
            mappings: BTreeMap::new(),
            ranges: UsableRanges::new(),
            page_sizes: ALL_PAGE_SIZES,
        })))
    }

    /// Whose it is.
    pub fn owner(&self) -> Owner {
        self.0.lock().owner.clone()
    }

    /// Whether the type is set, so that devices can be opened and memory mapped.
    pub fn has_type(&self) -> bool {
        self.0.lock().kind.is_some()
    }

    /// CHECK_EXTENSION: whether the container can do this (1 type1, 3 type1 v2, 4 coherent DMA, 9 unmap all).
    pub fn check_extension(&self, extension: u64) -> bool {
        match extension {
            1 | 3 | 9 => true,
            4 => {
                let state = self.0.lock();
                state.kind.is_some() && state.domains.iter().all(|&domain| state.remapping.enforces_snoop(domain))
            }
            _ => false,
        }
    }

    /// SET_IOMMU: chooses the type by its number and gives each group that has joined its domain.
    pub fn set_type(&self, number: u64) -> Result<(), ContainerError> {
        self.0.lock().set_type(number)
    }

    /// IOMMU_GET_INFO.
    pub fn information(&self) -> Result<Information, ContainerError> {
        let state = self.0.lock();
        state.kind.ok_or(ContainerError::NoType)?;
        let used = u32::try_from(state.mappings.len()).unwrap_or(u32::MAX);
        Ok(Information {
            page_sizes: state.page_sizes,
            ranges: state.ranges.as_slice().to_vec(),
            available: state.policy.mappings.saturating_sub(used),
        })
    }

    /// MAP_DMA: lets devices reach `mapping.host` at `mapping.iova`.
    pub fn map(&self, mapping: Mapping) -> Result<(), ContainerError> {
        self.0.lock().map(mapping)
    }

    /// UNMAP_DMA: takes the mappings in the range away and tells how many bytes they were.
    pub fn unmap(&self, iova: Iova, length: u64) -> Result<u64, ContainerError> {
        self.0.lock().unmap(iova, length)
    }

    /// UNMAP_DMA with the flag ALL.
    pub fn unmap_all(&self) -> Result<u64, ContainerError> {
        let mut state = self.0.lock();
        state.kind.ok_or(ContainerError::NoType)?;
        let doomed: Vec<u64> = state.mappings.keys().copied().collect();
        Ok(state.remove(&doomed))
    }

    /// The mappings, by address.
    pub fn mappings(&self) -> Vec<Mapping> {
        self.0.lock().mappings.values().copied().collect()
    }

    /// The mapping that holds `iova`, or else the nearest one before or behind it: for fault messages.
    pub fn nearest_mapping(&self, iova: Iova) -> Option<Mapping> {
        let state = self.0.lock();
        let iova = iova.as_u64();
        let before = state.mappings.range(..=iova).next_back().map(|(_, mapping)| *mapping);
        let behind = state.mappings.range(iova..).next().map(|(_, mapping)| *mapping);
        let distance = |mapping: &Mapping| {
            let range = mapping.range();
            if range.contains(&iova) { 0 } else { iova.abs_diff(*range.start()).min(iova.abs_diff(*range.end())) }
        };
        before.into_iter().chain(behind).min_by_key(distance)
    }

    /// SET_CONTAINER from the container's side: the group joins. If the type is set, its functions are attached.
    pub(crate) fn join(&self, candidate: Candidate) -> Result<(), ContainerError> {
        self.0.lock().join(candidate)
    }

    /// The group leaves: its functions are blocked. With the last group, mappings and type go.
    pub(crate) fn leave(&self, group: crate::topology::GroupId) {
        self.0.lock().leave(group);
    }

    /// Runs `f` with the remapping hardware.
    pub(crate) fn remapping(&self) -> R
    where
        R: Clone,
    {
        self.0.lock().remapping.clone()
    }
}

impl Mapping {
    /// First to last device address. A mapping in a container does not wrap.
    pub fn range(&self) -> RangeInclusive<u64> {
        let first = self.iova.as_u64();
        first..=first.saturating_add(self.length.saturating_sub(1))
    }
}

/// First to last address of `length` bytes at `iova`.
fn checked_range(iova: u64, length: u64) -> Result<RangeInclusive<u64>, ContainerError> {
    let last = length.checked_sub(1).and_then(|more| iova.checked_add(more));
    last.map(|last| iova..=last).ok_or(ContainerError::Wraps { iova, length })
}

impl<R: RemappingHardware> State<R> {
    fn map(&mut self, mapping: Mapping) -> Result<(), ContainerError> {
        self.kind.ok_or(ContainerError::NoType)?;
        let Mapping { iova, host, length, access } = mapping;
        if !access.read && !access.write {
            return Err(ContainerError::NoAccess);
        }
        if length == 0 || (iova.as_u64() | length | host.as_u64()) & (PAGE_SIZE - 1) != 0 {
            return Err(ContainerError::Misaligned { iova: iova.as_u64(), length });
        }
        let range = checked_range(iova.as_u64(), length)?;
        checked_range(host.as_u64(), length)?;
        if let Some(existing) = self.overlapping(&range).next() {
            return Err(ContainerError::Overlaps { existing: existing.range(), range: range.clone() });
        }
        if self.mappings.len() >= usize::try_from(self.policy.mappings).unwrap_or(usize::MAX) {
            return Err(ContainerError::TooManyMappings(self.policy.mappings));
        }
        if !self.ranges.contain(&range) {
            return Err(ContainerError::NotUsable(range));
        }
        for (done, &domain) in self.domains.iter().enumerate() {
            if let Err(source) = self.remapping.map(domain, iova, host, length, access) {
                for &domain in self.domains.iter().take(done) {
                    self.remapping.unmap(domain, iova, length);
                }
                return Err(ContainerError::Remapping { function: None, source });
            }
        }
        self.mappings.insert(iova.as_u64(), mapping);
        Ok(())
    }

    fn unmap(&mut self, iova: Iova, length: u64) -> Result<u64, ContainerError> {
        let kind = self.kind.ok_or(ContainerError::NoType)?;
        let first = iova.as_u64();
        if length == 0 || (first | length) & (PAGE_SIZE - 1) != 0 {
            return Err(ContainerError::Misaligned { iova: first, length });
        }
        let range = checked_range(first, length)?;
        let cut = |mapping: &&Mapping| {
            mapping.range().start() < range.start() || kind == IommuType::Type1V2 && mapping.range().end() > range.end()
        };
        let doomed: Vec<u64> = match (kind, self.overlapping(&range).find(cut)) {
            (IommuType::Type1V2, Some(existing)) => {
                return Err(ContainerError::CutsMapping { existing: existing.range(), range: range.clone() });
            }
            // The old flavour does nothing from the first mapping on that starts before the range.
            (IommuType::Type1, Some(_)) => Vec::new(),
            (_, None) => self.overlapping(&range).map(|mapping| mapping.iova.as_u64()).collect(),
        };
        Ok(self.remove(&doomed))
    }

    /// Takes these mappings out of every domain and tells how many bytes they were.
    fn remove(&mut self, doomed: &[u64]) -> u64 {
        let mut bytes = 0u64;
        for first in doomed {
            let Some(mapping) = self.mappings.remove(first) else { continue };
            for &domain in &self.domains {
                self.remapping.unmap(domain, mapping.iova, mapping.length);
            }
            bytes = bytes.saturating_add(mapping.length);
        }
        bytes
    }

    /// The mappings that share an address with the range, by address.
    fn overlapping(&self, range: &RangeInclusive<u64>) -> impl Iterator<Item = &Mapping> {
        let before = self.mappings.range(..*range.start()).next_back().map(|(_, mapping)| mapping);
        let first = *range.start();
        before
            .filter(move |mapping| *mapping.range().end() >= first)
            .into_iter()
            .chain(self.mappings.range(range.clone()).map(|(_, mapping)| mapping))
    }
}
