//! Why a reset failed.

use core::fmt;

use iommu::address::PciAddress;

use super::Method;
use crate::errno::Errno;
use crate::group::GroupError;

/// Why a function could not be reset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResetError {
    /// The function has no way to be reset.
    NoMethod(PciAddress),
    /// The bus cannot be reset: another function on it is not to be disturbed.
    BusShared {
        /// The function.
        function: PciAddress,
        /// Whom the reset would hit.
        source: GroupError,
    },
    /// The function did not answer within 60 s.
    NoAnswer {
        /// The function.
        function: PciAddress,
        /// The way it was reset.
        method: Method,
    },
}

impl ResetError {
    /// The number that VFIO's callers see.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::NoMethod(_) | Self::BusShared { .. } => Errno::EINVAL,
            Self::NoAnswer { .. } => Errno::ETIMEDOUT,
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FunctionLevel => "function-level reset",
            Self::AdvancedFeatures => "function-level reset (advanced features)",
            Self::PowerManagement => "D3hot and back",
            Self::Bus => "bus reset",
        })
    }
}

impl fmt::Display for ResetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMethod(function) => {
                write!(f, "{function} has no way to be reset: no FLR, no D3hot reset, no bus of its own")
            }
            Self::BusShared { function, source } => {
                write!(f, "{function} can only be reset with its whole bus, and {source}")
            }
            Self::NoAnswer { function, method } => write!(
                f,
                "{function} did not answer within 60 s after {method}; it stays switched off until the machine is powered down"
            ),
        }
    }
}

impl core::error::Error for ResetError {}
