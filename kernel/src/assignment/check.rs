//! What stands against an assignment, found before anything is assigned: the rules of group, container, addresses and
//! device, asked without taking anything.
//!
//! `schedule` asks for every VM of the configuration before the first one is built, so that all refusals are one report.
//! [`Assigned::open`](super::Assigned::open) keeps to the same rules when it takes the functions; what only taking them
//! shows, such as a function that does not come back from its reset, it alone can tell.

use alloc::string::ToString;
use alloc::vec::Vec;
use core::ops::RangeInclusive;

use iommu::address::PciAddress;
use passthrough::container::{self, Policy};
use passthrough::device;
use passthrough::door::Owner;
use passthrough::group::GroupError;

use super::{AssignError, Assignments, FunctionSpace, FunctionWindows};
use crate::memory;

/// An assignment that is wanted.
#[derive(Clone, Debug)]
pub struct Wanted<'a> {
    /// For whom; it has claimed the function in the registry.
    pub owner: &'a Owner,
    /// The function.
    pub function: PciAddress,
    /// Where the VM's devices will see its RAM.
    pub memory: &'a [RangeInclusive<u64>],
    /// `allow = ["unsafe-interrupts"]`.
    pub unsafe_interrupts: bool,
}

impl Assignments {
    /// Everything that stands against an assignment. Nothing is taken, and the function, which nobody uses yet, is left
    /// as it was.
    pub fn check(&self, wanted: &Wanted<'_>) -> Vec<AssignError> {
        let &Wanted { owner, function, memory, unsafe_interrupts } = wanted;
        let mut found = Vec::new();
        let in_group = |source| AssignError::Group { function, source };
        let (Some(group), Some(known)) = (self.group_of(function), self.function(function)) else {
            return [in_group(GroupError::NoFunction(function))].into();
        };
        found.extend(self.registry().check_viable(group, owner).err().map(in_group));
        match self.remapping() {
            Err(reason) => found.push(AssignError::NoRemapping { reason: reason.to_string() }),
            Ok(remapping) => {
                let policy = Policy { unsafe_interrupts, ..Policy::default() };
                let judged = container::check_function(remapping, policy, function, memory.iter().cloned());
                found.extend(judged.err().map(AssignError::Container));
            }
        }
        match self.conflict(known) {
            Some(source) => found.push(AssignError::Addresses { function, source }),
            // Mapped for good: the assignment will need them.
            None => found.extend(
                FunctionWindows::map(known, memory::map_mmio)
                    .err()
                    .map(|source| AssignError::Registers { function, source }),
            ),
        }
        let space = FunctionSpace::new(self.configuration().clone(), function);
        let judged = device::check_function(&space, function);
        found.extend(judged.err().map(|source| AssignError::Device { function, source }));
        found
    }
}
