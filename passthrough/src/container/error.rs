//! Why a container refuses.

use core::fmt;
use core::ops::RangeInclusive;

use iommu::address::PciAddress;

use crate::door::RemappingError;
use crate::errno::Errno;
use crate::topology::GroupId;

/// Why a call on a container failed. Nothing has changed then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContainerError {
    /// The IOMMU type is not set yet.
    NoType,
    /// The IOMMU type cannot be set: no group is in the container.
    NoGroup,
    /// The IOMMU type is set already.
    TypeIsSet,
    /// No such IOMMU type.
    UnknownType(u64),
    /// A mapping must let devices read or write.
    NoAccess,
    /// Size, device address or host address is zero or no multiple of the smallest page.
    Misaligned {
        /// The device address.
        iova: u64,
        /// The size in bytes.
        length: u64,
    },
    /// The range passes the end of the address space.
    Wraps {
        /// The device address.
        iova: u64,
        /// The size in bytes.
        length: u64,
    },
    /// A mapping is there already.
    Overlaps {
        /// The range that was to be mapped.
        range: RangeInclusive<u64>,
        /// The mapping in its way.
        existing: RangeInclusive<u64>,
    },
    /// So many mappings are allowed and no more.
    TooManyMappings(u32),
    /// The range is not one that the container's devices can use for memory.
    NotUsable(RangeInclusive<u64>),
    /// The range to unmap would cut a mapping in two.
    CutsMapping {
        /// The range to unmap.
        range: RangeInclusive<u64>,
        /// The mapping.
        existing: RangeInclusive<u64>,
    },
    /// The group is in the container already.
    AlreadyAttached(GroupId),
    /// The group has no function that could be attached.
    NoFunction(GroupId),
    /// The function's interrupts are not remapped: its owner could forge any interrupt of the machine.
    NoInterruptRemapping(PciAddress),
    /// Firmware demands that the function reaches this memory at all times (RMRR), which no guest can be given.
    RequiredMemory {
        /// The function.
        function: PciAddress,
        /// The memory.
        range: RangeInclusive<u64>,
    },
    /// A mapping of the container stands where the function's unit has no usable addresses.
    MappingNotUsable {
        /// The function.
        function: PciAddress,
        /// The mapping.
        existing: RangeInclusive<u64>,
    },
    /// The remapping hardware refused, about this function if one is named.
    Remapping {
        /// The function.
        function: Option<PciAddress>,
        /// Why.
        source: RemappingError,
    },
}

impl ContainerError {
    /// The number that VFIO's callers see.
    pub const fn errno(&self) -> Errno {
        match self {
            // Nesting and "unmap all" pass the test for extensions and are no types.
            Self::UnknownType(6 | 9) => Errno::EINVAL,
            Self::UnknownType(_) | Self::NoFunction(_) => Errno::ENODEV,
            Self::Overlaps { .. } => Errno::EEXIST,
            Self::TooManyMappings(_) => Errno::ENOSPC,
            Self::NoInterruptRemapping(_) | Self::RequiredMemory { .. } => Errno::EPERM,
            Self::Remapping { source, .. } => source.errno(),
            Self::NoType
            | Self::NoGroup
            | Self::TypeIsSet
            | Self::NoAccess
            | Self::Misaligned { .. }
            | Self::Wraps { .. }
            | Self::NotUsable(_)
            | Self::CutsMapping { .. }
            | Self::AlreadyAttached(_)
            | Self::MappingNotUsable { .. } => Errno::EINVAL,
        }
    }
}

/// A range as people read it.
struct Range<'a>(&'a RangeInclusive<u64>);

impl fmt::Display for Range<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}-{:#x}", self.0.start(), self.0.end())
    }
}

impl fmt::Display for ContainerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoType => f.write_str("the container has no IOMMU type; add a group and set the type first"),
            Self::NoGroup => f.write_str("the IOMMU type can be set only after a group was added"),
            Self::TypeIsSet => f.write_str("the IOMMU type is set already and stays until the last group leaves"),
            Self::UnknownType(number) => write!(f, "there is no IOMMU type {number}; use 1 (type1) or 3 (type1 v2)"),
            Self::NoAccess => f.write_str("a mapping must let devices read, write or both"),
            Self::Misaligned { iova, length } => {
                write!(
                    f,
                    "{length:#x} bytes at {iova:#x}: size and both addresses must be multiples of 4 KiB, size not 0"
                )
            }
            Self::Wraps { iova, length } => {
                write!(f, "{length:#x} bytes at {iova:#x} pass the end of the address space")
            }
            Self::Overlaps { range, existing } => {
                write!(f, "{} overlaps the mapping {}; unmap that first", Range(range), Range(existing))
            }
            Self::TooManyMappings(limit) => write!(f, "all {limit} mappings are used; map larger ranges"),
            Self::NotUsable(range) => {
                write!(f, "{} is not wholly among the addresses that the container's devices can use", Range(range))
            }
            Self::CutsMapping { range, existing } => {
                write!(f, "unmapping {} would cut the mapping {}; unmap whole mappings", Range(range), Range(existing))
            }
            Self::AlreadyAttached(group) => write!(f, "{group} is in the container already"),
            Self::NoFunction(group) => write!(f, "{group} has no function to attach"),
            Self::NoInterruptRemapping(function) => write!(
                f,
                "{function}: its remapping unit does not remap interrupts, so its owner could forge any interrupt; \
                 switch interrupt remapping on, or allow \"unsafe-interrupts\" for the VM"
            ),
            Self::RequiredMemory { function, range } => write!(
                f,
                "{function}: firmware demands access to its memory {} at all times (RMRR); it cannot be assigned",
                Range(range)
            ),
            Self::MappingNotUsable { function, existing } => write!(
                f,
                "{function}: the container maps {}, which is not wholly among the addresses that it can use",
                Range(existing)
            ),
            Self::Remapping { function: Some(function), source } => write!(f, "{function}: {source}"),
            Self::Remapping { function: None, source } => source.fmt(f),
        }
    }
}

impl core::error::Error for ContainerError {}
