//! The group: what is given away as a whole, and the register of who holds what.

mod error;
mod registry;
#[cfg(test)]
mod tests;

use alloc::sync::Arc;
use alloc::vec::Vec;

use bitflags::bitflags;
pub use error::GroupError;
use iommu::address::{PciAddress, SourceId};
pub use registry::{Holder, Registry};
use spin::Mutex;

use crate::container::{Candidate, Container};
use crate::door::{Owner, RemappingHardware};
use crate::topology::GroupId;

bitflags! {
    /// What GROUP_GET_STATUS tells.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct GroupStatus: u32 {
        /// Every member belongs to the owner or to nobody.
        const VIABLE = 1;
        /// The group is in a container.
        const CONTAINER_SET = 2;
    }
}

/// An open group. Dropping it closes it: as soon as no device of it is open any more, it leaves its container and can
/// be opened again.
#[derive(Debug)]
pub struct Group<R: RemappingHardware> {
    shared: Arc<Shared<R>>,
}

/// What an open group and its open devices hold in common; the last of them closes the group.
#[derive(Debug)]
pub(crate) struct Shared<R: RemappingHardware> {
    registry: Registry,
    id: GroupId,
    owner: Owner,
    /// Locked before the container's own lock, never the other way round.
    inside: Mutex<Inside<R>>,
}

#[derive(Debug)]
struct Inside<R: RemappingHardware> {
    container: Option<Container<R>>,
    devices: Vec<PciAddress>,
}

impl<R: RemappingHardware> Group<R> {
    /// Opens a group for `owner`, who must have claimed a member of it in the registry. A group is open once at a time.
    pub fn open(registry: &Registry, id: GroupId, owner: &Owner) -> Result<Self, GroupError> {
        registry.open(id, owner)?;
        let inside = Mutex::new(Inside { container: None, devices: Vec::new() });
        Ok(Self { shared: Arc::new(Shared { registry: registry.clone(), id, owner: owner.clone(), inside }) })
    }

    /// Its number.
    pub fn id(&self) -> GroupId {
        self.shared.id
    }

    /// GROUP_GET_STATUS.
    pub fn status(&self) -> GroupStatus {
        let mut status = GroupStatus::empty();
        status.set(GroupStatus::CONTAINER_SET, self.shared.inside.lock().container.is_some());
        status.set(GroupStatus::VIABLE, self.shared.registry.check_viable(self.shared.id, &self.shared.owner).is_ok());
        status
    }

    /// GROUP_SET_CONTAINER. Refused with the member in the way if the group is not whole. If the container's type is
    /// set, the functions that the owner claimed are attached to it.
    pub fn set_container(&self, container: &Container<R>) -> Result<(), GroupError> {
        let mut inside = self.shared.inside.lock();
        if inside.container.is_some() {
            return Err(GroupError::HasContainer(self.shared.id));
        }
        if container.owner() != self.shared.owner {
            return Err(GroupError::ForeignContainer { group: self.shared.id, owner: container.owner() });
        }
        self.shared.registry.check_viable(self.shared.id, &self.shared.owner)?;
        container.join(self.shared.candidate()).map_err(GroupError::Container)?;
        inside.container = Some(container.clone());
        Ok(())
    }

    /// GROUP_UNSET_CONTAINER: the functions are blocked again.
    pub fn unset_container(&self) -> Result<(), GroupError> {
        let mut inside = self.shared.inside.lock();
        if let Some(&device) = inside.devices.first() {
            return Err(GroupError::DeviceOpen(device));
        }
        let container = inside.container.take().ok_or(GroupError::NoContainer(self.shared.id))?;
        container.leave(self.shared.id);
        Ok(())
    }

    /// The rules of GROUP_GET_DEVICE_FD; the pin keeps the group open and in its container.
    pub(crate) fn pin(&self, device: PciAddress) -> Result<DevicePin<R>, GroupError> {
        let Shared { registry, id, owner, inside } = &*self.shared;
        let is_member = registry.groups().of(device).is_some_and(|group| group.id == *id);
        if !is_member || registry.holder(device) != Holder::Owner(owner.clone()) {
            return Err(GroupError::NotMember { group: *id, device });
        }
        let mut inside = inside.lock();
        match &inside.container {
            None => return Err(GroupError::NoContainer(*id)),
            Some(container) if !container.has_type() => return Err(GroupError::NoType(*id)),
            Some(_) => {}
        }
        if inside.devices.contains(&device) {
            return Err(GroupError::DeviceOpen(device));
        }
        inside.devices.push(device);
        registry.set_device_open(device, true);
        Ok(DevicePin { shared: self.shared.clone(), device })
    }
}

impl<R: RemappingHardware> Shared<R> {
    /// What of the group goes into the container: the functions that the owner claimed, each requester id once.
    fn candidate(&self) -> Candidate {
        let owned = Holder::Owner(self.owner.clone());
        let mut functions = Vec::new();
        let mut seen: Vec<(u16, SourceId)> = Vec::new();
        for member in self.registry.groups().get(self.id).into_iter().flat_map(|group| &group.members) {
            let address = member.address();
            if self.registry.holder(address) != owned {
                continue;
            }
            let segment = member.function.subordinate_to.unwrap_or(address).segment;
            let is_new = |id: &SourceId| !seen.contains(&(segment, *id));
            let ids: Vec<SourceId> = member.requester_ids.iter().copied().filter(is_new).collect();
            seen.extend(ids.iter().map(|&id| (segment, id)));
            functions.push((address, ids));
        }
        Candidate { group: self.id, functions }
    }
}

impl<R: RemappingHardware> Drop for Shared<R> {
    fn drop(&mut self) {
        if let Some(container) = self.inside.get_mut().container.take() {
            container.leave(self.id);
        }
        self.registry.close(self.id);
    }
}

/// Keeps a group open, and in its container, for one open device.
#[derive(Debug)]
pub(crate) struct DevicePin<R: RemappingHardware> {
    shared: Arc<Shared<R>>,
    device: PciAddress,
}

impl<R: RemappingHardware> DevicePin<R> {
    pub(crate) fn registry(&self) -> &Registry {
        &self.shared.registry
    }

    pub(crate) fn owner(&self) -> &Owner {
        &self.shared.owner
    }

    /// The remapping hardware of the container; a pinned group has one.
    pub(crate) fn remapping(&self) -> Option<R>
    where
        R: Clone,
    {
        self.shared.inside.lock().container.as_ref().map(Container::remapping)
    }
}

impl<R: RemappingHardware> Drop for DevicePin<R> {
    fn drop(&mut self) {
        self.shared.inside.lock().devices.retain(|&device| device != self.device);
        self.shared.registry.set_device_open(self.device, false);
    }
}
