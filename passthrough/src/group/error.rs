//! Why a group refuses.

use core::fmt;

use iommu::address::PciAddress;

use super::Holder;
use crate::container::ContainerError;
use crate::door::Owner;
use crate::errno::Errno;
use crate::topology::{GroupId, Reason};

/// Why a call on a group or on the register failed. Nothing has changed then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupError {
    /// The machine has no such function.
    NoFunction(PciAddress),
    /// The machine has no such group.
    NoGroup(GroupId),
    /// The function is somebody's already.
    Held {
        /// The function.
        function: PciAddress,
        /// Whose it is.
        holder: Holder,
    },
    /// The function is a bridge, which nobody can be given.
    IsBridge(PciAddress),
    /// The function's group is open.
    InUse {
        /// The function.
        function: PciAddress,
        /// Its group.
        group: GroupId,
    },
    /// The group is open already.
    Busy(GroupId),
    /// The owner claimed no member of the group.
    NothingClaimed {
        /// The group.
        group: GroupId,
        /// Who wanted to open it.
        owner: Owner,
    },
    /// A member belongs to somebody else.
    NotViable {
        /// The group.
        group: GroupId,
        /// The member in the way.
        member: PciAddress,
        /// Why it is in the group.
        reason: Reason,
        /// Whose it is.
        holder: Holder,
    },
    /// The group is in a container already.
    HasContainer(GroupId),
    /// The container belongs to somebody else.
    ForeignContainer {
        /// The group.
        group: GroupId,
        /// The container's owner.
        owner: Owner,
    },
    /// The group is in no container.
    NoContainer(GroupId),
    /// The group's container has no IOMMU type yet.
    NoType(GroupId),
    /// A device of the group is open.
    DeviceOpen(PciAddress),
    /// The function is not in the group, or the owner did not claim it.
    NotMember {
        /// The group.
        group: GroupId,
        /// The function.
        device: PciAddress,
    },
    /// The container refused the group.
    Container(ContainerError),
}

impl GroupError {
    /// The number that VFIO's callers see.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::NoFunction(_) | Self::NotMember { .. } => Errno::ENODEV,
            Self::NoGroup(_) | Self::NothingClaimed { .. } => Errno::ENOENT,
            Self::Held { .. } | Self::InUse { .. } | Self::Busy(_) | Self::DeviceOpen(_) => Errno::EBUSY,
            Self::NotViable { .. } | Self::ForeignContainer { .. } => Errno::EPERM,
            Self::IsBridge(_) | Self::HasContainer(_) | Self::NoContainer(_) | Self::NoType(_) => Errno::EINVAL,
            Self::Container(error) => error.errno(),
        }
    }
}

impl fmt::Display for GroupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoFunction(function) => write!(f, "the machine has no function {function}"),
            Self::NoGroup(group) => write!(f, "the machine has no {group}"),
            Self::Held { function, holder } => write!(f, "{function} belongs to {holder} already"),
            Self::IsBridge(function) => {
                write!(f, "{function} is a bridge; bridges are not assigned, name the function below it")
            }
            Self::InUse { function, group } => write!(f, "{function} is in {group}, which is open; close that first"),
            Self::Busy(group) => write!(f, "{group} is open already"),
            Self::NothingClaimed { group, owner } => {
                write!(f, "{owner} has no function in {group}; name one in its list of devices")
            }
            Self::NotViable { group, member, reason, holder } => write!(
                f,
                "{group} cannot be assigned: its member {member} belongs to {holder}. It is in this group because it \
                 {reason}. Give every member to the same VM or to nobody"
            ),
            Self::HasContainer(group) => write!(f, "{group} is in a container already"),
            Self::ForeignContainer { group, owner } => {
                write!(f, "{group} cannot join a container that belongs to {owner}")
            }
            Self::NoContainer(group) => write!(f, "{group} is in no container; set one first"),
            Self::NoType(group) => write!(f, "the container of {group} has no IOMMU type; set it first"),
            Self::DeviceOpen(device) => write!(f, "{device} is open; close it first"),
            Self::NotMember { group, device } => write!(f, "{device} is no function of {group} that its owner claimed"),
            Self::Container(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for GroupError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Container(error) => Some(error),
            _ => None,
        }
    }
}
