//! Who holds which function, and which groups are open.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use core::fmt;

use iommu::address::PciAddress;
use spin::Mutex;

use super::GroupError;
use crate::door::Owner;
use crate::topology::{GroupId, Groups};

/// Whose a function is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// Nobody's: it is blocked and stays so.
    Nobody,
    /// The hypervisor uses it itself; the text says for what.
    Hypervisor(&'static str),
    /// A virtual machine's.
    Owner(Owner),
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nobody => f.write_str("nobody"),
            Self::Hypervisor(purpose) => write!(f, "the hypervisor ({purpose})"),
            Self::Owner(owner) => owner.fmt(f),
        }
    }
}

/// The groups of the machine and who holds their members. A clone is another handle on the same register.
#[derive(Clone, Debug)]
pub struct Registry {
    groups: Arc<Groups>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// Functions that are not here are nobody's.
    holders: BTreeMap<PciAddress, Holder>,
    open: BTreeSet<GroupId>,
    /// Functions with an open device object.
    devices: BTreeSet<PciAddress>,
}

impl Registry {
    /// A register in which everything is nobody's.
    pub fn new(groups: Groups) -> Self {
        Self { groups: Arc::new(groups), state: Arc::default() }
    }

    /// The groups.
    pub fn groups(&self) -> &Groups {
        &self.groups
    }

    /// Whose a function is.
    pub fn holder(&self, function: PciAddress) -> Holder {
        self.state.lock().holders.get(&function).cloned().unwrap_or(Holder::Nobody)
    }

    /// Claims a function for a virtual machine. To claim again what is one's own changes nothing.
    pub fn claim(&self, function: PciAddress, owner: &Owner) -> Result<(), GroupError> {
        let member = self.groups.member(function).ok_or(GroupError::NoFunction(function))?;
        if member.function.is_bridge() {
            return Err(GroupError::IsBridge(function));
        }
        self.take(function, Holder::Owner(owner.clone()))
    }

    /// Keeps a function for the hypervisor itself, for the purpose named.
    pub fn keep(&self, function: PciAddress, purpose: &'static str) -> Result<(), GroupError> {
        self.take(function, Holder::Hypervisor(purpose))
    }

    fn take(&self, function: PciAddress, holder: Holder) -> Result<(), GroupError> {
        let group = self.groups.of(function).ok_or(GroupError::NoFunction(function))?.id;
        let mut state = self.state.lock();
        match state.holders.get(&function) {
            Some(other) if *other == holder => return Ok(()),
            Some(other) => return Err(GroupError::Held { function, holder: other.clone() }),
            None => {}
        }
        if state.open.contains(&group) {
            return Err(GroupError::InUse { function, group });
        }
        state.holders.insert(function, holder);
        Ok(())
    }

    /// Gives a claimed function back. Nothing happens if it is not the owner's.
    pub fn release(&self, function: PciAddress, owner: &Owner) -> Result<(), GroupError> {
        let group = self.groups.of(function).ok_or(GroupError::NoFunction(function))?.id;
        let mut state = self.state.lock();
        if state.holders.get(&function) != Some(&Holder::Owner(owner.clone())) {
            return Ok(());
        }
        if state.open.contains(&group) {
            return Err(GroupError::InUse { function, group });
        }
        state.holders.remove(&function);
        Ok(())
    }

    /// Whether the group is whole: every member, bridges apart, is the owner's or nobody's.
    pub fn check_viable(&self, id: GroupId, owner: &Owner) -> Result<(), GroupError> {
        let group = self.groups.get(id).ok_or(GroupError::NoGroup(id))?;
        let state = self.state.lock();
        for member in group.members.iter().filter(|member| !member.function.is_bridge()) {
            match state.holders.get(&member.address()) {
                None | Some(Holder::Nobody) => {}
                Some(Holder::Owner(other)) if other == owner => {}
                Some(holder) => {
                    return Err(GroupError::NotViable {
                        group: id,
                        member: member.address(),
                        reason: member.reason.clone(),
                        holder: holder.clone(),
                    });
                }
            }
        }
        Ok(())
    }

    pub(super) fn open(&self, id: GroupId, owner: &Owner) -> Result<(), GroupError> {
        let group = self.groups.get(id).ok_or(GroupError::NoGroup(id))?;
        let mut state = self.state.lock();
        let wanted = Holder::Owner(owner.clone());
        if !group.members.iter().any(|member| state.holders.get(&member.address()) == Some(&wanted)) {
            return Err(GroupError::NothingClaimed { group: id, owner: owner.clone() });
        }
        if !state.open.insert(id) {
            return Err(GroupError::Busy(id));
        }
        Ok(())
    }

    /// Whether a reset of `function` from outside harms somebody: who holds it, if it is not nobody's and not the
    /// owner's, or if it is open.
    pub(crate) fn check_resettable(&self, function: PciAddress, owner: &Owner) -> Result<(), GroupError> {
        let state = self.state.lock();
        match state.holders.get(&function) {
            None | Some(Holder::Nobody) => Ok(()),
            Some(Holder::Owner(other)) if other == owner => {
                if state.devices.contains(&function) {
                    Err(GroupError::DeviceOpen(function))
                } else {
                    Ok(())
                }
            }
            Some(holder) => Err(GroupError::Held { function, holder: holder.clone() }),
        }
    }

    pub(super) fn set_device_open(&self, function: PciAddress, is_open: bool) {
        let mut state = self.state.lock();
        if is_open {
            state.devices.insert(function);
        } else {
            state.devices.remove(&function);
        }
    }

    pub(super) fn close(&self, id: GroupId) {
        self.state.lock().open.remove(&id);
    }
}
