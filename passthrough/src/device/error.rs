//! Why a device refuses.

use core::fmt;

use iommu::address::PciAddress;

use crate::errno::Errno;
use crate::group::GroupError;
use crate::region::MsixDefect;
use crate::reset::ResetError;

/// Why a call on a device failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceError {
    /// The group does not give the device.
    Group(GroupError),
    /// No function answers there.
    NoAnswer(PciAddress),
    /// The function's MSI-X capability contradicts its BARs.
    MsixDefect {
        /// The function.
        function: PciAddress,
        /// What is wrong.
        defect: MsixDefect,
    },
    /// The function could not be reset.
    Reset(ResetError),
    /// The device has no such region.
    UnknownRegion(u32),
}

impl DeviceError {
    /// The number that VFIO's callers see.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::Group(error) => error.errno(),
            Self::NoAnswer(_) => Errno::EIO,
            Self::MsixDefect { .. } | Self::UnknownRegion(_) => Errno::EINVAL,
            Self::Reset(error) => error.errno(),
        }
    }
}

impl From<GroupError> for DeviceError {
    fn from(error: GroupError) -> Self {
        Self::Group(error)
    }
}

impl From<ResetError> for DeviceError {
    fn from(error: ResetError) -> Self {
        Self::Reset(error)
    }
}

impl fmt::Display for DeviceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Group(error) => error.fmt(f),
            Self::NoAnswer(function) => {
                write!(f, "{function} does not answer to configuration reads; is it switched off?")
            }
            Self::MsixDefect { function, defect } => write!(f, "{function} cannot be assigned: {defect}"),
            Self::Reset(error) => error.fmt(f),
            Self::UnknownRegion(index) => write!(f, "there is no region {index}; use 0 to 7"),
        }
    }
}

impl core::error::Error for DeviceError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Group(error) => Some(error),
            Self::Reset(error) => Some(error),
            _ => None,
        }
    }
}
