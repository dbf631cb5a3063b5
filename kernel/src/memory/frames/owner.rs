//! Who a frame belongs to, and what can go wrong with that.

use core::fmt;

use iommu::address::HostPhysical;

/// Who a frame is charged to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// The hypervisor itself: page tables, stacks, heap.
    Hypervisor,
    /// Tables and queues of the DMA-remapping units.
    RemappingUnits,
    /// The VM with this number, 0 to [`Owner::VMS`] - 1: its RAM and the tables that its existence needs.
    Vm(u16),
}

impl Owner {
    /// How many VMs can own memory at a time.
    pub const VMS: u16 = 64;
    /// How many owners there are.
    pub(super) const COUNT: usize = 2 + Self::VMS as usize;

    /// A number below [`Self::COUNT`], or `None` for a VM whose number is out of range.
    pub(super) fn index(self) -> Option<usize> {
        match self {
            Self::Hypervisor => Some(0),
            Self::RemappingUnits => Some(1),
            Self::Vm(number) if number < Self::VMS => Some(2 + usize::from(number)),
            Self::Vm(_) => None,
        }
    }

    pub(super) fn from_index(index: usize) -> Option<Self> {
        match index {
            0 => Some(Self::Hypervisor),
            1 => Some(Self::RemappingUnits),
            _ => u16::try_from(index.checked_sub(2)?).ok().filter(|number| *number < Self::VMS).map(Self::Vm),
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hypervisor => f.write_str("the hypervisor"),
            Self::RemappingUnits => f.write_str("the remapping units"),
            Self::Vm(number) => write!(f, "VM {number}"),
        }
    }
}

/// No contiguous run of frames as long and as aligned as asked for is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory {
    /// For whom.
    pub owner: Owner,
    /// How many frames of 4 KiB were asked for.
    pub frames: usize,
    /// How many are free, though not in one run of that alignment.
    pub free: usize,
}

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} KiB of contiguous memory for {} cannot be had: {} KiB are free in all; give the VMs less memory",
            self.frames.saturating_mul(4),
            self.owner,
            self.free.saturating_mul(4)
        )
    }
}

impl core::error::Error for OutOfMemory {}

/// Why frames were not freed. Nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FreeError {
    /// A frame of the range is free already.
    DoubleFree {
        /// That frame.
        frame: HostPhysical,
        /// Who tried to free it.
        by: Owner,
    },
    /// A frame of the range belongs to somebody else.
    WrongOwner {
        /// That frame.
        frame: HostPhysical,
        /// Whose it is.
        owner: Owner,
        /// Who tried to free it.
        by: Owner,
    },
    /// A frame of the range was never the allocator's to give.
    NotManaged {
        /// That frame, or the unaligned address.
        frame: HostPhysical,
        /// Who tried to free it.
        by: Owner,
    },
}

impl fmt::Display for FreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DoubleFree { frame, by } => write!(f, "{by} freed frame {frame}, which is free already"),
            Self::WrongOwner { frame, owner, by } => write!(f, "{by} freed frame {frame}, which belongs to {owner}"),
            Self::NotManaged { frame, by } => {
                write!(f, "{by} freed {frame}, which is no frame that the allocator ever gave")
            }
        }
    }
}

impl core::error::Error for FreeError {}
